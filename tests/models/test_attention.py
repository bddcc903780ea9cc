"""Attention, at once and in blocks of queries: forward and backward against TensorFlow's own gradients of the formula, in float64."""
import numpy as np
import pytest
import tensorflow as tf

from tests.models.gradients import ERRORS, assert_near, results
from tfgpt.models import attention, kernels
from tfgpt.models.attention import Mask, attend, attend_to_read
from tfgpt.models.compute import COMPILED, PLAIN
from tfgpt.models.dropout import drop
from tfgpt.models.transformer import causal_mask, segment_mask


@pytest.fixture
def everything_compiled(monkeypatch):
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)


@pytest.mark.parametrize("worth_remaking", [0, 1000], ids=["remade", "kept"])
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("kind", [PLAIN, COMPILED], ids=["plain", "compiled"])
@pytest.mark.parametrize("dtype", ERRORS, ids=lambda dtype: dtype.name)
def test_attention_and_its_gradients(dtype, kind, rate, worth_remaking, everything_compiled, monkeypatch):
    monkeypatch.setattr(kernels, "WORTH_REMAKING", worth_remaking)
    seed, mask = tf.constant([5, 6, 0], tf.int64), tf.where(tf.linalg.band_part(tf.ones([1, 1, 9, 9]), -1, 0) > 0, 0.0, float("-inf"))
    kept = tf.cast(drop(tf.ones([2, 3, 9, 9]), rate, seed), tf.float64)           # the same mask, scaled up
    rng = np.random.default_rng(2)
    query, key, value = (tf.cast(rng.normal(size=[2, 3, 9, 8]) * size, dtype) for size in (1.5, 1.5, 1.0))
    upstream = tf.cast(rng.normal(size=[2, 3, 9, 8]), dtype)
    inputs = [query, key, value]

    def formula(query, key, value):
        return (tf.nn.softmax(tf.matmul(query, key, transpose_b=True) * 0.5 + tf.cast(mask, tf.float64)) * kept) @ value

    found = results(lambda *given: kind["attend"](*given, Mask(mask), seed, scale=0.5, rate=rate)[0], inputs, upstream)

    assert all(one.dtype == dtype for one in found)
    assert_near(found, results(formula, [tf.cast(array, tf.float64) for array in inputs], upstream), ERRORS[dtype])


def test_gradients_also_go_through_attention_weights_that_are_given_back():
    mask, rng = tf.where(tf.linalg.band_part(tf.ones([1, 1, 5, 5]), -1, 0) > 0, 0.0, float("-inf")), np.random.default_rng(3)
    inputs = [tf.constant(rng.normal(size=[2, 3, 5, 4]), tf.float32) for _ in range(3)]
    of_both = tf.constant(rng.normal(size=[2, 3, 5, 9]))

    def mine(query, key, value):
        return tf.concat(attend(query, key, value, Mask(mask), tf.zeros([3], tf.int64), scale=0.5, rate=0.0, give_weights=True), axis=-1)

    def formula(query, key, value):
        weights = tf.nn.softmax(tf.matmul(query, key, transpose_b=True) * 0.5 + tf.cast(mask, tf.float64))
        return tf.concat([weights @ value, weights], axis=-1)

    found = results(mine, inputs, of_both)

    assert not np.triu(found[0][..., 4:].numpy(), k=1).any()
    assert_near(found, results(formula, [tf.cast(array, tf.float64) for array in inputs], of_both), ERRORS[tf.float32])


@pytest.fixture
def blocks_of_four(monkeypatch):
    monkeypatch.setattr(attention, "QUERIES_OF_BLOCK", 4)


BEGINNINGS = np.array([[3, 7, 8], [1, 5, 5]])[..., np.newaxis]
"""Of segments, in each of two rows."""
SEEN = {
    "causal": causal_mask(14, 14),
    "segments": segment_mask(tf.constant((np.arange(14) >= BEGINNINGS).sum(axis=1) + 1)),
    "window": causal_mask(14, 14, window=3),
    "keys before": causal_mask(14, 19),
    "everything": tf.ones([1, 14, 14], tf.bool),
    "two keys for all": tf.repeat(tf.reshape(tf.reduce_any(tf.one_hot([9, 10], 14) > 0, axis=0), [1, 1, 14]), 14, axis=1),
}
SPANS = {
    "causal": [[0, 4], [0, 8], [0, 12], [0, 14]],
    "segments": [[0, 4], [0, 8], [4, 12], [4, 14]],
    "window": [[0, 4], [0, 8], [4, 12], [8, 14]],
    "keys before": [[0, 12], [0, 16], [0, 19], [0, 19]],
    "everything": [[0, 14]] * 4,
    "two keys for all": [[8, 12]] * 4,
}


def spans(mask):
    return [[int(begin[2]), int(begin[2] + size[2])] for begin, size in (block.its_keys for block in mask.blocks)]


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("kind", [PLAIN, COMPILED], ids=["plain", "compiled"])
@pytest.mark.parametrize("dtype", ERRORS, ids=lambda dtype: dtype.name)
def test_blocks_of_queries_find_what_all_find_at_once(dtype, kind, seen, everything_compiled, blocks_of_four):
    additive = tf.where(SEEN[seen], 0.0, float("-inf"))[:, tf.newaxis]
    mask, rng = Mask.in_blocks(additive, 14), np.random.default_rng(6)
    query, key, value = (tf.cast(rng.normal(size=[2, 3, count, 8]), dtype) for count in (14, additive.shape[3], additive.shape[3]))
    upstream = tf.cast(rng.normal(size=[2, 3, 14, 8]), dtype)

    def formula(query, key, value):
        return tf.nn.softmax(tf.matmul(query, key, transpose_b=True) * 0.5 + tf.cast(additive, tf.float64)) @ value

    expected = results(formula, [tf.cast(array, tf.float64) for array in (query, key, value)], upstream)
    found = results(tf.function(lambda *given: kind["attend"](*given, mask, None, scale=0.5, rate=0.0)[0]), [query, key, value], upstream)

    assert spans(mask) == SPANS[seen]
    assert all(one.dtype == dtype for one in found)
    assert_near(found, expected, ERRORS[dtype])
    assert_near([attend_to_read(query, key, value, mask, None, scale=0.5, rate=0.0)[0]], expected[:1], ERRORS[dtype])


def test_the_dropout_of_a_block_is_that_of_a_row_in_whichever_batch_and_drops_its_share(blocks_of_four):
    seen = tf.where(SEEN["segments"], 0.0, float("-inf"))[:, tf.newaxis]                  # the second row makes the first one's blocks see more
    together, alone = Mask.in_blocks(seen, 14), Mask.in_blocks(seen[:1], 14)
    rng = np.random.default_rng(8)
    inputs = [tf.constant(rng.normal(size=[2, 64, 14, 4]), tf.float32) for _ in range(3)]
    of_first, upstream = [array[:1] for array in inputs], tf.constant(rng.normal(size=[2, 64, 14, 4]), tf.float32)

    def dropped(mask, row=0):
        return lambda *given: attend(*given, mask, tf.constant([5, 6, row], tf.int64), scale=0.5, rate=0.3)[0]

    of_both, of_one = results(dropped(together), inputs, upstream), results(dropped(alone), of_first, upstream[:1])
    of_other = results(dropped(Mask.in_blocks(seen[1:], 14), row=1), [array[1:] for array in inputs], upstream[1:])
    for both, first, other in zip(of_both, of_one, of_other):
        np.testing.assert_allclose(both[:1], first, atol=2e-6)
        np.testing.assert_allclose(both[1:], other, atol=2e-6)

    assert spans(alone) != spans(together)
    of_ones = attend(*inputs[:2], tf.ones_like(inputs[2]), together, tf.constant([5, 6, 0], tf.int64), scale=1e-6, rate=0.3)[0][..., 0]
    assert float(tf.reduce_mean(of_ones)) == pytest.approx(1.0, abs=0.02)                 # of 2 x 64 x 14 sums of some 3 draws: 4 standard errors
    assert len(np.unique(np.round(of_ones[0, :, 0], 4))) == 2                             # the first query sees itself alone: kept or not


def test_gradients_of_blocks_with_dropout_are_those_of_finite_differences(blocks_of_four):
    mask = Mask.in_blocks(tf.where(SEEN["segments"], 0.0, float("-inf"))[:, tf.newaxis], 14)
    seed, rng = tf.constant([5, 6, 0], tf.int64), np.random.default_rng(9)
    inputs = [tf.constant(rng.normal(size=[2, 2, 14, 4]), tf.float32) for _ in range(3)]
    towards = [tf.constant(rng.normal(size=[2, 2, 14, 4]), tf.float32) for _ in range(3)]
    upstream = tf.constant(rng.normal(size=[2, 2, 14, 4]), tf.float32)

    def value(step):
        moved = [one + step * other for one, other in zip(inputs, towards)]
        return float(tf.reduce_sum(tf.cast(attend(*moved, mask, seed, scale=0.5, rate=0.3)[0] * upstream, tf.float64)))

    _, *gradients = results(lambda *given: attend(*given, mask, seed, scale=0.5, rate=0.3)[0], inputs, upstream)

    slope = sum(float(tf.reduce_sum(gradient * direction)) for gradient, direction in zip(gradients, towards))
    assert slope == pytest.approx((value(1e-3) - value(-1e-3)) / 2e-3, rel=2e-3)          # float32 sums, and the step's square
