"""What the `task` section of a recipe may say: which application the model is for, and how its records become text."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tfgpt.recipe_checks import check, check_at_least, check_choices

TaskKind = Literal["none", "autocomplete", "classification", "code", "dialogue", "generation", "question_answering", "speech", "spelling",
                   "summarisation", "translation", "verse"]  # fmt: skip
"""The applications; each is a file of tfgpt/tasks."""


@dataclass(frozen=True)
class ClassificationConfig:
    """How texts are classified."""

    by: Literal["head", "words"] = "head"
    """head = by what adapt.head.kind classes or labels has learned from labelled texts; words = without any label in training, by which of
    task.classification.words a language model takes for likeliest behind the prompt (task.template), beside how likely each is behind no text at all."""
    words: dict[str, str] = field(default_factory=dict)
    """What stands for each label behind the prompt, such as {positive: " good", negative: " bad"}; with by: words alone."""
    neutral: tuple[str, ...] = ("", "N/A", "...")
    """Texts that say nothing, behind which each of the words is as likely as it is by itself (Zhao et al. 2021, "Calibrate Before Use"); empty = the words
    are compared as they are. With by: words alone."""
    calibration: float = 0.1
    """Share of the records for training that are not trained on, but show how sure the head may be (see `tfgpt.evaluation.calibration`); 0 = none, and
    probabilities are as the training leaves them. With by: head alone."""

    def __post_init__(self):
        check_choices("task.classification", self)
        check(self.by == "head" or len(self.words) >= 2, f"task.classification.words: {len(self.words)} labels leave no choice; give what stands for each of "
              "two labels or more, such as {positive: \" good\", negative: \" bad\"}")
        check(self.by == "words" or not self.words, "task.classification.words: given, and task.classification.by is head; set it to words")
        check(all(self.words.values()), f"task.classification.words: {self.words} has an empty one; give a text to each label")
        check(0 <= self.calibration < 1, f"task.classification.calibration: {self.calibration} is not in [0, 1); 0.1 keeps a tenth, 0 none")


@dataclass(frozen=True)
class VerseConfig:
    """How verse is written."""

    candidates: int = 16
    """Lines that are drawn for one that is taken, by what the head hears of its rhyme and its stresses."""

    def __post_init__(self):
        check_at_least("task.verse.candidates", self.candidates, 1)


@dataclass(frozen=True)
class SpeechConfig:
    """How a recogniser's lists are rescored."""

    intents: bool = True
    """Whether records have intents, which a head learns (adapt.head.kind: classes, adapt.head.weight below 1); false = lists are rescored alone."""
    kept: float = 0.1
    """Share of the records for training that are not trained on, but show how much the language model is to count beside the recogniser, and how sure the
    head may be; 0 = none: both count alike, and probabilities are as the training leaves them."""
    misheard: float = 0.3
    """Share of the words that are wrong in a second copy of each record for training, from which the head learns to read intents in spite of errors; 0 = no
    such copies. With intents alone."""
    spoken: int = 0
    """Where no record has a list of hypotheses: of how many texts, evenly from those that are held out or kept, one is made by espeak-ng and pocketsphinx,
    a second of work each; the others of them are trained on. 0 = none."""

    def __post_init__(self):
        check(0 <= self.kept < 1, f"task.speech.kept: {self.kept} is not in [0, 1); 0.1 keeps a tenth, 0 none")
        check(0 <= self.misheard < 1, f"task.speech.misheard: {self.misheard} is not in [0, 1); 0.3 mishears three words in ten, 0 none")
        check(self.spoken >= 0, f"task.speech.spoken: {self.spoken} is negative; give a number of texts, or 0")


GAP_MARKS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
"""What stands before the code before a gap, before the code behind it, and before what is missing."""


@dataclass(frozen=True)
class CodeConfig:
    """How code is completed."""

    gaps: float = 0.0
    """Share of the segments in training of which a line, or the rest of one, is moved to the end behind marks, which tokenizer.special_tokens must then hold:
    the model learns to fill it in, given enough steps. 0 = none, and of the likeliest next lines the one is filled in that makes what follows likeliest."""

    def __post_init__(self):
        check(0 <= self.gaps <= 1, f"task.code.gaps: {self.gaps} is not between 0 and 1; 0.5 is usual for large models, 0 moves nothing")


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
    classification: ClassificationConfig = field(default_factory=ClassificationConfig)
    code: CodeConfig = field(default_factory=CodeConfig)
    verse: VerseConfig = field(default_factory=VerseConfig)
    speech: SpeechConfig = field(default_factory=SpeechConfig)

    def __post_init__(self):
        check_choices("task", self)
        given = self.columns or self.template or self.long_text != "auto"
        check(self.kind != "none" or not given, "task.kind: none, with other settings of a task, which nothing would read; set it to the task, or leave "
              "them out")
        of_words = self.kind == "classification" and self.classification.by == "words"
        check(self.kind == "classification" or self.classification == ClassificationConfig(), f"task.classification: given, and task.kind is {self.kind}; "
              "leave it out")
        for kind, config, default in (("code", self.code, CodeConfig()), ("verse", self.verse, VerseConfig()), ("speech", self.speech, SpeechConfig())):
            check(self.kind == kind or config == default, f"task.{kind}: given, and task.kind is {self.kind}; leave it out")
        check(self.kind != "classification" or of_words or not self.template, f"task.template: {self.template!r}, and a head reads the text alone; leave it "
              "out, or set task.classification.by to words")
