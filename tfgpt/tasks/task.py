"""What the pipeline knows of an application. Each file beside this one ends with such a `TASK`."""
from __future__ import annotations

import functools
import importlib
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tfgpt.data.examples import Fields
from tfgpt.evaluation.metrics import Metric
from tfgpt.recipe import HeadKind, RecipeError, TaskConfig
from tfgpt.recipe_data import Examples, LongPairs

if TYPE_CHECKING:
    from tfgpt.generation.text_model import TextModel

Advance = Callable[[int], None]
LongText = Literal["window", "cut", "refuse"]
MARK = "\0"
"""Stands in no template."""


@dataclass(frozen=True)
class Task:
    """An application.

    A record of the task is a dict of what JSON holds: the columns that `examples` wants (prompt and target for pairs, text for text, ...), and whatever else
    its metrics compare answers with. An answer is a dict too, with `text` at least.
    """

    columns: Mapping[str, str]
    """What each column of a user's record holds, by the name that the task gives it."""
    examples: Examples | Callable[[TaskConfig], Examples]
    """What its records are to the data (data.examples), or what gives that."""
    records: Callable[[Fields, TaskConfig], Iterable[dict]]
    """Gives the task's records of one of a user's, any number of them, all of which belong to one split; a record may have a `group`, a text, and all records
    of a group then belong to one split. Raises `UnusableError` for one that cannot be used."""
    answers: Callable[..., list[dict]]
    """Gives the model's answer to each record; takes the `TextModel`, the records, the `TaskConfig`, how many are answered together, and an `Advance` to be
    called with how many were answered since. With `learned` or `tuned` it takes what that gave by this name."""
    metrics: Callable[[Sequence[dict], Sequence[dict]], dict[str, Metric]]
    """Gives the metrics of answers to records."""
    baselines: Callable[[TextModel, Sequence[dict], Sequence[dict], TaskConfig], dict[str, list[dict]]]
    """Gives, by the name of each plain baseline, its answers to the second records, having learned from the first; of the model it may have the tokenizer."""
    shown: str
    """The metric by which the best and the worst answers are picked for the report."""
    packages: tuple[str, ...] = ()
    """Modules that are needed beside what every installation has."""
    long_text: tuple[LongText, ...] = ("cut", "refuse")
    """What may be done with a prompt that is too long; the first is what `auto` means."""
    long_pairs: Mapping[LongText, LongPairs] = field(default_factory=dict)
    """What data.long_pairs then is, where it is not the same or, of what goes by no such name, pieces."""
    record_columns: Mapping[str, str] = field(default_factory=dict)
    """Columns of its records that have other names than data.columns."""
    encoder_columns: Mapping[str, str] | None = None
    """The columns of its records by which they are translations, for a model with an encoder (adapt.encoder); `None` = it takes no such model."""
    default_template: str = ""
    """The prompt, unless a recipe gives another; empty = the task takes none."""
    labels: Callable[[dict], Iterable[str]] = lambda record: ()
    """Gives what a record must not have unless a training record has it too, since it could never be found."""
    calibration: Callable[[TaskConfig], float] = lambda config: 0.0
    """Gives the share of the records for training that are kept for calibration, in a file of their own."""
    calibrated_on: Callable[[dict], str] = lambda record: record["text"]
    """Gives the text of a record kept for calibration by which a head is made as sure as it is right."""
    completed: Callable[[Sequence[dict], TaskConfig, Callable[[], None]], list[dict]] | None = None
    """Gives all records that are held out or kept for calibration, with what is to be known of these alone, since it takes long, and without those that are
    there for training alone; one whose `split` it makes train is trained on. Takes what is to be called after each that took long."""
    tuned: Callable[[TextModel, Sequence[dict], TaskConfig, int], object] | None = None
    """Gives, of the trained model and the records kept for calibration, how it answers best, of what JSON holds; takes how many are read together. It is kept
    in tuned.json, and `answers` takes it by this name."""
    heads: tuple[HeadKind, ...] = ()
    """Kinds of the head that it is learned by, where not all do that fit its examples."""
    reads_likelihood: bool = False
    """Whether it asks the language model even where a head is trained, whose weight must then be below 1."""
    learned: Callable[[Sequence[dict]], object] | None = None
    """Gives, of the records for training, what its answers need beside the model, of what JSON holds; it is kept in records/learned.json."""


def task_of(config: TaskConfig) -> Task:
    """Return a recipe's task, its settings checked.

    Raises:
        RecipeError: a column or template that the task does not have, or a treatment of long text that it does not know.
    """
    task: Task = importlib.import_module(f"tfgpt.tasks.{config.kind}").TASK
    for name, column in config.columns.items():
        if name not in task.columns:
            raise RecipeError(f"task.columns: {name} ({column}) is none that {config.kind} has; it has {', '.join(task.columns)}")
    if config.long_text != "auto" and config.long_text not in task.long_text:
        raise RecipeError(f"task.long_text: {config.long_text} is nothing that {config.kind} can do; set it to auto or {' or '.join(task.long_text)}")
    if config.template:
        _check_template(config, task)
    return task


def _check_template(config, task):
    if not task.default_template:
        raise RecipeError(f"task.template: {config.template!r}, and {config.kind} has no prompt that a template makes; leave it out")
    try:
        named = {name for _, name, _, _ in string.Formatter().parse(config.template) if name is not None}
    except ValueError as error:
        raise RecipeError(f"task.template: {config.template!r} is no template ({error}); write {{{{ and }}}} for braces that are meant") from error
    if unknown := sorted(named - _names_in(task.default_template)):
        raise RecipeError(f"task.template: {{{unknown[0]}}} is nothing that a prompt of {config.kind} holds; use {sorted(_names_in(task.default_template))}")
    wanted = next(name for name in task.columns if name in _names_in(task.default_template))
    if wanted not in named:
        raise RecipeError(f"task.template: {config.template!r} holds {{{wanted}}} 0 times; write it once, or all prompts would be alike")


@functools.cache
def _names_in(template):
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def examples_of(config: TaskConfig, task: Task) -> Examples:
    """Return what a task's records are to the data."""
    return task.examples(config) if callable(task.examples) else task.examples


def long_text_of(config: TaskConfig, task: Task) -> LongText:
    """Return what is done with a prompt that is too long."""
    return task.long_text[0] if config.long_text == "auto" else config.long_text


def prompt_of(config: TaskConfig, task: Task, **values: str) -> str:
    """Return a prompt by the recipe's template, or the task's own."""
    return (config.template or task.default_template).format(**values)


def as_in_training(text_model, prompt: str) -> str:
    """Return a prompt as a task asks with it: from an end-of-text token on, as each document is read in training; with an encoder as it is.

    A model that was trained on short documents alone has seen no other beginning: translations went from 17 to 100 % right by it.
    """
    return prompt if text_model.model.encoder is not None else text_model.python_tokenizer.eos_token + prompt


def around(template: str, name: str) -> tuple[str, str]:
    """Return what stands before and behind a value in a prompt's template.

    Raises:
        RecipeError: it does not stand there once.

    >>> around("Text: {text}\\nSummary:", "text")
    ('Text: ', '\\nSummary:')
    """
    parts = template.format_map({name: MARK}).split(MARK)
    if len(parts) != 2:
        raise RecipeError(f"task.template: {template!r} holds {{{name}}} {len(parts) - 1} times; write it once")
    return parts[0], parts[1]
