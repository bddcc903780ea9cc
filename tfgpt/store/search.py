"""Finding published models: full-text search with filters and sorting, in SQLite by FTS5 and in PostgreSQL by tsvector, behind one function.

All words must occur; each also finds words that begin with it. There is no stemming, since cards are in any language.
"""
from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy import case, column, exists, func, literal_column, select, table
from sqlalchemy.orm import Session

from tfgpt.store.access.rights import Caller, visible_to
from tfgpt.store.catalog import Entry, entry_of
from tfgpt.store.database import Database
from tfgpt.store.errors import StoreError
from tfgpt.store.fields import check_word
from tfgpt.store.orders import ORDERS
from tfgpt.store.reference import STAGES
from tfgpt.store.schema import Label, Model, Version

WEIGHTS = "10.0, 4.0, 4.0, 1.0"
"""Of name, task, words and card in FTS5; PostgreSQL has its own for A, B, B and D: 1, 0.4, 0.4 and 0.1."""
FTS5 = table("version_words", column("rowid"))
MOST_WORDS = 16
MOST_ROWS = 1000
SORTS = {
    "relevance": (), "newest": (Version.published_at.desc(),), "name": (Version.name,), "downloads": (Model.downloads.desc(),),
    "rating": (case((Model.rating_count > 0, Model.rating_sum * 1.0 / Model.rating_count), else_=-1.0).desc(), Model.rating_count.desc()),
    "size": (Version.size_bytes,), "loss": (Version.loss,), "perplexity": (Version.perplexity,), "bits_per_byte": (Version.bits_per_byte,),
}  # fmt: skip
"""How each of `ORDERS` is sorted."""


@dataclass(frozen=True)
class Query:
    """What is looked for. An empty value filters nothing."""

    words: str = ""
    task: str = ""
    languages: tuple[str, ...] = ()
    """All of which a version must have."""
    tags: tuple[str, ...] = ()
    """All of which a version must have."""
    licence: str = ""
    owner: str = ""
    base_model: str = ""
    stage: str = ""
    """Versions in this stage; empty = of each model the one in production, else the newest that is not archived."""
    max_size_bytes: int = 0
    """0 = of any size."""
    sort: str = ""
    """One of `ORDERS`; empty = by relevance where there are words, else the newest first."""
    limit: int = 20
    offset: int = 0

    def __post_init__(self):
        for key, values in (("task", [self.task]), ("licence", [self.licence]), ("owner", [self.owner]), ("base_model", [self.base_model]),
                            ("languages", self.languages), ("tags", self.tags)):  # fmt: skip
            for value in values:
                if value or key in ("languages", "tags"):
                    check_word(key, value)
        if self.stage and self.stage not in STAGES:
            raise StoreError(f"stage: {self.stage!r} is none of {', '.join(STAGES)}")
        if self.sort and self.sort not in ORDERS:
            raise StoreError(f"sort: {self.sort!r} is none of {', '.join(ORDERS)}")
        if self.sort == "relevance" and not self.words.strip():
            raise StoreError("sort: relevance needs words to be relevant to; give some, or sort by another")
        if not 1 <= self.limit <= MOST_ROWS:
            raise StoreError(f"limit: {self.limit} is no number of rows; give 1 to {MOST_ROWS:,}")
        if not 0 <= self.offset < 2**31 or not 0 <= self.max_size_bytes < 2**63:
            raise StoreError(f"offset, max_size_bytes: {self.offset}, {self.max_size_bytes} are no numbers to work with; give 0 or more")


def search(database: Database, query: Query, reader: Caller | None = None) -> list[Entry]:
    """Return the versions that a query finds and that the reader may see, the best first."""
    words = words_of(query.words)
    if query.words.strip() and not words:
        return []  # of signs alone, which no index holds
    with database.reading() as session:
        ids = (_in_fts5 if database.is_sqlite else _in_tsvector)(session, query, words, reader)
        rows = session.execute(select(Version, Model).join(Model, Model.id == Version.model_id).where(Version.id.in_(ids))).all() if ids else []
        by_id = {row.id: entry_of(row, model) for row, model in rows}
        return [by_id[number] for number in ids]


@dataclass(frozen=True)
class Facets:
    """By what shown versions can be filtered: values that some of them have, in order."""

    tasks: list[str]
    languages: list[str]
    tags: list[str]
    """The 100 that most versions have."""
    licences: list[str]


def facets_of(database: Database, reader: Caller | None = None) -> Facets:
    """Return by what one can filter what a reader may see."""
    shown = (Version.shown, visible_to(reader))
    with database.reading() as session:
        def values(column):
            statement = select(column).join(Model, Model.id == Version.model_id).where(column != "", *shown).distinct().order_by(column)
            return list(session.scalars(statement))

        def labels(kind):
            statement = (select(Label.value).join(Version, Version.id == Label.version_id).join(Model, Model.id == Version.model_id)
                         .where(Label.kind == kind, *shown).group_by(Label.value).order_by(func.count().desc(), Label.value).limit(100))  # fmt: skip
            return sorted(session.scalars(statement))

        return Facets(values(Version.task), labels("language"), labels("tag"), values(Version.licence))


def words_of(given: str) -> list[str]:
    """Return the words that are looked for, in small letters; everything between them is dropped, so nothing of a query language is left.

    >>> words_of('Low-rank "GPT" OR name:*')
    ['low', 'rank', 'gpt', 'or', 'name']
    """
    return re.findall(r"[^\W_]+", given.lower())[:MOST_WORDS]


def _in_fts5(session: Session, query, words, reader):
    statement = _filtered(query, reader)
    if words:
        match = " ".join(f'"{word}"*' for word in words)
        statement = statement.join(FTS5, FTS5.c.rowid == Version.id).where(literal_column("version_words").op("MATCH")(match))
    return _ids(session, statement, query, words, literal_column(f"bm25(version_words, {WEIGHTS})"))


def _in_tsvector(session: Session, query, words, reader):
    statement, rank = _filtered(query, reader), None
    if words:
        vector = literal_column("versions.search_words")
        wanted = func.to_tsquery(literal_column("'simple'::regconfig"), " & ".join(f"{word}:*" for word in words))
        statement, rank = statement.where(vector.op("@@")(wanted)), func.ts_rank(vector, wanted).desc()
    return _ids(session, statement, query, words, rank)


def _ids(session, statement, query, words, rank):
    """Return the ids of the rows alone, in order: sorting whole rows takes several times as long."""
    sort = query.sort or ("relevance" if words else "newest")
    order = [rank] if sort == "relevance" else [part.nulls_last() if sort in ("loss", "perplexity", "bits_per_byte") else part for part in SORTS[sort]]
    return session.scalars(statement.order_by(*order, Version.id.desc()).limit(query.limit).offset(query.offset)).all()


def _filtered(query, reader):
    statement = select(Version.id).join(Model, Model.id == Version.model_id).where(visible_to(reader))
    statement = statement.where(Version.stage == query.stage if query.stage else Version.shown)
    for field, value in ((Version.task, query.task), (Version.licence, query.licence), (Version.base_model, query.base_model), (Model.owner, query.owner)):
        if value:
            statement = statement.where(field == value)
    for kind, values in (("language", query.languages), ("tag", query.tags)):
        for value in values:
            statement = statement.where(exists().where(Label.version_id == Version.id, Label.kind == kind, Label.value == value))
    return statement.where(Version.size_bytes <= query.max_size_bytes) if query.max_size_bytes else statement
