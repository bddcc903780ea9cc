"""Pictures of an evaluation, for the report and for TensorBoard: a reliability diagram, and a confusion matrix."""
from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from tfgpt.text.drawable import drawable

MOST_LABELS = 40
"""Of a confusion matrix; the names and counts of more could not be read."""


def pictures_of(evaluation: dict) -> dict[str, bytes]:
    """Return PNG pictures by name of what an evaluation.json holds: `reliability` and `confusion`, or none.

    >>> rows = [{"confidence": 0.9, "accuracy": 0.8, "count": 10}]
    >>> pictures_of({"task": {"reliability": rows}})["reliability"][1:4]
    b'PNG'
    """
    found = {}
    for part in (evaluation.get("task", {}), evaluation.get("head", evaluation)):
        if part.get("reliability"):
            found["reliability"] = reliability_diagram(part["reliability"])
        if "confusion" in part and len(part["confusion"]["labels"]) <= MOST_LABELS:
            found["confusion"] = confusion_matrix(part["confusion"]["labels"], part["confusion"]["rows"])
    return found


def reliability_diagram(rows: Sequence[dict]) -> bytes:
    """Draw how often answers of each confidence are right; the diagonal is a model that knows what it knows.

    Args:
        rows: with `confidence`, `accuracy` and `count` (see `tfgpt.evaluation.text_metrics.calibration_error`).
    """
    confidence, accuracy, count = (np.array([row[key] for row in rows]) for key in ("confidence", "accuracy", "count"))
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#999", linestyle="--", linewidth=1)
    axes.plot(confidence, accuracy, color="#1f5fa8", linewidth=1.2)
    axes.scatter(confidence, accuracy, s=20 + 380 * count / count.sum(), color="#1f5fa8", alpha=0.6)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence of the answer", ylabel="share that is right")
    return _png(figure)


def confusion_matrix(labels: Sequence[str], rows: Sequence[Sequence[int]]) -> bytes:
    """Draw how often each label was found where each is right, shaded by its share of what is right.

    Args:
        labels: of rows and columns.
        rows: right in rows, found in columns.
    """
    counts = np.array(rows, float)
    shares = np.divide(counts, counts.sum(axis=1, keepdims=True), out=np.zeros_like(counts), where=counts.sum(axis=1, keepdims=True) > 0)
    side = 2.5 + 0.42 * len(labels)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="found", ylabel="right")
    axes.set_xticks(range(len(labels)), map(drawable, labels), rotation=90)
    axes.set_yticks(range(len(labels)), map(drawable, labels))
    for right, found in np.argwhere(counts > 0):
        axes.text(found, right, f"{int(counts[right, found])}", ha="center", va="center", fontsize=8, color="white" if shares[right, found] > 0.5 else "black")
    return _png(figure)


def _png(figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
