"""Output layers beside the language model's: classes of a text, any number of labels, a number, classes of its words, the right one of several choices.

A head reads the final hidden state of the last token of what it judges. Its batches have `head_labels` where others have `labels`; beside a language
model (a weight below 1) the next tokens, which that model is trained on, are taken from the same batch.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from tfgpt.models.adaptation import Head
from tfgpt.models.dropout import Dropout, DropoutClock
from tfgpt.models.loss import IGNORED
from tfgpt.recipe import HeadConfig

SALT = 2**18
"""Of the dropout before a head; those of the blocks and of LoRA have lower ones."""


class HeadTerms(NamedTuple):
    """Sums over a batch for a head; callers add up and divide once: by `judged` what is the head's, by `language_tokens` the language model's."""

    objective: tf.Tensor
    """float32 [], what is differentiated; see `GPTLMHeadModel.loss_terms` for how the two losses are brought to one divisor."""
    loss: tf.Tensor
    """float32 [], the head's: nats, or half the squared error of a number in standard deviations."""
    tokens: tf.Tensor
    """int64 [], read; padding does not count."""
    correct: tf.Tensor
    """int64 [], judged rightly: no other class likelier, all labels of a text right, no other choice likelier; 0 for numbers."""
    judged: tf.Tensor
    """int64 [], texts, words or questions that have a label."""
    language_loss: tf.Tensor
    """float32 [], the cross-entropy of the next tokens, in nats; 0 without a language model beside the head."""
    language_tokens: tf.Tensor
    """int64 []."""
    language_correct: tf.Tensor
    """int64 []."""

    dtypes = (tf.float32, tf.float32, tf.int64, tf.int64, tf.int64, tf.float32, tf.int64, tf.int64)
    counted = "judged"
    """What a mean loss is over."""

    @property
    def divisor(self) -> tf.Tensor:
        """What the summed objective is divided by."""
        return self.judged


class Judged(NamedTuple):
    """A head's sums over a batch, as in `HeadTerms`."""

    objective: tf.Tensor
    loss: tf.Tensor
    correct: tf.Tensor
    count: tf.Tensor


class TaskHead(tf_keras.layers.Layer):
    """A dense layer on hidden states, named `head`; always float32, so that no class is lost to rounding.

    Args:
        shape: what it finds.
        width: of the hidden states.
        clock: of the model's dropouts.
    """

    def __init__(self, shape: Head, width: int, clock: DropoutClock):
        super().__init__(name="head")
        self._shape, self._dropout = [width, shape.outputs], Dropout(shape.dropout, clock, SALT)

    def build(self, input_shape=None):
        """Make `weight` [width, outputs] and `bias` [outputs]."""
        if self.built:
            return
        self.built = True
        self.weight = self.add_weight("weight", shape=self._shape, dtype=tf.float32)
        self.bias = self.add_weight("bias", shape=self._shape[1:], dtype=tf.float32, initializer="zeros")

    def call(self, hidden, training=False):
        """Return float32 [..., outputs] of hidden states, float [..., width]."""
        rows = self._dropout(tf.cast(hidden, tf.float32), training)
        return tf.tensordot(rows, tf.convert_to_tensor(self.weight), axes=1) + self.bias


def head_of(config: HeadConfig, labels: Mapping[str, int] | Sequence[str]) -> Head:
    """Return the head that a recipe asks for.

    Args:
        config: of the recipe.
        labels: as data is labelled, in the order of labels.txt; perhaps with how often each occurs, by which the mean of numbers is taken.

    Raises:
        ValueError: too few labels, one that stands twice, or one that is no number.

    >>> head_of(HeadConfig("labels"), ["a|b", "|", "c"]).labels
    ('a', 'b', 'c')
    """
    names, center, spread = tuple(labels), 0.0, 1.0
    if config.kind == "labels":
        names = tuple(sorted({name for value in labels for name in names_of(value)}))
    elif config.kind == "number":
        counts = [labels[name] for name in names] if isinstance(labels, Mapping) else [1] * len(names)
        numbers, names = [number_of(value, line) for line, value in enumerate(names, 1)], ()
        center = float(np.average(numbers, weights=counts))
        spread = float(np.sqrt(np.average(np.square(np.subtract(numbers, center)), weights=counts))) or 1.0
    elif config.kind == "choice":
        names = ()
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"adapt.head.kind: the label {twice[0]!r} stands twice among those of the {config.kind}; give each once")
    least = {"classes": 2, "tags": 2, "labels": 1}.get(config.kind, 0)
    if len(names) < least:
        raise ValueError(f"adapt.head.kind: {config.kind} needs {least} labels or more to tell apart, and the data has {len(names)} "
                         f"({', '.join(names) or 'none'}); look at data.columns.label")
    return Head(config.kind, names, config.weight, config.dropout, center, spread)


def for_head(batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Return a packed batch of data.examples labels, numbers, tags or choice as a head takes it: its `labels` are `head_labels`."""
    return {"head_labels" if key == "labels" else key: value for key, value in batch.items()}


def for_language(batch: Mapping[str, tf.Tensor], head: Head, end_of_text: int) -> dict[str, tf.Tensor]:
    """Return a batch with `head_labels` as a language model takes it: its `labels` are the next tokens."""
    return {key: value for key, value in batch.items() if key != "head_labels"} | {"labels": next_tokens(head, batch, end_of_text)}


def targets_of(head: Head, values: Sequence[str]) -> np.ndarray | None:
    """Return what a head is to find for each label of prepared data.

    Args:
        head: what it finds.
        values: lines of data/labels.txt.

    Returns:
        classes, tags: int32 [values], the number of the class; labels: float32 [values, labels], 1 for those it has; number: float32 [values], in
        standard deviations from the mean; choice: `None`.

    Raises:
        ValueError: a label that the head does not know, or that is no number.

    >>> targets_of(Head("labels", ("a", "b", "c")), ["c|a", "|"]).tolist()
    [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    if head.kind == "choice":
        return None
    if head.kind == "number":
        return np.array([(number_of(value, line) - head.center) / head.spread for line, value in enumerate(values, 1)], np.float32)
    places = {label: place for place, label in enumerate(head.labels)}
    if head.kind != "labels":
        return np.array([places[_known(value, places, line)] for line, value in enumerate(values, 1)], np.int32)
    table = np.zeros([len(values), len(places)], np.float32)
    for line, value in enumerate(values, 1):
        table[line - 1, [places[_known(name, places, line)] for name in names_of(value)]] = 1.0
    return table


def names_of(value: str) -> list[str]:
    """Return the labels of a text that has any number of them, written with | between them.

    >>> names_of("sport | news"), names_of("|")
    (['sport', 'news'], [])
    """
    return [name.strip() for name in value.split("|") if name.strip()]


def number_of(value: str, line: int) -> float:
    """Return the number that a line of labels.txt holds.

    Raises:
        ValueError: it holds none.
    """
    try:
        return float(value)
    except ValueError as error:
        raise ValueError(f"labels.txt:{line}: {value!r} is no number; prepare the data with data.examples numbers") from error


def _known(name, places, line):
    if name not in places:
        raise ValueError(f"labels.txt:{line}: {name!r} is none of the head's labels ({', '.join(places)[:200]}); correct the data, or add a new head")
    return name


def judge(head: Head, logits: tf.Tensor, labels: tf.Tensor, targets: np.ndarray | None, smoothing: float = 0.0) -> Judged:
    """Return the sums of a head's loss.

    Args:
        head: what it finds.
        logits: float32 [batch, length, outputs].
        labels: int32 [batch, length], numbers of labels as data is packed with; -100 = not judged.
        targets: of `targets_of`.
        smoothing: share of a class's probability that is spread over all; not used for numbers and choices.
    """
    if head.kind == "choice":
        return _judge_choices(logits[..., 0], labels)
    judged = labels != IGNORED                                                            # [batch, length]
    wanted = tf.gather(tf.constant(targets), tf.where(judged, labels, 0))                 # [batch, length] or [batch, length, labels]
    objective, losses, right = _LOSSES[head.kind](logits, wanted, smoothing)
    total, loss = (tf.reduce_sum(tf.where(judged, values, 0.0)) for values in (objective, losses))
    return Judged(total, loss, tf.math.count_nonzero(judged & right), tf.math.count_nonzero(judged))


def _of_classes(logits, wanted, smoothing):
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, logits)               # [batch, length]
    of_target = tf.gather(logits, wanted, axis=-1, batch_dims=2)
    objective = losses + smoothing * (of_target - tf.reduce_mean(logits, axis=-1))
    return objective, losses, of_target >= tf.reduce_max(logits, axis=-1)


def _of_labels(logits, wanted, smoothing):
    losses, objective = (
        tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(goal, logits), axis=-1) for goal in (wanted, wanted * (1.0 - smoothing) + smoothing / 2.0)
    )
    return objective, losses, tf.reduce_all((logits > 0) == (wanted > 0), axis=-1)


def _of_numbers(logits, wanted, smoothing):
    losses = 0.5 * tf.square(logits[..., 0] - wanted)
    return losses, losses, tf.zeros_like(losses, tf.bool)


_LOSSES = {"classes": _of_classes, "tags": _of_classes, "labels": _of_labels, "number": _of_numbers}


def _judge_choices(scores, labels) -> Judged:
    """Judge by the softmax over the choices of each question, which stand one behind the other in a sequence; both [batch, length]."""
    judged = labels != IGNORED
    question, places = questions(labels), tf.shape(labels)[0] * (tf.shape(labels)[1] + 1)
    scores = tf.where(judged, scores, scores.dtype.min)
    best = tf.stop_gradient(tf.gather(tf.math.unsorted_segment_max(scores, question, places), question))
    exponents = tf.where(judged, tf.exp(scores - best), 0.0)
    total = tf.gather(tf.math.unsorted_segment_sum(exponents, question, places), question)
    log_sum = best + tf.math.log(tf.maximum(total, 0.5))                                  # 1 or more, but where no question is: its gradient is then 0
    right = judged & (labels % 2 == 1)
    loss = tf.reduce_sum(tf.where(right, log_sum - scores, 0.0))
    return Judged(loss, loss, tf.math.count_nonzero(right & (scores >= best)), tf.math.count_nonzero(right))


def questions(labels: tf.Tensor) -> tf.Tensor:
    """Return for each token the number of the question whose choices are judged there, int32 [batch, length].

    Args:
        labels: int32 [batch, length]; at the last token of a choice 2 x its number from 0, and 1 more where it is right.

    >>> questions(tf.constant([[IGNORED, 0, 3, 1, IGNORED, 2]])).numpy()
    array([[0, 1, 1, 2, 2, 2]], dtype=int32)
    """
    batch, length = tf.unstack(tf.shape(labels))
    first = (labels == 0) | (labels == 1)
    return tf.cumsum(tf.cast(first, tf.int32), axis=1) + tf.range(batch)[:, tf.newaxis] * (length + 1)


def judged_count(head: Head, labels: tf.Tensor) -> tf.Tensor:
    """Return how many labels of a batch are judged, int64 []."""
    judged = labels != IGNORED
    return tf.math.count_nonzero(judged & (labels % 2 == 1) if head.kind == "choice" else judged)


def next_tokens(head: Head, batch: Mapping[str, tf.Tensor], end_of_text: int) -> tf.Tensor:
    """Return the next token of each token, int32 [batch, length], -100 = none: what a language model beside a head is trained on.

    Behind the last token of a segment comes the end of the text, but where the segment fills its sequence: there it may have been cut. Of choices the
    right ones alone are trained on.

    Args:
        head: what it finds.
        batch: with `input_ids`, `head_labels` and perhaps `segment_ids`.
        end_of_text: id of that token.
    """
    ids, labels = batch["input_ids"], batch["head_labels"]
    segments = batch.get("segment_ids", tf.ones_like(ids))
    following = tf.pad(segments[:, 1:], [[0, 0], [0, 1]])                                 # 0 behind the end
    goes_on = segments == following
    full = segments[:, :1] == segments[:, -1:]                                            # [batch, 1], one segment from end to end
    shifted = tf.pad(ids[:, 1:], [[0, 0], [0, 1]])
    targets = tf.where(goes_on, shifted, tf.where(full, IGNORED, end_of_text))
    targets = tf.where(segments == 0, IGNORED, targets)
    if head.kind != "choice":
        return targets
    batch_size, length = tf.unstack(tf.shape(ids))
    of_segment = segments + tf.range(batch_size)[:, tf.newaxis] * (length + 1)            # [batch, length]
    right = tf.math.unsorted_segment_max(tf.where(labels == IGNORED, 0, labels % 2), of_segment, batch_size * (length + 1))
    return tf.where(tf.gather(right, of_segment) == 1, targets, IGNORED)
