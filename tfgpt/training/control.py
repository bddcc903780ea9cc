"""Callbacks for `fit` that decide: when to write a checkpoint, when to end, which weights to evaluate; and the progress bar."""
from __future__ import annotations

import threading
from collections.abc import Callable

import tf_keras

from tfgpt.interrupts import TerminatedError
from tfgpt.recipe import TrainConfig
from tfgpt.training.checkpoints import Checkpoints
from tfgpt.training.devices import Devices
from tfgpt.training.optimizer import swap_averages


class StepCallback(tf_keras.callbacks.Callback):
    """A callback that knows the optimizer step, also after a resume. An epoch of `fit` is what lies between two evaluations."""

    step = 0

    def on_train_begin(self, logs=None):
        """Start counting where the optimizer stands."""
        self.step = int(self.model.optimizer.iterations.numpy())

    def on_train_batch_end(self, batch, logs=None):
        """Count the step."""
        self.step += 1


class SaveCheckpoints(StepCallback):
    """Write a checkpoint after every evaluation, and between them; end the training when evaluations get no better, or when asked to.

    Of several workers the chief writes; they end together, at the next step of which all take a look.

    Args:
        checkpoints: where they are kept, and how the evaluations stand.
        config: how often, and the patience.
        asked: set when this process is to end.
        devices: of the training.
    """

    def __init__(self, checkpoints: Checkpoints, config: TrainConfig, asked: threading.Event, devices: Devices):
        super().__init__()
        self._checkpoints, self._config, self._asked, self._devices = checkpoints, config, asked, devices

    def on_train_batch_end(self, batch, logs=None):
        """Write it, where one is due or a process is to end; not where an evaluation comes next, which belongs to the step."""
        super().on_train_batch_end(batch, logs)
        if self.step % self._config.evaluate_every == 0 or self.step >= self._config.steps:
            return
        ending = self._end_is_asked(self._config.log_every)
        if ending or (self._config.checkpoint_every and self.step % self._config.checkpoint_every == 0):
            self._save(logs)
        if ending:
            self._end()

    def on_epoch_end(self, epoch, logs=None):
        """Take in the evaluation and write the checkpoint."""
        standing, patience = self._checkpoints.standing, self._config.early_stopping
        if "val_loss" in logs:
            standing.add(self.step, float(logs["val_loss"]))
        self._save(logs)
        if patience and standing.since_best >= patience:
            self.model.stop_training = True
        if self._end_is_asked(1):
            self._end()

    def _save(self, logs):
        if self._devices.is_chief:
            self._checkpoints.save(self.step, skipped=int(logs["skipped_in_a_row"]))

    def _end_is_asked(self, look_every):
        """Tell whether any worker is to end; one process knows at once, several ask each other now and then, since that makes them wait."""
        if self._devices.workers == 1:
            return self._asked.is_set()
        return self.step % look_every == 0 and self._devices.total(self._asked.is_set()) > 0

    def _end(self):
        raise TerminatedError(f"stopped by SIGTERM after step {self.step}, which is saved; the same command goes on from there")


class EndWhenStuck(StepCallback):
    """End a training whose gradients stay infinite or NaN; such steps are skipped, so the weights are still those of the last step that was taken.

    Args:
        most: skipped steps in a row that are borne.
        look_every: steps between two looks.
        checkpoints: of which one from before those steps is named.
    """

    def __init__(self, most: int, look_every: int, checkpoints: Checkpoints):
        super().__init__()
        self._most, self._look_every, self._checkpoints = most, min(most, look_every), checkpoints

    def on_train_batch_end(self, batch, logs=None):
        """Look, now and then, since that waits for the device.

        Raises:
            FloatingPointError: too many steps in a row were skipped.
        """
        super().on_train_batch_end(batch, logs)
        if self.step % self._look_every == 0 and (skipped := int(logs["skipped_in_a_row"])) >= self._most:
            good = self._checkpoints.newest_before(self.step - skipped)                   # whose gradients were finite: its next step was taken
            raise FloatingPointError(f"train.max_skipped: the gradients of {skipped} steps in a row, up to step {self.step}, are not finite; the last good "
                                     f"checkpoint is {'gone, or there was none' if good is None else f'that of step {good}: remove those behind it to go on'}"
                                     ". Lower train.schedule.peak or set train.clip_norm; with these training begins anew")


class StopAt(StepCallback):
    """End training at a step that need not be a whole number of epochs."""

    def __init__(self, steps: int):
        super().__init__()
        self._steps = steps

    def on_train_batch_end(self, batch, logs=None):
        """Stop when the step is reached; the last evaluation still takes place."""
        super().on_train_batch_end(batch, logs)
        if self.step >= self._steps:
            self.model.stop_training = True


class EvaluateAverages(tf_keras.callbacks.Callback):
    """Evaluate the running averages of the weights, and train on with the weights themselves."""

    def on_test_begin(self, logs=None):
        """Put the averages in the weights' place."""
        swap_averages(self.model)

    def on_test_end(self, logs=None):
        """Put the weights back."""
        swap_averages(self.model)


class BarCallback(StepCallback):
    """Move a progress bar and say each evaluation in a line.

    Args:
        advance: of `tfgpt.progress.progress_bar`.
        say: called with the line.
        stage: its name in a run.
    """

    def __init__(self, advance: Callable[..., None], say: Callable[[str], None], stage: str = "train"):
        super().__init__()
        self._advance, self._say, self._stage, self._begun = advance, say, stage, False

    def on_train_begin(self, logs=None):
        """Show where the run goes on."""
        super().on_train_begin(logs)
        self._advance(completed=self.step)
        if self.step and not self._begun:
            self._say(f"{self._stage}: going on from the checkpoint of step {self.step}")
        self._begun = True

    def on_train_batch_end(self, batch, logs=None):
        """Move the bar; it redraws itself a few times a second whatever the steps do."""
        super().on_train_batch_end(batch, logs)
        self._advance(completed=self.step)

    def on_epoch_end(self, epoch, logs=None):
        """Say the evaluation's result."""
        line = f"step {self.step}: loss {logs['loss']:.3f}, {logs['tokens_per_second']:,.0f} tokens/s"
        if "val_loss" in logs:
            line += f"; validation loss {logs['val_loss']:.3f}"
        if "val_perplexity" in logs:
            line += f", perplexity {logs['val_perplexity']:.1f}"
        if "judged" in logs and "val_accuracy" in logs:
            line += f", accuracy {logs['val_accuracy']:.3f}"
        self._say(line)
        self._advance(completed=self.step, note=line)
