"""Texts of users as matplotlib can draw them."""
from __future__ import annotations

import functools

FONT = "DejaVu Sans"
"""Comes with matplotlib; it has no Chinese, Japanese, Korean or Hindi, among others."""


def drawable(text: str) -> str:
    """Return a text with the code of each character that the font does not have, and no formula, which two $ would make.

    >>> drawable("naïve $x$, 日本"), drawable("Привет")
    ('naïve \\\\$x\\\\$, \\\\u65e5\\\\u672c', 'Привет')
    """
    return "".join("\\$" if character == "$" else character if ord(character) in _characters() else ascii(character)[1:-1] for character in text)


@functools.cache
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(FONT)).get_charmap())
