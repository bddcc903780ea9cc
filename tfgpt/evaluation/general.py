"""What a fine-tune has lost: a model's loss on general text that was held out, before and after.

Both models read the same text. Where they have the same vocabulary they read the same tokens; where not, bits per byte alone compare.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

from tfgpt.data.corpus import read_corpus
from tfgpt.data.encode import SequenceMaker, SplitCounts
from tfgpt.data.examples import Example
from tfgpt.data.unlabelled import unlabelled_data
from tfgpt.evaluation.evaluate import figures, summed_loss
from tfgpt.models.causal_lm import GPTLMHeadModel
from tfgpt.recipe import DataConfig, Recipe, RecipeError
from tfgpt.text.bpe import GPT2TokenizerFast
from tfgpt.text.encode import BatchEncoder

CHARACTERS = 4
"""Of a token, about; by these evaluate.general_tokens is kept, since the two models may have tokens of their own."""


def general_data(recipe: Recipe) -> DataConfig:
    """Return how the general text is read and split.

    A corpus that the recipe also trains on, replayed or before the fine-tune, is read as it is there, so that the same documents are held out.
    """
    path, own = recipe.evaluate.general, recipe.adapt.pretrain
    for config in (*([unlabelled_data(recipe.data, own)] if own.path or own.sources else []), recipe.data):
        for source in config.all_sources():
            if source.path == path and source.examples == "text":
                alone = dataclasses.replace(source, weight=None, replay=False)
                split = config.split if len(config.all_sources()) == 1 else "hash"
                return dataclasses.replace(config, path="", sources=(alone,), examples="text", split=split)
    return DataConfig(path=path)


def general_texts(recipe: Recipe) -> Iterator[str]:
    """Yield held-out documents of the general text, as much of it as the recipe says.

    Raises:
        RecipeError: there is no such text, or nothing of it is held out.
    """
    left = CHARACTERS * recipe.evaluate.general_tokens
    with _told_as_general(recipe.evaluate.general):
        for example in read_corpus(general_data(recipe)):
            if example.split == "validation" and example.text.strip():
                yield example.text[:left]
                left -= len(example.text)
                if left <= 0:
                    return


def general_figures(model: GPTLMHeadModel, tokenizer: GPT2TokenizerFast, texts: Sequence[str], length: int, batch_size: int,
                    advance: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Return a model's `loss`, `perplexity` and `bits_per_byte` on texts, and their `tokens`.

    Each text is a document. A long one is read in windows that overlap by half, as the validation part is. A model with a head is measured as the language
    model that it also is, one with an encoder as if the source were empty.

    Args:
        model: any.
        tokenizer: its own.
        texts: none of them empty.
        length: tokens in a window; no more than the context.
        batch_size: windows in a batch.
        advance: called after each batch.
    """
    maker, counts = SequenceMaker(DataConfig(path="-", length=length), BatchEncoder(tokenizer), tokenizer.eos_token_id), SplitCounts()
    examples = [Example(((text, True),), place="") for text in texts]
    blocks = list(maker.sequences(examples, max(length // 2, 1), counts))
    packed = {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}
    if model.encoder is not None:
        packed |= empty_sources(packed["segment_ids"], tokenizer.eos_token_id)
    loss_sum, tokens, _ = summed_loss(model, tf.data.Dataset.from_tensor_slices(packed).batch(batch_size), advance)
    return figures(loss_sum, tokens, counts.bytes) | {"tokens": tokens}


def in_words(general: dict) -> str:
    """Say what was lost in one sentence.

    Args:
        general: of evaluation.json.

    >>> in_words({"path": "x", "tokens": 1000, "same_vocabulary": True, "before": {"perplexity": 50.0}, "after": {"perplexity": 75.0}})
    'On general text (held out of x, 1,000 tokens) the perplexity was 50.00 before the fine-tune and is 75.00 after it: 50.0 % higher.'
    """
    name = "perplexity" if general["same_vocabulary"] else "bits_per_byte"
    before, after = general["before"][name], general["after"][name]
    said, digits = ("the perplexity was", 2) if general["same_vocabulary"] else ("the loss in bits per byte, which other vocabularies do not change, was", 4)
    change = f"{abs(after / before - 1):.1%}".replace("%", " %")
    return (f"On general text (held out of {general['path']}, {general['tokens']:,} tokens) {said} {before:.{digits}f} before the fine-tune and is "
            f"{after:.{digits}f} after it: {change} {'higher' if after > before else 'lower'}.")


def empty_sources(segments: np.ndarray, end_of_text: int) -> dict[str, np.ndarray]:
    """Return what an encoder reads for packed rows whose segments have no source: an end-of-text token for each.

    Args:
        segments: int32 [rows, length]; 0 = padding.
        end_of_text: id of that token.

    >>> empty_sources(np.array([[1, 1, 2, 0], [1, 1, 1, 1]]), end_of_text=9)["encoder_segment_ids"].tolist()
    [[1, 2], [1, 0]]
    """
    numbers = np.arange(1, segments.max() + 1, dtype=np.int32)
    there = np.where(numbers <= segments.max(axis=1, keepdims=True), numbers, 0).astype(np.int32)       # [rows, segments]
    return {"encoder_input_ids": np.full_like(there, end_of_text), "encoder_segment_ids": there, "encoder_position_ids": np.zeros_like(there)}


@contextmanager
def _told_as_general(path) -> Iterator[None]:
    """Let an error name the key under which the text was given."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"evaluate.general: {path} cannot be measured on: {str(error).removeprefix('data.path: ')}; or leave evaluate.general empty, "
                          "for no such figures") from error
