"""The work between the products: forward and backward by hand against TensorFlow's own gradients of the formula, in float64."""
import numpy as np
import pytest
import tensorflow as tf

from tests.models.gradients import ERRORS, assert_near, results
from tfgpt.models import kernels
from tfgpt.models.compute import COMPILED, PLAIN
from tfgpt.models.dropout import drop

EPSILON = 1e-5


@pytest.fixture
def everything_compiled(monkeypatch):
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)


@pytest.mark.parametrize("kind", [PLAIN, COMPILED], ids=["plain", "compiled"])
@pytest.mark.parametrize("dtype", ERRORS, ids=lambda dtype: dtype.name)
def test_norm_and_its_gradients(dtype, kind, everything_compiled):
    def formula(x, gamma, beta):
        mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
        return (x - mean) / tf.sqrt(variance + EPSILON) * gamma + beta

    rng = np.random.default_rng(1)
    inputs = [rng.normal(3.0, 2.0, [2, 7, 32]), rng.normal(size=[32]), rng.normal(size=[32])]
    upstream = tf.cast(rng.normal(size=[2, 7, 32]), dtype)
    found = results(lambda *given: kind["norm"](*given, epsilon=EPSILON, dtype=dtype), [tf.constant(array, tf.float32) for array in inputs], upstream)

    assert found[0].dtype == dtype and found[1].dtype == tf.float32
    assert_near(found, results(formula, [tf.constant(array) for array in inputs], upstream), ERRORS[dtype])


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("kind", [PLAIN, COMPILED], ids=["plain", "compiled"])
@pytest.mark.parametrize("dtype", ERRORS, ids=lambda dtype: dtype.name)
def test_a_normed_sum_and_its_gradients(dtype, kind, rate, everything_compiled):
    seed, rng = tf.constant([5, 6, 0], tf.int64), np.random.default_rng(4)
    kept = tf.cast(drop(tf.ones([2, 7, 32]), rate, seed), tf.float64)                    # the same mask, scaled up
    inputs = [tf.constant(rng.normal(size=shape), tf.float32) for shape in ([2, 7, 32], [2, 7, 32], [1, 32], [32], [32])]
    inputs[1], upstream = tf.cast(inputs[1], dtype), tf.constant(rng.normal(size=[2, 7, 64]), tf.float32)

    def mine(*given):
        total, normed = kind["add_norm"](*given, seed, rate=rate, epsilon=EPSILON, dtype=dtype)
        return tf.concat([total, tf.cast(normed, tf.float32)], axis=-1)

    def formula(x, y, bias, gamma, beta):
        total = x + (y + bias[0]) * kept
        mean, variance = tf.nn.moments(total, axes=[-1], keepdims=True)
        return tf.concat([total, (total - mean) / tf.sqrt(variance + EPSILON) * gamma + beta], axis=-1)

    found = results(mine, inputs, upstream)

    assert [one.dtype for one in found[1:]] == [given.dtype for given in inputs]
    assert_near(found, results(formula, [tf.cast(array, tf.float64) for array in inputs], upstream), ERRORS[dtype])


@pytest.mark.parametrize("kind", [PLAIN, COMPILED], ids=["plain", "compiled"])
def test_sums_with_biases_and_their_gradients(kind, everything_compiled):
    seed, rng = tf.zeros([3], tf.int64), np.random.default_rng(5)
    x, y, bias, upstream = (tf.constant(rng.normal(size=shape), tf.float32) for shape in ([2, 7, 32], [2, 7, 32], [1, 32], [2, 7, 32]))
    wide = [tf.cast(array, tf.float64) for array in (x, y, bias)]

    of_three = results(lambda *given: kind["add"](*given, seed, rate=0.0), [x, y, bias], upstream)
    of_two = results(kind["add_bias"], [x, bias], upstream)

    assert_near(of_three, results(lambda x, y, bias: x + y + bias, wide, upstream), ERRORS[tf.float32])
    assert_near(of_two, results(lambda x, bias: x + bias, [wide[0], wide[2]], upstream), ERRORS[tf.float32])


@pytest.mark.parametrize("kind", [PLAIN, COMPILED], ids=["plain", "compiled"])
@pytest.mark.parametrize("dtype", ERRORS, ids=lambda dtype: dtype.name)
def test_the_activation_and_its_gradients(dtype, kind, everything_compiled):
    rng = np.random.default_rng(7)
    x, bias, upstream = (tf.constant(2.0 * rng.normal(size=shape), tf.float32) for shape in ([2, 7, 32], [1, 32], [2, 7, 32]))
    x, upstream = tf.cast(x, dtype), tf.cast(upstream, dtype)

    found = results(kind["bias_gelu"], [x, bias], upstream)

    assert [one.dtype for one in found] == [dtype, dtype, tf.float32]
    wide = [tf.cast(given, tf.float64) for given in (x, bias)]
    assert_near(found, results(lambda x, bias: tf.nn.gelu(x + bias, approximate=True), wide, upstream), ERRORS[dtype])


def test_no_kernel_holds_a_part_that_two_threads_may_not_run_at_once():
    total = tf.function(lambda x: tf.reduce_sum(x, axis=0), jit_compile=True)

    assert "__ynn_fusion" not in total.experimental_get_compiler_ir(tf.ones([64, 512]))(stage="optimized_hlo")
