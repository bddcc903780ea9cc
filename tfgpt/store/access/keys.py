"""API keys: what programs ask a store with. Only their hashes are kept."""
from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from sqlalchemy import select, update

from tfgpt.store.access.rights import ROLES, SCOPES, Caller, check_scopes
from tfgpt.store.access.users import TOKEN_BYTES, digest_of, user_of
from tfgpt.store.catalog import log
from tfgpt.store.database import Database
from tfgpt.store.errors import NotFoundError, StoreError
from tfgpt.store.schema import ApiKey, User, now, stamp

PREFIX = "tfgpt_"
"""Of every key, by which scanners find one that was put where it should not be."""
MOST_DAYS = 366
MOST_KEYS = 50
DAY_SECONDS = 86_400
USED_SECONDS = 60
"""How exactly it is known when a key was last used: not every request is to write."""


@dataclass(frozen=True)
class KeyInfo:
    """A key, as lists tell of one."""

    id: int
    name: str
    scopes: list[str]
    created_at: str
    expires_at: str
    used_at: str | None
    state: str
    """`valid`, `expired` or `revoked`."""


def make_key(database: Database, owner: str, name: str, scopes: tuple[str, ...], days: int, actor: str | Caller) -> str:
    """Return a new key, which is shown this once.

    Args:
        database: the catalog's.
        owner: the user that it acts for.
        name: what it is for, 1 to 64 characters.
        scopes: some of those of the user's role.
        days: after which it is refused, 1 to 366.
        actor: who makes it; somebody's key gives at most what the one that it is made with has.

    Raises:
        NotFoundError: no such user.
        StoreError: anything that is not allowed.
    """
    if not (isinstance(name, str) and 0 < len(name.strip()) <= 64 and name.isprintable()):
        raise StoreError(f"name: {str(name)[:70]!r} does not name a key; give 1 to 64 printable characters")
    if type(days) is not int or not 1 <= days <= MOST_DAYS:
        raise StoreError(f"days: {days!r}; a key lasts for 1 to {MOST_DAYS}")
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise StoreError(f"scopes: {str(unknown[0])[:40]!r} is none of {', '.join(SCOPES)}")
    if isinstance(actor, Caller):
        for scope in scopes:
            actor.require(scope)
    key, at = PREFIX + secrets.token_urlsafe(TOKEN_BYTES), time.time()
    with database.writing() as session:
        user = user_of(session, owner)
        check_scopes(scopes, user.role)
        rows = session.scalars(select(ApiKey).where(ApiKey.user_id == user.id, ApiKey.revoked_at.is_(None), ApiKey.expires_at > stamp(at))).all()
        if any(row.name == name for row in rows) or len(rows) >= MOST_KEYS:
            raise StoreError(f"name: {owner} has a key {name!r} already, or {MOST_KEYS} of them; revoke one first")
        session.add(ApiKey(user_id=user.id, name=name, sha256=digest_of(key), scopes=sorted(set(scopes)), created_at=stamp(at),
                           expires_at=stamp(at + days * DAY_SECONDS)))  # fmt: skip
        log(session, actor, "make key", None, None, {"user": owner, "key": name, "scopes": sorted(set(scopes)), "days": days})
    return key


def keys_of(database: Database, owner: str) -> list[KeyInfo]:
    """Return somebody's keys, the newest first."""
    with database.reading() as session:
        rows = session.scalars(select(ApiKey).where(ApiKey.user_id == user_of(session, owner).id).order_by(ApiKey.id.desc()))
        return [KeyInfo(row.id, row.name, row.scopes, row.created_at, row.expires_at, row.used_at, _state(row)) for row in rows]


def revoke_key(database: Database, owner: str, number: int, actor: str | Caller) -> None:
    """Have a key refused from now on.

    Raises:
        NotFoundError: the user has no such key.
    """
    with database.writing() as session:
        key = session.get(ApiKey, number)
        if key is None or key.user_id != user_of(session, owner).id:
            raise NotFoundError(f"key: {owner} has no key {number}; look at the list of keys")
        if key.revoked_at is None:
            key.revoked_at = now()
            log(session, actor, "revoke key", None, None, {"user": owner, "key": key.name})


def caller_of(database: Database, key: str, origin: dict[str, str]) -> Caller | None:
    """Return whom a key acts for, with the scopes that both the key and its user's role have; `None` = it is not known, expired or revoked."""
    with database.reading() as session:
        found = session.execute(select(ApiKey, User).join(User, User.id == ApiKey.user_id)
                                .where(ApiKey.sha256 == digest_of(key), User.disabled.is_(False))).one_or_none()  # fmt: skip
        if found is None or _state(found[0]) != "valid":
            return None
        row, user = found
        number, name, used, caller = row.id, row.name, row.used_at, (user.name, frozenset(row.scopes) & frozenset(ROLES[user.role]))
    if used is None or used < stamp(time.time() - USED_SECONDS):
        with database.writing() as session:
            session.execute(update(ApiKey).where(ApiKey.id == number).values(used_at=now()))
    return Caller(*caller, origin | {"by_key": name})


def _state(row):
    return "revoked" if row.revoked_at is not None else "expired" if row.expires_at <= now() else "valid"
