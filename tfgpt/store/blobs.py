"""The catalog's side of stored bytes: which there are, who needs them, which can go.

Each has a row before it is written, and a version's pieces refer to rows, so what a version needs cannot be removed. A publish touches the rows that it means
to use, and `gc` lets alone what was touched lately.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from sqlalchemy import delete, exists, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from tfgpt.store.database import Database
from tfgpt.store.schema import Blob, Piece, now

AT_ONCE = 100
"""Rows that gc removes in a transaction, during which no other writer of SQLite can begin."""


def touch(database: Database, sizes: Mapping[str, int], at: str | None = None) -> None:
    """Say that bytes are about to be stored or used, which `gc` then lets alone for its time of grace.

    Args:
        database: the catalog's.
        sizes: in bytes, by sha256.
        at: the time of those that have no row yet; those that have are left as they are. `None` = now, for all.
    """
    if not sizes:
        return
    insert = (sqlite.insert if database.is_sqlite else postgresql.insert)(Blob)
    rows = [{"sha256": sha256, "size_bytes": size, "touched_at": at or now()} for sha256, size in sorted(sizes.items())]  # sorted: no two wait in a ring
    known = insert.on_conflict_do_nothing() if at else insert.on_conflict_do_update(index_elements=["sha256"], set_={"touched_at": insert.excluded.touched_at})
    with database.writing() as session:
        session.execute(known, rows)


def keep(session: Session, needed: set[str]) -> None:
    """Hold rows until the transaction ends.

    Raises:
        RuntimeError: one that is not there.
    """
    found = set()
    for part in _in_parts(sorted(needed)):
        found |= set(session.scalars(select(Blob.sha256).where(Blob.sha256.in_(part)).order_by(Blob.sha256).with_for_update(read=True, key_share=True)))
        session.execute(update(Blob).where(Blob.sha256.in_(part)).values(touched_at=now()))
    if missing := sorted(needed - found):
        raise RuntimeError(f"{missing[0]} was removed by gc while this was published, which took longer than its time of grace; publish again, and give gc "
                           "a longer --grace-hours")


def known(database: Database, among: Iterable[str]) -> set[str]:
    """Return which of these have a row."""
    with database.reading() as session:
        return {sha256 for part in _in_parts(sorted(among)) for sha256 in session.scalars(select(Blob.sha256).where(Blob.sha256.in_(part)))}


def remove_unneeded(database: Database, before: str, remove: Callable[[str], None]) -> tuple[int, int]:
    """Remove what no version needs and nothing has touched since a time.

    The bytes go while their row is locked: a publish that touches it waits, and then finds them gone.

    Args:
        database: the catalog's.
        before: that time.
        remove: removes the bytes of a sha256, or finds them gone.

    Returns:
        How many, and their bytes.
    """
    count, size = 0, 0
    while True:
        with database.writing() as session:
            unneeded = (~exists().where(Piece.sha256 == Blob.sha256), Blob.touched_at < before)
            rows = session.execute(select(Blob.sha256, Blob.size_bytes).where(*unneeded).order_by(Blob.sha256).limit(AT_ONCE)
                                   .with_for_update(skip_locked=True)).all()  # fmt: skip
            for sha256, size_bytes in rows:
                if session.execute(delete(Blob).where(Blob.sha256 == sha256, *unneeded)).rowcount:
                    remove(sha256)
                    count, size = count + 1, size + size_bytes
        if not rows:
            return count, size


def _in_parts(values, length=500):
    return [values[start : start + length] for start in range(0, len(values), length)]
