"""Long documents in sections, so that no text is too long to be tokenized and packed in little memory.

A section that goes on with a document begins with the last word of the one before, as history: every token is trained on once, and follows
on the token it follows on in the text.
"""
from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Iterator

from tfgpt.data import readers
from tfgpt.data.examples import Example
from tfgpt.text.encode import BORDERS, is_border

HISTORY = 100
"""Characters of a section's end among which its last word is looked for."""


def joined(examples: Iterable[Example]) -> Iterator[Example]:
    """Yield examples as whole documents, put together from the sections in which they were read."""
    sections: list[Example] = []
    for example in examples:
        if sections and not example.continues:
            yield _whole(sections)
            sections = []
        sections.append(example)
    if sections:
        yield _whole(sections)


def in_sections(examples: Iterable[Example]) -> Iterator[Example]:
    """Yield examples in the sections in which they are tokenized: long texts cut, each section with its history, ends marked.

    Args:
        examples: texts to continue; others are too short to be cut, and are yielded as they are.
    """
    before = None
    for example in examples:
        for section in _cut(example):
            if before:
                yield _closed(before, section)
            before = dataclasses.replace(section, parts=((_last_word(before.text), False), *section.parts)) if section.continues else section
    if before:
        yield before


def _whole(sections) -> Example:
    if len(sections) == 1:
        return sections[0]
    return dataclasses.replace(sections[0], parts=(("".join(section.text for section in sections), True),))


def _cut(example) -> Iterator[Example]:
    is_running = example.encoder_text is None and example.label is None and len(example.parts) == 1
    text = example.parts[0][0]
    if not is_running or len(text) < 3 * readers.SECTION:
        yield example
        return
    start = 0
    for number, (_, section) in enumerate(readers.sections(io.StringIO(text, newline=""))):
        # Cleaning may have made the text longer; still, no section may lie in the window of what follows the document.
        offset = example.offset + min(start, example.characters)
        yield dataclasses.replace(example, parts=((section, True),), offset=offset, continues=example.continues or number > 0)
        start += len(section)


def _closed(section, following) -> Example:
    if not following.continues:
        return section
    return dataclasses.replace(section, unfinished=True, ends_in_word=not is_border(section.text[-1], following.text[0]))


def _last_word(text) -> str:
    starts = [match.start() for border in BORDERS for match in border.finditer(text, max(len(text) - HISTORY, 0))]
    return text[max([start for start in starts if start < len(text)], default=-HISTORY) :]
