"""A block of TFGPT2 with its weights under their names, in the precision that is asked for, and with the attention it lacks.

The attention's mask is truly additive: a masked position gets -inf in float32, never -1e4, so nothing leaks in bf16 or in long contexts.
"""
from __future__ import annotations

import functools
import math
import zlib
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
import tf_keras
from transformers import GPT2Config
from transformers.modeling_tf_utils import TFConv1D
from transformers.models.gpt2.modeling_tf_gpt2 import TFMLP, TFAttention, TFBlock

from tfgpt.models import gpt1
from tfgpt.models.adaptation import Adaptation
from tfgpt.models.additions import LearnedKeys, LowRank
from tfgpt.models.compute import Compute
from tfgpt.models.cross_attention import CrossAttention
from tfgpt.models.dropout import Dropout, DropoutClock
from tfgpt.models.kernels import is_worth_remaking
from tfgpt.models.products import product, rows_of_last, shaped_as
from tfgpt.models.storing import forget

FIRST_NAMED_SALT = 2**16
"""Of the dropouts that are told apart by a name; those of the blocks themselves are numbered from 0."""


@dataclass(frozen=True)
class Shared:
    """What all layers of a model are made with."""

    config: GPT2Config
    adaptation: Adaptation
    compute: Compute
    clock: DropoutClock

    def projection(self, nf: int, nx: int, path: str) -> Projection:
        """Return a dense layer from `nx` to `nf`; its path, such as `h.0.attn.c_attn`, tells whether LoRA changes it."""
        return Projection(nf, nx, self.compute, self.low_rank(nx, nf, path), initializer_range=self.config.initializer_range, name=path.split(".")[-1])

    def low_rank(self, nx: int, nf: int, path: str) -> LowRank | None:
        """Return the change that LoRA makes to the matrix at a path, if it does."""
        rank, lora = self.adaptation.rank_of(path), self.adaptation.lora
        if not rank:
            return None
        return LowRank(nx, nf, rank, lora.alpha, self.dropout(lora.dropout, path))

    def dropout(self, rate: float, path: str) -> Dropout:
        """Return a dropout that is told apart from others by its path."""
        return Dropout(rate, self.clock, FIRST_NAMED_SALT + zlib.crc32(path.encode()) % FIRST_NAMED_SALT)


class Projection(TFConv1D):
    """TFGPT2's dense layer, in the precision of `Compute.products`, its matrix changed by LoRA if there is one."""

    def __init__(self, nf, nx, compute: Compute, lora: LowRank | None = None, **kwargs):
        super().__init__(nf, nx, autocast=False, **kwargs)
        self._compute, self._stored, self.lora = compute, None, lora

    def build(self, input_shape=None):
        """Make the weights."""
        super().build(input_shape)
        if self.lora is not None:
            with tf.name_scope(self.lora.name):
                self.lora.build()

    def merged(self, weight: np.ndarray) -> np.ndarray:
        """Return a weight, float32 [nx, nf], with the change that LoRA makes to it."""
        return np.asarray(weight) if self.lora is None else np.asarray(weight) + self.lora.change().numpy()

    def store(self, kind: type, weight: np.ndarray) -> None:
        """Keep a weight, float32 [nx, nf], as this kind of `tfgpt.models.stored` from now on, and no longer as a variable that can be trained."""
        self._stored = kind(self.merged(weight).T)
        forget(self, "weight")
        self.lora = None

    def call(self, x, training=False, again=None):
        """Return float [..., nf] of float [..., nx], in the precision of the product and without the bias.

        `again` makes `x` anew on the way back, so that it is not kept if it is large: for one that costs little beside the product.
        """
        if self._stored is not None:
            return self._stored.product(x)
        dtype, weight = self._compute.dtype(training, self.compute_dtype), tf.convert_to_tensor(self.weight)

        def rows(x):
            return rows_of_last(tf.cast(x, dtype))

        found = _product(rows(x), weight, again and (lambda: rows(again()))) if training else product(rows(x), weight)
        found = shaped_as(x, found)
        return found if self.lora is None else found + self.lora(tf.cast(x, dtype), training=training)


def _product(x, weight, again=None):
    """Return `x` [rows, nx] times `weight` [nx, nf] in the dtype of `x`.

    A copy of the weight in that dtype is made anew on the way back, and not kept, and so is a large `x` if it can be made `again`. The weight's gradient
    stays in that dtype: a wide copy would tell no more.
    """
    @tf.custom_gradient
    def run(x, weight):
        def gradient(upstream):
            with tf.control_dependencies([upstream]):
                of_x, kept = product(upstream, weight, transpose_b=True), again() if again and is_worth_remaking(x) else x
            return of_x, product(kept, upstream, transpose_a=True)

        return product(x, weight), gradient

    return run(x, weight)


class GPTAttention(TFAttention):
    """TFGPT2's self-attention with its weights, under a complete additive mask and with an optional static cache.

    Heads may be missing (pruned). What a head finds is multiplied by its gate: `gates` is `None`, or float [heads] or [batch, heads].
    """

    def __init__(self, shared: Shared, block: int, path: str, **kwargs):
        config, adaptation = shared.config, shared.adaptation
        super().__init__(config.n_embd, config, scale=True, autocast=False, **kwargs)
        self.head_width = config.n_embd // config.n_head
        self.n_head = len(adaptation.heads_of(block, config.n_head))
        self.split_size, self.gates = self.n_head * self.head_width, adaptation.gates_of(block, config.n_head)
        self.c_attn = shared.projection(3 * self.split_size, config.n_embd, f"{path}.c_attn")
        self.c_proj = shared.projection(config.n_embd, self.split_size, f"{path}.c_proj")
        prefix = adaptation.prefix
        self.prefix = LearnedKeys(self.n_head, prefix.tokens, self.head_width) if prefix.tokens and prefix.kind == "prefix" else None
        self._compute, self._dropout = shared.compute, Dropout(config.attn_pdrop, shared.clock, salt=3 * block + 1)

    def build(self, input_shape=None):
        """Make the weights."""
        super().build(input_shape)
        if self.prefix is not None:
            with tf.name_scope(self.prefix.name):
                self.prefix.build()

    def call(self, x, layer_past, attention_mask, use_cache=False, output_attentions=False, training=False, before=None, again=None, shape=None):
        """Attend to the tokens of `x` and of the past.

        Args:
            x: float [batch, queries, width], or [batch * queries, width] where `shape` says what that is cut from; normalized.
            layer_past: `None`; TFGPT2's growing past, float [2, batch, heads, past, head width]; or a tuple (keys, values, written) of one
                layer of a `StaticCache` and a function that writes those of the queries into either, or of a `Prefix` and `None`.
            attention_mask: which of all keys each query sees, a `tfgpt.models.attention.Mask`.
            use_cache: whether to give keys and values back.
            output_attentions: whether to give the attention weights back.
            training: whether dropout is on.
            before: keys and values, [1, heads, tokens, head width], that stand before all others and are not given back; the mask knows them.
            again: makes `x` anew, as for `Projection`.
            shape: int32 [3], batch, queries and width; `None` = those of `x`.

        Returns:
            What is to be added to the residual stream beside the bias of `c_proj`, float, as `x`; keys and values; the weights, `None` if not asked for.
        """
        batch, queries, _ = tf.unstack(tf.shape(x) if shape is None else shape)
        work = self._compute.elementwise(training)
        parts = work["add_bias"](self.c_attn(x, training=training, again=again), self.c_attn.bias)
        parts = tf.reshape(parts, [batch, queries, 3, self.n_head, self.head_width])
        query, key, value = tf.unstack(tf.transpose(parts, [2, 0, 3, 1, 4]))             # [batch, heads, queries, head width]
        present = None
        if isinstance(layer_past, tuple):
            cached_keys, cached_values, written = layer_past                              # [batch, heads, slots, head width]
            key, value = tf.cast(key, cached_keys.dtype), tf.cast(value, cached_values.dtype)
            if written is None:
                present = (key, value)
                key, value = tf.concat([cached_keys, key], axis=2), tf.concat([cached_values, value], axis=2)
            else:
                key, value = present = written(cached_keys, key), written(cached_values, value)
        else:
            if layer_past is not None:
                past_key, past_value = tf.unstack(layer_past, axis=0, num=2)
                key = tf.concat([past_key, key], axis=-2)
                value = tf.concat([past_value, value], axis=-2)
            if use_cache:
                present = tf.stack([key, value], axis=0)
        if before is not None:
            key, value = (tf.concat([_for_rows(one, all_), all_], axis=2) for one, all_ in zip(before, (key, value)))
        rate, seed = self._dropout.draw(training)
        attended, weights = work["attend"](query, key, value, attention_mask, seed, scale=1.0 / math.sqrt(self.head_width), rate=rate,
                                           give_weights=output_attentions)               # [batch, heads, queries, head width]
        if self.gates is not None:
            attended *= tf.cast(self.gates, attended.dtype)[..., tf.newaxis, tf.newaxis]

        def joined():
            found = tf.transpose(attended, [0, 2, 1, 3])
            return tf.reshape(found, [batch, queries, self.split_size] if shape is None else [-1, self.split_size])

        return self.c_proj(joined(), training=training, again=self._compute.again(training, joined)), present, weights


def _for_rows(before, behind):
    """Return keys or values, [1, heads, tokens, head width], for each row of those that stand behind them."""
    return tf.tile(tf.cast(before, behind.dtype), [tf.shape(behind)[0], 1, 1, 1])


class GPTMLP(TFMLP):
    """TFGPT2's two dense layers with an activation between them."""

    def __init__(self, shared: Shared, path: str, **kwargs):
        config = shared.config
        inner = config.n_inner or 4 * config.n_embd
        super().__init__(inner, config, autocast=False, **kwargs)
        self.c_fc = shared.projection(inner, config.n_embd, f"{path}.c_fc")
        self.c_proj = shared.projection(config.n_embd, inner, f"{path}.c_proj")
        self._compute, self._is_gelu = shared.compute, config.activation_function in ("gelu_new", "gelu_pytorch_tanh")

    def call(self, x, training=False, again=None):
        """Return what is to be added to the residual stream beside the bias of `c_proj`, float [..., width]; `again` as for `Projection`."""
        work = self._compute.elementwise(training)
        inner = self.c_fc(x, training=training, again=again)
        if self._is_gelu:
            activated = functools.partial(work["bias_gelu"], inner, self.c_fc.bias)
            return self.c_proj(activated(), training=training, again=self._compute.again(training, activated))
        return self.c_proj(self.act(work["add_bias"](inner, self.c_fc.bias)), training=training)


class Bottleneck(tf_keras.layers.Layer):
    """Two dense layers with a narrow middle, added to what attention or MLP found (Houlsby et al. 2019)."""

    def __init__(self, shared: Shared, path: str):
        super().__init__(name=path.split(".")[-1])
        width, narrow = shared.config.n_embd, shared.adaptation.bottleneck.width
        self._compute = shared.compute
        self.down, self.up = shared.projection(narrow, width, f"{path}.down"), shared.projection(width, narrow, f"{path}.up")

    def build(self, input_shape=None):
        """Make the weights; `up` is 0, so that nothing changes at first."""
        if self.built:
            return
        self.built = True
        for layer in (self.down, self.up):
            with tf.name_scope(layer.name):
                layer.build(None)

    def call(self, found, bias, training=False):
        """Return `found` [batch, queries, width], to which its bias [1, width] is still to be added, with what the layers add to the sum of both."""
        work = self._compute.elementwise(training)
        inner = work["bias_gelu"](self.down(work["add_bias"](found, bias), training=training), self.down.bias)
        return found + tf.cast(work["add_bias"](self.up(inner, training=training), self.up.bias), found.dtype)


class GPTBlock(TFBlock):
    """TFGPT2's block: attention and MLP, each on a norm of the residual stream and added to it; or GPT-1's, which norms each sum instead."""

    def __init__(self, shared: Shared, number: int, path: str, **kwargs):
        config, bottleneck = shared.config, shared.adaptation.bottleneck
        super().__init__(config, scale=True, **kwargs)
        self._dropouts = tuple(Dropout(config.resid_pdrop, shared.clock, salt=3 * number + place) for place in (2, 3))
        self.attn = GPTAttention(shared, number, f"{path}.attn", name="attn")
        self.mlp = GPTMLP(shared, f"{path}.mlp", name="mlp")
        self.bottlenecks = {
            place: Bottleneck(shared, f"{path}.bottleneck_{place}") for place in ("attn", "mlp") if bottleneck.width and place in bottleneck.places
        }
        self._compute, self._epsilon, self._is_gpt1 = shared.compute, config.layer_norm_epsilon, gpt1.is_gpt1(config)
        if config.add_cross_attention:
            self.crossattention = CrossAttention(shared, f"{path}.crossattention", name="crossattention")

    def build(self, input_shape=None):
        """Make the weights."""
        super().build(input_shape)
        for layer in self.bottlenecks.values():
            with tf.name_scope(layer.name):
                layer.build()

    @property
    def projections(self) -> list[Projection]:
        """Its dense layers."""
        narrow = [layer for pair in self.bottlenecks.values() for layer in (pair.down, pair.up)]
        across = self.crossattention.projections if hasattr(self, "crossattention") else []
        return [self.attn.c_attn, self.attn.c_proj, self.mlp.c_fc, self.mlp.c_proj, *across, *narrow]

    def call(self, x, layer_past, attention_mask, use_cache=False, output_attentions=False, training=False, before=None, source=None, shape=None):
        """Return the residual stream behind the block, float, as `x`, and what else `GPTAttention` gives, which `shape` is for.

        `source` is a tuple (keys, values, mask) for its `CrossAttention`, which is left out without one.
        """
        if not training and source is None and shape is None:  # without the shapes between its products there are fewer operations
            shape = tf.shape(x)
            x, *others = self.call(rows_of_last(x), layer_past, attention_mask, use_cache, output_attentions, before=before, shape=shape)
            return tf.reshape(x, shape), *others
        work = self._compute.elementwise(training)
        norm = {"epsilon": self._epsilon, "dtype": x.dtype if self._is_gpt1 else self._compute.dtype(training, self.compute_dtype)}
        (rate, first_seed), (_, second_seed) = (dropout.draw(training) for dropout in self._dropouts)
        first = functools.partial(work["norm"], x, self.ln_1.gamma, self.ln_1.beta, **norm)
        attended, present, weights = self.attn(x if self._is_gpt1 else first(), layer_past, attention_mask, use_cache, output_attentions, training=training,
                                               before=before, again=self._again(training, first), shape=shape)
        attended, bias = self._narrowed("attn", attended, self.attn.c_proj.bias, training), self.attn.c_proj.bias
        if source is not None:
            x, normed = work["add_norm"](x, attended, bias, self.ln_cross_attn.gamma, self.ln_cross_attn.beta, first_seed, rate=rate, **norm)
            attended, bias = self.crossattention(normed, *source, training=training), self.crossattention.c_proj.bias
            _, first_seed = self.crossattention.residual_dropout.draw(training)
        of_sum = self.ln_1 if self._is_gpt1 else self.ln_2
        x, normed = work["add_norm"](x, attended, bias, of_sum.gamma, of_sum.beta, first_seed, rate=rate, **norm)
        again = self._again(training, functools.partial(work["norm"], x, of_sum.gamma, of_sum.beta, **norm))
        inner = self._narrowed("mlp", self.mlp(normed, training=training, again=again), self.mlp.c_proj.bias, training)
        if self._is_gpt1:
            last = work["add_norm"](normed, inner, self.mlp.c_proj.bias, self.ln_2.gamma, self.ln_2.beta, second_seed, rate=rate, **norm)[1]
            return last, present, weights
        return work["add"](x, inner, self.mlp.c_proj.bias, second_seed, rate=rate), present, weights

    def _again(self, training, norm):
        return None if self._is_gpt1 else self._compute.again(training, norm)  # GPT-1's norms are the residual stream itself

    def _narrowed(self, place, found, bias, training):
        return self.bottlenecks[place](found, bias, training=training) if place in self.bottlenecks else found
