"""Guesses of what a row goes on with by a smaller model, which the engine reads and checks as it does those of `tfgpt.generation.lookup`.

Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding". A guess is kept where the model would have chosen the same
token, sampled or not; so a draft model changes the time alone, and never a text.
"""
from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfgpt.generation.looping import loop
from tfgpt.generation.sampling import Written


class Draft(NamedTuple):
    """What the draft model has read."""

    cache: NamedTuple
    """As the model's `empty_cache` gives it."""
    read: tf.Tensor
    """int32 [batch]; tokens of the row that are in the cache."""


def drafted(model, written: Written, draft: Draft, count: tf.Tensor) -> tuple[tf.Tensor, Draft]:
    """Let a model write on greedily.

    Args:
        model: the draft model.
        written: the rows so far.
        draft: what the model has read of them.
        count: int32 [batch]; tokens wanted in each row, for which there is room.

    Returns:
        The rows, int32 [batch, places], with so many tokens more; and what the model has read then, the last token that it wrote not among it.
    """
    places = tf.shape(written.tokens)[1]

    def write(number, tokens, draft):
        """Read what is unread, at first all that is new in the row and then one token, and write the token `number`."""
        length = written.length + tf.minimum(number, count)                               # [batch]
        unread = tf.maximum(length - draft.read, 1)                                       # of a row that wants no more the last token, once more
        start, width = length - unread, tf.reduce_max(unread)
        positions = tf.minimum(start[:, tf.newaxis] + tf.range(width), places - 1)        # [batch, width]
        logits, cache = model.read(tf.gather(tokens, positions, batch_dims=1), positions, unread[:, tf.newaxis] - 1, draft.cache)
        chosen = tf.argmax(logits[:, 0], axis=-1, output_type=tf.int32)
        here = (tf.range(places) == length[:, tf.newaxis]) & (number < count)[:, tf.newaxis]
        return number + 1, tf.where(here, chosen[:, tf.newaxis], tokens), Draft(cache, length)

    _, tokens, draft = loop(lambda number, *_: number < tf.reduce_max(count), write, [tf.constant(0), written.tokens, draft])
    return tokens, draft
