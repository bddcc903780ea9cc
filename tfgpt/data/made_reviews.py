"""Short reviews that any machine can make, with their sentiment: what is said depends on how the words stand together, and not on which they are.

A good word may be denied, conceded, expected in vain, or said by somebody who is wrong. Some reviews end with a verdict, by which a language model can be
asked without any label. As where people judge, some labels are wrong: no classifier is right, or should be sure, more often than the others are.
"""
from __future__ import annotations

import functools
import random

REVIEWS = 10_000
WRONG = 0.05
"""Share of the labels that are not what the review says."""
WITH_VERDICT = 0.15
"""Share of the reviews that end with a verdict."""
NEUTRAL = 0.2
"""Share of the reviews that judge nothing."""
VERDICTS = {"negative": "bad", "neutral": "ordinary", "positive": "good"}
VERDICT = "All in all it was {}."
GOOD = ("good", "great", "lovely", "superb", "charming", "clever", "delightful", "pleasant", "fresh", "kind", "wonderful", "brilliant", "careful", "warm",
        "reliable", "fine", "splendid", "funny", "moving", "generous")
BAD = ("bad", "poor", "grim", "dull", "clumsy", "boring", "rude", "stale", "sloppy", "dreadful", "tiresome", "shabby", "careless", "cold", "silly", "broken",
       "horrible", "sad", "flat", "mean")
THINGS = ("film", "meal", "hotel", "book", "phone", "concert", "play", "museum", "train", "garden", "shop", "lesson", "song", "camera", "coat", "bakery",
          "game", "tour", "radio", "bicycle")
PARTS = ("start", "ending", "service", "sound", "price", "staff", "design", "light", "room", "story", "taste", "colour", "finish", "view", "pace", "cover",
         "music", "manual", "menu", "battery")
PEOPLE = ("My sister", "A friend", "The guide", "My neighbour", "The seller", "A colleague", "The paper", "My uncle")
VERY = ("", "", "very ", "really ", "quite ", "rather ")
ONE = (
    "The {part} of the {thing} was {very}{word}.",
    "I found the {part} {very}{word}.",
    "What a {word} {thing}!",
    "It was a {very}{word} {thing}.",
)
"""Says what its word says."""
DENIED = (
    "The {part} of the {thing} was not {word}.",
    "The {thing} was anything but {word}.",
    "Nobody could call the {part} {word}.",
    "{person} said that the {thing} was {very}{word}, and was wrong.",
    "I did not think that the {part} was {word}.",
    "If only the {thing} had been {word}.",
)
"""Says the opposite of its word."""
BOTH = (
    "Although the {part} was {very}{other}, the {thing} was {very}{word}.",
    "The {thing} was {very}{word}, although the {part} was {very}{other}.",
    "The {part} was {very}{other}, but the {thing} as a whole was {very}{word}.",
    "I expected a {other} {thing} and got a {word} one.",
    "I got a {word} {thing} and had expected a {other} one.",
    "{person} found the {thing} {other}, yet I found it {word}.",
    "I found the {thing} {word}, yet {person_later} found it {other}.",
)
"""Says what its first kind of word says, whichever stands first."""
FACTS = ("The {thing} has a {part} of its own.", "I took the {thing} on a Tuesday.", "The {part} of the {thing} was changed last year.",
         "{person} has the same {thing}.", "The {thing} is near the station.", "There was a note about the {part}.")
"""Judges nothing."""


@functools.cache
def made_reviews() -> tuple[dict[str, str], ...]:
    """Return 10,000 different reviews with the columns text and label: negative, neutral or positive.

    >>> rows = made_reviews()
    >>> len({row["text"] for row in rows}), sorted({row["label"] for row in rows})
    (10000, ['negative', 'neutral', 'positive'])
    """
    draw, rows = random.Random(8), {}
    while len(rows) < REVIEWS:
        said = "neutral" if draw.random() < NEUTRAL else draw.choice(("negative", "positive"))
        facts = [_filled(draw, draw.choice(FACTS)) for _ in range(draw.randint(0, 2) if said != "neutral" else draw.randint(1, 3))]
        judgements = [] if said == "neutral" else [_judging(draw, said == "positive") for _ in range(draw.choice((1, 1, 2)))]
        sentences = [*facts, *judgements]
        draw.shuffle(sentences)
        if draw.random() < WITH_VERDICT:
            sentences.append(VERDICT.format(VERDICTS[said]))
        label = said if draw.random() >= WRONG else draw.choice([other for other in VERDICTS if other != said])
        rows[" ".join(sentences)] = label
    return tuple({"text": text, "label": label} for text, label in rows.items())


def _judging(draw, positive):
    """Return a sentence that says so much."""
    same, opposite = (GOOD, BAD) if positive else (BAD, GOOD)
    kind = draw.choice((ONE, DENIED, BOTH))
    return _filled(draw, draw.choice(kind), word=draw.choice(opposite if kind is DENIED else same), other=draw.choice(opposite))


def _filled(draw, sentence, **words):
    person = draw.choice(PEOPLE)
    return sentence.format(thing=draw.choice(THINGS), part=draw.choice(PARTS), person=person, person_later=person[0].lower() + person[1:],
                           very=draw.choice(VERY), **words)
