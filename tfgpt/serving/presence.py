"""Whether somebody still waits for an answer. Needs no TensorFlow."""
from __future__ import annotations

import threading
from collections.abc import Callable


class Presence:
    """Whoever sent a request, for those who work for it. Thread-safe; a protocol tells when it leaves."""

    def __init__(self):
        self._lock, self._callbacks = threading.Lock(), []
        self._left = False

    @property
    def left(self) -> bool:
        """Whether nobody waits any more."""
        return self._left

    def leave(self) -> None:
        """Tell that nobody waits any more; once is enough, and after the answer it changes nothing."""
        with self._lock:
            self._left = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def on_leaving(self, callback: Callable[[], None]) -> None:
        """Have something called when it leaves, by the thread that tells it; at once if it has left. It must not wait for anything."""
        with self._lock:
            if not self._left:
                self._callbacks.append(callback)
                return
        callback()
