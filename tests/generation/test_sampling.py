import functools

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfgpt.generation.controls import Controls, controls_of
from tfgpt.generation.sampling import (
    Constraints,
    Written,
    choose,
    filter_min_p,
    filter_top_k,
    filter_top_p,
    filter_typical,
    penalize,
    repeated,
    uniform_numbers,
)

DRAWS = 50_000
LOGITS = np.array([2.0, 1.0, 0.5, 0.0, -1.0, -3.0], np.float32)


END = 5
"""The token that ends a text, here."""


def controls(rows, **given):
    return Controls(*(tf.constant(np.broadcast_to(value, [rows])) for value in controls_of({"temperature": 1.0} | given, rows)))


def written(tokens, prompt=0):
    """The rows so far, of which the first `prompt` tokens each are the prompt."""
    tokens = np.asarray(tokens)
    rows, length = tokens.shape
    return Written(*map(tf.constant, (np.pad(tokens, [[0, 0], [0, 3]]).astype(np.int32), np.full(rows, length, np.int32), np.full(rows, prompt, np.int32))))


def pick(logits, rows, given, uniform, end):
    return choose(logits, rows, given, Constraints.none(len(logits)), uniform, end)


def nothing_written(rows):
    return written(np.zeros([rows, 0], int))


def softmax(logits):
    weights = np.exp(logits.astype(np.float64) - np.max(logits))
    return weights / weights.sum()


@functools.lru_cache
def numbers_of_many_seeds():
    return tf.function(uniform_numbers)(tf.range(DRAWS, dtype=tf.int64), 4)  # in a graph: 50,000 eager steps take minutes


def draw(**given):
    """Draw once for each of many seeds, as many callers would."""
    logits = tf.constant(np.tile(LOGITS, [DRAWS, 1]))
    uniform = numbers_of_many_seeds()[:, 2]
    chosen = pick(logits, nothing_written(DRAWS), controls(DRAWS, **given), uniform, END).numpy()
    return np.bincount(chosen, minlength=len(LOGITS))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, range(6)),
        ({"temperature": 0.5}, range(6)),
        ({"top_k": 3}, range(3)),
        ({"top_p": 0.8}, range(3)),  # 0.536 + 0.197 < 0.8 <= + 0.120
        ({"top_k": 4, "top_p": 0.9, "temperature": 2.0}, range(4)),
        ({"min_p": 0.2}, range(3)),  # e^-1.5 = 0.22 and e^-2 = 0.14 times the likeliest
        ({"min_p": 0.3, "temperature": 2.0}, range(4)),  # after the temperature: e^-1 = 0.37, e^-1.5 = 0.22
        ({"min_new_tokens": 1}, range(5)),  # the end cannot come yet
    ],
)
def test_draws_follow_the_filtered_softmax(given, kept):
    counts = draw(**given)

    expected = softmax(LOGITS[list(kept)] / given.get("temperature", 1.0))
    assert counts[len(kept) :].sum() == 0
    assert stats.chisquare(counts[: len(kept)], DRAWS * expected).pvalue > 1e-3


def test_uniform_numbers_of_a_seed_depend_on_no_other_seed():
    together = uniform_numbers(tf.constant([5, 6, 7], tf.int64), 100).numpy()

    np.testing.assert_array_equal(uniform_numbers(tf.constant([6], tf.int64), 100)[0], together[1])
    assert stats.kstest(numbers_of_many_seeds().numpy().ravel(), "uniform").pvalue > 1e-3


def test_rows_have_controls_of_their_own():
    rows = controls(3, temperature=[0.0, 1.0, 1.0], top_k=[0, 1, 0])
    logits = tf.constant(np.tile(LOGITS, [3, 1]))

    chosen = pick(logits, nothing_written(3), rows, tf.constant([0.9999, 0.9999, 0.9999]), END).numpy()

    assert chosen.tolist() == [0, 0, 5]  # greedy; only the best is left; the last token of the distribution


def test_a_token_without_probability_is_never_drawn():
    logits = tf.constant([[-np.inf, 0.0, -np.inf]], tf.float32)

    for uniform in (0.0, 0.5, np.nextafter(np.float32(1), np.float32(0))):
        chosen = pick(logits, written(np.zeros([1, 0], int)), controls(1), tf.constant([uniform], tf.float32), 2)
        assert chosen.numpy().tolist() == [1]


def test_filters_take_the_lower_id_of_equals_and_keep_one_at_least():
    equal = tf.zeros([1, 4])

    np.testing.assert_array_equal(np.isfinite(filter_top_k(equal, tf.constant([2]))), [[True, True, False, False]])
    np.testing.assert_array_equal(np.isfinite(filter_top_p(equal, tf.constant([0.5]))), [[True, True, False, False]])
    np.testing.assert_array_equal(np.isfinite(filter_top_p(equal, tf.constant([0.0]))), [[True, False, False, False]])
    np.testing.assert_array_equal(filter_top_k(equal, tf.constant([9])), equal)


def test_the_repetition_penalty_is_that_of_transformers():
    import torch
    from transformers import RepetitionPenaltyLogitsProcessor

    logits = np.random.default_rng(0).normal(size=[2, 9]).astype(np.float32)
    seen = [[1, 4, 4], [0, 8, 2]]
    mask = np.zeros([2, 9], bool)
    for row, ids in enumerate(seen):
        mask[row, ids] = True

    theirs = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor(seen), torch.tensor(logits)).numpy()

    np.testing.assert_allclose(penalize(tf.constant(logits), tf.constant(mask), tf.constant([1.7, 1.7])), theirs, rtol=1e-6)


def test_draws_follow_the_typical_softmax():
    """Surprises are 0.62, 1.62, 2.12, 2.62, 3.62, 5.62 and the entropy 1.26: token 1 is nearest, then 0, then 2."""
    counts = draw(typical_p=0.8)

    expected = softmax(LOGITS[:3])
    assert counts[3:].sum() == 0
    assert stats.chisquare(counts[:3], DRAWS * expected).pvalue > 1e-3
    assert draw(typical_p=0.1)[1] == DRAWS


def test_the_likeliest_need_not_be_typical():
    kept = filter_typical(tf.math.log([[0.6, 0.2, 0.2]]), tf.constant([0.3]))

    assert np.isfinite(kept).tolist() == [[True, False, False]]  # entropy 0.95: 0.51 is nearer than 1.61
    kept = filter_typical(tf.math.log([[0.8, 0.1, 0.05, 0.05]]), tf.constant([0.9]))
    assert np.isfinite(kept).tolist() == [[True, True, False, False]]


def theirs(processor, ids, logits):
    import torch

    return processor(torch.tensor(ids), torch.tensor(logits)).numpy()


def random_logits(rows, vocab):
    return np.random.default_rng(rows + vocab).normal(size=[rows, vocab]).astype(np.float32) * 3


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_filters_are_those_of_transformers(share):
    from transformers import MinPLogitsWarper, TopPLogitsWarper, TypicalLogitsWarper

    logits = random_logits(40, 200)
    for filter_ours, warper in ((filter_min_p, MinPLogitsWarper), (filter_top_p, TopPLogitsWarper), (filter_typical, TypicalLogitsWarper)):
        ours = filter_ours(tf.constant(logits), tf.fill([40], np.float32(share)))
        np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(theirs(warper(share), [[0]] * 40, logits)), warper.__name__)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_no_run_of_tokens_comes_twice_as_in_transformers(size):
    from transformers import NoRepeatNGramLogitsProcessor

    ids, logits = np.random.default_rng(size).integers(0, 2, [30, 12]), random_logits(30, 7)  # two tokens: runs come again
    banned = np.isinf(theirs(NoRepeatNGramLogitsProcessor(size), ids, logits))

    np.testing.assert_array_equal(repeated(written(ids, prompt=5), tf.fill([30], size), 7), banned)
    assert banned.any() and not banned.all()


def test_rows_have_sizes_of_their_own_for_runs():
    rows = written([[1, 2, 1, 2, 1], [1, 2, 1, 2, 1], [1, 2, 1, 2, 1], [1, 2, 1, 2, 1]])

    banned = repeated(rows, tf.constant([0, 1, 3, 9]), 6)

    assert [np.flatnonzero(row).tolist() for row in banned.numpy()] == [[], [1, 2], [2], []]


def test_presence_and_frequency_count_what_is_written_behind_the_prompt():
    rows, logits = written([[3, 3, 0, 0, 1], [3, 3, 0, 0, 1]], prompt=2), np.tile([1.9, 1.9, 0.0, 1.0, 0.5, 0.0], [2, 1]).astype(np.float32)
    given = controls(2, temperature=0.0, presence_penalty=[0.5, 0.5], frequency_penalty=[0.0, 0.3])

    def best(change):
        return pick(tf.constant(logits + change), rows, given, tf.zeros([2]), END).numpy().tolist()

    assert best(0.0) == [0, 1]                                              # 1.4, 1.4 and 1.9 - 0.5 - 2 * 0.3 = 0.8, 1.9 - 0.5 - 0.3 = 1.1
    assert best(np.eye(6, dtype=np.float32)[3] * 0.2) == [0, 3]             # 1.2 of a token that only the prompt has
    assert best(np.eye(6, dtype=np.float32)[3] * 0.5) == [3, 3]


def test_a_row_whose_tokens_are_all_banned_keeps_them():
    rows = written([[0, 1, 2, 3, 4, 5]])

    chosen = pick(tf.constant(LOGITS[np.newaxis]), rows, controls(1, temperature=0.0, no_repeat_ngram_size=1), tf.zeros([1]), END)

    assert chosen.numpy().tolist() == [0]


@pytest.mark.parametrize(("given", "message"), [
    ({"top_q": 1}, "top_q: no such control; there are max_new_tokens, temperature"),
    ({"temperature": -1.0}, "temperature: -1.0 is not between 0 and 1e\\+06"),
    ({"presence_penalty": float("inf")}, "presence_penalty: inf is not between -1e\\+06 and 1e\\+06"),
    ({"frequency_penalty": -1e39}, "frequency_penalty: -1e\\+39 is not between"),
    ({"temperature": float("inf")}, "temperature: inf is not between"),
    ({"repetition_penalty": float("inf")}, "repetition_penalty: inf is not between"),
    ({"temperature": float("nan")}, "temperature: nan is not between"),
    ({"top_p": [0.5, 1.5]}, "top_p: 1.5 is not between 0 and 1"),
    ({"top_k": 2.5}, "top_k: 2.5 is no whole number"),
    ({"seed": "x"}, "seed: 'x' is no whole number"),
    ({"max_new_tokens": True}, "max_new_tokens: True is no whole number"),
    ({"seed": 2**64}, "seed: 18446744073709551616 is not between"),
    ({"seed": [1, 2, 3]}, "seed: 3 values for 2 prompts"),
])  # fmt: skip
def test_controls_that_cannot_be_are_told(given, message):
    with pytest.raises(ValueError, match=message):
        controls_of(given, rows=2)
