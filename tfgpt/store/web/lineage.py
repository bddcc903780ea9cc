"""What a version was trained from and what was trained from it, laid out to be drawn."""
from __future__ import annotations

import itertools
from dataclasses import dataclass

from tfgpt.store.catalog import Details
from tfgpt.store.errors import NotFoundError, StoreError
from tfgpt.store.reference import PREFIX, Reference, parse_reference
from tfgpt.store.web.visit import Visit

MOST_BEFORE, MOST_AFTER = 8, 8
"""Versions that are drawn above and below."""
WIDTH, HEIGHT, GAP_X, GAP_Y = 230, 46, 24, 44
"""Of a box, and between boxes, in units of the drawing."""


@dataclass(frozen=True)
class Box:
    """A model, or data and recipe, in the drawing."""

    x: int
    y: int
    title: str
    text: str
    link: str = ""
    is_own: bool = False


@dataclass(frozen=True)
class Lineage:
    """Boxes, and lines between them from what was used to what came of it."""

    boxes: list[Box]
    lines: list[tuple[Box, Box]]
    more: int
    """Versions trained from it that are not drawn."""

    @property
    def width(self) -> int:
        """Of the drawing."""
        return max(box.x for box in self.boxes) + WIDTH

    @property
    def height(self) -> int:
        """Of the drawing."""
        return max(box.y for box in self.boxes) + HEIGHT


def lineage_of(visit: Visit, details: Details) -> Lineage:
    """Return the lineage of a version, as far as the caller may see it."""
    before = _before(visit, details)
    rows = [*reversed(before), (str(details.entry.reference), f"{details.entry.task}, {details.entry.stage}", "")]
    boxes = [Box(0, number * (HEIGHT + GAP_Y), title, text, link, is_own=number == len(rows) - 1) for number, (title, text, link) in enumerate(rows)]
    own = boxes[-1]
    lines = list(itertools.pairwise(boxes))
    sides = [(name, sha256) for name, sha256 in (("data", details.data_sha256), ("recipe", details.recipe_sha256)) if sha256]
    for number, (name, sha256) in enumerate(sides, 1):
        side = Box(number * (WIDTH + GAP_X), own.y - HEIGHT - GAP_Y if len(boxes) > 1 else own.y, name, f"sha256 {sha256[:16]}")
        boxes.append(side)
        lines.append((side, own))
    children = [entry for entry in visit.children(details.entry.name) if entry.base_model in (str(details.entry.reference), PREFIX + details.entry.name)]
    for number, entry in enumerate(children[:MOST_AFTER]):
        x, y = number % 3 * (WIDTH + GAP_X), own.y + (number // 3 + 1) * (HEIGHT + GAP_Y)
        child = Box(x, y, str(entry.reference), f"{entry.task}, {entry.stage}", link_to(entry.reference))
        boxes.append(child)
        lines.append((own, child))
    return Lineage(boxes, lines, max(0, len(children) - MOST_AFTER))


def link_to(reference: Reference) -> str:
    """Return the page of a version."""
    return f"/models/{reference.name}/{reference.version}"


def _before(visit, details):
    """Return title, text and link of what a version was trained from, and what that was trained from, and so on."""
    found, seen, base = [], {str(details.entry.reference)}, details.entry.base_model
    while len(found) < MOST_BEFORE:
        if not base.startswith(PREFIX):
            return [*found, (base, {"random": "weights drawn at random", "local": "a folder of the publisher's", "unknown": "not told"}.get(base, "hub"), "")]
        try:
            entry = visit.details(parse_reference(base)).entry
        except (NotFoundError, StoreError):
            return [*found, (base, "not here, or not for you to see", "")]
        if str(entry.reference) in seen:
            return found
        seen.add(str(entry.reference))
        found.append((str(entry.reference), f"{entry.task}, {entry.stage}", link_to(entry.reference)))
        base = entry.base_model
    return found
