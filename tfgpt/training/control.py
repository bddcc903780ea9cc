"""Callbacks for `fit` that decide: when to write a checkpoint, when to end, which weights to evaluate; and the progress bar."""
from __future__ import annotations

import threading
from collections.abc import Callable

import tf_keras

from tfgpt.interrupts import TerminatedError
from tfgpt.training.checkpoints import Checkpoints
from tfgpt.training.optimizer import swap_averages


class StepCallback(tf_keras.callbacks.Callback):
    """A callback that knows the optimizer step, also after a resume. An epoch of `fit` is what lies between two evaluations."""

    step = 0

    def on_train_begin(self, logs=None):
        """Start counting where the optimizer stands."""
        self.step = int(self.model.optimizer.iterations)

    def on_train_batch_end(self, batch, logs=None):
        """Count the step."""
        self.step += 1


class SaveCheckpoints(StepCallback):
    """Write a checkpoint after every evaluation, and between them; end the training when evaluations get no better, or when asked to.

    Args:
        checkpoints: where they are kept, and how the evaluations stand.
        every: steps between two; 0 = after evaluations alone.
        patience: evaluations in a row without a lower loss that end the training; 0 = none do.
        asked: set when the process is to end.
    """

    def __init__(self, checkpoints: Checkpoints, every: int, patience: int, asked: threading.Event):
        super().__init__()
        self._checkpoints, self._every, self._patience, self._asked = checkpoints, every, patience, asked

    def on_train_batch_end(self, batch, logs=None):
        """Write it, where one is due or the process is to end."""
        super().on_train_batch_end(batch, logs)
        if self._asked.is_set() or (self._every and self.step % self._every == 0):
            self._checkpoints.save(self.step)
            self._end_if_asked()

    def on_epoch_end(self, epoch, logs=None):
        """Take in the evaluation and write the checkpoint."""
        standing = self._checkpoints.standing
        if "val_loss" in logs:
            standing.add(self.step, float(logs["val_loss"]))
        self._checkpoints.save(self.step)
        if self._patience and standing.since_best >= self._patience:
            self.model.stop_training = True
        self._end_if_asked()

    def _end_if_asked(self):
        if self._asked.is_set():
            raise TerminatedError(f"stopped by SIGTERM after step {self.step}, which is saved; the same command goes on from there")


class EndWhenStuck(StepCallback):
    """End a training whose gradients stay infinite or NaN; such steps are skipped, so the weights are still the last good ones.

    Args:
        most: skipped steps in a row that are borne.
        look_every: steps between two looks.
    """

    def __init__(self, most: int, look_every: int):
        super().__init__()
        self._most, self._look_every = most, min(most, look_every)

    def on_train_batch_end(self, batch, logs=None):
        """Look, now and then, since that waits for the device.

        Raises:
            FloatingPointError: too many steps in a row were skipped.
        """
        super().on_train_batch_end(batch, logs)
        if self.step % self._look_every == 0 and int(logs["skipped_in_a_row"]) >= self._most:
            raise FloatingPointError(f"train.max_skipped: the gradients of {int(logs['skipped_in_a_row'])} steps in a row, up to step {self.step}, are not "
                                     "finite; the last checkpoint is good. Lower train.schedule.peak, set train.clip_norm, or remove the checkpoints "
                                     "and begin anew")


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
    """

    def __init__(self, advance: Callable[..., None], say: Callable[[str], None]):
        super().__init__()
        self._advance, self._say, self._begun = advance, say, False

    def on_train_begin(self, logs=None):
        """Show where the run goes on."""
        super().on_train_begin(logs)
        self._advance(completed=self.step)
        if self.step and not self._begun:
            self._say(f"train: going on from the checkpoint of step {self.step}")
        self._begun = True

    def on_train_batch_end(self, batch, logs=None):
        """Move the bar; it redraws itself a few times a second whatever the steps do."""
        super().on_train_batch_end(batch, logs)
        self._advance(completed=self.step)

    def on_epoch_end(self, epoch, logs=None):
        """Say the evaluation's result."""
        line = f"step {self.step}: loss {logs['loss']:.3f}, {logs['tokens_per_second']:,.0f} tokens/s"
        if "val_loss" in logs:
            line += f"; validation loss {logs['val_loss']:.3f}, perplexity {logs['val_perplexity']:.1f}"
        self._say(line)
        self._advance(completed=self.step, note=line)
