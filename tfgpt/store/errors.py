"""What a store refuses. Each message is one line: what it is about, the value, what is allowed."""
from __future__ import annotations


class StoreError(ValueError):
    """Something that a store is asked for and does not do: a field that is not allowed, a version that is not there, another's model."""


class DamagedError(RuntimeError):
    """Something in a store that is not as it was published."""
