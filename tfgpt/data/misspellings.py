"""Misspellings: those that codespell lists, words that are taken for each other, and texts into which such errors are put."""
from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping

import regex

from tfgpt.files import file_of_package
from tfgpt.recipe import RecipeError

WORD = regex.compile(r"[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*")
"""Letters of any script with their marks, and apostrophes between them: a word that is cut at a letter would be mended in its middle."""
PROSE = regex.compile(rf"{WORD.pattern}(?:[-–—]{WORD.pattern})*(?:/{WORD.pattern}(?:[-–—]{WORD.pattern})*)?")
"""What between white space, and without the marks at its ends, is words: no address, number, name of a file or of a program's things."""
ENDS = ".,;:!?…\"'“”‘’«»()[]{}<>*-–—"
CONFUSIONS = (
    ("then", "than"), ("form", "from"), ("their", "there", "they're"), ("its", "it's"), ("to", "too", "two"), ("your", "you're"), ("lose", "loose"),
    ("affect", "effect"), ("weather", "whether"), ("no", "know"), ("of", "off"), ("were", "where", "we're"), ("quiet", "quite"), ("accept", "except"),
    ("advice", "advise"), ("break", "brake"), ("by", "buy"), ("here", "hear"), ("whole", "hole"), ("new", "knew"), ("passed", "past"), ("piece", "peace"),
    ("principal", "principle"), ("right", "write"), ("site", "sight"), ("week", "weak"), ("which", "witch"), ("through", "trough"), ("though", "thought"),
    ("an", "and"), ("on", "one"), ("is", "his"), ("not", "note"), ("for", "four"), ("them", "then"), ("as", "has"), ("fill", "file"), ("use", "sue"),
    ("causal", "casual"), ("the", "then", "they"), ("or", "our"), ("be", "bee"), ("that", "than"), ("this", "these"), ("of", "or"), ("out", "our"),
)  # fmt: skip
"""Words, each spelt rightly, that are written for each other."""
ERRORS = 0.12
"""Share of the words into which an error is put, where there is one for them."""


@functools.cache
def misspellings() -> dict[str, tuple[str, ...]]:
    """Return what is meant by each misspelling that codespell lists, words alone, in lower case.

    Raises:
        RecipeError: codespell is not installed.

    >>> misspellings()["teh"], misspellings()["lsit"]
    (('the',), ('list', 'slit', 'sit'))
    """
    path = file_of_package("codespell_lib", "data/dictionary.txt")
    if path is None or not path.is_file():
        raise RecipeError("task.kind: spelling needs the package codespell, which is not installed; pip install 'tfgpt[tasks]'")
    found = {}
    for line in path.read_text("utf-8").splitlines():
        typo, _, meant = line.partition("->")
        words = tuple(word.strip() for word in meant.split(",") if WORD.fullmatch(word.strip()))
        if words and WORD.fullmatch(typo) and typo.islower():
            found[typo] = words
    return found


def is_held_out(typo: str) -> bool:
    """Tell whether a misspelling is of the half that is put into texts to measure with, and that no corrector then knows by heart."""
    return hashlib.sha256(typo.encode()).digest()[0] < 128


@functools.cache
def confused_with() -> dict[str, tuple[str, ...]]:
    """Return the words that each of `CONFUSIONS` may be written for.

    >>> confused_with()["then"]
    ('than', 'them', 'the', 'they')
    """
    found: dict[str, list[str]] = {}
    for words in CONFUSIONS:
        for word in words:
            found.setdefault(word, []).extend(other for other in words if other != word and other not in found.get(word, []))
    return {word: tuple(others) for word, others in found.items()}


@functools.cache
def _typos_of() -> Mapping[str, tuple[str, ...]]:
    """Return the held-out misspellings of each word."""
    found: dict[str, list[str]] = {}
    for typo, words in misspellings().items():
        for word in words if is_held_out(typo) else ():
            found.setdefault(word, []).append(typo)
    return {word: tuple(typos) for word, typos in found.items()}


def with_errors(text: str, seed: int = 1, errors: float = ERRORS) -> str:
    """Return a text with misspelt words, from the held-out half, and with words written for others; it has as many words as before.

    Args:
        text: without errors.
        seed: of the draws, which depend on it and on the text alone.
        errors: share of the words that get one, where there is any for them.

    >>> with_errors("It is taken from the list.", errors=1.0)
    'Ist ist taked form ths ist.'
    """
    draw = random.Random(f"{seed} {text}")

    def damaged(match):
        word = match[0]
        kinds = [kind for kind in (_typos_of().get(word.lower()), confused_with().get(word.lower())) if kind]
        if draw.random() >= errors or not kinds:
            return word
        return cased(draw.choice(draw.choice(kinds)), word)

    return replaced(text, damaged)


def words_in(text: str) -> Iterator[regex.Match]:
    """Yield the words of a text that are written as words, and no parts of addresses, numbers or names of things in programs.

    >>> [word[0] for word in words_in("The 2nd file (np.zeros) is at x@y.org, and/or well-known.")]
    ['The', 'file', 'is', 'at', 'and', 'or', 'well', 'known']
    """
    for chunk in regex.finditer(r"\S+", text):
        start = chunk.start() + len(chunk[0]) - len(chunk[0].lstrip(ENDS))
        end = chunk.end() - len(chunk[0]) + len(chunk[0].rstrip(ENDS))
        if start < end and "()" not in chunk[0] and PROSE.fullmatch(text, start, end):
            yield from WORD.finditer(text, start, end)


def replaced(text: str, change: Callable[[regex.Match], str]) -> str:
    """Return a text with what `change` gives for each of its words (see `words_in`)."""
    pieces, end = [], 0
    for word in words_in(text):
        pieces += [text[end : word.start()], change(word)]
        end = word.end()
    return "".join([*pieces, text[end:]])


def cased(word: str, like: str) -> str:
    """Return a word with the capitals of another: none, the first or all.

    >>> cased("the", "Teh"), cased("the", "TEH"), cased("I'm", "im")
    ('The', 'THE', "I'm")
    """
    if len(like) > 1 and like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def counted_words(texts: Iterable[str]) -> dict[str, int]:
    """Return how often each word stands in texts, in lower case.

    >>> counted_words(["The list is the list."])
    {'the': 2, 'list': 2, 'is': 1}
    """
    counts: dict[str, int] = {}
    for text in texts:
        for word in WORD.findall(text):
            counts[word.lower()] = counts.get(word.lower(), 0) + 1
    return counts
