"""By what one can filter, remembered for a minute: to count it takes longer than the search itself, and the lists change seldom."""
from __future__ import annotations

import threading
import time

from tfgpt.store.search import Facets
from tfgpt.store.web.visit import Visit

SECONDS = 60.0
MOST = 256
"""Callers who are remembered."""


class RememberedFacets:
    """What each caller can filter by. Thread-safe."""

    def __init__(self):
        self._lock = threading.Lock()
        self._found: dict[tuple[str, bool], tuple[float, Facets]] = {}

    def of(self, visit: Visit) -> Facets:
        """Return what a caller can filter by, at most `SECONDS` old: of private models, what that very caller may see.

        Raises:
            ForbiddenError: the caller may not read.
        """
        visit.caller.require("read")
        key, now = (visit.caller.name, visit.caller.sees_all), time.monotonic()
        with self._lock:
            known = self._found.get(key)
        if known is not None and now - known[0] < SECONDS:
            return known[1]
        facets = visit.facets()
        with self._lock:
            self._found.pop(key, None)
            self._found[key] = now, facets
            if len(self._found) > MOST:
                del self._found[next(iter(self._found))]  # the oldest
        return facets
