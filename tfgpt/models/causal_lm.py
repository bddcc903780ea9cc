"""The causal language model: TFGPT2LMHeadModel with a train step of its own, and weights every version of transformers reads.

`fit` and `evaluate` take packed batches (see `tfgpt.data.packing`): `labels` are next-token targets already and are not shifted here.
"""
from __future__ import annotations

import time
from pathlib import Path

import tensorflow as tf
import tf_keras
from transformers import TFGPT2LMHeadModel

from tfgpt.models import weights
from tfgpt.models.block import StaticCache
from tfgpt.models.loss import LossTerms, projected_loss
from tfgpt.models.step import PRECISIONS, StepGuard, StepSettings, summed_gradients
from tfgpt.models.transformer import GPTTransformer, segment_mask


class GPTLMHeadModel(TFGPT2LMHeadModel):
    """A GPT-2 that trains on packed batches under `compile` and `fit`.

    It loads, saves, calls and generates like `TFGPT2LMHeadModel`. Only `compile`, `fit` and `evaluate` differ: the loss is the
    cross-entropy over all trained tokens of the batch, summed and divided once, and cannot be replaced.

    A batch is a dict of int32 [batch, length]: `input_ids`; `labels`, next-token targets, -100 = not trained on; and optionally
    `segment_ids`, 0 = padding, attention never crosses a segment; `position_ids`, which restart in each segment.
    Logs: `loss` in nats a token, `perplexity`, `accuracy`, `tokens` (trained so far in the epoch) and `tokens_per_second`; while training
    also `gradient_norm`, before clipping.

    >>> model = GPTLMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=8, n_layer=1, n_head=2))
    >>> model.compile(optimizer=tf_keras.optimizers.AdamW(1e-3))
    >>> ids = tf.random.stateless_uniform([4, 17], seed=[1, 2], maxval=64, dtype=tf.int32)
    >>> logs = model.fit({"input_ids": ids[:, :-1], "labels": ids[:, 1:]}, verbose=0).history
    >>> 60 < logs["perplexity"][0] < 68  # untrained: about as unsure as a fair die with 64 sides
    True
    """

    def __init__(self, config, *inputs, **kwargs):
        super().__init__(config, *inputs, **kwargs)
        self.transformer = GPTTransformer(config, name="transformer")
        self.transformer.wpe.trainable = getattr(config, "positions", "learned") == "learned"
        self._running = _RunningMetrics()
        self._clock = _Clock()
        self._settings, self.guard = StepSettings(), StepGuard()

    def compile(self, optimizer="adamw", settings: StepSettings | None = None, **kwargs):
        """Configure training; takes what `tf_keras.Model.compile` takes, except `loss`.

        Args:
            optimizer: of Keras, or its name.
            settings: precision, accumulation, clipping and the like; `None` = the defaults.

        Raises:
            ValueError: a `loss`: the model's own is the only one that weighs by token.
        """
        if kwargs.pop("loss", None) is not None:
            raise ValueError("compile: loss is not taken, the model computes its own token-weighted cross-entropy; leave loss out")
        self._settings, compute = settings or StepSettings(), self.transformer.compute
        compute.products, compute.recompute = PRECISIONS[self._settings.precision], self._settings.recompute
        compute.compile_elementwise = self._settings.compile_elementwise
        super().compile(optimizer=optimizer, loss=None, **kwargs)

    @property
    def metrics(self):
        """The metrics that `fit` and `evaluate` reset at the start of an epoch."""
        return self._running.all()

    def reset_metrics(self):
        """Start all metrics anew; Keras calls this at the start of an epoch and of an evaluation."""
        super().reset_metrics()
        self._clock.reset()

    def seed_dropout(self, seed: int) -> None:
        """Choose the dropout masks of a training; they depend on this seed, the layer and the optimizer step."""
        self.transformer.dropout_clock.seed = seed

    def project(self, hidden: tf.Tensor) -> tf.Tensor:
        """Return the logits, float [..., vocab], of hidden states, float [..., width]."""
        return tf.matmul(hidden, tf.cast(self.transformer.wte.embeddings, hidden.dtype), transpose_b=True)

    def empty_cache(self, batch: int | tf.Tensor, slots: int | tf.Tensor) -> StaticCache:
        """Return a cache with room for `slots` tokens in each of `batch` rows."""
        shape = [batch, self.config.n_head, slots, self.config.n_embd // self.config.n_head]
        zeros = tuple(tf.zeros(shape, self.compute_dtype) for _ in range(self.config.n_layer))
        return StaticCache(keys=zeros, values=zeros)

    def loss_terms(self, batch: dict[str, tf.Tensor], training: bool = False) -> LossTerms:
        """Return the sums of a batch: loss in nats, trained tokens, right predictions (see `LossTerms`).

        Raises:
            ValueError: a batch without `input_ids` or `labels`.
        """
        _check_batch(batch)
        segments = batch.get("segment_ids")
        hidden = self.transformer(
            input_ids=batch["input_ids"],
            position_ids=batch.get("position_ids"),
            attention_mask=None if segments is None else segment_mask(segments),
            use_cache=False,
            training=training,
        ).last_hidden_state                                        # [batch, length, width]
        dtype = self.transformer.compute.dtype(training, hidden.dtype)
        return projected_loss(tf.cast(hidden, dtype), self.transformer.wte.embeddings, batch["labels"], self._settings.objective,
                              differentiable=training, fixed_shapes=bool(self.jit_compile))

    def train_step(self, data):
        """Take one optimizer step on a packed batch; one whose gradients are not finite is skipped and counted."""
        batch, _, _ = tf_keras.utils.unpack_x_y_sample_weight(data)
        _check_batch(batch)
        scale = self.guard.loss_scale(self._settings, tf.size(batch["labels"]))
        terms, gradients = summed_gradients(self, batch, self._settings, scale)
        norm, finite = self.guard.apply(self.optimizer, gradients, self.trainable_variables, terms.tokens, scale, self._settings)
        self._running.gradient_norm.update_state(tf.where(finite, norm, 0.0), sample_weight=tf.cast(finite, tf.float32))
        logs = self._running.update(LossTerms(*(tf.where(finite, term, 0) for term in terms)))
        self._running.padding.update_state(_padding(batch))
        counts = {name: tf.identity(self.guard.variables[name]) for name in ("skipped", "skipped_in_a_row")}
        return logs | counts | {"gradient_norm": self._running.gradient_norm.result(), "padding": self._running.padding.result()}

    def test_step(self, data):
        """Add a packed batch to the metrics."""
        batch, _, _ = tf_keras.utils.unpack_x_y_sample_weight(data)
        return self._running.update(self.loss_terms(batch))

    def make_train_function(self, force=False):
        """Build Keras's train function and add `tokens_per_second` to its logs."""
        if self.train_function is None or force:
            self.train_function = self._clock.timed(super().make_train_function(force))
        return self.train_function

    def make_test_function(self, force=False):
        """Build Keras's test function and add `tokens_per_second` to its logs."""
        if self.test_function is None or force:
            self.test_function = self._clock.timed(super().make_test_function(force))
        return self.test_function

    def save_pretrained(self, save_directory, **kwargs):
        """Write config.json, generation_config.json and model.safetensors in PyTorch's names and layout.

        Every version of transformers reads the folder, with `TFGPT2LMHeadModel` as with PyTorch's `GPT2LMHeadModel`.

        Raises:
            ValueError: any further argument of transformers' `save_pretrained`; there is one format here.
        """
        if kwargs:
            raise ValueError(f"save_pretrained: {', '.join(sorted(kwargs))} not taken; the format is always safetensors with PyTorch's names")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.architectures = ["GPT2LMHeadModel"]
        self.config.save_pretrained(folder)
        self.generation_config.save_pretrained(folder)
        weights.save(self, folder / "model.safetensors")


def _check_batch(batch):
    if not isinstance(batch, dict) or not {"input_ids", "labels"} <= set(batch):
        found = sorted(batch) if isinstance(batch, dict) else type(batch).__name__
        raise ValueError(f"a batch is a dict with input_ids and labels (next-token targets), got {found}; see tfgpt.pack_texts")


def _padding(batch):
    """Return the share of places without a token, float32 []."""
    if "segment_ids" not in batch:
        return tf.constant(0.0)
    return tf.reduce_mean(tf.cast(batch["segment_ids"] == 0, tf.float32))


class _RunningMetrics:
    """Sums over an epoch. No Keras layer, so that its variables are not taken for weights of the model."""

    def __init__(self):
        self.loss = tf_keras.metrics.Mean(name="loss")
        self.accuracy = tf_keras.metrics.Mean(name="accuracy")
        self.tokens = tf_keras.metrics.Sum(name="tokens")
        self.gradient_norm = tf_keras.metrics.Mean(name="gradient_norm")
        self.padding = tf_keras.metrics.Mean(name="padding")

    def all(self):
        return [self.loss, self.accuracy, self.tokens, self.gradient_norm, self.padding]

    def update(self, terms: LossTerms):
        count = tf.cast(terms.tokens, tf.float32)
        self.loss.update_state(tf.math.divide_no_nan(terms.loss, count), sample_weight=count)
        self.accuracy.update_state(tf.math.divide_no_nan(tf.cast(terms.correct, tf.float32), count), sample_weight=count)
        self.tokens.update_state(count)
        loss = self.loss.result()
        return {"loss": loss, "perplexity": tf.exp(loss), "accuracy": self.accuracy.result(), "tokens": self.tokens.result()}


class _Clock:
    """Measures tokens a second over an epoch, without its first call, which may trace and compile, where there are more."""

    def __init__(self):
        self.reset()

    def reset(self):
        self._since, self._first = None, 0.0

    def timed(self, step):
        """Return a train or test function whose logs have `tokens_per_second` beside `tokens`."""

        def timed(iterator):
            start = time.perf_counter()
            logs = step(iterator)
            now = time.perf_counter()
            if self._since is None:
                self._since, self._first = now, logs["tokens"]
                rate = logs["tokens"] / (now - start)
            else:  # a tensor still, not fetched from the device here
                rate = (logs["tokens"] - self._first) / (now - self._since)
            return dict(logs) | {"tokens_per_second": rate}

        return timed
