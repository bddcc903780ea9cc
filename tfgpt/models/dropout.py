"""Dropout whose masks follow from seed, layer, step and replica alone, so that a resumed run draws the masks it would have drawn."""
from __future__ import annotations

import tensorflow as tf


class DropoutClock:
    """The seed and the step that all dropouts of a model share. No Keras layer, so that the step is not taken for a weight."""

    def __init__(self):
        self.seed = 0
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False, name="dropout_step", aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                                 synchronization=tf.VariableSynchronization.ON_READ)  # each replica's own, also within a loop

    def set(self, step: tf.Tensor) -> None:
        """Set the number of the forward pass of training, int64 []; called before each."""
        self._step.assign(step)

    def seed_of(self, salt: int) -> tf.Tensor:
        """Return the seed, int64 [2], of one dropout at this step on this replica."""
        replicas = tf.distribute.get_replica_context()
        replica = 0 if replicas is None else replicas.replica_id_in_sync_group
        return tf.stack([tf.cast(self.seed * 1_000_003 + salt, tf.int64), self._step * 4096 + tf.cast(replica, tf.int64)])


class Dropout:
    """One dropout of a model.

    Args:
        rate: share set to 0 in training; the rest is scaled up by 1 / (1 - rate).
        clock: of the model.
        salt: tells its masks from the others'.
    """

    def __init__(self, rate: float, clock: DropoutClock, salt: int):
        self._rate, self._clock, self._salt = rate, clock, salt

    def draw(self, training: bool) -> tuple[float, tf.Tensor]:
        """Return the rate, 0 outside of training, and the seed, int64 [2], for `tfgpt.models.elementwise`."""
        if not training or self._rate == 0:
            return 0.0, tf.zeros([2], tf.int64)
        return self._rate, self._clock.seed_of(self._salt)

    def __call__(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """Return `x` under dropout."""
        rate, seed = self.draw(training)
        return tf.nn.experimental.stateless_dropout(x, rate, seed=seed, rng_alg="philox") if rate else x
