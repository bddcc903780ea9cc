"""How lines of English verse sound: their stresses and their rhymes, by the CMU Pronouncing Dictionary (package pronouncing)."""
from __future__ import annotations

import functools
import re
from typing import NamedTuple

WORD = re.compile(r"'?[^\W\d_]+(?:'[^\W\d_]+)*'?")
APOSTROPHES = str.maketrans("\u2019\u2018\u02bc", "'''")
WEAK = frozenset((
    "a", "an", "the", "and", "or", "but", "nor", "so", "yet", "for", "of", "to", "in", "on", "at", "by", "with", "from", "as", "than", "if", "that",
    "which", "who", "when", "while", "where", "till", "i", "you", "he", "she", "it", "we", "they", "me", "him", "her", "us", "them", "my", "your", "his",
    "its", "our", "their", "thy", "thou", "thee", "ye", "this", "these", "those", "some", "is", "am", "are", "was", "were", "be", "been", "do", "does",
    "did", "has", "have", "had", "can", "could", "will", "would", "shall", "should", "may", "might", "must", "art", "hast", "hath", "doth", "dost",
    "shalt", "wilt",
))
"""Words of one syllable that verse leaves unstressed; the others have a stress (Deep-speare, Lau et al. 2018, leaves them open)."""


class Scansion(NamedTuple):
    """How a line sounds."""

    stresses: str
    """Of each syllable: 1 = stressed, 0 = not."""
    rhyme: str
    """The sounds of the last syllable from its vowel on, as the dictionary writes them, such as AY T. Lines that rhyme share it; where it is not stressed,
    lines that share it need not rhyme."""


def words_of(line: str) -> list[str]:
    """Return the words of a line as the dictionary has them.

    >>> words_of("The Moon’s bright-eyed; 'tis o'er!")
    ['the', "moon's", 'bright', 'eyed', "'tis", "o'er"]
    """
    found = []
    for word in WORD.findall(line.lower().translate(APOSTROPHES)):
        bare = word.strip("'")
        forms = (word, word.rstrip("'"), word.lstrip("'"), bare, re.sub("'d$", "ed", bare))                # 'tis, lovers', look'd
        found.append(next(filter(_sounds, forms), bare))
    return found


def scan(line: str) -> Scansion | None:
    """Return how a line sounds; `None` if it has no words, or one that the dictionary does not have.

    Of words with several pronunciations the dictionary's first one counts.

    >>> scan("The moonlight falls upon the silent sea")
    Scansion(stresses='0101010101', rhyme='IY')
    >>> scan("The zorblat sings") is None
    True
    """
    words = words_of(line)
    if not words or not all(map(_sounds, words)):
        return None
    phones = _sounds(words[-1])[0].split()
    vowel = max(place for place, phone in enumerate(phones) if phone[-1].isdigit())
    return Scansion("".join(map(_stresses_of, words)), _without_stress(" ".join(phones[vowel:])))


def unknown_word(line: str) -> str | None:
    """Return a line's first word that the dictionary does not have."""
    return next((word for word in words_of(line) if not _sounds(word)), None)


def rhyme_together(line: str, other: str) -> bool:
    """Tell whether two lines end in different words that rhyme, in one of each word's pronunciations; an unknown word rhymes with none.

    >>> [rhyme_together("a silent night", other) for other in ("the light", "that night", "the sea", "a zorblat")]
    [True, False, False, False]
    """
    ends = [words_of(one)[-1:] for one in (line, other)]
    if not all(ends) or ends[0] == ends[1]:
        return False
    first, second = ({_without_stress(_rhyming_part(phones)) for phones in _sounds(word)} for [word] in ends)
    return bool(first & second)


def agreeing(stresses: str, others: str) -> tuple[int, int]:
    """Return how many syllables of two lines have the same stress, and of how many: those that one line has more agree with none.

    >>> agreeing("0101", "010100")
    (4, 6)
    """
    return sum(one == other for one, other in zip(stresses, others)), max(len(stresses), len(others))


@functools.lru_cache(100_000)
def _sounds(word):
    import pronouncing

    return tuple(pronouncing.phones_for_word(word))


def _rhyming_part(phones):
    import pronouncing

    return pronouncing.rhyming_part(phones)


def _stresses_of(word):
    """Return the stresses of a known word; a secondary one counts if no primary one stands beside it."""
    import pronouncing

    found = pronouncing.stresses(_sounds(word)[0])
    if len(found) == 1:
        return "0" if word in WEAK else "1"
    return "".join("1" if one == "1" or (one == "2" and "1" not in found[max(place - 1, 0) : place + 2]) else "0" for place, one in enumerate(found))


def _without_stress(part):
    return re.sub(r"\d", "", part)
