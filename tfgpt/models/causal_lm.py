"""The causal language model: TFGPT2LMHeadModel with a train step of its own, and weights every version of transformers reads.

`fit` and `evaluate` take packed batches (see `tfgpt.data.packing`): `labels` are next-token targets already and are not shifted here.
"""
from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
import tf_keras
from transformers.modeling_tf_outputs import TFCausalLMOutputWithCrossAttentions
from transformers.modeling_tf_utils import unpack_inputs

from tfgpt.models import checkpoint, gpt1, storing, weights
from tfgpt.models.adaptation import Adaptation, matches
from tfgpt.models.additions import LowRank
from tfgpt.models.batch import checked, padding_of
from tfgpt.models.block import Projection
from tfgpt.models.cache import StaticCache, own
from tfgpt.models.cross_attention import Encoded, SourceKeys
from tfgpt.models.encoder import Encoder
from tfgpt.models.heads import HeadTerms, TaskHead, judge, judged_count, next_tokens, targets_of
from tfgpt.models.keras_steps import KerasSteps
from tfgpt.models.loss import IGNORED, LossTerms, projected_loss
from tfgpt.models.products import product_with_rows, rows_of_last, shaped_as
from tfgpt.models.transformer import GPTTransformer, segment_mask, source_mask


class GPTLMHeadModel(KerasSteps):
    """A GPT-2 that trains on packed batches under `compile` and `fit`.

    It loads, saves, calls and generates like `TFGPT2LMHeadModel`. Only `compile`, `fit` and `evaluate` differ: the loss is the
    cross-entropy over all trained tokens of the batch, summed and divided once, and cannot be replaced.

    A batch is a dict of int32 [batch, length]: `input_ids`; `labels`, next-token targets, -100 = not trained on; and optionally
    `segment_ids`, 0 = padding, attention never crosses a segment; or in their place an `attention_mask` of 1, and 0 = padding; `position_ids`, which restart
    in each segment. With an encoder also `encoder_input_ids` and, if there are the others, `encoder_segment_ids` and `encoder_position_ids`: a segment sees
    the encoder's of its own number.
    A model with a head (see `tfgpt.models.surgery.add_head`) is trained on batches with `head_labels` instead of `labels` (see
    `tfgpt.models.heads.for_head`).
    Logs: `loss` in nats a token, `perplexity`, `accuracy`, `tokens` (trained so far in the epoch) and `tokens_per_second`; while training
    also `gradient_norm`, before clipping. For a head `loss` is its own in nats a text (word, question), of which `judged` counts those so far; beside a
    language model the weighted sum of `head_loss` and `language_loss`.

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
        self.lm_head = None if getattr(config, "tie_word_embeddings", True) else OutputMatrix(config)
        self.adaptation = Adaptation.of(config)
        has_encoder = self.adaptation.encoder.kind != "none"
        self.encoder = Encoder(config, self.transformer.compute, self.transformer.dropout_clock) if has_encoder else None
        if has_encoder:
            self.encoder.wpe.trainable = self.transformer.wpe.trainable
        self.head = TaskHead(self.adaptation.head, config.n_embd, self.transformer.dropout_clock) if self.adaptation.head.kind != "none" else None
        self._targets = targets_of(self.adaptation.head, self.adaptation.head.labels) if self.adaptation.head.kind in ("classes", "tags") else None
        self._trained, self._frozen = (weights.ADDED if self.adaptation.trains_additions else weights.ALL), ()
        self.stored_output = None

    def __str__(self):
        """Name the class that it extends, by which transformers' `generate` tells where the batch is in a cache."""
        return f"<{type(self).__name__}, a TFGPT2LMHeadModel of {self.config.n_layer} layers, width {self.config.n_embd}>"

    @tf.autograph.experimental.do_not_convert  # for here and all that it calls: no branch hangs on a tensor, and rewriting took longer than tracing
    @unpack_inputs
    def call(self, input_ids=None, past_key_values=None, attention_mask=None, token_type_ids=None, position_ids=None, head_mask=None,
             inputs_embeds=None, encoder_hidden_states=None, encoder_attention_mask=None, use_cache=None, output_attentions=None,
             output_hidden_states=None, return_dict=None, labels=None, training=False):
        """Take and return what `TFGPT2LMHeadModel` does; see `GPTTransformer.call` for what differs."""
        output = self.transformer(
            input_ids=input_ids, past_key_values=past_key_values, attention_mask=attention_mask, token_type_ids=token_type_ids,
            position_ids=position_ids, head_mask=head_mask, inputs_embeds=inputs_embeds, encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask, use_cache=use_cache, output_attentions=output_attentions,
            output_hidden_states=output_hidden_states, return_dict=True, training=training,
        )  # fmt: skip
        logits = self.project(output.last_hidden_state)
        whole = TFCausalLMOutputWithCrossAttentions(
            loss=None if labels is None else self.hf_compute_loss(labels[:, 1:], logits[:, :-1]),
            logits=logits, past_key_values=output.past_key_values, hidden_states=output.hidden_states, attentions=output.attentions,
        )  # fmt: skip
        return whole if return_dict else whole.to_tuple()

    def build(self, input_shape=None):
        """Make the weights."""
        super().build(input_shape)
        for layer in (self.lm_head, self.encoder, self.head):
            if layer is not None:
                with tf.name_scope(layer.name):
                    layer.build()

    def train_only(self, patterns: Sequence[str] = weights.ALL, freeze: Sequence[str] = ()) -> None:
        """Choose the weights that are trained; called before `compile`.

        Args:
            patterns: of weights' names, such as `h.*.attn`, `h.[6-9]`, `**.lora`, `wte.weight` (see `weight_names`); each names a weight, or all below
                a part.
            freeze: patterns of those among them that are not trained.

        Raises:
            ValueError: a pattern that no weight matches; nothing is left to train.
        """
        if not self.built:
            self.build_in_name_scope()
        for key, several in (("train", patterns), ("freeze", freeze)):
            for pattern in several:
                self.check_pattern(key, pattern)
        self._trained, self._frozen = tuple(patterns), tuple(freeze)
        if not self.trainable_weights:
            raise ValueError(f"{'adapt.freeze' if freeze else 'adapt.train'}: nothing is left to train by the patterns {list(patterns)} without "
                             f"{list(freeze)}; give others")

    def check_pattern(self, key: str, pattern: str) -> None:
        """Raise a `ValueError` that names the key unless the pattern matches a weight."""
        names = self.weight_names
        if not any(matches(pattern, name) for name in names):
            raise ValueError(f"adapt.{key}: the pattern {pattern!r} matches no weight; there are {', '.join(names[:3])}, ... {', '.join(names[-3:])}")

    @property
    def trained(self) -> tuple[str, ...]:
        """The patterns of the weights that are trained, each of which matches one."""
        return tuple(one for one in self._trained if any(matches(one, name) for name in self.weight_names))

    @property
    def low_ranks(self) -> dict[str, LowRank]:
        """The changes that LoRA makes, by the names of the weights that they change."""
        found = {weights.short_name(layer.weight): layer.lora for layer in self.projections if layer.lora is not None}
        return found if self.transformer.wte_lora is None else found | {"wte.weight": self.transformer.wte_lora}

    @property
    def weight_names(self) -> list[str]:
        """The names of all weights, as `train_only` knows them."""
        return [weights.short_name(variable) for variable in self.weights]

    @property
    def trained_names(self) -> list[str]:
        """The names of the weights that are trained."""
        return [weights.short_name(variable) for variable in self.trainable_weights]

    @property
    def trainable_weights(self) -> list[tf.Variable]:
        """The weights that are trained."""
        def trains(name):
            return any(matches(one, name) for one in self._trained) and not any(matches(one, name) for one in self._frozen)

        return [variable for variable in super().trainable_weights if trains(weights.short_name(variable))]

    def seed_dropout(self, seed: int) -> None:
        """Choose the dropout masks of a training; they depend on this seed, the layer and the optimizer step."""
        self.transformer.dropout_clock.seed = seed

    def name_labels(self, values: Sequence[str]) -> None:
        """Tell what the numbers in `head_labels` stand for, before training or evaluation; for classes and tags the head's own labels, unless it is told.

        Args:
            values: lines of data/labels.txt.

        Raises:
            ValueError: a label that the head does not know, or that is no number.
        """
        self._targets = targets_of(self.adaptation.head, values)

    def judge(self, ids: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
        """Return what the head finds at some tokens, float32 [batch, wanted, outputs]: logits, or a number in standard deviations from the mean.

        Args:
            ids: int32 [batch, width], from an end-of-text token on.
            last: int32 [batch, wanted], 0 to width - 1; what follows the last of them is padding.
        """
        return self.head(tf.gather(self.states(ids), last, batch_dims=1))

    def states(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the final hidden states, behind the last norm, float [batch, tokens, width], of tokens, int32 [batch, tokens]."""
        return self.transformer(input_ids=ids, use_cache=False).last_hidden_state

    def project(self, hidden: tf.Tensor) -> tf.Tensor:
        """Return the logits, float [..., vocab], of hidden states, float [..., width]."""
        if self.stored_output is None:
            return shaped_as(hidden, product_with_rows(rows_of_last(hidden), self.output_table()))
        return self.stored_output.product(hidden)

    def output_table(self) -> tf.Tensor:
        """Return the output matrix, float32 [vocab, width]: the embeddings, or one of its own."""
        return self.transformer.table() if self.lm_head is None else tf.convert_to_tensor(self.lm_head.weight)

    def store_weights(self, kind: str) -> None:
        """Keep the matrices in fewer bits from now on; the model then reads, scores and writes, but can be neither trained nor saved.

        Biases, norms and positions stay as they are. The matrices that are left behind free their memory.

        Args:
            kind: `bfloat16`, or `int8` (see `tfgpt.models.stored`); `float32` changes nothing.

        Raises:
            ValueError: no such kind, weights that are stored already, or a machine that has no int8 product.
        """
        storing.store(self, kind)

    @property
    def projections(self) -> list[Projection]:
        """The dense layers of all blocks; with the embedding table, their matrices are nearly all of the weights."""
        of_encoder = [] if self.encoder is None else self.encoder.projections
        return [layer for block in self.transformer.h for layer in block.projections] + of_encoder

    @property
    def matrices(self) -> list[tf.Variable]:
        """The weights of `projections`, and last the embedding table."""
        return [layer.weight for layer in self.projections] + [self.transformer.wte.embeddings]

    @property
    def all_variables(self) -> list[tf.Variable]:
        """What the model computes with: its weights, stored or not."""
        kept = [layer._stored for layer in self.projections]
        of_stored = [variable for module in (*kept, self.transformer.stored_table, self.stored_output) if module is not None for variable in module.variables]
        return list({id(variable): variable for variable in (*self.weights, *of_stored)}.values())

    def empty_cache(self, batch: int | tf.Tensor, slots: int | tf.Tensor, source: Encoded | None = None) -> StaticCache:
        """Return a cache with room for `slots` tokens in each of `batch` rows, and with the keys and values of the rows' sources, if they have any."""
        zeros = tuple(tf.zeros([batch, heads, slots, width], self.compute_dtype) for heads, width in self.head_shapes)
        cache = StaticCache(keys=zeros, values=zeros)
        if source is None:
            return cache
        keys, values = zip(*(block.crossattention.read(source.states) for block in self.transformer.h))
        return cache._replace(source=SourceKeys(keys, values, source.seen))

    def fit_cache(self, cache: StaticCache, slots: tf.Tensor) -> StaticCache:
        """Return a cache with room for its first `slots` tokens alone."""
        keys, values = (tuple(layer[:, :, :slots] for layer in layers) for layers in (cache.keys, cache.values))
        return cache._replace(keys=keys, values=values)

    def own_cache(self, cache: StaticCache, rows: tf.Tensor | None = None) -> StaticCache:
        """Return a copy of a cache that `read` may write into where it lies, so that a token costs no copy of its own.

        Args:
            cache: of any rows; it stays as it is.
            rows: int32 [n], those that are wanted; `None` = all.
        """
        return own(cache, rows)

    def encode(self, ids: tf.Tensor, lengths: tf.Tensor) -> Encoded:
        """Read sources with the encoder.

        Args:
            ids: int32 [batch, places], of sources as `tfgpt.generation.rows.framed_sources` frames them; as many places as the encoder takes at most.
            lengths: int32 [batch], tokens of each, 1 or more; what follows is padding.
        """
        places = tf.range(tf.shape(ids)[1])[tf.newaxis]                                   # [1, places]
        seen = places < lengths[:, tf.newaxis]                                            # [batch, places]
        return Encoded(self.encoder(self.transformer.embed(ids), places, tf.cast(seen, tf.int32)), seen)

    @property
    def head_shapes(self) -> list[tuple[int, int]]:
        """Of each block the number of its heads and their width."""
        return [(block.attn.n_head, block.attn.head_width) for block in self.transformer.h]

    def read(self, ids: tf.Tensor, positions: tf.Tensor, last: tf.Tensor, cache: StaticCache | None,
             source: Encoded | None = None) -> tuple[tf.Tensor, StaticCache | None]:
        """Read tokens and tell what may come behind some of them.

        Args:
            ids: int32 [batch, width].
            positions: int32 [batch, width], of each token in its row; they rise by 1, those of padding at a row's end may not.
            last: int32 [batch, wanted], 0 to width - 1: behind which tokens logits are wanted. What follows the last of them is padding.
            cache: of the tokens before, from `empty_cache`, `own_cache` or an earlier `read`; `None` = there are none. One from `own_cache`, or read from
                such a one, is overwritten.
            source: of the rows, where there is an encoder and no cache, which would know it.

        Returns:
            Logits, float32 [batch, wanted, vocab]; and the cache with these tokens, `None` if there was none.
        """
        if cache is not None:
            shapes = [[None, heads, None, width] for heads, width in self.head_shapes]
            keys, values = (tuple(map(tf.ensure_shape, layers, shapes)) for layers in (cache.keys, cache.values))  # a loop or a caller may not know
            cache = cache._replace(keys=keys, values=values)
        states, seen = source or (None, None)
        output = self.transformer(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=cache is not None,
                                  encoder_hidden_states=states, encoder_attention_mask=seen)
        return tf.cast(self.project(tf.gather(output.last_hidden_state, last, batch_dims=1)), tf.float32), output.past_key_values

    def loss_terms(self, batch: dict[str, tf.Tensor], training: bool = False, balance: tf.Tensor | float = 1.0) -> LossTerms | HeadTerms:
        """Return the sums of a batch: loss in nats, trained tokens, right predictions (see `LossTerms`, and `HeadTerms` for a batch with `head_labels`).

        Args:
            batch: a packed one.
            training: whether dropout is on and gradients are wanted.
            balance: of `balance`, for the whole batch that this one is a part of.

        Raises:
            ValueError: a batch without `input_ids`, or without `labels` and `head_labels`; `head_labels` where there is no head, or none that knows
                what they stand for; one without what an encoder reads where there is one, or the other way about.
        """
        tied = self.lm_head is None and ("head_labels" not in batch or self.adaptation.head.weight < 1)
        with self.transformer.one_gradient(in_xla=bool(self.jit_compile)) if tied else contextlib.nullcontext():
            batch = checked(batch, self.config.n_positions)
            hidden = self._hidden(batch, training)                                        # [batch, length, width]
            if "head_labels" in batch:
                return self._head_terms(hidden, batch, training, balance)
            return self._language_terms(hidden, batch["labels"], training)

    def head_outputs(self, batch: dict[str, tf.Tensor]) -> tf.Tensor:
        """Return what the head finds at each token of a packed batch, float32 [batch, length, outputs]."""
        return self.head(self._hidden(checked(batch, self.config.n_positions), training=False))

    def _hidden(self, batch, training):
        segments = batch.get("segment_ids")
        states, seen = self._encoded(batch, training)
        return self.transformer(
            input_ids=batch["input_ids"],
            position_ids=batch.get("position_ids"),
            attention_mask=None if segments is None else segment_mask(segments),
            encoder_hidden_states=states,
            encoder_attention_mask=seen,
            use_cache=False,
            training=training,
            in_blocks=not self.jit_compile,
        ).last_hidden_state

    def _language_terms(self, hidden, labels, training):
        if self.stored_output is not None:
            return self._stored_loss(hidden, labels)
        dtype = self.transformer.compute.dtype(training, hidden.dtype)
        return projected_loss(tf.cast(hidden, dtype), self.output_table(), labels, self._settings.objective,
                              differentiable=training, fixed_shapes=training and bool(self.jit_compile), fused=self.transformer.compute.fused(training))

    def _encoded(self, batch, training):
        """Return the encoder's states of a batch and which of them each position sees; twice `None` without an encoder."""
        if (self.encoder is not None) != ("encoder_input_ids" in batch):
            raise ValueError(f"a batch has encoder_input_ids where the model has an encoder, and nowhere else; this one has {sorted(batch)}: prepare the data "
                             "with data.examples: translation, or choose another model")
        if self.encoder is None:
            return None, None
        ids = batch["encoder_input_ids"]
        segments, source_segments = (batch.get(f"{side}segment_ids", tf.ones_like(batch[f"{side}input_ids"])) for side in ("", "encoder_"))
        positions = batch.get("encoder_position_ids", tf.range(tf.shape(ids)[1])[tf.newaxis])
        states = self.encoder(self.transformer.embed(ids), positions, source_segments, training=training, in_blocks=not self.jit_compile)
        return states, source_mask(segments, source_segments)

    def _head_terms(self, hidden, batch, training, balance):
        head = self.adaptation.head
        if self.head is None or (self._targets is None and head.kind != "choice"):
            missing = "the model has no head; add one (tfgpt.models.surgery.add_head)" if self.head is None else "call name_labels before"
            raise ValueError(f"head_labels: {missing}")
        found = judge(head, self.head(hidden, training=training), batch["head_labels"], self._targets, self._settings.objective.label_smoothing)
        padding, places = padding_of(batch)
        if head.weight == 1:
            nothing = (tf.zeros([]), *[tf.zeros([], tf.int64)] * 2)
            return HeadTerms(found.objective, found.loss, places - padding, found.correct, found.count, *nothing)
        language = self._language_terms(hidden, next_tokens(head, batch, self.config.eos_token_id), training)
        objective = head.weight * found.objective + (1.0 - head.weight) * balance * language.objective
        return HeadTerms(objective, found.loss, places - padding, found.correct, found.count, *language[1:])

    def balance(self, batch: dict[str, tf.Tensor]) -> tf.Tensor | float:
        """Return what the language model's summed loss is multiplied by beside a head's, so that one divisor, of what is judged, makes means of both.

        It is the ratio of their numbers in the whole batch, over all replicas: micro steps and replicas that have more of one than of the other then
        weigh right. Called in replica context.
        """
        head = self.adaptation.head
        if "head_labels" not in batch or head.weight == 1:
            return 1.0
        tokens = tf.math.count_nonzero(next_tokens(head, batch, self.config.eos_token_id) != IGNORED)
        counts = tf.stack([judged_count(head, batch["head_labels"]), tokens])
        replicas = tf.distribute.get_replica_context()
        if replicas.num_replicas_in_sync > 1:
            counts = replicas.all_reduce(tf.distribute.ReduceOp.SUM, counts)
        return tf.cast(tf.math.divide_no_nan(*tf.unstack(tf.cast(counts, tf.float64))), tf.float32)

    def _stored_loss(self, hidden, labels):
        """Return what `projected_loss` does, for weights that are stored: the logits of all labels at once."""
        trained = labels != IGNORED
        targets = tf.boolean_mask(labels, trained)
        logits = self.project(tf.boolean_mask(hidden, trained))                           # [tokens, vocab]
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))
        right = tf.gather(logits, targets, batch_dims=1) >= tf.reduce_max(logits, axis=1)
        return LossTerms(loss, loss, tf.size(targets, tf.int64), tf.math.count_nonzero(right))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, store_as: str | storing.Keeper = "float32",
                        **hub: object) -> GPTLMHeadModel:
        """Load a model from a folder or a hub id; never a pickled file (see `tfgpt.models.checkpoint`).

        A generation_config.json is not read: how texts are written is said where they are (see `tfgpt.generation.controls`).

        Args:
            pretrained_model_name_or_path: GPT-2, or GPT-1 (openai-gpt); safetensors or TensorFlow's h5.
            store_as: how the matrices are kept, as `store_weights` takes it; in fewer bits they are never in memory all at once as they are in the files.
                Or a function that takes the model before it has values, and returns what gives each weight its own (see `tfgpt.models.weights.assign`).
            hub: of the download: `cache_dir`, `force_download`, `local_files_only`, `revision`, `token`.

        Raises:
            FileNotFoundError: no such model, or no weights.
            ValueError: any further argument of transformers' `from_pretrained`; pickled weights, or such as do not belong to the configuration; and as
                `store_weights`.
        """
        folder = checkpoint.folder_of(pretrained_model_name_or_path, **hub)
        model = cls(checkpoint.config_in(folder))
        weights.build(model)
        tensors = checkpoint.Tensors(folder, tied=model.lm_head is None)
        weights.assign(model, tensors, seed=None, keep=storing.keeper(model, store_as) if isinstance(store_as, str) else store_as(model))
        return model

    def save_pretrained(self, save_directory, **kwargs):
        """Write config.json, generation_config.json and model.safetensors in PyTorch's names and layout.

        Every version of transformers reads the folder, with `TFGPT2LMHeadModel` as with PyTorch's `GPT2LMHeadModel`; that of a GPT-1 with
        `OpenAIGPTLMHeadModel`. What an adaptation adds stands
        under `adaptation` in config.json and in adaptation.safetensors; those classes leave it out.

        Raises:
            ValueError: any further argument of transformers' `save_pretrained`; there is one format here.
        """
        if self.stored_output is not None:
            raise ValueError("save_pretrained: weights stored in fewer bits cannot be saved; load the model again, or export it")
        if kwargs:
            raise ValueError(f"save_pretrained: {', '.join(sorted(kwargs))} not taken; the format is always safetensors with PyTorch's names")
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.architectures = ["GPT2LMHeadModel"]
        (gpt1.saved_config(self.config) if gpt1.is_gpt1(self.config) else self.config).save_pretrained(folder)
        self.generation_config.save_pretrained(folder)
        weights.save(self, folder)


class OutputMatrix(tf_keras.layers.Layer):
    """An output matrix beside the embeddings, under the name that PyTorch's GPT-2 gives it."""

    def __init__(self, config):
        super().__init__(name="lm_head")
        self._shape, self._spread = [config.vocab_size, config.n_embd], config.initializer_range

    def build(self, input_shape=None):
        """Make `weight` [vocab, width]."""
        if self.built:
            return
        self.built = True
        self.weight = self.add_weight("weight", shape=self._shape, initializer=tf_keras.initializers.RandomNormal(stddev=self._spread))
