"""Python's `sqlite3`, loaded so that it uses the machine's SQLite.

TensorFlow's library brings a SQLite of its own, without full-text search, and offers its functions to whatever is loaded later: where TensorFlow is imported
first, Python's module would call those. So `import tfgpt` loads it, and prefers the library that it was built for.
"""
import os
import sys

_flags = sys.getdlopenflags()
sys.setdlopenflags(_flags | getattr(os, "RTLD_DEEPBIND", 0))  # glibc's; elsewhere importing tfgpt before tensorflow does it
try:
    import sqlite3  # noqa: F401
finally:
    sys.setdlopenflags(_flags)
