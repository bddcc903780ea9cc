"""The account of what becomes of every record of a corpus, and how bad input is met: refused with its place, or skipped and counted."""
from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from tfgpt.recipe import DataConfig, RecipeError

UNDECODABLE = re.compile("[\ud800-\udfff]")
"""What `surrogateescape` makes of a byte that is not in the encoding; no text holds a surrogate."""

PLACES_KEPT = 20
"""Skipped records whose places stand in stats.json; all are counted."""


@dataclass
class Account:
    """What became of the input; goes to stats.json. `documents_read` is the sum of `empty`, `refused`, `filtered` and the documents used."""

    files: int = 0
    empty_files: int = 0
    documents_read: int = 0
    empty: int = 0
    """Without any text."""
    refused: Counter = field(default_factory=Counter)
    """By reason; only where data.bad_records is skip."""
    refused_places: list[str] = field(default_factory=list)
    filtered: Counter = field(default_factory=Counter)
    """By the rule of data.clean that left them out."""
    used: Counter = field(default_factory=Counter)
    """By split."""
    parts_left_out: Counter = field(default_factory=Counter)
    """Parts of records that are used otherwise, such as lines of a poem, by what they are; a task's alone."""
    divided: int = 0
    """Documents of which one part was used for training and one held out (data.split: tail); each counts twice in `used`."""
    cut: int = 0
    """Documents longer than a sequence, cut into several pieces."""
    normalized: int = 0
    """Documents that data.clean.normalize changed."""
    masked: Counter = field(default_factory=Counter)
    """Personal data replaced, by kind."""
    masked_documents: int = 0
    files_with_invalid_utf8: int = 0
    invalid_files: list[str] = field(default_factory=list)
    replaced_characters: int = 0

    def is_whole(self) -> bool:
        """Tell whether every document read is accounted for."""
        return self.documents_read == self.empty + self.refused.total() + self.filtered.total() + self.used.total() - self.divided

    def add(self, other: Account) -> None:
        """Add what another account holds."""
        for key, value in vars(other).items():
            setattr(self, key, getattr(self, key) + value)
        del self.refused_places[PLACES_KEPT:], self.invalid_files[PLACES_KEPT:]


class Intake:
    """Reads a corpus by the rules of its recipe and keeps the account.

    Args:
        config: its `bad_records` and `invalid_utf8` decide what is refused.
    """

    def __init__(self, config: DataConfig):
        self.config = config
        self.account = Account()
        self._invalid_files: set[str] = set()

    def refuse(self, reason: str, place: str, problem: str, remedy: str) -> None:
        """Stop with a record's place and problem, or skip it and count it, as data.bad_records says.

        Raises:
            RecipeError: where it says refuse.
        """
        if self.config.bad_records == "refuse":
            raise RecipeError(f"{place}: {problem}; {remedy}, or set data.bad_records to skip")
        self.account.documents_read += 1
        self.account.refused[reason] += 1
        if len(self.account.refused_places) < PLACES_KEPT:
            self.account.refused_places.append(f"{place}: {problem}")

    def mend(self, text: str, place: str, encoding: str = "utf-8") -> str:
        """Return a text read with `surrogateescape`, each byte that was not in the encoding replaced by U+FFFD and counted.

        Args:
            text: as read.
            place: file, or file:line of the text's first line.
            encoding: in which it was read.

        Raises:
            RecipeError: there is such a byte, and data.invalid_utf8 is refuse.
        """
        found = None if text.isascii() else UNDECODABLE.search(text)
        if not found:
            return text
        path, _, line = place.rpartition(":")
        if not line.isdigit():
            path, line = place, "1"
        if self.config.invalid_utf8 == "refuse":
            what = f"byte 0x{ord(found[0]) - 0xDC00:02x}" if "\udc80" <= found[0] <= "\udcff" else f"half a character (U+{ord(found[0]):04X})"
            raise RecipeError(f"{path}:{int(line) + text.count(chr(10), 0, found.start())}: {what} is no {encoding.upper()}; convert the file to "
                              "UTF-8, set data.encoding to what it is, or set data.invalid_utf8 to replace")
        try:
            mended = text.encode(encoding, "surrogateescape").decode(encoding, "replace")
        except UnicodeEncodeError:  # half a character that came by an escape such as \\ud800
            mended = UNDECODABLE.sub("\ufffd", text)
        self.account.replaced_characters += mended.count("\ufffd") - text.count("\ufffd")
        if path not in self._invalid_files:
            self._invalid_files.add(path)
            self.account.files_with_invalid_utf8 += 1
            if len(self.account.invalid_files) < PLACES_KEPT:
                self.account.invalid_files.append(path)
        return mended
