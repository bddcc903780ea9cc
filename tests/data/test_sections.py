"""Texts too long to be held in memory give what they would give as a whole."""
import io
import itertools

import numpy as np
import pytest

from tfgpt.data import prepare as prepared
from tfgpt.data import readers
from tfgpt.data.corpus import read_corpus
from tfgpt.data.encode import SequenceMaker
from tfgpt.data.examples import Example
from tfgpt.data.intake import Account
from tfgpt.data.packing import IGNORED
from tfgpt.data.pipeline import evaluation_batches
from tfgpt.data.prepare import prepare, tokenized_documents
from tfgpt.data.sections import in_sections
from tfgpt.data.shards import ShardedData
from tfgpt.recipe import CleanConfig, DataConfig
from tfgpt.text import encode

LENGTH = 32


@pytest.fixture(autouse=True)
def short_sections(monkeypatch):
    monkeypatch.setattr(readers, "SECTION", 1000)
    monkeypatch.setattr(readers, "LONGEST_WORD", 500)
    monkeypatch.setattr(encode, "LONGEST_WORD", 500)
    monkeypatch.setattr(prepared, "WINDOW", 4000)


@pytest.fixture
def book(tmp_path, documents):
    path = tmp_path / "book.txt"
    path.write_text("\n".join(documents)[:40_000], encoding="utf-8")
    return path


def test_sections_are_cut_at_ends_of_lines_and_know_their_line(book):
    text = book.read_text()

    sections = list(readers.sections(io.StringIO(text, newline="")))

    assert "".join(section for _, section in sections) == text
    assert len(sections) > 25
    assert all(section.startswith("\n") for _, section in sections[1:])
    assert [line for line, _ in sections] == [1 + text[:start].count("\n") for start in itertools.accumulate((len(s) for _, s in sections[:-1]), initial=0)]


def test_blank_stretches_and_long_words_are_kept_whole_or_cut_where_they_must_be():
    text = " " * 5000 + "x" * 9000 + " end"

    sections = [section for _, section in readers.sections(io.StringIO(text))]

    assert "".join(sections) == text
    assert all(section.strip() for section in sections)


def test_every_token_of_a_long_text_is_trained_on_once_after_the_token_before_it(book, tokenizer):
    text, end = book.read_text(), tokenizer.eos_token_id
    wanted = [end, *tokenizer(text).input_ids, end]
    maker = SequenceMaker(DataConfig(path="x", length=LENGTH), encode.BatchEncoder(tokenizer), end)
    sections = list(in_sections([Example(((text, True),), place="book.txt")]))
    tokens = maker.tokens(sections)

    pairs = [pair for pair in zip(tokens.inputs.tolist(), tokens.labels.tolist()) if pair[1] != IGNORED]
    assert len(sections) > 25
    assert pairs == list(itertools.pairwise(wanted))


def test_a_running_text_read_in_sections_gives_the_same_tokens_to_each_part(tmp_path, book, tokenizer, monkeypatch):
    config = DataConfig(path=str(book), length=LENGTH, test=0.1)
    stats = prepare(config, tokenizer, tmp_path / "sections")
    monkeypatch.setattr(readers, "SECTION", 1_000_000)
    whole = prepare(config, tokenizer, tmp_path / "whole")

    for key in ("documents_read", "used", "divided", "cut", "documents"):
        assert stats[key] == whole[key], key
    for split in ("train", "validation", "test"):
        trained = [np.sort(rows[rows != IGNORED]) for rows in (labels_of(tmp_path / name, split) for name in ("sections", "whole"))]
        np.testing.assert_array_equal(*trained)
        assert all(stats["splits"][split][key] == whole["splits"][split][key] for key in ("documents", "bytes", "tokens", "cut", "words_cut"))


def test_documents_for_the_baseline_are_the_tokens_that_are_trained_on(tmp_path, book, tokenizer):
    config = DataConfig(path=str(book), length=LENGTH)
    tokens = prepare(config, tokenizer, tmp_path / "data")["splits"]["validation"]["tokens"]

    ids, trained = zip(*tokenized_documents(config, tokenizer, "validation"))

    assert sum(flags.sum() for flags in trained) == tokens
    assert [len(flags) for flags in trained] == [len(row) + 1 for row in ids]
    part = [example.text for example in read_corpus(config) if example.split == "validation"]
    assert np.concatenate(ids).tolist() == tokenizer("".join(part)).input_ids


def test_rules_about_whole_documents_see_them_whole(book):
    account = Account()

    with pytest.raises(ValueError, match="holds no text to use .1 files, 1 documents: "):
        list(read_corpus(DataConfig(path=str(book), clean=CleanConfig(max_chars=30_000), split="hash"), account))

    assert account.filtered == {"longer than max_chars": 1}


def test_a_bad_byte_far_inside_a_file_is_told_with_its_line(tmp_path, book):
    raw = book.read_bytes()
    broken = raw[:30_000] + b"\xff" + raw[30_000:]
    (tmp_path / "broken.txt").write_bytes(broken)
    line = 1 + raw[:30_000].count(b"\n")

    with pytest.raises(ValueError, match=f"broken.txt:{line}: byte 0xff is no UTF-8"):
        list(read_corpus(DataConfig(path=str(tmp_path / "broken.txt"), invalid_utf8="refuse")))


def test_a_word_cut_at_the_end_of_a_section_is_counted(tmp_path, tokenizer):
    path = tmp_path / "word.txt"
    path.write_text("a few words first, then\n" * 200 + "x" * 9000 + "\nand some after it" * 300)

    stats = prepare(DataConfig(path=str(path), length=LENGTH), tokenizer, tmp_path / "data")

    assert stats["splits"]["train"]["words_cut"] > 0
    assert stats["splits"]["train"]["tokens"] + stats["splits"]["validation"]["tokens"] > 2000


def labels_of(folder, split):
    return np.concatenate([batch["labels"].numpy() for batch in evaluation_batches(ShardedData(folder), split, 50)])
