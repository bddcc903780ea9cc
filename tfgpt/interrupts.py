"""An orderly end on SIGTERM, which is how clusters and `docker stop` ask for one."""
from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

EXIT_CODE = 128 + signal.SIGTERM
"""Of a process that SIGTERM has ended, as shells and Kubernetes count it: the work is not done, the same command goes on with it."""


class TerminatedError(Exception):
    """The work was stopped by SIGTERM and can be gone on with."""


@contextlib.contextmanager
def termination() -> Iterator[threading.Event]:
    """Give an event that SIGTERM sets while the block runs, instead of ending the process; the block looks at it where it can stop.

    Outside of the main thread, where Python takes no signals, the event is never set.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
