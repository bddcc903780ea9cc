"""Users of a store that is reached over a network, and who has signed in. Each change is a line of the log."""
from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from tfgpt.store.access.passwords import hashed, is_outdated, is_right
from tfgpt.store.access.rights import ANONYMOUS, ROLES, Caller
from tfgpt.store.catalog import log
from tfgpt.store.database import Database
from tfgpt.store.errors import ForbiddenError, NotFoundError, StoreError
from tfgpt.store.fields import check_word
from tfgpt.store.schema import ApiKey, Group, Member, SignIn, User, now, stamp

SIGNED_IN_SECONDS = 12 * 3600
"""How long a browser stays signed in."""
TOKEN_BYTES = 32


@dataclass(frozen=True)
class Known:
    """A user, as lists tell of one."""

    name: str
    role: str
    disabled: bool
    created_at: str
    groups: list[str]


def add_user(database: Database, name: str, password: str, role: str, actor: str | Caller) -> None:
    """Make somebody known.

    Args:
        database: the catalog's.
        name: which may own models already: they are then this user's.
        password: of 10 to 256 characters; its hash is kept.
        role: one of `ROLES`.
        actor: who adds.

    Raises:
        StoreError: a name, password or role that is not allowed, or a name that is there.
    """
    check_word("owner", name)
    _check_role(role)
    if name.casefold() == ANONYMOUS:
        raise StoreError(f"name: {name} is what the log calls those who have not signed in; choose another")
    password_hash = hashed(password, name)
    with database.writing() as session:
        if there := session.scalar(select(User.name).where(User.folded == name.casefold())):
            raise StoreError(f"name: there is a user {there} already; choose another name")
        session.add(User(name=name, folded=name.casefold(), password_hash=password_hash, role=role, disabled=False, created_at=now()))
        log(session, actor, "add user", None, None, {"user": name, "role": role})


def change_user(database: Database, name: str, actor: str | Caller, role: str | None = None, disabled: bool | None = None,
                password: str | None = None) -> None:
    """Change a user; what is `None` stays. Who is disabled, or has another password, is signed out everywhere; keys of who is disabled are refused.

    Raises:
        NotFoundError: no such user.
        StoreError: a role or password that is not allowed, or the store would be left without an administrator.
    """
    password_hash = None if password is None else hashed(password, name)
    with database.writing() as session:
        session.scalars(select(User.id).where(User.role == "admin").with_for_update()).all()  # so that no two of them are taken away at once
        user = user_of(session, name)
        was_admin = user.role == "admin" and not user.disabled
        if role is not None:
            _check_role(role)
            user.role = role
            _cut_keys(session, user)
        if disabled is not None:
            user.disabled = disabled
        if password_hash is not None:
            user.password_hash = password_hash
        if disabled or password_hash is not None:
            session.execute(delete(SignIn).where(SignIn.user_id == user.id))
        session.flush()
        if was_admin and session.scalar(select(User.id).where(User.role == "admin", User.disabled.is_(False)).limit(1)) is None:
            raise StoreError(f"role: {name} is the only administrator; make somebody else one first")
        told = {"role": role, "disabled": disabled, "password": None if password is None else "changed"}
        log(session, actor, "change user", None, None, {"user": name} | {key: value for key, value in told.items() if value is not None})


def change_password(database: Database, caller: Caller, old: str, new: str) -> None:
    """Change one's own password; one is signed out everywhere.

    Raises:
        ForbiddenError: the old one is wrong.
        StoreError: the new one is not allowed.
    """
    with database.reading() as session:
        password_hash = user_of(session, caller.name).password_hash
    if not is_right(old, password_hash):
        raise ForbiddenError("password: the old one is wrong; give the one that you sign in with")
    change_user(database, caller.name, caller, password=new)


def users(database: Database) -> list[Known]:
    """Return all users, by name."""
    with database.reading() as session:
        groups: dict[int, list[str]] = {}
        for user, group in session.execute(select(Member.user_id, Group.name).join(Group, Group.id == Member.group_id).order_by(Group.name)):
            groups.setdefault(user, []).append(group)
        rows = session.scalars(select(User).order_by(User.name))
        return [Known(user.name, user.role, user.disabled, user.created_at, groups.get(user.id, [])) for user in rows]


def user_of(session: Session, name: str) -> User:
    """Return a user's row.

    Raises:
        NotFoundError: there is none.
    """
    user = session.scalar(select(User).where(User.name == name))
    if user is None:
        raise NotFoundError(f"user: there is no {name!r}; tfgpt store user list shows those that there are")
    return user


def sign_in(database: Database, name: str, password: str, origin: dict[str, str]) -> str:
    """Return a new token for a browser of somebody who has given the right password. A failure is logged too.

    Raises:
        ForbiddenError: a wrong name or password, in the same words, after the same time.
    """
    with database.reading() as session:
        user = session.scalar(select(User).where(User.name == name))
        password_hash = None if user is None else user.password_hash
    is_known = is_right(password, password_hash) and not user.disabled
    token, at = secrets.token_urlsafe(TOKEN_BYTES), time.time()
    with database.writing() as session:
        session.execute(delete(SignIn).where(SignIn.expires_at < stamp(at)))
        user = session.get(User, user.id, with_for_update=True) if is_known else None
        if user is not None and user.password_hash == password_hash and not user.disabled:  # and not changed meanwhile
            if is_outdated(password_hash):
                user.password_hash = hashed(password, name)
            session.add(SignIn(sha256=digest_of(token), user_id=user.id, expires_at=stamp(at + SIGNED_IN_SECONDS)))
            log(session, Caller(name, origin=origin), "sign in", None, None, {})
            return token
        log(session, Caller(origin=origin), "sign-in refused", None, None, {"user": name[:64]})
    raise ForbiddenError("name, password: are not those of a user here; try again, or ask an administrator")


def sign_out(database: Database, token: str) -> None:
    """End what a token stands for."""
    with database.writing() as session:
        session.execute(delete(SignIn).where(SignIn.sha256 == digest_of(token)))


def signed_in(database: Database, token: str, origin: dict[str, str]) -> Caller | None:
    """Return who has signed in with a token; `None` = nobody, or no longer."""
    with database.reading() as session:
        user = session.scalar(select(User).join(SignIn, SignIn.user_id == User.id)
                              .where(SignIn.sha256 == digest_of(token), SignIn.expires_at > now(), User.disabled.is_(False)))  # fmt: skip
        return None if user is None else Caller(user.name, frozenset(ROLES[user.role]), origin)


def digest_of(secret: str) -> str:
    """Return what is kept of a token or key, which has enough chance in it to need no slow hash."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _cut_keys(session, user):
    """Take from somebody's keys what the role no longer has."""
    for key in session.scalars(select(ApiKey).where(ApiKey.user_id == user.id)):
        kept = [scope for scope in key.scopes if scope in ROLES[user.role]]
        if kept != key.scopes:
            session.execute(update(ApiKey).where(ApiKey.id == key.id).values(scopes=kept))


def _check_role(role):
    if role not in ROLES:
        raise StoreError(f"role: {role!r} is none of {', '.join(ROLES)}")
