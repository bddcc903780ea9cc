"""The best and the worst that a report shows: of answers, and of texts that a head has judged."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tfgpt.evaluation.judging import Findings, probability_of_right

SHOWN = 5
"""Of the best, and of the worst."""


def ends(values: np.ndarray, lower_is_better: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the best and of the worst values, none in both; what is no number is neither.

    >>> [places.tolist() for places in ends(np.array([0.5, 0.9, np.nan, 0.1]))]
    [[1, 0], [3]]
    """
    order = np.argsort(values if lower_is_better else -values, kind="stable")
    order = order[~np.isnan(values[order])]
    shown = min(SHOWN, (len(order) + 1) // 2)
    return order[:shown], order[::-1][: min(shown, len(order) - shown)]


def best_and_worst(findings: Findings, decode: Callable[[np.ndarray], str]) -> dict:
    """Return `best` and `worst` of the texts that a head has judged.

    Args:
        findings: of a model.
        decode: returns the text of tokens.

    Returns:
        For each a list of `text`, what is `right`, what was `found`, and `value`: the probability of what is right (of several labels the least, of words
        their mean), of numbers how far off they are.
    """
    kind, chosen, of_text = findings.head.kind, _chosen(findings), _by_text(findings)
    of_each = np.abs(findings.found - findings.right) if kind == "number" else probability_of_right(findings)
    values = np.array([of_each[places].mean() for places in of_text])
    best, worst = ends(values, lower_is_better=kind == "number")

    def shown(text):
        right, found = (_named(findings, of_text[text], which, decode) for which in (findings.right, chosen))
        row = {"right": right, "found": found, "value": float(values[text])}
        return row if kind == "choice" else {"text": decode(findings.ids[text])} | row  # of a question each choice repeats the prompt

    return {"best": [shown(text) for text in best], "worst": [shown(text) for text in worst]}


def _by_text(findings) -> list[np.ndarray]:
    """Return of each text where what was judged of it stands."""
    order = np.argsort(findings.text, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(findings.text[order])) + 1)


def _chosen(findings) -> np.ndarray:
    if findings.head.kind == "number":
        return findings.found
    return findings.found > 0.5 if findings.head.kind == "labels" else findings.found.argmax(axis=1)


def _named(findings, places, which, decode) -> str:
    """Return in words what is right, or was found, of a text."""
    labels, kind = findings.head.labels, findings.head.kind
    if kind == "number":
        return ", ".join(f"{which[place]:.4g}" for place in places)
    if kind == "choice":
        return decode(findings.ids[places[0]][which[places[0]]])
    if kind == "labels":
        return " | ".join(label for label, has in zip(labels, which[places[0]]) if has) or "none"
    return " ".join(labels[which[place]] for place in places)
