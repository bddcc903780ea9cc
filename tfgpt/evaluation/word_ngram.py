"""The next word by the longest history that was met with: the plain baseline of completing what is typed."""
from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

PIECE = re.compile(r"[^\W_]+(?:'[a-z]+)?|[^\w\s]|_")
"""A word or a mark."""


class WordNgram:
    """Words behind a history, with back-off: those that were met behind the longest history come first, then those behind a shorter one.

    Args:
        texts: to learn from.
        order: 4 = three words of history.

    Source: Brants et al. 2007, "Large Language Models in Machine Translation" (stupid backoff), whose order of words this is.

    >>> ngram = WordNgram(["the cat sat", "the cat ran", "a cat ran off"], order=3)
    >>> ngram.words("the cat", "", 3), ngram.words("the cat", "s", 3)
    (['ran', 'sat', 'cat'], ['sat'])
    """

    def __init__(self, texts: Iterable[str], order: int = 4):
        self._order = order
        counts: dict[tuple[str, ...], Counter] = defaultdict(Counter)
        for text in texts:
            pieces = ["", *PIECE.findall(text)]
            for place in range(1, len(pieces)):
                for size in range(min(order - 1, place) + 1):
                    counts[tuple(pieces[place - size : place])][pieces[place]] += 1
        self._ranked = {history: [word for word, _ in sorted(of.items(), key=lambda item: (-item[1], item[0]))] for history, of in counts.items()}

    def words(self, history: str, typed: str, most: int) -> list[str]:
        """Return the words that follow on a history, a text, and begin with what is typed of them, the likeliest first."""
        pieces, found = ["", *PIECE.findall(history)], {}
        for size in range(min(self._order - 1, len(pieces)), -1, -1):
            for word in self._ranked.get(tuple(pieces[len(pieces) - size :]), ()):
                if word.startswith(typed) and word not in found:
                    found[word] = True
                    if len(found) == most:
                        return list(found)
        return list(found)
