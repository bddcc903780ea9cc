"""The audit log: every change of a store, with who made it and from where."""
from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from tfgpt.store.database import Database
from tfgpt.store.errors import StoreError
from tfgpt.store.schema import Event, Model

MOST_LINES = 1000


@dataclass(frozen=True)
class Line:
    """A line of the log."""

    id: int
    at: str
    actor: str
    action: str
    model: str | None
    version: int | None
    details: dict


def audit(database: Database, actor: str = "", action: str = "", model: str = "", before: int = 0, limit: int = 100) -> list[Line]:
    """Return lines of the log, the newest first.

    Args:
        database: the catalog's.
        actor: whose; empty = of all.
        action: such as publish; empty = all.
        model: by its name; empty = all, and lines of no model.
        before: only lines whose id is lower, to go on where a list ended; 0 = from the newest.
        limit: lines at most, 1 to 1,000.

    Raises:
        StoreError: a limit out of its range.
    """
    if not 1 <= limit <= MOST_LINES or not 0 <= before < 2**31:
        raise StoreError(f"limit, before: {limit}, {before}; give 1 to {MOST_LINES:,} lines, before a line's id")
    statement = select(Event, Model.name).outerjoin(Model, Model.id == Event.model_id).order_by(Event.id.desc()).limit(limit)
    for column, value in ((Event.actor, actor), (Event.action, action), (Model.name, model)):
        if value:
            statement = statement.where(column == value)
    if before:
        statement = statement.where(Event.id < before)
    with database.reading() as session:
        return [Line(row.id, row.at, row.actor, row.action, name, row.version, row.details) for row, name in session.execute(statement)]
