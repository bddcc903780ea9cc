"""Guesses of what a row goes on with, from what stands in it already.

Source: Saxena 2023, "Prompt Lookup Decoding"; a guess is read together with the row's last token, and the engine keeps what the model would
have chosen anyway (Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding"). So a guess changes the time alone.
"""
from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfgpt.generation.sampling import Written, ends_alike

RUN = 3
"""A guess is what stood behind the last place where the row's last so many tokens stood before."""
FIRST_GUESS = 3
"""Tokens of a first guess, or of one behind a wrong one; reading those few more costs little."""
LONGEST_REST = 31
"""The most rounds without a guess behind wrong ones."""


class Lookup(NamedTuple):
    """What a row's guesses were worth so far."""

    trust: tf.Tensor
    """int32 [batch]; tokens that the next guess may have."""
    rest: tf.Tensor
    """int32 [batch]; rounds until then."""
    patience: tf.Tensor
    """int32 [batch]; rounds that the next wrong guess will cost."""

    @classmethod
    def at_first(cls, most: tf.Tensor) -> Lookup:
        """Return what is known before the first guess; `most`, int32 [batch], tokens may be guessed at once."""
        return cls(trust=tf.minimum(most, FIRST_GUESS), rest=tf.zeros_like(most), patience=tf.ones_like(most))


def guess(written: Written, lookup: Lookup, most: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Guess how the rows go on.

    Args:
        written: the rows so far.
        lookup: what their guesses were worth.
        most: int32 [batch]; tokens that there is use for.

    Returns:
        The rows, int32 [batch, places], with the guessed tokens behind them; and how many those are, int32 [batch].
    """
    may = tf.where(lookup.rest > 0, 0, tf.minimum(lookup.trust, most))                     # [batch]
    nothing = tf.zeros_like(may)

    def look():
        length, places = written.length, tf.shape(written.tokens)[1]
        place = tf.range(places)[tf.newaxis]                                              # [1, places]
        earlier = ends_alike(written, tf.fill(tf.shape(length), RUN)) & (place < length[:, tf.newaxis] - 1)
        found = tf.reduce_max(tf.where(earlier, place, -1), axis=1)                       # [batch]
        # Behind the end of the row the run found goes on with the guess itself: a text that repeats itself has a period.
        period = length - 1 - found
        offset = (place - length[:, tf.newaxis]) % tf.maximum(period, 1)[:, tf.newaxis]
        source = tf.where(place < length[:, tf.newaxis], place, found[:, tf.newaxis] + 1 + offset)
        tokens = tf.gather(written.tokens, tf.clip_by_value(source, 0, places - 1), batch_dims=1)
        return tokens, tf.where(found >= 0, tf.minimum(may, places - length), 0)

    return tf.cond(tf.reduce_any(may > 0), look, lambda: (written.tokens, nothing))


def learned(lookup: Lookup, guessed: tf.Tensor, right: tf.Tensor, most: tf.Tensor) -> Lookup:
    """Return what is known after a round; each int32 [batch].

    Args:
        lookup: what was known before it.
        guessed: tokens that were guessed.
        right: how many of them the model chose.
        most: tokens that may be guessed at once.
    """
    tried, wrong = guessed > 0, right < guessed
    longer = tf.minimum(2 * lookup.trust, most)
    failed = tried & (right == 0)
    return Lookup(
        trust=tf.where(tried, tf.where(wrong, tf.minimum(tf.maximum(right + 1, FIRST_GUESS), most), longer), lookup.trust),
        rest=tf.where(failed, lookup.patience, tf.maximum(lookup.rest - 1, 0)),
        patience=tf.where(failed, tf.minimum(2 * lookup.patience + 1, LONGEST_REST), tf.where(tried, 1, lookup.patience)),
    )
