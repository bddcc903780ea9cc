"""Dropout whose masks follow from seed, layer, step and replica alone, so that a resumed run draws the masks it would have drawn."""
from __future__ import annotations

import tensorflow as tf
import tf_keras


class DropoutClock:
    """The seed and the step that all dropout layers of a model share. No Keras layer, so that the step is not taken for a weight."""

    def __init__(self):
        self.seed = 0
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False, name="dropout_step")

    def set(self, step: tf.Tensor) -> None:
        """Set the step, int64 []; called once before each forward pass of training."""
        self._step.assign(step)

    def seed_of(self, salt: int) -> tf.Tensor:
        """Return the seed, int64 [2], of one layer at this step on this replica."""
        replicas = tf.distribute.get_replica_context()
        replica = 0 if replicas is None else replicas.replica_id_in_sync_group
        return tf.stack([tf.cast(self.seed * 1_000_003 + salt, tf.int64), self._step * 4096 + tf.cast(replica, tf.int64)])


class StatelessDropout(tf_keras.layers.Layer):
    """Dropout with a stateless mask.

    Args:
        rate: share set to 0 in training; the rest is scaled up by 1 / (1 - rate).
        clock: of the model.
        salt: tells this layer's masks from the other layers'.
    """

    def __init__(self, rate: float, clock: DropoutClock, salt: int, **kwargs):
        super().__init__(**kwargs)
        self._rate, self._clock, self._salt = rate, clock, salt

    def call(self, inputs, training=False):
        """Return float, the inputs' shape."""
        if not training or self._rate == 0:
            return inputs
        return tf.nn.experimental.stateless_dropout(inputs, self._rate, seed=self._clock.seed_of(self._salt), rng_alg="philox")
