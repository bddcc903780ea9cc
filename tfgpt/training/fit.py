"""Train a model by `model.fit`, from wherever its newest checkpoint stands."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tensorflow as tf
import tf_keras

from tfgpt.interrupts import termination
from tfgpt.models.loss import Objective
from tfgpt.models.step import StepSettings
from tfgpt.recipe import TrainConfig
from tfgpt.training.checkpoints import Checkpoints
from tfgpt.training.control import EndWhenStuck, EvaluateAverages, SaveCheckpoints, StopAt
from tfgpt.training.curves import CurvesFile, RunFigures
from tfgpt.training.optimizer import make_optimizer, swap_averages
from tfgpt.training.tensorboard import Profile, TensorBoard


def train(
    model,
    config: TrainConfig,
    batches: Callable[[int], tf.data.Dataset],
    validation: tf.data.Dataset,
    checkpoints: Path,
    logs: Path,
    sample: Callable[[], list[tuple[str, str]]] | None = None,
    callbacks: list[tf_keras.callbacks.Callback] | None = None,
    figures: RunFigures | None = None,
    draw: Callable[[], dict[str, bytes]] | None = None,
    hparams: dict | None = None,
) -> None:
    """Train until step `config.steps`, or until it gets no better; what a killed run had done up to its last checkpoint is not done again.

    The model ends with the weights of the best evaluation, or of the last step, as the recipe says; with their running averages if it has any.

    Args:
        model: a built `GPTLMHeadModel`; trained in place.
        config: steps, batch, schedule and the rest.
        batches: gives the endless training batches from a step on, the same ones whenever it is asked.
        validation: one pass of validation batches.
        checkpoints: folder of the checkpoints.
        logs: folder of the TensorBoard files, curves.csv and curves.png.
        sample: see `TensorBoard`.
        callbacks: further ones, such as a progress bar.
        figures: see `Curves`.
        draw: see `TensorBoard`.
        hparams: see `TensorBoard`.

    Raises:
        FloatingPointError: the gradients stay infinite or NaN.
        RuntimeError: no checkpoint is whole.
        TerminatedError: SIGTERM; where training stood is saved.
    """
    optimizer = make_optimizer(config)
    model.compile(optimizer=optimizer, settings=step_settings(config), jit_compile=config.jit_compile)
    saved = Checkpoints(checkpoints, model, optimizer, config.keep_checkpoints, config.keep_best)
    step, every = saved.restore_newest(), config.evaluate_every
    with termination() as asked:
        shown = [
            TensorBoard(logs, config.log_every, sample, figures, draw, hparams),
            CurvesFile(logs / "curves.csv", config.log_every, config.checkpoint_every, figures),
            *([Profile(logs / "train", *config.profile)] if config.profile else []),
            *([EvaluateAverages()] if config.ema else []),
            EndWhenStuck(config.max_skipped, config.log_every),
            SaveCheckpoints(saved, config.checkpoint_every, config.early_stopping, asked),
            StopAt(config.steps),
            *(callbacks or []),
        ]
        while step < config.steps and not (config.early_stopping and saved.standing.since_best >= config.early_stopping):
            rest = -step % every  # a run that was stopped between two evaluations first goes on to the next
            model.fit(
                batches(step),
                steps_per_epoch=rest or every,
                initial_epoch=step // every,
                epochs=step // every + 1 if rest else -(-config.steps // every),
                validation_data=validation,
                verbose=0,
                callbacks=shown,
            )
            step = int(optimizer.iterations)
            if config.ema:
                saved.restore(step)  # at its end Keras's fit has put the averages in the weights' place
    if config.keep_best and saved.standing.best_step in saved.steps():
        saved.restore(saved.standing.best_step)
    if config.ema:
        swap_averages(model)


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
