"""How long the last requests of a server may take. Needs no TensorFlow."""
from __future__ import annotations

import threading
import time
from collections.abc import Callable

DRAIN_SECONDS = 30.0


class Drain:
    """One time limit for all that a server has to end, which runs from the moment that the end begins. Thread-safe.

    Stages that wait one after another, each as long as it is told, would wait several times as long together.

    Args:
        seconds: from the beginning on.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._lock, self._ends, self._callbacks = threading.Lock(), None, []

    @classmethod
    def of(cls, limit: float | Drain) -> Drain:
        """Return the limit itself, or a new one of so many seconds."""
        return limit if isinstance(limit, cls) else cls(limit)

    def on_begin(self, callback: Callable[[], None]) -> None:
        """Have something called when the end begins, so that all doors close at once."""
        self._callbacks.append(callback)

    def left(self) -> float:
        """Return the seconds that are left, 0 or more; who asks first begins the end."""
        with self._lock:
            begins = self._ends is None
            if begins:
                self._ends = time.monotonic() + self.seconds
        for callback in self._callbacks if begins else ():
            callback()
        return max(0.0, self._ends - time.monotonic())
