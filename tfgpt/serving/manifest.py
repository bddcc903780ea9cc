"""What an exported version consists of, so that a changed, lost or added file is noticed before it is served. Needs no TensorFlow.

It tells accidents and careless hands; who can write the folder can write the manifest too, so against an attacker keep its sha256 elsewhere.
"""
from __future__ import annotations

import json
from pathlib import Path

from tfgpt.files import sha256_of_file, write_json

MANIFEST = "assets.extra/manifest.json"
"""In a version's folder."""


def write_manifest(version_folder: str | Path) -> Path:
    """Write `assets.extra/manifest.json`, with the sha256 and the size in bytes of every other file of a version; return its path."""
    folder = Path(version_folder)
    files = {name: {"sha256": sha256_of_file(folder / name), "size": (folder / name).stat().st_size} for name in sorted(_files_of(folder))}
    write_json(folder / MANIFEST, {"files": files})
    return folder / MANIFEST


def verify_manifest(version_folder: str | Path) -> None:
    """Compare a version's files with its manifest.

    Raises:
        RuntimeError: a file that is changed, missing or not listed, which is named; no manifest, or one that cannot be read.
    """
    folder = Path(version_folder)
    listed, found = _listed(folder), _files_of(folder)
    for name, entry in listed.items():
        if name not in found:
            raise RuntimeError(f"{folder}: {name} is missing, which its manifest lists; export the model again")
        size = (folder / name).stat().st_size
        if size != entry["size"]:
            raise RuntimeError(f"{folder}: {name} is changed: it has {size:,} bytes, and {entry['size']:,} by its manifest; export the model again")
        if sha256_of_file(folder / name) != entry["sha256"]:
            raise RuntimeError(f"{folder}: {name} is changed: its sha256 is not the one in its manifest; export the model again")
    if unlisted := sorted(found - listed.keys()):
        raise RuntimeError(f"{folder}: {unlisted[0]} is not listed in its manifest; remove it, or export the model again")


def _listed(folder):
    """Return the manifest's entries."""
    path = folder / MANIFEST
    if not path.is_file():
        raise RuntimeError(f"{folder}: holds no {MANIFEST}; it was not exported by tfgpt, or by an older one: export the model again")
    try:
        files = json.loads(path.read_text("utf-8"))["files"]
        return {str(name): {"sha256": entry["sha256"], "size": int(entry["size"])} for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RuntimeError(f"{path}: is no manifest, or a damaged one ({error!r}); export the model again") from error


def _files_of(folder):
    """Return the names of all files in a folder but its manifest, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()} - {MANIFEST}
