"""Files and folders that appear under their final name only when they are whole, and hashes of what they hold."""
from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """Give a temporary folder beside `final` and put it in its place at the end; on an error remove it and leave `final` as it was.

    A process killed in between leaves a folder whose name begins with `.partial-` and nothing else.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".partial-{final.name}-", dir=final.parent))
    try:
        partial.chmod(0o755)
        yield partial
    except BaseException:
        shutil.rmtree(partial)
        raise
    if final.exists():
        old = Path(tempfile.mkdtemp(prefix=f".partial-{final.name}-", dir=final.parent))
        os.replace(final, old)
        os.replace(partial, final)
        shutil.rmtree(old)
    else:
        os.replace(partial, final)


def file_of_package(package: str, path: str) -> Path | None:
    """Return a file in an installed package, which is not imported; `None` if the package is not installed."""
    found = importlib.util.find_spec(package)
    return None if found is None or found.origin is None else Path(found.origin).parent / path


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left in `folder`."""
    for path in folder.glob(".partial-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file at once: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix=f".partial-{path.name}-", dir=path.parent, delete=False) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def write_json(path: Path, value) -> None:
    """Write JSON at once, for people to read."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_of_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_parts(parts: Iterable[bytes]) -> str:
    """Return the hex SHA-256 of byte strings, each with its length, so that moving a border changes the result."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()
