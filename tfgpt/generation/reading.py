"""A text that grows while it is read: what is new alone is read, and many ways on from its end are looked at without losing it.

What is read is kept in a cache in which a token's slot is its place (see `StaticCache`). A place that is read again is simply written over, so a text may also
be taken back; and since tensors never change, what was looked at ahead leaves no trace.
"""
from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfgpt.generation.calling import call
from tfgpt.generation.looping import loop

ROOM = 16
"""Slots behind the text, at least, for what is looked at ahead."""


class Reader(tf.Module):
    """Reads one text with a model, from an end-of-text token on.

    Args:
        model: a `GPTLMHeadModel` without an encoder.
        end_of_text: id of that token.

    Raises:
        ValueError: a model with an encoder, or one whose context has no room for a text.

    >>> reader = Reader(model, tokenizer.eos_token_id)
    >>> first = reader.read([5, 6, 7])
    >>> bool(np.allclose(first, reader.ahead([[7]], behind=2)[0], atol=1e-5)), np.allclose(reader.read([5, 6]), first)
    (True, False)
    """

    def __init__(self, model, end_of_text: int):
        super().__init__(name="reader")
        if model.encoder is not None or model.config.n_positions < 2 * ROOM:
            raise ValueError(f"reader: a model with an encoder, or a context of {model.config.n_positions} tokens; give one without, of {2 * ROOM} or more")
        object.__setattr__(self, "_model", model)  # not tracked, as in `TextReader`
        self._end, self._ids, self._log_probs = end_of_text, [], None
        ids, place = tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([], tf.int32)
        cache = model.empty_cache(1, model.config.n_positions)
        object.__setattr__(self, "_cache", cache)
        specs = tf.nest.map_structure(lambda tensor: tf.TensorSpec([None, tensor.shape[1], None, tensor.shape[3]], tensor.dtype), cache)
        rows = [specs, ids, tf.TensorSpec([None], tf.int32), place]
        self._read_graph = tf.function(self._read, autograph=False, input_signature=rows)
        self._ahead_graph = tf.function(self._ahead, autograph=False, input_signature=rows)
        self._write_graph = tf.function(self._write, autograph=False, input_signature=[*rows, place, tf.TensorSpec([], tf.float32)])

    def fresh(self) -> Reader:
        """Return a reader of another text, without tracing anything again."""
        other = copy.copy(self)
        other._ids, other._log_probs = [], None
        object.__setattr__(other, "_cache", self._model.empty_cache(1, self._model.config.n_positions))
        return other

    @property
    def most(self) -> int:
        """The most tokens of a text that are read."""
        return self._model.config.n_positions - ROOM

    def read(self, ids: Sequence[int]) -> np.ndarray:
        """Return the log-probability of each token behind a text, float32 [vocab]; what it has in common with the text before is not read again.

        Args:
            ids: of the whole text, without an end-of-text token before it. Of a text of more than `most` the last tokens are read, three quarters as many at
                least, so that not each further token has the text read anew.
        """
        ids = [self._end, *map(int, ids)]
        if len(ids) > self.most:
            step = self.most // 4
            ids = ids[-(self.most - step) - (len(ids) - self.most) % step :]
        known = next((place for place, (old, new) in enumerate(zip(self._ids, ids)) if old != new), min(len(self._ids), len(ids)))
        if known < len(ids) or len(self._ids) != len(ids):
            known = min(known, len(ids) - 1)                                              # behind the last one its logits are wanted
            new = tf.constant([ids[known:]], tf.int32)
            log_probs, cache = call(self._read_graph, self._cache, new, tf.constant([len(ids) - known]), tf.constant(known))
            object.__setattr__(self, "_cache", cache)
            self._ids, self._log_probs = ids, log_probs.numpy()[0]
        return self._log_probs

    def ahead(self, paths: Sequence[Sequence[int]], behind: int | None = None) -> np.ndarray:
        """Return the log-probability of each token behind each of some ways on, float32 [paths, vocab].

        Args:
            paths: tokens behind the text, 1 to `ROOM` each.
            behind: tokens of the text that they follow on; `None` = all of them.
        """
        start = len(self._ids) if behind is None else behind + 1
        return call(self._ahead_graph, self._cache, *_table(paths), tf.constant(start)).numpy()

    def written(self, paths: Sequence[Sequence[int]], steps: int, least: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Return the likeliest tokens behind each of some ways on, one after the other, and their log-probabilities.

        Args:
            paths: tokens behind the text, which with `steps` are `ROOM` at most.
            steps: how many more tokens, 1 or more.
            least: probability of what is written behind a way, below which it is not gone on with: there are fewer steps where all ways are below it; 0 = none.

        Returns:
            int32 [paths, steps or fewer], float32 of the same shape.
        """
        floor = tf.constant(np.log(least) if least else -np.inf, tf.float32)
        ids, log_probs = call(self._write_graph, self._cache, *_table(paths), tf.constant(len(self._ids)), tf.constant(steps), floor)
        return ids.numpy(), log_probs.numpy()

    def _copied(self, cache, rows, start):
        """Return the cache with so many rows, and no more slots than ways on from `start` need."""
        few = self._model.fit_cache(cache, tf.minimum((start + 2 * ROOM) // ROOM * ROOM, self._model.config.n_positions))
        return tf.nest.map_structure(lambda tensor: tf.repeat(tensor, rows, axis=0), few)

    def _ahead(self, cache, ids, lengths, start):
        return self._read(self._copied(cache, tf.shape(ids)[0], start), ids, lengths, start)[0]

    def _read(self, cache, ids, lengths, start):
        """Return log-probabilities behind rows of ids, float32 [rows, vocab], and the cache with them."""
        rows, width = tf.unstack(tf.shape(ids))
        positions = tf.broadcast_to(start + tf.range(width), [rows, width])
        logits, cache = self._model.read(ids, positions, lengths[:, tf.newaxis] - 1, cache)
        return tf.nn.log_softmax(logits[:, 0]), cache

    def _write(self, cache, ids, lengths, start, steps, floor):
        """Return the likeliest tokens behind rows of ids and their log-probabilities, [rows, steps] each."""
        rows = tf.shape(ids)[0]
        log_probs, cache = self._read(self._model.own_cache(self._copied(cache, rows, start)), ids, lengths, start)

        def appended(log_probs, written, of_written):
            chosen = tf.argmax(log_probs, axis=1, output_type=tf.int32)[:, tf.newaxis]    # [rows, 1]
            return tf.concat([written, chosen], axis=1), tf.concat([of_written, tf.gather(log_probs, chosen, batch_dims=1)], axis=1)

        def step(number, cache, written, of_written):
            last = written[:, -1:]                                                        # [rows, 1]
            logits, cache = self._model.read(last, (start + lengths + number - 1)[:, tf.newaxis], tf.zeros_like(last), cache)
            return number + 1, cache, *appended(tf.nn.log_softmax(logits[:, 0]), written, of_written)

        def goes_on(number, cache, written, of_written):
            return (number < steps) & tf.reduce_any(tf.reduce_sum(of_written, axis=1) >= floor)

        first = [tf.constant(1), cache, *appended(log_probs, tf.zeros([rows, 0], tf.int32), tf.zeros([rows, 0]))]
        _, _, written, of_written = loop(goes_on, step, first)
        return written, of_written


def _table(paths):
    """Return paths as a table filled up with zeros, int32 [paths, longest], and their lengths, int32 [paths]."""
    lengths = [len(path) for path in paths]
    table = np.zeros([len(paths), max(lengths)], np.int32)
    for row, path in zip(table, paths):
        row[: len(path)] = path
    return tf.constant(table), tf.constant(lengths, tf.int32)
