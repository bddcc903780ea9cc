"""What a store refuses. Each message is one line: what it is about, the value, what is allowed."""
from __future__ import annotations


class StoreError(ValueError):
    """Something that a store is asked for and does not do: a field that is not allowed, a version that is not there, another's model."""


class NotFoundError(StoreError):
    """There is no such thing, or none that whoever asks may see."""


class ForbiddenError(StoreError):
    """Whoever asks may not do it."""


class DamagedError(RuntimeError):
    """Something in a store that is not as it was published."""
