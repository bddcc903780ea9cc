"""Errors such as recognisers make, put into texts: whoever learns from both knows what is meant although some words are wrong."""
from __future__ import annotations

import random
import zlib

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

FREQUENT = tuple(sorted(ENGLISH_STOP_WORDS))
"""What a recogniser that expects any text takes short sounds for."""
LETTERS = "abcdefghiklmnoprstuvwy"


def misheard(text: str, share: float) -> str:
    """Return a text in which words are missing, others, or spelt otherwise; always the same for a text.

    Args:
        text: words with a space between.
        share: of the words that are wrong, 0 to 1, on average.

    >>> misheard("turn on the lights in the kitchen", 0.0), misheard("turn on the lights", 0.5) == misheard("turn on the lights", 0.5)
    ('turn on the lights in the kitchen', True)
    """
    draw = random.Random(zlib.crc32(text.encode()))
    words = [other for word in text.split() for other in ([word] if draw.random() >= share else _taken_for(word, draw))]
    return " ".join(words)


def _taken_for(word, draw):
    """Return the words, if any, that one is taken for."""
    kind = draw.randrange(4)
    if kind == 0:
        return []
    if kind == 1:
        return [draw.choice(FREQUENT)]
    if kind == 2:
        return [draw.choice(FREQUENT), _respelt(word, draw)]
    return [_respelt(word, draw)]


def _respelt(word, draw):
    place = draw.randrange(len(word))
    return word[:place] + draw.choice(LETTERS) + draw.choice((word[place + 1 :], word[place:], draw.choice(LETTERS) + word[place + 2 :]))
