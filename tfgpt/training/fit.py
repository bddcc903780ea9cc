"""Train a model by `model.fit`, from wherever its newest checkpoint stands."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tensorflow as tf
import tf_keras

from tfgpt.models.loss import Objective
from tfgpt.models.step import StepSettings
from tfgpt.recipe import TrainConfig
from tfgpt.training.callbacks import CurvesFile, EndWhenStuck, SaveCheckpoints, StopAt, TensorBoard
from tfgpt.training.checkpoints import Checkpoints
from tfgpt.training.optimizer import make_optimizer


def train(
    model,
    config: TrainConfig,
    batches: Callable[[int], tf.data.Dataset],
    validation: tf.data.Dataset,
    checkpoints: Path,
    logs: Path,
    sample: Callable[[], list[tuple[str, str]]] | None = None,
    callbacks: list[tf_keras.callbacks.Callback] | None = None,
) -> None:
    """Train until step `config.steps`; what a killed run had done up to its last checkpoint is not done again.

    Args:
        model: a built `GPTLMHeadModel`; trained in place.
        config: steps, batch, schedule and the rest.
        batches: gives the endless training batches from a step on, the same ones whenever it is asked.
        validation: one pass of validation batches.
        checkpoints: folder of the checkpoints.
        logs: folder of the TensorBoard files, curves.csv and curves.png.
        sample: see `TensorBoard`.
        callbacks: further ones, such as a progress bar.
    """
    optimizer = make_optimizer(config)
    model.compile(optimizer=optimizer, settings=step_settings(config), jit_compile=config.jit_compile)
    saved = Checkpoints(checkpoints, model, optimizer, config.keep_checkpoints)
    first_step = saved.restore_newest()
    if first_step >= config.steps:
        return
    every = config.evaluate_every  # an epoch of Keras is what lies between two evaluations
    model.fit(
        batches(first_step),
        steps_per_epoch=every,
        initial_epoch=first_step // every,
        epochs=-(-config.steps // every),
        validation_data=validation,
        verbose=0,
        callbacks=[
            TensorBoard(logs, config.log_every, sample),
            CurvesFile(logs / "curves.csv", config.log_every),
            EndWhenStuck(config.max_skipped, config.log_every),
            SaveCheckpoints(saved),
            StopAt(config.steps),
            *(callbacks or []),
        ],
    )


def step_settings(config: TrainConfig) -> StepSettings:
    """Return what of a recipe is the train step's."""
    return StepSettings(
        precision=config.precision,
        accumulate=config.accumulate,
        clip_norm=config.clip_norm,
        l2=config.l2,
        objective=Objective(config.label_smoothing, config.z_loss),
        recompute=config.recompute,
    )
