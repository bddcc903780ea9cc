"""Spelling: misspelt words, and words that are spelt rightly and were not meant, corrected by what a language model expects in their place.

Each record of yours is a text without errors; it is cut into sentences, on which the language model is trained. To measure with, errors are put into those
that are held out; or a second column says how each was written. A long text is corrected sentence by sentence, and a sentence of more than 40 words in parts,
so none is too long.
"""
from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tfgpt.data.examples import Fields, UnusableError
from tfgpt.data.misspellings import WORD, cased, confused_with, counted_words, is_held_out, misspellings, replaced, with_errors, words_in
from tfgpt.evaluation.metrics import Metric, ratio
from tfgpt.evaluation.text_metrics import exact_match, f_beta
from tfgpt.files import file_of_package
from tfgpt.generation.batches import batches, checked_texts
from tfgpt.generation.text_model import TextModel
from tfgpt.recipe import TaskConfig
from tfgpt.tasks.task import Task

SENTENCE = re.compile(r"\S.*?(?:[.!?](?=\s)|(?=\n\s*\n)|\Z)", re.DOTALL)
"""A text's first sentence: to its stop, a blank line or the end."""
LONGEST = 40
"""Words of a sentence that are weighed beside each other; of a longer one the parts are, or its time would grow with the square of its length."""
MOST_EDITS = 2
"""Letters that are wrong, missing, too many or exchanged with their neighbour, in a candidate for an unknown word."""
MOST_CANDIDATES = 12
"""For a word."""
ROUNDS = 2
"""Of weighing: in the second one each word is weighed among what the first found for the others."""


class Costs(NamedTuple):
    """How unlikely it is that a word was written where another was meant, in nats."""

    edit: float = 3.0
    """Of each edit of an unknown word."""
    listed: float = 2.0
    """Of a misspelling that is listed for what was meant."""
    confused: float = 5.0
    """Of one word for another that it is often taken for."""
    unknown: float = 8.0
    """That an unknown word is right: one that no dictionary has."""


class Change(NamedTuple):
    """A word that was corrected."""

    start: int
    """Characters of the text before it."""
    before: str
    after: str


class Correction(NamedTuple):
    """A text with its errors corrected."""

    text: str
    changes: tuple[Change, ...]


class SpellingCorrector:
    """Corrects spelling with a language model, best one that was trained on text of the same kind.

    Candidates come from a dictionary, by edits (symspellpy), from codespell's list, and from the words that are often taken for each other; the one wins for
    which the log-probability of its whole sentence, and of the error that would have been made, is highest. All candidates of all sentences of a text are
    weighed together, in two passes at most.

    Args:
        text_model: the model, as of `tfgpt.load_text_model("runs/spelling")`.
        words: that are right beside those of symspellpy's dictionary, with how often each is met; as of `learned_words("runs/spelling")`.
        typos: what may be meant by each misspelling that is known by heart; `None` = codespell's list.
        costs: of errors.

    >>> corrector = SpellingCorrector(TextModel(model, tokenizer))
    >>> corrector.correct("of teh cat.")
    Correction(text='of the cat.', changes=(Change(start=3, before='teh', after='the'),))
    """

    def __init__(self, text_model: TextModel, words: Mapping[str, int] | None = None, typos: Mapping[str, Sequence[str]] | None = None,
                 costs: Costs = Costs()):  # noqa: B008
        self._text_model, self._costs, self._typos = text_model, costs, misspellings() if typos is None else typos
        self._dictionary = Dictionary(words or {})

    def correct(self, text: str) -> Correction:
        """Correct a text of any length."""
        return self.correct_all([text])[0]

    def correct_all(self, texts: Sequence[str], batch_size: int = 64) -> list[Correction]:
        """Correct texts, all together.

        Args:
            texts: any.
            batch_size: sentences with one candidate each that are weighed together; changes the speed alone.
        """
        texts = checked_texts("correct_all: texts", texts, of=(str,))
        found: list[list[Change]] = [[] for _ in texts]
        places = [(number, start, _Sentence(part, self._candidates, begins)) for number, text in enumerate(texts) for start, part, begins in _parts(text)]
        open_ = [sentence for _, _, sentence in places if sentence.choices]
        for _ in range(ROUNDS):
            rows = [(sentence, *variant) for sentence in open_ for variant in sentence.variants()]
            order = sorted(range(len(rows)), key=lambda row: len(rows[row][1]))          # rows of a batch are as long as its longest
            scores = self._text_model.score([rows[row][1] for row in order], batch_size=batch_size) if rows else []
            for row, score in zip(order, scores):
                rows[row][0].weigh(*rows[row][2:], score.log_prob)
            open_ = [sentence for sentence in open_ if sentence.settle()]
        for number, start, sentence in places:
            found[number] += [change._replace(start=start + change.start) for change in sentence.changes()]
        return [Correction(_changed(text, changes), tuple(changes)) for text, changes in zip(texts, found)]

    def _candidates(self, word, begins):
        """Return what may be meant by a word, with the cost of each; nothing if it can only be itself.

        Args:
            word: as it is written.
            begins: whether a sentence does with it, where a capital tells nothing.
        """
        lower, costs = word.lower(), self._costs
        if not set(lower) <= self._dictionary.letters:                                   # of another language, or a name from there
            return {}
        is_name = not begins and word[0].isupper()                                       # unless it is a misspelling that is listed
        known = is_name or lower in self._dictionary
        found = {}
        if not known:
            found = {other: costs.edit * edits for other, edits in self._dictionary.nearest(lower)}
        found |= {other: min(costs.confused, found.get(other, costs.confused)) for other in confused_with().get(lower, ()) if known}
        found |= {meant: min(costs.listed, found.get(meant, costs.listed)) for meant in self._typos.get(lower, ())}
        right = 0.0 if known and lower not in self._typos else costs.unknown
        found = {cased(other, word): cost for other, cost in found.items()} | {word: right}
        return found if len(found) > 1 else {}


def _parts(text) -> Iterator[tuple[int, str, bool]]:
    """Yield how many characters of a text stand before each sentence, the sentence, and that it begins there; of long ones parts alike in length."""
    for sentence in SENTENCE.finditer(text):
        words = [word.start() for word in re.finditer(r"\S+", sentence[0])]
        count = max(-(-len(words) // LONGEST), 1)
        borders = [0, *(words[number * len(words) // count] for number in range(1, count)), len(sentence[0])]
        for start, end in itertools.pairwise(borders):
            yield sentence.start() + start, sentence[0][start:end], start == 0


class _Sentence:
    """A sentence and what its words may be."""

    def __init__(self, text, candidates_of, begins):
        self._text, self._words = text, list(words_in(text))
        self.choices = {number: found for number, word in enumerate(self._words) if (found := candidates_of(word[0], begins and number == 0))}
        self._chosen = {number: min(found, key=found.get) for number, found in self.choices.items()}
        self._weighed: dict[tuple[int, str], float] = {}

    def variants(self):
        """Yield the sentence with each candidate at its place and the chosen ones at the others, as (text, place, candidate)."""
        self._weighed = {}
        for number, found in self.choices.items():
            for word in found:
                yield self._with(self._chosen | {number: word}), number, word

    def weigh(self, number, word, log_prob):
        """Take what a variant's log-probability is."""
        self._weighed[number, word] = log_prob - self.choices[number][word]

    def settle(self):
        """Choose the best at each place; tell whether they must be weighed again, since more than one has changed what the others stand beside."""
        best = {number: max(found, key=lambda word, number=number: self._weighed[number, word]) for number, found in self.choices.items()}
        again = best != self._chosen and len(best) > 1
        self._chosen = best
        return again

    def changes(self):
        """Return the words that are chosen otherwise than they were written."""
        words = self._words
        return [Change(words[number].start(), words[number][0], word) for number, word in self._chosen.items() if word != words[number][0]]

    def _with(self, chosen):
        return _changed(self._text, [Change(self._words[number].start(), self._words[number][0], word) for number, word in chosen.items()])


def _changed(text, changes):
    pieces, end = [], 0
    for change in changes:
        pieces += [text[end : change.start], change.after]
        end = change.start + len(change.before)
    return "".join([*pieces, text[end:]])


def learned_words(run: str | Path) -> dict[str, int]:
    """Return how often each word stands in the training part of a run of this task.

    Raises:
        FileNotFoundError: the folder is not of such a run.
    """
    return json.loads((Path(run) / "records" / "learned.json").read_text("utf-8"))


class Dictionary:
    """symspellpy's dictionary of English, which is made once, and further words, which all together count as much as all of its own.

    Args:
        words: with how often each is met.

    >>> Dictionary({"zorblat": 1}).nearest("zorblot"), "zorblat" in Dictionary({})
    ([('zorblat', 1)], False)
    """

    def __init__(self, words: Mapping[str, int]):
        self._general, self._own = _english(), _made_of({word: count for word, count in words.items() if word not in _english().words})
        self._words, self._scale = words, sum(self._general.words.values()) / max(sum(words.values()), 1)
        self.letters = frozenset("'abcdefghijklmnopqrstuvwxyz").union(*words)
        """That its words are written with, and others are not to be judged by them."""

    def __contains__(self, word: str) -> bool:
        return word in self._general.words or word in self._words

    def nearest(self, word: str) -> list[tuple[str, int]]:
        """Return the words within `MOST_EDITS` edits, each with how many these are, the nearest first, and of those the most frequent."""
        from symspellpy import Verbosity

        found = [item for part in (self._general, self._own) for item in part.lookup(word, Verbosity.ALL, MOST_EDITS)]
        found.sort(key=lambda item: (item.distance, -self._count(item.term)))
        return [(item.term, item.distance) for item in found[:MOST_CANDIDATES]]

    def _count(self, word):
        return self._general.words.get(word, 0) + self._words.get(word, 0) * self._scale


def _made_of(words):
    from symspellpy import SymSpell

    made = SymSpell(MOST_EDITS)
    for word, count in words.items():
        made.create_dictionary_entry(word, count)
    return made


@functools.cache
def _english():
    lines = file_of_package("symspellpy", "frequency_dictionary_en_82_765.txt").read_text("utf-8-sig").splitlines()
    return _made_of({word: int(count) for word, count in (line.split() for line in lines)})


def _records(fields: Fields, config: TaskConfig) -> Iterable[dict]:
    text = fields.text("text")
    if not fields.has("written"):
        sentences = [" ".join(sentence.split()) for sentence in SENTENCE.findall(text)]
        kept = [sentence for sentence in sentences if len(WORD.findall(sentence)) > 1]
        fields.leave_out("sentences of one word or none", len(sentences) - len(kept))
        return [{"text": sentence, "written": with_errors(sentence), "group": text} for sentence in kept]
    written = fields.text("written")
    right, given = len(WORD.findall(text)), len(WORD.findall(written))
    if right != given:
        raise UnusableError("other number of words", f"{right} words in column {fields.name('text')!r} and {given} in {fields.name('written')!r}",
                            "write each word in its place, since errors are counted word by word")
    return [{"text": text, "written": written, "group": text}] if text.strip() else []


def _answers(text_model: TextModel, records: Sequence[dict], config: TaskConfig, batch_size: int, advance, learned: dict) -> list[dict]:
    known = {typo: meant for typo, meant in misspellings().items() if not is_held_out(typo)}
    corrector, answers = SpellingCorrector(text_model, learned, known), []
    for batch in batches(records, batch_size):
        found = corrector.correct_all([record["written"] for record in batch])
        answers += [{"text": correction.text} for correction in found]
        advance(len(found))
    return answers


def _metrics(records: Sequence[dict], answers: Sequence[dict]) -> dict[str, Metric]:
    counts = [_counts(record, answer["text"]) for record, answer in zip(records, answers)]
    hits, changed, wrong, broken, right = zip(*counts)
    return {"f0.5": f_beta(hits, changed, wrong, beta=0.5), "corrected": ratio(hits, wrong), "broken": ratio(broken, right, lower_is_better=True),
            "exact_match": exact_match([answer["text"] for answer in answers], [record["text"] for record in records])}


def _counts(record, text):
    """Return how many words were wrong and are right now; were changed; were wrong; were right and are wrong now; were right."""
    words = list(zip(*(WORD.findall(one) for one in (record["text"], record["written"], text)), strict=True))
    return (sum(right == now != written for right, written, now in words), sum(now != written for _, written, now in words),
            sum(right != written for right, written, _ in words), sum(right == written != now for right, written, now in words),
            sum(right == written for right, written, _ in words))


def _baselines(text_model: TextModel, train: Sequence[dict], held_out: Sequence[dict], config: TaskConfig) -> dict[str, list[dict]]:
    dictionary = Dictionary(counted_words(record["text"] for record in train))

    def nearest(match):
        lower = match[0].lower()
        found = [] if lower in dictionary or not set(lower) <= dictionary.letters else dictionary.nearest(lower)
        return cased(found[0][0], match[0]) if found else match[0]

    return {"symspellpy alone": [{"text": replaced(record["written"], nearest)} for record in held_out]}


TASK = Task(
    columns={"text": "a text without errors", "written": "the same as somebody wrote it, with as many words; may be left out"},
    examples="text",
    records=_records,
    answers=_answers,
    metrics=_metrics,
    baselines=_baselines,
    shown="f0.5",
    packages=("codespell_lib", "symspellpy"),
    long_text=("window",),
    learned=lambda records: counted_words(record["text"] for record in records),
)
