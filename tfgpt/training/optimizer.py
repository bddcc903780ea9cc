"""The optimizer and the learning rate of a recipe."""
from __future__ import annotations

import math

import tensorflow as tf
import tf_keras

from tfgpt.recipe import ScheduleConfig, TrainConfig
from tfgpt.training.muon import Muon

OPTIMIZERS = {"adamw": tf_keras.optimizers.AdamW, "muon": Muon}
NOT_DECAYED = [r"/bias:", r"/gamma:", r"/beta:"]
"""Regular expressions for the variables without weight decay: biases and layer norms."""


class WarmupCosine(tf_keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate that rises linearly for `warmup_steps` and falls along a half cosine to `floor` at step `steps`.

    >>> schedule = WarmupCosine(ScheduleConfig(peak=1.0, warmup_steps=2, floor=0.0), steps=10)
    >>> [round(float(schedule(step)), 2) for step in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """

    def __init__(self, config: ScheduleConfig, steps: int):
        self.config, self.steps = config, steps

    def __call__(self, step):
        """Return the learning rate, float32 [], of the optimizer step with this number (the first is 0)."""
        warmup = self.config.warmup_steps
        step = tf.cast(step, tf.float32)
        progress = tf.clip_by_value((step - warmup) / max(self.steps - warmup, 1), 0.0, 1.0)
        cosine = self.config.floor + (self.config.peak - self.config.floor) * 0.5 * (1.0 + tf.cos(math.pi * progress))
        return tf.where(step < warmup, self.config.peak * (step + 1.0) / max(warmup, 1), cosine)

    def get_config(self):
        """Return the constructor's arguments, as Keras wants them."""
        return {"config": self.config, "steps": self.steps}


def make_optimizer(config: TrainConfig) -> tf_keras.optimizers.Optimizer:
    """Return the optimizer of a recipe.

    Source: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization" (AdamW; the second moment's 0.99 suits short runs);
    `tfgpt.training.muon`.
    """
    optimizer = OPTIMIZERS[config.optimizer](
        learning_rate=WarmupCosine(config.schedule, config.steps),
        weight_decay=config.weight_decay or None,
        beta_2=0.99,
        global_clipnorm=config.clip_norm or None,
    )
    if config.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=NOT_DECAYED)
    return optimizer
