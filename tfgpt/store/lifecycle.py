"""A version's way through the stages: promote, roll back, archive; each is one transaction with its line in the log.

What leaves production is archived: it can be pulled by its number, and a roll back returns to it. What was in production before is read from the log.
"""
from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from tfgpt.store.access.rights import Caller
from tfgpt.store.catalog import find, locked_model, log, show_one
from tfgpt.store.database import Database
from tfgpt.store.errors import StoreError
from tfgpt.store.reference import Reference
from tfgpt.store.schema import Event, Version


def promote(database: Database, reference: Reference, actor: str | Caller, stage: str = "production") -> Reference:
    """Put a version into a stage; of two in production the old one is archived.

    Args:
        database: the catalog's.
        reference: of the version; without a number the newest that is not archived.
        actor: who does it: the model's owner, or one of a group that is granted it.
        stage: `draft`, `staging` or `production`.

    Returns:
        The version by its number.

    Raises:
        StoreError: no such version, another's model, a stage that it is in already, or `archived`, which `archive` is for.
    """
    if stage == "archived":
        raise StoreError(f"stage: archived is not where {reference.name} is promoted to; tfgpt store archive does it")
    Reference(reference.name, stage=stage)
    with database.writing() as session:
        model = locked_model(session, reference, actor)
        row = find(session, reference) if reference.version or reference.stage else _newest(session, model.id, reference)
        if row.stage == stage:
            raise StoreError(f"{Reference(row.name, row.number)} is in {stage} already; give another version or another stage")
        move(session, model.id, row, stage, actor, "promote")
        show_one(session, model.id)
        return Reference(row.name, row.number)


def roll_back(database: Database, name: str, actor: str | Caller) -> tuple[Reference, int | None]:
    """Undo the last change of what is in production; done again it undoes the one before.

    Returns:
        The version that is in production now, and the number of the one that was.

    Raises:
        StoreError: no such model, another's, or none was in production before.
    """
    reference = Reference(name)
    with database.writing() as session:
        model = locked_model(session, reference, actor)
        before, current = _production_before(session, model.id), _in_production(session, model.id)
        if before is None:
            raise StoreError(f"{reference}: no version was in production before; promote the one that is to be")
        row = find(session, Reference(name, before))
        move(session, model.id, row, "production", actor, "rollback")
        show_one(session, model.id)
        return Reference(name, before), None if current is None else current.number


def archive(database: Database, reference: Reference, actor: str | Caller) -> Reference:
    """Put a version out of use: it is no longer shown, and can still be pulled by its number.

    Raises:
        StoreError: no such version, another's model, one in production, or one that is archived already.
    """
    with database.writing() as session:
        model = locked_model(session, reference, actor)
        row = find(session, reference)
        own = Reference(row.name, row.number)
        if row.stage == "archived":
            raise StoreError(f"{own} is archived already; give another version")
        if row.stage == "production":
            raise StoreError(f"{own} is in production; promote another version, roll back, or promote it --to staging first")
        move(session, model.id, row, "archived", actor, "archive")
        show_one(session, model.id)
        return own


def move(session: Session, model_id: int, row: Version, stage: str, actor: str | Caller, action: str) -> None:
    """Change a version's stage within a transaction, and log it with what is in production before and after."""
    current, before = _in_production(session, model_id), row.stage
    if stage == "production" and current is not None:
        current.stage = "archived"
        session.flush()  # first: the database holds one in production at most
    row.stage = stage
    session.flush()
    after = _in_production(session, model_id)
    production = {"production_before": current and current.number, "production_after": after and after.number}
    if current is after:
        production = {}
    log(session, actor, action, model_id, row.number, {"from": before, "to": stage} | production)


def _newest(session, model_id, reference):
    row = session.scalar(select(Version).where(Version.model_id == model_id, Version.stage != "archived").order_by(Version.number.desc()).limit(1))
    if row is None:
        raise StoreError(f"{reference}: all versions are archived; give one by its number")
    return row


def _in_production(session, model_id):
    return session.scalar(select(Version).where(Version.model_id == model_id, Version.stage == "production"))


def _production_before(session, model_id) -> int | None:
    """Return what was in production before the last change that was not undone."""
    changes = []
    for event in session.scalars(select(Event).where(Event.model_id == model_id).order_by(Event.id)):
        if "production_before" not in event.details:
            continue
        if event.action == "rollback":
            changes.pop()
        else:
            changes.append(event.details["production_before"])
    return changes[-1] if changes else None
