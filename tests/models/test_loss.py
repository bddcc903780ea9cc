"""The loss by groups and parts against TensorFlow's own, in value and gradient."""
import functools

import numpy as np
import pytest
import tensorflow as tf

from tfgpt.models import kernels
from tfgpt.models import loss as losses
from tfgpt.models.loss import IGNORED, Objective, projected_loss

VOCAB, WIDTH = 23, 7


@pytest.fixture(autouse=True)
def small_groups_of_two_parts(monkeypatch):
    monkeypatch.setattr(losses, "TOKENS_AT_ONCE", 4)
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 4 * VOCAB)
    monkeypatch.setattr(losses, "BYTES_OF_GROUP", 8 * VOCAB * 4)


@pytest.fixture
def case():
    rng = np.random.default_rng(3)
    hidden, table = (tf.constant(rng.normal(size=shape), tf.float32) for shape in ([3, 6, WIDTH], [VOCAB, WIDTH]))
    labels = rng.integers(0, VOCAB, [3, 6]).astype(np.int32)
    labels[0, 2:5], labels[2, 0] = IGNORED, IGNORED
    return hidden, table, tf.constant(labels)


def reference(hidden, table, labels, smoothing=0.0, z_loss=0.0):
    """Sum of the objective over trained tokens, in float64, by TensorFlow's operations and its gradients."""
    hidden, table = tf.cast(hidden, tf.float64), tf.cast(table, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([hidden, table])
        logits = tf.boolean_mask(hidden @ tf.transpose(table), labels != IGNORED)
        targets = tf.one_hot(tf.boolean_mask(labels, labels != IGNORED), VOCAB, dtype=tf.float64) * (1 - smoothing) + smoothing / VOCAB
        total = tf.reduce_sum(tf.nn.softmax_cross_entropy_with_logits(targets, logits)) + z_loss * tf.reduce_sum(tf.reduce_logsumexp(logits, axis=-1) ** 2)
    return total, tape.gradient(total, [hidden, table])


@pytest.mark.parametrize("fixed_shapes", [False, True])
@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.01), (0.2, 0.03)])
def test_value_and_gradients_are_those_of_the_formula(case, smoothing, z_loss, fixed_shapes):
    hidden, table, labels = case

    with tf.GradientTape() as tape:
        tape.watch([hidden, table])
        terms = projected_loss(hidden, table, labels, Objective(smoothing, z_loss), fixed_shapes=fixed_shapes)
        tripled = 3.0 * terms.objective
    gradients = tape.gradient(tripled, [hidden, table])

    total, wanted = reference(hidden, table, labels, smoothing, z_loss)
    np.testing.assert_allclose(terms.objective, total, rtol=1e-5)  # fp32 sums of 14 losses of size 1 to 10
    np.testing.assert_allclose(terms.loss, reference(hidden, table, labels)[0], rtol=1e-5)
    for mine, theirs in zip(gradients, wanted):
        np.testing.assert_allclose(mine, 3.0 * theirs, atol=2e-5)
    assert int(terms.tokens) == 14
    best = tf.argmax(hidden @ tf.transpose(table), axis=-1, output_type=tf.int32)
    assert int(terms.correct) == int(tf.reduce_sum(tf.cast(best == labels, tf.int32)))


def test_the_compiled_step_computes_the_same(case):
    def gradients(hidden, table, labels):
        with tf.GradientTape() as tape:
            tape.watch([hidden, table])
            terms = projected_loss(hidden, table, labels, fixed_shapes=True)
        return terms.loss, tape.gradient(terms.objective, [hidden, table])

    plain, compiled = gradients(*case), tf.function(gradients, jit_compile=True)(*case)

    np.testing.assert_allclose(compiled[0], plain[0], rtol=1e-5)
    for mine, theirs in zip(compiled[1], plain[1]):
        np.testing.assert_allclose(mine, theirs, atol=2e-5)


@pytest.mark.parametrize("fused", [functools.partial, kernels.kernel])
@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.2, 0.03)])
def test_rows_that_align_the_output_matrix_change_nothing(case, smoothing, z_loss, fused, monkeypatch):
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 1)
    hidden, table, labels = (tf.cast(one, tf.bfloat16) if one.dtype == tf.float32 else one for one in case)
    hidden -= 40.0  # logits far below those of rows of 0

    def values(table):
        with tf.GradientTape() as tape:
            tape.watch([hidden, table])
            terms = projected_loss(hidden, table, labels, Objective(smoothing, z_loss), fused=fused)
        of_hidden, of_table = tape.gradient(terms.objective, [hidden, table])
        return terms.objective, terms.loss, terms.correct, of_hidden, tf.cast(of_table, tf.float32)

    apart = values(table)  # already narrow: taken as it is
    monkeypatch.setattr(losses, "WORTH_ALIGNING", VOCAB)
    aligned = values(tf.cast(table, tf.float32))

    assert aligned[4].shape == table.shape
    assert [float(one) for one in aligned[:3]] == [float(one) for one in apart[:3]]
    for mine, theirs in zip(aligned[3:], apart[3:]):
        np.testing.assert_allclose(mine, theirs, atol=1e-2 * np.abs(theirs).max())  # bf16, sums of 7 or of 23 by another kernel


def test_a_loss_past_the_range_of_a_float_probability_is_exact():
    hidden, table = tf.constant([[[300.0]]]), tf.constant([[1.0], [0.0], [0.5]])  # the target's probability is exp(-300)

    terms = projected_loss(hidden, table, tf.constant([[1]]))

    assert float(terms.loss) == 300.0


def test_a_confident_tokens_gradient_survives_bfloat16():
    hidden, table = tf.constant([[[8.0]]], tf.bfloat16), tf.constant([[1.0], [0.0]])  # probability 0.99966: 1 in bf16

    with tf.GradientTape() as tape:
        tape.watch(table)
        objective = projected_loss(hidden, table, tf.constant([[0]])).objective
    gradient = tape.gradient(objective, table)

    np.testing.assert_allclose(gradient[:, 0], [-8 * 3.3535e-4, 8 * 3.3535e-4], rtol=0.01)  # bf16 keeps 8 bits


def test_without_any_trained_token_nothing_is_computed(case):
    hidden, table, labels = case

    with tf.GradientTape() as tape:
        tape.watch([hidden, table])
        terms = projected_loss(hidden, table, tf.fill(labels.shape, IGNORED))
    gradients = tape.gradient(terms.objective, [hidden, table])

    assert (float(terms.objective), int(terms.tokens)) == (0.0, 0)
    assert all(not np.any(gradient) for gradient in gradients)


def test_a_label_outside_of_the_vocabulary_is_refused(case):
    hidden, table, _ = case

    for number in (VOCAB, 10**9, -1):
        with pytest.raises(tf.errors.InvalidArgumentError):
            projected_loss(hidden, table, tf.fill([3, 6], number))


@pytest.mark.parametrize("size", [0.01, 1.2, 60.0])
def test_float16_adds_up_the_gradient_of_many_equal_labels(monkeypatch, size):
    monkeypatch.setattr(losses, "LOGITS_AT_ONCE", 2**23)
    monkeypatch.setattr(losses, "BYTES_OF_GROUP", 2**27)
    hidden, table = tf.fill([1, 70_000, 4], tf.constant(size, tf.float16)), tf.Variable(tf.zeros([64, 4]))

    with tf.GradientTape() as tape:
        total = projected_loss(hidden, table, tf.fill([1, 70_000], 5)).objective

    np.testing.assert_allclose(tape.gradient(total, table)[5], 70_000 * size * (1 / 64 - 1), rtol=0.01)  # beyond float16's 65,504
