"""The loss of next-token prediction from hidden states, without ever holding the logits of all tokens.

Projection, softmax and cross-entropy are done part by part of the tokens, and only for tokens whose label counts. In training the gradient of a part's
logits is computed at once, while they are there, so no logits are kept for the way back. The parts of a group share the two products of the way back, since
each of these reads or writes a whole output matrix.
"""
from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfgpt.models.kernels import Fuse
from tfgpt.models.products import computed_in, product

IGNORED = -100
"""The label of a position that is not trained on, as in PyTorch and transformers."""
LOGITS_AT_ONCE = 2**23
"""Of a part: tokens x vocabulary; 32 MB in float32, which large caches hold. On two CPU cores 2**21 and 2**25 were slower."""
TOKENS_AT_ONCE = 256
"""Of a part, at least: with fewer the output matrix is read too often."""
BYTES_OF_GROUP = 2**27
"""Of the gradient of a group's logits, in the precision of the products: 1,335 tokens of GPT-2's vocabulary in bfloat16."""
FLOAT16_TOKENS_OF_GROUP, FLOAT16_SHARE = 4096, 2.0**-8
"""Of a group in float16 at most, and what its hidden states are multiplied by: the output matrix's gradient is a sum over them before any loss scale counts,
and numbers end at 65,504."""
ALIGNED_TO = 64
"""Rows of a narrow copy of the output matrix, which gets rows of 0 up to a multiple of it. On two CPU cores both products of GPT-2's 50,257 logits on the way
back took 0.93 of the time; GPUs ask for multiples of it too."""
WORTH_ALIGNING = 4096
"""Vocabulary from which on."""

SMALLEST = 1e-30
"""Probability of a target down to which its logarithm is taken from the softmax itself; a float32 ends at 1e-38."""


@dataclass(frozen=True)
class Objective:
    """What training minimizes, beside the cross-entropy."""

    label_smoothing: float = 0.0
    """Share of the target's probability that is spread over the whole vocabulary (Szegedy et al. 2016, "Rethinking the Inception Architecture")."""
    z_loss: float = 0.0
    """Weight of the squared logarithm of the softmax's denominator, which keeps logits from drifting (Chowdhery et al. 2022, "PaLM")."""


class LossTerms(NamedTuple):
    """Sums over the trained tokens of a batch; callers add up and divide once."""

    objective: tf.Tensor
    """float32 [], the cross-entropy with label smoothing and z-loss: what is differentiated."""
    loss: tf.Tensor
    """float32 [], the cross-entropy alone, in nats."""
    tokens: tf.Tensor
    """int64 [] (corpora pass 2**31 tokens)."""
    correct: tf.Tensor
    """int64 [], tokens than which the model finds no other likelier."""

    dtypes = (tf.float32, tf.float32, tf.int64, tf.int64)
    counted = "tokens"
    """What a mean loss is over."""

    @property
    def divisor(self) -> tf.Tensor:
        """What the summed objective is divided by."""
        return self.tokens


def projected_loss(hidden: tf.Tensor, table: tf.Tensor, labels: tf.Tensor, objective: Objective = Objective(), *, differentiable: bool = True,
                   fixed_shapes: bool = False, fused: Fuse = functools.partial) -> LossTerms:
    """Return the loss of predicting `labels` by a softmax over `hidden` times `table`.

    Args:
        hidden: float [batch, length, width]; products are computed in its dtype, softmax and sums in float32.
        table: float [vocab, width], the output matrix.
        labels: int32 [batch, length], next-token targets, -100 = not trained on.
        objective: what is added to the cross-entropy.
        differentiable: whether to compute gradients, which is twice the work again.
        fixed_shapes: whether all shapes must be known beforehand (XLA); then a group may also hold tokens that do not count.
        fused: makes one kernel of a function of tensors, whose shapes do not change from step to step.

    Raises:
        tf.errors.InvalidArgumentError: a label that is neither -100 nor in the vocabulary (on the CPU).

    >>> terms = projected_loss(tf.zeros([1, 3, 2]), tf.zeros([4, 2]), tf.constant([[0, 1, IGNORED]]))
    >>> round(float(terms.loss), 4), int(terms.tokens), int(terms.correct)  # 2 ln(4); of four equals none is likelier
    (2.7726, 2, 2)
    """
    labels = tf.reshape(labels, [-1])                                                     # [tokens]
    trained = labels != IGNORED
    groups = _plan(trained, table.shape[0], hidden.dtype, fixed_shapes)

    @tf.custom_gradient
    def run(rows, table):
        sums, gradients = _over_groups(rows, table, labels, trained, groups, objective, differentiable, fused)

        def backward(of_objective, *_):
            of_rows, of_table = gradients
            return tf.cast(of_objective * of_rows, rows.dtype), of_objective * of_table

        return sums, backward

    tokens = tf.reduce_sum(tf.cast(trained, tf.int64))
    objective_sum, loss, correct = run(tf.reshape(hidden, [-1, table.shape[1]]), tf.convert_to_tensor(table))
    return LossTerms(objective_sum, loss, tokens, tf.cast(correct, tf.int64))


def tokens_at_once(vocab: int) -> int:
    """Return the most tokens of a part."""
    return max(LOGITS_AT_ONCE // vocab, TOKENS_AT_ONCE)


def tokens_of_group(vocab: int, dtype: tf.DType) -> int:
    """Return the most tokens of a group whose products are in a precision."""
    most = max(BYTES_OF_GROUP // (vocab * dtype.size), tokens_at_once(vocab))
    return min(most, FLOAT16_TOKENS_OF_GROUP) if dtype == tf.float16 else most


class _Groups(NamedTuple):
    """Which tokens are looked at, and how many at once."""

    order: tf.Tensor
    """int32 [tokens that are looked at], those trained on first."""
    size: tf.Tensor | int
    parts: int
    """Of a group."""
    end: tf.Tensor
    """int32 [], place in the order behind the last token that is trained on."""


def _plan(trained, vocab, dtype, fixed_shapes) -> _Groups:
    most = tokens_of_group(vocab, dtype)
    parts = -(-min(most, trained.shape[0] or most) // tokens_at_once(vocab))
    end = tf.reduce_sum(tf.cast(trained, tf.int32))
    if not fixed_shapes:
        pieces = tf.maximum(-(-end // most), 1)
        return _Groups(tf.cast(tf.where(trained)[:, 0], tf.int32), -(-end // pieces), parts, end)
    order = tf.argsort(tf.cast(~trained, tf.int32), stable=True)
    pieces = -(-trained.shape[0] // most)
    size = -(-trained.shape[0] // pieces)
    return _Groups(tf.pad(order, [[0, pieces * size - trained.shape[0]]]), size, parts, end)


def _over_groups(rows, table, labels, trained, groups, objective, differentiable, fused):
    """Return (objective, loss, correct), and the gradients of the objective: float32 [tokens, width] and [vocab, width]."""
    vocab = table.shape[0]
    work = computed_in(rows.dtype)
    share = FLOAT16_SHARE if work == tf.float16 else 1.0
    narrow = fused(_aligned, dtype=work) if table.dtype != work else tf.identity

    def group_from(start):
        """Return where the group that starts there ends, its sums, and the gradients of its rows, behind their places, and of the table."""
        typed = narrow(table)                                                             # anew for each, so that none is kept while gradients widen
        size = groups.size if isinstance(groups.size, int) else tf.minimum(groups.size, groups.end - start)
        places = tf.slice(groups.order, [start], [size])                                  # [group]
        counted = tf.cast(tf.range(size) + start < groups.end, tf.float32)                # padding of fixed shapes does not count
        targets = tf.where(tf.gather(trained, places), tf.gather(labels, places), 0)
        targets = tf.gather(tf.range(vocab), targets)                                     # refuses those outside of it
        group = tf.gather(rows, places)                                                   # [group, width]
        *terms, of_logits = _in_parts(group, _Output(typed, vocab), targets, size, groups.parts, objective, differentiable)
        sums = tuple(tf.reduce_sum(term * counted) for term in terms)
        if not differentiable:
            return start + size, sums, None, None
        of_group = product(of_logits, typed, dtype=tf.float32) * counted[:, tf.newaxis]
        with tf.control_dependencies([of_group]):                                         # then the narrow table is free
            group *= tf.cast(counted * share, group.dtype)[:, tf.newaxis]
        of_table = product(of_logits, group, transpose_a=True, dtype=work)[:vocab]
        of_table = tf.cast(of_table, tf.float32)
        return start + size, sums, (places[:, tf.newaxis], of_group), of_table if share == 1.0 else of_table / share  # no pass over a table for nothing

    def step(start, sums, of_rows, of_table):
        end, more, of_group, more_of_table = group_from(start)
        sums = tuple(map(tf.add, sums, more))
        return (end, sums, tf.tensor_scatter_nd_add(of_rows, *of_group), of_table + more_of_table) if differentiable else (end, sums, of_rows, of_table)

    end, sums, of_group, of_table = group_from(0)                                         # apart: adding to zeros would be two more passes over a table
    start = (tf.scatter_nd(*of_group, tf.shape(rows)), of_table) if differentiable else (0.0, 0.0)
    with tf.control_dependencies([start[1], *sums]):                                      # one group in memory
        end = tf.identity(end)
    _, sums, of_rows, of_table = tf.while_loop(lambda start, *_: start < groups.end, step, (end, sums, *start), parallel_iterations=1)
    return sums, (of_rows, of_table)


def _aligned(table, *, dtype):
    """Return a matrix in this dtype, its rows followed by zeros up to a multiple of `ALIGNED_TO`, if that is worth it."""
    vocab = table.shape[0]
    missing = -vocab % ALIGNED_TO if vocab >= WORTH_ALIGNING else 0
    return tf.pad(tf.cast(table, dtype), [[0, missing], [0, 0]]) if missing else tf.cast(table, dtype)


class _Output(NamedTuple):
    """The output matrix in the precision of the products."""

    table: tf.Tensor
    """[vocab or more, width]; further rows are 0."""
    vocab: int

    def logits(self, rows):
        """Return float32 [tokens, rows of the table], -inf behind the vocabulary, of [tokens, width]."""
        found, length = product(rows, self.table, transpose_b=True, dtype=self.table.dtype), self.table.shape[0]
        if length > self.vocab:
            found = tf.nn.bias_add(found, tf.constant(np.where(np.arange(length) < self.vocab, 0.0, -np.inf), found.dtype))  # by the product's kernel
        return tf.cast(found, tf.float32)


def _in_parts(group, output, targets, size, parts, objective, differentiable):
    """Return what `_of_tokens` does of a group of tokens, one part after the other."""
    of_parts, before = [], []
    for start, end in itertools.pairwise(size * part // parts for part in range(parts + 1)):
        with tf.control_dependencies(before):                                             # the logits of one part in memory
            of_parts.append(_of_tokens(group[start:end], output, targets[start:end], objective, differentiable))
        before = of_parts[-1]
    return [tf.concat(of_each, axis=0) for of_each in zip(*of_parts)] if parts > 1 else of_parts[0]


def _of_tokens(rows, output, targets, objective, differentiable):
    """Return of each token objective, loss and whether its target is likeliest, float32 [tokens]; and the gradient of `_Output.logits`, narrow."""
    logits, vocab = output.logits(rows), output.vocab
    probabilities = tf.nn.softmax(logits)
    of_target, probability = _at(logits, targets), _at(probabilities, targets)            # [tokens]
    likeliest = tf.reduce_max(probabilities, axis=-1)
    log_sum = tf.cond(tf.reduce_all(probability > SMALLEST), lambda: of_target - tf.math.log(probability), lambda: _log_sum(rows, output))
    losses = log_sum - of_target
    smoothing, weight = objective.label_smoothing, objective.z_loss
    wanted = losses + weight * tf.square(log_sum)
    if smoothing:
        wanted += smoothing * (of_target - tf.reduce_mean(logits[:, :vocab], axis=-1))
    terms = (wanted, losses, tf.cast(probability >= likeliest, tf.float32))
    if not differentiable:
        return *terms, tf.zeros([0])
    if weight:
        factor = 1.0 + 2.0 * weight * log_sum
        probabilities, probability = probabilities * factor[:, tf.newaxis], probability * factor
    if smoothing:
        probabilities, probability = probabilities - smoothing / vocab, probability - smoothing / vocab
    of_target = tf.cast(probability - (1.0 - smoothing), rows.dtype)
    places = tf.stack([tf.range(tf.size(targets)), targets], axis=1)
    return *terms, tf.tensor_scatter_nd_update(tf.cast(probabilities, rows.dtype), places, of_target)


def _log_sum(rows, output):
    """Return the logarithm of the softmax's denominator, float32 [tokens]; from logits made anew, since keeping them for so rare a case costs memory."""
    return tf.reduce_logsumexp(output.logits(rows), axis=-1)


def _at(rows, places):
    """Return the entry of each row at its place, float32 [tokens]."""
    return tf.gather(rows, places, axis=1, batch_dims=1)
