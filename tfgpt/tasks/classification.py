"""Classification, sentiment and the like: one label a text, or any number, each with a probability that can be taken at its word.

Each record of yours has a text and its label, or several (a list, or a text with | between them; | alone for none). Either a head learns them
(adapt.head.kind: classes or labels), or a language model that has seen none compares what stands for the labels behind a prompt. A text that is too long
keeps its last tokens.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tfgpt.data.examples import SEPARATOR, Example, Fields, UnusableError
from tfgpt.evaluation.judging import Findings, calibration, figures_of, probability_of_right
from tfgpt.evaluation.metrics import Metric
from tfgpt.evaluation.text_baselines import linear, most_frequent
from tfgpt.generation.batches import batches, checked_texts
from tfgpt.generation.text_model import TextModel
from tfgpt.models.adaptation import Head
from tfgpt.models.heads import names_of
from tfgpt.recipe import TaskConfig
from tfgpt.recipe_task import ClassificationConfig
from tfgpt.tasks.task import Task, as_in_training, prompt_of, task_of

TEMPLATE = "{text} It was"


class Classified(NamedTuple):
    """What a text is found to be."""

    label: str
    """The likeliest; of a head that gives any number of labels those above one half with | between them, | alone for none."""
    probability: float
    """Of that label, 0 to 1; of several that of the least sure decision among all labels."""
    scores: dict[str, float]
    """The probability of each label; they sum to 1 where a text has one label."""
    before: dict[str, float]
    """The same before they were calibrated, or corrected by how likely the words are by themselves."""


class Classifier:
    """Classifies texts with a model whose head was trained for it or, given words for the labels, with any language model.

    Args:
        text_model: the model, as of `tfgpt.load_text_model("runs/classification")`.
        words: what stands for each label behind the prompt, such as {"positive": " good"}; `None` = the model's head finds the labels.
        template: of the prompt before these words.
        neutral: texts that say nothing, or any texts without labels: how likely the words are behind them is taken out of how likely they are behind a
            text; empty = the words are compared as they are.

    Raises:
        ValueError: no words, and a model without a head for classes or labels; fewer than two words.

    >>> classifier = Classifier(TextModel(model, tokenizer), words={"positive": " good", "negative": " bad"})
    >>> found = classifier.classify(["The film is fun."])[0]
    >>> found.label in ("positive", "negative"), round(sum(found.scores.values()), 5)
    (True, 1.0)
    """

    def __init__(self, text_model: TextModel, words: Mapping[str, str] | None = None, template: str = TEMPLATE,
                 neutral: Sequence[str] = ClassificationConfig().neutral):
        kind = text_model.model.adaptation.head.kind
        if words is None and kind not in ("classes", "labels"):
            raise ValueError(f"classifier: the model's head is of kind {kind}, and not classes or labels; give words for the labels, or train such a head")
        if words is not None and len(words) < 2:
            raise ValueError(f"classifier: {len(words)} words leave no choice; give two labels or more with what stands for each")
        self._text_model, self._words, self._neutral = text_model, dict(words or {}), tuple(neutral)
        self._config = TaskConfig("classification", template=template, classification=ClassificationConfig("words", self._words)) if words else None
        if self._config is not None:
            task_of(self._config)
        self._prior = self._log_probs(self._neutral, 32) if words and neutral else None

    def classify(self, texts: Sequence[str], batch_size: int = 32) -> list[Classified]:
        """Classify texts.

        Args:
            texts: any; one that is too long keeps its last tokens.
            batch_size: how many are read together; changes the speed alone.
        """
        texts = checked_texts("classify: texts", texts)
        return self._by_words(texts, batch_size) if self._words else self._by_head(texts, batch_size)

    def _by_head(self, texts, batch_size):
        head = self._text_model.model.adaptation.head
        rows = []
        for found in self._text_model.classify(texts, batch_size=batch_size):
            scores = np.array(found.scores)
            raw = _heated(scores, head.temperature, several=head.kind == "labels")
            label = found.label if head.kind == "classes" else SEPARATOR.join(found.label) or SEPARATOR
            probability = scores.max() if head.kind == "classes" else np.maximum(scores, 1.0 - scores).min()
            rows.append(Classified(label, float(probability), *(dict(zip(head.labels, one.tolist())) for one in (scores, raw))))
        return rows

    def _by_words(self, texts, batch_size):
        log_probs, rows = self._log_probs(texts, batch_size), []
        prior = 0.0 if self._prior is None else np.log(np.mean(_shares(self._prior), axis=0))
        for scores, before in zip(_shares(log_probs - prior), _shares(log_probs)):
            best = int(scores.argmax())
            rows.append(Classified(list(self._words)[best], float(scores[best]), *(dict(zip(self._words, one.tolist())) for one in (scores, before))))
        return rows

    def _log_probs(self, texts, batch_size):
        """Return the log-probability of the words behind each text, float64 [texts, words]."""
        prompts = [as_in_training(self._text_model, prompt_of(self._config, TASK, text=text).strip()) for text in texts]
        choices = self._text_model.choose(prompts, list(self._words.values()), batch_size)
        return np.array([choice.log_probs for choice in choices]).reshape(-1, len(self._words))


def _shares(log_probs):
    exponents = np.exp(log_probs - log_probs.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def _heated(scores, temperature, several):
    """Return the probabilities that become these at a temperature, float64 [labels]."""
    scores = np.clip(scores, 1e-30, 1.0)
    if several:
        odds = np.log(scores / np.maximum(1.0 - scores, 1e-30)) * temperature
        return 1.0 / (1.0 + np.exp(-np.clip(odds, -500.0, 500.0)))
    return _shares(np.log(scores)[np.newaxis] * temperature)[0]


def _records(fields: Fields, config: TaskConfig) -> Iterable[dict]:
    text, label, words = fields.text("text"), fields.label("label"), config.classification.words
    if not text.strip():
        return []
    if words and label not in words:
        raise UnusableError("label without a word", f"column {fields.name('label')!r} holds {label!r}, for which task.classification.words has nothing",
                            f"add it to {', '.join(words)}")
    return [{"text": text, "label": label, "group": text}]


def _answers(text_model: TextModel, records: Sequence[dict], config: TaskConfig, batch_size: int, advance) -> list[dict]:
    own = config.classification
    by_words = {"words": own.words, "template": config.template or TEMPLATE, "neutral": own.neutral} if own.by == "words" else {}
    classifier, answers = Classifier(text_model, **by_words), []
    for batch in batches(records, batch_size):
        found = classifier.classify([record["text"] for record in batch], batch_size)
        several = {} if own.by == "words" else {"several": text_model.model.adaptation.head.kind == "labels"}
        answers += [{"text": row.label, "confidence": row.probability, "scores": row.scores, "before": row.before} | several for row in found]
        advance(len(found))
    return answers


def _metrics(records: Sequence[dict], answers: Sequence[dict]) -> dict[str, Metric]:
    findings = _findings(records, answers, "scores")
    chosen = figures_of(findings, np.ones(len(records)))
    found = {name: Metric(lambda counts, name=name: figures_of(findings, counts)[name], len(records), lower_is_better=False)
             for name in ("accuracy", "macro F1") if name in chosen}
    found["accuracy"] = Metric(found["accuracy"].value_of, len(records), probability_of_right(findings), trials=len(records))
    found["calibration error"] = calibration(findings)
    if "before" in answers[0]:
        before = _findings(records, answers, "before")
        if "several" not in answers[0]:
            found["accuracy before"] = Metric(lambda counts: figures_of(before, counts)["accuracy"], len(records), trials=len(records))
        found["calibration error before"] = calibration(before)
    return found


def _findings(records, answers, key) -> Findings:
    """Return answers as the evaluation of heads has them."""
    labels = tuple(answers[0][key])
    head = Head("labels" if answers[0].get("several") else "classes", labels)
    return Findings(head, _right(head, records), np.array([[answer[key][label] for label in labels] for answer in answers]), np.arange(len(records)))


def _right(head, records):
    if head.kind == "labels":
        return np.array([[label in names_of(record["label"]) for label in head.labels] for record in records])
    return np.array([head.labels.index(record["label"]) for record in records])


def _baselines(text_model: TextModel, train: Sequence[dict], held_out: Sequence[dict], config: TaskConfig) -> dict[str, list[dict]]:
    several = any(len(names_of(record["label"])) != 1 for record in train)
    names = {name for record in train for name in (names_of(record["label"]) if several else [record["label"]])}
    head, of_train, of_held_out = Head("labels" if several else "classes", tuple(sorted(names))), _examples(train), _examples(held_out)
    name, findings = linear(head, of_train, of_held_out)
    found = {name: findings, "always the most frequent": most_frequent(head, of_train, of_held_out)}
    return {name: [_answer(head, row) for row in one.found] for name, one in found.items()}


def _examples(records):
    return [Example(((record["text"], False),), place="", label=record["label"]) for record in records]


def _answer(head, scores):
    if head.kind == "labels":
        text = SEPARATOR.join(label for label, score in zip(head.labels, scores) if score > 0.5) or SEPARATOR
    else:
        text = head.labels[int(scores.argmax())]
    return {"text": text, "scores": dict(zip(head.labels, scores.tolist())), "several": head.kind == "labels"}


TASK = Task(
    columns={"text": "the text", "label": "its label, or several: a list, or a text with | between them, | alone for none"},
    examples=lambda config: "labels" if config.classification.by == "head" else "text",
    records=_records,
    answers=_answers,
    metrics=_metrics,
    baselines=_baselines,
    shown="accuracy",
    long_text=("cut",),
    default_template=TEMPLATE,
    labels=lambda record: names_of(record["label"]),
    calibration=lambda config: config.classification.calibration if config.classification.by == "head" else 0.0,
)
