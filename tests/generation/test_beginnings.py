"""Tokens that begin with what is typed, against all ways of a small vocabulary."""
import itertools

import numpy as np
import pytest

from tfgpt.generation.beginnings import Beginnings, parted

TEXTS = [b"a", b"ab", b"b", b"ba", b"\n", b"\n ", b"", "é".encode(), "é".encode()[:1]]


def log_probs_behind(ids):
    """Return made-up log-probabilities that depend on the tokens before."""
    drawn = np.random.default_rng([1, *ids]).random(len(TEXTS))
    return np.log(drawn / drawn.sum())


@pytest.mark.parametrize("typed", [b"a", b"ab", b"aba", b"\n", "é".encode(), b"abab"])
def test_the_likeliest_ways_are_found_among_all(typed):
    every = {}
    for length in range(1, 5):
        for ids in itertools.product(range(len(TEXTS)), repeat=length):
            joined = b"".join(TEXTS[number] for number in ids)
            before = b"".join(TEXTS[number] for number in ids[:-1])
            if all(TEXTS[number] for number in ids) and joined.startswith(typed) and len(before) < len(typed):
                every[ids] = sum(log_probs_behind(ids[:place])[number] for place, number in enumerate(ids))
    best = sorted(every.items(), key=lambda way: -way[1])[:8]

    found = Beginnings(TEXTS).find(typed, lambda ways: [log_probs_behind(ids) for ids in ways])

    assert [ids for ids, _ in found] == [ids for ids, _ in best]
    np.testing.assert_allclose([log_prob for _, log_prob in found], [log_prob for _, log_prob in best], rtol=1e-12)  # the same sums


def test_what_cannot_be_begun_gives_no_way():
    assert Beginnings(TEXTS).find(b"x", lambda ways: [log_probs_behind(ids) for ids in ways]) == []


def test_what_tokens_say_behind_what_is_typed():
    beginnings = Beginnings(TEXTS)

    assert beginnings.text_behind(b"a", [1, 3]) == "bba" and beginnings.text_behind(b"ab", [1]) == ""
    assert beginnings.text_behind(b"a", [0, 8]) is None                                              # half of a character


@pytest.mark.parametrize(("text", "rest"), [("", ""), ("if x:\n", "\n"), ("if x:\n\n    ", "\n\n    "), ("a retu", " retu"), ("f(", "("), ("x = 12", " 12")])
def test_a_text_is_parted_before_its_last_word_mark_or_white_space(tokenizer, text, rest):
    ids, typed = parted(text, tokenizer)

    assert (tokenizer.decode(ids), typed) == (text.removesuffix(rest), rest)
