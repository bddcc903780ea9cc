"""Speech: the n-best list of any recogniser rescored by a language model of what is said here, and the intent of what is then taken for said.

Each record of yours has the text that was said, perhaps its intent, and the recogniser's list; what has no list is trained on. Case and punctuation are
nothing that is heard: the model reads words in lower case, and errors are counted between these. One model does both, a language model with a head.
"""
from __future__ import annotations

import dataclasses
import json
import math
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import regex

from tfgpt.data.examples import SEPARATOR, Example, Fields, UnusableError
from tfgpt.data.mishearings import misheard
from tfgpt.data.spoken import Recogniser, check_speech, hypotheses_of, read_wav
from tfgpt.evaluation.metrics import Metric, mean
from tfgpt.evaluation.text_baselines import linear
from tfgpt.evaluation.text_metrics import calibration_error, exact_match, word_error_rate
from tfgpt.generation.batches import batches
from tfgpt.generation.text_model import TextModel
from tfgpt.models.adaptation import Head
from tfgpt.recipe import RecipeError, TaskConfig
from tfgpt.tasks.classification import Classifier
from tfgpt.tasks.task import Task

WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+(?:'[\p{L}\p{M}\p{N}]+)*")
FORMS = 'write ["best", "second"], or [{"text": "best", "score": -3.5}, ...] with a score to each or to none'
LANGUAGE = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 8.0)
"""Weights of the language model that are tried: how far apart it then brings the hypotheses of a list, beside how far apart the recogniser has them."""
WORDS = (-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
"""Nats of the language model that are tried for each word: without them it takes what is short for likely."""
SHOWN = 5
"""Hypotheses of a list in answers.jsonl."""


class Hypothesis(NamedTuple):
    """What a recogniser may have heard."""

    text: str
    score: float | None = None
    """Its log-probability to the recogniser, or any number that is higher where it is surer; `None` = its place in the list says all."""


class Ranked(NamedTuple):
    """A hypothesis and what is thought of it."""

    text: str
    score: float
    """By which it is ranked."""
    recogniser: float
    """Its score to the recogniser, or minus the logarithm of its place in the list, from 1."""
    log_prob: float
    """To the language model, in nats."""


class Heard(NamedTuple):
    """What is taken for said."""

    text: str
    """The best hypothesis, as the recogniser wrote it."""
    intent: str | None
    """Of a model with a head."""
    probability: float | None
    """Of the intent, 0 to 1."""
    ranked: tuple[Ranked, ...]
    """All hypotheses, the best first; of equal ones that which the recogniser had first."""


@dataclass(frozen=True)
class Weights:
    """What counts in a hypothesis, as `tune` finds it: its rank is by the sum of all three."""

    recogniser: float = 1.0
    """Of the recogniser's score, or of minus the logarithm of its place."""
    language: float = 1.0
    """Of the language model's log-probability."""
    words: float = 0.0
    """For each word."""


class Rescorer:
    """Takes from a recogniser's list what was said, and reads its intent.

    Args:
        text_model: the model, as of `tfgpt.load_text_model("runs/speech")`; with a head for classes it reads intents.
        weights: as of `tuned_weights("runs/speech")`.

    >>> heard = Rescorer(TextModel(model, tokenizer)).rescore([["It was", "It was was was"]])[0]
    >>> heard.text, heard.intent, [one.recogniser.__round__(2) for one in heard.ranked]
    ('It was', None, [-0.0, -0.69])
    """

    def __init__(self, text_model: TextModel, weights: Weights = Weights()):
        self._text_model, self._weights = text_model, weights
        self._classifier = Classifier(text_model) if text_model.model.adaptation.head.kind in ("classes", "labels") else None

    def rescore(self, lists: Sequence[Sequence[str | Mapping | Hypothesis]], batch_size: int = 32) -> list[Heard]:
        """Rescore lists, each of one utterance.

        Args:
            lists: of each utterance its hypotheses, the best first: texts, or objects with `text` and `score`. One longer than the model's context is read
                in windows for its likelihood; its intent is read from its last tokens.
            batch_size: hypotheses that are read together; changes the speed alone.

        Raises:
            ValueError: a list that is none, empty, or of something else.
        """
        measured = measure_lists(self._text_model, [hypotheses_from(one) for one in lists], batch_size)
        found = [_ranked(one, self._weights) for one in measured]
        intents = self.intents([ranked[0].text for ranked in found], batch_size)
        return [Heard(ranked[0].text, *intent, ranked) for ranked, intent in zip(found, intents)]

    def intents(self, texts: Sequence[str], batch_size: int = 32) -> list[tuple[str | None, float | None]]:
        """Return the intent of each text with its probability; `None` twice of a model without a head."""
        if self._classifier is None:
            return [(None, None)] * len(texts)
        return [(row.label, row.probability) for row in self._classifier.classify([as_spoken(text) for text in texts], batch_size)]


def recognise(path: str | Path) -> list[str]:
    """Return what pocketsphinx takes a recording of one English utterance for: its n-best list, the best first.

    Args:
        path: a wav file of 16-bit samples at any rate, of a minute at most.

    Raises:
        RecipeError: pocketsphinx is not installed.
        FileNotFoundError: there is no such file.
        ValueError: it is no such recording.
    """
    check_speech("recognise", speaks=False)
    return Recogniser().hypotheses(read_wav(path))


def as_spoken(text: str) -> str:
    """Return the words of a text in lower case, without punctuation.

    >>> as_spoken("Don't turn  on the lights, please!")
    "don't turn on the lights please"
    """
    return " ".join(WORD.findall(unicodedata.normalize("NFC", text.lower()).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")))


def hypotheses_from(value: object) -> list[Hypothesis]:
    """Return the hypotheses of a list as JSON holds it, or of the text of that JSON.

    Raises:
        ValueError: it is none, empty, or some of its members are neither texts nor objects with a text and perhaps a finite score, to each or to none.

    >>> hypotheses_from('[{"text": "four", "score": -1}, {"text": "for", "score": -2.5}]')[1]
    Hypothesis(text='for', score=-2.5)
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"hypotheses: {value[:60]!r} is no list in JSON; {FORMS}") from error
    if not isinstance(value, list | tuple) or isinstance(value, Hypothesis):
        raise ValueError(f"hypotheses: a {type(value).__name__} is no list; {FORMS}")
    if not value:
        raise ValueError('hypotheses: the list is empty; write [""] where nothing was heard, and leave the list out where there is none')
    found = [_hypothesis(one, place) for place, one in enumerate(value)]
    if len({one.score is None for one in found}) > 1:
        raise ValueError(f"hypotheses: some have a score and others none; {FORMS}")
    return found


def _hypothesis(value, place):
    if isinstance(value, str):
        return Hypothesis(value)
    if isinstance(value, Hypothesis):
        value = value._asdict()
    if not isinstance(value, Mapping) or not isinstance(value.get("text"), str):
        what = f"an object with {', '.join(map(str, value)) or 'nothing'}" if isinstance(value, Mapping) else f"a {type(value).__name__}"
        raise ValueError(f"hypotheses: [{place}] is {what}, and no text or object with a text; {FORMS}")
    score = value.get("score")
    if score is not None and not (isinstance(score, int | float) and not isinstance(score, bool) and abs(score) <= sys.float_info.max):
        raise ValueError(f"hypotheses: [{place}] has the score {score!r:.40}, which is no finite number; {FORMS}")
    return Hypothesis(value["text"], score)


class Measured(NamedTuple):
    """A list of hypotheses, and what is known of each."""

    texts: tuple[str, ...]
    features: np.ndarray
    """float64 [hypotheses, 3]: what each of `Weights` is the weight of."""


def measure_lists(text_model: TextModel, lists: Sequence[Sequence[Hypothesis]], batch_size: int = 32) -> list[Measured]:
    """Return what is known of the hypotheses of lists: each different text is read once, texts of like length together."""
    words = {text: as_spoken(text) for one in lists for text, _ in one}
    order = sorted(set(words.values()), key=lambda text: (len(text), text))
    log_probs = dict(zip(order, (row.log_prob for row in text_model.score(order, batch_size=batch_size)))) if order else {}
    rows = []
    for one in lists:
        of_recogniser = [-math.log(place) if score is None else score for place, (_, score) in enumerate(one, 1)]
        features = [(score, log_probs[words[text]], len(words[text].split())) for (text, _), score in zip(one, of_recogniser)]
        rows.append(Measured(tuple(text for text, _ in one), np.array(features, np.float64)))
    return rows


def _ranked(measured, weights):
    scores = measured.features @ dataclasses.astuple(weights)
    return tuple(Ranked(measured.texts[place], float(scores[place]), *measured.features[place, :2].tolist()) for place in np.argsort(-scores, kind="stable"))


def tune(measured: Sequence[Measured], said: Sequence[str]) -> Weights:
    """Return the weights, of a small grid, with the fewest word errors: of those the ones that lean least on the language model.

    Args:
        measured: lists that nothing was trained on.
        said: of each what was said.

    >>> lists = [Measured(("right to", "write two"), np.array([[-1.0, -9.0, 2.0], [-1.2, -4.0, 2.0]]))]
    >>> tune(lists, ["write two"]).language > 0, tune(lists, ["right to"]).language
    (True, 0.0)
    """
    from rapidfuzz.distance import Levenshtein  # comes with jiwer

    if not measured:
        return Weights()
    errors = [np.array([Levenshtein.distance(as_spoken(text).split(), as_spoken(right).split()) for text in one.texts])
              for one, right in zip(measured, said, strict=True)]

    def wrong(weights):
        return sum(int(of_list[np.argmax(one.features @ dataclasses.astuple(weights))]) for one, of_list in zip(measured, errors))

    return min(_grid(measured), key=wrong)


def _grid(measured) -> Iterator[Weights]:
    """Yield weights to try, in units of how far apart the hypotheses of a list are, on average."""
    apart = np.mean([one.features.std(axis=0) for one in measured], axis=0)
    unit = float(apart[0] / apart[1]) if apart[0] > 0 and apart[1] > 0 else 1.0
    for share in LANGUAGE:
        yield from (Weights(1.0, share * unit, share * unit * nats) for nats in (sorted(WORDS, key=abs) if share else (0.0,)))
    yield from (Weights(0.0, 1.0, nats) for nats in sorted(WORDS, key=abs))


def tuned_weights(run: str | Path) -> Weights:
    """Return the weights that a run of this task has tuned.

    Raises:
        FileNotFoundError: the folder is not of such a run, or it is not evaluated yet.
    """
    return Weights(**json.loads((Path(run) / "tuned.json").read_text("utf-8")))


def _records(fields: Fields, config: TaskConfig) -> Iterable[dict]:
    text = as_spoken(fields.text("text"))
    if not text:
        return []
    record = {"text": text, "group": text}
    if config.speech.intents:
        record["label"] = fields.label("intent")
        if SEPARATOR in record["label"]:
            raise UnusableError("several intents", f"column {fields.name('intent')!r} holds {record['label']!r}, and not one intent", "write one name")
    if fields.has("hypotheses"):
        value = fields.value("hypotheses")
        try:
            found = hypotheses_from(value.tolist() if hasattr(value, "tolist") else value)
        except ValueError as error:
            raise UnusableError("no hypotheses", f"column {fields.name('hypotheses')!r}: {str(error).split('; ')[0]}", str(error).split("; ", 1)[1]) from error
        record["hypotheses"] = [one.text if one.score is None else one._asdict() for one in found]
    wrong = misheard(text, config.speech.misheard) if config.speech.intents else text
    copies = [{"text": wrong, "group": text, "label": record["label"], "misheard": True}] if wrong not in ("", text) else []
    return [record, *copies]


def _completed(records: Sequence[dict], config: TaskConfig, advance: Callable[[], None]) -> list[dict]:
    """Return held-out records with their lists: their own or, where none has one, lists of what is spoken; what has none is trained on."""
    records = [record for record in records if "misheard" not in record]
    if not any("hypotheses" in record for record in records):
        if not config.speech.spoken:
            raise RecipeError(f"task.columns.hypotheses: no record that is held out has a list of hypotheses (column "
                              f"{config.columns.get('hypotheses', 'hypotheses')!r}), so none can be rescored; give lists, or raise data.validation, or set "
                              "task.speech.spoken to how many texts are to be spoken and recognised here")
        count = min(config.speech.spoken, len(records))
        chosen = {place * len(records) // count for place in range(count)}
        lists = iter(hypotheses_of([records[place]["text"] for place in sorted(chosen)], "task.speech.spoken", advance))
        records = [record | ({"hypotheses": next(lists)} if place in chosen else {}) for place, record in enumerate(records)]
    return [record if "hypotheses" in record else record | {"split": "train"} for record in records]


def _tuned(text_model: TextModel, kept: Sequence[dict], config: TaskConfig, batch_size: int) -> dict:
    measured = measure_lists(text_model, [hypotheses_from(record["hypotheses"]) for record in kept], batch_size)
    return dataclasses.asdict(tune(measured, [record["text"] for record in kept]))


def _answers(text_model: TextModel, records: Sequence[dict], config: TaskConfig, batch_size: int, advance, tuned: dict) -> list[dict]:
    rescorer, answers = Rescorer(text_model, Weights(**tuned)), []
    for batch in batches(records, batch_size):
        lists = [record["hypotheses"] for record in batch]
        found, firsts = rescorer.rescore(lists, batch_size), rescorer.intents([hypotheses_from(one)[0].text for one in lists], batch_size)
        answers += [{"text": heard.text, "intent": heard.intent, "probability": heard.probability, "intent of the first": first,
                     "ranked": [one._asdict() for one in heard.ranked[:SHOWN]]} for heard, (first, _) in zip(found, firsts)]
        advance(len(found))
    return answers


def _metrics(records: Sequence[dict], answers: Sequence[dict]) -> dict[str, Metric]:
    said, heard = [record["text"] for record in records], [as_spoken(answer["text"]) for answer in answers]
    found = {"word error rate": word_error_rate(heard, said), "exact_match": exact_match(heard, said)}
    if "label" in records[0]:
        right = [answer["intent"] == record["label"] for record, answer in zip(records, answers)]
        found["intent accuracy"] = mean(np.array(right, np.float64))
        found["intent calibration error"] = calibration_error([answer["probability"] for answer in answers], right)
    if "ranked" not in answers[0]:
        return found
    if "label" in records[0]:
        found["intent accuracy, first"] = mean([float(answer["intent of the first"] == record["label"]) for record, answer in zip(records, answers)])
    return found | {"word error rate, oracle": word_error_rate([_oracle(record) for record in records], said)}


def _oracle(record):
    """Return the hypothesis with the fewest errors: no rescoring finds a better one."""
    from rapidfuzz.distance import Levenshtein

    right = record["text"].split()
    return min((as_spoken(one.text) for one in hypotheses_from(record["hypotheses"])), key=lambda text: Levenshtein.distance(text.split(), right))


def _baselines(text_model: TextModel, train: Sequence[dict], held_out: Sequence[dict], config: TaskConfig) -> dict[str, list[dict]]:
    firsts = [hypotheses_from(record["hypotheses"])[0].text for record in held_out]
    if not config.speech.intents:
        return {"the recogniser's first": [{"text": text} for text in firsts]}
    train = [record for record in train if "misheard" not in record]
    head = Head("classes", tuple(sorted({record["label"] for record in train})))
    _, findings = linear(head, _examples(train, [record["text"] for record in train]), _examples(held_out, map(as_spoken, firsts)))
    return {"the recogniser's first, TF-IDF": [{"text": text, "intent": head.labels[int(scores.argmax())], "probability": float(scores.max())}
                                               for text, scores in zip(firsts, findings.found)]}


def _examples(records, texts):
    return [Example(((text, False),), place="", label=record["label"]) for record, text in zip(records, texts)]


TASK = Task(
    columns={"text": "what was said", "intent": "what is wanted by it; none with task.speech.intents: false",
             "hypotheses": "the recogniser's n-best list, texts or objects with text and score; may be left out: such records are trained on"},
    examples=lambda config: "labels" if config.speech.intents else "text",
    records=_records,
    answers=_answers,
    metrics=_metrics,
    baselines=_baselines,
    shown="word error rate",
    packages=("jiwer",),
    long_text=("cut",),
    labels=lambda record: [record["label"]] if "label" in record else (),
    calibration=lambda config: config.speech.kept,
    completed=_completed,
    calibrated_on=lambda record: as_spoken(hypotheses_from(record["hypotheses"])[0].text),
    tuned=_tuned,
    reads_likelihood=True,
)
