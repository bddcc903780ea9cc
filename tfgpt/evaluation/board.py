"""An evaluation in TensorBoard: its figures as scalars of the run `evaluation`, its pictures, and its best and worst answers as texts."""
from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from tfgpt.evaluation.pictures import pictures_of

FIGURES = ("loss", "perplexity", "bits_per_byte")


def write_to_tensorboard(log_dir: Path, evaluation: dict, step: int) -> None:
    """Write an evaluation where `tensorboard --logdir` sees it beside the curves; what an earlier one wrote there is removed.

    Args:
        log_dir: of the evaluation alone, such as logs/evaluation.
        evaluation: content of evaluation.json.
        step: optimizer steps after which it was made, so that it lies at the end of the curves.
    """
    shutil.rmtree(log_dir, ignore_errors=True)
    writer = tf.summary.create_file_writer(str(log_dir))
    with writer.as_default(step=step):
        for name, value in scalars_of(evaluation):
            tf.summary.scalar(name, value)
        for name, png in pictures_of(evaluation).items():
            tf.summary.image(name, tf.io.decode_png(png, channels=3)[tf.newaxis])
        for which in ("best", "worst"):
            if shown := evaluation.get("task", {}).get(which):
                tf.summary.text(f"{which} answers", ["```\n" + json.dumps(one, indent=1, ensure_ascii=False) + "\n```" for one in shown])
    writer.close()


def scalars_of(evaluation: dict) -> Iterator[tuple[str, float]]:
    """Yield the names and values of all figures.

    >>> list(scalars_of({"loss": 1.5, "metrics": {"f1": {"value": 0.5}}, "baseline": {"name": "n-gram", "loss": 2.0}}))
    [('loss', 1.5), ('metrics/f1', 0.5), ('baseline/loss', 2.0)]
    """
    baseline = evaluation.get("baseline", {})
    parts = [("", evaluation), ("baseline/", baseline), ("head/", evaluation.get("head", {}))]
    parts += [(f"general_{when}/", evaluation.get("general", {}).get(when, {})) for when in ("before", "after")]
    for prefix, part in parts:
        yield from ((prefix + name, part[name]) for name in FIGURES if name in part)
        yield from ((f"{prefix}metrics/{name}", of["value"]) for name, of in part.get("metrics", {}).items())
