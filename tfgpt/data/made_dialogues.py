"""Dialogues of several turns that any machine can make and check: what is asked at the end was told some turns before, and may have changed since.

They are drawn from a seed, so that they are the same on every machine. Users tell of themselves and of their kin, correct what they said, count things, and
ask; who the assistant is and how it speaks stands in a system text, which some dialogues lack.
"""
from __future__ import annotations

import functools
import random
from typing import NamedTuple

from tfgpt.data.made_questions import CITIES, COLOURS, PEOPLE, PETS, TRADES

DIALOGUES = 8_000
"""How many there are."""
ASSISTANTS = ("Kim", "Robo", "Max", "Nova", "Otto", "Pia", "Sam", "Zora", "Ben", "Lily")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen")
GOODS = ("apples", "books", "coins", "lamps", "maps", "cups", "keys", "shells")
MOST = 9
"""Of what is counted, before more is bought."""
SUBJECTS = ("I", "my sister", "my brother", "my neighbour")
HEARD = ("I see", "noted", "good to know")
"""What is said to news."""
UNTOLD = "You have not told me"
NOBODY = "I am a program"


class Topic(NamedTuple):
    """What can be told of a person."""

    told: tuple[str, ...]
    """{0} = the person and the verb, {1} = what."""
    changed: str
    asked: tuple[str, ...]
    """{0} = the verb and the person."""
    verb: tuple[str, str]
    """Of me, and of others."""
    answer: str
    values: tuple[str, ...]


TOPICS = (
    Topic(("{0} in {1}", "these days {0} in {1}"), "now {0} in {1}", ("where {0} live", "in which city {0} live"), ("live", "lives"), "in {1}", CITIES),
    Topic(("{0} as a {1}", "by day {0} as a {1}"), "now {0} as a {1}", ("what {0} work as", "as what {0} work"), ("work", "works"), "as a {1}", TRADES),
    Topic(("{0} a {1}", "at home {0} a {1}"), "now {0} a {1}", ("which pet {0} keep", "what animal {0} keep"), ("keep", "keeps"), "a {1}", PETS),
    Topic(("{0} a {1} car", "to work {0} a {1} car"), "now {0} a {1} car", ("what colour of car {0} drive", "which car {0} drive"), ("drive", "drives"),
          "a {1} car", COLOURS),
)
MANNERS = {
    "": lambda text: f"{text}.",
    "Be polite.": lambda text: f"{text}, dear friend.",
    "Be loud.": lambda text: f"{text}!".upper(),
}
"""What a system text may ask for, and what it makes of a reply."""


@functools.cache
def made_dialogues() -> tuple[list[dict[str, str]], ...]:
    """Return 8,000 dialogues, each a list of turns with role and content; the last is the assistant's.

    >>> dialogues = made_dialogues()
    >>> [turn["role"] for turn in dialogues[0]][-2:], len(dialogues)
    (['user', 'assistant'], 8000)
    """
    draw = random.Random(7)
    return tuple(_Talk(draw).turns for _ in range(DIALOGUES))


class _Talk:
    """A dialogue while it is made: its turns, and what has been told."""

    def __init__(self, draw):
        self.draw, self.turns = draw, []
        self.known: dict[tuple[str, int], str] = {}
        self.counts: dict[str, int] = {}
        self.name, self.assistant, self.manner = "", "", ""
        if draw.random() < 0.6:
            self.assistant, self.manner = draw.choice(ASSISTANTS), draw.choice(list(MANNERS))
            self.turns.append({"role": "system", "content": f"You are {self.assistant}. {self.manner}".strip()})
        for _ in range(draw.randint(2, 4)):
            draw.choices((self._tell, self._change, self._count, self._introduce, self._ask), (5, 2, 3, 1, 1))[0]()
        self._ask()

    def _say(self, said, reply):
        said = said[0].upper() + said[1:]
        self.turns += [{"role": "user", "content": said}, {"role": "assistant", "content": MANNERS[self.manner](reply[0].upper() + reply[1:])}]

    def _tell(self):
        subject, topic = self.draw.choice(SUBJECTS), self.draw.randrange(len(TOPICS))
        if (subject, topic) in self.known:
            return self._change()
        self.known[subject, topic] = value = self.draw.choice(TOPICS[topic].values)
        self._say(f"{self.draw.choice(TOPICS[topic].told).format(_who(subject, topic), value)}.", self.draw.choice(HEARD))

    def _change(self):
        if not self.known:
            return self._tell()
        subject, topic = self.draw.choice(list(self.known))
        self.known[subject, topic] = value = self.draw.choice([one for one in TOPICS[topic].values if one != self.known[subject, topic]])
        self._say(f"{TOPICS[topic].changed.format(_who(subject, topic), value)}.", "so that has changed")

    def _count(self):
        if not self.counts or self.draw.random() < 0.4:
            goods = self.draw.choice([one for one in GOODS if one not in self.counts])
            self.counts[goods] = self.draw.randint(2, MOST)
            return self._say(f"I have {NUMBERS[self.counts[goods]]} {goods}.", self.draw.choice(HEARD))
        goods, some = self.draw.choice(list(self.counts)), self.draw.randint(1, 5)
        of_them = "" if len(self.counts) == 1 else f" of the {goods}"
        if some <= self.counts[goods] and self.draw.random() < 0.5:
            self.counts[goods] -= some
            said = f"I gave away {NUMBERS[some]}{of_them}."
        else:
            some = min(some, len(NUMBERS) - 1 - self.counts[goods])
            self.counts[goods] += some
            said = f"I found {NUMBERS[some]} more{of_them}."
        self._say(said, f"that makes {NUMBERS[self.counts[goods]]} {goods}")

    def _introduce(self):
        self.name = self.draw.choice(PEOPLE)
        self._say(f"my name is {self.name}.", f"hello {self.name}")

    def _ask(self):
        asked = [*self.known, *self.counts, *([None] if self.name else [])]
        kind = self.draw.random()
        if kind < 0.08:
            return self._say("who are you?", f"I am {self.assistant}" if self.assistant else NOBODY)
        if kind < 0.15 or not asked:
            subject, topic = self.draw.choice([(one, number) for one in SUBJECTS for number in range(len(TOPICS)) if (one, number) not in self.known])
            return self._say(_question(self.draw, subject, topic), UNTOLD)
        one = self.draw.choice(asked)
        if one is None:
            return self._say(self.draw.choice(("what is my name?", "who am I?")), f"you are {self.name}")
        if isinstance(one, str):
            return self._say(f"how many {one} do I have?", f"you have {NUMBERS[self.counts[one]]} {one}")
        subject, topic = one
        of = TOPICS[topic]
        self._say(_question(self.draw, subject, topic),
                  f"{'you' if subject == 'I' else subject.replace('my', 'your')} {of.verb[subject != 'I']} {of.answer.format('', self.known[one])}")


def _who(subject, topic):
    return f"{subject} {TOPICS[topic].verb[subject != 'I']}"


def _question(draw, subject, topic):
    return f"{draw.choice(TOPICS[topic].asked).format(('do' if subject == 'I' else 'does') + ' ' + subject)}?"
