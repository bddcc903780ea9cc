"""The work between a block's matrix products: norms, activations, sums. Always float32 inside, whatever comes in and goes out.

Each of these is a dozen small operations, and each operation reads and writes the whole tensor; `tfgpt.models.kernels` makes one of them.
"""
from __future__ import annotations

import functools
import math

import tensorflow as tf

from tfgpt.models.dropout import drop
from tfgpt.models.kernels import Fuse

SLOPE, CUBIC = math.sqrt(2.0 / math.pi), 0.044715
"""Of GELU's formula with tanh."""
SUMMED_IN_PARTS = 32
"""Of the rows of a tensor, where columns are summed."""


def norm(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *, epsilon: float, dtype: tf.DType, fused: Fuse = functools.partial) -> tf.Tensor:
    """Return layer-normalized `x` [..., width] in `dtype` (Ba et al. 2016, "Layer Normalization"); `fused` as for `add`."""
    @tf.custom_gradient
    def run(x, gamma, beta):
        normed, mean, scale = fused(_normalized, epsilon=epsilon, dtype=dtype)(x, gamma, beta)

        def gradient(upstream):
            with tf.control_dependencies([upstream]):  # else what is computed anew here is computed at once, and kept
                of_x, of_gamma, of_beta = fused(_of_normalized)(upstream, x, mean, scale, gamma)
            return of_x, _summed(of_gamma, gamma), _summed(of_beta, beta)

        return normed, gradient

    return run(x, gamma, beta)


def _normalized(x, gamma, beta, *, epsilon, dtype):
    """Return the norm of `x`, and its mean and the inverse of its standard deviation, [..., 1]."""
    mean = tf.reduce_mean(widened(x), axis=-1, keepdims=True)
    centered = widened(x) - mean
    scale = tf.math.rsqrt(tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True) + epsilon)
    return tf.cast(centered * (scale * widened(gamma)) + widened(beta), dtype), mean, scale


def _of_normalized(upstream, x, mean, scale, gamma):
    """Return the gradient of `x`, and of `gamma` and `beta` what `_part_sums` does."""
    wide, normal = widened(upstream), (widened(x) - mean) * scale
    of_normal = wide * widened(gamma)
    shared = normal * tf.reduce_mean(of_normal * normal, axis=-1, keepdims=True) + tf.reduce_mean(of_normal, axis=-1, keepdims=True)
    return tf.cast((of_normal - shared) * scale, x.dtype), _part_sums(wide * normal), _part_sums(wide)


def add(x: tf.Tensor, y: tf.Tensor, bias: tf.Tensor, seed: tf.Tensor, *, rate: float, fused: Fuse = functools.partial) -> tf.Tensor:
    """Return `x` plus the sum of `y` and its bias under dropout, in the dtype of `x`.

    Args:
        x: float [..., width].
        y: float, the same shape.
        bias: float [1, width].
        seed: int64 [3], of the dropout's mask (see `tfgpt.models.dropout.drop`); not looked at where the rate is 0.
        rate: share of the sum set to 0.
        fused: makes a function of tensors alone of a function and its settings.
    """
    if rate or fused is functools.partial:
        return tf.cast(widened(x) + drop(widened(y) + widened(bias), rate, seed), x.dtype)

    @tf.custom_gradient
    def run(x, y, bias):
        def gradient(upstream):
            return upstream, tf.cast(upstream, y.dtype), _of_bias(upstream, bias, fused)

        return fused(_sum)(x, y, bias), gradient

    return run(x, y, bias)


def add_norm(x: tf.Tensor, y: tf.Tensor, bias: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, seed: tf.Tensor, *, rate: float, epsilon: float,
             dtype: tf.DType, fused: Fuse = functools.partial) -> tuple[tf.Tensor, tf.Tensor]:
    """Return `add` of `x` and `y`, and its `norm`; `fused` as for `add`."""
    if rate or fused is functools.partial:
        total = add(x, y, bias, seed, rate=rate)
        return total, norm(total, gamma, beta, epsilon=epsilon, dtype=dtype, fused=fused)

    @tf.custom_gradient
    def run(x, y, bias, gamma, beta):
        total, normed, mean, scale = fused(_added_and_normalized, epsilon=epsilon, dtype=dtype)(x, y, bias, gamma, beta)

        def gradient(of_total, of_normed):
            with tf.control_dependencies([of_total, of_normed]):  # as in `norm`
                of_x, of_y, *of_others = fused(_of_added_and_normalized, dtype=y.dtype)(of_normed, of_total, total, mean, scale, gamma)
            return of_x, of_y, *map(_summed, of_others, (bias, gamma, beta))

        return (total, normed), gradient

    return run(x, y, bias, gamma, beta)


def _added_and_normalized(x, y, bias, gamma, beta, *, epsilon, dtype):
    total = _sum(x, y, bias)
    return total, *_normalized(total, gamma, beta, epsilon=epsilon, dtype=dtype)


def _of_added_and_normalized(of_normed, of_total, total, mean, scale, gamma, *, dtype):
    """Return the gradients of `x` and `y`, and of the bias, `gamma` and `beta` what `_part_sums` does."""
    of_sum, *of_others = _of_normalized(of_normed, total, mean, scale, gamma)
    of_sum += of_total
    return of_sum, tf.cast(of_sum, dtype), _part_sums(of_sum), *of_others


def add_bias(x: tf.Tensor, bias: tf.Tensor, *, fused: Fuse = functools.partial) -> tf.Tensor:
    """Return `x` [..., width] plus a bias [1, width], in the dtype of `x`; `fused` as for `add`."""
    if fused is functools.partial:
        return _sum(x, bias)

    @tf.custom_gradient
    def run(x, bias):
        return fused(_sum)(x, bias), lambda upstream: (upstream, _of_bias(upstream, bias, fused))

    return run(x, bias)


def _sum(x, *others):
    return tf.cast(sum(map(widened, others), widened(x)), x.dtype)


def _of_bias(upstream, bias, fused):
    return _summed(fused(_part_sums)(upstream), bias)


def _part_sums(x):
    """Return `x` [..., width] summed over parts of its rows, float32 [parts, width]; XLA sums all of them at once three times slower."""
    rows = x.shape[:-1].num_elements()
    return tf.reduce_sum(tf.reshape(widened(x), [math.gcd(rows, SUMMED_IN_PARTS) if rows else 1, -1, x.shape[-1]]), axis=1)


def _summed(parts, variable):
    """Return the sum of such parts as the gradient of a variable; without reshaping it, behind which replicas would join their all-reduces differently."""
    return tf.cast(tf.reduce_sum(parts, axis=0, keepdims=variable.shape.rank == 2), variable.dtype)


def bias_gelu(x: tf.Tensor, bias: tf.Tensor, *, fused: Fuse = functools.partial) -> tf.Tensor:
    """Return GELU of `x` plus a bias [1, width] by GPT-2's formula, with tanh; `fused` as for `add`.

    Source: Hendrycks & Gimpel 2016, "Gaussian Error Linear Units".
    """
    if fused is functools.partial:
        return _bias_gelu(x, bias)

    @tf.custom_gradient
    def run(x, bias):
        def gradient(upstream):
            with tf.control_dependencies([upstream]):  # as in `norm`
                of_x, of_bias = fused(_of_bias_gelu)(x, bias, upstream)
            return of_x, _summed(of_bias, bias)

        return fused(_bias_gelu)(x, bias), gradient

    return run(x, bias)


def _bias_gelu(x, bias):
    wide = widened(x) + widened(bias)
    return tf.cast(0.5 * wide * (1.0 + _gate(wide)), x.dtype)


def _of_bias_gelu(x, bias, upstream):
    """Return the gradient of `x`, and of the bias what `_part_sums` does."""
    wide = widened(x) + widened(bias)
    gate = _gate(wide)
    slope = SLOPE * (1.0 + 3.0 * CUBIC * wide * wide) * (1.0 - gate) * (1.0 + gate)  # exact near 1, as 1 - gate^2 is not
    of_sum = 0.5 * widened(upstream) * (1.0 + gate + wide * slope)
    return tf.cast(of_sum, x.dtype), _part_sums(of_sum)


def _gate(wide):
    return tf.tanh(SLOPE * (wide + CUBIC * wide * wide * wide))


def widened(x: tf.Tensor) -> tf.Tensor:
    """Return `x` in float32."""
    return tf.cast(x, tf.float32)


def norm_to_read(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *, epsilon: float, dtype: tf.DType) -> tf.Tensor:
    """Return `norm` with TensorFlow's own way back."""
    return _normalized(x, gamma, beta, epsilon=epsilon, dtype=dtype)[0]


def add_norm_to_read(x: tf.Tensor, y: tf.Tensor, bias: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, seed: tf.Tensor | None, *, rate: float, epsilon: float,
                     dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
    """Return `add_norm` with TensorFlow's own way back."""
    total = add(x, y, bias, seed, rate=rate)
    return total, norm_to_read(total, gamma, beta, epsilon=epsilon, dtype=dtype)
