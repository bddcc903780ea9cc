"""From records to examples: what the model is given, and what of it is trained on."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tfgpt.data.intake import Intake
from tfgpt.data.readers import Record
from tfgpt.recipe import ColumnsConfig, DataConfig, RecipeError, SourceConfig
from tfgpt.text.chat import DEFAULT_TEMPLATE, chat_parts, marks_what_is_trained_on


@dataclass(frozen=True, slots=True)
class Example:
    """A document that a model is trained on."""

    parts: tuple[tuple[str, bool], ...]
    """Its text in parts, each with whether it is trained on; tokenized part by part, so that a prompt has the tokens it has when asked."""
    place: str
    """File and line."""
    source_number: int = 0
    """Which of the recipe's sources it came from."""
    encoder_text: str | None = None
    """What an encoder reads."""
    label: str | None = None
    """The class of the text."""
    split: str = "train"
    offset: int = 0
    """Characters of the corpus that were read before it."""
    characters: int = 0
    """It had as it was read."""
    continues: bool = False
    """Whether it goes on with the document of the example before it: a section of a long text, which no end-of-text token opens."""
    unfinished: bool = False
    """Whether the next example goes on with its document, so that no end-of-text token closes it."""
    ends_in_word: bool = False
    """Whether a word is cut at its end."""

    @property
    def text(self) -> str:
        """All of its text, for hashes and lengths."""
        texts = [text for text, _ in self.parts]
        return "".join(texts) if self.encoder_text is None else "\n".join([self.encoder_text, *texts])


class UnusableError(ValueError):
    """A record that gives no example; holds the reason, by which it is counted, the problem and the remedy."""

    def __init__(self, reason: str, problem: str, remedy: str):
        super().__init__(problem)
        self.reason, self.problem, self.remedy = reason, problem, remedy


class ExampleMaker:
    """Makes examples of records as data.examples says.

    Args:
        config: of the data.
        chat_template: Jinja; empty = the default one.
    """

    def __init__(self, config: DataConfig, chat_template: str = ""):
        self._make: Callable = getattr(self, f"_{config.examples}")
        self._template = chat_template or config.chat_template or DEFAULT_TEMPLATE
        if config.examples == "chat" and not marks_what_is_trained_on(self._template):
            raise RecipeError("data.chat_template: the template (the tokenizer's own, if the recipe gives none) has no {% generation %} ... "
                              "{% endgeneration %} around what the assistant writes, so nothing would be trained on; add them")

    def make(self, record: Record, source: SourceConfig, number: int, intake: Intake) -> Example | None:
        """Return a record's example; `None` for one without text, or one that is refused and skipped.

        Raises:
            RecipeError: a record that cannot be used, where data.bad_records is refuse.
        """
        try:
            made = self._make(Fields(record, source.columns, intake))
        except UnusableError as error:
            intake.refuse(error.reason, record.place, error.problem, error.remedy)
            return None
        if record.continues:
            return Example(place=record.place, source_number=number, continues=True, **made)
        intake.account.documents_read += 1
        if made is None:
            intake.account.empty += 1
            return None
        return Example(place=record.place, source_number=number, **made)

    def _text(self, fields):
        text = fields.text("text")
        return {"parts": ((text, True),)} if fields.continues or text.strip() else None

    def _pairs(self, fields):
        prompt, target = fields.text("prompt"), fields.text("target")
        return {"parts": ((prompt, False), (target, True))} if target.strip() else None

    def _translation(self, fields):
        source, target = fields.text("source"), fields.text("target")
        return {"parts": ((target, True),), "encoder_text": source} if source.strip() and target.strip() else None

    def _labels(self, fields):
        text, label = fields.text("text"), fields.label("label")
        return {"parts": ((text, False),), "label": label} if text.strip() else None

    def _chat(self, fields):
        messages = fields.value("messages")
        if not isinstance(messages, list | tuple):
            raise UnusableError("no chat", f"column {fields.name('messages')!r} holds {_kind(messages)}, not a list of turns",
                                "write [{\"role\": \"user\", \"content\": \"...\"}, ...]")
        try:
            parts = chat_parts(messages, self._template) if messages else ()
        except ValueError as error:
            raise UnusableError("no chat", str(error), "each turn needs role and content, and one must be the assistant's") from error
        return {"parts": tuple((fields.mend(text), trained) for text, trained in parts)} if parts else None


class Fields:
    """The columns of a record, by the name of their use."""

    def __init__(self, record: Record, columns: ColumnsConfig, intake: Intake):
        self._record, self._columns, self._intake = record, columns, intake
        self.continues = record.continues

    def name(self, use: str) -> str:
        """Return the name of the column for a use such as `text`."""
        return getattr(self._columns, use)

    def value(self, use: str) -> object:
        """Return a value as it was read.

        Raises:
            UnusableError: there is no such column.
        """
        if self.name(use) not in self._record.fields:
            names = ", ".join(map(str, self._record.fields)) or "none"
            raise UnusableError("missing column", f"no column {self.name(use)!r} (columns: {names[:200]})", f"set data.columns.{use} to one of them")
        return self._record.fields[self.name(use)]

    def text(self, use: str) -> str:
        """Return a text; a missing value (null) is an empty one.

        Raises:
            UnusableError: there is no such column, or it holds no text.
        """
        value = self.value(use)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise UnusableError("no text", f"column {self.name(use)!r} holds {_kind(value)}, not text", "write it as text")
        return self.mend(value)

    def mend(self, text: str) -> str:
        """Return a text without half characters (see `Intake.mend`)."""
        return self._intake.mend(text, self._record.place)

    def label(self, use: str) -> str:
        """Return a label as text: a name, a number, true or false.

        Raises:
            UnusableError: there is no such column, or it holds no such value.
        """
        value = self.value(use)
        value = value.item() if getattr(value, "ndim", 1) == 0 else value  # a number of NumPy's
        label = self.mend(str(value)).strip() if isinstance(value, str | int | float | bool) else ""
        if not label or len(label.splitlines()) > 1:
            raise UnusableError("no label", f"column {self.name(use)!r} holds {_kind(value)}, not a label", "write a name of one line, or a number")
        return label


def _kind(value):
    if isinstance(value, str):
        return "a text" if value.strip() else "an empty text"
    names = {type(None): "nothing", dict: "an object", list: "a list", int: "a whole number", float: "a number"}
    return names.get(type(value), f"a {type(value).__name__}")
