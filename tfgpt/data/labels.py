"""The labels of prepared data: their names, and how often each occurs."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from tfgpt.data.packing import IGNORED
from tfgpt.data.pipeline import evaluation_batches
from tfgpt.data.shards import ShardedData


def read_labels(folder: str | Path) -> list[str]:
    """Return the lines of labels.txt in a folder of prepared data; none where its examples have no labels with names."""
    path = Path(folder) / "labels.txt"
    return path.read_text("utf-8").split("\n")[:-1] if path.is_file() else []


def count_labels(folder: str | Path) -> dict[str, int]:
    """Return the labels of labels.txt, in order, with how often each is a label of the training part."""
    names = read_labels(folder)
    counts = np.zeros(len(names), np.int64)
    for batch in evaluation_batches(ShardedData(folder), "train", 256) if names else ():
        labels = batch["labels"].numpy()
        counts += np.bincount(labels[labels != IGNORED], minlength=len(names))
    return dict(zip(names, counts.tolist()))
