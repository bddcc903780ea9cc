"""Groups of users, and which models are private and for whom."""
from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from tfgpt.store.access.rights import RIGHTS, Caller, name_of
from tfgpt.store.access.users import user_of
from tfgpt.store.catalog import locked_model, log
from tfgpt.store.database import Database
from tfgpt.store.errors import ForbiddenError, NotFoundError, StoreError
from tfgpt.store.fields import check_word
from tfgpt.store.reference import Reference
from tfgpt.store.schema import Grant, Group, Member, Model, User


@dataclass(frozen=True)
class Access:
    """Who sees a model."""

    private: bool
    grants: dict[str, str]
    """By the name of a group, what it may do: one of `RIGHTS`."""


def add_group(database: Database, name: str, actor: str | Caller) -> None:
    """Make a group without members.

    Raises:
        StoreError: a name that is not allowed, or is there.
    """
    check_word("owner", name)
    with database.writing() as session:
        if session.scalar(select(Group.id).where(Group.name == name)) is not None:
            raise StoreError(f"group: there is a group {name} already; choose another name")
        session.add(Group(name=name))
        log(session, actor, "add group", None, None, {"group": name})


def remove_group(database: Database, name: str, actor: str | Caller) -> None:
    """Remove a group; its models are no longer granted to it.

    Raises:
        NotFoundError: no such group.
    """
    with database.writing() as session:
        group = group_of(session, name)
        for table in (Member, Grant):
            session.execute(delete(table).where(table.group_id == group.id))
        session.delete(group)
        log(session, actor, "remove group", None, None, {"group": name})


def set_member(database: Database, group: str, user: str, belongs: bool, actor: str | Caller) -> None:
    """Put a user into a group, or out of it.

    Raises:
        NotFoundError: no such group or user.
    """
    with database.writing() as session:
        key = group_of(session, group).id, user_of(session, user).id
        member = session.get(Member, key)
        if belongs == (member is not None):
            return
        if belongs:
            session.add(Member(group_id=key[0], user_id=key[1]))
        else:
            session.delete(member)
        log(session, actor, "join group" if belongs else "leave group", None, None, {"group": group, "user": user})


def groups(database: Database) -> dict[str, list[str]]:
    """Return the members of each group, all by name."""
    with database.reading() as session:
        found: dict[str, list[str]] = {name: [] for name in session.scalars(select(Group.name).order_by(Group.name))}
        rows = session.execute(select(Group.name, User.name).join(Member, Member.group_id == Group.id).join(User, User.id == Member.user_id)
                               .order_by(User.name))  # fmt: skip
        for group, user in rows:
            found[group].append(user)
        return found


def group_of(session: Session, name: str) -> Group:
    """Return a group's row.

    Raises:
        NotFoundError: there is none.
    """
    group = session.scalar(select(Group).where(Group.name == name))
    if group is None:
        raise NotFoundError(f"group: there is no {name!r}; tfgpt store group list shows those that there are")
    return group


def access_of(database: Database, name: str, actor: str | Caller) -> Access:
    """Return who sees a model, for its owner and administrators.

    Raises:
        NotFoundError, ForbiddenError: as `locked_model`.
    """
    with database.writing() as session:
        return _access(session, _owned(session, name, actor))


def set_access(database: Database, name: str, actor: str | Caller, private: bool | None = None, grants: dict[str, str] | None = None) -> Access:
    """Make a model private or public, and grant it to groups; what is `None` stays.

    Args:
        database: the catalog's.
        name: of the model.
        actor: its owner, or an administrator.
        private: whether it is.
        grants: by the name of a group one of `RIGHTS`, or "" to take it back; other groups keep what they have.

    Raises:
        NotFoundError: no such model or group.
        ForbiddenError: another's model.
        StoreError: no such right.
    """
    with database.writing() as session:
        model = _owned(session, name, actor)
        if private is not None:
            model.private = private
        for group, right in (grants or {}).items():
            if right not in ("", *RIGHTS):
                raise StoreError(f"right: {right!r} is none of {', '.join(RIGHTS)}")
            _grant(session, model.id, group_of(session, group).id, right)
        session.flush()
        access = _access(session, model)
        log(session, actor, "change access", model.id, None, {"private": access.private, "grants": access.grants})
        return access


def _owned(session, name, actor):
    """Return a model of the actor's own, locked: a group that may publish versions of it does not decide who sees it."""
    model = locked_model(session, Reference(name), actor)
    if model.owner != name_of(actor) and not (isinstance(actor, Caller) and actor.sees_all):
        raise ForbiddenError(f"name: {name} belongs to {model.owner}, who alone decides who sees it; ask {model.owner}")
    return model


def _grant(session, model_id, group_id, right):
    grant = session.get(Grant, (model_id, group_id))
    if not right:
        if grant is not None:
            session.delete(grant)
    elif grant is None:
        session.add(Grant(model_id=model_id, group_id=group_id, right=right))
    else:
        grant.right = right


def _access(session: Session, model: Model) -> Access:
    rows = session.execute(select(Group.name, Grant.right).join(Grant, Grant.group_id == Group.id).where(Grant.model_id == model.id).order_by(Group.name))
    return Access(model.private, dict(rows.tuples().all()))
