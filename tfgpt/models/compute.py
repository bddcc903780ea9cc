"""How a model computes: the precision of its products, and which form the work between them has."""
from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import tensorflow as tf

from tfgpt.models.attention import attend, attend_to_read
from tfgpt.models.elementwise import add, add_bias, add_norm, add_norm_to_read, bias_gelu, norm, norm_to_read
from tfgpt.models.kernels import Fuse, kernel

PLAIN = {function.__name__: function for function in (norm, add, add_norm, add_bias, bias_gelu, attend)}
COMPILED = {name: functools.partial(function, fused=kernel) for name, function in PLAIN.items()}
"""On two CPU cores the activation took 4 ms instead of 17, forward and backward, 8 x 256 tokens of width 1024; softmax's way back 0.7 instead of 4.0,
4 x 256 tokens of 12 heads; the way back of a sum and its norm 1.6 instead of 2.4, 4 x 256 of width 768."""
READING = PLAIN | {"norm": norm_to_read, "add_norm": add_norm_to_read, "attend": attend_to_read}
"""Outside of training: without dropout, and with TensorFlow's own way back, so that there are fewer operations in a graph that has none."""


@dataclass
class Compute:
    """How a model computes; one object that all its blocks share."""

    products: tf.DType | None = None
    """Of matrix products in training; `None` = that of the layers (Keras's policy), as anywhere else. Sums, norms and softmax are always float32."""
    compile_elementwise: bool = False
    """Whether in training the work between the products is compiled by XLA."""
    reading: dict = field(default_factory=lambda: READING)
    """The work between products, by name, outside of training."""
    recompute: bool = False
    """Whether in training each block keeps its input alone and computes the rest anew on the way back (activation checkpointing)."""

    def dtype(self, training: bool, of_layer: str) -> tf.DType:
        """Return what matrix products are computed in."""
        return self.products if training and self.products else tf.as_dtype(of_layer)

    def elementwise(self, training: bool) -> dict:
        """Return the functions of the work between products by name, compiled or not."""
        if not training:
            return self.reading
        return COMPILED if self.compile_elementwise else PLAIN

    def again(self, training: bool, function: Callable[[], tf.Tensor]) -> Callable[[], tf.Tensor] | None:
        """Return a function whose result, if large, is made anew on the way back; `None` = it is kept, as the steps of what is not compiled are."""
        return function if training and self.compile_elementwise else None

    def fused(self, training: bool) -> Fuse:
        """Return what makes one kernel of a function of tensors, if they are to be compiled."""
        return kernel if training and self.compile_elementwise else functools.partial
