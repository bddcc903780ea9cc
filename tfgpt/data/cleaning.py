"""What `data.clean` does to a document: Unicode normalisation, masking, length filters, and leaving out what came before."""
from __future__ import annotations

import dataclasses
import hashlib
import unicodedata
from collections import Counter

import numpy as np

from tfgpt.data.examples import Example
from tfgpt.data.intake import Account
from tfgpt.recipe import CleanConfig, RecipeError

PERMUTATIONS = 128
"""Hashes of a MinHash; the estimate of a similarity is then off by 0.05 at most in 3 of 4 cases."""
SHORT, LONG, EXACT, NEAR = "shorter than min_chars", "longer than max_chars", "exact duplicate", "near duplicate"
"""The rules, as they are counted."""
SHINGLE = 5
"""Characters of a shingle."""
SHINGLES_AT_ONCE = 20_000
"""Hashed together; the library takes a kilobyte for each."""


class Cleaner:
    """Cleans documents one after the other; what is a duplicate depends on those before.

    Args:
        config: what to do.
        account: where every change is counted.

    Raises:
        RecipeError: a package is missing that the settings need.
    """

    def __init__(self, config: CleanConfig, account: Account):
        self._config, self._account = config, account
        self._personal = _personal_data(config) if config.mask else None
        self._seen: set[bytes] = set()
        self._near = near_index(config) if config.deduplicate == "near" else None
        self._sketches = {}

    def clean(self, example: Example) -> Example | None:
        """Return the document as it is to be used, or `None` if a rule leaves it out."""
        example, rule = self.clean_alone(example)
        if not rule and self._config.deduplicate != "none":
            rule = self._came_before(example)
        if rule:
            self._account.filtered[rule] += 1
            return None
        return example

    def clean_alone(self, example: Example) -> tuple[Example, str | None]:
        """Return the document as it is to be used, and the rule that leaves it out whatever other documents there are, if one does."""
        example = self._masked(self._normalized(example))
        length = len(example.text)
        if length < self._config.min_chars:
            return example, SHORT
        return example, LONG if 0 < self._config.max_chars < length else None

    def _normalized(self, example):
        if self._config.normalize == "none":
            return example
        form = self._config.normalize.upper()
        normal = _with_texts(example, lambda text: unicodedata.normalize(form, text))
        self._account.normalized += normal != example
        return normal

    def _masked(self, example):
        if not self._personal:
            return example
        found = Counter()

        def mask(text):
            masked, counts = self._personal.mask(text)
            found.update(counts)
            return masked

        masked = _with_texts(example, mask)
        self._account.masked.update(found)
        self._account.masked_documents += bool(found)
        return masked

    def _came_before(self, example) -> str | None:
        """Tell whether a document before this one, used or not, is the same or nearly so, and remember this one."""
        canonical = canonical_text(example.text)
        digest = digest_of(canonical, example.label)
        if digest in self._seen:
            return EXACT
        self._seen.add(digest)
        if not self._near:
            return None
        sketch = min_hash(canonical)
        near = any(sketch.jaccard(self._sketches[key]) >= self._config.near_threshold for key in self._near.query(sketch))
        self._near.insert(digest, sketch)
        self._sketches[digest] = sketch
        return NEAR if near else None


def min_hash(text: str):
    """Return the MinHash of a text's shingles (Broder 1997, "On the resemblance and containment of documents")."""
    from datasketch import LeanMinHash, MinHash

    sketch = MinHash(num_perm=PERMUTATIONS, hashfunc=int)
    for start in range(0, max(len(text) - SHINGLE + 1, 1), SHINGLES_AT_ONCE):
        sketch.update_batch(shingle_hashes(text[start : start + SHINGLES_AT_ONCE + SHINGLE - 1]))
    return LeanMinHash(sketch)


def shingle_hashes(text: str) -> np.ndarray:
    """Return a 32-bit hash of each distinct run of `SHINGLE` characters of a text, uint64 [shingles].

    >>> len(shingle_hashes("abcabcabc"))
    3
    """
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    if len(points) < SHINGLE:
        points = np.pad(points, (0, SHINGLE - len(points)))
    hashes = np.zeros(len(points) - SHINGLE + 1, np.uint64)
    for place in range(SHINGLE):  # a polynomial hash; its high bits are the mixed ones
        hashes = (hashes + points[place : place + len(hashes)]) * np.uint64(0x9E3779B97F4A7C15)
    return np.unique(hashes >> np.uint64(32))


def _with_texts(example, change):
    parts = tuple((change(text), trained) for text, trained in example.parts)
    encoder_text = None if example.encoder_text is None else change(example.encoder_text)
    return dataclasses.replace(example, parts=parts, encoder_text=encoder_text)


def _personal_data(config):
    from tfgpt.text.privacy import PersonalData

    try:
        return PersonalData(config.mask)
    except RuntimeError as error:
        raise RecipeError(str(error)) from error


def canonical_text(text: str) -> str:
    """Return a text without what makes no difference between duplicates: case and the amount of white space."""
    return " ".join(text.casefold().split())


def digest_of(canonical: str, label: str | None = None) -> bytes:
    """Return 16 bytes that stand for a text and its label."""
    return hashlib.blake2b(f"{canonical}\0{label or ''}".encode(), digest_size=16).digest()


def near_index(config: CleanConfig):
    """Return an empty index of MinHashes; it errs towards finding too many candidates, whose similarity is then looked at.

    Raises:
        RecipeError: the package datasketch is missing.
    """
    try:
        from datasketch import MinHashLSH
    except ModuleNotFoundError as error:
        raise RecipeError("data.clean.deduplicate: near needs the package datasketch, which is not installed; pip install 'tfgpt[dedup]'") from error
    return MinHashLSH(threshold=config.near_threshold, num_perm=PERMUTATIONS, weights=(0.1, 0.9))
