"""From texts to tokens to packed sequences; counts what went in."""
from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from transformers import GPT2TokenizerFast

from tfgpt.data.packing import Piece, cut_document, pack

TOKENIZED_AT_ONCE = 1000
"""Documents handed to the tokenizer together, so that it can use every core."""


@dataclass
class SplitCounts:
    """What one part of a corpus holds; goes to stats.json."""

    documents: int = 0
    bytes: int = 0
    """Of its text in UTF-8."""
    tokens: int = 0
    """To predict: those of the documents and an end-of-text token for each."""
    sequences: int = 0
    """Packed ones."""
    fill_rate: float = 0.0
    """Share of their places that hold a token and not padding."""


def token_lists(texts: Iterable[str], tokenizer: GPT2TokenizerFast) -> Iterator[tuple[str, list[int]]]:
    """Yield each text with its tokens."""
    texts = iter(texts)
    while batch := list(itertools.islice(texts, TOKENIZED_AT_ONCE)):
        # verbose=False: a document longer than the context is cut later, there is nothing to warn of
        yield from zip(batch, tokenizer(batch, verbose=False).input_ids)


def packed_sequences(
    texts: Iterable[str], tokenizer: GPT2TokenizerFast, length: int, stride: int, counts: SplitCounts
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the packed sequences of texts (see `pack`), and fill in `counts`.

    Args:
        texts: the documents.
        tokenizer: gives their tokens.
        length: tokens in a sequence.
        stride: tokens from one piece of a long document to the next; `length` = no overlap (see `cut_document`).
        counts: of these texts; complete when the last sequence has been taken.
    """
    held = 0

    def pieces() -> Iterator[Piece]:
        nonlocal held
        for text, ids in token_lists(texts, tokenizer):
            counts.documents += 1
            counts.bytes += len(text.encode())
            counts.tokens += len(ids) + 1
            for piece in cut_document(ids, tokenizer.eos_token_id, length, stride):
                held += len(piece.inputs)
                yield piece

    for sequence in pack(pieces(), length):
        counts.sequences += 1
        yield sequence
    counts.fill_rate = held / (counts.sequences * length) if counts.sequences else 0.0


def pack_texts(texts: Iterable[str], tokenizer: GPT2TokenizerFast, length: int, batch_size: int, seed: int = 1) -> tf.data.Dataset:
    """Return texts as packed batches in memory, for `fit` and `evaluate`: one pass, shuffled anew each time by `seed`.

    Args:
        texts: the documents.
        tokenizer: gives their tokens.
        length: tokens in a sequence; the model's context at most.
        batch_size: sequences in a batch; the last batch is as small as it comes.
        seed: of the order.

    Returns:
        Dicts of `input_ids`, `labels`, `segment_ids` and `position_ids`, int32 [batch, length] each.

    Raises:
        ValueError: no text.
    """
    sequences = list(packed_sequences(texts, tokenizer, length, length, SplitCounts()))
    if not sequences:
        raise ValueError("pack_texts: there is no text; give one document at least")
    arrays = {key: np.stack([sequence[key] for sequence in sequences]) for key in sequences[0]}
    batches = tf.data.Dataset.from_tensor_slices(arrays).shuffle(len(sequences), seed=seed).batch(batch_size)
    return batches.prefetch(tf.data.AUTOTUNE)
