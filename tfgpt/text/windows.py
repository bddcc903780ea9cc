"""Long texts in pieces that a model can read, by its own tokens: windows that overlap, or whole sentences together.

A piece has no white space at its ends, where what is between two pieces tells nothing of either.
"""
from __future__ import annotations

import re

from transformers import PreTrainedTokenizerFast

SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？।॥۔])\s*(?=\S)|\s*\n\s*")
"""Where a text may be parted: behind a sentence, where Chinese and Japanese have no space, or a line."""

Span = tuple[int, int]
"""Where a piece of a text begins and ends, in characters."""


def token_count(text: str, tokenizer: PreTrainedTokenizerFast) -> int:
    """Return how many tokens a text has by itself."""
    return len(tokenizer(text, verbose=False).input_ids)


def windows(text: str, tokenizer: PreTrainedTokenizerFast, most: int, overlap: int) -> list[Span]:
    """Return where the pieces of a text are that hold all of it; one that fits, or is empty, is a piece.

    Args:
        text: any.
        tokenizer: counts.
        most: tokens of a piece by itself, 1 or more.
        overlap: tokens, about, that a piece shares with the one before; less than `most`.

    >>> text = "one two three four five six seven"
    >>> pieces = [text[start:end] for start, end in windows(text, tokenizer, most=6, overlap=2)]
    >>> all(len(tokenizer(piece).input_ids) <= 6 for piece in pieces), pieces[0][:3], pieces[-1][-5:]
    (True, 'one', 'seven')
    """
    places = tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    pieces, first, last = [], 0, 0
    while last < len(places):
        last = min(first + most, len(places))
        piece = _stripped(text, places[first][0], places[last - 1][1])
        while (extra := token_count(text[slice(*piece)], tokenizer) - most) > 0 and last > first + 1:  # by itself it may have more tokens than in the text
            last = max(last - extra, first + 1)
            piece = _stripped(text, places[first][0], places[last - 1][1])
        pieces.append(piece)
        first = max(last - overlap, first + 1)
    return [piece for piece in pieces if piece[0] < piece[1]] or [(0, len(text))]


def sentences_together(text: str, tokenizer: PreTrainedTokenizerFast, most: int) -> list[Span]:
    """Return where the pieces of a text are that are whole sentences, as many together as fit; one too long by itself is parted into windows.

    Args:
        text: any.
        tokenizer: counts.
        most: tokens of a piece by itself, 1 or more.

    >>> text = "It was here. Was it?\\nIt was."
    >>> [text[start:end] for start, end in sentences_together(text, tokenizer, most=10)]
    ['It was here.', 'Was it?\\nIt was.']
    """
    begin, end = _stripped(text, 0, len(text))
    borders = [match.span() for match in SENTENCE_END.finditer(text, begin, end)]
    pieces: list[Span] = []
    for start, stop in zip([begin, *(after for _, after in borders)], [*(before for before, _ in borders), end]):
        if pieces and token_count(text[pieces[-1][0] : stop], tokenizer) <= most:
            pieces[-1] = pieces[-1][0], stop
        elif token_count(text[start:stop], tokenizer) <= most:
            pieces.append((start, stop))
        else:
            pieces += [(start + first, start + last) for first, last in windows(text[start:stop], tokenizer, most, overlap=0)]
    return pieces


def _stripped(text, start, end) -> Span:
    """Return a span without the white space at its ends."""
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - (len(piece) - len(piece.rstrip())) if piece.strip() else start
