"""Keys and values of the tokens that were read, and how those of further tokens are written to them."""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfgpt.models.cross_attention import SourceKeys

IN_PLACE = (tf.float32, tf.float16)
"""Of a cache that is written where it lies: TensorFlow has the operation for bfloat16 on CPUs alone."""

Writer = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""Takes the cached keys (values) of a layer and those of some queries; gives the cached ones with these."""


class StaticCache(NamedTuple):
    """Keys and values of every layer, in tensors whose size never changes while decoding.

    Slot s holds the token at position s of its row, so prompts of different lengths are padded on the right and need no mask of
    their own: a query at position p sees slots 0 to p, and a pad's slot is overwritten before any query reaches it.
    """

    keys: tuple[tf.Tensor, ...]
    """One a layer, [batch, heads, slots, head width]."""
    values: tuple[tf.Tensor, ...]
    """One a layer, [batch, heads, slots, head width]."""
    source: SourceKeys | tuple = ()
    """Of each row, where there is an encoder; reading leaves it as it is."""


class OwnCache(StaticCache):
    """A cache that no one else reads: tokens are written into it where it lies, and what it was before must not be used any more.

    Of any other cache reading makes a copy, since TensorFlow's `tensor_scatter_nd_update` always does on a CPU: of all slots, at each token.
    """


class Prefix(NamedTuple):
    """Keys and values of the tokens before those that are read, for a caller that keeps them itself: of what is read, its own come back alone.

    Slots may be empty, so `attention_mask` [batch, queries, slots + queries] says what each query sees.
    """

    keys: tuple[tf.Tensor, ...]
    """One a layer, [batch, heads, slots, head width]."""
    values: tuple[tf.Tensor, ...]
    """One a layer, [batch, heads, slots, head width]."""


def own(cache: StaticCache, rows: tf.Tensor | None = None) -> StaticCache:
    """Return a copy of these rows of a cache, int32 [n], or of all, that may be written where it lies; as it is where that cannot be."""
    def copied(tensor):
        return tf.raw_ops.DeepCopy(x=tensor) if rows is None else tf.gather(tensor, rows)

    source = cache.source if rows is None else tf.nest.map_structure(copied, cache.source)  # reading leaves it as it is
    if cache.keys[0].dtype not in IN_PLACE:
        return cache if rows is None else StaticCache(*(tuple(map(copied, layers)) for layers in cache[:2]), source)
    return OwnCache(*(tuple(map(copied, layers)) for layers in cache[:2]), source)


def written_in_a_copy(cached: tf.Tensor, position_ids: tf.Tensor) -> Writer:
    """Return the function that writes keys or values, [batch, heads, queries, head width], to their slots in a copy of a cache like this one."""
    batch, heads, *_ = tf.unstack(tf.shape(cached))
    row, head = tf.range(batch)[:, tf.newaxis, tf.newaxis], tf.range(heads)[:, tf.newaxis]
    shape = [batch, heads, tf.shape(position_ids)[1]]
    where = tf.stack([tf.broadcast_to(place, shape) for place in (row, head, position_ids[:, tf.newaxis])], axis=-1)
    return lambda cached, new: tf.tensor_scatter_nd_update(cached, where, new)


def written_in_place(cached: tf.Tensor, position_ids: tf.Tensor) -> Writer:
    """Return the function that writes keys or values, [batch, heads, queries, head width], to their slots in a cache like this one, where it lies."""
    batch, heads, slots, width = tf.unstack(shape := tf.shape(cached))
    first = tf.reshape(tf.range(batch * heads) * slots, [batch, heads, 1])
    rows = tf.reshape(first + position_ids[:, tf.newaxis], [-1])                          # [batch * heads * queries]

    def written(cached, new):
        flat = tf.raw_ops.InplaceUpdate(x=tf.reshape(cached, [-1, width]), i=rows, v=tf.reshape(new, [-1, width]))
        return tf.ensure_shape(tf.reshape(flat, shape), cached.shape)

    return written
