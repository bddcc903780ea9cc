"""A metric with its uncertainty: the bootstrap's interval of one model's value, and its test of two models on the same texts.

Whole texts are drawn, never their words, which depend on each other. A metric that is no mean, such as BLEU, is computed anew of each draw.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
"""Of the bootstrap; the ends of an interval are then off by about a twentieth of its width."""


@dataclass(frozen=True)
class Metric:
    """A figure of answers to texts."""

    value_of: Callable[[np.ndarray], float]
    """Given how many times each text counts, float64 [texts], returns the figure."""
    texts: int
    """How many there are."""
    of_texts: np.ndarray | None = None
    """float64 [texts], the figure of each text alone, where it has one."""
    lower_is_better: bool = False
    diagram: tuple[dict, ...] = ()
    """Of a calibration error the rows of its reliability diagram."""
    needs_each_once: bool = False
    """Whether a text drawn twice would change what is measured, as it would the share of n-grams that differ: the jackknife then tells its uncertainty."""
    bounds: tuple[float, float] = (-math.inf, math.inf)
    """Beyond which no figure can be; the jackknife's interval ends there."""
    trials: int = 0
    """Of a share of texts that are right: among how many; 0 = it is none."""
    is_empty: bool = False
    """Whether there is nothing to measure it on, such as no error that could be corrected; its value then tells nothing."""

    @property
    def value(self) -> float:
        """The figure of all texts, each once."""
        return self.value_of(np.ones(self.texts))


def mean(values: Sequence[float], lower_is_better: bool = False) -> Metric:
    """Return the metric that is the mean of a value of each text.

    >>> mean([1.0, 0.0, 0.5]).value
    0.5
    """
    return ratio(values, np.ones(len(values)), lower_is_better=lower_is_better)


def ratio(parts: Sequence[float], wholes: Sequence[float], lower_is_better: bool = False) -> Metric:
    """Return the metric that is one sum over the texts divided by another, 0 where that is 0; a text whose whole is 0 is neither good nor bad.

    Args:
        parts: of each text, such as its errors.
        wholes: of each text, such as its words.
        lower_is_better: whether it is.

    >>> ratio([1, 3], [10, 10]).value
    0.2
    """
    parts, wholes = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)
    each = np.divide(parts, wholes, out=np.full_like(parts, np.nan), where=wholes != 0)
    is_share = all(np.isin(numbers, (0.0, 1.0)).all() for numbers in (parts, wholes))

    def value_of(counts):
        whole = float(counts @ wholes)
        return float(counts @ parts) / whole if whole else 0.0

    return Metric(value_of, len(parts), each, lower_is_better, trials=int(wholes.sum()) if is_share else 0, is_empty=not wholes.any())


def share_with_interval(hits: int, trials: int) -> dict:
    """Return a share with its 95 % Wilson score interval (Wilson 1927), which takes the trials as independent.

    >>> {key: np.round(value, 3).tolist() for key, value in share_with_interval(9, 10).items()}
    {'value': 0.9, 'interval': [0.596, 0.982]}
    """
    z, share = 1.959964, hits / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * (share * (1 - share) / trials + z * z / (4 * trials * trials)) ** 0.5
    low, high = (0.0 if not hits else middle - half), (1.0 if hits == trials else middle + half)  # exactly, which rounding would miss on either side
    return {"value": share, "interval": [low, high]}


def measured(metric: Metric, seed: int) -> dict:
    """Return `value` and its 95 % `interval`.

    By the bootstrap over texts (Efron 1979), or the jackknife where each text must be there once (Tukey 1958); of a share by Wilson's formula, since that of
    all or none has a width.

    Args:
        metric: of one text at least.
        seed: of the draws.

    >>> found = measured(mean([0.0, 1.0] * 50), seed=1)
    >>> found["value"], [round(end, 1) for end in found["interval"]]
    (0.5, [0.4, 0.6])
    """
    if metric.needs_each_once:
        interval = _by_jackknife(metric.value, _jackknife_error(metric.value_of, metric.texts))
        return {"value": metric.value, "interval": np.clip(interval, *metric.bounds).tolist()}
    if metric.trials:
        return share_with_interval(round(metric.value * metric.trials), metric.trials)
    low, high = np.quantile([metric.value_of(counts) for counts in _draws(metric.texts, seed)], [0.025, 0.975]).tolist()
    return {"value": metric.value, "interval": [low, high]}


def compared(one: Metric, other: Metric, seed: int) -> dict:
    """Return the `difference` of two models' figures on the same texts, its 95 % `interval`, and `p`, two-sided.

    `p` is how often, of draws of the same texts for both, the one that is ahead over all is not ahead, twice (Koehn 2004, "Statistical Significance
    Tests for Machine Translation Evaluation"); it is never below 1 / 1,000, what so many draws can tell, nor below `2 ** (1 - texts)`, what so few texts can
    on which the two differ: as often are the signs of all of them alike by chance (of shares that is McNemar's exact test where one is never behind).

    Args:
        one: of the first model.
        other: of the second, on the same texts in the same order.
        seed: of the draws.

    Raises:
        ValueError: of another number of texts.

    >>> found = compared(mean([1.0] * 60), mean([1.0, 0.0] * 30), seed=1)
    >>> found["difference"], found["p"]
    (0.5, 0.001)
    """
    if one.texts != other.texts:
        raise ValueError(f"compared: {one.texts} texts and {other.texts}; both models must answer the same ones")
    difference = one.value - other.value
    least = max(1 / RESAMPLES, min(2.0 ** (1 - _differing(one, other)), 1.0))
    if one.needs_each_once:
        error = _jackknife_error(lambda counts: one.value_of(counts) - other.value_of(counts), one.texts)
        p = math.erfc(abs(difference) / error / math.sqrt(2)) if error else float(not difference)
        return {"difference": difference, "interval": _by_jackknife(difference, error), "p": max(p, least)}
    drawn = np.array([one.value_of(counts) - other.value_of(counts) for counts in _draws(one.texts, seed)])
    not_ahead = np.mean(drawn * np.sign(difference) <= 0) if difference else 1.0
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return {"difference": difference, "interval": [low, high], "p": float(min(1.0, max(2 * not_ahead, least)))}


def _differing(one, other):
    """Return the number of texts on which the two have another value; of those that have none of their own, that of all."""
    if one.of_texts is None or other.of_texts is None:
        return one.texts
    either = ~(np.isnan(one.of_texts) & np.isnan(other.of_texts))
    return int(np.count_nonzero(either & (one.of_texts != other.of_texts)))


def _jackknife_error(value_of, texts):
    """Return the standard error that leaving out each text in turn tells."""
    if texts < 2:
        return 0.0
    without = []
    for text in range(texts):
        counts = np.ones(texts)
        counts[text] = 0.0
        without.append(value_of(counts))
    return math.sqrt((texts - 1) * float(np.var(without)))


def _by_jackknife(value, error):
    return [value - 1.959964 * error, value + 1.959964 * error]


def _draws(texts, seed):
    rng = np.random.default_rng(seed)
    for _ in range(RESAMPLES):
        yield np.bincount(rng.integers(texts, size=texts), minlength=texts).astype(np.float64)
