"""Dropout whose masks follow from seed, layer, step and row of the global batch alone.

So a resumed run draws the masks it would have drawn, and many devices together draw those of one.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

PHILOX, GROUP = 1, 8
"""Of the algorithms of `StatelessRandomUniformFullIntV2` the one whose counter counts 128 bits, which are so many draws; the default of CPUs and GPUs."""
LEVELS = 2**16
"""Of a draw: with half as many bits as TensorFlow's dropout takes half as long, a tenth of a step of a small model, and a rate is exact to 8e-6."""


class DropoutClock:
    """The seed and the place that all dropouts of a model share. No Keras layer, so that the place is not taken for weights."""

    def __init__(self):
        self.seed, self._kept = 0, None
        self.place = tf.Variable(tf.zeros([2], tf.int64), trainable=False, name="dropout_place", aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                                  synchronization=tf.VariableSynchronization.ON_READ)  # each replica's own, also within a loop

    def set(self, step: tf.Tensor | int, row: tf.Tensor | int = 0) -> None:
        """Set where a forward pass of training stands; called before each.

        Args:
            step: number of the optimizer step.
            row: in the global batch, of the first row that is passed.
        """
        self.place.assign(tf.stack([tf.cast(step, tf.int64), tf.cast(row, tf.int64)]))

    def keeping_place(self, function: Callable) -> Callable:
        """Return a function whose dropouts stand where a pass stands now, also when it is called again on the way back, where the next may have begun."""
        place = tf.identity(self.place)

        def at_place(*args):
            self._kept, before = place, self._kept
            try:
                return function(*args)
            finally:
                self._kept = before

        return at_place

    def seed_of(self, salt: int) -> tf.Tensor:
        """Return the seed of one dropout at this place, int64 [3]: two numbers of the mask, and the first row."""
        place = self.place if self._kept is None else self._kept
        return tf.concat([tf.cast([self.seed * 1_000_003 + salt], tf.int64), place], axis=0)


class Dropout:
    """One dropout of a model.

    Args:
        rate: share set to 0 in training; the rest is scaled up by 1 / (1 - rate).
        clock: of the model.
        salt: tells its masks from the others'.
    """

    def __init__(self, rate: float, clock: DropoutClock, salt: int):
        self._rate, self._clock, self._salt = rate, clock, salt

    def draw(self, training: bool) -> tuple[float, tf.Tensor | None]:
        """Return the rate, 0 outside of training, and the seed, int64 [3], for `drop`; `None` where the rate is 0."""
        if not training or self._rate == 0:
            return 0.0, None
        return self._rate, self._clock.seed_of(self._salt)

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """Return `x` under dropout."""
        return drop(x, *self.draw(training))


def drop(x: tf.Tensor, rate: float, seed: tf.Tensor | None) -> tf.Tensor:
    """Return `x` [rows, ...] with a share of it set to 0 and the rest scaled up (Srivastava et al. 2014, "Dropout").

    Args:
        x: float [rows, ...].
        rate: share set to 0, to the nearest 1 / `LEVELS`; 0 gives `x` itself.
        seed: of `Dropout.draw`; the mask of a row depends on the row's number in the global batch, and not on how the batch was cut.
    """
    if not rate:
        return x
    shape = tf.shape(x)
    of_row = tf.reduce_prod(shape[1:])                                                    # numbers of a row
    groups = (of_row + GROUP - 1) // GROUP                                                # whole ones, so that a row shares none with the next
    first = seed[2] * tf.cast(groups, tf.int64)
    draws = _draws(tf.stack([shape[0], groups * (GROUP // 2)]), _key(seed), tf.stack([first, tf.zeros_like(first)]))
    return _Kept(tf.reshape(draws[:, :of_row], shape), rate)(x)


class Part(NamedTuple):
    """Some queries' attention weights for some of the keys, that are dropped by themselves; made once for all layers, as each operation takes time to make."""

    shape: tf.Tensor
    """int32 [2]: the queries, and half the least multiple of `GROUP` that all keys fit in."""
    begin: tf.Tensor
    """int32 [4], where its keys begin in [batch, heads, queries, all keys]: its mask must not hang on which keys a neighbour in the batch sees."""
    size: tf.Tensor
    """int32 [4], and how many they are."""
    groups: tf.Tensor
    """int64 [2]: of a head's numbers, and 0."""
    stream: tf.Tensor
    """int64 [2]: 0, and the number of the part, which tells its draws from other parts'."""

    @classmethod
    def of(cls, number: int, queries: int, first: tf.Tensor, end: tf.Tensor, keys: tf.Tensor) -> Part:
        """Return the part of so many queries and the keys `first` to `end` of `keys`, int32 [] each."""
        groups = (keys + GROUP - 1) // GROUP
        of_head = tf.cast(tf.stack([queries * groups, 0]), tf.int64)
        return cls(tf.stack([queries, groups * (GROUP // 2)]), tf.stack([0, 0, 0, first]), tf.stack([-1, -1, -1, end - first]), of_head,
                   tf.constant([0, number], tf.int64))


class PartsDropout:
    """The dropout of one layer's attention weights, part after part.

    Args:
        rate: share set to 0.
        seed: as for `drop`; `None` if the rate is 0.
        like: [batch, heads, any, any].
    """

    def __init__(self, rate: float, seed: tf.Tensor | None, like: tf.Tensor):
        self._rate = rate
        if rate:
            self._key, self._rows = _key(seed), tf.shape(like)[:2]
            self._first = seed[2] * tf.cast(self._rows[1], tf.int64)                      # head

    def of(self, part: Part) -> Callable[[tf.Tensor], tf.Tensor] | None:
        """Return the dropout of one part, float [batch, heads, queries, its keys], all by the one mask that is drawn now; `None` where the rate is 0."""
        if not self._rate:
            return None
        draws = _draws(tf.concat([self._rows, part.shape], axis=0), self._key, self._first * part.groups + part.stream)
        return _Kept(tf.slice(draws, part.begin, part.size), self._rate)


def _key(seed):
    """Return Philox's key from the first two numbers of a seed."""
    return tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed[:2])[0]


def _draws(shape, key, counter):
    """Return uniform draws, uint16 of this shape but twice as many on the last axis, a multiple of `GROUP`."""
    drawn = tf.raw_ops.StatelessRandomUniformFullIntV2(shape=shape, key=key, counter=tf.cast(counter, tf.uint64), alg=PHILOX, dtype=tf.uint32)
    return tf.reshape(tf.bitcast(drawn, tf.uint16), shape * ([1] * (shape.shape[0] - 1) + [2]))


class _Kept:
    """What is kept of tensors of the same shape as some draws."""

    def __init__(self, draws, rate):
        below = min(max(round(rate * LEVELS), 1), LEVELS - 1)
        self._kept, self._scale = draws >= tf.constant(below, tf.uint16), 1.0 / (1.0 - rate)

    def __call__(self, x):
        return tf.where(self._kept, x * self._scale, 0.0)
