"""Many texts to ids at once: on every core, into one array, with memory that does not grow with a text's length."""
from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer
from transformers import GPT2TokenizerFast

CHARACTERS_AT_ONCE = 1_000_000
"""Handed to the tokenizer in one call: enough for all cores, little enough for its objects (some 100 bytes a token) to be small."""
LONG_TEXT = 50_000
"""Characters from which a text is tokenized in pieces."""
LONGEST_WORD = 1_000_000
"""Characters of a run without any border after which it is cut all the same; the tokenizer takes about 150 bytes for each."""

BORDERS = (re.compile(r"(?<=[A-Za-z0-9.,;:!?)])(?=[ \n])"), re.compile(r"(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])"))
"""Where GPT-2's split pattern always begins a new word, whatever stands around it; the first that is found in reach is taken."""


class Encoded(NamedTuple):
    """Texts as ids, one text after the other."""

    ids: np.ndarray
    """int32 [tokens]."""
    sizes: np.ndarray
    """int64 [texts], tokens of each."""
    words_cut: int
    """Words longer than `LONGEST_WORD`, which were cut."""


class BatchEncoder:
    """Gives the ids that a tokenizer gives, many texts at a time; may be used by several threads.

    Args:
        tokenizer: byte-level BPE.
    """

    def __init__(self, tokenizer: GPT2TokenizerFast):
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())  # a copy, whose texts nobody asks to cut or to pad
        self._backend.no_truncation()
        self._backend.no_padding()
        state = json.loads(self._backend.to_str())
        split = state["pre_tokenizer"] or {}
        plain = split.get("type") == "ByteLevel" and split.get("use_regex", True) and not split.get("add_prefix_space") and not state["normalizer"]
        # A special token might lie across a border; then, and where words are split in another way than GPT-2's, texts stay whole.
        self._cuts = plain and not any(border.search(token["content"]) for token in state["added_tokens"] for border in BORDERS)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Return the ids of all texts."""
        cut_words: list[int] = []
        pieces = [list(cut_text(text, cut_words)) if self._cuts else [text] for text in texts]
        ids, sizes = [np.zeros(0, np.int32)], []
        for batch in _batches(itertools.chain.from_iterable(pieces)):
            encoded = [encoding.ids for encoding in self._backend.encode_batch_fast(batch, add_special_tokens=False)]
            sizes += map(len, encoded)
            ids.append(np.fromiter(itertools.chain.from_iterable(encoded), np.int32, sum(map(len, encoded))))
        per_text = np.add.reduceat([*sizes, 0], np.cumsum([0, *map(len, pieces)])[:-1]) if pieces else []
        return Encoded(np.concatenate(ids), np.asarray(per_text, np.int64), len(cut_words))


def cut_text(text: str, cut_words: list[int] | None = None) -> Iterator[str]:
    """Yield a text in pieces whose ids, put together, are those of the text.

    Args:
        text: any.
        cut_words: gets the places where a word longer than `LONGEST_WORD` had to be cut.
    """
    start = 0
    while len(text) - start > LONG_TEXT:
        end = border_after(text, start + LONG_TEXT)
        if cut_words is not None and end < len(text) and not is_border(text[end - 1], text[end]):
            cut_words.append(end)
        yield text[start:end]
        start = end
    yield text[start:]


def border_after(text: str, start: int) -> int:
    """Return the first place from `start` on at which a text can be cut without any other token; at most `LONGEST_WORD` characters on."""
    reach = min(start + LONGEST_WORD, len(text))
    found = next(filter(None, (border.search(text, start, reach) for border in BORDERS)), None)
    return found.start() if found else reach


def is_border(before: str, after: str) -> bool:
    """Tell whether a text may be cut between these two characters without any other token."""
    return any(border.search(before + after, 1) for border in BORDERS)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch, characters = [], 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
