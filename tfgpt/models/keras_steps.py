"""What Keras calls of a model that trains on packed batches: `compile`, `fit`, `evaluate` and their steps."""
from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import tensorflow as tf
import tf_keras
from transformers import TFGPT2LMHeadModel
from transformers.modeling_tf_outputs import TFCausalLMOutputWithCrossAttentions

from tfgpt.models import weights
from tfgpt.models.adaptation import matches
from tfgpt.models.batch import batch_of, checked, padding_of, segmented
from tfgpt.models.epoch import Clock, Figure, RunningSums, logged, share
from tfgpt.models.step import PRECISIONS, StepGuard, StepSettings, summed_gradients, summed_over_lanes, summed_over_replicas


def _without_weights(method: Callable) -> Callable:
    """Return a method of Keras that takes no weights beside batches: Keras drops them, or fails over them, where there is no y."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def refusing(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        for key in ("class_weight", "sample_weight"):
            if given.get(key) is not None:
                raise ValueError(f"{method.__name__}: {key} is not taken, every trained token weighs alike; leave it out, and give labels of -100 to what is "
                                 "not trained on")
        return method(*args, **kwargs)

    return refusing


class KerasSteps(TFGPT2LMHeadModel):
    """TFGPT2LMHeadModel under Keras, whose loss is its own.

    `GPTLMHeadModel` gives it what its steps ask for: `loss_terms` and `balance` of a batch, its logits (`_hidden` and `project`), the head of `adaptation`, and
    the `compute` and `dropout_clock` of its `transformer`; and computes by these `_settings`.
    """

    def __init__(self, config, *inputs, **kwargs):
        super().__init__(config, *inputs, **kwargs)
        self.distribute_reduction_method = "first"  # of what each replica logs: they are sums over all replicas already
        self._running, self._clock = RunningSums(), Clock()
        self._settings, self.guard = StepSettings(), StepGuard()

    def compile(self, optimizer="adamw", settings: StepSettings | None = None, **kwargs):
        """Configure training; takes what `tf_keras.Model.compile` takes, except `loss` and metrics.

        Args:
            optimizer: of Keras, or its name.
            settings: precision, accumulation, clipping and the like; `None` = the defaults.

        Raises:
            ValueError: a `loss`: the model's own is the only one that weighs by token; `loss_weights`, `metrics`, `weighted_metrics`: it logs its own.
        """
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if kwargs.pop(name, None) not in (None, [], {}):
                raise ValueError(f"compile: {name} is not taken, the model computes its own token-weighted cross-entropy and what it logs beside it; "
                                 f"leave {name} out")
        if not self.built:
            self.build_in_name_scope()
        self._settings, compute = settings or StepSettings(), self.transformer.compute
        compute.products, compute.recompute = PRECISIONS[self._settings.precision], self._settings.recompute
        compute.compile_elementwise = self._settings.compile_elementwise
        near = self.trainable_variables if self._settings.l2_start else []
        self.guard.remember_start(one for one in near if not any(matches(pattern, weights.short_name(one)) for pattern in self._settings.new))
        super().compile(optimizer=optimizer, loss=None, **kwargs)

    @property
    def metrics(self) -> list[Figure | tf_keras.metrics.Metric]:
        """What was logged last, in the order in which `evaluate` returns it, and metrics that a subclass has of its own."""
        return [*self._clock.figures, *super().metrics]

    fit, evaluate = _without_weights(TFGPT2LMHeadModel.fit), _without_weights(TFGPT2LMHeadModel.evaluate)
    train_on_batch, test_on_batch = _without_weights(TFGPT2LMHeadModel.train_on_batch), _without_weights(TFGPT2LMHeadModel.test_on_batch)

    def reset_metrics(self):
        """Start all sums anew; Keras calls this at the start of an epoch and of an evaluation."""
        self._running.reset()
        self._clock.reset()

    @tf.autograph.experimental.do_not_convert
    def train_step(self, data):
        """Take one optimizer step on a packed batch; one whose gradients are not finite is skipped and counted."""
        batch = checked(batch_of(data), self.config.n_positions)
        if self.jit_compile and not batch["input_ids"].shape.is_fully_defined():
            raise ValueError("jit_compile: XLA wants batches of one size, and these may differ; batch them with drop_remainder=True, as in "
                             "packed.unbatch().batch(8, drop_remainder=True)")
        scale = self.guard.loss_scale(self._settings, tf.size(batch["input_ids"]))
        terms, gradients = summed_gradients(self, batch, self._settings, scale)
        terms, padding, places = summed_over_replicas(terms, *padding_of(batch))
        norm, finite = self.guard.apply(self.optimizer, gradients, self.trainable_variables, terms.divisor, scale, self._settings)
        zero_if_skipped = {name: tf.where(finite, term, 0) for name, term in (terms._asdict() | {"gradient_norm": norm}).items()}
        sums = self._running.add(**zero_if_skipped, steps=tf.cast(finite, tf.int64), padding=padding, places=places)
        counts = {name: tf.identity(self.guard.variables[name]) for name in ("skipped", "skipped_in_a_row")}
        means = {"gradient_norm": share(sums, "gradient_norm", "steps"), "padding": share(sums, "padding", "places")}
        return logged(self.adaptation.head, terms, sums) | counts | means

    @tf.autograph.experimental.do_not_convert
    def test_step(self, data):
        """Add a packed batch to the metrics."""
        batch = checked(batch_of(data), self.config.n_positions)
        terms, *_ = summed_over_replicas(summed_over_lanes(lambda rows, _: self.loss_terms(rows), batch, self._settings.lanes))
        return logged(self.adaptation.head, terms, self._running.add(**terms._asdict()))

    @tf.autograph.experimental.do_not_convert
    def predict_step(self, data):
        """Return what a call does; of a packed batch the logits, float [batch, length, vocab], where no token sees another segment."""
        batch, _, _ = tf_keras.utils.unpack_x_y_sample_weight(data)
        if not (isinstance(batch, dict) and {"labels", "head_labels", "segment_ids"} & batch.keys()):
            return super().predict_step(data)
        return TFCausalLMOutputWithCrossAttentions(logits=self.project(self._hidden(segmented(batch), training=False)))

    def make_train_function(self, force=False):
        """Build Keras's train function and add `tokens_per_second` to its logs."""
        if self.train_function is None or force:
            self.optimizer.build(self.trainable_variables)  # a step in which its variables came to be would be traced twice
            self.train_function = self._clock.timed(super().make_train_function(force))
        return self.train_function

    def make_test_function(self, force=False):
        """Build Keras's test function and add `tokens_per_second` to its logs; never compiled, since XLA would begin anew for a smaller last batch."""
        if self.test_function is None or force:
            function = super().make_test_function(force)

            def uncompiled(iterator):
                asked, self._jit_compile = self._jit_compile, False                       # Keras looks at it while it traces
                try:
                    return function(iterator)
                finally:
                    self._jit_compile = asked

            self.test_function = self._clock.timed(uncompiled)
        return self.test_function
