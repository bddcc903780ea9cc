"""Translation, by a prompt or an encoder: a user's two columns, long sources in pieces, and figures against sacrebleu; a whole run with an encoder is in
tests/test_translation_run.py."""
import dataclasses
import json
from datetime import date

import pytest
import sacrebleu
from num2words import num2words

from tests.commands import called
from tfgpt import cli
from tfgpt.data.date_words import date_in_words, date_words
from tfgpt.data.intake import Intake
from tfgpt.evaluation.metrics import measured
from tfgpt.generation.text_model import TextModel
from tfgpt.recipe import AdaptConfig, EncoderConfig, RecipeError
from tfgpt.recipe_file import load_recipe
from tfgpt.stages.records import task_records, with_records
from tfgpt.tasks.translation import TASK, Translator
from tfgpt.text.windows import sentences_together, token_count

RECIPE = """
name: swap
data: {{path: {path}, length: 40, validation: 0.3, bad_records: {bad}}}
tokenizer: {{kind: char}}
model: {{layers: 1, width: 32, heads: 2, dropout: 0.0}}
task: {{kind: translation, columns: {{source: from, target: to}}}}
train: {{steps: 3, global_batch_size: 4, evaluate_every: 3, sample_prompts: []}}
"""


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "pairs.csv"
    words = [f"{a}{b}" for a in "abcdefg" for b in "abcdefg"]
    path.write_text("from,to\n" + "".join(f"{one} {other},{other} {one}\n" for one, other in zip(words, words[7:] + words[:7])) + "nothing, \n")
    return path


def recipe_of(table, folder, bad="skip"):
    (folder / "swap.yaml").write_text(RECIPE.format(path=table, bad=bad))
    return folder / "swap.yaml"


def test_a_run_without_an_encoder_translates_what_it_holds_out_beside_the_sources_copied(table, tmp_path):
    done = called("run", recipe_of(table, tmp_path), "--output", tmp_path / "run")

    assert done.returncode == 0, done.stderr
    evaluation, answers = json.loads((tmp_path / "run" / "evaluation.json").read_text()), lines_of(tmp_path / "run" / "answers.jsonl")
    assert set(evaluation["metrics"]) == {"accuracy", "exact_match", "chrf", "bleu"} and evaluation["metrics"]["exact_match"]["interval"][1] > 0
    right = [row["record"]["translation"] for row in answers]
    for found, texts in ((evaluation["metrics"], [row["answer"]["text"] for row in answers]),
                         (evaluation["task"]["baselines"]["the source, copied"]["metrics"], [row["record"]["source"] for row in answers])):
        assert found["chrf"]["value"] == pytest.approx(sacrebleu.corpus_chrf(texts, [right]).score)
        assert found["bleu"]["value"] == pytest.approx(sacrebleu.corpus_bleu(texts, [right]).score)
    assert "the source, copied" in done.stdout and {row["answer"]["pieces"] for row in answers} == {1}
    assert json.loads((tmp_path / "run" / "records" / "stats.json").read_text())["refused"] == {"no pair": 1}


def test_a_record_is_a_pair_behind_a_prompt_or_a_source_for_an_encoder(table, tmp_path):
    recipe, _ = load_recipe(recipe_of(table, tmp_path))

    record = next(task_records(recipe, Intake(recipe.data)))

    assert (record["prompt"], record["target"], record["source"], record["translation"]) == ("aa ba\nTranslation:", " ba aa", "aa ba", "ba aa")
    plain = with_records(recipe, tmp_path).data
    read = with_records(dataclasses.replace(recipe, adapt=AdaptConfig(encoder=EncoderConfig("copy"))), tmp_path).data
    assert (plain.examples, plain.columns.prompt, plain.columns.target, plain.long_pairs) == ("pairs", "prompt", "target", "refuse")
    assert (read.examples, read.columns.source, read.columns.target, read.long_pairs) == ("translation", "source", "translation", "refuse")


@pytest.mark.parametrize(("more", "message"), [
    ([], "pairs.csv:51: column 'to' is empty; write both, the source and its target, or set data.bad_records to skip"),
    (["--task.columns.source", "de"], "no column 'de' (columns: from, to); set task.columns.source to one of them"),
    (["--task.template", "{source} {source}"], "task.template: '{source} {source}' holds {source} 2 times; write it once"),
    (["--task.long_text", "cut"], "task.long_text: cut is nothing that translation can do; set it to auto or window or refuse"),
])
def test_what_cannot_be_used_is_refused_before_any_training(table, tmp_path, more, message):
    done = called("run", recipe_of(table, tmp_path, bad="refuse"), "--output", tmp_path / "run", *more)

    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("encoder", [[], ["--adapt.encoder.kind", "new"]])
def test_pairs_longer_than_a_sequence_are_not_trained_on_and_counted(table, tmp_path, encoder):
    (tmp_path / "pairs.csv").write_text(table.read_text() + "a long source of more than forty characters,b\n")
    command = ["data", "prepare", str(recipe_of(tmp_path / "pairs.csv", tmp_path)), "--output", str(tmp_path / "run"), *encoder]

    assert cli.main(command) == 0

    assert sum(of["too_long"] for of in json.loads((tmp_path / "run" / "data" / "stats.json").read_text())["splits"].values()) == 1


@pytest.mark.parametrize("has_encoder", [False, True])
def test_a_long_source_is_translated_in_whole_sentences(model, translator, tokenizer, has_encoder):
    text_model = TextModel(translator if has_encoder else model, tokenizer)
    before, behind = ("", "") if has_encoder else (tokenizer.eos_token, "\nTo English:")
    most = 31 if has_encoder else 48 - 24 - 1 - token_count(behind, tokenizer)  # half of the context is for what is written

    text = "It was here. Was it there? No!\nIt is in it,\nand so on. It is, it is, it is."

    translation = Translator(text_model, "{source}\nTo English:").translate(text)

    pieces = pieces_by_hand(["It was here.", " Was it there?", " No!", "\nIt is in it,", "\nand so on.", " It is, it is, it is."],
                            tokenizer, most)
    rows = text_model.generate([before + piece.strip() + behind for piece in pieces], 48)
    joined = "".join(piece[: len(piece) - len(piece.lstrip())] + row.text.strip() for piece, row in zip(pieces, rows))
    assert translation.pieces == len(pieces) > 1 and translation.text == joined
    assert translation.log_prob == pytest.approx(sum(row.log_prob for row in rows), rel=1e-4)  # fp32, other batches
    with pytest.raises(ValueError, match=f"tokens, and {most} are read at once; shorten it, or set long_text to window"):
        Translator(text_model, "{source}\nTo English:", long_text="refuse").translate(text)


@pytest.mark.parametrize("sentences", [["猫是红色的。", "狗是蓝色的！", "它们在哪里？"], ["बिल्ली लाल है। ", "कुत्ता नीला है। ", "वह कहाँ है? "]])
def test_sentences_end_in_every_script(sentences, tokenizer):
    text = "".join(sentences * 3)
    most = max(token_count(sentence.strip(), tokenizer) for sentence in sentences)

    assert [text[start:end] for start, end in sentences_together(text, tokenizer, most)] == [sentence.strip() for sentence in sentences * 3]


def pieces_by_hand(sentences, tokenizer, most):
    """Return sentences put together, each with the white space before it."""
    pieces = [""]
    for sentence in sentences:
        together = pieces[-1] + sentence
        pieces[-1:] = [together] if token_count(together.strip(), tokenizer) <= most else [pieces[-1], sentence]
    return pieces


def test_all_right_is_a_hundred_with_an_interval_that_has_a_width():
    records = [{"translation": f"{word} and {other} are some words"} for word in ("one", "two", "three", "four", "five") for other in ("a", "b", "c", "d")]

    found = {name: measured(metric, seed=1) for name, metric in TASK.metrics(records, [{"text": f" {one['translation']}\n"} for one in records]).items()}

    assert [round(found[name]["value"], 6) for name in ("exact_match", "chrf", "bleu")] == [1.0, 100.0, 100.0]
    assert 0.8 < found["exact_match"]["interval"][0] < 0.9  # 20 of 20 leave room for some wrong ones


def test_dates_are_those_of_num2words():
    assert date_in_words(date(2005, 3, 17)) == {"digits": "2005-03-17", "en": "the seventeenth of March, two thousand and five",
                                                "de": "der siebzehnte März zweitausendfünf"}
    rows = date_words()
    assert all(len({row[column] for row in rows}) == 12_000 for column in ("digits", "en", "de"))
    assert all(row["de"].endswith(num2words(int(row["digits"][:4]), to="year", lang="de")) for row in rows[::500])


def test_what_is_asked_for_can_be(text_model):
    with pytest.raises(ValueError, match="long_text: 'cut'; give window or refuse"):
        Translator(text_model, long_text="cut")
    with pytest.raises(RecipeError, match="task.template: 'x' holds {source} 0 times"):
        Translator(text_model, "x")
