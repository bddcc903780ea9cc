"""Questions and answers: from a user's file to a run's figures, and asked from Python."""
import json

import pytest

from tests.commands import called
from tfgpt.data.made_questions import UNKNOWN, made_questions
from tfgpt.generation.loading import load_text_model
from tfgpt.tasks.question_answering import TASK, QuestionAnswerer

COLOURS = ("red", "blue", "green", "white")
RECIPE = """
name: answers
data: {{path: {path}, length: 48, validation: 0.3, bad_records: {bad}}}
tokenizer: {{kind: char}}
model: {{layers: 1, width: 32, heads: 2, dropout: 0.0}}
task: {{kind: question_answering, columns: {{question: q, answer: a}}}}
train: {{steps: 3, global_batch_size: 4, evaluate_every: 3, sample_prompts: []}}
"""


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "questions.jsonl"
    rows = [{"q": f"Colour of box {number}?", "a": COLOURS[number % 3 and number % 4]} for number in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"q": "What is missing?", "a": " "}]))
    return path


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "answers.yaml").write_text(RECIPE.format(path=table, bad="skip"))
    done = called("run", folder / "answers.yaml", "--output", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


def test_a_run_answers_what_it_holds_out_and_stands_beside_the_baseline(finished):
    folder, printed = finished
    assert "--prompt '<|endoftext|>Question: " in printed                                 # to try it with, as it was asked in training

    evaluation, records = json.loads((folder / "evaluation.json").read_text()), lines_of(folder / "records" / "records.jsonl")
    held_out = [record for record in records if record["split"] == "validation"]
    answers = lines_of(folder / "answers.jsonl")
    assert [row["record"] for row in answers] == held_out and evaluation["task"]["answered"] == len(held_out)
    assert set(evaluation["metrics"]) == {"accuracy", "exact_match", "f1", "calibration_error"}
    exact = sum(row["answer"]["text"] == row["record"]["answer"] for row in answers) / len(answers)
    assert evaluation["metrics"]["exact_match"]["value"] == pytest.approx(exact)
    most = max(COLOURS, key=lambda colour: sum(record["answer"] == colour for record in records if record["split"] == "train"))
    share = sum(record["answer"] == most for record in held_out) / len(held_out)
    assert evaluation["task"]["baselines"]["the most frequent answer"]["metrics"]["exact_match"]["value"] == pytest.approx(share)
    assert "the most frequent answer" in printed


def test_a_record_without_an_answer_is_counted_with_its_place(finished, table):
    folder, _ = finished

    stats = json.loads((folder / "records" / "stats.json").read_text())

    assert stats["read"] == 61 and stats["refused"] == {"no answer": 1} and f"{table}:61" in stats["refused_places"][0]


@pytest.mark.parametrize(("more", "message"), [
    ([], "questions.jsonl:61: column 'a' is empty; write the answer, or unknown where there is none, or set data.bad_records to skip"),
    (["--task.columns.question", "frage"], "no column 'frage' (columns: q, a); set task.columns.question to one of them"),
    (["--task.columns.passage", "contxt", "--data.bad_records", "skip"], "task.columns.passage: no record has a column 'contxt' (columns: a, q)"),
])
def test_a_record_that_cannot_be_used_is_refused_before_any_training(table, tmp_path, more, message):
    (tmp_path / "answers.yaml").write_text(RECIPE.format(path=table, bad="refuse"))

    done = called("run", tmp_path / "answers.yaml", "--output", tmp_path / "run", *more)

    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "model").exists()


def test_a_moved_run_is_up_to_date_where_it_is(finished, tmp_path):
    folder, _ = finished
    recipe = folder.parent / "answers.yaml"
    moved = folder.rename(folder.parent / "moved")

    done = called("run", recipe, "--output", moved)
    moved.rename(folder)

    assert done.returncode == 0 and done.stderr.count("up to date") == 7, done.stderr


def test_an_answer_is_unknown_below_the_confidence_that_is_asked_for(finished):
    text_model = load_text_model(finished[0])

    [sure], [unsure] = ([QuestionAnswerer(text_model, least).answer("Colour of box 1?")] for least in (0.0, 1.0))

    assert unsure.text == UNKNOWN and sure.text == sure.guess == unsure.guess and 0 < sure.confidence == unsure.confidence < 1
    with pytest.raises(ValueError, match="least_confidence: 1.5 is no probability"):
        QuestionAnswerer(text_model, 1.5)


def test_confidence_is_the_probability_of_the_answer(finished):
    text_model = load_text_model(finished[0])
    answer = QuestionAnswerer(text_model, 0.0).answer("Colour of box 1?")

    [greedy] = text_model.generate(["<|endoftext|>Question: Colour of box 1?\nAnswer:"], 64, stop=["\n"])

    assert answer.guess == greedy.text.strip()
    assert answer.confidence == pytest.approx(2.718281828 ** greedy.log_prob, rel=1e-5)  # float32 of a sum of some ten terms


def test_what_is_no_pair_is_refused(finished):
    with pytest.raises(ValueError, match="answer_all: 'ab' is no pair of a question and its passage"):
        QuestionAnswerer(load_text_model(finished[0])).answer_all(["ab"])


def test_an_answer_that_is_cut_says_so(finished):
    text_model = load_text_model(finished[0])

    cut, whole = (QuestionAnswerer(text_model, 0.0, max_new_tokens=most).answer("Colour of box 1?") for most in (1, 64))
    [greedy] = text_model.generate(["<|endoftext|>Question: Colour of box 1?\nAnswer:"], 64, stop=["\n"])

    assert not cut.finished and len(cut.guess) <= len(whole.guess) and whole.finished == (greedy.finish_reason == "stop")
    with pytest.raises(ValueError, match="max_new_tokens: 0"):
        QuestionAnswerer(text_model, max_new_tokens=0)


def test_a_passage_that_is_not_read_whole_is_told(finished):
    answerer = QuestionAnswerer(load_text_model(finished[0]), 0.0)

    short, long = answerer.answer_all([("Colour of box 1?", "Box 1."), ("Colour of box 1?", "Box 1 is here. " * 20)])

    assert (short.cut, long.cut) == (False, True)


@pytest.mark.parametrize("size", [0, -1, None])
def test_a_batch_of_none_is_refused(finished, size):
    text_model = load_text_model(finished[0])

    for call in (lambda: QuestionAnswerer(text_model).answer_all([("Who?", "")], size), lambda: text_model.score(["a"], batch_size=size),
                 lambda: text_model.embed(["a"], size), lambda: text_model.choose(["a"], ["b", "c"], size),
                 lambda: text_model.score_targets(["a"], ["b"], size)):
        with pytest.raises(ValueError, match=f"batch_size: {size} is no number of items to be taken together; give 1 or more"):
            call()


def test_metrics_see_answers_as_squad_does():
    records = [{"answer": "The red house"}, {"answer": UNKNOWN}]
    answers = [{"text": "red house.", "guess": "red house.", "confidence": 0.75}, {"text": UNKNOWN, "guess": "blue", "confidence": 0.25}]

    found = TASK.metrics(records, answers)

    assert found["exact_match"].value == found["f1"].value == 1.0
    assert found["calibration_error"].value == pytest.approx(0.25)  # 0.75 said and right, 0.25 said and wrong


def test_what_is_made_can_be_checked():
    rows = made_questions()

    of_passages = [row for row in rows if row["passage"]]
    assert all(row["answer"] in row["passage"] for row in of_passages if row["answer"] != UNKNOWN)
    assert 0.13 < sum(row["answer"] == UNKNOWN for row in of_passages) / len(of_passages) < 0.17
