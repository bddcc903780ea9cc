"""A text as one vector: the mean of what the model's last layer holds at its tokens."""
from __future__ import annotations

import tensorflow as tf

from tfgpt.generation.decoding import encoded
from tfgpt.generation.rows import framed_sources, last_tokens


def embed(model, rows: tf.RaggedTensor, end_of_text: int) -> tf.Tensor:
    """Return the mean of the final hidden states, behind the last norm, at each row's own tokens, float32 [batch, width].

    A row is read from an end-of-text token on, which does not count, unless the row is empty: then its state is the embedding. One longer than the
    context keeps its last tokens. With an encoder it is the encoder's states: the row keeps its first tokens, and the end-of-text token stands behind.

    Args:
        model: a `GPTLMHeadModel`.
        rows: int32 [batch, (tokens)].
        end_of_text: id of that token.
    """
    if model.encoder is not None:
        sources = framed_sources(rows, model.encoder.context, end_of_text)
        lengths = tf.cast(sources.row_lengths(), tf.int32) - 1                            # [batch]
        states = encoded(model, sources).states[: tf.shape(lengths)[0]]                   # [batch, places, width]
        first = tf.zeros_like(lengths)
    else:
        batch = rows.nrows(tf.int32)
        rows = last_tokens(rows, tf.fill([batch], model.config.n_positions - 1))
        lengths = tf.cast(rows.row_lengths(), tf.int32)                                   # [batch]
        states = model.states(tf.concat([tf.fill([batch, 1], end_of_text), rows], axis=1).to_tensor(end_of_text))
        first = tf.cast(lengths > 0, tf.int32)                                            # [batch], place of the first that counts
    count, place = tf.maximum(lengths, 1), tf.range(tf.shape(states)[1])[tf.newaxis] - first[:, tf.newaxis]
    counted = (place >= 0) & (place < count[:, tf.newaxis])                               # [batch, places]
    total = tf.reduce_sum(tf.where(counted[..., tf.newaxis], tf.cast(states, tf.float32), 0.0), axis=1)
    return total / tf.cast(count, tf.float32)[:, tf.newaxis]
