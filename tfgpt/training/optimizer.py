"""The optimizer and the learning rate of a recipe."""
from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import tensorflow as tf
import tf_keras

from tfgpt.models.step import NOT_DECAYED
from tfgpt.recipe import ScheduleConfig, TrainConfig

WORTH_COMPILING = 2**18
"""Weights of a matrix from which on one XLA kernel updates them sooner than TensorFlow's two."""


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
    """AdamW whose update reads and writes each number once, by TensorFlow's own Adam kernel, or by one of XLA; takes AdamW's arguments.

    On two CPU cores it took half the time of Keras's dozen operations. Sparse gradients are taken as dense ones.
    """

    _factor: tf.Tensor | float = 1.0

    @contextlib.contextmanager
    def scaling(self, factor: tf.Tensor) -> Iterator[None]:
        """Within it, multiply gradients by `factor`, float32 [], as they are read."""
        self._factor = factor
        try:
            yield
        finally:
            self._factor = 1.0

    def _apply_weight_decay(self, variables):
        """Do nothing: `update_step` decays, while the variable is at hand."""

    def update_step(self, gradient, variable):
        """Update one variable."""
        step = tf.cast(self.iterations + 1, variable.dtype)
        number = self._index_dict[self._var_key(variable)]
        update = _compiled_update if variable.shape.num_elements() >= WORTH_COMPILING else _update
        update(
            variable.handle, self._momentums[number].handle, self._velocities[number].handle, tf.convert_to_tensor(gradient),
            tf.cast(self._factor, variable.dtype), tf.cast(self.learning_rate, variable.dtype),
            tf.pow(tf.cast(self.beta_1, variable.dtype), step), tf.pow(tf.cast(self.beta_2, variable.dtype), step),
            decay=self._decay_of(variable), beta_1=self.beta_1, beta_2=self.beta_2, epsilon=self.epsilon,
        )  # fmt: skip

    def _decay_of(self, variable):
        """Return the decoupled weight decay of a variable, 0 if it is one that does not decay."""
        return self.weight_decay if self.weight_decay and self._use_weight_decay(variable) else 0.0


def _update(variable, momentum, velocity, gradient, factor, rate, power_1, power_2, *, decay, beta_1, beta_2, epsilon):
    """Decay one variable and take Adam's step; the first three are handles, the gradient may be of another precision than the variable."""
    if decay:
        value = tf.raw_ops.ReadVariableOp(resource=variable, dtype=rate.dtype)
        tf.raw_ops.ResourceApplyGradientDescent(var=variable, alpha=rate * decay, delta=value)
    tf.raw_ops.ResourceApplyAdam(var=variable, m=momentum, v=velocity, beta1_power=power_1, beta2_power=power_2, lr=rate, beta1=beta_1, beta2=beta_2,
                                 epsilon=epsilon, grad=tf.cast(gradient, rate.dtype) * factor)


_compiled_update = tf.function(_update, autograph=False, jit_compile=True)


def swap_averages(model) -> None:
    """Exchange the weights of a model with the running averages that its optimizer keeps of them."""
    optimizer = model.optimizer
    for variable in model.trainable_variables:
        average = optimizer._model_variables_moving_average[optimizer._index_dict[optimizer._var_key(variable)]]
        weights = tf.identity(variable)
        variable.assign(average)
        average.assign(weights)


def make_optimizer(config: TrainConfig, blocks: int = 0, encoder_blocks: int = 0) -> tf_keras.optimizers.Optimizer:
    """Return the optimizer of a recipe; gradients are clipped before they come to it.

    Args:
        config: kind, schedule and the rest.
        blocks: of the model, by which its layers are told apart where they learn at rates of their own.
        encoder_blocks: of its encoder.

    Sources: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization" (AdamW); Kingma & Ba 2015 (Adam); Shazeer & Stern 2018 (Adafactor);
    Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms" (Lion); `tfgpt.training.muon`.
    """
    from tfgpt.training.layers import LayerRates, by_layer  # here: these are made of FusedAdamW
    from tfgpt.training.muon import Muon

    averages = {"use_ema": True, "ema_momentum": config.ema} if config.ema else {}
    shared = averages | {"learning_rate": Schedule(config.schedule, config.steps), "weight_decay": config.weight_decay}
    betas = {"beta_1": config.beta_1, "beta_2": config.beta_2}
    kinds = {
        "adamw": (FusedAdamW, betas),
        "adam": (tf_keras.optimizers.Adam, betas),
        "sgd": (tf_keras.optimizers.SGD, {"momentum": config.beta_1}),
        "adafactor": (tf_keras.optimizers.Adafactor, {"relative_step": False}),
        "lion": (tf_keras.optimizers.Lion, betas),
        "muon": (Muon, betas),
    }
    kind, own = kinds[config.optimizer]
    if config.layer_decay < 1 or config.unfreeze_every:
        kind = by_layer(kind, LayerRates(blocks, encoder_blocks, config.layer_decay, config.unfreeze_every))
    optimizer = kind(**shared, **own)
    if config.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=list(NOT_DECAYED))
    return optimizer
