"""Multiple choice by likelihood: which of a question's choices does a language model find likeliest, whether it was trained for it or not.

Source: Brown et al. 2020, "Language Models are Few-Shot Learners", section 2.4; the two ways of comparing are those of EleutherAI's harness (acc, acc_norm).
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tfgpt.data.corpus import all_examples
from tfgpt.data.intake import Account
from tfgpt.evaluation.metrics import Metric, mean
from tfgpt.generation.text_model import TextModel
from tfgpt.recipe import ColumnsConfig, DataConfig


@dataclass(frozen=True)
class Question:
    """A prompt, what may follow on it, and which is right."""

    prompt: str
    choices: tuple[str, ...]
    answer: int
    place: str = ""


@dataclass(frozen=True)
class Chosen:
    """What a model makes of a question."""

    question: Question
    log_probs: tuple[float, ...]
    """Of each choice behind the prompt, nats."""

    @property
    def likeliest(self) -> int:
        """The choice with the highest likelihood."""
        return int(np.argmax(self.log_probs))

    @property
    def likeliest_by_byte(self) -> int:
        """The choice with the highest likelihood a byte, so that a long one is not at a disadvantage."""
        sizes = [max(len(choice.encode()), 1) for choice in self.question.choices]
        return int(np.argmax(np.divide(self.log_probs, sizes)))


def read_questions(path: str, columns: ColumnsConfig | None = None, most: int = 0) -> list[Question]:
    """Return the questions of a file, or of what else data.path may be.

    Args:
        path: of JSONL or Parquet with the columns prompt, choices (a list of texts, each with the space it begins with) and answer (from 0).
        columns: other names of these.
        most: the first ones; 0 = all.

    Raises:
        RecipeError: a record that is no question; the message has its place.
    """
    config = DataConfig(path=path, examples="choice", columns=columns or ColumnsConfig(), length=2**16)
    questions = []
    for example in all_examples(config, Account()):
        (prompt, _), *choices = example.parts
        questions.append(Question(prompt, tuple(text for text, _ in choices), example.answer, example.place))
        if len(questions) == most:
            break
    return questions


def choose(text_model: TextModel, questions: Iterable[Question], batch_size: int = 16, advance: Callable[[int], None] = lambda count: None) -> Iterator[Chosen]:
    """Yield what a model makes of each question.

    A prompt that leaves too little room for a choice keeps its last tokens; each choice is tokenized apart from the prompt.

    Args:
        text_model: any; with an encoder the prompts are its sources.
        questions: any number of them, of any number of choices each.
        batch_size: choices that are weighed together.
        advance: called with how many questions were answered.

    Raises:
        ValueError: a choice longer than the context.

    >>> found = list(choose(TextModel(model, tokenizer), [Question("It", (" was", " is", " were"), answer=0)]))
    >>> len(found[0].log_probs), found[0].likeliest in (0, 1, 2)
    (3, True)
    """
    waiting: list[Question] = []
    for question in questions:
        waiting.append(question)
        if sum(len(one.choices) for one in waiting) >= batch_size:
            yield from _weighed(text_model, waiting, batch_size)
            advance(len(waiting))
            waiting = []
    if waiting:
        yield from _weighed(text_model, waiting, batch_size)
        advance(len(waiting))


def _weighed(text_model, questions, batch_size):
    prompts, choices = zip(*((question.prompt, choice) for question in questions for choice in question.choices))
    log_probs = [score.log_prob for score in text_model.score_targets(list(prompts), list(choices), batch_size)]
    for question in questions:
        of_question, log_probs = log_probs[: len(question.choices)], log_probs[len(question.choices) :]
        yield Chosen(question, tuple(of_question))


def metrics_of(chosen: Sequence[Chosen]) -> dict[str, Metric]:
    """Return `accuracy`, by likelihood, and `accuracy_by_byte`, by likelihood a byte."""
    return {"accuracy": mean([float(one.likeliest == one.question.answer) for one in chosen]),
            "accuracy_by_byte": mean([float(one.likeliest_by_byte == one.question.answer) for one in chosen])}


def baselines_of(questions: Sequence[Question]) -> dict[str, Metric]:
    """Return the accuracies of answers that need no model: any choice, the longest one, and the place that is most often right."""
    places = np.bincount([question.answer for question in questions])
    longest = [int(np.argmax([len(choice.encode()) for choice in question.choices])) for question in questions]
    return {"any choice": mean([1 / len(question.choices) for question in questions]),
            "the longest choice": mean([float(one == question.answer) for one, question in zip(longest, questions)]),
            "the place most often right": mean([float(question.answer == int(places.argmax())) for question in questions])}
