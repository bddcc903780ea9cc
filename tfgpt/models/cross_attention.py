"""Attention to what an encoder has read, under the names of PyTorch's and TensorFlow's GPT-2.

Its last matrix begins at 0, so that a model which gets an encoder does at first what it did without.
"""
from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import tensorflow as tf
from transformers.models.gpt2.modeling_tf_gpt2 import TFAttention

if TYPE_CHECKING:
    from tfgpt.models.block import Projection, Shared


class Encoded(NamedTuple):
    """Sources as an encoder has read them."""

    states: tf.Tensor
    """float [batch, places, width]."""
    seen: tf.Tensor
    """bool [batch, places], which places are seen; or [batch, queries, places], by which query. Every query sees one at least."""


class SourceKeys(NamedTuple):
    """Keys and values of sources, which are made once, however many tokens are then written."""

    keys: tuple[tf.Tensor, ...]
    """One a layer, [batch, heads, places, head width]."""
    values: tuple[tf.Tensor, ...]
    """One a layer, [batch, heads, places, head width]."""
    seen: tf.Tensor
    """bool [batch, places]."""


class CrossAttention(TFAttention):
    """TFGPT2's attention to an encoder's states, with its weights; all its heads are always there."""

    def __init__(self, shared: Shared, path: str, **kwargs):
        config = shared.config
        super().__init__(config.n_embd, config, scale=True, is_cross_attention=True, autocast=False, **kwargs)
        width = config.n_embd
        self.head_width = width // config.n_head
        self.c_attn = shared.projection(2 * width, width, f"{path}.c_attn")
        self.q_attn = shared.projection(width, width, f"{path}.q_attn")
        self.c_proj = shared.projection(width, width, f"{path}.c_proj")
        self.residual_dropout = shared.dropout(config.resid_pdrop, f"{path}.residual")
        self._compute, self._dropout = shared.compute, shared.dropout(config.attn_pdrop, path)

    @property
    def projections(self) -> list[Projection]:
        """Its dense layers."""
        return [self.c_attn, self.q_attn, self.c_proj]

    def read(self, states: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Return keys and values, [batch, heads, places, head width], of an encoder's states, float [batch, places, width]."""
        parts = self._compute.elementwise(training)["add_bias"](self.c_attn(states, training=training), self.c_attn.bias)
        return tuple(self._by_head(part) for part in tf.split(parts, 2, axis=-1))

    def call(self, x, keys, values, mask, training=False):
        """Attend to sources.

        Args:
            x: float [batch, queries, width], normalized.
            keys: of `read`.
            values: of `read`.
            mask: which places each query sees, a `tfgpt.models.attention.Mask`.
            training: whether dropout is on.

        Returns:
            What is to be added to the residual stream beside the bias of `c_proj`, float [batch, queries, width].
        """
        work = self._compute.elementwise(training)
        query = self._by_head(work["add_bias"](self.q_attn(x, training=training), self.q_attn.bias))
        rate, seed = self._dropout.draw(training)
        attended, _ = work["attend"](query, tf.cast(keys, query.dtype), tf.cast(values, query.dtype), mask, seed, scale=1.0 / math.sqrt(self.head_width),
                                     rate=rate)                                           # [batch, heads, queries, head width]
        attended = tf.reshape(tf.transpose(attended, [0, 2, 1, 3]), tf.concat([tf.shape(x)[:2], [self.split_size]], axis=0))
        return self.c_proj(attended, training=training)

    def _by_head(self, rows):
        """Return [batch, heads, places, head width] of [batch, places, width]."""
        rows = tf.reshape(rows, tf.concat([tf.shape(rows)[:2], [self.n_head, self.head_width]], axis=0))
        return tf.transpose(rows, [0, 2, 1, 3])
