"""A block of TFGPT2 with its weights under their names, in the precision that is asked for, and with the attention it lacks.

The attention's mask is truly additive: a masked position gets -inf in float32, never -1e4, so nothing leaks in bf16 or in long contexts.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import tensorflow as tf
from transformers.modeling_tf_utils import TFConv1D
from transformers.models.gpt2.modeling_tf_gpt2 import TFMLP, TFAttention, TFBlock

from tfgpt.models import elementwise
from tfgpt.models.dropout import Dropout, DropoutClock


@dataclass
class Compute:
    """How a model computes; one object that all its blocks share."""

    products: tf.DType | None = None
    """Of matrix products in training; `None` = that of the layers (Keras's policy), as anywhere else. Sums, norms and softmax are always float32."""
    compile_elementwise: bool = False
    """Whether in training the work between the products is compiled by XLA."""
    reading: dict = field(default_factory=lambda: elementwise.PLAIN)
    """The functions of `tfgpt.models.elementwise` by name, outside of training."""
    recompute: bool = False
    """Whether in training each block keeps its input alone and computes the rest anew on the way back (activation checkpointing)."""

    def dtype(self, training: bool, of_layer: str) -> tf.DType:
        """Return what matrix products are computed in."""
        return self.products if training and self.products else tf.as_dtype(of_layer)

    def elementwise(self, training: bool) -> dict:
        """Return the functions of `tfgpt.models.elementwise` by name, compiled or not."""
        if not training:
            return self.reading
        return elementwise.COMPILED if self.compile_elementwise else elementwise.PLAIN


class StaticCache(NamedTuple):
    """Keys and values of every layer, in tensors whose size never changes while decoding.

    Slot s holds the token at position s of its row, so prompts of different lengths are padded on the right and need no mask of
    their own: a query at position p sees slots 0 to p, and a pad's slot is overwritten before any query reaches it.
    """

    keys: tuple[tf.Tensor, ...]
    """One a layer, [batch, heads, slots, head width]."""
    values: tuple[tf.Tensor, ...]
    """One a layer, [batch, heads, slots, head width]."""


class Prefix(NamedTuple):
    """Keys and values of the tokens before those that are read, for a caller that keeps them itself: of what is read, its own come back alone.

    Slots may be empty, so `attention_mask` [batch, queries, slots + queries] says what each query sees.
    """

    keys: tuple[tf.Tensor, ...]
    """One a layer, [batch, heads, slots, head width]."""
    values: tuple[tf.Tensor, ...]
    """One a layer, [batch, heads, slots, head width]."""


class Projection(TFConv1D):
    """TFGPT2's dense layer, in the precision of `Compute.products`."""

    def __init__(self, nf, nx, compute: Compute, **kwargs):
        super().__init__(nf, nx, **kwargs)
        self._compute, self._stored = compute, None

    def store(self, kind: type) -> None:
        """Keep the weights as this kind of `tfgpt.models.stored` from now on, and no longer as a variable that can be trained."""
        self._stored = kind(tf.transpose(self.weight))
        del self.weight

    def call(self, x, training=False):
        """Return float [batch, queries, nf] of float [batch, queries, nx], in the precision of the product and without the bias."""
        if self._stored is not None:
            return self._stored.product(x)
        dtype = self._compute.dtype(training, self.compute_dtype)
        product = _product(tf.cast(tf.reshape(x, [-1, self.nx]), dtype), tf.convert_to_tensor(self.weight))
        return tf.reshape(product, tf.concat([tf.shape(x)[:-1], [self.nf]], axis=0))


@tf.custom_gradient
def _product(x, weight):
    """Return `x` [rows, nx] times `weight` [nx, nf] in the dtype of `x`; a copy of the weight in it is made anew on the way back, and not kept."""

    def gradient(upstream):
        with tf.control_dependencies([upstream]):
            typed = tf.cast(weight, x.dtype)
        return tf.matmul(upstream, typed, transpose_b=True), tf.cast(tf.matmul(x, upstream, transpose_a=True), weight.dtype)

    return tf.matmul(x, tf.cast(weight, x.dtype)), gradient


class GPTAttention(TFAttention):
    """TFGPT2's self-attention with its weights, under a complete additive mask and with an optional static cache."""

    def __init__(self, nx, config, compute: Compute, dropout: Dropout, **kwargs):
        super().__init__(nx, config, scale=True, **kwargs)
        self.c_attn = Projection(3 * nx, nx, compute, initializer_range=config.initializer_range, name="c_attn")
        self.c_proj = Projection(nx, nx, compute, initializer_range=config.initializer_range, name="c_proj")
        self._compute, self._dropout = compute, dropout

    def call(self, x, layer_past, attention_mask, use_cache=False, output_attentions=False, training=False):
        """Attend to the tokens of `x` and of the past.

        Args:
            x: float [batch, queries, width], normalized.
            layer_past: `None`; TFGPT2's growing past, float [2, batch, heads, past, head width]; or a tuple (keys, values, slots) of one
                layer of a `StaticCache` and int32 [batch, heads, queries, 3], the (row, head, slot) to write each query to, or of a `Prefix` and `None`.
            attention_mask: float32 [batch or 1, 1, queries, keys], 0 where a query sees a key and -inf elsewhere.
            use_cache: whether to give keys and values back.
            output_attentions: whether to give the attention weights back.
            training: whether dropout is on.

        Returns:
            What is to be added to the residual stream beside the bias of `c_proj`, float [batch, queries, width]; keys and values; the weights,
            `None` if not asked for.
        """
        batch, queries = tf.shape(x)[0], tf.shape(x)[1]
        head_width = self.embed_dim // self.n_head
        work = self._compute.elementwise(training)
        parts = tf.reshape(work["add_bias"](self.c_attn(x, training=training), self.c_attn.bias), [batch, queries, 3, self.n_head, head_width])
        query, key, value = tf.unstack(tf.transpose(parts, [2, 0, 3, 1, 4]))             # [batch, heads, queries, head width]
        present = None
        if isinstance(layer_past, tuple):
            cached_keys, cached_values, slots = layer_past                                # [batch, heads, slots, head width]
            key, value = tf.cast(key, cached_keys.dtype), tf.cast(value, cached_values.dtype)
            if slots is None:
                present = (key, value)
                key, value = tf.concat([cached_keys, key], axis=2), tf.concat([cached_values, value], axis=2)
            else:
                key = tf.tensor_scatter_nd_update(cached_keys, slots, key)
                value = tf.tensor_scatter_nd_update(cached_values, slots, value)
                present = (key, value)
        else:
            if layer_past is not None:
                past_key, past_value = tf.unstack(layer_past, axis=0, num=2)
                key = tf.concat([past_key, key], axis=-2)
                value = tf.concat([past_value, value], axis=-2)
            if use_cache:
                present = tf.stack([key, value], axis=0)
        scores = tf.matmul(query, key, transpose_b=True)                                 # [batch, heads, queries, keys]
        rate, seed = self._dropout.draw(training)
        weights = work["masked_softmax"](scores, attention_mask, seed, scale=1.0 / math.sqrt(head_width), rate=rate)
        attended = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])                 # [batch, queries, heads, head width]
        attended = self.c_proj(tf.reshape(attended, [batch, queries, self.embed_dim]), training=training)
        return attended, present, weights if output_attentions else None


class GPTMLP(TFMLP):
    """TFGPT2's two dense layers with an activation between them."""

    def __init__(self, n_state, config, compute: Compute, **kwargs):
        super().__init__(n_state, config, **kwargs)
        self.c_fc = Projection(n_state, config.n_embd, compute, initializer_range=config.initializer_range, name="c_fc")
        self.c_proj = Projection(config.n_embd, n_state, compute, initializer_range=config.initializer_range, name="c_proj")
        self._compute, self._is_gelu = compute, config.activation_function in ("gelu_new", "gelu_pytorch_tanh")

    def call(self, x, training=False):
        """Return what is to be added to the residual stream beside the bias of `c_proj`, float [batch, queries, width]."""
        work = self._compute.elementwise(training)
        inner = self.c_fc(x, training=training)
        if self._is_gelu:
            return self.c_proj(work["bias_gelu"](inner, self.c_fc.bias), training=training)
        return self.c_proj(self.act(work["add_bias"](inner, self.c_fc.bias)), training=training)


class GPTBlock(TFBlock):
    """TFGPT2's block: attention and MLP, each on a norm of the residual stream and added to it."""

    def __init__(self, config, compute: Compute, clock: DropoutClock, number: int, **kwargs):
        super().__init__(config, scale=True, **kwargs)
        attention_dropout, *self._dropouts = (
            Dropout(rate, clock, salt=3 * number + place) for place, rate in enumerate([config.attn_pdrop, config.resid_pdrop, config.resid_pdrop], 1)
        )
        self.attn = GPTAttention(config.n_embd, config, compute, attention_dropout, name="attn")
        self.mlp = GPTMLP(config.n_inner or 4 * config.n_embd, config, compute, name="mlp")
        self._compute, self._epsilon = compute, config.layer_norm_epsilon

    def call(self, x, layer_past, attention_mask, use_cache=False, output_attentions=False, training=False):
        """Return the residual stream behind the block, float [batch, queries, width], and what else `GPTAttention` gives."""
        work = self._compute.elementwise(training)
        norm = {"epsilon": self._epsilon, "dtype": self._compute.dtype(training, self.compute_dtype)}
        (rate, first_seed), (_, second_seed) = (dropout.draw(training) for dropout in self._dropouts)
        normed = work["norm"](x, self.ln_1.gamma, self.ln_1.beta, **norm)
        attended, present, weights = self.attn(normed, layer_past, attention_mask, use_cache, output_attentions, training=training)
        x, normed = work["add_norm"](x, attended, self.attn.c_proj.bias, self.ln_2.gamma, self.ln_2.beta, first_seed, rate=rate, **norm)
        x = work["add"](x, self.mlp(normed, training=training), self.mlp.c_proj.bias, second_seed, rate=rate)
        return x, present, weights
