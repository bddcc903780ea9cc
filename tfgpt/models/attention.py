"""Attention: which keys a query sees, softmax over its scores, and the sum of the values; of long texts for one block of queries after the other."""
from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from tfgpt.models.dropout import drop
from tfgpt.models.elementwise import widened
from tfgpt.models.kernels import Fuse
from tfgpt.models.products import product

QUERIES_OF_BLOCK = 256
"""Where a text has more queries, they are looked at in blocks of about so many. On two CPU cores, forward and back, 2 x 12 heads x 1024 tokens: 192 ms with
256, 194 with 128, 218 with 512, 237 at once; 4 x 12 x 256 tokens: 34 ms with 128, 29 at once."""
MOST_BLOCKS = 8
"""Of a text, whose blocks are longer then: each is some operations more in every layer."""
SALT_OF_BLOCK = 2**40
"""Tells the dropout of a block from that of the one before it; larger than any dropout's own salt."""


class Block(NamedTuple):
    """Queries that are looked at together, and the keys that any of them sees; made once for all layers, as each operation takes time to make."""

    additive: tf.Tensor
    """As a mask's, of these queries and keys."""
    first: tf.Tensor
    """int32 [], of the keys."""
    end: tf.Tensor
    """int32 [], of the keys."""
    all_keys: tf.Tensor
    """int32 [], how many there are, these among them."""
    begin: tf.Tensor
    """int32 [4], where its keys begin in [batch, heads, keys, head width]."""
    size: tf.Tensor
    """int32 [4], and how many they are."""
    paddings: tf.Tensor
    """int32 [4, 2], for what belongs to its keys among zeros for the others."""

    @classmethod
    def of(cls, additive: tf.Tensor, first: tf.Tensor, end: tf.Tensor) -> Block:
        """Return a block of queries, whose mask for all keys is `additive`."""
        keys = tf.shape(additive)[3]
        begin, size = tf.stack([0, 0, first, 0]), tf.stack([-1, -1, end - first, -1])
        paddings = tf.scatter_nd([[2, 0], [2, 1]], tf.stack([first, keys - end]), [4, 2])
        return cls(additive[..., first:end], first, end, keys, begin, size, paddings)

    def own(self, x: tf.Tensor) -> tf.Tensor:
        """Return the part of its keys, of [batch, heads, keys, head width]."""
        return tf.slice(x, self.begin, self.size)

    @property
    def among(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Where its keys are among all: its dropout must not hang on which keys a neighbour in the batch sees."""
        return self.first, self.end, self.all_keys


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
        starts = range(0, count * size, size)
        ends_of_keys = zip(starts, tf.unstack(first, count), tf.unstack(tf.minimum(end, keys), count))
        return cls(additive, tuple(Block.of(additive[:, :, start : start + size], *ends) for start, *ends in ends_of_keys))

    def parts(self, x: tf.Tensor) -> list[tf.Tensor]:
        """Return `x` [batch, heads, queries, any] cut into blocks."""
        sizes = [tf.shape(block.additive)[2] for block in self.blocks]
        return tf.split(x, sizes, axis=2, num=len(sizes))


def attend(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, mask: Mask, seed: tf.Tensor | None, *, scale: float, rate: float,
           give_weights: bool = False, fused: Fuse = functools.partial) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Return what each query finds, [batch, heads, queries, head width], and the attention weights under dropout, if asked for.

    On the way back the sum that softmax needs of each query's weights times their gradients is taken from what the query found times its gradient, which
    are as many numbers as a head is wide, and not as there are keys; and the weights of blocks are made anew, so that none are kept (Dao et al. 2022,
    "FlashAttention", appendix B.4). Blocks look at no keys that none of their queries sees.

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
    weigh = _Weigh(scale, rate, fused)
    if mask.blocks and not give_weights:
        return _attend_in_blocks(query, key, value, mask, seed, weigh), None

    @tf.custom_gradient
    def run(query, key, value):
        dropped, kept = weigh.forward(query, key, mask.additive, seed)
        attended = product(dropped, value)

        def gradient(of_attended, *of_weights):
            with tf.control_dependencies([of_attended]):  # else wide copies are made at once, and kept
                shared = _shared(of_attended, attended)
                of_dropped = product(of_attended, value, transpose_b=True)
                if give_weights:
                    of_dropped += of_weights[0]
                    shared += tf.reduce_sum(widened(of_weights[0]) * widened(dropped), axis=-1, keepdims=True)
                of_scores = weigh.backward(kept, of_dropped, shared, seed)
            return product(of_scores, key), product(of_scores, query, transpose_a=True), product(dropped, of_attended, transpose_a=True)

        return (attended, dropped) if give_weights else attended, gradient

    return run(query, key, value) if give_weights else (run(query, key, value), None)


def attend_to_read(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, mask: Mask, seed: tf.Tensor | None, *, scale: float, rate: float,
                   give_weights: bool = False) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Return `attend` with TensorFlow's own way back."""
    weigh = _Weigh(scale, rate)
    if mask.blocks and not give_weights:
        return _found_by_blocks(query, key, value, mask, seed, weigh), None
    weights, _ = weigh.forward(query, key, mask.additive, seed)
    return product(weights, value), weights if give_weights else None


@dataclass(frozen=True)
class _Weigh:
    """Makes attention weights of scores, and the scores' gradient of theirs."""

    scale: float
    rate: float
    fused: Fuse = functools.partial

    def forward(self, query, key, additive, seed, among=None):
        """Return the weights under dropout and without, [batch, heads, queries, keys], in the dtype of `query`."""
        scores = product(query, key, transpose_b=True)
        weights = tf.nn.softmax(self.fused(_masked, scale=self.scale)(scores, additive), axis=-1)
        kept = tf.cast(weights, scores.dtype)
        return tf.cast(drop(weights, self.rate, seed, among), scores.dtype) if self.rate else kept, kept

    def backward(self, kept, of_dropped, shared, seed, among=None):
        of_kept = drop(widened(of_dropped), self.rate, seed, among) if self.rate else of_dropped
        return self.fused(_of_scores, scale=self.scale)(kept, of_kept, shared)


def _masked(scores, mask, *, scale):
    return (widened(scores) + mask) * scale  # first the mask: product, scale, mask would be fused into a kernel that took ten times as long


def _of_scores(weights, upstream, shared, *, scale):
    return tf.cast(widened(weights) * ((widened(upstream) - shared) * scale), weights.dtype)


def _shared(of_attended, attended):
    """Return the sum over a query's weights times their gradients, float32 [batch, heads, queries, 1]."""
    return tf.reduce_sum(widened(of_attended) * widened(attended), axis=-1, keepdims=True)


def _attend_in_blocks(query, key, value, mask, seed, weigh):
    @tf.custom_gradient
    def run(query, key, value):
        attended = _found_by_blocks(query, key, value, mask, seed, weigh)

        def gradient(of_attended):
            with tf.control_dependencies([of_attended]):
                shared = _shared(of_attended, attended)
            of_query, of_key, of_value, before = [], 0.0, 0.0, [shared]
            for number, (block, *own) in enumerate(zip(mask.blocks, *map(mask.parts, (query, of_attended, shared)))):
                with tf.control_dependencies(before):                                     # the weights of one block in memory
                    queries, of_found, of_block = map(tf.identity, own)
                keys, seed_of_block = block.own(key), _seed_of(seed, number)
                dropped, kept = weigh.forward(queries, keys, block.additive, seed_of_block, block.among)
                of_dropped = product(of_found, block.own(value), transpose_b=True)
                of_scores = weigh.backward(kept, of_dropped, of_block, seed_of_block, block.among)
                of_query.append(product(of_scores, keys))
                of_key += tf.pad(product(of_scores, queries, transpose_a=True, dtype=tf.float32), block.paddings)
                of_value += tf.pad(product(dropped, of_found, transpose_a=True, dtype=tf.float32), block.paddings)
                before = [of_query[-1], of_key, of_value]
            return tf.concat(of_query, axis=2), tf.cast(of_key, key.dtype), tf.cast(of_value, value.dtype)

        return attended, gradient

    return run(query, key, value)


def _found_by_blocks(query, key, value, mask, seed, weigh):
    found = []
    for number, (block, queries) in enumerate(zip(mask.blocks, mask.parts(query))):
        with tf.control_dependencies(found[-1:]):
            queries = tf.identity(queries)
        weights, _ = weigh.forward(queries, block.own(key), block.additive, _seed_of(seed, number), block.among)
        found.append(product(weights, block.own(value)))
    return tf.concat(found, axis=2)


def _seed_of(seed, block):
    """Return the seed of a block's dropout, whose mask is one of its own, since dropout counts through whole rows."""
    return None if seed is None else tf.add(seed, [block * SALT_OF_BLOCK, 0, 0])
