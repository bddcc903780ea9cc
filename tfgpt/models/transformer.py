"""The transformer of TFGPT2 with masks for segments and a cache of fixed size.

Weights, their names and the outputs stay those of `transformers`; training, scoring and decoding all run this one forward pass.
"""
from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from transformers.modeling_tf_outputs import TFBaseModelOutputWithPastAndCrossAttentions
from transformers.modeling_tf_utils import unpack_inputs
from transformers.models.gpt2.modeling_tf_gpt2 import TFGPT2MainLayer

from tfgpt.models import gpt1
from tfgpt.models.adaptation import Adaptation
from tfgpt.models.additions import LearnedTokens
from tfgpt.models.attention import Mask
from tfgpt.models.block import GPTBlock, Shared
from tfgpt.models.cache import OwnCache, Prefix, StaticCache, written_in_a_copy, written_in_place
from tfgpt.models.compute import Compute
from tfgpt.models.cross_attention import Encoded, SourceKeys
from tfgpt.models.dropout import Dropout, DropoutClock
from tfgpt.models.stored import for_two_uses, rows_of


def causal_mask(queries: int | tf.Tensor, keys: int | tf.Tensor, window: int = 0) -> tf.Tensor:
    """Return bool [1, queries, keys]: which keys each query may see when the last query stands at the last key.

    Args:
        queries: how many.
        keys: how many.
        window: the most keys that a query sees, up to its own; 0 = all.
    """
    query, key = tf.range(keys - queries, keys)[:, tf.newaxis], tf.range(keys)[tf.newaxis, :]  # [queries, 1], [1, keys]
    return _within(window, key <= query, query - key)[tf.newaxis]


def _within(window, seen, distance):
    return tf.logical_and(seen, distance < window) if window else seen


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


def source_mask(segment_ids: tf.Tensor, source_segment_ids: tf.Tensor) -> tf.Tensor:
    """Return bool [batch, length, places]: which places of the sources each position sees, those of its segment's number.

    Padding (segment 0) sees everything, so that no row of the mask is empty.

    >>> source_mask(tf.constant([[1, 2, 0]]), tf.constant([[1, 1, 2]]))[0].numpy().astype(int)
    array([[1, 1, 0],
           [0, 0, 1],
           [1, 1, 1]])
    """
    position = segment_ids[:, :, tf.newaxis]
    return tf.logical_or(position == source_segment_ids[:, tf.newaxis, :], position == 0)


class GPTTransformer(TFGPT2MainLayer):
    """TFGPT2's main layer, whose `attention_mask` may also be [batch, queries, keys] and whose past may be a `StaticCache`."""

    def __init__(self, config, *inputs, **kwargs):
        super().__init__(config, *inputs, **kwargs)
        self.dropout_clock, self.compute = DropoutClock(), Compute()
        self.stored_table, self._uses, adaptation = None, None, Adaptation.of(config)
        if gpt1.is_gpt1(config):
            self.ln_f = None
        shared = Shared(config, adaptation, self.compute, self.dropout_clock)
        self.drop = Dropout(config.embd_pdrop, self.dropout_clock, salt=0)
        self.h = [GPTBlock(shared, number, f"h.{number}", name=f"h_._{number}") for number in range(config.n_layer)]
        self.wte_lora = shared.low_rank(config.vocab_size, config.n_embd, "wte")
        self._window, prefix = adaptation.window, adaptation.prefix
        self._first_tokens = prefix.tokens
        self.prompt = LearnedTokens(prefix.tokens, config.n_embd) if prefix.tokens and prefix.kind == "prompt" else None

    def build(self, input_shape=None):
        """Make the weights."""
        super().build(input_shape)
        for name, layer in (("wte/lora", self.wte_lora), ("prompt", self.prompt)):
            if layer is not None:
                with tf.name_scope(name):
                    layer.build()

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs) -> dict:
        """Return what is saved with this layer: in a SavedModel, whose functions read it, the place of the dropouts too."""
        children = super()._trackable_children(save_type, **kwargs)
        return {**children, "dropout_place": self.dropout_clock.place} if save_type == "savedmodel" else children

    def embed(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the embeddings of tokens, float [..., width]."""
        if self.stored_table is not None:
            return self.stored_table.rows(ids)
        rows = tf.cast(rows_of(self._uses[0] if self._uses else self.wte.embeddings, ids), self.compute_dtype)
        return rows if self.wte_lora is None else rows + self.wte_lora.rows(ids)

    def table(self) -> tf.Tensor:
        """Return the embeddings of all tokens, float32 [vocab, width]."""
        if self._uses:
            return self._uses[1]
        return tf.convert_to_tensor(self.wte.embeddings) if self.wte_lora is None else self.wte.embeddings + self.wte_lora.change()

    def merged(self, embeddings: np.ndarray) -> np.ndarray:
        """Return the embeddings of all tokens, float32 [vocab, width], with the change that LoRA makes to them."""
        return embeddings if self.wte_lora is None else np.asarray(embeddings) + self.wte_lora.change().numpy()

    @contextlib.contextmanager
    def one_gradient(self, in_xla: bool) -> Iterator[None]:
        """Within it, the gradients of `embed` and `table` are added in place (see `tfgpt.models.stored.for_two_uses`); both must be called.

        Args:
            in_xla: whether the whole step is compiled.
        """
        if self.stored_table is None and self.wte_lora is None:
            self._uses = for_two_uses(tf.convert_to_tensor(self.wte.embeddings), in_xla)
        try:
            yield
        finally:
            self._uses = None

    def first_keys(self, training: bool = False) -> list[tuple[tf.Tensor, tf.Tensor] | None]:
        """Return for each block the keys and values, [1, heads, tokens, head width], that stand before every text; `None` where there are none."""
        if self.prompt is None:
            return [None if block.attn.prefix is None else block.attn.prefix(self.compute_dtype) for block in self.h]
        hidden, mask, found = self.prompt.embeddings[tf.newaxis], Mask(_additive(causal_mask(self._first_tokens, self._first_tokens))), []
        for block in self.h:
            hidden, present, _ = block(hidden, None, mask, use_cache=True, training=training)
            found.append(tuple(tf.unstack(present)))
        return found

    @unpack_inputs
    def call(self, input_ids=None, past_key_values=None, attention_mask=None, token_type_ids=None, position_ids=None, head_mask=None,
             inputs_embeds=None, encoder_hidden_states=None, encoder_attention_mask=None, use_cache=None, output_attentions=None,
             output_hidden_states=None, return_dict=None, training=False, in_blocks=False):
        """Run the blocks; arguments and outputs are TFGPT2's, with these differences.

        Args:
            attention_mask: [batch, keys], nonzero where a key may be seen (TFGPT2's form); or [batch, queries, keys], which replaces
                the causal mask and must let every query see one key at least (see `segment_mask`).
            past_key_values: TFGPT2's tuple of tensors; or a `StaticCache`, where `position_ids` [batch, queries] says which slot each token is
                written to, and the returned `past_key_values` is the new `StaticCache`; or a `Prefix`, and that of these tokens comes back.
            encoder_hidden_states: float [batch, places, width], for a model with cross-attention; without them, and without a `StaticCache` that
                knows a source, cross-attention is left out, as in PyTorch's GPT-2.
            encoder_attention_mask: [batch, places] or [batch, queries, places], nonzero where a place is seen; `None` = everywhere.
            in_blocks: whether many queries are looked at in blocks (see `tfgpt.models.attention`), whose keys' number XLA would want to know beforehand.

        Raises:
            ValueError: both or neither of `input_ids` and `inputs_embeds`; a head mask, which this model does not take; an encoder's states
                for a model without cross-attention; a `StaticCache` without `position_ids`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds, not both and not neither")
        if head_mask is not None:
            raise ValueError("head_mask is not taken by this model; leave it out")
        if encoder_hidden_states is not None and not self.config.add_cross_attention:
            raise ValueError("encoder_hidden_states: this model has no cross-attention; give it an encoder (tfgpt.models.surgery.add_encoder)")
        if inputs_embeds is None:
            inputs_embeds = self.embed(input_ids)                                       # [batch, queries, width]
        batch, queries = tf.shape(inputs_embeds)[0], tf.shape(inputs_embeds)[1]
        pasts, past_length = self._split_past(past_key_values, position_ids, batch)
        if position_ids is None:
            position_ids = tf.range(past_length, past_length + queries)[tf.newaxis]     # [1, queries]
        additive = self._additive_mask(attention_mask, past_key_values, position_ids, queries, past_length)
        mask = Mask.in_blocks(additive, inputs_embeds.shape[1]) if in_blocks else Mask(additive)

        hidden = inputs_embeds + self.wpe(position_ids)
        if token_type_ids is not None:
            hidden += self.embed(token_type_ids)
        hidden = self.drop(hidden, training=training)                                   # [batch, queries, width]
        source = _source_of(past_key_values, encoder_hidden_states, encoder_attention_mask)
        presents, hidden_states, attentions = [], [], []
        for number, (block, past, before) in enumerate(zip(self.h, pasts, self.first_keys(training))):
            hidden_states.append(hidden)
            if training and self.compute.recompute:
                hidden = _recomputed(block, hidden, mask, before, source, self.dropout_clock)
                continue
            of_block = _for_block(source, number, block, training)
            hidden, present, weights = block(hidden, past, mask, use_cache, output_attentions, training=training, before=before, source=of_block)
            presents.append(present)
            attentions.append(weights)
        if self.ln_f is not None:                                                       # GPT-1's last block has normed it
            norm = self.compute.elementwise(training)["norm"]
            hidden = norm(hidden, self.ln_f.gamma, self.ln_f.beta, epsilon=self.config.layer_norm_epsilon, dtype=hidden.dtype)
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
        if isinstance(past, Prefix):
            return [(keys, values, None) for keys, values in zip(past.keys, past.values)], tf.shape(past.keys[0])[2]
        if not isinstance(past, StaticCache):
            return past, tf.shape(past[0])[-2]
        if position_ids is None:
            raise ValueError("a StaticCache needs position_ids [batch, queries]: they say which slot each token is written to")
        writer, written = written_in_place if isinstance(past, OwnCache) else written_in_a_copy, {}
        for block, keys in zip(self.h, past.keys):                                      # some blocks may have fewer heads
            if block.attn.n_head not in written:
                written[block.attn.n_head] = writer(keys, position_ids)
        return [(keys, values, written[block.attn.n_head]) for block, keys, values in zip(self.h, past.keys, past.values)], 0

    def _additive_mask(self, attention_mask, past, position_ids, queries, past_length):
        """Return float32 [batch or 1, 1, queries, keys]: 0 where a query sees a key, -inf elsewhere; the keys of `first_keys` among them."""
        if isinstance(past, StaticCache):
            slots = tf.range(tf.shape(past.keys[0])[2])
            distance = position_ids[:, :, tf.newaxis] - slots[tf.newaxis, tf.newaxis, :]  # [batch, queries, slots]
            seen = _within(self._window, distance >= 0, distance)
        elif attention_mask is not None and len(attention_mask.shape) == 3:
            seen = tf.cast(attention_mask, tf.bool)
            if self._window and not isinstance(past, Prefix):                           # whose slots stand where the caller wants; it says what is seen
                seen = tf.logical_and(seen, causal_mask(queries, past_length + queries, self._window))
        else:
            seen = causal_mask(queries, past_length + queries, self._window)
            if attention_mask is not None:
                itself = tf.eye(queries, past_length + queries, dtype=tf.bool)          # a pad sees itself, so that no row is all -inf
                itself = tf.roll(itself, past_length, axis=1)[tf.newaxis]
                seen = tf.logical_and(seen, tf.cast(attention_mask, tf.bool)[:, tf.newaxis, :]) | itself
        mask = _additive(seen)
        return tf.pad(mask, [[0, 0], [0, 0], [0, 0], [self._first_tokens, 0]]) if self._first_tokens else mask


def _additive(seen):
    """Return float32 [batch, 1, queries, keys] of bool [batch, queries, keys]."""
    return tf.where(seen, 0.0, float("-inf"))[:, tf.newaxis]


def _source_of(past, states, seen):
    """Return what is known of the rows' sources, `None` if nothing."""
    if isinstance(past, StaticCache) and past.source:
        return past.source
    if states is None:
        return None
    return Encoded(states, tf.ones(tf.shape(states)[:2], tf.bool) if seen is None else tf.cast(seen, tf.bool))


def _for_block(source, number, block, training):
    """Return keys, values and mask for a block's cross-attention."""
    if source is None:
        return None
    if isinstance(source, SourceKeys):
        return source.keys[number], source.values[number], _seen_mask(source.seen)
    return *block.crossattention.read(source.states, training), _seen_mask(source.seen)


def _seen_mask(seen):
    """Return which of a source's places are seen, of bool [batch, places] or [batch, queries, places]."""
    return Mask(_additive(seen if seen.shape.rank == 3 else seen[:, tf.newaxis]))


def _recomputed(block, hidden, mask, before, source, clock):
    """Return what a block makes of its input in training, of which it keeps its inputs alone.

    What has a gradient is an argument, since `tf.recompute_grad` gives none to other tensors.
    """
    states, keys = ([] if source is None else [source.states]), ([] if before is None else list(before))

    def run(hidden, *others):
        of_block = _for_block(source._replace(states=others[0]), 0, block, training=True) if states else None
        return block(hidden, None, mask, training=True, before=others[len(states) :] if keys else None, source=of_block)[0]

    return tf.recompute_grad(clock.keeping_place(run))(hidden, *states, *keys)


def _join_presents(presents, past, use_cache):
    if isinstance(past, (StaticCache, Prefix)):
        keys, values = zip(*presents)
        return past._replace(keys=keys, values=values)
    return tuple(presents) if use_cache else None
