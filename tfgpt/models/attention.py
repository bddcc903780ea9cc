"""Attention: which keys a query sees, softmax over its scores, and the sum of the values; of long texts for one block of queries after the other."""
from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from tfgpt.models.dropout import Part, PartsDropout, drop
from tfgpt.models.elementwise import widened
from tfgpt.models.kernels import Fuse, is_worth_remaking
from tfgpt.models.products import product

QUERIES_OF_BLOCK = 256
"""Where a text has more queries, they are looked at in blocks of about so many. On two CPU cores, forward and back, 2 x 12 heads x 1024 tokens: 192 ms with
256, 194 with 128, 218 with 512, 237 at once; 4 x 12 x 256 tokens: 34 ms with 128, 29 at once."""
MOST_BLOCKS = 8
"""Of a text, whose blocks are longer then: each is some operations more in every layer."""


class Block(NamedTuple):
    """Queries that are looked at together, and the keys that any of them sees; made once for all layers, as each operation takes time to make."""

    additive: tf.Tensor
    """As a mask's, of these queries and keys."""
    its_queries: tuple[tf.Tensor, tf.Tensor]
    """Where they begin in [batch, heads, queries, head width], and how many they are, int32 [4] each."""
    its_keys: tuple[tf.Tensor, tf.Tensor]
    """As the queries."""
    paddings: tf.Tensor
    """int32 [4, 2], for what belongs to its keys among zeros for the others."""
    dropped: Part
    """For dropout."""

    @classmethod
    def of(cls, number: int, additive: tf.Tensor, queries: range, first: tf.Tensor, end: tf.Tensor) -> Block:
        """Return a block of some of the queries, which looks at the keys from `first` to `end`; `additive` is the mask of all."""
        keys = tf.shape(additive)[3]
        its_queries = tf.constant([0, 0, queries.start, 0]), tf.constant([-1, -1, len(queries), -1])
        its_keys = tf.stack([0, 0, first, 0]), tf.stack([-1, -1, end - first, -1])
        paddings = tf.scatter_nd([[2, 0], [2, 1]], tf.stack([first, keys - end]), [4, 2])
        return cls(additive[:, :, queries.start : queries.stop, first:end], its_queries, its_keys, paddings, Part.of(number, len(queries), first, end, keys))

    def queries_of(self, x: tf.Tensor) -> tf.Tensor:
        """Return the part of its queries, of [batch, heads, queries, any]."""
        return tf.slice(x, *self.its_queries)

    def keys_of(self, x: tf.Tensor) -> tf.Tensor:
        """Return the part of its keys, of [batch, heads, keys, head width]."""
        return tf.slice(x, *self.its_keys)


class Mask(NamedTuple):
    """What each query sees."""

    additive: tf.Tensor
    """float32 [batch or 1, 1, queries or 1, keys], 0 where a query sees a key and -inf elsewhere."""
    blocks: tuple[Block, ...] = ()
    """Of its queries, if these are to be looked at in blocks; all are of one length but the last, which may be shorter."""

    @classmethod
    def in_blocks(cls, additive: tf.Tensor, queries: int | None) -> Mask:
        """Return a mask whose queries are looked at in blocks, if there are enough of them and their number is known while the graph is made.

        >>> mask = Mask.in_blocks(tf.where(tf.linalg.band_part(tf.ones([1, 1, 512, 512], tf.bool), 200, 0), 0.0, float("-inf")), 512)
        >>> [block.additive.shape.as_list() for block in mask.blocks]  # the second sees from key 56 on
        [[1, 1, 256, 256], [1, 1, 256, 512]]
        """
        if queries is None or queries <= QUERIES_OF_BLOCK:
            return cls(additive)
        count = min(-(-queries // QUERIES_OF_BLOCK), MOST_BLOCKS)
        size, keys = -(-queries // count), tf.shape(additive)[3]
        seen = tf.reduce_any(additive == 0, axis=[0, 1])                                  # [queries, keys]
        seen = tf.pad(seen, [[0, count * size - queries], [0, 0]])
        seen = tf.reduce_any(tf.reshape(seen, [count, size, keys]), axis=1)               # [blocks, keys]
        first = tf.argmax(seen, axis=1, output_type=tf.int32) // size * size              # few lengths: XLA compiles for each
        end = -(-(keys - tf.argmax(seen[:, ::-1], axis=1, output_type=tf.int32)) // size) * size
        of_blocks = [range(start, min(start + size, queries)) for start in range(0, queries, size)]
        blocks = zip(range(count), of_blocks, tf.unstack(first, count), tf.unstack(tf.minimum(end, keys), count), strict=True)
        return cls(additive, tuple(Block.of(number, additive, *of_block) for number, *of_block in blocks))


def attend(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, mask: Mask, seed: tf.Tensor | None, *, scale: float, rate: float,
           give_weights: bool = False, fused: Fuse = functools.partial) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Return what each query finds, [batch, heads, queries, head width], and the attention weights under dropout, if asked for.

    On the way back the sum that softmax needs of each query's weights times their gradients is taken from what the query found times its gradient, which
    are as many numbers as a head is wide, and not as there are keys; and the weights, unless they are few, are made anew, so that none are kept (Dao et al.
    2022, "FlashAttention", appendix B.4), but where XLA compiles both ways, which it then joins. Blocks look at no keys that none of their queries sees.

    Args:
        query: float [batch, heads, queries, head width].
        key: the same dtype, [batch, heads, keys, head width].
        value: as the keys.
        mask: what each query sees.
        seed: as in `tfgpt.models.elementwise.add`.
        scale: the scores are multiplied by it.
        rate: share of the weights set to 0.
        give_weights: `None` comes back without. With it the mask's blocks are not looked at.
        fused: makes a function of tensors alone of a function and its settings.
    """
    weigh = _Weigh(scale, fused)
    if mask.blocks and not give_weights:
        return _attend_in_blocks(query, key, value, mask, PartsDropout(rate, seed, query), weigh), None
    dropout = _all_at_once(rate, seed)

    @tf.custom_gradient
    def run(query, key, value):
        made = weigh.forward(query, key, mask.additive, dropout)
        attended = product(made[0], value)

        def gradient(of_attended, *of_weights):
            dropped, kept = made
            with tf.control_dependencies([of_attended]):  # else wide copies are made at once, and kept
                if is_worth_remaking(kept):
                    dropped, kept = weigh.forward(tf.identity(query), key, mask.additive, dropout)  # a query of its own, or it would be joined with the above
                shared = _shared(of_attended, attended)
                of_dropped = product(of_attended, value, transpose_b=True)
                if give_weights:
                    of_dropped += of_weights[0]
                    shared += tf.reduce_sum(widened(of_weights[0]) * widened(dropped), axis=-1, keepdims=True)
                of_scores = weigh.backward(kept, of_dropped, shared, dropout)
            return product(of_scores, key), product(of_scores, query, transpose_a=True), product(dropped, of_attended, transpose_a=True)

        return (attended, made[0]) if give_weights else attended, gradient

    return run(query, key, value) if give_weights else (run(query, key, value), None)


def attend_to_read(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, mask: Mask, seed: tf.Tensor | None, *, scale: float, rate: float,
                   give_weights: bool = False) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Return `attend` with TensorFlow's own way back."""
    weigh = _Weigh(scale)
    if mask.blocks and not give_weights:
        return _found_by_blocks(query, key, value, mask, PartsDropout(rate, seed, query), weigh), None
    weights, _ = weigh.forward(query, key, mask.additive, _all_at_once(rate, seed))
    return product(weights, value), weights if give_weights else None


@dataclass(frozen=True)
class _Weigh:
    """Makes attention weights of scores, and the scores' gradient of theirs."""

    scale: float
    fused: Fuse = functools.partial

    def forward(self, query, key, additive, dropout):
        """Return the weights under dropout and without, [batch, heads, queries, keys], in the dtype of `query`."""
        scores = product(query, key, transpose_b=True)
        weights = tf.nn.softmax(self.fused(_masked, scale=self.scale)(scores, additive), axis=-1)
        kept = tf.cast(weights, scores.dtype)
        return tf.cast(dropout(weights), scores.dtype) if dropout else kept, kept

    def backward(self, kept, of_dropped, shared, dropout):
        return self.fused(_of_scores, scale=self.scale)(kept, dropout(widened(of_dropped)) if dropout else of_dropped, shared)


def _all_at_once(rate, seed):
    """Return the dropout of weights that are looked at all at once, drawn anew on the way back; `None` without."""
    return functools.partial(drop, rate=rate, seed=seed) if rate else None


def _masked(scores, mask, *, scale):
    return (widened(scores) + mask) * scale  # first the mask: product, scale, mask would be fused into a kernel that took ten times as long


def _of_scores(weights, upstream, shared, *, scale):
    return tf.cast(widened(weights) * ((widened(upstream) - shared) * scale), weights.dtype)


def _shared(of_attended, attended):
    """Return the sum over a query's weights times their gradients, float32 [batch, heads, queries, 1]."""
    return tf.reduce_sum(widened(of_attended) * widened(attended), axis=-1, keepdims=True)


def _attend_in_blocks(query, key, value, mask, dropout, weigh):
    @tf.custom_gradient
    def run(query, key, value):
        attended = _found_by_blocks(query, key, value, mask, dropout, weigh)

        def gradient(of_attended):
            with tf.control_dependencies([of_attended]):
                shared = _shared(of_attended, attended)
            of_query, of_key, of_value, before = [], 0.0, 0.0, [shared]
            for block in mask.blocks:
                with tf.control_dependencies(before):                                     # the weights of one block in memory
                    queries, of_found, of_block = map(block.queries_of, (query, of_attended, shared))
                    dropout_of_block = dropout.of(block.dropped)
                keys = block.keys_of(key)
                dropped, kept = weigh.forward(queries, keys, block.additive, dropout_of_block)
                of_dropped = product(of_found, block.keys_of(value), transpose_b=True)
                of_scores = weigh.backward(kept, of_dropped, of_block, dropout_of_block)
                of_query.append(product(of_scores, keys))
                of_key += tf.pad(product(of_scores, queries, transpose_a=True, dtype=tf.float32), block.paddings)
                of_value += tf.pad(product(dropped, of_found, transpose_a=True, dtype=tf.float32), block.paddings)
                before = [of_query[-1], of_key, of_value]
            return tf.concat(of_query, axis=2), tf.cast(of_key, key.dtype), tf.cast(of_value, value.dtype)

        return attended, gradient

    return run(query, key, value)


def _found_by_blocks(query, key, value, mask, dropout, weigh):
    found = []
    for block in mask.blocks:
        with tf.control_dependencies(found[-1:]):
            queries, dropout_of_block = block.queries_of(query), dropout.of(block.dropped)
        weights, _ = weigh.forward(queries, block.keys_of(key), block.additive, dropout_of_block)
        found.append(product(weights, block.keys_of(value)))
    return tf.concat(found, axis=2)
