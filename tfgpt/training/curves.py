"""The curves of a training: taken from `fit`, kept as CSV and picture."""
from __future__ import annotations

import csv
import io
import math
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from tfgpt.files import write_text
from tfgpt.training.control import StepCallback

COLUMNS = ("step", "split", "loss", "perplexity", "bits_per_byte", "accuracy", "learning_rate", "gradient_norm", "weight_norm", "tokens_per_second",
           "utilization", "memory_gigabytes", "padding", "head_loss", "language_loss")


@dataclass(frozen=True)
class RunFigures:
    """What a run knows of its data and its machine, for figures that a model alone cannot give."""

    bytes_per_token: dict[str, float]
    """Of text, by split; empty where it says nothing of the loss."""
    flops_per_token: int
    """Of a training step."""
    peak_flops: float
    """Floating-point operations a second of a large matrix product, on all devices together."""


class Curves(StepCallback):
    """Hand the training and validation figures to `record`, each with its step.

    Training figures are of the steps since the last record, not of the whole epoch: sums are taken apart again.

    Args:
        record: called with a dict of `COLUMNS`; some are of the training alone, and some need `figures`.
        log_every: steps between two training records.
        figures: of the run, for bits per byte and utilization; `None` = without them.
    """

    def __init__(self, record: Callable[[dict], None], log_every: int, figures: RunFigures | None = None):
        super().__init__()
        self._record, self._log_every, self._figures = record, log_every, figures
        self._before: dict[str, float] = {}

    def on_epoch_begin(self, epoch, logs=None):
        """Start anew with Keras's sums."""
        self._before = {}

    def on_train_batch_end(self, batch, logs=None):
        """Record every `log_every` steps; only then are the figures fetched from the device."""
        super().on_train_batch_end(batch, logs)
        if self.step % self._log_every == 0:
            self._record_training(logs)

    def on_epoch_end(self, epoch, logs=None):
        """Record the evaluation, and what was trained since the last record."""
        self._record_training(logs)
        if "val_loss" in logs:
            values = {name: float(logs[f"val_{name}"]) for name in (*_means(logs), "loss", "tokens_per_second")}
            self._record({"step": self.step, "split": "validation"} | values | self._of_loss("validation", values, logs))

    def _record_training(self, logs):
        means = _means(logs)
        counts = {count: float(logs[count]) for count in ("tokens", *means.values())}
        sums = counts | {name: float(logs[name]) * counts[count] if counts[count] else 0.0 for name, count in means.items()}
        since = {name: value - self._before.get(name, 0.0) for name, value in sums.items()}
        self._before = sums
        if since["tokens"]:
            values = {name: since[name] / since[count] for name, count in means.items()}
            if "head_loss" in values:
                share = self.model.adaptation.head.weight
                values["loss"] = share * values["head_loss"] + (1.0 - share) * values["language_loss"]
            rate = float(logs["tokens_per_second"])
            self._record({
                "step": self.step,
                "split": "train",
                **values,
                **self._of_loss("train", values, logs),
                "learning_rate": float(self.model.optimizer.learning_rate.numpy()),
                "gradient_norm": float(logs["gradient_norm"]),
                "weight_norm": float(tf.linalg.global_norm([tf.convert_to_tensor(variable) for variable in self.model.trainable_variables])),
                "tokens_per_second": rate,
                **({"utilization": rate * self._figures.flops_per_token / self._figures.peak_flops} if self._figures else {}),
                "memory_gigabytes": memory_gigabytes(),
                "padding": float(logs["padding"]),
            })

    def _of_loss(self, split, values, logs):
        """Return the figures that follow from a language model's loss."""
        if "judged" in logs and "language_loss" not in values:
            return {}
        loss, bytes_per_token = values.get("language_loss", values["loss"]), self._figures.bytes_per_token if self._figures else {}
        per_byte = {"bits_per_byte": loss / math.log(2) / bytes_per_token[split]} if split in bytes_per_token else {}
        return {"perplexity": math.exp(min(loss, 88.0))} | per_byte  # TensorBoard's float32 end at exp(88.7)


def _means(logs):
    """Return the means among logs, each with the count that it is over."""
    if "head_loss" in logs:
        over = {"head_loss": "judged", "language_loss": "language_tokens", "accuracy": "judged"}
    else:
        over = dict.fromkeys(("loss", "accuracy"), "judged" if "judged" in logs else "tokens")
    return {name: count for name, count in over.items() if name in logs}


class CurvesFile(Curves):
    """Keep the curves in a CSV file, written whole at every evaluation, and as a PNG of the losses when training ends.

    Args:
        path: of the CSV; the picture lies beside it, with the ending .png.
        log_every: steps between two training rows.
        write_every: steps between two writings of the file; 0 = at evaluations alone.
        figures: see `Curves`.
    """

    def __init__(self, path: Path, log_every: int, write_every: int = 0, figures: RunFigures | None = None):
        super().__init__(self._keep, log_every, figures)
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
            self.write()

    def on_epoch_end(self, epoch, logs=None):
        """Record the evaluation and write the file."""
        super().on_epoch_end(epoch, logs)
        self.write()

    def write(self) -> None:
        """Write the file."""
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


def memory_gigabytes() -> float:
    """Return the most memory that this process has held: of its GPUs if it has any, else of the machine."""
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        return sum(tf.config.experimental.get_memory_info(gpu.name.removeprefix("/device:"))["peak"] for gpu in gpus) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9  # Linux counts in kilobytes


def plot_losses(rows: list[dict], path: Path) -> None:
    """Draw training and validation loss over the steps.

    Args:
        rows: of a curves CSV, with `step`, `split` and `loss`.
        path: of the PNG.
    """
    from matplotlib.figure import Figure  # here: it takes a second, which a training without a picture need not wait for

    figure = Figure(figsize=(7, 4), dpi=100, layout="constrained")
    axes = figure.add_subplot(xlabel="optimizer step", ylabel="loss (nats)")
    for split, style in (("train", "-"), ("validation", "o-")):
        points = [(int(row["step"]), float(row["loss"])) for row in rows if row["split"] == split]
        if points:
            axes.plot(*zip(*points), style, label=split, markersize=4)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
