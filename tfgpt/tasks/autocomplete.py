"""Auto-complete: the words that may be meant while they are typed, the words that may come next, and how the phrase may go on.

Each record of yours is a text; the language model is trained on it, and the held-out ones are typed letter by letter, as somebody would who takes a suggestion
wherever it is right. Of a text longer than the context the last tokens are read.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tfgpt.data.examples import Fields
from tfgpt.evaluation.metrics import Metric, ratio
from tfgpt.evaluation.text_metrics import mean_reciprocal_rank
from tfgpt.evaluation.word_ngram import PIECE, WordNgram
from tfgpt.generation.completing import LETTER, NUMBER, Expected, WordCompleter, kind_of
from tfgpt.generation.reading import Reader
from tfgpt.generation.text_model import TextModel
from tfgpt.recipe import TaskConfig
from tfgpt.tasks.task import Task

SHOWN = 3
"""Words that are suggested at a time."""
PHRASE_STEPS = 6
"""Tokens behind the likeliest word of which a phrase is made."""
LEAST_PHRASE = 0.02
"""Probability of the words behind the likeliest one, below which no phrase reaches."""
LEAST_WORD = 0.05
"""Probability of the likeliest word, below which it is no beginning of a phrase."""
RANKED = 10
"""Words among which the right next word is looked for, and those that are suggested are."""


class Suggestion(NamedTuple):
    """What may be meant."""

    text: str
    """The whole word, or the words of a phrase."""
    rest: str
    """What of it is not typed yet: what `Session.accept` appends."""
    probability: float
    """0 to 1, given what is typed; of a phrase that of all its words."""


class AutoCompleter:
    """Suggests words and phrases with a language model.

    Args:
        text_model: the model, as of `tfgpt.load_text_model("runs/autocomplete")`.
        most: words that are suggested at a time.

    Raises:
        ValueError: fewer words than 1; a model with an encoder, or with a context of less than 32 tokens.

    >>> session = AutoCompleter(TextModel(model, tokenizer)).session("It is th")
    >>> all(found.text == "th" + found.rest for found in session.suggestions)
    True
    """

    def __init__(self, text_model: TextModel, most: int = SHOWN):
        if most < 1:
            raise ValueError(f"most: {most} suggestions; give 1 or more")
        reader, texts = Reader(text_model.model, text_model.tokenizer.end_of_text), text_model.tokenizer.texts.numpy().tolist()
        self._completer, self._most = WordCompleter(reader, text_model.python_tokenizer, texts), most
        self.session(" ")  # what is traced and compiled by it no keystroke waits for

    def session(self, text: str = "") -> Session:
        """Return what keeps the state of one text that is typed; any number of them may be open."""
        return Session(self._completer.fresh(), self._most, text)


class Session:
    """A text while it is typed. Only what is new is read, so a keystroke takes the time of a few tokens.

    Args:
        completer: of this text alone.
        most: words that are suggested at a time.
        text: that is there already.
    """

    def __init__(self, completer: WordCompleter, most: int, text: str = ""):
        self._completer, self._most, self.text = completer, most, text
        self._onward: tuple[tuple[int, ...], dict] = ((), {})                            # the words behind which it is known how a phrase goes on
        self._suggest()

    @property
    def suggestions(self) -> tuple[Suggestion, ...]:
        """The likeliest words that begin with what is typed of the last one, or that may come next, the likeliest first.

        One that lacks a single letter, which is typed as soon as the word is accepted, stands there only where there are too few others.
        """
        return self._words

    @property
    def phrase(self) -> Suggestion | None:
        """The likeliest word with as many of the words that are then likely as save the most letters beside it; `None` where none is likely enough."""
        return self._phrase

    def type(self, characters: str) -> tuple[Suggestion, ...]:
        """Append characters, one or more, and return the suggestions."""
        self.text += characters
        self._suggest()
        return self.suggestions

    def erase(self, count: int = 1) -> tuple[Suggestion, ...]:
        """Take the last characters back, and return the suggestions."""
        self.text = self.text[: max(len(self.text) - count, 0)]
        self._suggest()
        return self.suggestions

    def accept(self, suggestion: Suggestion | int = 0) -> tuple[Suggestion, ...]:
        """Append the rest of a suggestion, or of the one with this number, and a space; return the next ones.

        Raises:
            ValueError: there is no such suggestion.
        """
        if isinstance(suggestion, int):
            if not 0 <= suggestion < len(self._words):
                raise ValueError(f"accept: there is no suggestion {suggestion}, and {len(self._words)} are made; give 0 to {len(self._words) - 1}")
            suggestion = self._words[suggestion]
        return self.type(suggestion.rest + " ")

    def next_words(self, most: int) -> list[str]:
        """Return the likeliest words, whatever they save, the likeliest first."""
        return [one.text.strip() for one in self._found(most)[1]]

    def _found(self, most):
        """Return what is typed of the last word, and what it may be."""
        typed, found = self._completer.words(self.text, most + 2)                        # some may be no words, or be typed already
        return typed, [one for one in found if kind_of(one.text[-1]) in (LETTER, NUMBER) and len(one.text) > len(typed)][:most]

    def _suggest(self):
        typed, found = self._found(max(self._most, RANKED))
        words = [Suggestion(one.text.strip(), one.text[len(typed) :], one.probability) for one in found]
        saving = sorted(words, key=lambda word: len(word.rest) == 1)[: self._most]       # else as they were, the likeliest first
        self._words = tuple(word for word in words if word in saving)
        self._phrase = self._continued(typed, words[0], found[0]) if words and words[0].probability > LEAST_WORD else None

    def _continued(self, typed, word: Suggestion, expected: Expected):
        """Return the phrase that goes on behind a word."""
        text, log_prob, ends = expected.text, 0.0, []
        for number, of_token in self._written(expected.ids):
            piece = self._completer.text_of(number)
            if not piece or kind_of(piece[0]) != kind_of(text[-1]):
                ends.append((text, log_prob))                                             # here a word is whole
            text, log_prob = text + piece, log_prob + of_token
            if not piece or "\n" in piece or "\ufffd" in piece or math.exp(log_prob) < LEAST_PHRASE:
                break
        further = [(one, of) for one, of in ends if one != expected.text and kind_of(one[-1]) in (LETTER, NUMBER)]
        if not further:
            return None
        # The word alone is suggested beside it, so what counts is what more is saved.
        whole, log_prob = max(further, key=lambda end: math.exp(end[1]) * (len(end[0]) - len(expected.text)))
        return Suggestion(whole.strip(), whole[len(typed) :], word.probability * math.exp(log_prob))

    def _written(self, ids):
        """Return the tokens that go on behind those of a word, each with its log-probability; while a word is typed they are asked for once."""
        committed, known = self._onward
        if committed != self._completer.committed:
            committed, known = self._onward = self._completer.committed, {}
        if ids not in known:
            known[ids] = list(zip(*(table[0].tolist() for table in self._completer.reader.written([ids], PHRASE_STEPS, LEAST_PHRASE))))
        return known[ids]


def keystrokes(target: str, offers: Callable[[str], Iterable[str]]) -> int:
    """Return how many keystrokes a text takes: a letter is one, and so is a suggestion with the space behind it, which is taken wherever that saves any.

    Args:
        target: the text.
        offers: gives, for what is typed, what would be appended by each suggestion, without the space.

    >>> keystrokes("the list", lambda typed: ["he"] if typed == "t" else ["list"] if typed == "the " else [])
    3
    """
    typed, count = "", 0
    while typed != target:
        left = target[len(typed) :]
        right = [rest for rest in offers(typed) if len(rest) > 1 and left.startswith(rest) and not left[len(rest) : len(rest) + 1].isalnum()]
        if right:
            typed += max(right, key=len)
            typed += " " if target[len(typed) : len(typed) + 1] == " " else ""
        else:
            typed += left[0]
        count += 1
    return count


def _words_of(text):
    """Yield each word behind a space or at the beginning, with the text before it."""
    for match in PIECE.finditer(text):
        if match[0][0].isalnum() and text[: match.start()][-1:] in ("", " "):
            yield text[: match.start()], match[0]


def _records(fields: Fields, config: TaskConfig) -> Iterable[dict]:
    text = " ".join(fields.text("text").split())
    return [{"text": text, "group": text}] if text else []


def _answers(text_model: TextModel, records: Sequence[dict], config: TaskConfig, batch_size: int, advance) -> list[dict]:
    session, answers, offered = AutoCompleter(text_model).session(), [], {}

    def offers(typed):
        if typed not in offered:
            session.text = typed
            session.type("")
            offered[typed] = [*(found.rest for found in session.suggestions), *([session.phrase.rest] if session.phrase else [])]
        return offered[typed]

    for record in records:
        ranks = []
        offered.clear()
        for before, word in _words_of(record["text"]):
            offers(before)                                                                # while what is behind it has been read
            ranks.append(_rank(session.next_words(RANKED), word))
        answers.append({"text": record["text"], "keystrokes": keystrokes(record["text"], offers), "ranks": ranks})
        advance(1)
    return answers


def _rank(words, word):
    return words.index(word) + 1 if word in words else 0


def _metrics(records: Sequence[dict], answers: Sequence[dict]) -> dict[str, Metric]:
    lengths = [len(record["text"]) for record in records]
    saved = [length - answer["keystrokes"] for length, answer in zip(lengths, answers)]
    ranks = [answer["ranks"] for answer in answers]
    return {"keystrokes_saved": ratio(saved, lengths), "mean_reciprocal_rank": mean_reciprocal_rank(ranks)}


def _baselines(text_model: TextModel, train: Sequence[dict], held_out: Sequence[dict], config: TaskConfig) -> dict[str, list[dict]]:
    ngram = WordNgram(record["text"] for record in train)

    def offers(typed):
        before, part = _at_word(typed)
        words = ngram.words(before, part, SHOWN)
        phrase = words[:1]
        while phrase and len(phrase) < 4 and (onward := ngram.words(f"{before} {' '.join(phrase)}", "", 1)) and onward[0][0].isalnum():
            phrase += onward
        return [word[len(part) :] for word in words] + [" ".join(phrase)[len(part) :]]

    answers = []
    for record in held_out:
        ranks = [_rank(ngram.words(before, "", RANKED), word) for before, word in _words_of(record["text"])]
        answers.append({"text": record["text"], "keystrokes": keystrokes(record["text"], offers), "ranks": ranks})
    return {"4-gram of words with back-off": answers}


def _at_word(typed):
    """Return what stands before the word that is being typed, and what is typed of it."""
    part = next((match[0] for match in PIECE.finditer(typed) if match.end() == len(typed) and match[0][0].isalnum()), "")
    return typed[: len(typed) - len(part)], part


TASK = Task(
    columns={"text": "a text as it would be typed"},
    examples="text",
    records=_records,
    answers=_answers,
    metrics=_metrics,
    baselines=_baselines,
    shown="keystrokes_saved",
    long_text=("cut",),
)
