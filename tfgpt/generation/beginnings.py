"""The tokens that begin with what is typed: what stands before a cursor is seldom a token of its own, and the model has read it as a part of others."""
from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence

import numpy as np

MOST_WAYS = 8
"""Ways on that are looked at together."""
MOST_PIECES = 4
"""Tokens of a word."""
LEAST_SHARE = 1e-3
"""Of the likeliest way's probability; less likely ways are not followed."""

Way = tuple[tuple[int, ...], float]
"""Tokens, and their log-probability."""


class Beginnings:
    """Finds the likeliest tokens that begin with given bytes.

    Args:
        texts: bytes of each token; an empty one is never found.
    """

    def __init__(self, texts: Sequence[bytes]):
        self._texts = texts
        ordered = sorted((text, number) for number, text in enumerate(texts) if text)
        self._keys = [text for text, _ in ordered]
        self._numbers = np.array([number for _, number in ordered])

    def find(self, typed: bytes, behind: Callable[[list[tuple[int, ...]]], Sequence[np.ndarray]]) -> list[Way]:
        """Return the likeliest ways, `MOST_WAYS` at most, the likeliest first: tokens that together begin with the bytes typed, of which the last is needed.

        Args:
            typed: empty = each token does.
            behind: gives the log-probability of each token behind each of some ways.

        >>> log_probs = np.log([0.5, 0.2, 0.3])
        >>> [ids for ids, _ in Beginnings([b"a", b"ab", b"b"]).find(b"ab", lambda ways: [log_probs] * len(ways))]
        [(1,), (0, 2)]
        """
        found, open_ = [], [((), typed, 0.0)]
        for _ in range(MOST_PIECES):
            rows = behind([ids for ids, _, _ in open_])
            least = max([before for _, before in found], default=-np.inf) + np.log(LEAST_SHARE)
            further = []
            for (ids, rest, before), log_probs in zip(open_, rows):
                whole = self._numbers[slice(*self._span(rest))]
                best = whole[np.argsort(-log_probs[whole], kind="stable")[:MOST_WAYS]]
                found += [((*ids, int(number)), before + float(log_probs[number])) for number in best]
                for end in range(1, len(rest)):                                           # tokens that are a part of what is typed
                    place = bisect.bisect_left(self._keys, rest[:end])
                    if place < len(self._keys) and self._keys[place] == rest[:end]:
                        number = int(self._numbers[place])
                        further.append(((*ids, number), rest[end:], before + float(log_probs[number])))
            least = max([least, *[before + np.log(LEAST_SHARE) for _, before in found]])
            open_ = sorted((way for way in further if way[2] > least), key=lambda way: -way[2])[:MOST_WAYS]
            if not open_:
                break
        return sorted(found, key=lambda way: -way[1])[:MOST_WAYS]

    def text_behind(self, typed: bytes, ids: Sequence[int]) -> str | None:
        """Return what tokens say behind the bytes typed, with which they begin; `None` where that begins or ends within a character."""
        try:
            return b"".join(self._texts[number] for number in ids)[len(typed) :].decode()
        except UnicodeDecodeError:
            return None

    def _span(self, start):
        """Return from which to which of the sorted tokens begin with bytes."""
        end = start[:-1] + bytes([start[-1] + 1]) if start and start[-1] < 255 else None
        return bisect.bisect_left(self._keys, start), len(self._keys) if end is None else bisect.bisect_left(self._keys, end)


def parted(text: str, tokenizer) -> tuple[list[int], str]:
    """Return the tokens of a text before its last word, mark or white space, and this: what stands before it is never part of a token that it is part of.

    Args:
        text: any.
        tokenizer: byte-level.
    """
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    start = pieces[-1][1][0] if pieces else 0
    return tokenizer.encode(text[:start]), text[start:]
