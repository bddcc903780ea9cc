"""Temperature scaling: one number that makes a classifier as sure as it is right, found on texts that it was neither trained nor measured on.

Training makes a model surer than it is right, since it goes on to raise the probability of what it has learned by heart. Divided by a temperature, its
outputs keep their order, so that no answer changes.
"""
from __future__ import annotations

import numpy as np

LEAST, MOST = 0.25, 16.0
"""Temperatures between which the best is looked for: where all of a few texts are right, it would be 0, and the classifier sure of everything."""


def fit_temperature(outputs: np.ndarray, right: np.ndarray) -> float:
    """Return the temperature with which the outputs have the least loss.

    The loss is convex in 1 / temperature, so that halving the place where its slope changes sign finds it.

    Args:
        outputs: float [texts, labels], before they are made probabilities.
        right: int [texts], the number of the class, whose probabilities are a softmax; or bool [texts, labels], which labels each has, each probability a
            sigmoid.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.

    >>> outputs = np.array([[4.0, 0.0]] * 4)                       # as if 98 % sure, and right in three of four
    >>> temperature = fit_temperature(outputs, np.array([0, 0, 0, 1]))
    >>> round(float(1 / (1 + np.exp(-4.0 / temperature))), 3)
    0.75
    """
    outputs, sigmoids = np.asarray(outputs, np.float64), right.ndim == 2
    of_right = outputs * right if sigmoids else outputs[np.arange(len(right)), right][:, np.newaxis]

    def slope(inverse):
        """Return the derivative of the loss by 1 / temperature."""
        if sigmoids:
            expected = outputs / (1.0 + np.exp(np.clip(-inverse * outputs, -500.0, 500.0)))
        else:
            exponents = np.exp(inverse * (outputs - outputs.max(axis=1, keepdims=True)))
            expected = (exponents * outputs).sum(axis=1, keepdims=True) / exponents.sum(axis=1, keepdims=True)
        return float((expected - of_right).sum())

    low, high = np.log(1 / MOST), np.log(1 / LEAST)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(np.exp(middle)) > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))
