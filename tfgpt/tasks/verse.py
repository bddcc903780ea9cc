"""Verse: couplets that rhyme and scan, written by a language model, of whose samples an auxiliary head picks.

Each record of yours is a poem, or several with blank lines between stanzas. Each line is learned by itself and, if it rhymes with the one before, behind that
too. Beside the language model a head reads at the end of each line its rhyme class and which of its syllables are stressed, as the CMU Pronouncing Dictionary
has them. To write, many second lines are drawn, and the one is taken that the head hears to rhyme with the first and to scan alike. The head goes by how a line
is spelt, and so needs no dictionary. A line with a word that the dictionary does not have is not learned; one longer than a sequence keeps its last tokens.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tfgpt.data.examples import SEPARATOR, Fields, UnusableError
from tfgpt.evaluation.metrics import Metric, ratio
from tfgpt.generation.results import Continuation
from tfgpt.generation.text_model import TextModel
from tfgpt.recipe import TaskConfig
from tfgpt.recipe_task import VerseConfig
from tfgpt.tasks.task import Task, as_in_training
from tfgpt.text.prosody import agreeing, rhyme_together, scan, unknown_word, words_of

RHYME, BEAT, SYLLABLES = "rhyme ", "beat ", "syllables "
"""What the labels begin with: a line's rhyme class, each stressed syllable, and how many syllables there are."""
MOST_SYLLABLES = 20
"""Of a line that is learned."""
WRITTEN_TOKENS = 48
"""The most of a line."""
TEMPERATURE, TOP_P = 1.0, 0.95
BATCH = 32
"""Lines that are answered together, each with all its candidates."""
FLOOR = 1e-6
"""The least probability that the head is believed."""


class Heard(NamedTuple):
    """What the head hears of a line."""

    rhyme: str
    """The likeliest rhyme class, such as AY T."""
    stresses: str
    """Of each syllable: 1 = stressed, 0 = not."""


class Line(NamedTuple):
    """A line that answers another."""

    text: str
    rhymes: float
    """How likely it is, by the head, that the two are of one rhyme class."""
    scans: float
    """How likely it is, by the head, that a syllable is stressed as in the line before: the geometric mean over as many as a line may have."""
    log_prob: float
    """Of the text, nats a token."""


class Poet:
    """Writes couplets with a model that was trained for it.

    Args:
        text_model: the model, as of `tfgpt.load_text_model("runs/verse")`.
        candidates: lines that are drawn for one that is taken; 1 = the first is, whatever the head hears.

    Raises:
        ValueError: a model without a head for labels.

    >>> from tfgpt.models.surgery import add_head
    >>> from tfgpt.recipe import HeadConfig
    >>> text_model = TextModel(add_head(model, HeadConfig("labels"), ["beat 2|rhyme AY T|syllables 2", "beat 1|rhyme IY|syllables 1"]), tokenizer)
    >>> poet = Poet(text_model, candidates=4)
    >>> poet.answer("The night", seed=1) == poet.answer("The night", seed=1)
    True
    """

    def __init__(self, text_model: TextModel, candidates: int = VerseConfig.candidates):
        if text_model.model.adaptation.head.kind != "labels":
            raise ValueError(f"poet: the model's head is of kind {text_model.model.adaptation.head.kind}, and hears no rhymes; train one with task.kind: verse "
                             "and adapt.head.kind: labels")
        self._text_model, self._candidates = text_model, candidates
        labels = text_model.model.adaptation.head.labels
        self._classes = [label.removeprefix(RHYME) for label in labels if label.startswith(RHYME)]
        self._of_rhyme = np.array([label.startswith(RHYME) for label in labels])
        self._places = {label: place for place, label in enumerate(labels)}

    def hear(self, lines: Sequence[str], batch_size: int = BATCH) -> list[Heard]:
        """Return what the head hears of lines."""
        found = []
        for scores in self._scores(lines, batch_size):
            count = max(range(1, MOST_SYLLABLES + 1), key=lambda syllables, scores=scores: self._score(scores, f"{SYLLABLES}{syllables}"))
            beats = "".join("1" if self._score(scores, f"{BEAT}{place}") > 0.5 else "0" for place in range(1, count + 1))
            rhyme = self._classes[int(scores[self._of_rhyme].argmax())] if self._classes else ""
            found.append(Heard(rhyme, beats))
        return found

    def answer(self, line: str, seed: int = 0, temperature: float = TEMPERATURE, top_p: float = TOP_P) -> Line:
        """Write the line that follows on one and rhymes with it.

        Args:
            line: the first of the couplet.
            seed: of the draws; another seed gives another line.
            temperature: of the draws; 0 = always the likeliest token.
            top_p: of the likeliest tokens, which so much of the probability is with; 1 = all.

        Raises:
            ValueError: a line of no text; a control out of its range.
        """
        return self.ranked([line], [seed], temperature, top_p)[0][0]

    def couplets(self, count: int, seed: int = 0, temperature: float = TEMPERATURE, top_p: float = TOP_P) -> list[tuple[str, str]]:
        """Write couplets from nothing; see `answer` for the arguments.

        Raises:
            ValueError: fewer couplets than 0; the model draws no words to begin with; a control out of its range.
        """
        if count < 0:
            raise ValueError(f"count: {count} couplets; give 0 or more")
        seeds = [seed + number * self._candidates for number in range(count)]
        drawn = drawn_lines(self._text_model, [""] * count, seeds, self._candidates, temperature, top_p)
        first = [next((one.text for one in of_line if words_of(one.text)), "") for of_line in drawn]
        if not all(first):
            raise ValueError(f"poet: none of {self._candidates} lines that were drawn to begin with has words; give more candidates, or another seed")
        return [(line, answers[0].text) for line, answers in zip(first, self.ranked(first, seeds, temperature, top_p))]

    def ranked(self, lines: Sequence[str], seeds: Sequence[int], temperature: float = TEMPERATURE, top_p: float = TOP_P,
               batch_size: int = BATCH) -> list[list[Line]]:
        """Return of each line the candidates to follow on it, the best first; see `answer`."""
        if not all(line.strip() for line in lines):
            raise ValueError("poet: a line without text; give one to follow on")
        drawn = drawn_lines(self._text_model, lines, seeds, self._candidates, temperature, top_p)
        # by itself: behind its first line a second one sounds as the metre and the rhyme of all poems want it, and not as it does
        heard, candidates = self._scores(lines, batch_size), iter(self._scores([one.text for of_line in drawn for one in of_line], batch_size))
        found = [[self._line(first, candidate, next(candidates)) for candidate in of_line] for first, of_line in zip(heard, drawn)]
        return [sorted(of_line, key=lambda one, line=line: _merit(one, line), reverse=True) for line, of_line in zip(lines, found)]

    def _line(self, first, candidate, second):
        """Return a candidate with what the head hears of it, float64 [labels], beside what it hears of the line before."""
        rhymes = float(_shares(first[self._of_rhyme]) @ _shares(second[self._of_rhyme])) if self._classes else 0.0
        beats, others = first[~self._of_rhyme], second[~self._of_rhyme]
        alike = beats * others + (1.0 - beats) * (1.0 - others)
        return Line(candidate.text, rhymes, float(np.exp(np.log(np.maximum(alike, FLOOR)).mean())), candidate.log_prob / max(candidate.token_count, 1))

    def _scores(self, texts, batch_size):
        """Return the probability of each label of each text, float64 [labels]."""
        return [np.array(found.scores) for found in self._text_model.classify(list(texts), batch_size=batch_size)]

    def _score(self, scores, label):
        return scores[self._places[label]] if label in self._places else 0.0


def drawn_lines(text_model: TextModel, lines: Sequence[str], seeds: Sequence[int], candidates: int, temperature: float = TEMPERATURE,
                top_p: float = TOP_P) -> list[list[Continuation]]:
    """Return so many lines behind each line, or to begin with behind an empty one, as the language model alone draws them."""
    prompts = [as_in_training(text_model, f"{line}\n" if line else "") for line in lines]
    drawn = text_model.generate(prompts, WRITTEN_TOKENS, samples=candidates, stop=["\n"], seed=list(seeds), temperature=temperature, top_p=top_p,
                                min_new_tokens=2)
    drawn = [one._replace(text=one.text.strip()) for one in drawn]
    return [drawn[start : start + candidates] for start in range(0, len(drawn), candidates)]


def _merit(candidate, line):
    """Return what lines behind another are sorted by: the same last word is no rhyme."""
    ends = [words_of(one)[-1:] for one in (candidate.text, line)]
    scale = MOST_SYLLABLES * np.log(max(candidate.scans, FLOOR))
    return (bool(ends[0]) and ends[0] != ends[1], np.log(max(candidate.rhymes, FLOOR)) + scale + candidate.log_prob)


def _shares(scores):
    scores = np.maximum(scores, FLOOR)
    return scores / scores.sum()


def _records(fields: Fields, config: TaskConfig) -> Iterable[dict]:
    lines = [line.strip() for line in fields.text("text").splitlines()]
    if not any(lines):
        return []
    records, place = [], 0
    while place < len(lines):
        pair = lines[place : place + 2]
        if len(pair) == 2 and all(map(_is_learned, pair)) and rhyme_together(*pair):
            records += [_record(pair[0]), _record(pair[1]), _record(pair[1], before=pair[0])]
            place += 2
        else:
            learned = _is_learned(pair[0])
            records += [_record(pair[0])] if learned else []
            fields.leave_out("lines of verse that cannot be scanned", bool(pair[0]) and not learned)
            place += 1
    if not records:
        word = next(filter(None, map(unknown_word, lines)), None)
        problem = f"no line can be scanned, since the dictionary has no word {word!r}" if word else f"no line has {MOST_SYLLABLES} syllables at most"
        raise UnusableError("nothing to scan", problem, "give lines of English verse")
    text = "\n".join(lines)
    return [record | {"group": text} for record in records]


def _is_learned(line):
    scansion = scan(line)
    return scansion is not None and len(scansion.stresses) <= MOST_SYLLABLES


def _record(line, before=""):
    """Return the record of a line; a text of two lines where it rhymes with the one before."""
    scansion = scan(line)
    beats = [f"{BEAT}{place}" for place, stress in enumerate(scansion.stresses, 1) if stress == "1"]
    labels = sorted([RHYME + scansion.rhyme, f"{SYLLABLES}{len(scansion.stresses)}", *beats])
    return {"text": f"{before}\n{line}" if before else line, "label": SEPARATOR.join(labels), "before": before, "line": line}


def _answers(text_model: TextModel, records: Sequence[dict], config: TaskConfig, batch_size: int, advance) -> list[dict]:
    poet, answers = Poet(text_model, config.verse.candidates), []
    for start in range(0, len(records), batch_size):
        some = records[start : start + batch_size]
        written = _written(some, start, poet.ranked)
        heard = poet.hear([record["line"] for record in some], batch_size)
        answers += [{"text": row[0].text if row else "", "heard_rhyme": of_line.rhyme, "heard_stresses": of_line.stresses}
                    | ({"rhymes": row[0].rhymes, "scans": row[0].scans} if row else {}) for row, of_line in zip(written, heard)]
        advance(len(some))
    return answers


def _written(records, start, write):
    """Return what `write` gives of the lines that records follow on; `None` for a record that follows on none."""
    asked = [place for place, record in enumerate(records) if record["before"]]
    found = write([records[place]["before"] for place in asked], [1000 * (start + place) for place in asked]) if asked else []
    by_place = dict(zip(asked, found))
    return [by_place.get(place) for place in range(len(records))]


def _metrics(records: Sequence[dict], answers: Sequence[dict]) -> dict[str, Metric]:
    asked = [float(bool(record["before"])) for record in records]
    rhymes = [float(bool(record["before"]) and rhyme_together(record["before"], answer["text"])) for record, answer in zip(records, answers)]
    of_line = [_stresses(record["before"], answer["text"]) if record["before"] else (0, 0) for record, answer in zip(records, answers)]
    found = {"rhyming couplets": ratio(rhymes, asked), "stress accuracy": ratio(*zip(*of_line))}
    if "heard_rhyme" in answers[0]:
        right = [scan(record["line"]) for record in records]
        found["rhymes heard"] = ratio([float(answer["heard_rhyme"] == one.rhyme) for one, answer in zip(right, answers)], [1.0] * len(right))
        found["stresses heard"] = ratio(*zip(*(agreeing(one.stresses, answer["heard_stresses"]) for one, answer in zip(right, answers))))
    return found


def _stresses(before, text):
    """Return how many syllables of a line are stressed as in the one before, and of how many; of a line that cannot be scanned none are."""
    first, second = scan(before), scan(text)
    return agreeing(first.stresses, second.stresses) if second else (0, len(first.stresses))


def _baselines(text_model: TextModel, train: Sequence[dict], held_out: Sequence[dict], config: TaskConfig) -> dict[str, list[dict]]:
    def likeliest(lines, seeds):
        drawn = drawn_lines(text_model, lines, seeds, config.verse.candidates)
        return [max(of_line, key=lambda one: one.log_prob / max(one.token_count, 1)) for of_line in drawn]

    def first(lines, seeds):
        return [one for [one] in drawn_lines(text_model, lines, seeds, 1)]

    answers = {}
    for name, write in (("the same model without the head, its likeliest sample", likeliest), ("the same model without the head, one sample", first)):
        answers[name] = []
        for start in range(0, len(held_out), BATCH):
            written = _written(held_out[start : start + BATCH], start, write)
            answers[name] += [{"text": row.text if row else ""} for row in written]
    return answers


TASK = Task(
    columns={"text": "a poem, or several: lines, with blank ones between stanzas"},
    examples="labels",
    records=_records,
    answers=_answers,
    metrics=_metrics,
    baselines=_baselines,
    shown="stress accuracy",
    packages=("pronouncing",),
    long_text=("cut",),
    heads=("labels",),
    reads_likelihood=True,
    labels=lambda record: record["label"].split(SEPARATOR),
)
