"""The loss of next-token prediction from hidden states, without ever holding the logits of all tokens.

Projection, softmax and cross-entropy are done chunk by chunk of tokens, and only for tokens whose label counts. In training a chunk's gradients
are computed at once, while its logits are there, so no logits are kept for the way back.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

IGNORED = -100
"""The label of a position that is not trained on, as in PyTorch and transformers."""
LOGITS_AT_ONCE = 2**23
"""Of a chunk: tokens x vocabulary; 32 MB in float32, which large caches hold. On two CPU cores 2**21 and 2**25 were slower."""
TOKENS_AT_ONCE = 512
"""Of a chunk, at least: with fewer the output matrix is read and its gradient written too often; GPT-2's vocabulary took a tenth longer with 167."""

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
                   fixed_shapes: bool = False) -> LossTerms:
    """Return the loss of predicting `labels` by a softmax over `hidden` times `table`.

    Args:
        hidden: float [batch, length, width]; products are computed in its dtype, softmax and sums in float32.
        table: float [vocab, width], the output matrix.
        labels: int32 [batch, length], next-token targets, -100 = not trained on.
        objective: what is added to the cross-entropy.
        differentiable: whether to compute gradients, which is twice the work again.
        fixed_shapes: whether all shapes must be known beforehand (XLA); then a chunk may also hold tokens that do not count.

    Raises:
        tf.errors.InvalidArgumentError: a label that is neither -100 nor in the vocabulary (on the CPU).

    >>> terms = projected_loss(tf.zeros([1, 3, 2]), tf.zeros([4, 2]), tf.constant([[0, 1, IGNORED]]))
    >>> round(float(terms.loss), 4), int(terms.tokens), int(terms.correct)  # 2 ln(4); of four equals none is likelier
    (2.7726, 2, 2)
    """
    labels = tf.reshape(labels, [-1])                                                     # [tokens]
    trained = labels != IGNORED
    chunks = _plan(trained, table.shape[0], fixed_shapes)

    @tf.custom_gradient
    def run(rows, table):
        sums, gradients = _over_chunks(rows, table, labels, trained, chunks, objective, differentiable)

        def backward(of_objective, *_):
            of_rows, of_table = gradients
            return tf.cast(of_objective * of_rows, rows.dtype), of_objective * of_table

        return sums, backward

    tokens = tf.reduce_sum(tf.cast(trained, tf.int64))
    objective_sum, loss, correct = run(tf.reshape(hidden, [-1, table.shape[1]]), tf.convert_to_tensor(table))
    return LossTerms(objective_sum, loss, tokens, tf.cast(correct, tf.int64))


def tokens_at_once(vocab: int) -> int:
    """Return the most tokens of a chunk."""
    return max(LOGITS_AT_ONCE // vocab, TOKENS_AT_ONCE)


class _Chunks(NamedTuple):
    """Which tokens are looked at, and how many at once."""

    order: tf.Tensor
    """int32 [tokens that are looked at], those trained on first."""
    size: tf.Tensor | int
    end: tf.Tensor
    """int32 [], place in the order behind the last token that is trained on."""


def _plan(trained, vocab, fixed_shapes) -> _Chunks:
    most = tokens_at_once(vocab)
    end = tf.reduce_sum(tf.cast(trained, tf.int32))
    if not fixed_shapes:
        pieces = tf.maximum(-(-end // most), 1)
        return _Chunks(tf.cast(tf.where(trained)[:, 0], tf.int32), -(-end // pieces), end)
    order = tf.argsort(tf.cast(~trained, tf.int32), stable=True)
    pieces = -(-trained.shape[0] // most)
    size = -(-trained.shape[0] // pieces)
    return _Chunks(tf.pad(order, [[0, pieces * size - trained.shape[0]]]), size, end)


def _over_chunks(rows, table, labels, trained, chunks, objective, differentiable):
    """Return (objective, loss, correct), and the gradients of the objective: float32 [tokens, width] and [vocab, width]."""
    typed = tf.cast(table, rows.dtype)

    def chunk_from(start):
        """Return where the chunk that starts there ends, its sums, and of its rows and of the table the gradients."""
        size = chunks.size if isinstance(chunks.size, int) else tf.minimum(chunks.size, chunks.end - start)
        places = tf.slice(chunks.order, [start], [size])                                  # [chunk]
        counted = tf.cast(tf.range(size) + start < chunks.end, tf.float32)                # padding of fixed shapes does not count
        targets = tf.where(tf.gather(trained, places), tf.gather(labels, places), 0)
        chunk = tf.gather(rows, places)                                                   # [chunk, width]
        terms, of_logits = _of_tokens(chunk, typed, targets, objective, differentiable)
        sums = tuple(tf.reduce_sum(term * counted) for term in terms)
        if not differentiable:
            return start + size, sums, None, None
        of_chunk = tf.cast(tf.matmul(of_logits, typed), tf.float32) * counted[:, tf.newaxis]
        chunk *= tf.cast(counted, chunk.dtype)[:, tf.newaxis]
        return start + size, sums, (places[:, tf.newaxis], of_chunk), tf.cast(tf.matmul(of_logits, chunk, transpose_a=True), tf.float32)

    def step(start, sums, of_rows, of_table):
        end, more, of_chunk, of_typed = chunk_from(start)
        sums = tuple(map(tf.add, sums, more))
        return (end, sums, tf.tensor_scatter_nd_add(of_rows, *of_chunk), of_table + of_typed) if differentiable else (end, sums, of_rows, of_table)

    end, sums, of_chunk, of_table = chunk_from(0)                                         # apart: adding to zeros would be two more passes over a table
    start = (tf.scatter_nd(*of_chunk, tf.shape(rows)), of_table) if differentiable else (0.0, 0.0)
    _, sums, of_rows, of_table = tf.while_loop(lambda start, *_: start < chunks.end, step, (end, sums, *start), parallel_iterations=1)  # one in memory
    return sums, (of_rows, of_table)


def _of_tokens(chunk, table, targets, objective, differentiable):
    """Return of each token objective, loss and whether its target is likeliest, float32 [chunk]; and the gradient of the logits, [chunk, vocab]."""
    logits = tf.cast(tf.matmul(chunk, table, transpose_b=True), tf.float32)               # [chunk, vocab]
    probabilities = tf.nn.softmax(logits)
    of_target, probability = _at(logits, targets), _at(probabilities, targets)            # [chunk]
    likeliest = tf.reduce_max(probabilities, axis=-1)
    log_sum = tf.cond(tf.reduce_all(probability > SMALLEST), lambda: of_target - tf.math.log(probability), lambda: _log_sum(chunk, table))
    losses = log_sum - of_target
    smoothing, weight = objective.label_smoothing, objective.z_loss
    wanted = losses + weight * tf.square(log_sum)
    if smoothing:
        wanted += smoothing * (of_target - tf.reduce_mean(logits, axis=-1))
    terms = (wanted, losses, tf.cast(probability >= likeliest, tf.float32))
    if not differentiable:
        return terms, None
    if weight:
        factor = 1.0 + 2.0 * weight * log_sum
        probabilities, probability = probabilities * factor[:, tf.newaxis], probability * factor
    if smoothing:
        probabilities, probability = probabilities - smoothing / table.shape[0], probability - smoothing / table.shape[0]
    of_target = tf.cast(probability - (1.0 - smoothing), table.dtype)
    places = tf.stack([tf.range(tf.size(targets)), targets], axis=1)
    return terms, tf.tensor_scatter_nd_update(tf.cast(probabilities, table.dtype), places, of_target)


def _log_sum(chunk, table):
    """Return the logarithm of the softmax's denominator, float32 [chunk]; from logits made anew, since keeping them for so rare a case costs memory."""
    return tf.reduce_logsumexp(tf.cast(tf.matmul(chunk, table, transpose_b=True), tf.float32), axis=-1)


def _at(rows, places):
    """Return the entry of each row at its place, float32 [chunk]."""
    return tf.gather(rows, places, axis=1, batch_dims=1)
