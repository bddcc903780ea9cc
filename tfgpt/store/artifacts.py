"""The bytes of published files, by their sha256, in a folder or a bucket: `blobs/sha256/ab/abcd...`.

What is equal is stored once. A file over `PIECE_BYTES` is stored in pieces, so an upload that was interrupted goes on behind the last whole piece, in a
bucket too, which knows no appending. A name is there only when its bytes are whole.
"""
from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from fsspec.core import url_to_fs

from tfgpt.store.catalog import StoredFile
from tfgpt.store.errors import DamagedError, StoreError
from tfgpt.store.fields import HEX

PIECE_BYTES = 64 * 2**20
"""Held in memory while it is stored or read."""
CHUNK_BYTES = 2**20
"""Held in memory for each who downloads."""
WHOLE_AT_ONCE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "memory")
"""File systems in which a file that is written by one call is there whole or not at all."""


class Artifacts:
    """Stored bytes.

    Args:
        place: a folder, or a URL of any file system that fsspec opens.

    Raises:
        StoreError: a URL that is not understood, or whose package is missing.
    """

    def __init__(self, place: str):
        self.place = place
        try:
            self._files, self._root = url_to_fs(place, use_listings_cache=False) if "://" in place else url_to_fs(place)
        except (ImportError, ValueError) as error:
            raise StoreError(f"artifacts: {place} cannot be opened ({error}); give a folder, or a URL such as s3://BUCKET/FOLDER and its package") from error
        protocol = self._files.protocol
        self._protocols = {protocol} if isinstance(protocol, str) else set(protocol)

    def prepare(self) -> None:
        """Make the folder."""
        self._files.makedirs(self._root, exist_ok=True)

    def holds(self, sha256: str, size_bytes: int) -> bool:
        """Tell whether there are bytes under a name, as many as there should be."""
        with contextlib.suppress(FileNotFoundError):
            return self._files.info(self._path_of(sha256))["size"] == size_bytes
        return False

    def store(self, data: bytes) -> str:
        """Store bytes, unless they are there, and return their sha256."""
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.holds(sha256, len(data)):
            self._write(self._path_of(sha256), data)
        return sha256

    def read(self, sha256: str) -> bytes:
        """Return stored bytes.

        Raises:
            DamagedError: there are none, or others than were stored.
        """
        try:
            data = self._files.cat_file(self._path_of(sha256))
        except FileNotFoundError as error:
            raise DamagedError(f"{self.place}: {sha256} is missing; publish its model again from its folder, which stores it anew") from error
        if (found := hashlib.sha256(data).hexdigest()) != sha256:
            raise DamagedError(f"{self.place}: {sha256} is changed: its bytes have the sha256 {found}; remove {self._path_of(sha256)}, and publish its model "
                               "again from its folder, which stores it anew")
        return data

    def chunks(self, sha256: str) -> Iterator[bytes]:
        """Yield stored bytes in parts of `CHUNK_BYTES`, the last of them when all are known to be those that were stored.

        Raises:
            DamagedError: there are none, or others than were stored; then the last part is not given.
        """
        digest, last = hashlib.sha256(), b""
        try:
            with self._files.open(self._path_of(sha256), "rb") as content:
                while data := content.read(CHUNK_BYTES):
                    if last:
                        yield last
                    digest.update(data)
                    last = data
        except FileNotFoundError as error:
            raise DamagedError(f"{self.place}: {sha256} is missing; publish its model again from its folder, which stores it anew") from error
        if digest.hexdigest() != sha256:
            raise DamagedError(f"{self.place}: {sha256} is changed: its bytes have the sha256 {digest.hexdigest()}")
        yield last

    def fetch(self, file: StoredFile, target: Path) -> None:
        """Write a file from what is stored.

        Raises:
            DamagedError: its bytes are not those that were published.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with open(target, "xb") as written:
            for sha256 in file.pieces:
                data = self.read(sha256)
                digest.update(data)
                written.write(data)
        if digest.hexdigest() != file.sha256 or target.stat().st_size != file.size_bytes:
            raise DamagedError(f"{file.path}: its pieces do not make the file that was published, with the sha256 {file.sha256}; the catalog is damaged")

    def remove(self, sha256: str) -> None:
        """Remove bytes, or find them gone."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._path_of(sha256))

    def stored(self) -> Iterator[tuple[str, int, float]]:
        """Yield the sha256, size in bytes and time of change, in seconds since 1970, of all that is stored."""
        for path, info in self._found("blobs/sha256"):
            if HEX.fullmatch(name := path.rpartition("/")[2]):
                yield name, info["size"], self._changed(path)

    def remove_stale_uploads(self, before: float) -> int:
        """Remove what killed processes left half written before a time, in seconds since 1970; return how many."""
        stale = [path for path, _ in self._found("uploads") if self._changed(path) < before]
        for path in stale:
            with contextlib.suppress(FileNotFoundError):
                self._files.rm_file(path)
        return len(stale)

    def _found(self, part):
        try:
            return self._files.find(f"{self._root}/{part}", detail=True).items()
        except FileNotFoundError:
            return ()

    def _changed(self, path):
        try:
            return self._files.modified(path).timestamp()
        except FileNotFoundError:  # gone meanwhile: nothing to be removed
            return float("inf")

    def _path_of(self, sha256):
        if not HEX.fullmatch(sha256):
            raise DamagedError(f"{sha256!r} is no sha256; the catalog is damaged")
        return f"{self._root}/blobs/sha256/{sha256[:2]}/{sha256}"

    def _write(self, path, data):
        if self._protocols & set(WHOLE_AT_ONCE):
            self._files.pipe_file(path, data)
            return
        partial = f"{self._root}/uploads/{uuid.uuid4().hex}"
        for folder in (partial, path):
            self._files.makedirs(folder.rpartition("/")[0], exist_ok=True)
        with self._files.open(partial, "wb") as written:
            written.write(data)
            if "file" in self._protocols:  # before the name: after a power cut it may not stand for bytes that are not there
                written.flush()
                os.fsync(written.fileno())
        self._files.mv(partial, path) if "file" not in self._protocols else os.replace(partial, path)
