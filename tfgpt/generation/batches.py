"""Lists that are worked through so many items together."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
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
