"""Is this data any good? What people ask of a corpus before they train on it: enough of it, clean, and of use to this vocabulary."""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from tfgpt.data.cleaning import canonical_text, digest_of, min_hash, near_index
from tfgpt.data.examples import Example
from tfgpt.recipe import CleanConfig, RecipeError
from tfgpt.text.bpe import GPT2TokenizerFast
from tfgpt.text.encode import BatchEncoder
from tfgpt.text.privacy import PersonalData

MOJIBAKE = re.compile("[ÃÂâ][\x80-\xbf€™œž\u201a-\u203a\u02c6\u02dc]")
"""What UTF-8 looks like that was read as Latin-1 or Windows-1252."""
GARBAGE = re.compile("[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f]")
"""Replacement characters, and control characters that no text has."""
GARBLED_SHARE = 0.01
"""Of a document's characters, from which it counts as garbled."""
SHORTEST_FOR_LANGUAGE = 40
"""Characters; of shorter texts the language is a guess."""


@dataclass
class Quality:
    """What a sample of a corpus is like."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Tokens of each document, int64 [documents]."""
    vocabulary: int = 0
    """Tokens of the tokenizer."""
    vocabulary_used: int = 0
    """Different ones among them that occur."""
    exact_duplicates: int = 0
    near_duplicates: int = 0
    garbled: int = 0
    garbled_places: list[str] = field(default_factory=list)
    languages: Counter = field(default_factory=Counter)
    """Documents by language (ISO 639-1); those too short to tell are not among them."""
    personal: Counter = field(default_factory=Counter)
    """Documents by the kind of personal data found in them."""

    @property
    def tokens(self) -> int:
        """Tokens in all."""
        return int(self.lengths.sum())

    @property
    def bytes_per_token(self) -> float:
        """Mean bytes of text in a token: 4 is usual for English and GPT-2's vocabulary, under 2 means that it does not know such text."""
        return self.bytes / self.tokens if self.tokens else 0.0


class QualityCheck:
    """Looks at documents one after the other.

    Args:
        tokenizer: whose tokens are counted.

    Raises:
        RecipeError: a package of the extra `inspect` is missing.
    """

    def __init__(self, tokenizer: GPT2TokenizerFast):
        try:
            import py3langid
        except ModuleNotFoundError as error:
            raise RecipeError("tfgpt data inspect: needs the package py3langid, which is not installed; pip install 'tfgpt[inspect]'") from error
        self._language_of = py3langid.classify
        self._personal = PersonalData()
        self._encoder, self._vocabulary = BatchEncoder(tokenizer), len(tokenizer)
        self._near = near_index(CleanConfig())

    def measure(self, examples: Iterable[Example], advance: Callable[[], None] = lambda: None) -> Quality:
        """Return what the documents are like.

        Args:
            examples: the sample.
            advance: called for every document.
        """
        quality, texts = Quality(vocabulary=self._vocabulary), []
        digests, sketches = set(), {}
        for example in examples:
            text = example.text
            texts.append(text)
            quality.documents += 1
            quality.characters += len(text)
            quality.bytes += len(text.encode())
            self._duplicates(text, digests, sketches, quality)
            if is_garbled(text):
                quality.garbled += 1
                quality.garbled_places.append(example.place)
            if len(text) >= SHORTEST_FOR_LANGUAGE:
                quality.languages[str(self._language_of(text[:2000])[0])] += 1
            quality.personal.update({finding.kind for finding in self._personal.find(text)})
            advance()
        ids, quality.lengths, _ = self._encoder.encode(texts)
        quality.vocabulary_used = len(np.unique(ids))
        return quality

    def _duplicates(self, text, digests, sketches, quality):
        canonical = canonical_text(text)
        digest = digest_of(canonical)
        if digest in digests:
            quality.exact_duplicates += 1
            return
        digests.add(digest)
        sketch = min_hash(canonical)
        if any(sketch.jaccard(sketches[key]) >= CleanConfig().near_threshold for key in self._near.query(sketch)):
            quality.near_duplicates += 1
        self._near.insert(digest, sketch)
        sketches[digest] = sketch


def is_garbled(text: str) -> bool:
    """Tell whether a text looks broken: by characters that no text has, or by the marks of a wrong encoding.

    >>> is_garbled("naÃ¯ve cafÃ©"), is_garbled("naïve café"), is_garbled("a\\ufffdb")
    (True, False, True)
    """
    return len(MOJIBAKE.findall(text)) + len(GARBAGE.findall(text)) > GARBLED_SHARE * len(text)
