"""The evaluation of a model with a head: what it finds on a held-out part, beside the baselines on the same texts; and the language model beside it."""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfgpt.data.corpus import read_corpus
from tfgpt.data.labels import read_labels
from tfgpt.data.packing import IGNORED
from tfgpt.data.pipeline import evaluation_batches
from tfgpt.data.shards import ShardedData
from tfgpt.evaluation.evaluate import figures
from tfgpt.evaluation.judging import Findings, find, mean_loss, measure
from tfgpt.evaluation.ngram import NgramModel
from tfgpt.evaluation.shown import best_and_worst
from tfgpt.evaluation.text_baselines import linear, most_frequent
from tfgpt.models.heads import for_head, next_tokens, targets_of
from tfgpt.recipe import DataConfig

Advance = Callable[[], None]


def head_batches(folder: Path, split: str, batch_size: int) -> tf.data.Dataset:
    """Return one pass over a split of prepared data, with `head_labels`."""
    return evaluation_batches(ShardedData(folder), split, batch_size).map(for_head)


def evaluate_head(model, folder: Path, split: str, batch_size: int, seed: int, advance: Advance = lambda: None,
                  decode: Callable[[np.ndarray], str] | None = None) -> dict:
    """Return `judged`, how many; what `tfgpt.evaluation.judging.measure` returns; and `best` and `worst` of `tfgpt.evaluation.shown`.

    Args:
        model: a `GPTLMHeadModel` with a head.
        folder: of the prepared data.
        split: of it.
        batch_size: sequences in a batch.
        seed: of the bootstrap.
        advance: called after each batch.
        decode: returns the text of tokens; `None` = without the best and the worst.
    """
    targets = targets_of(model.adaptation.head, read_labels(folder))
    findings = find(model, targets, head_batches(folder, split, batch_size), advance)
    return {"judged": len(findings.right)} | measure(findings, seed) | (best_and_worst(findings, decode) if decode else {})


def baselines(model, config: DataConfig, split: str, seed: int) -> dict:
    """Return what stands beside a head's figures: `baseline`, a linear model, and `most_frequent`, always the same answer.

    Args:
        model: with the head.
        config: of the data, which is read again.
        split: that they are measured on.
        seed: of the bootstrap.
    """
    head, examples = model.adaptation.head, list(read_corpus(config))
    train, held_out = ([example for example in examples if example.split == one] for one in ("train", split))
    name, found = linear(head, train, held_out)
    return {"baseline": {"name": name} | _measured(found, seed),
            "most_frequent": {"name": "the mean of all" if head.kind == "number" else "always the most frequent"} | _measured(
                most_frequent(head, train, held_out), seed)}


def _measured(findings: Findings, seed):
    return {"loss": mean_loss(findings), "metrics": measure(findings, seed)["metrics"]}


def evaluate_language(model, folder: Path, split: str, batch_size: int, texts: np.ndarray, advance: Advance = lambda: None) -> dict:
    """Return `loss`, `perplexity`, `bits_per_byte`, `tokens` and `correct` of the language model beside a head.

    Args:
        model: a `GPTLMHeadModel` with a head.
        folder: of the prepared data.
        split: of it.
        batch_size: sequences in a batch.
        texts: string [vocab], the bytes of each token.
        advance: called after each batch.
    """
    terms, sums, size = tf.function(model.loss_terms, autograph=False), np.zeros(3), 0
    model.name_labels(read_labels(folder))
    for batch in head_batches(folder, split, batch_size):
        sums += [float(value) for value in terms(batch)[5:]]
        size += _bytes(model, batch, texts)
        advance()
    loss, tokens, correct = sums
    return figures(loss, int(tokens), size) | {"tokens": int(tokens), "correct": int(correct)}


def ngram_baseline(model, folder: Path, split: str, order: int, most: int, texts: np.ndarray) -> dict:
    """Return an n-gram model's figures on the tokens that `evaluate_language` is measured on.

    Args:
        model: with the head.
        folder: of the prepared data.
        split: that it is measured on.
        order: of the n-grams.
        most: tokens that it is trained on at most; 0 = all.
        texts: string [vocab], the bytes of each token.
    """
    train, tokens = [], 0
    for ids, _ in _documents(model, folder, "train"):
        train.append(ids)
        tokens += len(ids)
        if tokens >= most > 0:
            break
    ngram = NgramModel(train, order, model.config.vocab_size, model.config.eos_token_id)
    held_out, counted = zip(*_documents(model, folder, split))
    size = sum(_bytes(model, batch, texts) for batch in head_batches(folder, split, 64))
    seen = f", first {tokens:,} tokens" if tokens >= most > 0 else ""
    return {"name": f"{order}-gram, modified Kneser-Ney{seen}"} | figures(*ngram.summed_loss(held_out, counted), size)


def _targets(model, batch):
    return next_tokens(model.adaptation.head, batch, model.config.eos_token_id).numpy()


def _bytes(model, batch, texts):
    """Return the bytes of the tokens that are predicted in a batch."""
    targets = _targets(model, batch)
    return sum(map(len, texts[targets[targets != IGNORED]].tolist()))


def _documents(model, folder, split) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the tokens of each segment behind its first, int32 [tokens], and which of them, and of its end, are predicted, bool [tokens + 1]."""
    for batch in head_batches(folder, split, 64):
        targets, ids, segments = _targets(model, batch), batch["input_ids"].numpy(), batch["segment_ids"].numpy()
        for row, number in itertools.product(range(len(ids)), range(1, segments.max() + 1)):
            inside = segments[row] == number
            if (targets[row, inside] != IGNORED).any():
                yield ids[row, inside][1:], targets[row, inside] != IGNORED
