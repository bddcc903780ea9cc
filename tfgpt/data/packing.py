"""Best-fit packing of tokenized documents into sequences of fixed length.

Documents that share a sequence never attend to each other: `segment_ids` keeps them apart.
NumPy alone, over whole arrays: no work in Python is done for a token, and little for a document.
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

IGNORED = -100
"""The label of padding, and of tokens that are not trained on, as in PyTorch and transformers."""

SEQUENCES_AT_ONCE = 4096
"""Filled together; bounds the memory."""


@dataclass(frozen=True)
class Tokens:
    """Tokenized documents, one after the other."""

    inputs: np.ndarray
    """int32 [tokens]."""
    labels: np.ndarray
    """int32 [tokens], the next token of each, or -100 where it is not trained on."""
    sizes: np.ndarray
    """int64 [documents], tokens of each."""
    encoder_inputs: np.ndarray | None = None
    """int32 [encoder's tokens], for an encoder-decoder."""
    encoder_sizes: np.ndarray | None = None
    """int64 [documents]."""
    encoder_cut: np.ndarray | None = None
    """bool [documents], whether the encoder's side was longer than there is room, and cut at its end."""
    words_cut: int = 0
    """Words without end that were cut to be tokenized."""
    groups: np.ndarray | None = None
    """int64 [documents], rising: documents of a group share a sequence; None = each is alone."""
    cut: np.ndarray | None = None
    """bool [documents], whether its beginning lost its last tokens, so that it is as long as there is room."""


@dataclass(frozen=True)
class Pieces:
    """Where the pieces of documents lie in `Tokens`."""

    starts: np.ndarray
    """int64 [pieces], the first token of each."""
    sizes: np.ndarray
    """int64 [pieces], tokens of each."""
    seen: np.ndarray
    """int64 [pieces], tokens at its beginning that are labels of the piece before, and here history only."""
    documents: np.ndarray
    """int64 [pieces], the document each belongs to."""

    def take(self, which: np.ndarray) -> Pieces:
        """Return some of the pieces."""
        return Pieces(self.starts[which], self.sizes[which], self.seen[which], self.documents[which])


def cut_documents(sizes: np.ndarray, length: int, stride: int) -> Pieces:
    """Cut documents into pieces of at most `length` tokens, so that each token is a label in exactly one of them.

    Args:
        sizes: int64 [documents], tokens of each.
        length: tokens in a packed sequence.
        stride: tokens from the start of one piece to the next, 1 to `length`; what overlaps gives later labels their history.

    >>> pieces = cut_documents(np.array([5, 3]), length=3, stride=2)
    >>> pieces.starts.tolist(), pieces.sizes.tolist(), pieces.seen.tolist(), pieces.documents.tolist()
    ([0, 2, 5], [3, 3, 3], [0, 1, 0], [0, 0, 1])
    """
    counts = np.where(sizes > length, -(-(sizes - length) // stride) + 1, 1)
    documents = np.repeat(np.arange(len(sizes)), counts)
    number = np.arange(len(documents)) - np.repeat(np.cumsum(counts) - counts, counts)
    within = number * stride
    starts = (np.cumsum(sizes) - sizes)[documents] + within
    return Pieces(starts, np.minimum(length, sizes[documents] - within), np.where(number > 0, length - stride, 0), documents)


def last_pieces(sizes: np.ndarray, length: int | np.ndarray) -> Pieces:
    """Return the last `length` tokens of each document, or of each its own number: a text to classify is classified by its end."""
    kept = np.minimum(sizes, length)
    return Pieces(np.cumsum(sizes) - kept, kept, np.zeros_like(kept), np.arange(len(sizes)))


def trained_pieces(tokens: Tokens, pieces: Pieces) -> Pieces:
    """Return the pieces in which anything is trained on; of a long prompt some hold nothing but the prompt."""
    trained = np.concatenate([[0], np.cumsum(tokens.labels != IGNORED)])
    return pieces.take(trained[pieces.starts + pieces.sizes] > trained[pieces.starts + pieces.seen])


def best_fit(sizes: np.ndarray, capacity: int) -> tuple[np.ndarray, int]:
    """Put items into bins: longest first, each into the fullest bin that still takes it.

    Args:
        sizes: int64 [items], each from 1 to `capacity`.
        capacity: of a bin.

    Returns:
        The bin of each item, int64 [items], and the number of bins.

    Raises:
        ValueError: an item larger than `capacity`.

    Source: best-fit decreasing, Johnson 1973, "Near-optimal bin packing algorithms".

    >>> best_fit(np.array([3, 8, 2, 5]), capacity=8)
    (array([1, 0, 2, 1]), 3)
    """
    if len(sizes) and sizes.max() > capacity:
        item = int(sizes.argmax())
        raise ValueError(f"item {item} of {sizes[item]} tokens is longer than a sequence of {capacity}; cut it first")
    order = np.argsort(-sizes, kind="stable")
    bins = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # the bins that have exactly that much room left
    rooms, count = 0, 0  # bit r of rooms tells whether a bin has room r, so the least room that suffices is found at once
    for size in sizes[order].tolist():
        enough = rooms >> size
        if enough:
            room = size + (enough & -enough).bit_length() - 1
            target = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, target = capacity, count
            count += 1
        bins.append(target)
        if left := room - size:
            with_room[left].append(target)
            rooms |= 1 << left
    placed = np.empty(len(sizes), np.int64)
    placed[order] = bins
    return placed, count


def pack(tokens: Tokens, pieces: Pieces, length: int, encoder_length: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Pack pieces of documents into sequences.

    Args:
        tokens: of the documents.
        pieces: of at most `length` tokens (see `cut_documents`).
        length: tokens in a sequence.
        encoder_length: tokens of the encoder's side, where there is one; a document is then one piece, and has its encoder's side beside it
            under the same segment number.

    Yields:
        Blocks of sequences: `input_ids`, `labels`, `segment_ids` and `position_ids`, int32 [sequences, length]; with an encoder also
        `encoder_input_ids`, `encoder_segment_ids` and `encoder_position_ids`, int32 [sequences, encoder_length].
    """
    sizes = pieces.sizes
    if tokens.groups is not None:
        of_piece = tokens.groups[pieces.documents]
        bins, count = best_fit(np.bincount(of_piece, sizes).astype(np.int64), length)
        bins = bins[of_piece]
    elif tokens.encoder_sizes is None:
        bins, count = best_fit(sizes, length)
    else:
        # An item as large as the larger of its two shares of a sequence: where those fit, both sides fit.
        encoder_sizes = tokens.encoder_sizes[pieces.documents]
        common = math.gcd(length, encoder_length)
        shares = np.maximum(sizes * (encoder_length // common), encoder_sizes * (length // common))
        bins, count = best_fit(shares, length * (encoder_length // common))
    order = np.argsort(bins, kind="stable")
    bins, pieces = bins[order], pieces.take(order)
    segments = _number_in_bin(bins)
    for first in range(0, count, SEQUENCES_AT_ONCE):
        number = min(SEQUENCES_AT_ONCE, count - first)
        here = slice(*np.searchsorted(bins, [first, first + number]))
        rows, chosen = bins[here] - first, pieces.take(here)
        block = _fill(rows, chosen.starts, chosen.sizes, segments[here], {"input_ids": tokens.inputs, "labels": tokens.labels}, (number, length))
        _ignore_seen(block["labels"], rows, chosen)
        if tokens.encoder_sizes is not None:
            starts = (np.cumsum(tokens.encoder_sizes) - tokens.encoder_sizes)[chosen.documents]
            side = _fill(rows, starts, tokens.encoder_sizes[chosen.documents], segments[here], {"input_ids": tokens.encoder_inputs},
                         (number, encoder_length))
            block |= {f"encoder_{key}": value for key, value in side.items()}
        yield block


def _number_in_bin(bins):
    """Return each item's number in its bin, from 1, int64 [items], for items in the order of their bins."""
    return np.arange(len(bins)) - np.searchsorted(bins, bins) + 1


def _fill(rows, starts, sizes, segments, sources, shape) -> dict[str, np.ndarray]:
    """Lay items one after the other into rows, and number their segments and positions."""
    before = np.cumsum(sizes) - sizes
    first_of_row = before[np.searchsorted(rows, rows)]
    within = np.arange(sizes.sum()) - np.repeat(before, sizes)
    target = np.repeat(rows * shape[1] + before - first_of_row, sizes) + within
    source = np.repeat(starts, sizes) + within
    block = {}
    for key, values in sources.items():
        block[key] = np.full(shape, IGNORED if key == "labels" else 0, np.int32)
        block[key].ravel()[target] = values[source]
    for key, values in (("segment_ids", np.repeat(segments, sizes)), ("position_ids", within)):
        block[key] = np.zeros(shape, np.int32)
        block[key].ravel()[target] = values
    return block


def _ignore_seen(labels, rows, pieces):
    """Ignore the labels that were those of the piece before."""
    again = np.flatnonzero(pieces.seen)
    if len(again):
        before = np.cumsum(pieces.sizes) - pieces.sizes
        at = rows * labels.shape[1] + before - before[np.searchsorted(rows, rows)]
        seen = pieces.seen[again]
        within = np.arange(seen.sum()) - np.repeat(np.cumsum(seen) - seen, seen)
        labels.ravel()[np.repeat(at[again], seen) + within] = IGNORED
