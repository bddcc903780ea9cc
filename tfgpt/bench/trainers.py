"""The sides of `tfgpt bench train`, each a process that trains a few steps whenever it is told to: `python -m tfgpt.bench.trainers SIDE SETTINGS`.

See `tfgpt.bench.turns` for how it is told and what it answers.
"""
from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfgpt.bench.turns import serve

if TYPE_CHECKING:
    import tensorflow as tf

IGNORED = -100
"""As `tfgpt.models.loss.IGNORED`, which would bring TensorFlow into PyTorch's process and its memory."""
DISTINCT = 64
"""Batches of this package's sides; then they come again."""


@dataclass(frozen=True)
class Settings:
    """What every side trains."""

    layers: int
    width: int
    heads: int
    vocab: int
    length: int
    batch: int
    precision: str = "bfloat16"
    lanes: int = 1
    """Of this package alone."""
    texts: str = ""
    """File of texts, one a line; empty = random tokens."""
    tokenizer: str = ""
    """Folder of the tokenizer of `texts`."""


def random_batches(settings: Settings) -> Iterator[dict[str, np.ndarray]]:
    """Give endless batches without padding: `input_ids` and next-token `labels`, int32 [batch, length]."""
    rng = np.random.default_rng(1)
    while True:
        ids = rng.integers(0, settings.vocab, [settings.batch, settings.length + 1], dtype=np.int32)
        yield {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}


def packed_batches(settings: Settings) -> Iterator[dict[str, np.ndarray]]:
    """Give the texts endlessly in packed batches, as a run trains on them."""
    from tfgpt.data.pipeline import pack_texts

    batches = pack_texts(_texts(settings), _tokenizer(settings), settings.length, settings.batch)
    return (batch for batch in itertools.chain.from_iterable(batches.as_numpy_iterator() for _ in itertools.count()) if len(batch["labels"]) == settings.batch)


def padded_batches(settings: Settings, to_longest: bool) -> Iterator[dict[str, np.ndarray]]:
    """Give the texts endlessly in padded batches, a text a row, as most recipes do.

    Args:
        settings: of the side.
        to_longest: pad to the longest text of the batch, in steps of 16 so that shapes come again; else to the whole length.
    """
    tokenizer = _tokenizer(settings)
    ids = [[tokenizer.eos_token_id, *text, tokenizer.eos_token_id][: settings.length + 1] for text in tokenizer(_texts(settings), verbose=False).input_ids]
    order = np.random.default_rng(1)
    while True:
        for rows in np.array_split(order.permutation(len(ids)), len(ids) // settings.batch):
            chosen = [ids[row] for row in rows[: settings.batch]]
            longest = max(map(len, chosen)) - 1
            width = min(-(-longest // 16) * 16, settings.length) if to_longest else settings.length
            inputs, labels = np.zeros([settings.batch, width], np.int32), np.full([settings.batch, width], IGNORED, np.int32)
            for row, text in enumerate(chosen):
                inputs[row, : len(text) - 1], labels[row, : len(text) - 1] = text[:-1], text[1:]
            yield {"input_ids": inputs, "labels": labels, "segment_ids": (labels != IGNORED).astype(np.int32)}


def tfgpt_step(settings: Settings, batches: Iterator[dict[str, np.ndarray]]) -> Callable[[], int]:
    """Return this package's step as `tfgpt train` takes it."""
    from tfgpt.cli_support import import_tensorflow_quietly

    import_tensorflow_quietly(settings.lanes)
    from transformers import GPT2Config

    from tfgpt.models.causal_lm import GPTLMHeadModel
    from tfgpt.recipe import TrainConfig
    from tfgpt.training.fit import step_settings
    from tfgpt.training.optimizer import make_optimizer

    config = TrainConfig(precision=settings.precision, lanes=settings.lanes)
    model = GPTLMHeadModel(GPT2Config(**_shape(settings)))
    model.build_in_name_scope()
    model.compile(make_optimizer(config), settings=step_settings(config))
    iterator = iter(dataset(settings, list(itertools.islice(batches, DISTINCT))))
    function, trained = model.make_train_function(), [0.0]

    def step():
        before, trained[0] = trained[0], float(function(iterator)["tokens"])  # a number that is fetched: the step is done
        return round(trained[0] - before)

    return step


def dataset(settings: Settings, batches: list[dict[str, np.ndarray]]) -> tf.data.Dataset:
    """Return the batches again and again, each as wide as it is.

    Not by `from_generator`, which no training of this package uses either: for Python 3.11 TensorFlow then has glibc return every tensor of 128 KB and
    more to the system, and a small model's step takes half as long again.
    """
    import tensorflow as tf

    from tfgpt.data.pipeline import ready

    widths = [batch["labels"].shape[1] for batch in batches]
    if min(widths) == settings.length:
        return ready(tf.data.Dataset.from_tensor_slices({key: [batch[key] for batch in batches] for key in batches[0]}).repeat())
    padded = {key: [np.pad(batch[key], [(0, 0), (0, settings.length - width)]) for batch, width in zip(batches, widths)] for key in batches[0]}
    whole = tf.data.Dataset.from_tensor_slices((padded, widths)).repeat()
    return ready(whole.map(lambda batch, width: {key: value[:, :width] for key, value in batch.items()}))


def transformers_step(settings: Settings, batches: Iterator[dict[str, np.ndarray]]) -> Callable[[], int]:
    """Return the step of transformers' TFGPT2LMHeadModel in Keras, with labels that are right."""
    import tensorflow as tf
    import tf_keras
    from transformers import GPT2Config, TFGPT2LMHeadModel

    if settings.precision != "float32":
        tf_keras.mixed_precision.set_global_policy(f"mixed_{settings.precision}")
    model = TFGPT2LMHeadModel(GPT2Config(**_shape(settings), use_cache=False))
    cross_entropy = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = tf_keras.optimizers.AdamW(1e-4)

    @tf.function(reduce_retracing=True)
    def train(ids, labels):
        with tf.GradientTape() as tape:
            loss = cross_entropy(labels, tf.cast(model(ids, training=True).logits, tf.float32))
        optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables))
        return loss

    def step():
        batch = next(batches)
        float(train(batch["input_ids"], batch["labels"]))
        return batch["labels"].size

    return step


def pytorch_step(settings: Settings, batches: Iterator[dict[str, np.ndarray]]) -> Callable[[], int]:
    """Return the step of PyTorch's GPT2LMHeadModel under torch.compile and autocast, with a fused AdamW."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(**_shape(settings), use_cache=False)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    compiled = torch.compile(model)

    def step():
        batch = next(batches)
        ids, labels = (torch.from_numpy(batch[key]).long() for key in ("input_ids", "labels"))
        with torch.autocast("cpu", dtype=getattr(torch, settings.precision), enabled=settings.precision != "float32"):
            logits = compiled(ids).logits
            loss = torch.nn.functional.cross_entropy(logits.view(-1, settings.vocab), labels.view(-1), ignore_index=IGNORED)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        return labels.numel()

    return step


SIDES = {
    "tfgpt": lambda settings: tfgpt_step(settings, packed_batches(settings) if settings.texts else random_batches(settings)),
    "PyTorch": lambda settings: pytorch_step(settings, random_batches(settings)),
    "transformers": lambda settings: transformers_step(settings, random_batches(settings)),
    "padded to the length": lambda settings: tfgpt_step(settings, padded_batches(settings, to_longest=False)),
    "padded to the longest": lambda settings: tfgpt_step(settings, padded_batches(settings, to_longest=True)),
}


def trainer(side: str, settings: Settings) -> Callable[[int], dict]:
    """Return the function that lets a side train so many steps and counts its useful tokens."""
    step = SIDES[side](settings)
    return lambda steps: {"tokens": sum(step() for _ in range(steps))}


def arguments_of(side: str, settings: Settings) -> list[str]:
    """Return the command of a side."""
    return [sys.executable, "-m", "tfgpt.bench.trainers", side, json.dumps(asdict(settings))]


def _shape(settings):
    sizes = {"vocab_size": settings.vocab, "n_positions": settings.length, "n_embd": settings.width, "n_layer": settings.layers, "n_head": settings.heads}
    return sizes | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)


def _texts(settings) -> list[str]:
    return [line for line in Path(settings.texts).read_text("utf-8").splitlines() if line.strip()]


def _tokenizer(settings):
    from tfgpt.text.bpe import load_tokenizer

    return load_tokenizer(settings.tokenizer)


if __name__ == "__main__":
    name, given = sys.argv[1:]
    serve(lambda: trainer(name, Settings(**json.loads(given))), "PyTorch" if name == "PyTorch" else "TensorFlow")
