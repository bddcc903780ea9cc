"""Memory that this process has freed and that glibc keeps for it."""
from __future__ import annotations

import ctypes
import platform


def give_back_freed() -> None:
    """Let the system have it, where it is glibc that manages memory."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
