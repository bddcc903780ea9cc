"""What the `task` section of a recipe may say: which application the model is for, and how its records become text."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tfgpt.recipe_checks import check

TaskKind = Literal["none", "question_answering", "dialogue", "summarisation", "translation"]
"""The applications; each is a file of tfgpt/tasks."""


@dataclass(frozen=True)
class TaskConfig:
    """The application that a model is trained for, measured in and asked by."""

    kind: TaskKind = "none"
    """none = language modelling, or a head, as data.examples says; else what the records are, and how the held-out ones are answered and measured."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the columns of your file, by what the task calls them, such as {question: frage}; the others have the task's names."""
    template: str = ""
    """The prompt, with the names of the task's columns in braces where they are to stand; empty = the task's own."""
    long_text: Literal["auto", "window", "cut", "refuse"] = "auto"
    """What is done with a prompt too long for data.length: window = it is read in overlapping pieces, cut = it keeps its last tokens, refuse = the record
    is one that cannot be used (data.bad_records); auto = as the task does it best. What is cut or refused is counted in data/stats.json."""

    def __post_init__(self):
        given = self.columns or self.template or self.long_text != "auto"
        check(self.kind != "none" or not given, "task.kind: none, with other settings of a task, which nothing would read; set it to the task, or leave "
              "them out")
