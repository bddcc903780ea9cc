"""Code completion: segments and gaps worked by hand, a run on a user's folder, and the call."""
import ast
import inspect
import json
import textwrap

import pytest

from tests.test_pipeline import tfgpt_run
from tfgpt.data.examples import Fields
from tfgpt.data.intake import Intake
from tfgpt.data.readers import Record
from tfgpt.evaluation.ngram import NgramModel
from tfgpt.generation.loading import load_text_model
from tfgpt.recipe import ColumnsConfig, DataConfig, TaskConfig
from tfgpt.tasks import code
from tfgpt.tasks.code import MIDDLE, PREFIX, SUFFIX, TASK, CodeCompleter, segments

FUNCTION = "def add_{0}(one, other):\n    total = one + other\n    total += {0}\n    return total\n"
RECIPE = """
name: lines
data: {{path: {path}, length: 64, validation: 0.3}}
tokenizer: {{vocab: 300, special_tokens: ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]}}
model: {{layers: 1, width: 32, heads: 2, dropout: 0.0}}
task: {{kind: code}}
train: {{steps: 3, global_batch_size: 4, evaluate_every: 3}}
evaluate: {{answers: 12}}
"""


def records_of(text):
    columns = ColumnsConfig()
    return TASK.records(Fields(Record({"text": text}, "file.py"), columns, Intake(DataConfig(path="x"))), TaskConfig("code"))


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


def test_a_gap_and_what_is_around_it_are_the_segment_and_it_is_trained_on_in_three_ways():
    found = [record for number in range(300) for record in records_of(FUNCTION.format(number))]

    kinds = {"whole": 0, "between": 0, "next": 0, "within a line": 0}
    for number, record in enumerate(found):
        whole = record["before"] + record["line"] + "\n" + record["after"]
        assert whole.strip("\n") == FUNCTION.format(number).strip("\n") and record["parses"]
        if not record["text"].startswith(PREFIX):
            assert record["text"] == whole.strip("\n")
            kinds["whole"] += 1
            continue
        before, rest = record["text"].removeprefix(PREFIX).split(SUFFIX)
        after, line = rest.split(MIDDLE)
        assert before + line == record["before"] + record["line"] and after in ("", record["after"])
        kinds["between" if after else "next"] += 1
        kinds["within a line"] += not before.endswith("\n")
    # Half of the lines that may be asked for here are the last one, behind which there is nothing, so that both ways are one: 100, 50 and 150 wanted.
    assert all(kinds[kind] >= 70 for kind in ("whole", "next", "within a line")) and kinds["between"] >= 30, kinds


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


def test_the_baseline_writes_the_line_that_it_has_always_seen(tokenizer):
    ngram = NgramModel([tokenizer.encode("if x:\n    return y\n")] * 3, 5, len(tokenizer), tokenizer.eos_token_id)

    assert code._likeliest_line(ngram, tokenizer, "if x:\n") == "    return y"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code")
    (folder / "project").mkdir()
    for number in range(30):
        (folder / "project" / f"file{number}.py").write_text(FUNCTION.format(number) + "\n\n" + FUNCTION.format(number + 50))
    (folder / "lines.yaml").write_text(RECIPE.format(path=folder / "project"))
    done = tfgpt_run(folder / "lines.yaml", "--output", folder / "run")
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
    asked = []
    monkeypatch.setattr(text_model, "generate", lambda prompts, *_, **__: asked.extend(prompts) or [])
    text = "".join(FUNCTION.format(number) for number in range(20))

    CodeCompleter(text_model).complete_all([(text, text), ("short = ", "")])

    tokens = text_model.python_tokenizer.encode(asked[0])
    marks = text_model.python_tokenizer.convert_tokens_to_ids([PREFIX, SUFFIX, MIDDLE])
    assert len(tokens) <= text_model.model.config.n_positions - code.LINE_TOKENS and [tokens.count(mark) for mark in marks] == [1, 1, 1]
    before, after = asked[0].removeprefix(PREFIX).removesuffix(MIDDLE).split(SUFFIX)
    assert text.endswith(before) and text.startswith(after) and before and after
    assert asked[1] == f"{PREFIX}short = {SUFFIX}{MIDDLE}"


def test_a_line_has_one_line(finished):
    found = CodeCompleter(load_text_model(finished[0])).complete("def add_3(one, other):\n    total = ", "    return total\n")

    assert "\n" not in found.text and found.log_prob < 0
