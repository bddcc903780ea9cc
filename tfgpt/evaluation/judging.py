"""Figures of what judges texts: a model's head, or a baseline. Both give findings on the same texts, which are measured alike.

The intervals are of the bootstrap (Efron 1979), over whole texts, since the words of a text depend on each other.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tfgpt.data.packing import IGNORED
from tfgpt.evaluation.metrics import Metric, measured, share_with_interval
from tfgpt.evaluation.text_metrics import calibration_error
from tfgpt.models.adaptation import Head

RESAMPLES = 1000
"""Of the bootstrap; the ends of an interval are then off by about a twentieth of its width."""
LEAST_PROBABILITY = 1e-9
"""That a loss counts with, so that one impossible text does not make it infinite."""


@dataclass(frozen=True)
class Findings:
    """What was found of texts, words or questions, beside what is right."""

    head: Head
    right: np.ndarray
    """classes, tags, choice: int64 [judged]; labels: bool [judged, labels]; number: float64 [judged], the number itself."""
    found: np.ndarray
    """classes, tags, choice: float64 [judged, classes or choices], probabilities; labels: float64 [judged, labels], of each; number: float64 [judged]."""
    text: np.ndarray
    """int64 [judged], the text that each belongs to, from 0."""
    ids: tuple = ()
    """Tokens of each text, int32 [length]; of a question one such array for each of its choices. Empty for findings that are not a model's."""


def find(model, targets: np.ndarray | None, batches: tf.data.Dataset, advance: Callable[[], None] = lambda: None) -> Findings:
    """Return what a model's head finds.

    Args:
        model: a `GPTLMHeadModel` with a head.
        targets: of `tfgpt.models.heads.targets_of`.
        batches: of packed sequences, with `head_labels`.
        advance: called after each batch.
    """
    outputs, labels, texts, ids = [], [], [], []
    graph = tf.function(model.head_outputs, autograph=False)
    for batch in batches:
        given, segments = batch["head_labels"].numpy(), batch["segment_ids"].numpy()
        judged = given != IGNORED
        distinct, text = np.unique(np.stack([np.nonzero(judged)[0], segments[judged]]), axis=1, return_inverse=True)
        outputs.append(graph(batch).numpy()[judged])
        labels.append(given[judged])
        texts.append(text.reshape(-1) + len(ids))
        ids += [batch["input_ids"].numpy()[row][segments[row] == segment] for row, segment in distinct.T]
        advance()
    return _findings(model.adaptation.head, *map(np.concatenate, (outputs, labels, texts)), tuple(ids), targets)


def _findings(head, outputs, labels, texts, ids, targets) -> Findings:
    outputs = outputs.astype(np.float64)
    if head.kind == "choice":
        return _of_choices(head, outputs[:, 0], labels, [ids[text] for text in texts])
    if head.kind == "number":
        right, found = (head.center + head.spread * values.astype(np.float64) for values in (targets[labels], outputs[:, 0]))
        return Findings(head, right, found, texts, ids)
    outputs = outputs / head.temperature
    if head.kind == "labels":
        return Findings(head, targets[labels] > 0, 1.0 / (1.0 + np.exp(-outputs)), texts, ids)
    return Findings(head, targets[labels].astype(np.int64), _softmax(outputs), texts, ids)


def _of_choices(head, scores, labels, ids) -> Findings:
    """Put the choices of each question, which follow on each other, into a row."""
    question = np.cumsum(labels // 2 == 0) - 1
    table = np.full([question.max() + 1, labels.max() // 2 + 1], -np.inf)
    table[question, labels // 2] = scores
    right = np.zeros(len(table), np.int64)
    right[question[labels % 2 == 1]] = labels[labels % 2 == 1] // 2
    of_questions = tuple(tuple(ids[place] for place in np.flatnonzero(question == one)) for one in range(len(table)))
    return Findings(head, right, _softmax(table), np.arange(len(table)), of_questions)


def _softmax(logits):
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def measure(findings: Findings, seed: int) -> dict:
    """Return what is known of findings.

    Args:
        findings: of one or more texts.
        seed: of the bootstrap.

    Returns:
        `loss`; `metrics` by name, each with `value` and 95 % `interval`; of probabilities `reliability`, the rows of that diagram; of classes and tags
        `confusion`: right in rows, found in columns.
    """
    texts = int(findings.text.max()) + 1
    values = figures_of(findings, np.ones(len(findings.right)))
    rng, draws = np.random.default_rng(seed), {name: [] for name in values}
    for _ in range(RESAMPLES):
        drawn = np.bincount(rng.integers(texts, size=texts), minlength=texts)
        for name, value in figures_of(findings, drawn[findings.text].astype(float)).items():
            draws[name].append(value)
    found = {name: {"value": value, "interval": np.quantile(draws[name], [0.025, 0.975]).tolist()} for name, value in values.items()}
    if findings.head.kind == "number":
        return {"loss": mean_loss(findings), "metrics": found}
    if texts == len(findings.right):  # each is judged once, so that it is a share: that of all or none has an interval too
        found["accuracy"] = share_with_interval(round(values["accuracy"] * texts), texts)
    error = calibration(findings)
    found["calibration error"] = measured(error, seed)
    return {"loss": mean_loss(findings), "metrics": found, "reliability": list(error.diagram)} | _confusion(findings)


def mean_loss(findings: Findings) -> float:
    """Return nats a text (word, question); of numbers half the squared error in standard deviations of those trained on."""
    right, found = findings.right, findings.found
    if findings.head.kind == "number":
        return float(np.mean(0.5 * np.square((found - right) / findings.head.spread)))
    if findings.head.kind == "labels":
        of_right = np.where(right, found, 1.0 - found)
        return float(-np.log(np.maximum(of_right, LEAST_PROBABILITY)).sum(axis=1).mean())
    return float(-np.log(np.maximum(found[np.arange(len(right)), right], LEAST_PROBABILITY)).mean())


def figures_of(findings: Findings, weights: np.ndarray) -> dict[str, float]:
    """Return the metrics of findings that count so many times each, float64 [judged]: scikit-learn's, from counts, in a hundredth of its time."""
    right, found, kind = findings.right, findings.found, findings.head.kind
    if kind == "number":
        spread = np.average(np.square(right - np.average(right, weights=weights)), weights=weights)
        error = np.average(np.square(right - found), weights=weights)
        return {"mean absolute error": float(np.average(np.abs(right - found), weights=weights)), "R2": float(1.0 - error / spread) if spread else 0.0}
    chosen = found > 0.5 if kind == "labels" else found.argmax(axis=1)
    hits = (right == chosen).all(axis=1) if kind == "labels" else right == chosen
    accuracy = float(np.average(hits, weights=weights))
    if kind == "choice":
        return {"accuracy": accuracy}
    both, of_right, of_found = _counts(findings, chosen, weights)
    there = of_right + of_found > 0                                                       # a label that is neither right nor found has no F1
    of_each = np.divide(2.0 * both, of_right + of_found, out=np.zeros(len(both)), where=there)
    each = {f"F1 of {label}": float(value) for label, value in zip(findings.head.labels, of_each)}
    return {"accuracy": accuracy, "macro F1": float(of_each[there].mean()) if there.any() else 0.0} | each


def probability_of_right(findings: Findings) -> np.ndarray:
    """Return float64 [judged], of each the probability that what is right was given, of several labels the least; not of numbers."""
    if findings.head.kind == "labels":
        return np.where(findings.right, findings.found, 1.0 - findings.found).min(axis=1)
    return findings.found[np.arange(len(findings.right)), findings.right]


def calibration(findings: Findings) -> Metric:
    """Return the calibration error of the confidence in what is judged, or in each of its labels that it has or has not; not of numbers."""
    if findings.head.kind != "labels":
        return calibration_error(findings.found.max(axis=1), findings.found.argmax(axis=1) == findings.right, texts=findings.text)
    sure, hits = np.maximum(findings.found, 1.0 - findings.found), (findings.found > 0.5) == findings.right
    return calibration_error(sure.ravel(), hits.ravel(), texts=np.repeat(findings.text, findings.found.shape[1]))


def _counts(findings, chosen, weights):
    """Return of each label how often it is right and found, right, and found, float64 [labels] each."""
    if findings.head.kind == "labels":
        return weights @ (findings.right & chosen), weights @ findings.right, weights @ chosen
    table = _table(findings, chosen, weights)
    return np.diag(table), table.sum(axis=1), table.sum(axis=0)


def _table(findings, chosen, weights):
    """Return how often each class was found where each is right, float64 [right, found]."""
    size = len(findings.head.labels)
    return np.bincount(findings.right * size + chosen, weights, size * size).reshape(size, size)


def _confusion(findings):
    if findings.head.kind not in ("classes", "tags"):
        return {}
    table = _table(findings, findings.found.argmax(axis=1), np.ones(len(findings.right)))
    return {"confusion": {"labels": list(findings.head.labels), "rows": table.astype(int).tolist()}}
