"""Train a model by `model.fit`, from wherever its newest checkpoint stands."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import tensorflow as tf
import tf_keras

from tfgpt.interrupts import TerminatedError, termination
from tfgpt.models.loss import Objective
from tfgpt.models.step import StepSettings
from tfgpt.recipe import TrainConfig
from tfgpt.training.checkpoints import Checkpoints
from tfgpt.training.control import EndWhenStuck, EvaluateAverages, SaveCheckpoints, StopAt
from tfgpt.training.curves import CurvesFile, RunFigures
from tfgpt.training.devices import Devices
from tfgpt.training.optimizer import make_optimizer, swap_averages
from tfgpt.training.tensorboard import Profile, TensorBoard


def train(
    model,
    config: TrainConfig,
    batches: Callable[..., tf.data.Dataset],
    validation: tf.data.Dataset,
    checkpoints: Path,
    logs: Path,
    sample: Callable[[], list[tuple[str, str]]] | None = None,
    callbacks: list[tf_keras.callbacks.Callback] | None = None,
    figures: RunFigures | None = None,
    draw: Callable[[], dict[str, bytes]] | None = None,
    hparams: dict | None = None,
    devices: Devices | None = None,
    new: Sequence[str] = (),
) -> None:
    """Train until step `config.steps`, or until it gets no better; what a killed run had done up to its last checkpoint is not done again.

    The model ends with the weights of the best evaluation, or of the last step, as the recipe says; with their running averages if it has any.

    Args:
        model: a built `GPTLMHeadModel`, made under the scope of the devices' strategy; trained in place.
        config: steps, batch, schedule and the rest.
        batches: gives the endless training batches from a step on, the same ones whenever it is asked; on several devices also called with `worker`
            and `workers` by name, for that worker's rows.
        validation: one pass of validation batches.
        checkpoints: folder of the checkpoints.
        logs: folder of the TensorBoard files, curves.csv and curves.png.
        sample: see `TensorBoard`.
        callbacks: further ones, such as a progress bar.
        figures: see `Curves`.
        draw: see `TensorBoard`.
        hparams: see `TensorBoard`.
        devices: to train on; `None` = those of the recipe.
        new: patterns of the weights that begin anew, which `train.l2_start` does not hold (see `tfgpt.models.regularization.new_weights`).

    Raises:
        RecipeError: the devices are not there, or cannot share the global batch evenly.
        FloatingPointError: the gradients stay infinite or NaN.
        RuntimeError: no checkpoint is whole.
        TerminatedError: SIGTERM; where training stood is saved.
    """
    devices = devices or Devices(config.strategy, config.lanes)
    devices.check_batch(config)
    with devices.strategy.scope():
        optimizer = make_optimizer(config, len(model.transformer.h), len(model.encoder.h) if model.encoder is not None else 0)
        model.compile(optimizer=optimizer, settings=step_settings(config, new), jit_compile=config.jit_compile)
        saved = Checkpoints(checkpoints, model, optimizer, config.keep_checkpoints, config.keep_best)
    with termination() as asked, devices.lost_workers_told():
        curves = CurvesFile(logs / "curves.csv", config.log_every, config.checkpoint_every, figures)
        shown = [
            TensorBoard(logs, config.log_every, sample, figures, draw, hparams),
            curves,
            *([Profile(logs / "train", *config.profile)] if config.profile else []),
        ]
        acting = [
            *([EvaluateAverages()] if config.ema else []),
            EndWhenStuck(config.max_skipped, config.log_every, saved),
            SaveCheckpoints(saved, config, asked, devices),
            StopAt(config.steps),
        ]
        try:
            _fit(model, config, devices, batches, validation, saved, [*(shown if devices.is_chief else []), *acting, *(callbacks or [])])
        except TerminatedError:
            if devices.is_chief:
                curves.write()  # up to the step that is saved
            raise


def _fit(model, config, devices, batches, validation, saved, callbacks):
    """Train from the newest checkpoint to the end, and leave the model with the weights that are to be kept."""
    step, every = _restore_newest(saved, devices), config.evaluate_every
    while step < config.steps and not (config.early_stopping and saved.standing.since_best >= config.early_stopping):
        rest = -step % every  # a run that was stopped between two evaluations first goes on to the next
        model.fit(
            devices.deal(batches, step, config.global_batch_size),
            steps_per_epoch=rest or every,
            initial_epoch=step // every,
            epochs=step // every + 1 if rest else -(-config.steps // every),
            validation_data=devices.evaluated(validation),
            verbose=0,
            callbacks=callbacks,
        )
        step = int(model.optimizer.iterations.numpy())
        if config.ema:
            _restore(saved, step, devices)  # at its end Keras's fit has put the averages in the weights' place
    if config.keep_best and devices.from_chief(saved.standing.best_step in saved.steps()):
        _restore(saved, saved.standing.best_step, devices)
    if config.ema:
        swap_averages(model)


def _restore_newest(saved, devices) -> int:
    """Load the checkpoint that the chief finds newest and whole, on every worker; return its step, 0 without any."""
    step = devices.from_chief(saved.restore_newest() if devices.is_chief else 0)
    if step and not devices.is_chief:
        saved.restore(step)
    return step


def _restore(saved, step, devices):
    """Load a checkpoint on every worker once the chief has written it."""
    devices.from_chief(step)
    saved.restore(step)


def step_settings(config: TrainConfig, new: Sequence[str] = ()) -> StepSettings:
    """Return what of a recipe is the train step's; for `new` see `train`."""
    return StepSettings(
        precision=config.precision,
        accumulate=config.accumulate,
        lanes=config.lanes,
        clip_norm=config.clip_norm,
        l2=config.l2,
        l2_start=config.l2_start,
        new=tuple(new),
        objective=Objective(config.label_smoothing, config.z_loss),
        recompute=config.recompute,
    )
