"""Versions that were pulled to be used here: trained from, or served. They lie in `cache` of the store's folder and can be removed at any time."""
from __future__ import annotations

import contextlib
import fcntl
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tfgpt.files import remove_partial, sha256_of_file
from tfgpt.store import catalog
from tfgpt.store.errors import StoreError
from tfgpt.store.reference import Reference
from tfgpt.store.store import Store, place_in_pulled

LOG = logging.getLogger(__name__)
Part = Literal["model", "export"]
"""What is wanted: weights and tokenizer, to train from; or the SavedModel, to serve."""


def cached(store: Store, reference: Reference, part: Part) -> tuple[Reference, Path]:
    """Return a version by its number, and the folder of the wanted part of it, pulled if it is not here, and compared with what was published if it is.

    Raises:
        StoreError: no such version, or it has no such part.
        DamagedError: bytes in the store that are not those that were published.
    """
    details = catalog.details_of(store.database, reference)
    exact = details.entry.reference
    wanted = [file for file in details.files if _is_of(file.path, part)]
    if not wanted:
        raise StoreError(f"{exact}: was published without {'a SavedModel' if part == 'export' else 'weights'}; publish one with "
                         f"{'its export' if part == 'export' else 'model/'}")
    folder = store.folder / "cache" / exact.name / f"{exact.version}-{part}"
    with _alone(folder.parent):
        remove_partial(folder.parent)
        if folder.exists():
            changed = next((file.path for file in wanted if not _is_same(folder / place_in_pulled(file.path, exact), file)), None)
            if changed is None:
                return exact, folder
            LOG.warning("%s: %s is not as it was published; it is pulled again", folder, changed)
            shutil.rmtree(folder)
        store.pull(exact, folder, lambda path: _is_of(path, part))
    return exact, folder


def exported(folder: Path, reference: Reference) -> Path:
    """Return the version folder of the SavedModel in what `cached` has given for `export`."""
    return folder / "export" / reference.name / str(reference.version)


def _is_of(path, part):
    return path.startswith("export/") if part == "export" else path.startswith(("model/", "tokenizer/"))


def _is_same(path, file):
    return path.is_file() and path.stat().st_size == file.size_bytes and sha256_of_file(path) == file.sha256


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time work in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
