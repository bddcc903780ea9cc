"""Lists of a caller: whether they hold texts, and their items so many together."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral
from typing import TypeVar

Items = TypeVar("Items", bound=Sequence)


def batches(items: Items, batch_size: int) -> Iterator[Items]:
    """Return the items so many together, the rest at the end.

    Args:
        items: that can be sliced.
        batch_size: how many, 1 or more.

    Raises:
        ValueError: a batch size that is none; at once, and not when the first batch is asked for.

    >>> list(batches("abcde", 2))
    ['ab', 'cd', 'e']
    """
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise ValueError(f"batch_size: {batch_size!r} is no number of items to be taken together; give 1 or more")
    return (items[start : start + batch_size] for start in range(0, len(items), batch_size))


def checked_texts(name: str, texts: Iterable[str], of: tuple[type, ...] = (str, bytes)) -> list[str]:
    """Return a caller's texts as a list.

    Args:
        name: of the argument, for errors, such as "generate: prompts".
        texts: any iterable of them; `bytes` are read as UTF-8.
        of: what a text may be.

    Raises:
        ValueError: one text and not a list; a list that holds what is no text, or half of a surrogate pair, which is no character.

    >>> checked_texts("score: texts", ["one", 2])
    Traceback (most recent call last):
    ValueError: score: texts[1] is 2 and no text; give a list of texts, such as [text]
    """
    remedy = "give a list of texts, such as [text]"
    if isinstance(texts, (str, bytes)):
        raise ValueError(f"{name} is one text; {remedy}")
    if not isinstance(texts, Iterable):
        raise ValueError(f"{name} is {texts!r} and no list; {remedy}")
    texts = list(texts)
    for number, text in enumerate(texts):
        if not isinstance(text, of):
            raise ValueError(f"{name}[{number}] is {text!r} and no text; {remedy}")
        check_characters(f"{name}[{number}]", text)
    return texts


def check_characters(name: str, text: str | bytes) -> None:
    """Raise `ValueError` for half of a surrogate pair, as Python makes it of bytes that are no UTF-8 and JSON may hold it: no text in UTF-8 has one.

    >>> check_characters("text", "a" + chr(0xD83D))
    Traceback (most recent call last):
    ValueError: text: '\\ud83d' at 1 is half of a surrogate pair and no character; give text that was UTF-8
    """
    try:
        if isinstance(text, str):
            text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: {text[error.start]!r} at {error.start} is half of a surrogate pair and no character; give text that was UTF-8") from error
