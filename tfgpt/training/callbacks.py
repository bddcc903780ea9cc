"""Callbacks for `fit` that show: TensorBoard, and the curves as CSV and picture."""
from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from tfgpt.files import write_text
from tfgpt.training.control import StepCallback

COLUMNS = ("step", "split", "loss", "perplexity", "accuracy", "learning_rate", "gradient_norm", "tokens_per_second")


class Curves(StepCallback):
    """Hand the training and validation figures to `record`, each with its step.

    Training figures are of the steps since the last record, not of the whole epoch: sums are taken apart again.

    Args:
        record: called with a dict of `COLUMNS`; `learning_rate` and `gradient_norm` are missing for validation.
        log_every: steps between two training records.
    """

    def __init__(self, record: Callable[[dict], None], log_every: int):
        super().__init__()
        self._record, self._log_every = record, log_every
        self._before = dict.fromkeys(("tokens", "loss", "accuracy"), 0.0)

    def on_epoch_begin(self, epoch, logs=None):
        """Start anew with Keras's sums."""
        self._before = dict.fromkeys(self._before, 0.0)

    def on_train_batch_end(self, batch, logs=None):
        """Record every `log_every` steps; only then are the figures fetched from the device."""
        super().on_train_batch_end(batch, logs)
        if self.step % self._log_every == 0:
            self._record_training(logs)

    def on_epoch_end(self, epoch, logs=None):
        """Record the evaluation, and what was trained since the last record."""
        self._record_training(logs)
        if "val_loss" in logs:
            names = ("loss", "perplexity", "accuracy", "tokens_per_second")
            self._record({"step": self.step, "split": "validation"} | {name: float(logs[f"val_{name}"]) for name in names})

    def _record_training(self, logs):
        sums = {"tokens": float(logs["tokens"])} | {name: float(logs[name]) * float(logs["tokens"]) for name in ("loss", "accuracy")}
        since = {name: sums[name] - self._before[name] for name in sums}
        self._before = sums
        if since["tokens"]:
            loss = since["loss"] / since["tokens"]
            self._record({
                "step": self.step,
                "split": "train",
                "loss": loss,
                "perplexity": math.exp(loss),
                "accuracy": since["accuracy"] / since["tokens"],
                "learning_rate": self._learning_rate(),
                "gradient_norm": float(logs["gradient_norm"]),
                "tokens_per_second": float(logs["tokens_per_second"]),
            })

    def _learning_rate(self):
        rate = self.model.optimizer.learning_rate
        return float(rate(self.step - 1) if callable(rate) else rate)


class TensorBoard(Curves):
    """Write the curves, and samples at every evaluation, for TensorBoard.

    Scalars `loss`, `perplexity`, `accuracy`, `learning_rate`, `gradient_norm` and `tokens_per_second` go to the runs `train` and
    `validation`, so that the curves of both lie over each other; text `samples` goes to `validation`.

    Args:
        log_dir: for `tensorboard --logdir`.
        log_every: steps between two points.
        sample: called at every evaluation; returns prompts and their continuations. `None` = no samples.
    """

    def __init__(self, log_dir: str | Path, log_every: int = 10, sample: Callable[[], list[tuple[str, str]]] | None = None):
        super().__init__(self._write, log_every)
        self._sample = sample
        self._writers = {split: tf.summary.create_file_writer(str(Path(log_dir) / split)) for split in ("train", "validation")}

    def on_epoch_end(self, epoch, logs=None):
        """Write the evaluation's scalars and samples."""
        super().on_epoch_end(epoch, logs)
        if self._sample:
            with self._writers["validation"].as_default(step=self.step):
                tf.summary.text("samples", [f"**{_quoted(prompt)}**{_quoted(text)}" for prompt, text in self._sample()])
        for writer in self._writers.values():
            writer.flush()

    def _write(self, row):
        with self._writers[row["split"]].as_default(step=row["step"]):
            for name in COLUMNS[2:]:
                if name in row:
                    tf.summary.scalar(name, row[name])


class CurvesFile(Curves):
    """Keep the curves in a CSV file, written whole at every evaluation, and as a PNG of the losses when training ends.

    Args:
        path: of the CSV; the picture lies beside it, with the ending .png.
        log_every: steps between two training rows.
        write_every: steps between two writings of the file; 0 = at evaluations alone.
    """

    def __init__(self, path: Path, log_every: int, write_every: int = 0):
        super().__init__(self._keep, log_every)
        self._path, self._write_every, self._rows = path, write_every, []

    def on_train_begin(self, logs=None):
        """Take over the rows of an interrupted run, up to the step it goes on from."""
        super().on_train_begin(logs)
        if self.step and self._path.exists():
            with open(self._path, newline="", encoding="utf-8") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["step"]) <= self.step]

    def on_train_batch_end(self, batch, logs=None):
        """Record the step, and write the file where a checkpoint is due, so that a resumed run has the rows up to it."""
        super().on_train_batch_end(batch, logs)
        if self._write_every and self.step % self._write_every == 0:
            self._write()

    def on_epoch_end(self, epoch, logs=None):
        """Record the evaluation and write the file."""
        super().on_epoch_end(epoch, logs)
        self._write()

    def _write(self):
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self._path, text.getvalue())

    def on_train_end(self, logs=None):
        """Draw the picture."""
        plot_losses(self._rows, self._path.with_suffix(".png"))

    def _keep(self, row):
        self._rows.append({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()})


def plot_losses(rows: list[dict], path: Path) -> None:
    """Draw training and validation loss over the steps.

    Args:
        rows: of a curves CSV, with `step`, `split` and `loss`.
        path: of the PNG.
    """
    from matplotlib.figure import Figure  # here: it takes a second, which a training without a picture need not wait for

    figure = Figure(figsize=(7, 4), dpi=100, layout="constrained")
    axes = figure.add_subplot(xlabel="optimizer step", ylabel="loss (nats a token)")
    for split, style in (("train", "-"), ("validation", "o-")):
        points = [(int(row["step"]), float(row["loss"])) for row in rows if row["split"] == split]
        if points:
            axes.plot(*zip(*points), style, label=split, markersize=4)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


def _quoted(text):
    return text.replace("\\", "\\\\").replace("*", "\\*").replace("_", "\\_").replace("\n", "  \n")
