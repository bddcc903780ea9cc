"""Dropout whose masks follow from seed, layer, step and row of the global batch alone.

So a resumed run draws the masks it would have drawn, and many devices together draw those of one.
"""
from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

PHILOX, GROUP = 1, 4
"""Of the algorithms of `StatelessRandomUniformV2` the one whose counter counts groups of so many numbers; the default of CPUs and GPUs."""


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


def drop(x: tf.Tensor, rate: float, seed: tf.Tensor | None, among: tuple[tf.Tensor, tf.Tensor, tf.Tensor] | None = None) -> tf.Tensor:
    """Return `x` [rows, ...] with a share of it set to 0 and the rest scaled up (Srivastava et al. 2014, "Dropout").

    Args:
        x: float [rows, ...].
        rate: share set to 0; 0 gives `x` itself.
        seed: of `Dropout.draw`; the mask of a row depends on the row's number in the global batch, and not on how the batch was cut.
        among: where the last axis of `x` begins and ends in a longer one, and how long that is; `x` gets its part of the mask of the longer one.
    """
    if not rate:
        return x
    shape = tf.shape(x) if among is None else tf.concat([tf.shape(x)[:-1], among[2:]], axis=0)
    of_row = tf.reduce_prod(shape[1:])                                                    # numbers of a row
    groups = (of_row + GROUP - 1) // GROUP                                                # whole ones, so that a row shares none with the next
    key, _ = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed[:2])
    first = seed[2] * tf.cast(groups, tf.int64)
    counter = tf.cast(tf.stack([first, tf.zeros_like(first)]), tf.uint64)
    draws = tf.raw_ops.StatelessRandomUniformV2(shape=tf.stack([shape[0], groups * GROUP]), key=key, counter=counter, alg=PHILOX,
                                                dtype=tf.float32)                         # in fewer bits there are too few numbers between 0 and the rate
    draws = tf.reshape(draws[:, :of_row], shape)
    if among is not None:
        draws = draws[..., among[0] : among[1]]
    return tf.where(draws >= rate, x * (1.0 / (1.0 - rate)), 0.0)
