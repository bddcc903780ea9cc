import functools

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfgpt.generation.sampling import Controls, choose, filter_top_k, filter_top_p, penalize, uniform_numbers

DRAWS = 50_000
LOGITS = np.array([2.0, 1.0, 0.5, 0.0, -1.0, -3.0], np.float32)


def controls(rows, **given):
    defaults = {"max_new_tokens": 1, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "seed": 0}
    types = {"temperature": tf.float32, "top_p": tf.float32, "repetition_penalty": tf.float32, "seed": tf.int64}
    return Controls(**{name: tf.constant(np.broadcast_to(value, [rows]), types.get(name, tf.int32)) for name, value in (defaults | given).items()})


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
    chosen = choose(logits, tf.zeros([DRAWS, len(LOGITS)], tf.bool), controls(DRAWS, **given), uniform).numpy()
    return np.bincount(chosen, minlength=len(LOGITS))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, range(6)),
        ({"temperature": 0.5}, range(6)),
        ({"top_k": 3}, range(3)),
        ({"top_p": 0.8}, range(3)),  # 0.536 + 0.197 < 0.8 <= + 0.120
        ({"top_k": 4, "top_p": 0.9, "temperature": 2.0}, range(4)),
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

    chosen = choose(logits, tf.zeros([3, 6], tf.bool), rows, tf.constant([0.9999, 0.9999, 0.9999])).numpy()

    assert chosen.tolist() == [0, 0, 5]  # greedy; only the best is left; the last token of the distribution


def test_a_token_without_probability_is_never_drawn():
    logits = tf.constant([[-np.inf, 0.0, -np.inf]], tf.float32)

    for uniform in (0.0, 0.5, np.nextafter(np.float32(1), np.float32(0))):
        assert choose(logits, tf.zeros([1, 3], tf.bool), controls(1), tf.constant([uniform], tf.float32)).numpy().tolist() == [1]


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
