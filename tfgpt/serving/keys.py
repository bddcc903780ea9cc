"""API keys: who may ask a server for what, and how often. Needs no TensorFlow.

The file holds sha256 of keys and no keys. A slow hash, as for passwords, would gain nothing: a key is 32 random bytes, which nobody can try out.
"""
from __future__ import annotations

import hashlib
import hmac
import logging
import math
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from tfgpt.files import write_text
from tfgpt.serving.errors import PermissionDeniedError, ResourceExhaustedError, UnauthenticatedError

LOG = logging.getLogger(__name__)
SCOPES = {
    "predict": "inference over TensorFlow Serving's REST and gRPC, metadata",
    "openai": "completions and chats",
    "status": "status, metadata, metrics, the list of models",
    "admin": "reload",
}
NEW_SCOPES = ("predict", "openai", "status")
KEY_BYTES = 32
LOOK_SECONDS = 1.0
"""Between two looks at a file of keys."""
MINUTE_SECONDS = 60.0
FIELDS = ("name", "sha256", "scopes", "models", "requests_per_minute")


@dataclass(frozen=True)
class KeyEntry:
    """A key, as the file has it."""

    name: str
    """Of whoever holds it, for the log."""
    sha256: str
    """Of the key, 64 hex digits."""
    scopes: frozenset[str]
    """Some of `SCOPES`."""
    models: frozenset[str] = frozenset()
    """Models that it is good for; empty = all."""
    requests_per_minute: int = 0
    """So many in any 60 seconds; 0 = any number."""


class Caller:
    """Whoever made a request with a key that is known."""

    def __init__(self, entry: KeyEntry, clock: Callable[[], float]):
        self.entry, self._clock = entry, clock
        self._times: deque[float] = deque()
        self._lock = threading.Lock()

    def count(self) -> None:
        """Count a request.

        Raises:
            ResourceExhaustedError: too many in the last minute; it says when there is room again.
        """
        most = self.entry.requests_per_minute
        if not most:
            return
        with self._lock:
            now = self._clock()
            while self._times and self._times[0] <= now - MINUTE_SECONDS:
                self._times.popleft()
            if len(self._times) >= most:
                seconds = max(1, math.ceil(self._times[0] + MINUTE_SECONDS - now))
                raise ResourceExhaustedError(f"More than {most} requests in a minute with the key of {self.entry.name}; ask again in {seconds} s", seconds)
            self._times.append(now)

    def check_scope(self, *scopes: str) -> None:
        """Raise `PermissionDeniedError` unless the key is good for one of these scopes."""
        if not self.entry.scopes.intersection(scopes):
            good_for, wanted = ", ".join(sorted(self.entry.scopes)), " or ".join(f"{scope} ({SCOPES[scope]})" for scope in scopes)
            raise PermissionDeniedError(f"The key of {self.entry.name} is not good for {wanted}, but for {good_for}")

    def knows(self, model: str) -> bool:
        """Return whether the key is good for a model."""
        return not self.entry.models or model in self.entry.models

    def check_model(self, model: str) -> None:
        """Raise `PermissionDeniedError` unless the key is good for a model."""
        if not self.knows(model):
            raise PermissionDeniedError(f"The key of {self.entry.name} is not good for the model {model[:100]}")

    def check_all_models(self) -> None:
        """Raise `PermissionDeniedError` unless the key is good for all models, for what tells of all of them or changes them."""
        if self.entry.models:
            raise PermissionDeniedError(f"The key of {self.entry.name} is good for some models alone, and this is about all")


class Keys:
    """The keys of a server. Thread-safe.

    Args:
        entries: as `read_keys` gives them.
        clock: seconds that never go back.
    """

    def __init__(self, entries: list[KeyEntry], clock: Callable[[], float] = time.monotonic):
        self._clock, self._lock, self._path = clock, threading.Lock(), None
        self._callers: list[tuple[bytes, Caller]] = []
        self._adopt(entries)

    @classmethod
    def of_file(cls, path: Path, clock: Callable[[], float] = time.monotonic) -> Keys:
        """Return the keys of a file, which is read again by the first request that comes `LOOK_SECONDS` after the last look and finds it changed.

        A file that is gone then, or not understood, is logged once, and the keys stay those that they were.

        Raises:
            FileNotFoundError, ValueError: as `read_keys`.
        """
        look = _look_of(path)  # before it is read: a change in between is seen later
        keys = cls(read_keys(path), clock)
        keys._path, keys._look, keys._looked = path, look, clock()
        return keys

    def caller(self, authorization: str | None) -> Caller:
        """Return who asks, and count it.

        Args:
            authorization: the header or metadata of that name: Bearer KEY; `None` = there was none.

        Raises:
            UnauthenticatedError: no key, or none that is known.
            ResourceExhaustedError: too many requests.
        """
        kind, _, key = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not key.strip():
            raise UnauthenticatedError("This server asks for a key; send the header Authorization: Bearer KEY")
        self._refresh()
        digest, found = hashlib.sha256(key.strip().encode("utf-8", "replace")).digest(), None
        for known, caller in self._callers:  # all of them, each in the same time wherever it differs: the time of an answer tells nothing
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            raise UnauthenticatedError("The key is not known here")
        found.count()
        return found

    def _adopt(self, entries):
        """Know these keys and no others; one that is as it was keeps the count of its requests."""
        known = {caller.entry: caller for _, caller in self._callers}
        self._callers = [(bytes.fromhex(entry.sha256), known.get(entry) or Caller(entry, self._clock)) for entry in entries]

    def _refresh(self):
        """Read the file again if it has changed."""
        with self._lock:
            now = self._clock()
            if self._path is None or now < self._looked + LOOK_SECONDS:
                return
            self._looked, before, self._look = now, self._look, _look_of(self._path)
            if self._look == before:
                return
            try:
                self._adopt(read_keys(self._path))
            except (OSError, ValueError) as error:
                LOG.error("%s has changed, but the keys stay those that they were: %s", self._path, error)
            else:
                LOG.info("%s has changed and is in force", self._path)


def _look_of(path):
    """Return what tells that a file is another one than before; `None` if there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def read_keys(path: Path) -> list[KeyEntry]:
    """Return the keys of a file: YAML, a list of `name`, `sha256`, `scopes`, and if wanted `models` and `requests_per_minute`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: anything in it that is not understood.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; tfgpt serve --new-api-key NAME --api-keys {path} makes one")
    return _parsed(path.read_text("utf-8"), path)


def add_key(path: Path, name: str) -> str:
    """Append a new key for predict, openai and status to a file, which is made if there is none, and return the key, which is written nowhere.

    Raises:
        ValueError: the name stands there already, or the file is not understood.
    """
    before = path.read_text("utf-8") if path.is_file() else ""
    names = {entry.name for entry in _parsed(before, path)} if before.strip() else set()
    if name in names:
        raise ValueError(f"{path}: there is a key of {name} already; choose another name, or remove that one")
    key = secrets.token_urlsafe(KEY_BYTES)
    entry = {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": list(NEW_SCOPES)}
    text = before + ("\n" if before and not before.endswith("\n") else "") + yaml.safe_dump([entry], sort_keys=False, allow_unicode=True)
    if {entry.name for entry in _parsed(text, path)} != names | {name}:
        raise ValueError(f"{path}: no key can be appended to it; write it as a list of entries that begin with a dash")
    write_text(path, text)
    return key


def _parsed(text, path):
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path}: is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, list) or not content:
        raise ValueError(f"{path}: is no list of keys; give entries with {', '.join(FIELDS)}")
    entries = [_entry(item, f"{path}: [{number}]") for number, item in enumerate(content)]
    for field in ("name", "sha256"):
        values = [getattr(entry, field) for entry in entries]
        if double := next((value for value in values if values.count(value) > 1), None):
            raise ValueError(f"{path}: the {field} {double} stands twice; each key has its own")
    return entries


def _entry(item, where):
    if not isinstance(item, dict) or (unknown := [key for key in item if key not in FIELDS]):
        raise ValueError(f"{where}: {unknown[0] if isinstance(item, dict) else item!r} is none of {', '.join(FIELDS)}; remove it")
    name, digest = item.get("name"), item.get("sha256")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{where}.name: {name!r} is no name; give a text")
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"{where}.sha256: {digest!r} is no sha256; give 64 hex digits in quotes, as --new-api-key writes them")
    scopes = _names(item, "scopes", where)
    if not scopes or (wrong := sorted(scopes - SCOPES.keys())):
        raise ValueError(f"{where}.scopes: {wrong[0] if scopes else 'nothing'} is no scope; give some of {', '.join(SCOPES)}")
    models = _names(item, "models", where) if "models" in item else frozenset()
    if "models" in item and not models:
        raise ValueError(f"{where}.models: an empty list; give names of models, or leave it out for all")
    most = item.get("requests_per_minute", 0)
    if type(most) is not int or most < ("requests_per_minute" in item):
        raise ValueError(f"{where}.requests_per_minute: {most!r} is no number of requests; give 1 or more, or leave it out for any number")
    return KeyEntry(name, digest, scopes, models, most)


def _names(item, key, where):
    names = item.get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}.{key}: {names!r} is no list of names; write [NAME, NAME]")
    return frozenset(names)
