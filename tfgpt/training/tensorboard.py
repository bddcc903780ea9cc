"""TensorBoard: the curves, samples, pictures of attention and of the next token, hyperparameters, the embedding projector, profiles."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import tensorflow as tf

from tfgpt.files import write_text
from tfgpt.training.control import StepCallback
from tfgpt.training.curves import COLUMNS, Curves, RunFigures

PROJECTED_TOKENS = 5000
"""The first ones of the vocabulary, the most frequent; more would make the page slow."""


class TensorBoard(Curves):
    """Write the curves, and samples and pictures at every evaluation, for TensorBoard.

    Scalars go to the runs `train` and `validation`, so that the curves of both lie over each other; text `samples` and images to `validation`.

    Args:
        log_dir: for `tensorboard --logdir`.
        log_every: steps between two points.
        sample: called at every evaluation; returns prompts and their continuations. `None` = no samples.
        figures: see `Curves`.
        draw: called at every evaluation; returns PNG pictures by name. `None` = none.
        hparams: numbers and texts that runs are compared by.
    """

    def __init__(self, log_dir: str | Path, log_every: int = 10, sample: Callable[[], list[tuple[str, str]]] | None = None,
                 figures: RunFigures | None = None, draw: Callable[[], dict[str, bytes]] | None = None, hparams: dict | None = None):
        super().__init__(self._write, log_every, figures)
        self._sample, self._draw, self._hparams = sample, draw, hparams
        self._writers = {split: tf.summary.create_file_writer(str(Path(log_dir) / split)) for split in ("train", "validation")}

    def on_train_begin(self, logs=None):
        """Write the hyperparameters."""
        super().on_train_begin(logs)
        if self._hparams:
            from tensorboard.plugins.hparams import api

            with self._writers["validation"].as_default():
                api.hparams(self._hparams)

    def on_epoch_end(self, epoch, logs=None):
        """Write the evaluation's scalars, samples and pictures."""
        super().on_epoch_end(epoch, logs)
        with self._writers["validation"].as_default(step=self.step):
            if self._sample:
                tf.summary.text("samples", [f"**{_quoted(prompt)}**{_quoted(text)}" for prompt, text in self._sample()])
            for name, png in (self._draw() if self._draw else {}).items():
                tf.summary.image(name, tf.io.decode_png(png, channels=3)[tf.newaxis])
        for writer in self._writers.values():
            writer.flush()

    def _write(self, row):
        with self._writers[row["split"]].as_default(step=row["step"]):
            for name in COLUMNS[2:]:
                if name in row:
                    tf.summary.scalar(name, row[name])


class Profile(StepCallback):
    """Profile some steps, for TensorBoard's profile page (package tensorboard-plugin-profile).

    Args:
        log_dir: where the profile is written, below plugins/profile.
        first: number of the first step that is profiled, from 1.
        last: number of the last one.
    """

    def __init__(self, log_dir: str | Path, first: int, last: int):
        super().__init__()
        self._log_dir, self._first, self._last, self._on = str(log_dir), first, last, False

    def on_train_batch_begin(self, batch, logs=None):
        """Begin."""
        if self.step + 1 == self._first:
            tf.profiler.experimental.start(self._log_dir)
            self._on = True

    def on_train_batch_end(self, batch, logs=None):
        """End."""
        super().on_train_batch_end(batch, logs)
        if self._on and self.step >= self._last:
            self._end(logs)

    def on_epoch_end(self, epoch, logs=None):
        """End before an evaluation, which is not meant."""
        self._end(logs)

    def _end(self, logs):
        if self._on:
            float(logs["loss"])  # waits for the device
            tf.profiler.experimental.stop()
            self._on = False


def write_projector(log_dir: Path, embeddings: tf.Tensor, tokens: Sequence[str]) -> None:
    """Write token embeddings for TensorBoard's projector.

    Args:
        log_dir: a run's folder.
        embeddings: float32 [vocab, width].
        tokens: their texts; the first 5,000 are shown.
    """
    from tensorboard.plugins import projector

    count = min(len(tokens), PROJECTED_TOKENS)
    rows = ["\t".join(f"{value:.5g}" for value in row) for row in embeddings[:count].numpy()]
    write_text(log_dir / "embeddings.tsv", "\n".join(rows) + "\n")
    write_text(log_dir / "tokens.tsv", "\n".join(repr(token)[1:-1] for token in tokens[:count]) + "\n")
    config = projector.ProjectorConfig()
    config.embeddings.add(tensor_name="token embeddings", tensor_path="embeddings.tsv", metadata_path="tokens.tsv")
    projector.visualize_embeddings(str(log_dir), config)


def _quoted(text):
    return text.replace("\\", "\\\\").replace("*", "\\*").replace("_", "\\_").replace("\n", "  \n")
