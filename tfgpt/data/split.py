"""Which part of the corpus a document belongs to: by a hash of its own text, or by its place in a running text."""
from __future__ import annotations

import hashlib


def split_of(text: str, validation: float, test: float = 0.0) -> str:
    """Return "train", "validation" or "test"; depends on the document's text alone, so that adding others never moves it.

    Args:
        text: of the document, as it was read.
        validation: share for validation.
        test: share for test, cut from what would else be trained on.

    >>> sum(split_of(str(n), 0.1) == "validation" for n in range(10_000))
    1018
    """
    place = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
    if place < validation:
        return "validation"
    return "test" if place < validation + test else "train"


def cut_running_text(text: str, start: int, borders: list[tuple[str, int]]) -> list[tuple[str, str]]:
    """Cut a document of a running text at the borders of the splits that fall into it, at the beginning of a line where there is one.

    Args:
        text: of the document.
        start: characters of the corpus before it.
        borders: each split with the character of the corpus at which it ends, in order.

    Returns:
        (split, text) for each part with any text.

    >>> cut_running_text("one\\ntwo\\nthree\\n", 0, [("train", 6), ("validation", 14)])
    [('train', 'one\\n'), ('validation', 'two\\nthree\\n')]
    """
    parts, done = [], 0
    for split, border in borders:
        end = min(border - start, len(text))
        if done < end < len(text):
            end = text.rfind("\n", done, end) + 1 or end  # a text of one line is cut where it falls
        if done < end:
            parts.append((split, text[done:end]))
            done = end
    return [(split, part) for split, part in parts if part.strip()]
