"""Rows of tokens before they are decoded or scored: without padding, never empty, and short enough for the context."""
from __future__ import annotations

import tensorflow as tf


def unpadded(ids: tf.Tensor, attention_mask: tf.Tensor) -> tf.RaggedTensor:
    """Return the tokens where the mask is not 0, int32 [batch, (tokens)]; both int32 [batch, length], padded on the left, on the right or on both sides.

    >>> unpadded(tf.constant([[0, 5, 6], [7, 0, 0]]), tf.constant([[0, 1, 1], [1, 0, 0]])).to_list()
    [[5, 6], [7]]
    """
    return tf.ragged.boolean_mask(tf.cast(ids, tf.int32), tf.cast(attention_mask, tf.bool))


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
    """Return the rows, int32 [batch, (tokens)], with the end-of-text token in the empty ones.

    >>> begun(tf.ragged.constant([[1, 2], [], [3]], tf.int32), end_of_text=9).to_list()
    [[1, 2], [9], [3]]
    """
    starts, limits, behind = rows.row_starts(), rows.row_limits(), rows.row_splits[-1]
    empty = starts == limits                                                              # [batch]; they take what is put behind all tokens
    place = tf.ragged.range(tf.where(empty, behind, starts), tf.where(empty, behind + 1, limits))
    return place.with_values(tf.gather(tf.concat([rows.values, [end_of_text]], axis=0), place.values))


def framed_sources(rows: tf.RaggedTensor, context: int, end_of_text: int) -> tf.RaggedTensor:
    """Return sources as an encoder is trained on them: the first tokens of each row, int32 [batch, (tokens)], and the end-of-text token behind them.

    Args:
        rows: int32 [batch, (tokens)].
        context: tokens that the encoder takes, that token among them.
        end_of_text: id of that token.

    >>> framed_sources(tf.ragged.constant([[1, 2, 3], []], tf.int32), context=3, end_of_text=9).to_list()
    [[1, 2, 9], [9]]
    """
    first = rows[:, : context - 1]
    return tf.concat([first, tf.fill([rows.nrows(tf.int32), 1], end_of_text)], axis=1)


def last_tokens(rows: tf.RaggedTensor, most: tf.Tensor) -> tf.RaggedTensor:
    """Return the last tokens of each row, as many as `most`, int32 [batch]; a shorter row is left as it is.

    >>> last_tokens(tf.ragged.constant([[1, 2, 3], [4]]), tf.constant([2, 2])).to_list()
    [[2, 3], [4]]
    """
    limits = rows.row_limits()
    place = tf.ragged.range(limits - tf.clip_by_value(tf.cast(most, limits.dtype), 0, rows.row_lengths()), limits)
    return place.with_values(tf.gather(rows.values, place.values))
