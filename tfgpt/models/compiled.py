"""A model whose reading is compiled by XLA, in few shapes: for an export with `export.jit`.

XLA compiles a graph anew for every shape, and for strings it has nothing. So the compiled part is what the model reads in one go; around it batches are
padded to given sizes, texts to given lengths, and the cache always holds the whole context.
"""
from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfgpt.models.cache import StaticCache
from tfgpt.models.cross_attention import Encoded


class CompiledModel:
    """A language model that reads, judges and encodes as its `GPTLMHeadModel` does; it is neither trained nor saved, and shares that one's weights.

    Args:
        model: a `GPTLMHeadModel`.
        batch_sizes: rows that a batch is padded to; a larger one than the last is compiled as it is.
        lengths: of texts, in tokens; what is read is padded to one of them, or to the context. A single token is read as such.

    Raises:
        ValueError: weights in int8, for which XLA has no product.
    """

    def __init__(self, model, batch_sizes: Sequence[int], lengths: Sequence[int]):
        if any(variable.dtype == tf.int8 for variable in model.all_variables):
            raise ValueError("export.jit: true with weights in int8, for which XLA has no product; take float32 or bfloat16, or leave jit out")
        self.config, self.adaptation, self.all_variables = model.config, model.adaptation, model.all_variables
        self.encoder, self.head = model.encoder, model.head
        context = model.config.n_positions
        self._model, self._sizes = model, tuple(batch_sizes)
        self._lengths = tuple(sorted({1, *(length for length in lengths if length < context), context}))
        self._read, self._judge, self._states, self._encode = (
            tf.function(part, autograph=False, jit_compile=True) for part in (model.read, model.judge, model.states, model.encode)
        )

    def empty_cache(self, batch: int | tf.Tensor, slots: int | tf.Tensor, source: Encoded | None = None) -> StaticCache:
        """Return a cache as `GPTLMHeadModel.empty_cache` does, with room for the whole context and for as many rows as the batch is padded to."""
        return self._model.empty_cache(_padded_to(self._sizes, batch), self.config.n_positions, source)

    def fit_cache(self, cache: StaticCache, slots: tf.Tensor) -> StaticCache:
        """Return a cache of some rows with as many as these are padded to; it keeps room for the whole context."""
        batch = tf.shape(cache.keys[0])[0]
        more = _padded_to(self._sizes, batch) - batch

        def widened(tensor):
            padding = [[0, more]] + [[0, 0]] * (tensor.shape.rank - 1)
            return tf.pad(tensor, padding, constant_values=tf.ones([], tensor.dtype))  # of a source every place is seen: of none a query would see nothing

        return tf.nest.map_structure(widened, cache)

    def own_cache(self, cache: StaticCache, rows: tf.Tensor | None = None) -> StaticCache:
        """Return a cache as `GPTLMHeadModel.own_cache` does; with all rows it is the same one, since XLA copies what it must by itself."""
        return cache if rows is None else tf.nest.map_structure(lambda tensor: tf.gather(tensor, rows), cache)

    def read(self, ids: tf.Tensor, positions: tf.Tensor, last: tf.Tensor, cache: StaticCache | None,
             source: Encoded | None = None) -> tuple[tf.Tensor, StaticCache | None]:
        """Read tokens, as `GPTLMHeadModel.read` does."""
        batch, wanted = tf.shape(ids)[0], tf.shape(last)[1]
        rows = _padded_to(self._sizes, batch) if cache is None else tf.shape(cache.keys[0])[0]
        width = _padded_to(self._lengths, tf.shape(ids)[1])
        ids = _padded(ids, rows, width)
        positions = _padded(positions, rows, width, self.config.n_positions - 1)  # the last slot: a token that stands there ends its row and is never read
        last = _padded(last, rows, _padded_to(self._lengths, wanted))
        logits, cache = self._read(ids, positions, last, cache, source)
        return logits[:batch, :wanted], cache

    def judge(self, ids: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
        """Tell what the head finds, as `GPTLMHeadModel.judge` does."""
        (batch, width), wanted = tf.unstack(tf.shape(ids)), tf.shape(last)[1]
        rows = _padded_to(self._sizes, batch)
        last = _padded(last, rows, _padded_to(self._lengths, wanted))
        return self._judge(_padded(ids, rows, _padded_to(self._lengths, width)), last)[:batch, :wanted]

    def states(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the final hidden states, as `GPTLMHeadModel.states` does."""
        batch, width = tf.unstack(tf.shape(ids))
        return self._states(_padded(ids, _padded_to(self._sizes, batch), _padded_to(self._lengths, width)))[:batch, :width]

    def encode(self, ids: tf.Tensor, lengths: tf.Tensor) -> Encoded:
        """Read sources, as `GPTLMHeadModel.encode` does; of as many rows and places as they are padded to."""
        rows = _padded_to(self._sizes, tf.shape(ids)[0])
        lengths = tf.pad(lengths, [[0, rows - tf.shape(ids)[0]]], constant_values=1)      # of none a query would see nothing
        return self._encode(_padded(ids, rows, self.encoder.context), lengths)


def _padded_to(sizes, number):
    """Return the smallest of these rising sizes that is not below a number, int32 []; the number itself if it is above all."""
    fits = tf.constant(sizes) >= number
    return tf.where(fits[-1], tf.gather(sizes, tf.argmax(fits)), number)


def _padded(table, rows, columns, filler=0):
    """Return int32 [rows, columns] of a table that has no more of either."""
    missing = [[0, rows - tf.shape(table)[0]], [0, columns - tf.shape(table)[1]]]
    return tf.pad(table, missing, constant_values=filler)
