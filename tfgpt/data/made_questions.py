"""Questions that any machine can make and check: of short passages about invented people, and of what Python knows by heart.

The passages are drawn from a seed, so that they are the same on every machine. What is asked without a passage are facts of Python's library (the phrase
of an HTTP status, the message of an error number, the name of a character), each in several wordings.
"""
from __future__ import annotations

import functools
import http
import os
import random
import unicodedata

PASSAGES = 40_000
"""How many questions have a passage."""
UNANSWERABLE = 0.15
"""Share of those that their passage does not answer."""
UNKNOWN = "unknown"
"""The answer to these."""
PEOPLE = ("Ada", "Boris", "Carla", "Dmitri", "Elena", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Karin", "Leo", "Marta", "Nils", "Olga", "Pavel", "Quentin",
          "Rosa", "Sven", "Tara", "Umar", "Vera", "Wanda", "Xenia", "Yusuf", "Zoe")
CITIES = ("Oslo", "Lima", "Cairo", "Porto", "Quito", "Riga", "Delhi", "Turin", "Osaka", "Bern", "Accra", "Hanoi", "Perth", "Leeds", "Dakar", "Malmo", "Seoul",
          "Tunis", "Nice", "Cork")
TRADES = ("baker", "pilot", "nurse", "judge", "tailor", "farmer", "singer", "plumber", "teacher", "painter", "driver", "doctor", "writer", "miner", "sailor")
THINGS = ("apples", "books", "lamps", "coins", "maps", "cups", "keys", "stamps", "shells", "chairs", "boats", "rings")
COLOURS = ("red", "blue", "green", "black", "white", "grey", "brown", "pink", "yellow", "purple")
PETS = ("cat", "dog", "parrot", "horse", "rabbit", "goat", "turtle", "hen")
FACTS = (
    ("{0} lives in {1}.", ("Where does {0} live?", "In which city does {0} live?", "What is the home of {0}?"), CITIES),
    ("{0} works as a {1}.", ("What does {0} work as?", "What is the trade of {0}?"), TRADES),
    ("{0} has a {1} car.", ("What colour is the car of {0}?", "Which colour has {0}'s car?"), COLOURS),
    ("{0} keeps a {1}.", ("What animal does {0} keep?", "Which pet has {0}?"), PETS),
    ("{0} collects {1}.", ("What does {0} collect?", "Which things does {0} collect?"), THINGS),
)
HTTP_WORDINGS = ("What does HTTP status {0} mean?", "What is the phrase of HTTP status {0}?", "HTTP status {0} stands for what?", "How is HTTP {0} called?",
                 "A server answers {0}. What is that?")
ERROR_WORDINGS = ("What is error number {0}?", "What does errno {0} mean?", "Which message has error {0}?", "The system says errno {0}. What happened?",
                  "How is error number {0} explained?")
NAME_WORDINGS = ("What is the name of the character {0}?", "How does Unicode call {0}?", "Which character is {0}?", "What is {0} called?",
                 "Name the character {0}.")
CHARACTERS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡¢£¤¥¦§©ª«¬®¯°±²³´µ¶·¹º»¼½¾¿×÷"


@functools.cache
def made_questions() -> tuple[dict[str, str], ...]:
    """Return some 40,800 questions with the columns passage (empty = none is given), question and answer; `UNKNOWN` where a passage does not hold it.

    >>> rows = made_questions()
    >>> len({(row["passage"], row["question"]) for row in rows}) == len(rows) > 40_000
    True
    >>> next(row["answer"] for row in rows if row["question"] == "What does HTTP status 404 mean?")
    'Not Found'
    """
    draw, rows = random.Random(5), {}
    while len(rows) < PASSAGES:
        row = _of_a_passage(draw)
        rows[row["passage"], row["question"]] = row
    return (*rows.values(), *_of_python())


def _of_a_passage(draw):
    people = draw.sample(PEOPLE, draw.randint(2, 4))
    told = draw.sample([(person, fact) for person in people for fact in FACTS], draw.randint(3, 6))
    answers = {(person, fact): draw.choice(fact[2]) for person, fact in told}
    passage = " ".join(fact[0].format(person, answer) for (person, fact), answer in answers.items())
    if draw.random() < UNANSWERABLE:
        asked = draw.choice([(person, fact) for person in people for fact in FACTS if (person, fact) not in answers])
    else:
        asked = draw.choice(told)
    person, fact = asked
    return {"passage": passage, "question": draw.choice(fact[1]).format(person), "answer": answers.get(asked, UNKNOWN)}


def _of_python():
    facts = [(HTTP_WORDINGS, str(status.value), status.phrase) for status in http.HTTPStatus]
    facts += [(ERROR_WORDINGS, str(number), os.strerror(number)) for number in range(1, 40)]
    facts += [(NAME_WORDINGS, character, unicodedata.name(character).lower()) for character in CHARACTERS]
    return [{"passage": "", "question": wording.format(asked), "answer": answer} for wordings, asked, answer in facts for wording in wordings]
