"""Best-fit packing of tokenized documents into sequences of fixed length.

Documents that share a sequence never attend to each other: `segment_ids` keeps them apart.
NumPy alone, so that workers of other frameworks need no TensorFlow.
"""
from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

IGNORED = -100
"""The label of padding, as in PyTorch and transformers."""


class Piece(NamedTuple):
    """A document, or a part of one, that fits a sequence."""

    inputs: np.ndarray
    """int32 [tokens]."""
    labels: np.ndarray
    """int32 [tokens], the next token of each, or -100 where it is trained on (or scored) in another piece."""


def cut_document(ids: list[int], end_of_text: int, length: int, stride: int) -> list[Piece]:
    """Frame a document by end-of-text tokens and cut it so that each token after the first is a label exactly once.

    Args:
        ids: the document's tokens.
        end_of_text: what a document starts from, and what ends it.
        length: tokens in a packed sequence.
        stride: tokens from the start of one piece to the next, 1 to `length`; what overlaps gives later labels their history.

    Returns:
        Pieces of at most `length` tokens.

    >>> for piece in cut_document([5, 6, 7, 8], end_of_text=0, length=3, stride=2):
    ...     print(*piece)
    [0 5 6] [5 6 7]
    [6 7 8] [-100    8    0]
    """
    framed = np.asarray([end_of_text, *ids, end_of_text], np.int32)
    pieces, labelled = [], 0
    for start in range(0, len(framed) - 1, stride):
        end = min(start + length, len(framed) - 1)
        labels = framed[start + 1 : end + 1].copy()
        labels[: labelled - start] = IGNORED
        pieces.append(Piece(framed[start:end], labels))
        labelled = end
        if end == len(framed) - 1:
            break
    return pieces


def best_fit(sizes: list[int], capacity: int) -> list[list[int]]:
    """Put items into bins: longest first, each into the fullest bin that still takes it.

    Returns:
        The items' indices, bin by bin.

    Raises:
        ValueError: an item larger than `capacity`.

    Source: best-fit decreasing, Johnson 1973, "Near-optimal bin packing algorithms".

    >>> best_fit([3, 8, 2, 5], capacity=8)
    [[1], [3, 0], [2]]
    """
    bins: list[list[int]] = []
    open_bins: list[tuple[int, int]] = []  # (room left, bin), sorted
    for item in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        if sizes[item] > capacity:
            raise ValueError(f"item {item} of {sizes[item]} tokens is longer than a sequence of {capacity}; cut it first")
        at = bisect.bisect_left(open_bins, (sizes[item], 0))
        room, target = open_bins.pop(at) if at < len(open_bins) else (capacity, len(bins))
        if target == len(bins):
            bins.append([])
        bins[target].append(item)
        if room > sizes[item]:
            bisect.insort(open_bins, (room - sizes[item], target))
    return bins


def pack(pieces: Iterable[Piece], length: int, window: int = 20_000) -> Iterator[dict[str, np.ndarray]]:
    """Pack pieces into sequences.

    Args:
        pieces: of at most `length` tokens (see `cut_document`).
        length: tokens in a sequence.
        window: pieces packed together; bounds the memory.

    Yields:
        `input_ids`, `labels`, `segment_ids` and `position_ids`, int32 [length] each.
    """
    held: list[Piece] = []
    for piece in pieces:
        held.append(piece)
        if len(held) == window:
            yield from _pack_window(held, length)
            held = []
    yield from _pack_window(held, length)


def _pack_window(pieces, length) -> Iterator[dict[str, np.ndarray]]:
    for members in best_fit([len(piece.inputs) for piece in pieces], length):
        sequence = {key: np.zeros(length, np.int32) for key in ("input_ids", "labels", "segment_ids", "position_ids")}
        sequence["labels"][:] = IGNORED
        start = 0
        for segment, member in enumerate(members, start=1):
            piece = pieces[member]
            span = slice(start, start + len(piece.inputs))
            sequence["input_ids"][span] = piece.inputs
            sequence["labels"][span] = piece.labels
            sequence["segment_ids"][span] = segment
            sequence["position_ids"][span] = np.arange(len(piece.inputs))
            start = span.stop
        yield sequence
