"""The work between a block's matrix products: norms, activations, sums, softmax. Always float32 inside, whatever comes in and goes out.

Each of these is a dozen small operations, and each operation reads and writes the whole tensor; `compiled` makes one kernel of them.
"""
from __future__ import annotations

import functools
import math
from collections.abc import Callable

import tensorflow as tf

from tfgpt.models.dropout import drop
from tfgpt.models.products import product

WORTH_COMPILING = 2**18
"""Numbers of a tensor from which on one XLA kernel saves more than its start costs."""
SUMMED_IN_PARTS = 32
"""Of the rows of a tensor, where columns are summed."""

Fuse = Callable[..., Callable]
"""Makes a function of tensors alone of a function and its settings."""


def norm(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *, epsilon: float, dtype: tf.DType, fused: Fuse = functools.partial) -> tf.Tensor:
    """Return layer-normalized `x` [..., width] in `dtype` (Ba et al. 2016, "Layer Normalization"); `fused` as for `attend`."""
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
    mean = tf.reduce_mean(_wide(x), axis=-1, keepdims=True)
    centered = _wide(x) - mean
    scale = tf.math.rsqrt(tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True) + epsilon)
    return tf.cast(centered * (scale * _wide(gamma)) + _wide(beta), dtype), mean, scale


def _of_normalized(upstream, x, mean, scale, gamma):
    """Return the gradient of `x`, and of `gamma` and `beta` what `_part_sums` does."""
    wide, normal = _wide(upstream), (_wide(x) - mean) * scale
    of_normal = wide * _wide(gamma)
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
        fused: as for `attend`.
    """
    if rate or fused is functools.partial:
        return tf.cast(_wide(x) + drop(_wide(y) + _wide(bias), rate, seed), x.dtype)

    @tf.custom_gradient
    def run(x, y, bias):
        def gradient(upstream):
            return upstream, tf.cast(upstream, y.dtype), _of_bias(upstream, bias, fused)

        return fused(_sum)(x, y, bias), gradient

    return run(x, y, bias)


def add_norm(x: tf.Tensor, y: tf.Tensor, bias: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, seed: tf.Tensor, *, rate: float, epsilon: float,
             dtype: tf.DType, fused: Fuse = functools.partial) -> tuple[tf.Tensor, tf.Tensor]:
    """Return `add` of `x` and `y`, and its `norm`; `fused` as for `attend`."""
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
    """Return `x` [..., width] plus a bias [1, width], in the dtype of `x`; `fused` as for `attend`."""
    if fused is functools.partial:
        return _sum(x, bias)

    @tf.custom_gradient
    def run(x, bias):
        return fused(_sum)(x, bias), lambda upstream: (upstream, _of_bias(upstream, bias, fused))

    return run(x, bias)


def _sum(x, *others):
    return tf.cast(sum(map(_wide, others), _wide(x)), x.dtype)


def _of_bias(upstream, bias, fused):
    return _summed(fused(_part_sums)(upstream), bias)


def _part_sums(x):
    """Return `x` [..., width] summed over parts of its rows, float32 [parts, width]; XLA sums all of them at once three times slower."""
    rows = x.shape[:-1].num_elements()
    return tf.reduce_sum(tf.reshape(_wide(x), [math.gcd(rows, SUMMED_IN_PARTS) if rows else 1, -1, x.shape[-1]]), axis=1)


def _summed(parts, variable):
    """Return the sum of such parts as the gradient of a variable; without reshaping it, behind which replicas would join their all-reduces differently."""
    return tf.cast(tf.reduce_sum(parts, axis=0, keepdims=variable.shape.rank == 2), variable.dtype)


def bias_gelu(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Return GELU of `x` plus a bias [1, width] by GPT-2's formula, with tanh (Hendrycks & Gimpel 2016, "Gaussian Error Linear Units")."""
    wide = _wide(x) + _wide(bias)
    return tf.cast(0.5 * wide * (1.0 + tf.tanh(math.sqrt(2.0 / math.pi) * (wide + 0.044715 * wide * wide * wide))), x.dtype)


def attend(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor, *, scale: float, rate: float,
           give_weights: bool = False, fused: Fuse = functools.partial) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Return what each query finds, [batch, heads, queries, head width], and the attention weights under dropout, if asked for.

    On the way back the sum that softmax needs of each query's weights times their gradients is taken from what the query found times its gradient, which
    are as many numbers as a head is wide, and not as there are keys (Dao et al. 2022, "FlashAttention", appendix B.4).

    Args:
        query: float [batch, heads, queries, head width].
        key: the same dtype, [batch, heads, keys, head width].
        value: as the keys.
        mask: float32 [batch or 1, 1, queries, keys], 0 where a query sees a key and -inf elsewhere.
        seed: as in `add`.
        scale: the scores are multiplied by it.
        rate: share of the weights set to 0.
        give_weights: `None` comes back without.
        fused: makes a function of tensors alone of a function and its settings.
    """
    @tf.custom_gradient
    def run(query, key, value):
        attended, dropped, kept = _attended(query, key, value, mask, seed, scale=scale, rate=rate, fused=fused)

        def gradient(of_attended, *of_weights):
            with tf.control_dependencies([of_attended]):  # else wide copies are made at once, and kept
                shared = tf.reduce_sum(_wide(of_attended) * _wide(attended), axis=-1, keepdims=True)  # [batch, heads, queries, 1]
                of_dropped = product(of_attended, value, transpose_b=True)
                if give_weights:
                    of_dropped += of_weights[0]
                    shared += tf.reduce_sum(_wide(of_weights[0]) * _wide(dropped), axis=-1, keepdims=True)
                of_kept = drop(_wide(of_dropped), rate, seed) if rate else of_dropped
                of_scores = fused(_of_scores, scale=scale)(kept, of_kept, shared)
            return product(of_scores, key), product(of_scores, query, transpose_a=True), product(dropped, of_attended, transpose_a=True)

        return (attended, dropped) if give_weights else attended, gradient

    return run(query, key, value) if give_weights else (run(query, key, value), None)


def _attended(query, key, value, mask, seed, *, scale, rate, fused=functools.partial):
    """Return what each query finds, and the attention weights under dropout and without."""
    scores = product(query, key, transpose_b=True)                                        # [batch, heads, queries, keys]
    weights = tf.nn.softmax(fused(_masked, scale=scale)(scores, mask), axis=-1)
    kept = tf.cast(weights, scores.dtype)
    dropped = tf.cast(drop(weights, rate, seed), scores.dtype) if rate else kept
    return product(dropped, value), dropped, kept


def _masked(scores, mask, *, scale):
    return (_wide(scores) + mask) * scale  # first the mask: product, scale, mask would be fused into a kernel that took ten times as long


def _of_scores(weights, upstream, shared, *, scale):
    return tf.cast(_wide(weights) * ((_wide(upstream) - shared) * scale), weights.dtype)


def _wide(x):
    return tf.cast(x, tf.float32)


def compiled(function: Callable) -> Callable:
    """Return a function of tensors as one XLA kernel forward and one backward, which computes the forward anew and so keeps its inputs alone."""
    forward = tf.function(function, jit_compile=True)

    @tf.function(jit_compile=True)
    def backward(tensors, upstream):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            output = function(*tensors)
        return tape.gradient(output, tensors, output_gradients=upstream)

    @tf.custom_gradient
    def run(*tensors):
        return forward(*tensors), lambda upstream: backward(tensors, upstream)

    return lambda *tensors: run(*map(tf.convert_to_tensor, tensors))


def kernel(function, **settings):
    """Return a function with these settings as one XLA kernel; of small tensors as TensorFlow's operations."""
    plain = functools.partial(function, **settings)

    def run(*tensors):
        numbers = tensors[0].shape.num_elements()
        return (plain if numbers and numbers < WORTH_COMPILING else _compiled(function, **settings))(*tensors)

    return run


@functools.cache
def _compiled(function, **settings):
    return tf.function(functools.partial(function, **settings), jit_compile=True)


def _read_norm(x, gamma, beta, *, epsilon, dtype):
    return _normalized(x, gamma, beta, epsilon=epsilon, dtype=dtype)[0]


def _read_add_norm(x, y, bias, gamma, beta, seed, *, rate, epsilon, dtype):
    total = add(x, y, bias, seed, rate=rate)
    return total, _read_norm(total, gamma, beta, epsilon=epsilon, dtype=dtype)


def _read_attend(query, key, value, mask, seed, *, scale, rate, give_weights=False):
    attended, weights, _ = _attended(query, key, value, mask, seed, scale=scale, rate=rate)
    return attended, weights if give_weights else None


PLAIN = {function.__name__: function for function in (norm, add, add_norm, add_bias, bias_gelu, attend)}
COMPILED = {name: functools.partial(function, fused=kernel) for name, function in PLAIN.items() if function is not bias_gelu}
COMPILED["bias_gelu"] = compiled(bias_gelu)
"""On two CPU cores the activation took 4 ms instead of 17, forward and backward, 8 x 256 tokens of width 1024; softmax's way back 0.7 instead of 4.0,
4 x 256 tokens of 12 heads; the way back of a sum and its norm 1.6 instead of 2.4, 4 x 256 of width 768."""
READING = PLAIN | {"norm": _read_norm, "add_norm": _read_add_norm, "attend": _read_attend}
"""Outside of training: without dropout, and with TensorFlow's own way back, so that there are fewer operations in a graph that has none."""
