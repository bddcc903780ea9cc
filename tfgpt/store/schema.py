"""The tables of a catalog. What is in `migrations` makes them; a test compares the two.

Times are texts in UTC, such as 2026-01-31T12:00:00.000000Z, which sort by themselves, in every database alike.
"""
from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import JSON, BigInteger, Boolean, Float, ForeignKey, ForeignKeyConstraint, Index, Integer, String, Text, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


def now() -> str:
    """Return the time as the tables have it."""
    return stamp(datetime.now(UTC).timestamp())


def stamp(seconds: float) -> str:
    """Return a time as the tables have it; `seconds` since 1970.

    >>> stamp(0.25)
    '1970-01-01T00:00:00.250000Z'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Base(DeclarativeBase):
    """Of all tables."""


class Model(Base):
    """A name, whose it is, and what changes as it is used."""

    __tablename__ = "models"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(96), unique=True)
    owner: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[str] = mapped_column(String(27))
    private: Mapped[bool] = mapped_column(Boolean, default=False, server_default=text("false"))
    """Shown over the network to its owner, the groups that are granted it, and administrators alone."""
    downloads: Mapped[int] = mapped_column(Integer, default=0)
    rating_count: Mapped[int] = mapped_column(Integer, default=0)
    rating_sum: Mapped[int] = mapped_column(Integer, default=0)


class Version(Base):
    """What was published under a number. Stage, shown and downloads change; a trigger refuses any change of the rest."""

    __tablename__ = "versions"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    name: Mapped[str] = mapped_column(String(96))
    number: Mapped[int] = mapped_column(Integer)
    stage: Mapped[str] = mapped_column(String(10))
    shown: Mapped[bool] = mapped_column(Boolean)
    """Whether a search without a stage finds it: one version a model."""
    publisher: Mapped[str] = mapped_column(String(64))
    published_at: Mapped[str] = mapped_column(String(27), index=True)
    downloads: Mapped[int] = mapped_column(Integer, default=0)
    task: Mapped[str] = mapped_column(String(64), index=True)
    licence: Mapped[str] = mapped_column(String(64))
    base_model: Mapped[str] = mapped_column(String(200), index=True)
    data_sha256: Mapped[str] = mapped_column(String(64))
    recipe_sha256: Mapped[str] = mapped_column(String(64))
    content_sha256: Mapped[str] = mapped_column(String(64))
    """Of its files and of what is said of it."""
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    file_count: Mapped[int] = mapped_column(Integer)
    loss: Mapped[float | None] = mapped_column(Float)
    perplexity: Mapped[float | None] = mapped_column(Float)
    bits_per_byte: Mapped[float | None] = mapped_column(Float)
    languages: Mapped[list] = mapped_column(JSON)
    tags: Mapped[list] = mapped_column(JSON)
    words: Mapped[str] = mapped_column(Text)
    """Owner, languages, tags and base model as one text, for the search."""
    figures: Mapped[dict] = mapped_column(JSON)
    card: Mapped[str] = mapped_column(Text)
    """Last: SQLite reads a row no further than it must, and this is the long one."""

    __table_args__ = (
        UniqueConstraint("model_id", "number", name="one_number_each"),
        Index("one_in_production", "model_id", unique=True, sqlite_where=text("stage = 'production'"), postgresql_where=text("stage = 'production'")),
        Index("one_shown", "model_id", unique=True, sqlite_where=text("shown"), postgresql_where=text("shown")),
    )


class Label(Base):
    """A tag or a language of a version, to filter by."""

    __tablename__ = "labels"
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(10), primary_key=True)
    value: Mapped[str] = mapped_column(String(64), primary_key=True)

    __table_args__ = (Index("labels_by_value", "kind", "value", "version_id"),)


class Blob(Base):
    """Bytes that are stored, by their sha256: a file, or a piece of a large one."""

    __tablename__ = "blobs"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    touched_at: Mapped[str] = mapped_column(String(27), index=True)
    """When a publish last meant to use them, by which `gc` knows what is under way."""


class File(Base):
    """A file of a version."""

    __tablename__ = "files"
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    path: Mapped[str] = mapped_column(String(1000), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)


class Piece(Base):
    """Which bytes a file is made of, in order. The foreign key keeps them from being removed."""

    __tablename__ = "pieces"
    version_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    path: Mapped[str] = mapped_column(String(1000), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"), index=True)

    __table_args__ = (ForeignKeyConstraint(["version_id", "path"], ["files.version_id", "files.path"]),)


class Rating(Base):
    """What somebody thinks of a model; a later one takes the place of an earlier."""

    __tablename__ = "ratings"
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), primary_key=True)
    rater: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[int] = mapped_column(Integer)
    stars: Mapped[int] = mapped_column(Integer)
    review: Mapped[str] = mapped_column(Text)
    rated_at: Mapped[str] = mapped_column(String(27))


class Event(Base):
    """A line of the log: who did what to which version, and when. Lines are added and never changed."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    at: Mapped[str] = mapped_column(String(27))
    actor: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(20))
    model_id: Mapped[int | None] = mapped_column(ForeignKey("models.id"), index=True)
    version: Mapped[int | None] = mapped_column(Integer)
    details: Mapped[dict] = mapped_column(JSON)


class User(Base):
    """Somebody who can sign in."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    folded: Mapped[str] = mapped_column(String(64), unique=True)
    """The name in small letters: Jane and jane are not two."""
    password_hash: Mapped[str] = mapped_column(String(200))
    role: Mapped[str] = mapped_column(String(10))
    disabled: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[str] = mapped_column(String(27))


class Group(Base):
    """Users who are granted models together."""

    __tablename__ = "groups"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)


class Member(Base):
    """A user of a group."""

    __tablename__ = "members"
    group_id: Mapped[int] = mapped_column(ForeignKey("groups.id"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True, index=True)


class Grant(Base):
    """What a group may do with a model."""

    __tablename__ = "grants"
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"), primary_key=True)
    group_id: Mapped[int] = mapped_column(ForeignKey("groups.id"), primary_key=True)
    right: Mapped[str] = mapped_column(String(10))


class SignIn(Base):
    """A browser in which somebody has signed in, by the sha256 of what its cookie holds."""

    __tablename__ = "sign_ins"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    expires_at: Mapped[str] = mapped_column(String(27))


class ApiKey(Base):
    """A key that a program asks with, by its sha256: 32 random bytes need no slow hash."""

    __tablename__ = "api_keys"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list] = mapped_column(JSON)
    created_at: Mapped[str] = mapped_column(String(27))
    expires_at: Mapped[str] = mapped_column(String(27))
    used_at: Mapped[str | None] = mapped_column(String(27))
    revoked_at: Mapped[str | None] = mapped_column(String(27))
