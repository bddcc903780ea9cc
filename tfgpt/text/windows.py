"""Long texts in pieces that a model can read, by its own tokens: windows that overlap, or whole sentences together."""
from __future__ import annotations

import re

from transformers import PreTrainedTokenizerFast

SENTENCE_END = re.compile(r"(?<=[.!?。！？…])\s+|\n+")
"""Where a text may be parted: behind a sentence, or a line."""


def token_count(text: str, tokenizer: PreTrainedTokenizerFast) -> int:
    """Return how many tokens a text has by itself."""
    return len(tokenizer(text, verbose=False).input_ids)


def windows(text: str, tokenizer: PreTrainedTokenizerFast, most: int, overlap: int) -> list[str]:
    """Return pieces of a text from its beginning to its end, without the white space at theirs; a text that fits is the only one.

    Args:
        text: any.
        tokenizer: counts.
        most: tokens of a piece by itself, 1 or more.
        overlap: tokens, about, that a piece shares with the one before; less than `most`.

    >>> pieces = windows("one two three four five six seven", tokenizer, most=6, overlap=2)
    >>> all(len(tokenizer(piece).input_ids) <= 6 for piece in pieces), pieces[0][:3], pieces[-1][-5:]
    (True, 'one', 'seven')
    """
    spans = tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    pieces, start, end = [], 0, 0
    while end < len(spans):
        end = min(start + most, len(spans))
        piece = text[spans[start][0] : spans[end - 1][1]].strip()
        while (extra := token_count(piece, tokenizer) - most) > 0 and end > start + 1:  # a piece by itself may have more tokens than it had in the text
            end = max(end - extra, start + 1)
            piece = text[spans[start][0] : spans[end - 1][1]].strip()
        pieces.append(piece)
        start = max(end - overlap, start + 1)
    return [piece for piece in pieces if piece] or [text]


def sentences_together(text: str, tokenizer: PreTrainedTokenizerFast, most: int) -> list[str]:
    """Return pieces of a text that are whole sentences, as many together as fit; a sentence too long by itself is parted into windows without overlap.

    Args:
        text: any.
        tokenizer: counts.
        most: tokens of a piece by itself, 1 or more.

    >>> sentences_together("It was here. Was it? It was.", tokenizer, most=10)
    ['It was here.', 'Was it? It was.']
    """
    pieces, held = [], ""
    for sentence in filter(None, SENTENCE_END.split(text.strip())):
        together = f"{held} {sentence}" if held else sentence
        if token_count(together, tokenizer) <= most:
            held = together
            continue
        pieces += [held] if held else []
        *parts, held = [sentence] if token_count(sentence, tokenizer) <= most else windows(sentence, tokenizer, most, overlap=0)
        pieces += parts
    return [*pieces, held]
