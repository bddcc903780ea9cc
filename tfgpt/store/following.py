"""Published models in the layout that servers watch: a base path with the folder of the one version that a reference leads to, changed when that changes."""
from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from tfgpt.store.cache import cached, exported
from tfgpt.store.catalog import resolve
from tfgpt.store.errors import StoreError
from tfgpt.store.reference import Reference
from tfgpt.store.store import Store

LOG = logging.getLogger(__name__)


class Follower:
    """A base path that holds what a reference leads to.

    Args:
        store: where it is published.
        reference: one with a number never changes.
        base: a folder of this process alone; links to the pulled versions are put there.
    """

    def __init__(self, store: Store, reference: Reference, base: Path):
        self.base = base
        self._store, self._reference = store, reference
        self._last_error = ""
        base.mkdir(parents=True, exist_ok=True)

    @property
    def is_fixed(self) -> bool:
        """Whether the reference always leads to the same version."""
        return self._reference.version is not None

    def look(self) -> None:
        """Bring the base path up to date. The new version is put there before the old one is taken away, so that something is there always.

        Raises:
            StoreError, DamagedError, RuntimeError, OSError: there is no such version, or it cannot be pulled; the base path stays as it is.
        """
        exact = resolve(self._store.database, self._reference)
        link = self.base / str(exact.version)
        if not link.is_symlink():  # else it was pulled and compared already, which takes long where the files are large
            _, folder = cached(self._store, exact, "export")
            link.symlink_to(exported(folder, exact).resolve(), target_is_directory=True)
        for other in self.base.iterdir():
            if other != link:
                other.unlink()
                LOG.info("%s now leads to version %d", self._reference, exact.version)

    def try_to_look(self) -> None:
        """Bring the base path up to date, or log once why it cannot be."""
        try:
            self.look()
            self._last_error = ""
        except (StoreError, RuntimeError, OSError) as error:
            if str(error) != self._last_error:
                LOG.error("%s: what is served stays: %s", self._reference, error)
            self._last_error = str(error)


@contextlib.contextmanager
def following(followers: Iterable[Follower], poll_seconds: float) -> Iterator[None]:
    """Bring the base paths up to date every `poll_seconds` while the block runs; 0 = do not."""
    moving, ended = [follower for follower in followers if not follower.is_fixed], threading.Event()

    def look_again():
        while not ended.wait(poll_seconds):
            for follower in moving:
                follower.try_to_look()

    thread = threading.Thread(target=look_again, name="tfgpt-store", daemon=True)
    if moving and poll_seconds > 0:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.is_alive():
            thread.join(1.0)  # no longer: it may be pulling
