"""Several small operations as one kernel of XLA."""
from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

WORTH_COMPILING = 2**15
"""Numbers of a tensor from which on one XLA kernel saves more than its start costs."""

Fuse = Callable[..., Callable]
"""Makes a function of tensors alone of a function and its settings."""


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
