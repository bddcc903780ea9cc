"""What a server is to serve: models, the versions of each, and labels."""
from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class VersionPolicy:
    """Which of the versions under a base path are served."""

    latest: int = 1
    """So many of the highest versions; 0 = all of them."""
    specific: tuple[int, ...] = ()
    """These versions and no others; () = by `latest`."""

    def __post_init__(self):
        if self.latest < 0:
            raise ValueError(f"latest: {self.latest} is no number of versions; give 1 or more, or 0 for all")

    def choose(self, found: Collection[int]) -> set[int]:
        """Return the versions that are to be served, of those that are there."""
        if self.specific:
            return set(self.specific) & set(found)
        return set(sorted(found, reverse=True)[: self.latest or None])

    def wanted(self) -> str:
        """Return words for an error where none of the versions asked for is there; '' where any would do."""
        return f" among {sorted(self.specific)}" if self.specific else ""


@dataclass(frozen=True)
class ServableConfig:
    """A model to be served."""

    name: str
    base_path: Path
    """The folder that holds the numbered versions."""
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)
    """Names for versions, such as stable and canary."""

    def __post_init__(self):
        if not self.name or "/" in self.name or ":" in self.name:
            raise ValueError(f"name: {self.name!r} is no name of a model; give one without / and :")
