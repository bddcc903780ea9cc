"""The transformer of TFGPT2 with the attention it lacks: a true additive mask, segments, and a cache of fixed size.

Weights, their names and the outputs stay those of `transformers`; training, scoring and decoding all run this one forward pass.
A masked position gets -inf in fp32, never -1e4, so nothing leaks in bf16 or in long contexts.
"""
from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf
from transformers.modeling_tf_outputs import TFBaseModelOutputWithPastAndCrossAttentions
from transformers.modeling_tf_utils import unpack_inputs
from transformers.models.gpt2.modeling_tf_gpt2 import TFAttention, TFGPT2MainLayer

from tfgpt.models.dropout import DropoutClock, StatelessDropout


class StaticCache(NamedTuple):
    """Keys and values of every layer, in tensors whose size never changes while decoding.

    Slot s holds the token at position s of its row, so prompts of different lengths are padded on the right and need no mask of
    their own: a query at position p sees slots 0 to p, and a pad's slot is overwritten before any query reaches it.
    """

    keys: tuple[tf.Tensor, ...]
    """One a layer, [batch, heads, slots, head width]."""
    values: tuple[tf.Tensor, ...]
    """One a layer, [batch, heads, slots, head width]."""


def causal_mask(queries: int | tf.Tensor, keys: int | tf.Tensor) -> tf.Tensor:
    """Return bool [1, queries, keys]: which keys each query may see when the last query stands at the last key."""
    query = tf.range(keys - queries, keys)[:, tf.newaxis]  # [queries, 1]
    return (tf.range(keys)[tf.newaxis, :] <= query)[tf.newaxis]


def segment_mask(segment_ids: tf.Tensor) -> tf.Tensor:
    """Return bool [batch, length, length]: which positions each position sees in packed sequences.

    A position sees itself and the earlier ones of its own segment. Padding (segment 0) sees padding only, so no row of the mask is empty.

    >>> segment_mask(tf.constant([[1, 1, 2]]))[0].numpy().astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [0, 0, 1]])
    """
    length = tf.shape(segment_ids)[1]
    same = segment_ids[:, :, tf.newaxis] == segment_ids[:, tf.newaxis, :]  # [batch, length, length]
    return tf.logical_and(same, causal_mask(length, length))


class GPTAttention(TFAttention):
    """TFGPT2's self-attention with its weights, under a complete additive mask and with an optional static cache."""

    def call(self, x, layer_past, attention_mask, head_mask, encoder_hidden_states, encoder_attention_mask, use_cache,
             output_attentions, training=False):
        """Attend to the tokens of `x` and of the past.

        Args:
            x: float [batch, queries, width].
            layer_past: `None`; TFGPT2's growing past, float [2, batch, heads, past, head width]; or a tuple (keys, values, slots) of one
                layer of a `StaticCache` and int32 [batch, heads, queries, 3], the (row, head, slot) to write each query to.
            attention_mask: float32 [batch or 1, 1, queries, keys], 0 where a query sees a key and -inf elsewhere.
        """
        query, key, value = (self.split_heads(part) for part in tf.split(self.c_attn(x), 3, axis=2))  # [batch, heads, queries, head width]
        present = (None,)
        if isinstance(layer_past, tuple):
            cached_keys, cached_values, slots = layer_past
            key = tf.tensor_scatter_nd_update(cached_keys, slots, key)        # [batch, heads, slots, head width]
            value = tf.tensor_scatter_nd_update(cached_values, slots, value)
            present = (key, value)
        else:
            if layer_past is not None:
                past_key, past_value = tf.unstack(layer_past, axis=0, num=2)
                key = tf.concat([past_key, key], axis=-2)
                value = tf.concat([past_value, value], axis=-2)
            if use_cache:
                present = tf.stack([key, value], axis=0)
        attended, *weights = self._attn(query, key, value, attention_mask, head_mask, output_attentions, training=training)
        attended = self.resid_dropout(self.c_proj(self.merge_heads(attended)), training=training)  # [batch, queries, width]
        return [attended, present, *weights]

    def _attn(self, q, k, v, attention_mask, head_mask, output_attentions, training=False):
        scale = tf.math.rsqrt(tf.cast(tf.shape(q)[-1], tf.float32))
        scores = tf.matmul(q * tf.cast(scale, q.dtype), k, transpose_b=True)             # [batch, heads, queries, keys]
        weights = tf.nn.softmax(tf.cast(scores, tf.float32) + attention_mask, axis=-1)   # fp32 under any policy
        weights = self.attn_dropout(tf.cast(weights, v.dtype), training=training)
        attended = tf.matmul(weights, v)                                                 # [batch, heads, queries, head width]
        return [attended, weights] if output_attentions else [attended]


class GPTTransformer(TFGPT2MainLayer):
    """TFGPT2's main layer, whose `attention_mask` may also be [batch, queries, keys] and whose past may be a `StaticCache`."""

    def __init__(self, config, *inputs, **kwargs):
        super().__init__(config, *inputs, **kwargs)
        self.dropout_clock = clock = DropoutClock()
        self.drop = StatelessDropout(config.embd_pdrop, clock, salt=0)
        for number, block in enumerate(self.h):
            block.attn = GPTAttention(config.n_embd, config, scale=True, name="attn")
            block.attn.attn_dropout = StatelessDropout(config.attn_pdrop, clock, salt=3 * number + 1)
            block.attn.resid_dropout = StatelessDropout(config.resid_pdrop, clock, salt=3 * number + 2)
            block.mlp.dropout = StatelessDropout(config.resid_pdrop, clock, salt=3 * number + 3)

    @unpack_inputs
    def call(self, input_ids=None, past_key_values=None, attention_mask=None, token_type_ids=None, position_ids=None, head_mask=None,
             inputs_embeds=None, encoder_hidden_states=None, encoder_attention_mask=None, use_cache=None, output_attentions=None,
             output_hidden_states=None, return_dict=None, training=False):
        """Run the blocks; arguments and outputs are TFGPT2's, with these differences.

        Args:
            attention_mask: [batch, keys], nonzero where a key may be seen (TFGPT2's form); or [batch, queries, keys], which replaces
                the causal mask and must let every query see one key at least (see `segment_mask`).
            past_key_values: TFGPT2's tuple of tensors, or a `StaticCache`; with a cache, `position_ids` [batch, queries] says which slot
                each token is written to, and the returned `past_key_values` is the new `StaticCache`.

        Raises:
            ValueError: both or neither of `input_ids` and `inputs_embeds`; a head mask, or an encoder's states, which this model does not
                take; a `StaticCache` without `position_ids`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds, not both and not neither")
        if head_mask is not None or encoder_hidden_states is not None:
            raise ValueError("head_mask and encoder_hidden_states are not taken by this model; leave them out")
        if inputs_embeds is None:
            inputs_embeds = self.wte(input_ids)                                         # [batch, queries, width]
        batch, queries = tf.shape(inputs_embeds)[0], tf.shape(inputs_embeds)[1]
        pasts, past_length = self._split_past(past_key_values, position_ids, batch)
        if position_ids is None:
            position_ids = tf.range(past_length, past_length + queries)[tf.newaxis]     # [1, queries]
        mask = self._additive_mask(attention_mask, past_key_values, position_ids, queries, past_length)

        hidden = inputs_embeds + self.wpe(position_ids)
        if token_type_ids is not None:
            hidden += self.wte(token_type_ids)
        hidden = self.drop(hidden, training=training)                                   # [batch, queries, width]
        presents, hidden_states, attentions = [], [], []
        for block, past in zip(self.h, pasts):
            hidden_states.append(hidden)
            hidden, present, *weights = block(hidden, past, mask, None, None, None, use_cache, output_attentions, training=training)
            presents.append(present)
            attentions.extend(weights)
        hidden = self.ln_f(hidden)
        hidden_states.append(hidden)

        output = TFBaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden,
            past_key_values=_join_presents(presents, past_key_values, use_cache),
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )
        return output if return_dict else output.to_tuple()

    def _split_past(self, past, position_ids, batch):
        """Return what each block's attention gets, and the length of a growing past."""
        if past is None:
            return [None] * len(self.h), 0
        if not isinstance(past, StaticCache):
            return past, tf.shape(past[0])[-2]
        if position_ids is None:
            raise ValueError("a StaticCache needs position_ids [batch, queries]: they say which slot each token is written to")
        heads, queries = self.config.n_head, tf.shape(position_ids)[1]
        shape = [batch, heads, queries]
        row = tf.broadcast_to(tf.range(batch)[:, tf.newaxis, tf.newaxis], shape)
        head = tf.broadcast_to(tf.range(heads)[tf.newaxis, :, tf.newaxis], shape)
        slot = tf.broadcast_to(position_ids[:, tf.newaxis, :], shape)
        slots = tf.stack([row, head, slot], axis=-1)                                    # [batch, heads, queries, 3]
        return [(keys, values, slots) for keys, values in zip(past.keys, past.values)], 0

    def _additive_mask(self, attention_mask, past, position_ids, queries, past_length):
        """Return float32 [batch or 1, 1, queries, keys]: 0 where a query sees a key, -inf elsewhere."""
        if isinstance(past, StaticCache):
            slots = tf.range(tf.shape(past.keys[0])[2])
            seen = slots[tf.newaxis, tf.newaxis, :] <= position_ids[:, :, tf.newaxis]   # [batch, queries, slots]
        elif attention_mask is not None and len(attention_mask.shape) == 3:
            seen = tf.cast(attention_mask, tf.bool)
        else:
            seen = causal_mask(queries, past_length + queries)
            if attention_mask is not None:
                itself = tf.eye(queries, past_length + queries, dtype=tf.bool)          # a pad sees itself, so that no row is all -inf
                itself = tf.roll(itself, past_length, axis=1)[tf.newaxis]
                seen = tf.logical_and(seen, tf.cast(attention_mask, tf.bool)[:, tf.newaxis, :]) | itself
        return tf.where(seen, 0.0, float("-inf"))[:, tf.newaxis]


def _join_presents(presents, past, use_cache):
    if isinstance(past, StaticCache):
        keys, values = zip(*presents)
        return StaticCache(keys, values)
    return tuple(presents) if use_cache else None
