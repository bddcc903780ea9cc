"""The batch encoder against GPT2TokenizerFast on the whole text."""
import random

import numpy as np
import pytest

from tests.text.test_graph import TRICKY, random_texts
from tfgpt.text import encode
from tfgpt.text.bpe import train_tokenizer
from tfgpt.text.encode import BatchEncoder


def assert_same_ids(encoder, tokenizer, texts):
    ids, sizes, _ = encoder.encode(texts)
    borders = np.cumsum(sizes)
    assert [part.tolist() for part in np.split(ids, borders)[:-1]] == tokenizer(texts, verbose=False).input_ids


def test_texts_get_the_ids_of_the_tokenizer(tokenizer, documents):
    assert_same_ids(BatchEncoder(tokenizer), tokenizer, [*documents, *TRICKY, *random_texts(2000, seed=8), ""])


def test_a_tokenizer_that_once_cut_or_padded_texts_loses_none_of_them(documents, tmp_path):
    tokenizer = train_tokenizer(documents[:20], vocab=400)
    wanted = tokenizer(documents[:3], verbose=False).input_ids
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer(["a text"], truncation=True, max_length=2, padding="max_length")

    ids, sizes, _ = BatchEncoder(tokenizer).encode(documents[:3])

    assert [part.tolist() for part in np.split(ids, np.cumsum(sizes))[:-1]] == wanted


def test_no_text_gives_no_ids(tokenizer):
    ids, sizes, _ = BatchEncoder(tokenizer).encode([])

    assert (ids.tolist(), sizes.tolist(), ids.dtype) == ([], [], np.int32)


@pytest.mark.parametrize("long_text", [1, 3, 50])
def test_a_long_text_cut_into_pieces_has_the_ids_of_the_whole(tokenizer, documents, monkeypatch, long_text):
    monkeypatch.setattr(encode, "LONG_TEXT", long_text)
    monkeypatch.setattr(encode, "CHARACTERS_AT_ONCE", 400)
    rng = random.Random(5)
    mixed = ["".join(rng.choice([*" \n\t'.,ab12X", "it's", "we'll1", "  \n ", "\u00a0", "e\u0301"]) for _ in range(300)) for _ in range(200)]

    assert_same_ids(BatchEncoder(tokenizer), tokenizer, [*mixed, *documents[:20], *random_texts(500, seed=9)])


def test_special_tokens_that_a_cut_might_split_keep_texts_whole(monkeypatch):
    tokenizer = train_tokenizer(["some text to learn from"] * 3, vocab=270, special_tokens=["<|a turn|>", "<|x9|>"])
    monkeypatch.setattr(encode, "LONG_TEXT", 2)

    assert_same_ids(BatchEncoder(tokenizer), tokenizer, ["one <|a turn|> two<|x9|>three and some more text"])


def test_a_word_without_end_is_cut_and_counted_and_decodes_to_itself(tokenizer, monkeypatch):
    monkeypatch.setattr(encode, "LONG_TEXT", 1000)
    monkeypatch.setattr(encode, "LONGEST_WORD", 2000)
    encoder = BatchEncoder(tokenizer)
    word = "".join(random.Random(6).choices("abcdefgh", k=10_000))

    ids, sizes, words_cut = encoder.encode([word, "short"])

    assert words_cut == 3
    assert tokenizer.decode(ids[: sizes[0]]) == word
