"""Summaries: from a user's file to a run's figures, of long texts by windows, and asked from Python."""
import dataclasses
import itertools
import json
import shlex
from collections import Counter

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from tests.commands import called
from tfgpt import cli
from tfgpt.data.builtin import stdlib_files
from tfgpt.data.intake import Intake
from tfgpt.data.summaries import function_summaries
from tfgpt.generation.text_model import TextModel
from tfgpt.recipe import AdaptConfig, EncoderConfig, RecipeError, TaskConfig
from tfgpt.recipe_file import load_recipe
from tfgpt.stages.records import task_records, with_records
from tfgpt.tasks.summarisation import Summarizer
from tfgpt.text.windows import token_count, windows

RECIPE = """
name: short
data: {{path: {path}, length: 64, validation: 0.3, bad_records: {bad}}}
tokenizer: {{kind: char}}
model: {{layers: 1, width: 32, heads: 2, dropout: 0.0}}
task: {{kind: summarisation, columns: {{text: long, summary: short}}{more}}}
train: {{steps: 3, global_batch_size: 4, evaluate_every: 3, sample_prompts: []}}
"""
COLOURS = ("red", "blue", "green", "white")


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "texts.jsonl"
    rows = [(f"A {COLOURS[number % 3]} box.\nIt is number {number}{' and more' * 3 * (number % 5 == 0)}.", COLOURS[number % 3]) for number in range(40)]
    path.write_text("".join(json.dumps({"long": text, "short": summary}) + "\n" for text, summary in [*rows, ("Nothing said.", " ")]))
    return path


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "short.yaml").write_text(RECIPE.format(path=table, bad="skip", more=""))
    done = called("run", folder / "short.yaml", "--output", folder / "run", "--adapt.pretrain.steps", "2")
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


def test_a_run_summarises_what_it_holds_out_and_stands_beside_both_baselines(finished):
    folder, printed = finished

    evaluation, answers = json.loads((folder / "evaluation.json").read_text()), lines_of(folder / "answers.jsonl")
    assert set(evaluation["metrics"]) == {"accuracy", "rouge1", "rouge2", "rougeL"}
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    expected = {"the first line": [row["record"]["text"].split("\n")[0] for row in answers]}
    train = [record["summary"] for record in lines_of(folder / "records" / "records.jsonl") if record["split"] == "train"]
    expected["the most frequent summary"] = [Counter(train).most_common(1)[0][0]] * len(answers)
    for name, texts in expected.items():
        found = evaluation["task"]["baselines"][name]["metrics"]["rougeL"]["value"]
        assert found == pytest.approx(np.mean([scorer.score(row["record"]["summary"], text)["rougeL"].fmeasure for row, text in zip(answers, texts)]))
        assert name in printed
    assert json.loads((folder / "records" / "stats.json").read_text())["refused"] == {"no summary": 1}


def test_the_command_at_the_end_asks_as_it_was_trained(finished):
    folder, printed = finished
    first = next(record for record in lines_of(folder / "records" / "records.jsonl") if record["split"] == "validation")

    assert f"--prompt {shlex.quote('<|endoftext|>' + first['prompt'] + first['prompt_end'])}" in printed and first["prompt_end"] == "\nSummary:"


def test_long_texts_are_trained_on_by_their_first_window_and_counted(finished):
    folder, _ = finished

    stats = json.loads((folder / "data" / "stats.json").read_text())["splits"]
    long_ones = [record for record in lines_of(folder / "records" / "records.jsonl") if " and more" in record["text"]]
    assert sum(of["cut"] for of in stats.values()) == len(long_ones) > 5 and not any(of["too_long"] for of in stats.values())
    assert {row["answer"]["windows"] for row in lines_of(folder / "answers.jsonl") if row["record"] not in long_ones} == {1}
    assert all(row["answer"]["windows"] > 1 and not row["answer"]["cut"] for row in lines_of(folder / "answers.jsonl") if row["record"] in long_ones)


@pytest.mark.parametrize(("more", "message"), [
    ([], "texts.jsonl:41: column 'short' is empty; write what the text says, or set data.bad_records to skip"),
    (["--task.columns.text", "body"], "no column 'body' (columns: long, short); set task.columns.text to one of them"),
    (["--task.template", "Summary:"], "task.template: 'Summary:' holds {text} 0 times; write it once"),
])
def test_a_record_that_cannot_be_used_is_refused_before_any_training(table, tmp_path, more, message):
    (tmp_path / "short.yaml").write_text(RECIPE.format(path=table, bad="refuse", more=""))

    done = called("run", tmp_path / "short.yaml", "--output", tmp_path / "run", *more)

    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize(("more", "too_long"), [([], 1), (["--task.long_text", "refuse"], 9)])
def test_what_no_sequence_takes_is_counted_or_refused(table, tmp_path, more, too_long, capsys):
    """Nine texts have more than a sequence holds beside their summaries, and one summary has more than that by itself."""
    lines = [*table.read_text().splitlines()[:40], json.dumps({"long": "A box.", "short": "very " * 20})]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    (tmp_path / "short.yaml").write_text(RECIPE.format(path=tmp_path / "texts.jsonl", bad="skip", more=""))
    command = ["data", "prepare", str(tmp_path / "short.yaml"), "--output", str(tmp_path / "run"), *more]

    assert cli.main(command) == 0

    stats = json.loads((tmp_path / "run" / "data" / "stats.json").read_text())["splits"]
    assert sum(of["too_long"] for of in stats.values()) == too_long
    assert f"documents of {next(split for split in stats if stats[split]['too_long'])} do not fit a sequence (data.length" in capsys.readouterr().err
    assert cli.main([*command, "--data.bad_records", "refuse"]) == 2
    assert "texts.jsonl:" in (refused := capsys.readouterr().err) and "records.jsonl" not in refused  # the user's line, and not that of the records


def test_a_record_has_the_end_of_its_prompt_apart_and_an_encoder_reads_the_text_alone(table, tmp_path):
    (tmp_path / "short.yaml").write_text(RECIPE.format(path=table, bad="skip", more=", template: 'Text: {text} Short:'"))
    recipe, _ = load_recipe(tmp_path / "short.yaml")

    record = next(task_records(recipe, Intake(recipe.data)))

    assert (record["prompt"], record["prompt_end"], record["target"]) == ("Text: A red box.\nIt is number 0 and more and more and more.", " Short:", " red")
    plain = with_records(recipe, tmp_path).data
    read = with_records(load_recipe(tmp_path / "short.yaml", ["--adapt.encoder.kind", "new"])[0], tmp_path).data
    assert (plain.examples, plain.columns.prompt_end, plain.long_pairs) == ("pairs", "prompt_end", "window")
    assert (read.examples, read.columns.source, read.columns.target, read.long_pairs) == ("translation", "text", "summary", "pieces")
    with pytest.raises(RecipeError, match="adapt.encoder.kind: new .*, and question_answering .task.kind. has no sources; set it to none"):
        with_records(dataclasses.replace(recipe, task=TaskConfig("question_answering"), adapt=AdaptConfig(encoder=EncoderConfig("new"))), tmp_path)


def test_windows_overlap_hold_all_of_a_text_and_fit(tokenizer, documents):
    text = " ".join(documents[3].split())[:1500].strip()

    spans = windows(text, tokenizer, most=40, overlap=10)

    pieces = [text[start:end] for start, end in spans]
    assert all(0 < token_count(piece, tokenizer) <= 40 for piece in pieces) and len(pieces) > 5
    assert spans[0][0] == 0 and spans[-1][1] == len(text)
    assert all(one[0] < other[0] < one[1] < other[1] for one, other in itertools.pairwise(spans))  # each begins inside of the one before
    assert windows("short", tokenizer, 40, 10) == [(0, 5)] and windows("", tokenizer, 40, 10) == [(0, 0)] and windows(" \n", tokenizer, 40, 10) == [(0, 2)]


@pytest.mark.parametrize("long_text", ["window", "cut", "refuse"])
def test_the_summary_of_a_long_text_is_the_likeliest_of_its_windows(text_model, documents, long_text):
    summarizer, text = Summarizer(text_model, "{text} =", long_text), documents[3][:300].strip()
    spans = windows(text, text_model.python_tokenizer, 48 - 12 - 1 - token_count(" =", text_model.python_tokenizer), int(0.25 * 33))
    pieces = [text[start:end] for start, end in spans]
    assert len(pieces) > 2

    if long_text == "refuse":
        with pytest.raises(ValueError, match="tokens, and 33 are read at once; shorten it, or set long_text to window or cut"):
            summarizer.summarize(text)
        return
    summary = summarizer.summarize(text)

    rows = text_model.generate([f"{text_model.python_tokenizer.eos_token}{piece} =" for piece in (pieces if long_text == "window" else pieces[:1])], 64)
    best = max(rows, key=lambda row: row.log_prob / row.token_count)
    assert summary.text == best.text.strip() and summary.windows == len(rows) and rows[summary.window] == best
    assert summary.finished == (best.finish_reason == "stop")
    assert summary.cut == (long_text == "cut") and summary.log_prob == pytest.approx(best.log_prob / best.token_count, abs=1e-4)  # fp32, other batches


def test_an_encoder_summarises_the_text_alone(translator, tokenizer, documents):
    text_model, texts = TextModel(translator, tokenizer), ["One line.", documents[3][:300].strip(), "Another line."]
    finished = []

    summaries = Summarizer(text_model).summarize_all(texts, batch_size=2, advance=finished.append)

    assert summaries[0].text == text_model.generate(texts[:1], 64)[0].text.strip()
    assert [summary.windows for summary in summaries][::2] == [1, 1] and summaries[1].windows > 3 and sum(finished) == 3


def test_what_is_asked_for_can_be(text_model):
    with pytest.raises(ValueError, match="long_text: 'split'; give window, cut, refuse"):
        Summarizer(text_model, long_text="split")
    with pytest.raises(RecipeError, match="task.template: 'Summary:' holds {text} 0 times"):
        Summarizer(text_model, "Summary:")
    with pytest.raises(ValueError, match="template: .* leaves no room for a text in a context of 48 tokens"):
        Summarizer(text_model, "word " * 40 + "{text}")


def test_the_built_in_pairs_are_functions_without_their_docstrings(tmp_path):
    (tmp_path / "module.py").write_text(MODULE)

    assert [row[:2] for row in function_summaries([tmp_path / "module.py"])] == [
        ("def double(number):\n    return 2 * number", "Return twice the number."),
        ("async def wait(self):\n    # patiently\n    await self.it", "Wait for it now")]
    pairs = [row[:2] for row in function_summaries(stdlib_files())]
    assert len(set(pairs)) == len(pairs) > 5000
    assert all(summary not in text and len(summary.split()) >= 3 for text, summary in pairs[::20])


MODULE = '''
def double(number):
    """Return twice the number.  And no more.

    >>> double(1)
    2
    """
    return 2 * number

class Waiter:
    async def wait(self):
        "Wait for it now"
        # patiently
        await self.it

    def nothing(self):
        """Do nothing at all."""

def brief(): "On the same line as it."; return 1

def shown(x):
    """shown(x) -> y"""
    return x

def short(x):
    """Short one."""
    return x
'''
