"""From logits to the next token, row by row: filters, temperature, and a draw from given uniform numbers.

All in fp32, the draw in fp64. No random op here: a row's numbers come from its own seed, so its text does not depend on its neighbours.
"""
from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class Controls(NamedTuple):
    """How each row is continued; every field is [batch]."""

    max_new_tokens: tf.Tensor
    """int32; capped to what fits the context."""
    temperature: tf.Tensor
    """float32; 0 or less = greedy."""
    top_k: tf.Tensor
    """int32; 0 or less = off."""
    top_p: tf.Tensor
    """float32; 1 or more = off."""
    repetition_penalty: tf.Tensor
    """float32; 1 = off, and so is 0 or less."""
    seed: tf.Tensor
    """int64."""


def uniform_numbers(seeds: tf.Tensor, count: int) -> tf.Tensor:
    """Return float32 [batch, count] in [0, 1), each row drawn from its own seed, int64 [batch].

    Always ask for the same `count`: the generator promises nothing for another one.
    """
    return tf.map_fn(lambda seed: tf.random.stateless_uniform([count], seed=tf.stack([seed, 0])), seeds, fn_output_signature=tf.float32)


def choose(logits: tf.Tensor, seen: tf.Tensor, controls: Controls, uniform: tf.Tensor) -> tf.Tensor:
    """Choose each row's next token.

    Args:
        logits: float [batch, vocab].
        seen: bool [batch, vocab], the tokens of the row so far, for the repetition penalty.
        controls: of each row.
        uniform: float32 [batch], in [0, 1).

    Returns:
        int32 [batch].
    """
    logits = tf.cast(logits, tf.float32)
    penalized = (controls.repetition_penalty != 1.0) & (controls.repetition_penalty > 0.0)
    penalty = tf.where(penalized, controls.repetition_penalty, 1.0)
    logits = tf.cond(tf.reduce_any(penalized), lambda: penalize(logits, seen, penalty), lambda: logits)
    greedy = tf.argmax(logits, axis=-1, output_type=tf.int32)
    sampled = controls.temperature > 0.0
    return tf.cond(tf.reduce_any(sampled), lambda: tf.where(sampled, _sample(logits, controls, uniform), greedy), lambda: greedy)


def penalize(logits: tf.Tensor, seen: tf.Tensor, penalty: tf.Tensor) -> tf.Tensor:
    """Lower the logits of tokens already seen: divide positive ones by the penalty, multiply negative ones.

    Source: Keskar et al. 2019, "CTRL", section 4.1, as transformers computes it.

    >>> penalize(tf.constant([[2.0, -2.0, 2.0]]), tf.constant([[True, True, False]]), tf.constant([2.0])).numpy()
    array([[ 1., -4.,  2.]], dtype=float32)
    """
    penalty = penalty[:, tf.newaxis]
    return tf.where(seen, tf.where(logits > 0, logits / penalty, logits * penalty), logits)


def filter_top_k(logits: tf.Tensor, top_k: tf.Tensor) -> tf.Tensor:
    """Set all but each row's `top_k` highest logits to -inf; of equal ones the lower ids stay.

    Args:
        logits: float32 [batch, vocab].
        top_k: int32 [batch]; 0 or less keeps every token.

    >>> filter_top_k(tf.constant([[1.0, 3.0, 2.0]]), tf.constant([2])).numpy()
    array([[-inf,   3.,   2.]], dtype=float32)
    """
    top_k = top_k[:, tf.newaxis]
    return tf.where((_ranks(logits) < top_k) | (top_k <= 0), logits, float("-inf"))


def filter_top_p(logits: tf.Tensor, top_p: tf.Tensor) -> tf.Tensor:
    """Set the logits outside each row's nucleus to -inf.

    The nucleus is the fewest tokens whose probabilities reach `top_p`; the likeliest token is always in it.

    Args:
        logits: float32 [batch, vocab], already divided by the temperature.
        top_p: float32 [batch]; 1 or more keeps every token.

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration" (nucleus sampling).

    >>> filter_top_p(tf.math.log([[0.5, 0.3, 0.2]]), tf.constant([0.7])).numpy().round(2)
    array([[-0.69, -1.2 ,  -inf]], dtype=float32)
    """
    ranks = _ranks(logits)
    falling = tf.sort(tf.nn.softmax(logits), direction="DESCENDING")                     # [batch, vocab]
    reached_before = tf.cumsum(falling, axis=-1, exclusive=True) < top_p[:, tf.newaxis]
    kept = tf.maximum(tf.reduce_sum(tf.cast(reached_before, tf.int32), axis=-1, keepdims=True), 1)
    return tf.where((ranks < kept) | (top_p[:, tf.newaxis] >= 1.0), logits, float("-inf"))


def _sample(logits, controls, uniform):
    logits /= tf.where(controls.temperature > 0.0, controls.temperature, 1.0)[:, tf.newaxis]
    logits = tf.cond(tf.reduce_any(controls.top_k > 0), lambda: filter_top_k(logits, controls.top_k), lambda: logits)
    logits = tf.cond(tf.reduce_any(controls.top_p < 1.0), lambda: filter_top_p(logits, controls.top_p), lambda: logits)
    # Inverse of the distribution function: one number a row, and a token without probability can never be hit.
    reached = tf.cumsum(tf.cast(tf.nn.softmax(logits), tf.float64), axis=-1)             # [batch, vocab]
    target = tf.cast(uniform, tf.float64)[:, tf.newaxis] * reached[:, -1:]
    return tf.reduce_sum(tf.cast(reached <= target, tf.int32), axis=-1)


def _ranks(logits):
    """Return the place of each token in the order of falling logits, int32 [batch, vocab]; of equal ones the lower id comes first."""
    order = tf.argsort(logits, axis=-1, direction="DESCENDING", stable=True)
    return tf.argsort(order, axis=-1, stable=True)
