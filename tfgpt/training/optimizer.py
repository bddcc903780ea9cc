"""The optimizer and the learning rate of a recipe."""
from __future__ import annotations

import math

import tensorflow as tf
import tf_keras

from tfgpt.models.step import NOT_DECAYED
from tfgpt.recipe import ScheduleConfig, TrainConfig


class Schedule(tf_keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate that rises linearly for `warmup_steps`, and then does what `kind` says, until step `steps`.

    Sources: Loshchilov & Hutter 2017, "SGDR" (cosine); Vaswani et al. 2017, "Attention Is All You Need" (inverse square root); Hu et al. 2024,
    "MiniCPM" (warm-up, stable, decay).

    >>> schedule = Schedule(ScheduleConfig(peak=1.0, warmup_steps=2, floor=0.0), steps=10)
    >>> [round(float(schedule(step)), 2) for step in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """

    def __init__(self, config: ScheduleConfig, steps: int):
        self.config, self.steps = config, steps

    def __call__(self, step):
        """Return the learning rate, float32 [], of the optimizer step with this number (the first is 0)."""
        warmup = self.config.warmup_steps
        step = tf.cast(step, tf.float32)
        return tf.where(step < warmup, self.config.peak * (step + 1.0) / max(warmup, 1), self._after_warmup(step, warmup))

    def _after_warmup(self, step, warmup):
        peak, floor = self.config.peak, self.config.floor
        progress = tf.clip_by_value((step - warmup) / max(self.steps - warmup, 1), 0.0, 1.0)
        if self.config.kind == "cosine":
            return floor + (peak - floor) * 0.5 * (1.0 + tf.cos(math.pi * progress))
        if self.config.kind == "linear":
            return peak + (floor - peak) * progress
        if self.config.kind == "inverse_sqrt":
            return tf.maximum(peak * tf.sqrt(max(warmup, 1) / tf.maximum(step + 1.0, max(warmup, 1))), floor)
        if self.config.kind == "constant":
            return tf.fill([], peak)
        decay = self.config.decay_steps or max(self.steps // 5, 1)
        return peak + (floor - peak) * tf.clip_by_value((step - (self.steps - decay)) / decay, 0.0, 1.0)

    def get_config(self):
        """Return the constructor's arguments, as Keras wants them."""
        return {"config": self.config, "steps": self.steps}


class FusedAdamW(tf_keras.optimizers.AdamW):
    """AdamW whose update reads and writes each number once, by TensorFlow's own Adam kernel; takes AdamW's arguments.

    On two CPU cores it took half the time of Keras's dozen operations. Sparse gradients are taken as dense ones.
    """

    def _apply_weight_decay(self, variables):
        """Do nothing: `update_step` decays, while the variable is at hand."""

    def update_step(self, gradient, variable):
        """Update one variable."""
        self.decay(variable)
        step = tf.cast(self.iterations + 1, variable.dtype)
        number = self._index_dict[self._var_key(variable)]
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle, m=self._momentums[number].handle, v=self._velocities[number].handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, variable.dtype), step), beta2_power=tf.pow(tf.cast(self.beta_2, variable.dtype), step),
            lr=tf.cast(self.learning_rate, variable.dtype), beta1=self.beta_1, beta2=self.beta_2, epsilon=self.epsilon,
            grad=tf.convert_to_tensor(gradient),
        )  # fmt: skip

    def decay(self, variable: tf.Variable) -> None:
        """Shrink a variable by the decoupled weight decay, if it is one that decays."""
        if self.weight_decay and self._use_weight_decay(variable):
            rate = tf.cast(self.learning_rate, variable.dtype) * self.weight_decay
            tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=variable)


def swap_averages(model) -> None:
    """Exchange the weights of a model with the running averages that its optimizer keeps of them."""
    optimizer = model.optimizer
    for variable in model.trainable_variables:
        average = optimizer._model_variables_moving_average[optimizer._index_dict[optimizer._var_key(variable)]]
        weights = tf.identity(variable)
        variable.assign(average)
        average.assign(weights)


def make_optimizer(config: TrainConfig) -> tf_keras.optimizers.Optimizer:
    """Return the optimizer of a recipe; gradients are clipped before they come to it.

    Sources: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization" (AdamW); Kingma & Ba 2015 (Adam); Shazeer & Stern 2018 (Adafactor);
    Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms" (Lion); `tfgpt.training.muon`.
    """
    from tfgpt.training.muon import Muon  # here: it is made of FusedAdamW

    averages = {"use_ema": True, "ema_momentum": config.ema} if config.ema else {}
    shared = averages | {"learning_rate": Schedule(config.schedule, config.steps), "weight_decay": config.weight_decay}
    betas = {"beta_1": config.beta_1, "beta_2": config.beta_2}
    kinds = {
        "adamw": lambda: FusedAdamW(**shared, **betas),
        "adam": lambda: tf_keras.optimizers.Adam(**shared, **betas),
        "sgd": lambda: tf_keras.optimizers.SGD(**shared, momentum=config.beta_1),
        "adafactor": lambda: tf_keras.optimizers.Adafactor(**shared, relative_step=False),
        "lion": lambda: tf_keras.optimizers.Lion(**shared, **betas),
        "muon": lambda: Muon(**shared, **betas),
    }
    optimizer = kinds[config.optimizer]()
    if config.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=list(NOT_DECAYED))
    return optimizer
