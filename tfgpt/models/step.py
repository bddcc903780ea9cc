"""One optimizer step: gradients summed over micro steps and replicas, divided once by all trained tokens, clipped, and applied if they are finite."""
from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import tensorflow as tf

from tfgpt.models.heads import HeadTerms
from tfgpt.models.loss import LossTerms, Objective

PRECISIONS = {"float32": None, "bfloat16": tf.bfloat16, "float16": tf.float16}
"""What matrix products are computed in; None = the layers' own."""
GOOD_STEPS = 1000
"""Without overflow, after which the loss scale doubles (Micikevicius et al. 2018, "Mixed Precision Training")."""
FIRST_LOSS_SCALE = 2.0**15
NOT_DECAYED = ("/bias[/:]", "/gamma[/:]", "/beta[/:]")
"""Patterns of the names of the variables that no decay shrinks: biases and layer norms, such as h_._0/ln_1/gamma:0 and, on the second of several devices,
h_._0/ln_1/gamma/replica_1:0."""


@dataclass(frozen=True)
class StepSettings:
    """How a train step computes."""

    precision: str = "float32"
    """Of matrix products: float32, bfloat16, or float16 with a loss scale of its own; weights, sums and softmax are float32. Of training
    alone: evaluation, generation and export of the same model stay exact."""
    accumulate: int = 1
    """Micro steps into which each replica cuts its batch, one after the other, to save memory; the gradient stays the same."""
    lanes: int = 1
    """Parts of a micro step's rows that are computed side by side, each on a core of its own; the gradient stays the same."""
    clip_norm: float = 0.0
    """Gradients are scaled down to this global norm; 0 = not clipped."""
    l2: float = 0.0
    """Weight of half the squared matrices in what is minimized; 0 = none."""
    l2_start: float = 0.0
    """Weight of half the squared distance of all trained weights to what they are when the model is compiled; 0 = none (Li et al. 2018, "Explicit Inductive
    Bias for Transfer Learning with Convolutional Networks", L2-SP)."""
    new: tuple[str, ...] = ()
    """Patterns of the weights for which that is no place to stay near, since they begin anew."""
    objective: Objective = field(default_factory=Objective)
    compile_elementwise: bool = True
    """Let XLA compile what it does faster between matrix products: norms, sums, activation, softmax; the rest of the graph stays TensorFlow's."""
    recompute: bool = False
    """Keep each block's input alone and compute the rest anew on the way back: less memory, a third more work."""

    def __post_init__(self):
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: {self.precision} is not one of {', '.join(PRECISIONS)}")
        if self.accumulate < 1:
            raise ValueError(f"accumulate: {self.accumulate} micro steps; give 1 or more")
        if self.lanes < 1:
            raise ValueError(f"lanes: {self.lanes} side by side; give 1 or more")


def summed_gradients(
    model, batch: dict[str, tf.Tensor], settings: StepSettings, loss_scale: tf.Tensor | float
) -> tuple[LossTerms | HeadTerms, list[tf.Tensor]]:
    """Return a replica's sums over a batch, and the gradients of its summed objective times the loss scale, one for each trainable variable.

    The gradients of matrices are in the precision of the products that gave them; of several micro steps they are added in float32.

    Raises:
        ValueError: the batch cannot be cut into so many micro steps.
    """
    variables, clock = model.trainable_variables, model.transformer.dropout_clock
    rows, balance = tf.shape(batch["input_ids"])[0], model.balance(batch)
    first_row = tf.distribute.get_replica_context().replica_id_in_sync_group * rows  # of this replica in the global batch

    def micro_step(number, part):
        first_of_part = first_row + number * (rows // settings.accumulate)

        def of_lane(rows_of_lane, start):
            clock.set(model.optimizer.iterations, first_of_part + start)
            return model.loss_terms(rows_of_lane, training=True, balance=balance)

        with tf.GradientTape() as tape:
            terms = summed_over_lanes(of_lane, part, settings.lanes)
            scaled = terms.objective * loss_scale
        gradients = tape.gradient(scaled, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return terms, [tf.convert_to_tensor(gradient) for gradient in gradients]  # dense: a repeated row of IndexedSlices has the wrong norm

    if settings.accumulate == 1:
        return micro_step(0, batch)
    known = batch["input_ids"].shape[0]
    if known is None or known % settings.accumulate:
        raise ValueError(f"accumulate: {known or 'an unknown number of'} rows of a batch cannot be cut into {settings.accumulate} micro steps; "
                         f"give batches of a multiple of {settings.accumulate} rows, with drop_remainder=True")
    parts = {key: tf.reshape(value, [settings.accumulate, known // settings.accumulate, *value.shape[1:]]) for key, value in batch.items()}

    def step(number, sums, total):
        terms, gradients = micro_step(number, {key: value[number] for key, value in parts.items()})
        return number + 1, kind(*map(tf.add, sums, terms)), list(map(tf.add, total, _wide(gradients)))

    kind = HeadTerms if "head_labels" in batch else LossTerms
    nothing = kind(*(tf.zeros([], dtype) for dtype in kind.dtypes))
    start = (0, nothing, [tf.zeros(variable.shape) for variable in variables])
    _, terms, gradients = tf.while_loop(lambda number, *_: number < settings.accumulate, step, start)
    return terms, gradients


def summed_over_lanes(
    terms_of: Callable[[dict[str, tf.Tensor], tf.Tensor | int], LossTerms | HeadTerms], batch: dict[str, tf.Tensor], lanes: int
) -> LossTerms | HeadTerms:
    """Return the terms of a batch whose rows are cut into so many parts; nothing in the graph makes one of them wait for another.

    Args:
        terms_of: called with some of the rows, and with the number of the first.
        batch: its rows.
        lanes: 1 = it is not cut. Of fewer rows some parts are empty.
    """
    if lanes == 1:
        return terms_of(batch, 0)
    rows = tf.shape(batch["input_ids"])[0]
    ends = [rows * lane // lanes for lane in range(lanes + 1)]
    each = [terms_of({key: value[start:end] for key, value in batch.items()}, start) for start, end in itertools.pairwise(ends)]
    return type(each[0])(*map(tf.add_n, zip(*each)))


def summed_over_replicas(terms: LossTerms | HeadTerms, *counts: tf.Tensor) -> tuple:
    """Return the terms of all replicas together, and further counts in their dtypes; called in replica context."""
    replicas, tensors = tf.distribute.get_replica_context(), [*terms, *counts]
    if replicas.num_replicas_in_sync > 1:
        sums = replicas.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack([tf.cast(tensor, tf.float64) for tensor in tensors]))
        tensors = [tf.cast(total, tensor.dtype) for total, tensor in zip(tf.unstack(sums), tensors)]
    return type(terms)(*tensors[: len(terms)]), *tensors[len(terms) :]


class StepGuard:
    """Applies gradients that are finite and skips the others, the same on every replica; keeps the count, and the loss scale of float16.

    No Keras layer, so that its variables are not taken for weights; `variables` belong into a checkpoint.
    """

    def __init__(self):
        self.variables = {
            name: tf.Variable(value, trainable=False, name=name, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)
            for name, value in (("skipped", tf.constant(0, tf.int64)), ("skipped_in_a_row", tf.constant(0, tf.int64)),
                                ("good_steps", tf.constant(0, tf.int64)), ("loss_scale", tf.constant(FIRST_LOSS_SCALE)))
        }  # fmt: skip
        self._start: dict = {}

    def remember_start(self, variables: Iterable[tf.Variable]) -> None:
        """Keep what variables are now, for `l2_start`; in no checkpoint, since a resumed training is compiled with the model that it began with."""
        self._start = {variable.ref(): tf.Variable(tf.identity(variable), trainable=False, name="start") for variable in variables}

    def loss_scale(self, settings: StepSettings, positions: tf.Tensor) -> tf.Tensor | float:
        """Return what the summed objective is multiplied by before its gradients are taken: 1, but for float16.

        Args:
            settings: of the step.
            positions: of the batch, by which a sum is brought to the size of a mean.
        """
        if settings.precision != "float16":
            return 1.0
        return self.variables["loss_scale"] / tf.cast(positions, tf.float32)

    def apply(self, optimizer, gradients, variables, divisor, scale, settings: StepSettings) -> tuple[tf.Tensor, tf.Tensor]:
        """Take the step, or skip it; called in replica context.

        Args:
            optimizer: of Keras; its `iterations` count a skipped step too.
            gradients: of this replica's summed objective times `scale`, in any precision.
            variables: that they belong to.
            divisor: int64 [], the trained tokens of all replicas, or what a head judged.
            scale: of `loss_scale`.
            settings: of the step.

        Returns:
            The gradient's norm before clipping, float32 [], and whether the step was taken, bool [].
        """
        replicas = tf.distribute.get_replica_context()
        if replicas.num_replicas_in_sync > 1:
            gradients = replicas.all_reduce(tf.distribute.ReduceOp.SUM, _wide(gradients))
        factor = 1.0 / (tf.maximum(tf.cast(divisor, tf.float32), 1.0) * scale)
        if settings.l2:
            gradients = [gradient + settings.l2 / factor * variable if is_matrix(variable) else gradient
                         for gradient, variable in zip(_wide(gradients), variables)]
        if settings.l2_start:
            gradients = [gradient + settings.l2_start / factor * (variable - self._start[variable.ref()]) if variable.ref() in self._start else gradient
                         for gradient, variable in zip(_wide(gradients), variables)]
        norm = tf.linalg.global_norm(_wide(gradients)) * factor
        finite = tf.math.is_finite(norm)
        if settings.clip_norm:
            factor *= settings.clip_norm / tf.maximum(norm, settings.clip_norm)
        replicas.merge_call(self._apply_or_skip, args=(optimizer, gradients, factor, variables, finite, settings.precision == "float16"))
        return norm, finite

    def _apply_or_skip(self, strategy, optimizer, gradients, factor, variables, finite, scaled):
        """Decide once for all replicas; within the branch each of them applies its own, equal, gradients."""
        here = strategy.experimental_local_results(finite)[0]

        def apply():
            strategy.extended.call_for_each_replica(self._apply, args=(optimizer, gradients, factor, variables))
            return tf.constant(True)

        def skip():
            optimizer.iterations.assign_add(1)
            return tf.constant(False)

        tf.cond(here, apply, skip)
        counts, good = self.variables, tf.cast(here, tf.int64)
        counts["skipped"].assign_add(1 - good)
        counts["skipped_in_a_row"].assign((counts["skipped_in_a_row"] + 1) * (1 - good))
        if scaled:
            self._rescale(here)

    def _apply(self, optimizer, gradients, factor, variables):
        if hasattr(optimizer, "scaling"):  # while it reads them; a scaled copy of all gradients takes time and memory
            with optimizer.scaling(factor):
                optimizer.apply_gradients(zip(gradients, variables), skip_gradients_aggregation=True)
        else:
            scaled = [gradient * factor for gradient in _wide(gradients)]
            optimizer.apply_gradients(zip(scaled, variables), skip_gradients_aggregation=True)

    def _rescale(self, finite):
        good, scale = self.variables["good_steps"], self.variables["loss_scale"]
        enough = good + 1 >= GOOD_STEPS
        scale.assign(tf.where(finite, tf.where(enough, scale * 2.0, scale), tf.maximum(scale / 2.0, 1.0)))
        good.assign(tf.where(finite & ~enough, good + 1, 0))


def _wide(gradients):
    """Return them in float32."""
    return [tf.cast(gradient, tf.float32) for gradient in gradients]


def is_matrix(variable: tf.Variable) -> bool:
    """Tell whether a variable is one that decays: a matrix, embeddings among them, and neither a bias nor of a layer norm."""
    return not any(re.search(pattern, variable.name) for pattern in NOT_DECAYED)
