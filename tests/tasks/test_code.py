"""Code completion: segments and gaps worked by hand, a run on a user's folder, and the call."""
import ast
import inspect
import json
import re
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from tests.commands import called
from tfgpt.data.examples import Fields
from tfgpt.data.intake import Intake
from tfgpt.data.readers import Record
from tfgpt.evaluation.ngram import NgramModel
from tfgpt.generation.beginnings import Beginnings, parted
from tfgpt.generation.loading import load_text_model
from tfgpt.generation.results import Continuation
from tfgpt.recipe import ColumnsConfig, DataConfig, Recipe, RecipeError, TaskConfig, TokenizerConfig
from tfgpt.recipe_task import GAP_MARKS, CodeConfig
from tfgpt.tasks import code
from tfgpt.tasks.code import MIDDLE, PREFIX, SUFFIX, TASK, CodeCompleter, Completion, segments

FUNCTION = "def add_{0}(one, other):\n    total = one + other\n    total += {0}\n    return total\n"
RECIPE = """
name: lines
data: {{path: {path}, length: 64, validation: 0.3}}
tokenizer: {{vocab: 300, special_tokens: {marks}}}
model: {{layers: 1, width: 32, heads: 2, dropout: 0.0}}
task: {{kind: code, code: {{gaps: {gaps}}}}}
train: {{steps: 3, global_batch_size: 4, evaluate_every: 3, sample_prompts: []}}
evaluate: {{answers: 12}}
"""


def records_of(text, gaps=0.0):
    columns, config = ColumnsConfig(), TaskConfig("code", code=CodeConfig(gaps))
    return TASK.records(Fields(Record({"text": text}, "file.py"), columns, Intake(DataConfig(path="x"))), config)


def test_a_file_is_cut_at_its_functions_and_nothing_is_lost():
    source = inspect.getsource(textwrap)

    found = list(segments(source))

    stripped = [line.strip() for segment in found for line in segment.split("\n") if line.strip()]
    assert stripped == [line.strip() for line in source.split("\n") if line.strip()]
    outer = [node for part in ast.parse(source).body for node in (part.body if isinstance(part, ast.ClassDef) else [part])]
    functions = [node for node in outer if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno < code.MOST_LINES]
    assert functions and all(any(segment.startswith(f"def {node.name}(") and ast.parse(segment) for segment in found) for node in functions)


def test_what_is_no_python_is_cut_at_blank_lines():
    functions = ["int main() {\n  return 0;\n}", "int other() {\n\n  return 1;\n}"]

    assert list(segments("\n\n".join(functions) + "\n")) == functions


@pytest.mark.parametrize("text", ["", "\n\n", "x = 1\n", "\x00\n\x00\n\x00\n"])
def test_what_has_no_line_to_ask_for_gives_no_record(text):
    assert records_of(text) == []


def test_segments_are_trained_on_as_they_are_unless_gaps_are_wanted():
    assert {(record["text"], record["before"] + record["line"] + "\n" + record["after"]) for record in records_of(FUNCTION.format(1))} == {
        (FUNCTION.format(1).strip(), FUNCTION.format(1).strip() + "\n")}


def test_a_gap_and_what_is_around_it_are_the_segment():
    found = [record for number in range(300) for record in records_of(FUNCTION.format(number), gaps=0.5)]

    kinds = {"whole": 0, "with a gap": 0, "within a line": 0}
    for number, record in enumerate(found):
        whole = record["before"] + record["line"] + "\n" + record["after"]
        assert whole.strip("\n") == FUNCTION.format(number).strip("\n") and record["parses"]
        if not record["text"].startswith(PREFIX):
            assert record["text"] == whole.strip("\n")
            kinds["whole"] += 1
            continue
        before, rest = record["text"].removeprefix(PREFIX).split(SUFFIX)
        after, line = rest.split(MIDDLE)
        assert before + line == record["before"] + record["line"] and after == record["after"]
        kinds["with a gap"] += 1
        kinds["within a line"] += not before.endswith("\n")
    assert all(kinds[kind] >= 110 for kind in ("whole", "with a gap")) and 40 <= kinds["within a line"] <= 110, kinds  # 150 and 75 wanted


def test_the_same_text_gives_the_same_records_whatever_stands_around_it():
    alone, among = records_of(FUNCTION.format(1)), records_of(FUNCTION.format(0) + "\n\n" + FUNCTION.format(1))

    assert among[-1] == alone[0]


def test_metrics_by_hand():
    records = [{"before": "def f():\n", "line": "    return 1", "after": "", "parses": True},
               {"before": "x = (\n", "line": "    1,", "after": "", "parses": False}]
    answers = [{"text": "    return 1 ", "infilled": "    return ("}, {"text": "    2,", "infilled": "    1,"}]

    found = {name: metric.value for name, metric in TASK.metrics(records, answers).items()}

    assert found["exact_match"] == 0.5 and found["infilled_exact_match"] == 0.5
    assert found["parses"] == 1.0 and found["infilled_parses"] == 0.0                                # of the one that parsed as it was
    assert found["edit_similarity"] == pytest.approx((1 + 1 / 2) / 2)                                # one of two characters differs
    assert TASK.metrics(records, [{"text": " "}] * 2)["parses"].value == 0.0                         # with nothing written it parses, and nothing is completed


@pytest.mark.parametrize(("before", "line"), [
    ("if x:\n", "    return yes"), ("if x:\n    ", "return yes"), ("if x:\n    return", " yes"), ("if x:\n    return ye", "s"), ("if x:\n\n", "    return yes"),
    ("if x:\n    return yes", ""),
])
def test_the_baseline_writes_the_line_that_it_has_always_seen_wherever_the_cursor_stands(tokenizer, text_model, before, line):
    blank = "\n" * before.count("\n\n")
    ngram = NgramModel([tokenizer.encode(f"if x:\n{blank}    return yes\n")] * 3, 5, len(tokenizer), tokenizer.eos_token_id)
    beginnings = Beginnings(text_model.tokenizer.texts.numpy().tolist())

    assert code._likeliest_line(ngram, tokenizer, beginnings, before) == line


@pytest.fixture(scope="module", params=["with marks", pytest.param("without", marks=pytest.mark.slow)])
def finished(request, tmp_path_factory):
    folder, with_marks = tmp_path_factory.mktemp("code"), request.param == "with marks"
    (folder / "project").mkdir()
    for number in range(30):
        (folder / "project" / f"file{number}.py").write_text(FUNCTION.format(number) + "\n\n" + FUNCTION.format(number + 50))
    (folder / "lines.yaml").write_text(RECIPE.format(path=folder / "project", marks=list(GAP_MARKS) if with_marks else [], gaps=0.5 * with_marks))
    done = called("run", folder / "lines.yaml", "--output", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


def test_a_run_on_a_folder_of_sources_completes_lines_of_files_it_was_not_trained_on(finished):
    folder, printed = finished

    task = json.loads((folder / "evaluation.json").read_text())["task"]
    rows = [json.loads(line) for line in (folder / "records" / "records.jsonl").read_text().splitlines()]
    files = {split: {row["place"].split(":")[0] for row in rows if row["split"] == split} for split in ("train", "validation")}
    assert files["validation"] and not files["train"] & files["validation"]
    assert set(task["baselines"]["5-gram"]["metrics"]) == set(task["metrics"]) and "5-gram" in printed


def test_the_call_reads_what_is_nearest_to_the_gap(finished, monkeypatch):
    text_model = load_text_model(finished[0])
    tokenizer, end, asked = text_model.python_tokenizer, text_model.python_tokenizer.eos_token, []
    monkeypatch.setattr(text_model, "generate_from_ids", lambda ids, mask, *_, **__: asked.extend(row[chosen] for row, chosen in zip(ids, mask)) or [
        Continuation("", 0, 0.0, "stop")] * len(ids))
    text = "".join(FUNCTION.format(number) for number in range(20))

    CodeCompleter(text_model).complete_all([(text, ""), ("s = ", ""), (text, text), ("s = ", "y\n")])

    rows = [tokenizer.decode(ids) for ids in asked]
    assert all(len(ids) <= text_model.model.config.n_positions - code.LINE_TOKENS for ids in asked) and all(row.startswith(end) for row in rows)
    assert rows[0].removeprefix(end).split("\n")[0] in text and rows[1].startswith(f"{end}s = ")
    if PREFIX in tokenizer.get_vocab():
        before, after = rows[2].removeprefix(end + PREFIX).removesuffix(MIDDLE).split(SUFFIX)
        assert text.endswith(before) and text.startswith(after) and before and after
        assert rows[3] == f"{end}{PREFIX}s = {SUFFIX}y\n{MIDDLE}" and len(rows) == 4
    else:
        assert rows[2] == rows[0] and len(rows) > 4 and len(set(rows[2:])) == len(rows[2:]) <= 2 * code.WAYS


@pytest.mark.parametrize(("before", "kept"), [("x = 1\n", ["y = 2", "z"]), ("x = 1\n    ", ["y = 2", "z"]), ("x = ", ["", "y = 2", " ", "z"])])
def test_a_line_of_its_own_is_not_filled_with_nothing(before, kept):
    lines = [Completion(text, -1.0) for text in ("", "y = 2", " ", "z")]

    assert [line.text for line in code._filling(before, lines)] == kept
    assert code._filling("x\n", lines[:1]) == lines[:1]


def test_a_text_indented_by_tabs_is_read_as_it_was_learned_and_completed_with_tabs(finished):
    completer = CodeCompleter(load_text_model(finished[0]))
    text = "def add_3(one, other):\n    total = one + other\n    if total:\n        total += 3\n"
    asked = [(text, ""), (text[: text.index("if")], "        return 3\n"), (text, "    return total\n"), ("x = 1\t# one\n", "")]
    tabs = [tuple(part.replace("    ", "\t") for part in pair) for pair in asked]

    by_spaces, by_tabs = completer.complete_all(asked), completer.complete_all(tabs)

    assert [line.log_prob for line in by_tabs] == pytest.approx([line.log_prob for line in by_spaces])
    assert [line.text.expandtabs(4) for line in by_tabs] == [line.text for line in by_spaces] and not by_tabs[3].text.startswith("\t")
    assert "    " not in "".join(line.text[: len(line.text) - len(line.text.lstrip())] for line in by_tabs[:3])
    assert completer.complete_both(tabs)[1] == by_tabs


@pytest.mark.parametrize(("before", "text", "given"), [
    ("\tx\n", "        y", "\t\ty"), ("\tx\n\t", "     y", "\t y"), ("\tx = ", "    1", "    1"), ("    x\n", "        y", "        y")])
def test_indentation_becomes_tabs_again(before, text, given):
    asked, tabbed = code._with_spaces([(before, "")])

    assert code._with_tabs(asked, tabbed, [Completion(text, -1.0)]) == [Completion(given, -1.0)]


def test_without_marks_the_line_is_taken_with_which_the_whole_is_likeliest(finished):
    text_model = load_text_model(finished[0])
    if PREFIX in text_model.python_tokenizer.get_vocab():
        return
    completer, asked = CodeCompleter(text_model), [("def add(one):\n", "    return one\n"), ("total = ", "x\n")]
    written = completer._written([completer._ways(before, code.WAYS) for before, _ in asked], 16)

    found = completer.complete_all(asked)

    for (before, after), lines, line in zip(asked, written, found):
        lines = code._filling(before, lines)
        likely = [text_model.score([f"{before}{one.text}\n{after}"])[0].log_prob for one in lines]
        assert line == lines[int(np.argmax(likely))] and len(lines) > 1
    assert completer.complete_both(asked) == ([lines[0] for lines in written], found)


@pytest.mark.parametrize("before", ["def add_3(one, other):\n", "def add_3(one, other):\n    tot", "def add_3(one, other):\n    total =", ""])
def test_a_line_goes_on_with_the_likeliest_tokens_that_begin_with_what_is_there_of_it(finished, before):
    text_model = load_text_model(finished[0])
    model, tokenizer = text_model.model, text_model.python_tokenizer

    found = CodeCompleter(text_model).complete(before)

    ids, typed = parted(before, tokenizer)
    log_probs = tf.nn.log_softmax(model(tf.constant([[tokenizer.eos_token_id, *ids]])).logits[0, -1]).numpy()
    texts = [text.decode("utf-8", "replace") for text in text_model.tokenizer.texts.numpy().tolist()]
    begin_so = [token for token, text in enumerate(texts) if text and text.startswith(typed) and "\n" not in text[len(typed) :] and "\ufffd" not in text]
    best = max(log_probs[begin_so])
    assert "\n" not in found.text and found.log_prob <= best + 1e-4                                 # more tokens are written, and fp32 in another order


def test_a_line_has_one_line(finished):
    found = CodeCompleter(load_text_model(finished[0])).complete("def add_3(one, other):\n    total = ", "    return total\n")

    assert "\n" not in found.text and found.log_prob < 0


@pytest.mark.parametrize(("gaps", "marks", "message"), [
    (0.5, [], "lacks <|fim_prefix|>, <|fim_suffix|>, <|fim_middle|>"), (0.0, [PREFIX], "holds <|fim_prefix|>"), (1.5, GAP_MARKS, "1.5 is not between 0 and 1"),
])
def test_gaps_and_their_marks_go_together(gaps, marks, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        Recipe(DataConfig(path="x"), tokenizer=TokenizerConfig(special_tokens=tuple(marks)), task=TaskConfig("code", code=CodeConfig(gaps)))
