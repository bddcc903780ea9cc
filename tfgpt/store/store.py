"""A store: a catalog in a database and the bytes of what is published in a folder or a bucket, both named in `store.json` of the store's own folder.

A publish first stores the bytes and then makes the version visible by one transaction, so whatever ends it in between leaves nothing but bytes that `gc`
removes. A pull compares every byte with what was published.
"""
from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tfgpt.files import whole_folder, write_json
from tfgpt.serving.manifest import verify_manifest
from tfgpt.store import blobs, catalog
from tfgpt.store.access.rights import Caller, name_of
from tfgpt.store.artifacts import PIECE_BYTES, Artifacts
from tfgpt.store.cards import PULLED, fields_of_head, fields_of_run, figures_of, make_card, split_card
from tfgpt.store.catalog import Published, StoredFile
from tfgpt.store.database import Database
from tfgpt.store.errors import StoreError
from tfgpt.store.fields import MOST_CARD_BYTES, Description, check_word
from tfgpt.store.packages import Limits, check_path, packed_files
from tfgpt.store.reference import Reference, check_name
from tfgpt.store.schema import stamp

CONFIG = "store.json"
GRACE_HOURS = 24.0
"""How long gc lets alone what a publish may be about to use."""


@dataclass(frozen=True)
class StoreConfig:
    """What store.json says."""

    artifacts: str = "artifacts"
    """A folder, relative to the store's, or a URL such as s3://BUCKET/FOLDER."""
    database: str = "catalog.db"
    """A file of SQLite, relative to the store's folder, or a URL such as postgresql://USER@HOST/NAME."""
    max_file_bytes: int = Limits.max_file_bytes
    max_model_bytes: int = Limits.max_model_bytes
    max_files: int = Limits.max_files

    @property
    def limits(self) -> Limits:
        """What a publish may have at most."""
        return Limits(self.max_file_bytes, self.max_model_bytes, self.max_files)


@dataclass(frozen=True)
class Collected:
    """What gc removed."""

    blobs: int
    bytes: int
    uploads: int
    """Files that killed processes left half written."""


class Store:
    """A store that is there.

    Args:
        folder: with its store.json.

    Raises:
        FileNotFoundError: no store there.
        StoreError: a store.json that is not understood, a database or artifacts that cannot be used.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.config = _read_config(self.folder)
        self.database = Database(_database_url(self.folder, self.config.database))
        self.artifacts = Artifacts(_artifacts_place(self.folder, self.config.artifacts))

    @classmethod
    def create(cls, folder: str | Path, config: StoreConfig | None = None) -> Store:
        """Make a store, or bring the schema of one that is there up to date; the database and the artifacts may be another machine's store's too.

        Raises:
            StoreError: a store is there that is another one than is asked for; a database or artifacts that cannot be used.
        """
        folder = Path(folder)
        if (folder / CONFIG).is_file():
            if config is not None and config != (there := _read_config(folder)):
                raise StoreError(f"{folder / CONFIG}: says {asdict(there)}, and {asdict(config)} is asked for; change it by hand, or give another folder")
            config = _read_config(folder)
        config = config or StoreConfig()
        _ = config.limits
        folder.mkdir(parents=True, exist_ok=True)
        Database(_database_url(folder, config.database), create=True).close()
        Artifacts(_artifacts_place(folder, config.artifacts)).prepare()
        write_json(folder / CONFIG, asdict(config))
        os.chmod(folder / CONFIG, 0o600)  # a URL may hold a password
        return cls(folder)

    def publish(self, folder: str | Path, name: str, actor: str | Caller, said: dict | None = None, export: str | Path | None = None,
                card: str | None = None, version: int | None = None, stage: str = "draft", private: bool = False) -> Published:
        """Publish what a folder holds.

        Args:
            folder: a run's, or one with a model and its tokenizer.
            name: of the model.
            actor: who publishes.
            said: fields of a `Description` that count before those of the card and of the run.
            export: the version folder of a SavedModel; `None` = none.
            card: Markdown, with or without a head; `None` = README.md of the folder if there is one, else a page is written.
            version: the number that is expected; `None` = whichever is next.
            stage: which it has from the beginning.
            private: whether a new model is private from the beginning.

        Raises:
            FileNotFoundError: no model there.
            StoreError: anything that is refused, such as an export that is not as its manifest says.
            RuntimeError: a file changed meanwhile; the database cannot be reached.
        """
        check_name(name)
        check_word("owner", name_of(actor))
        folder, export = Path(folder), None if export is None else Path(export)
        files = packed_files(folder, export, self.config.limits)
        if export is not None:
            _check_manifest(export)
        figures = figures_of(folder)
        description = describe(folder, name, figures, said or {}, card, is_from_here=not isinstance(actor, Caller))
        with tempfile.TemporaryDirectory() as scratch:
            files["README.md"] = Path(scratch) / "README.md"
            files["README.md"].write_text(description.card, "utf-8")
            stored = self._store(files)
        return catalog.publish(self.database, name, actor, description, stored, figures, version, stage, private)

    def pull(self, reference: Reference, target: str | Path, wanted: Callable[[str], bool] = lambda path: True) -> Reference:
        """Write a version's files to a folder, which appears when all of them are there and are those that were published.

        A SavedModel comes to export/NAME/VERSION of it, so the folder can be served, and trained from, as a run's.

        Args:
            reference: of the version.
            target: a folder that is not there, or empty.
            wanted: tells of a path in the store, such as model/config.json, whether it is.

        Returns:
            The version by its number.

        Raises:
            StoreError: no such version; something is in the folder already; a path that would lead out of it.
            DamagedError: bytes that are not those that were published.
        """
        target = Path(target)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise StoreError(f"{target}: something is there already; give a folder that is not there")
        details = catalog.details_of(self.database, reference)
        exact = details.entry.reference
        with whole_folder(target) as partial:
            for file in details.files:
                check_path(file.path)
                if wanted(file.path):
                    self.artifacts.fetch(file, partial / place_in_pulled(file.path, exact))
            write_json(partial / PULLED, {"reference": str(exact), "content_sha256": details.content_sha256})
        catalog.count_download(self.database, exact)
        return exact

    def collect(self, grace_hours: float = GRACE_HOURS) -> Collected:
        """Remove bytes that no version needs and that no publish has meant to use for so many hours, and uploads that were never finished.

        Raises:
            StoreError: a time below 0.
        """
        if not 0 <= grace_hours < 10**6:
            raise StoreError(f"grace_hours: {grace_hours} is no time; give hours, 0 or more")
        before = time.time() - grace_hours * 3600
        uploads = self.artifacts.remove_stale_uploads(before)
        self._adopt_strays(before)
        count, size = blobs.remove_unneeded(self.database, stamp(before), self.artifacts.remove)
        return Collected(count, size, uploads)

    def close(self) -> None:
        """Close the database's connections."""
        self.database.close()

    def _store(self, files):
        """Store what is not there yet, and return what the catalog is to know."""
        listed = [_listed(name, path) for name, path in files.items()]
        sizes = {sha256: size for _, pieces in listed for sha256, size in pieces}
        blobs.touch(self.database, sizes)  # before it is looked what is there: from here on gc lets it alone
        for (file, pieces), path in zip(listed, files.values()):
            with open(path, "rb") as content:
                for number, (sha256, size) in enumerate(pieces):
                    if self.artifacts.holds(sha256, size):
                        continue
                    content.seek(number * PIECE_BYTES)
                    if self.artifacts.store(content.read(size)) != sha256:
                        raise RuntimeError(f"{path}: changed while it was published as {file.path}; publish again when it is whole")
        return [file for file, _ in listed]

    def _adopt_strays(self, before):
        """Give old bytes that the catalog knows nothing of a row, by which they are then removed under the same lock as others."""
        old = {sha256: (size, changed) for sha256, size, changed in self.artifacts.stored() if changed < before}
        strays = old.keys() - blobs.known(self.database, old)
        blobs.touch(self.database, {sha256: old[sha256][0] for sha256 in strays}, at=stamp(0))


def describe(folder: Path, name: str, figures: dict[str, float], said: dict, card: str | None = None, is_from_here: bool = True) -> Description:
    """Return what is said of a model: what is given counts before what its card's head says, and that before what its run tells.

    What came over the network is not from here: paths in its recipe are another machine's.

    Raises:
        StoreError: a field that is not allowed.
    """
    if card is None and (folder / "README.md").is_file():
        if (folder / "README.md").stat().st_size > MOST_CARD_BYTES:
            raise StoreError(f"{folder / 'README.md'}: is longer than a card may be ({MOST_CARD_BYTES:,} bytes); shorten it")
        card = (folder / "README.md").read_text("utf-8")
    head, body = split_card(card or "")
    description = Description(**(fields_of_run(folder, is_from_here) | fields_of_head(head) | said))
    return replace(description, card=make_card(name, description, figures, body))


def _check_manifest(export):
    try:
        verify_manifest(export)
    except RuntimeError as error:
        raise StoreError(f"export: {error}") from error


def _listed(name, path):
    """Return a file as the catalog knows it, and sha256 and size of each piece of it."""
    whole, pieces = hashlib.sha256(), []
    with open(path, "rb") as content:
        while data := content.read(PIECE_BYTES):
            whole.update(data)
            pieces.append((hashlib.sha256(data).hexdigest(), len(data)))
    size = sum(size for _, size in pieces)
    return StoredFile(name, whole.hexdigest(), size, tuple(sha256 for sha256, _ in pieces)), pieces


def place_in_pulled(path, reference):
    """Return where a stored file is put in a pulled folder."""
    return path.replace("export/", f"export/{reference.name}/{reference.version}/", 1) if path.startswith("export/") else path


def _read_config(folder):
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: there is no store; tfgpt store init --store {folder} makes one")
    try:
        return StoreConfig(**json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path}: is not understood ({error}); it holds {', '.join(StoreConfig.__dataclass_fields__)}") from error


def _database_url(folder, database):
    return database if "://" in database else f"sqlite:///{(folder / database).resolve()}"


def _artifacts_place(folder, artifacts):
    return artifacts if "://" in artifacts else str((folder / artifacts).resolve())
