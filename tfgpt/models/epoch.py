"""What a model counts over an epoch, and what it logs of it."""
from __future__ import annotations

import time
from typing import NamedTuple

import tensorflow as tf

from tfgpt.models.adaptation import Head
from tfgpt.models.heads import HeadTerms
from tfgpt.models.loss import LossTerms


class RunningSums:
    """Sums over an epoch and all replicas, in one variable. No Keras layer, so that it is not taken for a weight of the model."""

    names = (*HeadTerms._fields, "gradient_norm", "steps", "padding", "places")

    def __init__(self):
        self._sums = tf.Variable(tf.zeros([len(self.names)], tf.float64), trainable=False, name="running_sums",
                                 aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)

    def reset(self):
        """Start anew."""
        self._sums.assign(tf.zeros_like(self._sums))

    def add(self, **terms):
        """Add what all replicas together have, by name, and return the sums so far, float64 []."""
        assert not terms.keys() - set(self.names)
        self._sums.assign_add(tf.stack([tf.cast(terms.get(name, 0), tf.float64) for name in self.names]))
        return dict(zip(self.names, tf.unstack(tf.convert_to_tensor(self._sums))))


class Figure(NamedTuple):
    """One of the numbers that a model has logged, as a Keras metric is asked: so Keras knows that it is of the epoch so far, and averages it no more."""

    name: str
    value: tf.Tensor | float

    def result(self) -> tf.Tensor | float:
        """Return what the last step logged."""
        return self.value


def _at_hand(number: tf.Tensor) -> float | tf.Tensor:
    """Return Python's number of one in the processor's memory, since operations on it take 0.5 ms a step; one elsewhere is not waited for."""
    return float(number) if "CPU" in number.backing_device else number


class Clock:
    """Measures tokens a second over an epoch, without its first call, which may trace and compile, where there are more; and keeps what was logged last."""

    def __init__(self):
        self.reset()

    def reset(self):
        """Start anew."""
        self._since, self._first, self.logs = None, 0.0, {}

    def timed(self, step):
        """Return a train or test function whose logs have `tokens_per_second` beside `tokens`; others are left as they are."""

        def timed(iterator):
            start = time.perf_counter()
            logs = step(iterator)
            now = time.perf_counter()
            if "tokens" not in logs:                                                      # of a step that a subclass has of its own
                return logs
            tokens = _at_hand(logs["tokens"])
            if self._since is None:
                self._since, self._first = now, tokens
                rate = tokens / (now - start)
            else:
                rate = (tokens - self._first) / (now - self._since)
            self.logs = dict(logs) | {"tokens_per_second": rate}
            return self.logs

        return timed

    @property
    def figures(self) -> list[Figure]:
        """What was logged last, the loss first, as Keras returns it from `evaluate`."""
        return [Figure(name, self.logs[name]) for name in sorted(self.logs, key=lambda name: name != "loss")]


def logged(head: Head, terms: LossTerms | HeadTerms, sums: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Return what is logged, float32 [], by the sums so far of such terms: means over tokens, and over what a head judges."""
    tokens, loss = tf.cast(sums["tokens"], tf.float32), share(sums, "loss", terms.counted)
    accuracy = {} if head.kind == "number" and terms.counted == "judged" else {"accuracy": share(sums, "correct", terms.counted)}
    if terms.counted == "tokens":
        return {"loss": loss, "perplexity": tf.exp(loss), **accuracy, "tokens": tokens}
    counts = {"tokens": tokens, "judged": tf.cast(sums["judged"], tf.float32)}
    if (weight := head.weight) == 1:
        return {"loss": loss, **accuracy, **counts}
    language = share(sums, "language_loss", "language_tokens")
    counts["language_tokens"] = tf.cast(sums["language_tokens"], tf.float32)
    return {"loss": weight * loss + (1.0 - weight) * language, "head_loss": loss, "language_loss": language, "perplexity": tf.exp(language),
            **accuracy, **counts}


def share(sums: dict[str, tf.Tensor], part: str, whole: str) -> tf.Tensor:
    """Return one sum divided by another, float32 []; NaN of nothing, which is no perfect loss and no norm of 0."""
    return tf.cast(sums[part] / sums[whole], tf.float32)
