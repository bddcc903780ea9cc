"""What may stand in the fields of a catalog. All are checked here before anything is written, whoever asks: a command, a recipe, a hub, a web page.

Values reach the database as bound parameters alone, so SQL in them is text; HTML is refused, since pages show them, and must escape them all the same.
"""
from __future__ import annotations

import re
import reprlib
import unicodedata
from dataclasses import dataclass, fields

from tfgpt.store.errors import StoreError

MOST_LABELS = 32
MOST_CARD_BYTES = 256 * 1024
MOST_REVIEW = 2000
MOST_FIGURE = 2**1000
"""What a database's floating-point numbers hold."""
HEX = re.compile(r"[0-9a-f]{64}")
WORDS = {
    "owner": (re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}"), "1 to 64 letters, digits and . _ @ + -, such as jane or jane@example.org"),
    "task": (re.compile(r"[a-z0-9][a-z0-9_-]{0,63}"), "1 to 64 small letters, digits, _ and -, such as text-generation"),
    "licence": (re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}"), "1 to 64 letters, digits and . + _ -, such as apache-2.0"),
    "languages": (re.compile(r"[a-z]{2,12}(-[A-Za-z0-9]{1,8}){0,3}"), "codes such as en, de or pt-BR"),
    "tags": (re.compile(r"[a-z0-9][a-z0-9._-]{0,49}"), "1 to 50 small letters, digits and . _ - each, such as support or low-rank"),
    "base_model": (re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,199}"), "a store:// reference, a hub id such as gpt2, or random, local, unknown"),
}
MARKUP = re.compile(r"<(?!https?://[^\s<>]+>)[A-Za-z/!?]|&#|\]\(\s*(?!https?://|mailto:|#|[\w./-]+[\s)])", re.IGNORECASE)
"""HTML, a character written as its number, or a link of Markdown that leads to a script."""
CODE = re.compile(r"^(```|~~~)[^\n]*\n.*?^\1[^\n]*$|`[^`\n]+`", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Description:
    """What is said of a version when it is published, and never changed."""

    task: str = "text-generation"
    licence: str = ""
    """By its short name, as on a hub; empty = none is given."""
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    base_model: str = "random"
    """What the training started from."""
    data_sha256: str = ""
    """Of the inputs of the training data; empty = not known."""
    recipe_sha256: str = ""
    """Of the resolved recipe; empty = not known."""
    card: str = ""
    """Markdown with a YAML head."""

    def __post_init__(self):
        for key in ("task", "base_model"):
            check_word(key, getattr(self, key))
        if self.licence != "":
            check_word("licence", self.licence)
        for key in ("languages", "tags"):
            _check_labels(key, getattr(self, key))
        for key in ("data_sha256", "recipe_sha256"):
            value = getattr(self, key)
            if value != "" and not (isinstance(value, str) and HEX.fullmatch(value)):
                raise StoreError(f"{key}: {_shown(value)} is no sha256; give 64 hex digits")
        check_text("card", self.card, MOST_CARD_BYTES)

    def as_dict(self) -> dict:
        """Return its fields, lists as lists."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def check_word(key: str, value: str) -> None:
    """Refuse a value of one of the fields in `WORDS`.

    Raises:
        StoreError: field, value and what is allowed.
    """
    pattern, allowed = WORDS[key]
    if not isinstance(value, str) or not pattern.fullmatch(value) or (key == "base_model" and not _is_plain_path(value)):
        raise StoreError(f"{key}: {_shown(value)} is not allowed; give {allowed}")


def check_review(stars: int, review: str) -> None:
    """Refuse what is no rating.

    Raises:
        StoreError: stars beside 1 to 5; a review with HTML, control characters, or over 2,000 characters.
    """
    if type(stars) is not int or not 1 <= stars <= 5:
        raise StoreError(f"stars: {_shown(stars)} is no rating; give 1 to 5")
    if isinstance(review, str) and len(review) > MOST_REVIEW:
        raise StoreError(f"review: {len(review):,} characters; give {MOST_REVIEW:,} at most")
    check_text("review", review, 4 * MOST_REVIEW)


def check_text(key: str, text: str, most_bytes: int) -> None:
    """Refuse a text that is too long, or that more than Markdown could come of.

    Raises:
        StoreError: HTML outside of code, a link that is no address, a control character; the line is named.
    """
    if not isinstance(text, str):
        raise StoreError(f"{key}: {_shown(text)} is no text")
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > most_bytes:
        raise StoreError(f"{key}: {size:,} bytes are too many; give {most_bytes:,} at most")
    for number, line in enumerate(text.split("\n"), 1):
        if odd := next((letter for letter in line if letter not in "\t\r" and unicodedata.category(letter) in ("Cc", "Cs")), None):
            raise StoreError(f"{key}:{number}: has the character {odd!r}; leave it out")
    bare = CODE.sub(lambda found: "\n" * found[0].count("\n"), text)
    if found := MARKUP.search(bare):
        line = bare.count("\n", 0, found.start()) + 1
        raise StoreError(f"{key}:{line}: {_shown(bare[found.start():found.start() + 20])} is HTML or no plain link; write Markdown, and HTML as `code` alone")


def check_figures(figures: dict) -> None:
    """Refuse figures that are not names with finite numbers.

    Raises:
        StoreError: the first one that is not.
    """
    for name, value in figures.items():
        if not isinstance(name, str) or not 0 < len(name) <= 200 or re.search(r"[<>\x00-\x1f\x7f]", name):
            raise StoreError(f"evaluation.json: {_shown(name)} cannot name a figure; leave < and > and control characters out")
        if type(value) not in (int, float) or not abs(value) < MOST_FIGURE:
            raise StoreError(f"evaluation.json: {name} is {_shown(value)}; figures are finite numbers")


def _check_labels(key, values):
    if not isinstance(values, tuple) or len(values) > MOST_LABELS:
        raise StoreError(f"{key}: {_shown(values)} is no list of up to {MOST_LABELS} of them")
    for value in values:
        check_word(key, value)
    if len(set(values)) != len(values):
        raise StoreError(f"{key}: {_shown(values)} has one twice; give each once")


def _is_plain_path(value):
    return ".." not in value and "//" not in value.removeprefix("store://")


def _shown(value):
    text = reprlib.repr(value) if not isinstance(value, str) else repr(value[:100])
    return text if len(text) <= 60 else text[:57] + "..."
