"""The decoding loop: one pass over the prompts, then a token a step over a cache of fixed size, all inside the graph.

Prompts are padded on the right; a token's cache slot is its position in its row (see `StaticCache`), so rows of different lengths share a
batch without a mask of their own and no row's result depends on the others.
"""
from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfgpt.generation.controls import Controls
from tfgpt.generation.sampling import Written, choose, uniform_numbers


class Decoded(NamedTuple):
    """Continuations of a batch of prompts."""

    ids: tf.Tensor
    """int32 [batch, steps]; the end-of-text token after a row's end."""
    token_count: tf.Tensor
    """int32 [batch]; tokens generated, the end-of-text token that stopped a row among them."""
    log_prob: tf.Tensor
    """float32 [batch]; sum over these tokens of the model's own log-probability (nats), whatever the controls."""
    stopped: tf.Tensor
    """bool [batch]; the row ended with the end-of-text token."""


def fit_prompts(prompts: tf.RaggedTensor, max_new_tokens: tf.Tensor, context: int, end_of_text: int) -> tuple[tf.RaggedTensor, tf.Tensor]:
    """Make prompts and continuations fit the context.

    An empty prompt becomes the end-of-text token. A prompt that fills the context or more keeps its last tokens: as many as leave
    room for `max_new_tokens`, but half of the context at least. `max_new_tokens` is then capped to what is left.

    Args:
        prompts: int32 [batch, (tokens)].
        max_new_tokens: int32 [batch].
        context: the most tokens the model takes.
        end_of_text: id of that token.

    Returns:
        Prompts of 1 to `context - 1` tokens, and int32 [batch].
    """
    prompts = begun(prompts, end_of_text)
    lengths = tf.cast(prompts.row_lengths(), tf.int32)
    room = tf.clip_by_value(max_new_tokens, 1, context // 2)
    prompts = last_tokens(prompts, tf.where(lengths >= context, context - room, lengths))
    return prompts, tf.clip_by_value(max_new_tokens, 0, context - tf.cast(prompts.row_lengths(), tf.int32))


def begun(rows: tf.RaggedTensor, end_of_text: int) -> tf.RaggedTensor:
    """Return the rows, int32 [batch, (tokens)], with the end-of-text token in the empty ones."""
    empty = tf.cast(rows.row_lengths() == 0, rows.row_splits.dtype)                       # [batch]
    return tf.concat([tf.RaggedTensor.from_row_lengths(tf.fill([tf.reduce_sum(empty)], end_of_text), empty), rows], axis=1)


def last_tokens(rows: tf.RaggedTensor, most: tf.Tensor) -> tf.RaggedTensor:
    """Return the last tokens of each row, as many as `most`, int32 [batch]; a shorter row is left as it is.

    >>> last_tokens(tf.ragged.constant([[1, 2, 3], [4]]), tf.constant([2, 2])).to_list()
    [[2, 3], [4]]
    """
    lengths = tf.cast(rows.row_lengths(), tf.int32)
    kept = tf.clip_by_value(most, 0, lengths)
    place = tf.cast(tf.ragged.range(rows.row_lengths()), tf.int32)                        # [batch, (tokens)]
    return tf.RaggedTensor.from_row_lengths(tf.ragged.boolean_mask(rows, place >= (lengths - kept)[:, tf.newaxis]).values, tf.cast(kept, rows.row_splits.dtype))


def decode(model, prompts: tf.RaggedTensor, controls: Controls, end_of_text: int) -> Decoded:
    """Continue each prompt until its end-of-text token or its `max_new_tokens`.

    Args:
        model: a `GPTLMHeadModel`.
        prompts: int32 [batch, (tokens)], 1 token at least; with its `max_new_tokens` each fits the context (see `fit_prompts`).
        controls: of each row.
        end_of_text: id of the token that ends a row.
    """
    lengths = tf.cast(prompts.row_lengths(), tf.int32)                                    # [batch]
    ids = prompts.to_tensor(end_of_text)                                                  # [batch, width]
    batch, width = tf.shape(ids)[0], tf.shape(ids)[1]
    steps = tf.reduce_max(tf.concat([controls.max_new_tokens, [0]], axis=0))
    slots = tf.reduce_max(tf.concat([lengths + controls.max_new_tokens, [width]], axis=0))
    uniform = uniform_numbers(controls.seed, model.config.n_positions)                    # [batch, context]
    rows = tf.range(batch)

    def read(tokens, positions, last, cache):
        """Run tokens [batch, n] through the model; return the logits [batch, vocab] after index `last` [batch], and the cache."""
        output = model.transformer(input_ids=tokens, position_ids=positions, past_key_values=cache, use_cache=True)
        hidden = tf.gather(output.last_hidden_state, last, batch_dims=1)                  # [batch, width of the model]
        return tf.cast(model.project(hidden), tf.float32), output.past_key_values

    def step(number, logits, decoded, written, cache):
        running = ~decoded.stopped & (number < controls.max_new_tokens)                   # [batch]
        chosen = choose(logits, written, controls, uniform[:, number], number, end_of_text)
        chosen = tf.where(running, chosen, end_of_text)
        log_prob = tf.gather(tf.nn.log_softmax(logits), chosen, batch_dims=1)
        decoded = Decoded(
            ids=tf.tensor_scatter_nd_update(decoded.ids, tf.stack([rows, tf.fill([batch], number)], axis=1), chosen),
            token_count=decoded.token_count + tf.cast(running, tf.int32),
            log_prob=decoded.log_prob + tf.where(running, log_prob, 0.0),
            stopped=decoded.stopped | (running & (chosen == end_of_text)),
        )
        written = grown(written, chosen)
        more = tf.reduce_any(~decoded.stopped & (number + 1 < controls.max_new_tokens))
        # A finished row goes on at its last slot; nobody reads what it writes there.
        positions = tf.minimum(lengths + number, slots - 1)[:, tf.newaxis]                # [batch, 1]
        logits, cache = tf.cond(more, lambda: read(chosen[:, tf.newaxis], positions, tf.zeros_like(rows), cache), lambda: (logits, cache))
        return number + 1, logits, decoded, written, cache

    def more(number, logits, decoded, written, cache):
        return tf.reduce_any(~decoded.stopped & (number < controls.max_new_tokens))

    positions = tf.tile(tf.range(width)[tf.newaxis], [batch, 1])
    logits, cache = read(ids, positions, lengths - 1, model.empty_cache(batch, slots))
    nothing = Decoded(
        ids=tf.fill([batch, steps], end_of_text),
        token_count=tf.zeros([batch], tf.int32),
        log_prob=tf.zeros([batch], tf.float32),
        stopped=tf.zeros([batch], tf.bool),
    )
    _, _, decoded, _, _ = tf.while_loop(more, step, [tf.constant(0), logits, nothing, written_prompts(prompts, slots, model.config.vocab_size), cache])
    return decoded


def written_prompts(prompts: tf.RaggedTensor, places: tf.Tensor, vocab: int) -> Written:
    """Return what stands in each row before decoding: the prompt, int32 [batch, (tokens)], in `places` places."""
    batch = prompts.nrows(tf.int32)
    where = tf.stack([tf.cast(prompts.value_rowids(), tf.int32), prompts.values], axis=1)
    return Written(
        tokens=prompts.to_tensor(shape=tf.stack([batch, places])),
        length=tf.cast(prompts.row_lengths(), tf.int32),
        in_prompt=tf.tensor_scatter_nd_update(tf.zeros([batch, vocab], tf.bool), where, tf.ones_like(prompts.values, tf.bool)),
        counts=tf.zeros([batch, vocab]),
    )


def grown(written: Written, chosen: tf.Tensor) -> Written:
    """Return the rows with one more token each, int32 [batch]; in a row whose places are full, the last one is overwritten."""
    rows = tf.range(tf.shape(chosen)[0])
    place = tf.minimum(written.length, tf.shape(written.tokens)[1] - 1)
    return written._replace(
        tokens=tf.tensor_scatter_nd_update(written.tokens, tf.stack([rows, place], axis=1), chosen),
        length=place + 1,
        counts=tf.tensor_scatter_nd_add(written.counts, tf.stack([rows, chosen], axis=1), tf.ones(tf.shape(rows))),
    )
