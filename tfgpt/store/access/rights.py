"""Who may see and change what.

A role gives scopes, and a key has some of those of its user. Whoever has the database itself, as the commands have, is who they say they are and sees all.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, and_, exists, not_, or_, select
from sqlalchemy.orm import Session

from tfgpt.store.errors import ForbiddenError, StoreError
from tfgpt.store.schema import Grant, Member, Model, User

SCOPES = {
    "read": "find, look at and download models",
    "try": "have a model write in the store's own process",
    "rate": "rate models",
    "publish": "publish models, and promote, roll back, archive and share one's own",
    "metrics": "read the store's metrics",
    "admin": "see and change every model, users and groups, and read the audit log",
}
ROLES = {"reader": ("read", "try", "rate"), "publisher": ("read", "try", "rate", "publish"), "admin": tuple(SCOPES)}
RIGHTS = {"read": "see it", "publish": "see it, publish versions of it and move them through the stages"}
"""What a group may do with a model that it is granted."""
ANONYMOUS = "anonymous"
"""What the log calls somebody who has not signed in; nobody may bear the name."""


@dataclass(frozen=True)
class Caller:
    """Somebody who asks a store over the network."""

    name: str = ""
    """Empty = has not signed in."""
    scopes: frozenset[str] = frozenset()
    origin: Mapping[str, str] = field(default_factory=dict)
    """What the log says of where a change came from, such as `address` and `key`."""

    def require(self, scope: str) -> None:
        """Refuse what the caller has no right to.

        Raises:
            ForbiddenError: which scope is missing.
        """
        if scope not in self.scopes:
            who = self.name or "who has not signed in"
            remedy = "use a key that has it, or ask an administrator" if "by_key" in self.origin else "ask an administrator"
            raise ForbiddenError(f"scope: {who} may not {SCOPES[scope]} ({scope}); {remedy if self.name else 'sign in, or send a key'}")

    @property
    def sees_all(self) -> bool:
        """Whether private models of others are shown and may be changed."""
        return "admin" in self.scopes


def name_of(actor: str | Caller) -> str:
    """Return how the log calls somebody."""
    return actor.name or ANONYMOUS if isinstance(actor, Caller) else actor


def visible_to(reader: Caller | None) -> ColumnElement[bool]:
    """Return the condition on `Model` under which a reader may see it; `None` = whoever has the database itself, who sees all."""
    if reader is None or reader.sees_all:
        return Model.id.is_not(None)
    if not reader.name:
        return not_(Model.private)
    return or_(not_(Model.private), Model.owner == reader.name, _granted(reader.name, tuple(RIGHTS)))


def check_may_change(session: Session, model: Model, actor: str | Caller) -> None:
    """Refuse a change of a model by anyone but its owner, its groups and administrators.

    Raises:
        ForbiddenError: whose it is.
    """
    name = name_of(actor)
    if model.owner == name or (isinstance(actor, Caller) and actor.sees_all):
        return
    if session.scalar(select(Model.id).where(Model.id == model.id, _granted(name, ("publish",)))) is not None:
        return
    raise ForbiddenError(f"name: {model.name} belongs to {model.owner}, and {name} is not its owner; choose another name, or ask {model.owner}")


def check_scopes(scopes: tuple[str, ...], role: str) -> None:
    """Refuse scopes that a role does not have.

    Raises:
        StoreError: the first of them, or none at all.
    """
    if not scopes:
        raise StoreError(f"scopes: none is given; give some of {', '.join(ROLES[role])}")
    if wrong := [scope for scope in scopes if scope not in ROLES[role]]:
        raise StoreError(f"scopes: {wrong[0]!r} is not of the role {role}, which has {', '.join(ROLES[role])}")


def _granted(name, rights):
    """Return the condition under which one of somebody's groups is granted a model."""
    belongs = and_(Grant.model_id == Model.id, Grant.right.in_(rights), Member.group_id == Grant.group_id, Member.user_id == User.id,
                   User.name == name, not_(User.disabled))  # fmt: skip
    return exists().where(belongs)
