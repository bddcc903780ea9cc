"""Rhyming couplets that any machine can make: plain sentences put into metres, their sounds by the CMU Pronouncing Dictionary.

Nothing but the sound of a word decides whether it may end a couplet's second line, and nothing but its stresses where it may stand.
"""
from __future__ import annotations

import functools
import importlib.util
import random
from collections import defaultdict

from tfgpt.recipe import RecipeError
from tfgpt.text.prosody import scan

COUPLETS = 6_000
METRES = ("01010101", "0101010101", "1010101")
"""Iambic tetrameter and pentameter, and the trochaic one that lacks its last syllable (Tyger Tyger, burning bright)."""
WORDS = {
    "determiner": "the my her your this that his their",
    "adjective": ("old cold bright dark deep soft pale wild blue grey young slow proud sweet warm brave lost still quiet silent golden gentle weary distant "
                  "lonely hollow silver frozen narrow sleepy bitter tender ancient yellow alone remote serene profound"),
    "noun": ("man child horse bird wind stone ship bell tree fox wolf road cloud king queen leaf flame ghost river garden shadow winter summer mountain "
             "morning sailor hunter meadow candle window sparrow raven kitten island thunder harbour stranger teacher brother sister machine balloon guitar "
             "canoe giraffe parade"),
    "verb": ("sings sleeps falls waits dreams stands runs burns turns shines calls weeps wanders listens whispers lingers tumbles hurries glitters "
             "returns appears remains departs arrives"),
    "transitive": "finds sees hears loves seeks keeps guards meets leaves paints follows covers carries forgets admires recalls remembers discovers",
    "preposition": "in on by with from to at beside above beneath upon among behind before beyond below under over near",
    "conjunction": "and but while so yet",
}
ENDS = ("day way bay clay spray ray tray hay jay|night light flight height kite sight knight|sea tree bee key tea lea knee|snow crow glow row toe|"
        "shore door floor store war oar|rain train lane chain grain crane cane|stone throne bone phone cone|moon spoon tune dune noon|"
        "king ring spring wing string swing|town crown gown clown|bell shell well spell cell|dream stream beam team cream|nest west guest crest chest|"
        "sand land hand band|boy toy joy|star car bar jar|wall hall ball shawl|place face lace space grace|hill mill bill pill|bird word herd|"
        "cloud crowd shroud|sail tale whale gale nail|side bride tide guide|road code load toad|rock clock dock flock sock|bed thread shed bread|"
        "ship lip whip chip|lake cake snake rake|boat goat coat note throat|leaf reef thief beef|horn thorn corn morn|dove love glove|"
        "ground sound hound mound|wood hood|book brook cook hook|eye sky pie spy|heart cart chart dart|stair air chair bear pear")
"""Nouns that may end a line; those between two bars rhyme."""
SENTENCES = ("determiner noun verb preposition determiner end", "determiner adjective noun verb preposition determiner end",
             "determiner noun verb preposition determiner adjective end", "determiner adjective noun verb preposition determiner adjective end",
             "determiner noun preposition determiner noun verb preposition determiner end", "preposition determiner noun verb determiner adjective end",
             "preposition determiner adjective noun verb determiner end", "conjunction preposition determiner noun verb determiner adjective end",
             "conjunction determiner noun verb preposition determiner end", "adjective determiner noun verb preposition determiner end",
             "adjective noun transitive determiner end", "determiner noun transitive determiner end", "determiner noun transitive determiner adjective end",
             "determiner adjective noun transitive determiner end", "adjective noun transitive determiner adjective end",
             "conjunction determiner noun transitive determiner adjective end", "preposition determiner noun determiner noun transitive determiner end")


@functools.cache
def made_verse() -> tuple[dict[str, str], ...]:
    """Return couplets as records with a `text` of two lines, no two alike, the same on each machine.

    Raises:
        RecipeError: pronouncing is not installed.

    >>> rows = made_verse()
    >>> len(rows), len({row["text"] for row in rows})
    (6000, 6000)
    >>> print(rows[0]["text"])
    Soft canoe forgets this ball,
    Silver leaf forgets his shawl.
    """
    if importlib.util.find_spec("pronouncing") is None:
        raise RecipeError("data.path: made-verse needs the package pronouncing, which is not installed; pip install 'tfgpt[tasks]'")
    maker, found = _Maker(random.Random(5)), {}
    while len(found) < COUPLETS:
        found[maker.couplet()] = None
    return tuple({"text": text} for text in found)


class _Maker:
    """Makes couplets by draws."""

    def __init__(self, draw):
        self._draw = draw
        self._by_stress: dict[tuple[str, str], list[str]] = defaultdict(list)
        for kind, words in WORDS.items():
            for word in words.split():
                self._by_stress[kind, scan(word).stresses].append(word)
        self._ends = [group.split() for group in ENDS.split("|")]

    def couplet(self):
        metre, ends = self._draw.choice(METRES), self._draw.choice(self._ends)
        lines = [self._line(metre, end) for end in self._draw.sample(ends, 2)]
        return "\n".join(line[0].upper() + line[1:] + stop for line, stop in zip(lines, (",", ".")))

    def _line(self, metre, end):
        """Draw sentences until the words of one can be drawn so that they have the metre."""
        while True:
            words = self._filled(metre, self._draw.choice(SENTENCES).split(), end)
            if words is not None:
                return " ".join(words)

    def _filled(self, metre, kinds, end):
        """Return words of these kinds whose stresses are the metre's; `None` if there are none."""
        kind, *later = kinds
        if not later:
            return [end] if scan(end).stresses == metre else None
        for length in self._draw.sample((1, 2, 3), 3):
            if (words := self._by_stress.get((kind, metre[:length]))) and len(metre) > length:
                rest = self._filled(metre[length:], later, end)
                if rest is not None:
                    return [self._draw.choice(words), *rest]
        return None
