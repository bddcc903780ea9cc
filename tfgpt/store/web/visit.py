"""A store as one caller may use it. Pages and API go through this alone, so that no right is checked in one of them and forgotten in the other."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy import select

from tfgpt.store import catalog, lifecycle, ratings
from tfgpt.store.access import audit, groups, keys, users
from tfgpt.store.access.rights import Caller, check_may_change
from tfgpt.store.catalog import Details, Entry, Published, StoredFile
from tfgpt.store.errors import ForbiddenError, NotFoundError
from tfgpt.store.packages import newest_export
from tfgpt.store.reference import Reference
from tfgpt.store.schema import Model
from tfgpt.store.search import Facets, Query, facets_of, search
from tfgpt.store.store import Store

TOLD = ("from", "to", "stars", "content_sha256", "production_before", "production_after")
"""Of a line of the log, for everybody who sees the model."""


class Visit:
    """What a caller does in a store. Every method first asks for the scope that it needs.

    Args:
        store: which is visited.
        caller: who does.

    Raises:
        ForbiddenError: by every method: a scope is missing, or the model is another's.
        NotFoundError: by every method that is given a model: there is none, or none that the caller may see.
        StoreError: by every method: something that is not allowed.
    """

    def __init__(self, store: Store, caller: Caller):
        self.store, self.caller, self._database = store, caller, store.database

    def search(self, query: Query) -> list[Entry]:
        """Return what a query finds."""
        self.caller.require("read")
        return search(self._database, query, self.caller)

    def facets(self) -> Facets:
        """Return by what one can filter."""
        self.caller.require("read")
        return facets_of(self._database, self.caller)

    def details(self, reference: Reference) -> Details:
        """Return all that is known of a version. Addresses, keys and groups in its log are for administrators."""
        self.caller.require("read")
        details = catalog.details_of(self._database, reference, self.caller)
        if not self.caller.sees_all:
            for event in details.events:
                event["details"] = {key: value for key, value in event["details"].items() if key in TOLD}
        return details

    def versions(self, name: str) -> list[Entry]:
        """Return a model's versions, the newest first."""
        self.caller.require("read")
        return catalog.versions_of(self._database, name, self.caller)

    def children(self, name: str) -> list[Entry]:
        """Return versions that were trained from any version of a model, the newest first, at most 100."""
        self.caller.require("read")
        return catalog.trained_from(self._database, name, self.caller)

    def resolve(self, reference: Reference) -> Reference:
        """Return the version by its number, of a model that the caller may have write."""
        self.caller.require("try")
        return catalog.resolve(self._database, reference, self.caller)

    def may_change(self, name: str) -> bool:
        """Return whether the caller may publish, move and share a model."""
        if "publish" not in self.caller.scopes:
            return False
        with self._database.reading() as session:
            model = session.scalar(select(Model).where(Model.name == name))
            try:
                check_may_change(session, model, self.caller)
            except ForbiddenError:
                return False
        return True

    def file(self, reference: Reference, path: str) -> tuple[StoredFile, bool]:
        """Return a file of a version, and whether it stands for all of them in the count of downloads: the first of the weights, or else of all."""
        files = self.details(reference).files
        weights = [file.path for file in files if file.path.endswith(".safetensors")] or [file.path for file in files]
        found = next((file for file in files if file.path == path), None)
        if found is None:
            raise NotFoundError(f"path: {reference} has no file {path[:200]!r}; its files are in its description")
        return found, path == weights[0]

    def content(self, file: StoredFile) -> Iterator[bytes]:
        """Yield the bytes of a file; what is not as it was published is not given to its end.

        Raises:
            DamagedError: bytes that are not those that were published.
        """
        for sha256 in file.pieces:
            yield from self.store.artifacts.chunks(sha256)

    def count_download(self, reference: Reference) -> None:
        """Count that a version has been fetched."""
        catalog.count_download(self._database, reference)

    def publish(self, folder: Path, name: str, said: dict, card: str | None = None, version: int | None = None, stage: str = "draft",
                private: bool = False) -> Published:
        """Publish what a folder holds, its newest export too."""
        self.caller.require("publish")
        return self.store.publish(folder, name, self.caller, said, newest_export(folder), card, version, stage, private)

    def promote(self, reference: Reference, stage: str = "production") -> Reference:
        """Put a version into a stage."""
        self.caller.require("publish")
        return lifecycle.promote(self._database, reference, self.caller, stage)

    def roll_back(self, name: str) -> tuple[Reference, int | None]:
        """Put back into production what was there before."""
        self.caller.require("publish")
        return lifecycle.roll_back(self._database, name, self.caller)

    def archive(self, reference: Reference) -> Reference:
        """Put a version out of use."""
        self.caller.require("publish")
        return lifecycle.archive(self._database, reference, self.caller)

    def rate(self, reference: Reference, stars: int, review: str) -> Reference:
        """Rate a model."""
        self.caller.require("rate")
        return ratings.rate(self._database, reference, self.caller, stars, review)

    def access(self, name: str) -> groups.Access:
        """Return who sees a model that is the caller's."""
        self.caller.require("publish")
        return groups.access_of(self._database, name, self.caller)

    def set_access(self, name: str, private: bool | None, grants: dict[str, str] | None) -> groups.Access:
        """Make a model private or public, and grant it to groups."""
        self.caller.require("publish")
        return groups.set_access(self._database, name, self.caller, private, grants)

    def api_keys(self) -> list[keys.KeyInfo]:
        """Return the caller's keys."""
        self._require_signed_in()
        return keys.keys_of(self._database, self.caller.name)

    def make_key(self, name: str, scopes: Sequence[str], days: int) -> str:
        """Return a new key of the caller."""
        self._require_signed_in()
        return keys.make_key(self._database, self.caller.name, name, tuple(scopes), days, self.caller)

    def revoke_key(self, number: int) -> None:
        """Have a key of the caller refused from now on."""
        self._require_signed_in()
        keys.revoke_key(self._database, self.caller.name, number, self.caller)

    def change_password(self, old: str, new: str) -> None:
        """Change the caller's password."""
        self._require_signed_in()
        users.change_password(self._database, self.caller, old, new)

    def users(self) -> list[users.Known]:
        """Return all users."""
        self.caller.require("admin")
        return users.users(self._database)

    def add_user(self, name: str, password: str, role: str) -> None:
        """Make somebody known."""
        self.caller.require("admin")
        users.add_user(self._database, name, password, role, self.caller)

    def change_user(self, name: str, role: str | None = None, disabled: bool | None = None, password: str | None = None) -> None:
        """Change a user; what is `None` stays."""
        self.caller.require("admin")
        users.change_user(self._database, name, self.caller, role, disabled, password)

    def groups(self) -> dict[str, list[str]]:
        """Return the members of each group."""
        self.caller.require("admin")
        return groups.groups(self._database)

    def add_group(self, name: str) -> None:
        """Make a group."""
        self.caller.require("admin")
        groups.add_group(self._database, name, self.caller)

    def remove_group(self, name: str) -> None:
        """Remove a group."""
        self.caller.require("admin")
        groups.remove_group(self._database, name, self.caller)

    def set_member(self, group: str, user: str, belongs: bool) -> None:
        """Put a user into a group, or out of it."""
        self.caller.require("admin")
        groups.set_member(self._database, group, user, belongs, self.caller)

    def audit(self, actor: str = "", action: str = "", model: str = "", before: int = 0, limit: int = 100) -> list[audit.Line]:
        """Return lines of the log, the newest first."""
        self.caller.require("admin")
        return audit.audit(self._database, actor, action, model, before, limit)

    def _require_signed_in(self):
        """Refuse a key: one that has leaked is to be of no use beyond its scopes and its time."""
        if not self.caller.name or "by_key" in self.caller.origin:
            raise ForbiddenError("account: is for who has signed in, and not for keys; sign in, or use tfgpt store key")
