"""The work between the products: forward and backward by hand against TensorFlow's own gradients of the formula, in float64."""
import numpy as np
import pytest
import tensorflow as tf

from tfgpt.models.dropout import drop
from tfgpt.models.elementwise import masked_softmax, norm

EPSILON = 1e-5
ERRORS = {tf.float32: 1e-5, tf.bfloat16: 2e-2, tf.float16: 3e-3}
"""Of the largest number: a few roundings of the dtype in which it goes in and comes out."""


def results(function, inputs, upstream):
    """Return what a function gives, and the gradients of its inputs."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        output = function(*inputs)
    return [output, *tape.gradient(output, inputs, output_gradients=tf.cast(upstream, output.dtype))]


def assert_near(found, expected, error):
    for one, other in zip(found, expected):
        one, other = tf.cast(one, tf.float64).numpy(), other.numpy()
        np.testing.assert_allclose(one, other, atol=error * np.abs(other).max())


@pytest.mark.parametrize("dtype", ERRORS, ids=lambda dtype: dtype.name)
def test_norm_and_its_gradients(dtype):
    def formula(x, gamma, beta):
        mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
        return (x - mean) / tf.sqrt(variance + EPSILON) * gamma + beta

    rng = np.random.default_rng(1)
    inputs = [rng.normal(3.0, 2.0, [2, 7, 32]), rng.normal(size=[32]), rng.normal(size=[32])]
    upstream = tf.cast(rng.normal(size=[2, 7, 32]), dtype)
    found = results(lambda *given: norm(*given, epsilon=EPSILON, dtype=dtype), [tf.constant(array, tf.float32) for array in inputs], upstream)

    assert found[0].dtype == dtype and found[1].dtype == tf.float32
    assert_near(found, results(formula, [tf.constant(array) for array in inputs], upstream), ERRORS[dtype])


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("dtype", ERRORS, ids=lambda dtype: dtype.name)
def test_masked_softmax_and_its_gradients(dtype, rate):
    seed, mask = tf.constant([5, 6, 0], tf.int64), tf.where(tf.linalg.band_part(tf.ones([1, 1, 9, 9]), -1, 0) > 0, 0.0, float("-inf"))
    kept = tf.cast(drop(tf.ones([2, 3, 9, 9]), rate, seed), tf.float64)                  # the same mask, scaled up
    rng = np.random.default_rng(2)
    scores, upstream = (tf.cast(rng.normal(size=[2, 3, 9, 9]) * 4, dtype) for _ in range(2))
    found = results(lambda given: masked_softmax(given, mask, seed, scale=0.5, rate=rate), [scores], upstream)
    expected = results(lambda given: tf.nn.softmax(given * 0.5 + tf.cast(mask, tf.float64)) * kept, [tf.cast(scores, tf.float64)], upstream)

    assert found[0].dtype == found[1].dtype == dtype
    assert not np.triu(found[0].numpy().astype(np.float32), k=1).any()
    assert_near(found, expected, ERRORS[dtype])
