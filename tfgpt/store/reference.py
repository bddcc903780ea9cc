"""How a published model is named: `store://NAME`, `store://NAME:VERSION`, `store://NAME@STAGE`.

A name is one word of one namespace, without an owner in it: whoever publishes a name first owns it (see `tfgpt.store.catalog`), and a server, a folder of
TensorFlow Serving and a command can all bear the same short name. Needs nothing of the package but the errors.
"""
from __future__ import annotations

import re
from dataclasses import dataclass

from tfgpt.store.errors import StoreError

PREFIX = "store://"
STAGES = ("draft", "staging", "production", "archived")
"""Where a version is on its way; one at most of a model is in production."""
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
MOST_VERSION = 2**31 - 1


@dataclass(frozen=True)
class Reference:
    """A published model: one version of it, the one in a stage, or neither.

    Without a version and a stage it is the version that a search shows: the one in production, or the newest that is not archived if there is none.
    """

    name: str
    version: int | None = None
    stage: str | None = None

    def __post_init__(self):
        check_name(self.name)
        if self.version is not None and not 1 <= self.version <= MOST_VERSION:
            raise StoreError(f"version: {self.version} of {self.name} is no version; they are whole numbers from 1 on")
        if self.stage is not None and self.stage not in STAGES:
            raise StoreError(f"stage: {self.stage!r} of {self.name} is none of {', '.join(STAGES)}")

    def __str__(self) -> str:
        return PREFIX + self.name + (f":{self.version}" if self.version is not None else f"@{self.stage}" if self.stage is not None else "")


def is_reference(text: str) -> bool:
    """Tell whether a text names a published model, and not a folder or a hub id."""
    return text.startswith(PREFIX)


def check_name(name: str) -> None:
    """Refuse what cannot name a model.

    Raises:
        StoreError: anything but small letters, digits and . _ - behind a letter or digit, 96 characters at most.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise StoreError(f"name: {name!r} cannot name a model; use 1 to 96 small letters, digits, '.', '_' and '-', the first a letter or digit")


def parse_reference(text: str) -> Reference:
    """Return what a text refers to; `store://` in front may be left out.

    Raises:
        StoreError: anything else than NAME, NAME:VERSION or NAME@STAGE.

    >>> parse_reference("store://tickets@production")
    Reference(name='tickets', version=None, stage='production')
    >>> str(parse_reference("tickets:3"))
    'store://tickets:3'
    """
    rest = text.removeprefix(PREFIX)
    name, at, stage = rest.partition("@")
    name, colon, version = (name, "", "") if at else rest.partition(":")
    if colon and not re.fullmatch(r"[1-9][0-9]{0,9}", version):
        raise StoreError(f"{text}: {version!r} is no version; they are whole numbers from 1 on, such as store://NAME:3")
    return Reference(name, int(version) if colon else None, stage if at else None)
