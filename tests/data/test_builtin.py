"""Numbers in words, and sentences of what Python ships."""
import sys

import pytest

from tfgpt.data import builtin
from tfgpt.data.corpus import read_corpus
from tfgpt.data.sources import input_files, inputs_sha256
from tfgpt.recipe import ColumnsConfig, DataConfig, RecipeError

CONFIG = DataConfig(path="number-words", examples="translation", columns=ColumnsConfig(source="de", target="en"))


def test_numbers_are_written_as_in_both_languages():
    by_digits = {row["digits"]: row for row in builtin.number_words()}

    assert [by_digits[digits]["en"] for digits in ("0", "21", "342")] == ["zero", "twenty-one", "three hundred and forty-two"]
    assert [by_digits[digits]["de"] for digits in ("0", "21", "342")] == ["null", "einundzwanzig", "dreihundertzweiundvierzig"]


def test_no_pair_comes_twice_and_all_are_below_a_million():
    rows = builtin.number_words()

    for column in ("digits", "en", "de"):
        assert len({row[column] for row in rows}) == len(rows) == 20_000
    numbers = [int(row["digits"]) for row in rows]
    assert sorted(numbers)[:1000] == list(range(1000))
    assert max(numbers) < 1_000_000 and abs(sum(number > 500_000 for number in numbers) - 9_500) < 100  # from all over


def test_held_out_numbers_are_not_trained_on_and_are_the_same_ones_every_time():
    splits = {"train": [], "validation": []}
    for example in read_corpus(CONFIG):
        splits[example.split].append((example.encoder_text, example.parts[0][0]))

    assert not set(splits["train"]) & set(splits["validation"])
    assert (len(splits["train"]), len(splits["validation"])) == (17_974, 2_026)  # by a hash of the pair, so always these
    assert inputs_sha256(CONFIG) == inputs_sha256(CONFIG)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    builtin.number_words.cache_clear()
    monkeypatch.setitem(sys.modules, "num2words", None)

    with pytest.raises(RecipeError, match=r"data.path: number-words needs the package num2words, which is not installed; pip install 'tfgpt\[tasks\]'"):
        input_files(CONFIG)


@pytest.mark.slow
def test_sentences_are_plain_whole_and_each_there_once():
    sentences = builtin.python_sentences()

    assert len(sentences) > 9_000 and len({" ".join(sentence.split()) for sentence in sentences}) == len(sentences)
    assert all(sentence[0].isupper() and sentence[-1] in ".!?" and len(sentence.split()) >= 5 for sentence in sentences)
    assert not any(mark in sentence for sentence in sentences for mark in "_=<>[]{}`\"")
    assert len(set(sentences.values())) > 300  # from all over
