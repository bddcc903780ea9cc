"""What is published: versions under names, who owns them, what is said of them, which files they have.

A version becomes visible by one transaction, after its files are stored, and is never changed. Names belong to whoever published them first. An actor or
reader is a `Caller` where somebody asks over the network, with the rights that go with that. A plain name, or no reader, is somebody who has the database
itself: a name is then against mistakes and not against malice.
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from tfgpt.store.access.rights import Caller, check_may_change, name_of, visible_to
from tfgpt.store.database import Database
from tfgpt.store.errors import ForbiddenError, NotFoundError, StoreError
from tfgpt.store.fields import Description, check_figures, check_word
from tfgpt.store.reference import STAGES, Reference, check_name
from tfgpt.store.schema import Event, File, Label, Model, Piece, Version, now

FIGURES = ("loss", "perplexity", "bits_per_byte")
"""Of evaluation.json, by which a search can sort."""
MOST_LISTED = 1000


@dataclass(frozen=True)
class StoredFile:
    """A file of a version, and the stored bytes that it is made of."""

    path: str
    """Relative, with /."""
    sha256: str
    size_bytes: int
    pieces: tuple[str, ...]
    """sha256 of each, in order; the file's own, if it is stored whole."""


@dataclass(frozen=True)
class Entry:
    """A published version, as lists and searches tell of it."""

    name: str
    version: int
    stage: str
    owner: str
    publisher: str
    published_at: str
    task: str
    licence: str
    languages: list[str]
    tags: list[str]
    base_model: str
    size_bytes: int
    file_count: int
    loss: float | None
    perplexity: float | None
    bits_per_byte: float | None
    downloads: int
    """Of all versions of the model."""
    rating: float | None
    """Mean of the model's stars; `None` = nobody has rated it."""
    rating_count: int
    private: bool
    """Whether the model is shown over the network to its owner, the groups that are granted it, and administrators alone."""

    @property
    def reference(self) -> Reference:
        """What names exactly this version."""
        return Reference(self.name, self.version)


@dataclass(frozen=True)
class Details:
    """All that is known of a version."""

    entry: Entry
    version_downloads: int
    data_sha256: str
    recipe_sha256: str
    content_sha256: str
    figures: dict[str, float]
    card: str
    files: list[StoredFile]
    reviews: list[dict]
    """`rater`, `version`, `stars`, `review`, `rated_at`; the newest first."""
    events: list[dict]
    """The model's log: `at`, `actor`, `action`, `version`, `details`; the newest first."""


@dataclass(frozen=True)
class Published:
    """What a publish came to."""

    reference: Reference
    is_new: bool
    """False: this version had the same files and description already, and nothing was added."""


def publish(database: Database, name: str, actor: str | Caller, description: Description, files: Sequence[StoredFile], figures: dict[str, float],
            version: int | None = None, stage: str = "draft", private: bool = False) -> Published:
    """Make a version of stored files visible, under the next number of its name.

    Args:
        database: the catalog's.
        name: of the model, which is the actor's from then on.
        actor: who publishes.
        description: what is said of it.
        files: which must be stored already.
        figures: numbers of evaluation.json by name.
        version: the number that is expected; `None` = whichever is next.
        stage: which it has from the beginning.
        private: whether a model that is new by its name is private from the beginning; one that is there stays as it is, and must not be public if so.

    Returns:
        The version; the one that is there, where the model has one of the same content.

    Raises:
        StoreError: a field that is not allowed, a number that is not the next; `private` for a model that is there and public.
        ForbiddenError: another's name.
        RuntimeError: bytes that the files need were removed by gc meanwhile.
    """
    check_name(name)
    check_word("owner", name_of(actor))
    check_figures(figures)
    Reference(name, version, stage)
    if stage == "archived":
        raise StoreError(f"stage: a version is not published as archived; give one of {', '.join(STAGES[:-1])}")
    content = content_sha256(description, files, figures)
    with database.writing() as session:
        model = _own_model(session, database, name, actor, private)
        if private and not model.private:
            raise StoreError(f"private: {name} is there and public, and a version is as its model; make it private first (tfgpt store access {name} "
                             "--private), or leave it out")
        if (same := session.scalar(select(Version.number).where(Version.model_id == model.id, Version.content_sha256 == content))) is not None:
            if version not in (None, same):
                raise StoreError(f"version: {version} of {name} is not published, since version {same} has the same content")
            return Published(Reference(name, same), is_new=False)
        number = (session.scalar(select(func.max(Version.number)).where(Version.model_id == model.id)) or 0) + 1
        if version not in (None, number):
            there = f"{version} of {name} is published and never changed" if version < number else f"{version} of {name} would leave numbers out"
            raise StoreError(f"version: {there}; the next is {number}")
        row = _version_of(model, number, actor, description, files, figures, content)
        session.add(row)
        session.flush()
        _add_parts(session, row.id, description, files)
        log(session, actor, "publish", model.id, number, {"content_sha256": content})
        if stage != "draft":
            from tfgpt.store.lifecycle import move  # which builds on this module

            move(session, model.id, row, stage, actor, "promote")
        show_one(session, model.id)
    return Published(Reference(name, number), is_new=True)


def content_sha256(description: Description, files: Sequence[StoredFile], figures: dict[str, float]) -> str:
    """Return what two versions have in common exactly if their files, descriptions and figures are the same."""
    content = {"description": description.as_dict(), "figures": figures, "files": {file.path: file.sha256 for file in files}}
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def find(session: Session, reference: Reference, reader: Caller | None = None) -> Version:
    """Return the row that a reference leads to.

    Raises:
        NotFoundError: no such model or version, or none in that stage, or none that the reader may see, which is told in the same words.
    """
    rows = select(Version).join(Model, Model.id == Version.model_id).where(Version.name == reference.name, visible_to(reader))
    if reference.version is not None:
        row = session.scalar(rows.where(Version.number == reference.version))
    elif reference.stage is not None:
        row = session.scalar(rows.where(Version.stage == reference.stage).order_by(Version.number.desc()).limit(1))
    else:
        row = session.scalar(rows.where(Version.shown))
    if row is not None:
        return row
    newest = session.scalar(rows.with_only_columns(func.max(Version.number)))
    if newest is None:
        raise NotFoundError(f"{reference}: there is no model {reference.name}; tfgpt store search finds those that there are")
    if reference.version is not None:
        raise NotFoundError(f"{reference}: there is no such version; the newest is {newest}")
    raise NotFoundError(f"{reference}: no version of {reference.name} is in {reference.stage}; tfgpt store promote {reference.name}:{newest} --to "
                     f"{reference.stage} would put the newest there")


def resolve(database: Database, reference: Reference, reader: Caller | None = None) -> Reference:
    """Return the reference that names the same version by its number.

    Raises:
        NotFoundError: as `find`.
    """
    with database.reading() as session:
        return Reference(reference.name, find(session, reference, reader).number)


def details_of(database: Database, reference: Reference, reader: Caller | None = None) -> Details:
    """Return all that is known of a version.

    Raises:
        NotFoundError: as `find`.
    """
    with database.reading() as session:
        row = find(session, reference, reader)
        model = session.get(Model, row.model_id)
        from tfgpt.store.ratings import reviews_of  # which builds on this module

        return Details(entry_of(row, model), row.downloads, row.data_sha256, row.recipe_sha256, row.content_sha256, row.figures, row.card,
                       files_of(session, row.id), reviews_of(session, model.id), events_of(session, model.id))


def versions_of(database: Database, name: str, reader: Caller | None = None) -> list[Entry]:
    """Return a model's versions, the newest first, at most 1,000 of them.

    Raises:
        NotFoundError: no such model, or none that the reader may see.
    """
    check_name(name)
    with database.reading() as session:
        found = session.execute(select(Version, Model).join(Model, Model.id == Version.model_id).where(Version.name == name, visible_to(reader))
                                .order_by(Version.number.desc()).limit(MOST_LISTED)).all()
        if not found:
            find(session, Reference(name), reader)
        return [entry_of(row, model) for row, model in found]


def trained_from(database: Database, name: str, reader: Caller | None = None) -> list[Entry]:
    """Return versions that say they were trained from a version of a model, the newest first, at most 100 of them."""
    base = str(Reference(name))
    with database.reading() as session:
        found = session.execute(select(Version, Model).join(Model, Model.id == Version.model_id)
                                .where(or_(Version.base_model == base, Version.base_model.startswith(f"{base}:", autoescape=True)), visible_to(reader))
                                .order_by(Version.published_at.desc()).limit(100)).all()  # fmt: skip
        return [entry_of(row, model) for row, model in found]


def count_download(database: Database, reference: Reference) -> None:
    """Count a pull of a version, which is given by its number."""
    with database.writing() as session:
        row = find(session, reference)
        session.execute(update(Model).where(Model.id == row.model_id).values(downloads=Model.downloads + 1))
        session.execute(update(Version).where(Version.id == row.id).values(downloads=Version.downloads + 1))


def locked_model(session: Session, reference: Reference, actor: str | Caller) -> Model:
    """Return a model's row, which nobody else changes until the transaction ends.

    Raises:
        NotFoundError: no such model, or none that the actor may see.
        ForbiddenError: another's.
    """
    check_word("owner", name_of(actor))
    reader = actor if isinstance(actor, Caller) else None
    model = session.scalar(select(Model).where(Model.name == reference.name, visible_to(reader)).with_for_update())
    if model is None:
        find(session, reference, reader)
    check_may_change(session, model, actor)
    return model


def show_one(session: Session, model_id: int) -> None:
    """Choose the version that searches tell of: the one in production, else the newest that is not archived, else the newest."""
    best = (select(Version.id).where(Version.model_id == model_id)
            .order_by((Version.stage == "production").desc(), (Version.stage != "archived").desc(), Version.number.desc()).limit(1))
    chosen = session.scalar(best)
    session.execute(update(Version).where(Version.model_id == model_id, Version.shown, Version.id != chosen).values(shown=False))
    session.execute(update(Version).where(Version.id == chosen).values(shown=True))


def log(session: Session, actor: str | Caller, action: str, model_id: int | None, version: int | None, details: dict) -> None:
    """Add a line to the log, with where the actor's request came from, if it came over the network."""
    origin = dict(actor.origin) if isinstance(actor, Caller) else {}
    session.add(Event(at=now(), actor=name_of(actor), action=action, model_id=model_id, version=version, details=details | origin))


def events_of(session: Session, model_id: int) -> list[dict]:
    """Return a model's log, the newest line first, at most 1,000 of them."""
    rows = session.scalars(select(Event).where(Event.model_id == model_id).order_by(Event.id.desc()).limit(MOST_LISTED))
    return [{"at": row.at, "actor": row.actor, "action": row.action, "version": row.version, "details": row.details} for row in rows]


def files_of(session: Session, version_id: int) -> list[StoredFile]:
    """Return a version's files, by path."""
    pieces: dict[str, list[str]] = {}
    for path, sha256 in session.execute(select(Piece.path, Piece.sha256).where(Piece.version_id == version_id).order_by(Piece.path, Piece.number)):
        pieces.setdefault(path, []).append(sha256)
    rows = session.scalars(select(File).where(File.version_id == version_id).order_by(File.path))
    return [StoredFile(row.path, row.sha256, row.size_bytes, tuple(pieces.get(row.path, ()))) for row in rows]


def entry_of(row: Version, model: Model) -> Entry:
    """Return what lists tell of a version."""
    own = {key: getattr(row, key) for key in ("name", "stage", "publisher", "published_at", "task", "licence", "languages", "tags", "base_model", "size_bytes",
                                              "file_count", *FIGURES)}  # fmt: skip
    rating = model.rating_sum / model.rating_count if model.rating_count else None
    return Entry(version=row.number, owner=model.owner, downloads=model.downloads, rating=rating, rating_count=model.rating_count,
                 private=model.private, **own)


def entry_as_dict(entry: Entry) -> dict:
    """Return an entry for JSON, with its reference."""
    return {"reference": str(entry.reference)} | asdict(entry)


def _own_model(session, database, name, actor, private):
    """Return the model's row, made if there is none, locked until the transaction ends."""
    insert = sqlite.insert if database.is_sqlite else postgresql.insert
    new = {"name": name, "owner": name_of(actor), "created_at": now(), "private": private, "downloads": 0, "rating_count": 0, "rating_sum": 0}
    session.execute(insert(Model).values(**new).on_conflict_do_nothing(index_elements=["name"]))
    try:
        return locked_model(session, Reference(name), actor)
    except NotFoundError as error:  # there is one, since this has just been seen to
        raise ForbiddenError(f"name: {name} is taken; choose another name") from error


def _version_of(model, number, actor, description, files, figures, content):
    said = description.as_dict()
    words = " ".join([model.owner, *said["languages"], *said["tags"], said["base_model"]])
    return Version(
        model_id=model.id, name=model.name, number=number, stage="draft", shown=False, publisher=name_of(actor), published_at=now(), downloads=0, words=words,
        content_sha256=content, size_bytes=sum(file.size_bytes for file in files), file_count=len(files), figures=figures,
        **{key: figures.get(key) for key in FIGURES}, **said,
    )  # fmt: skip


def _add_parts(session, version_id, description, files):
    """Add files and labels of a version."""
    from tfgpt.store.blobs import keep

    keep(session, {sha256 for file in files for sha256 in file.pieces})
    for kind, values in (("language", description.languages), ("tag", description.tags)):
        session.add_all(Label(version_id=version_id, kind=kind, value=value) for value in values)
    session.add_all(File(version_id=version_id, path=file.path, sha256=file.sha256, size_bytes=file.size_bytes) for file in files)
    session.flush()
    session.add_all(Piece(version_id=version_id, path=file.path, number=number, sha256=sha256)
                    for file in files for number, sha256 in enumerate(file.pieces))  # fmt: skip
