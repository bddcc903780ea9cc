"""Where a stop string begins in a text, byte for byte, whatever the tokens that the text was written in."""
from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def first_stop(text: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
    """Return the place in bytes where the first of a row's stop strings begins, int32 [batch]; -1 where there is none.

    Args:
        text: string [batch]; bytes of any kind.
        stop: string [batch, stops]; "" = none.

    >>> first_stop(tf.constant(["one. two", "three"]), tf.constant([["!", ". "], ["!", ". "]])).numpy()
    array([ 3, -1], dtype=int32)
    """
    sizes = tf.strings.length(stop)                                                       # [batch, stops]
    longest = tf.reduce_max(tf.concat([tf.reshape(sizes, [-1]), [1]], axis=0))
    length = tf.strings.length(text)                                                      # [batch]
    most = tf.reduce_max(tf.concat([length, [1]], axis=0))
    letters = tf.pad(_bytes(text, most), [[0, 0], [0, longest]])                           # [batch, most + longest]
    wanted = _bytes(stop, longest)                                                        # [batch, stops, longest]
    place = tf.range(most)

    def found(number, agrees):
        """Compare the byte `number` of each stop string with the one as far behind each place."""
        same = letters[:, number : number + most][:, tf.newaxis] == wanted[:, :, number][:, :, tf.newaxis]
        return number + 1, agrees & (same | (number >= sizes)[:, :, tf.newaxis])

    whole = (place + sizes[:, :, tf.newaxis] <= length[:, tf.newaxis, tf.newaxis]) & (sizes > 0)[:, :, tf.newaxis]  # [batch, stops, most]
    _, whole = tf.while_loop(lambda number, _: number < longest, found, [tf.constant(0), whole])
    first = tf.reduce_min(tf.where(tf.reduce_any(whole, axis=1), place, most), axis=1)
    return tf.where(first < most, first, -1)


def ends_in_stop(texts: tf.Tensor, tokens: tf.Tensor, first: tf.Tensor, length: tf.Tensor, stop: tf.Tensor) -> tf.Tensor:
    """Tell whether a stop string ends with the last token of each row, bool [batch]; it may have begun tokens before.

    Args:
        texts: string [vocab], the bytes of each token.
        tokens: int32 [batch, places].
        first: int32 [batch]; what stands before this place does not count.
        length: int32 [batch]; tokens in each row.
        stop: string [batch, stops]; "" = none.
    """
    sizes = tf.strings.length(stop)

    def look():
        back = tf.range(tf.reduce_max(sizes), 0, -1)[tf.newaxis]                          # as many tokens as the longest has bytes
        place = length[:, tf.newaxis] - back                                              # [batch, tail]
        ids = tf.gather(tokens, tf.clip_by_value(place, 0, tf.shape(tokens)[1] - 1), batch_dims=1)
        known = (place >= first[:, tf.newaxis]) & (ids < tf.size(texts))
        tail = tf.where(known, tf.gather(texts, tf.where(known, ids, 0)), "")
        return first_stop(tf.strings.reduce_join(tail, axis=1), stop) >= 0

    return tf.cond(tf.reduce_any(sizes > 0), look, lambda: tf.zeros_like(length, tf.bool))


def sure_text(text: bytes, stop: Sequence[str]) -> str:
    """Return what of an unfinished text stays as it is whatever follows: whole characters, and nothing that a stop string may begin with.

    >>> sure_text("one né".encode()[:-1], stop=["e n!"])
    'on'
    """
    whole = len(text)
    for back in range(1, min(4, len(text) + 1)):
        byte = text[-back]
        if byte >= 0xC0:  # the first byte of a character
            whole -= back if back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) else 0
            break
        if byte < 0x80:
            break
    text = text[:whole]
    begun = max((size for each in stop for size in range(1, len(each.encode())) if text.endswith(each.encode()[:size])), default=0)
    return text[: len(text) - begun].decode("utf-8", "replace")


def _bytes(text, length):
    """Return uint8 [..., length], with zeros behind what is shorter."""
    return tf.io.decode_raw(text, tf.uint8, fixed_length=length)
