"""The loop that every way of writing runs in."""
from __future__ import annotations

import tensorflow as tf


def loop(more, body, start):
    """Run `tf.while_loop`, whose tensors may change what their static shapes say of them; a round begins when the one before is done.

    So nothing of a round is still read when the next one writes into a cache where it lies (see `GPTLMHeadModel.own_cache`).
    """
    shapes = tf.nest.map_structure(lambda tensor: tf.TensorShape([None] * tensor.shape.rank), start)
    return tf.while_loop(more, body, start, shape_invariants=shapes, parallel_iterations=1)
