"""`tfgpt evaluate` as a user calls it."""
import json

import pytest

from tests.evaluation.test_harness import QUESTIONS
from tfgpt import cli

ROWS = [{"question": f"q{number}", "answer": "ab"[number % 2]} for number in range(20)]


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory):
    """A folder with a model and its tokenizer, a file of texts and one of questions."""
    folder = tmp_path_factory.mktemp("evaluate")
    for part in (model, tokenizer):
        part.save_pretrained(folder / "model")
    (folder / "texts.txt").write_text("It was so.\n\nThe statement is executed.\n\nA third text, of several words.\n")
    (folder / "questions.jsonl").write_text(lines_of({"prompt": one.prompt, "choices": one.choices, "answer": one.answer} for one in QUESTIONS))
    return folder


def lines_of(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def run_of(folder, name, answers, kind="question_answering", rows=ROWS):
    """A run's folder as far as a comparison looks at it."""
    run = folder / name
    run.mkdir()
    (run / "recipe.yaml").write_text(f"task: {{kind: {kind}}}\n")
    (run / "answers.jsonl").write_text(lines_of({"record": row | {"prompt": name}, "answer": {"text": text}} for row, text in zip(rows, answers)))
    return str(run)


def printed(capsys, *arguments, code=0):
    assert cli.main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_a_model_on_texts_has_the_figures_of_its_scores(folder, text_model, capsys):
    found = json.loads(printed(capsys, "evaluate", "text", "--model", folder / "model", "--data", folder / "texts.txt", "--documents", "block", "--json"))

    texts = (folder / "texts.txt").read_text().rstrip("\n").split("\n\n")
    scores = text_model.score(texts)
    figures = found["models"][str(folder / "model")]
    assert figures["loss"]["value"] == pytest.approx(-sum(score.log_prob for score in scores) / sum(score.token_count for score in scores), rel=1e-5)
    assert figures["bits_per_byte"]["interval"][0] <= figures["bits_per_byte"]["value"] <= figures["bits_per_byte"]["interval"][1]


def test_two_models_are_compared_and_the_same_one_twice_does_not_differ(folder, tmp_path, capsys):
    again = tmp_path / "again"
    again.symlink_to(folder / "model")
    shown = printed(capsys, "evaluate", "choices", "--model", folder / "model", "--model", again, "--data", folder / "questions.jsonl")

    assert "first minus second" in shown and "p 1.000" in shown and "the longest choice" in shown


def test_two_runs_are_compared_on_what_both_answered(tmp_path, capsys):
    good = run_of(tmp_path, "good", [row["answer"] for row in ROWS])
    poor = run_of(tmp_path, "poor", ["a"] * 19)

    found = json.loads(printed(capsys, "evaluate", "compare", good, poor, "--json"))

    exact = found["metrics"]["exact_match"]
    assert found["records"] == 19 and (exact["first"]["value"], exact["second"]["value"]) == (1.0, pytest.approx(10 / 19))
    assert exact["compared"]["p"] <= 0.01 and exact["compared"]["interval"][0] > 0
    assert "difference" in printed(capsys, "evaluate", "compare", good, poor)


@pytest.mark.parametrize(("arguments", "message"), [
    (["text", "--model", "m"], "--data is missing"),
    (["text", "--model", "nowhere", "--data", "python-docs"], "nowhere"),
    (["choices", "--model", "m", "--data", "nothing.jsonl"], "--data: no file nothing.jsonl"),
    (["choices", *["--model", "m"] * 3, "--data", "x"], "--model is given 3 times; give one, or two to compare"),
    (["text", "--model", "m", "--data", "x", "--batch-size", "0"], "--batch-size 0 is too small; give 1 or more"),
    (["compare"], "tfgpt evaluate compare: RUN is missing"),
    (["compare", "one"], "tfgpt evaluate compare: 1 given; write tfgpt evaluate compare RUN RUN"),
    (["compare", "one", "two", "three"], "3 given"),
    (["text", "--model", "m", "--data", "x.csv", "--column", "y"], "set --column to one of them"),
    (["compare", "one", "two"], "one holds no answers.jsonl"),
    (["nothing.yaml"], "nothing.yaml: no such recipe"),
    ([], "the recipe is missing"),
])
def test_what_cannot_be_measured_is_said_in_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text("text\nHello\n")

    error = printed(capsys, "evaluate", *arguments, code=2)

    assert message in error and error.count("\n") == 1


def test_runs_that_have_nothing_in_common_are_not_compared(tmp_path, capsys):
    one, other = run_of(tmp_path, "one", ["a"] * 5, rows=ROWS[:5]), run_of(tmp_path, "other", ["a"] * 5, rows=ROWS[5:10])

    assert "have answered no record in common" in printed(capsys, "evaluate", "compare", one, other, code=2)


def test_help_is_printed_without_tensorflow(capsys):
    shown = printed(capsys, "evaluate", "--help")

    assert "compare" in shown and "RECIPE.yaml" in shown and "\n    `" not in shown
    with pytest.raises(SystemExit, match="0"):
        cli.main(["evaluate", "text", "--help"])
    assert "--documents {file,block,line}" in (shown := capsys.readouterr().out) and "lambda" not in shown
