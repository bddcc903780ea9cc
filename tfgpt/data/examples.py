"""From records to examples: what the model is given, and what of it is trained on."""
from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

from tfgpt.data.intake import Intake
from tfgpt.data.readers import Record
from tfgpt.recipe import ColumnsConfig, DataConfig, RecipeError, SourceConfig
from tfgpt.text.chat import DEFAULT_TEMPLATE, chat_parts, marks_what_is_trained_on

LARGEST = 3.4028234663852886e38
"""Of the numbers that float32 can hold."""
SPLITS = ("train", "validation", "test")
SEPARATOR = "|"
"""Between the classes of a text that has any number of them; alone for none."""


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
    """The class of the text, its classes with `SEPARATOR` between them, or its number."""
    tags: tuple[str | None, ...] | None = None
    """The class of each part, a word; `None` = not judged."""
    answer: int | None = None
    """Which of the parts behind the first, the prompt, is right."""
    split: str = ""
    """train, validation or test; empty = it is not known yet."""
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

    @property
    def documents(self) -> list[tuple[tuple[str, bool], ...]]:
        """What is read apart from each other: the parts themselves, or the prompt with each of its choices."""
        return [self.parts] if self.answer is None else [(self.parts[0], choice) for choice in self.parts[1:]]

    @property
    def answer_count(self) -> int:
        """How many choices there are."""
        return len(self.parts) - 1

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names among which its labels are."""
        return tuple(tag for tag in self.tags or (self.label,) if tag is not None)


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
        self._template = chat_template or config.chat_template or DEFAULT_TEMPLATE
        self._most_choices = config.length // 2
        if "chat" in {source.examples for source in config.all_sources()} and not marks_what_is_trained_on(self._template):
            raise RecipeError("data.chat_template: the template (the tokenizer's own, if the recipe gives none) has no {% generation %} ... "
                              "{% endgeneration %} around what the assistant writes, so nothing would be trained on; add them")

    def make(self, record: Record, source: SourceConfig, number: int, intake: Intake) -> Example | None:
        """Return a record's example; `None` for one without text, or one that is refused and skipped.

        Raises:
            RecipeError: a record that cannot be used, where data.bad_records is refuse.
        """
        try:
            fields = Fields(record, source.columns, intake)
            split = fields.split() if source.columns.split else ""
            place = fields.text("place") if source.columns.place else record.place
            made = getattr(self, f"_{source.examples}")(fields)
        except UnusableError as error:
            intake.refuse(error.reason, record.place, error.problem, error.remedy)
            return None
        if record.continues:
            return Example(place=place, source_number=number, continues=True, **made)
        intake.account.documents_read += 1
        if made is None:
            intake.account.empty += 1
            return None
        return Example(place=place, source_number=number, split=split, **made)

    def _text(self, fields):
        text = fields.text("text")
        return {"parts": ((text, True),)} if fields.continues or text.strip() else None

    def _pairs(self, fields):
        prompt, target = fields.text("prompt"), fields.text("target")
        behind = ((fields.text("prompt_end"), False),) if fields.name("prompt_end") else ()
        return {"parts": ((prompt, False), *behind, (target, True))} if target.strip() else None

    def _translation(self, fields):
        source, target = fields.text("source"), fields.text("target")
        return {"parts": ((target, True),), "encoder_text": source} if source.strip() and target.strip() else None

    def _labels(self, fields):
        text, label = fields.text("text"), fields.label("label")
        return {"parts": ((text, False),), "label": label} if text.strip() else None

    def _numbers(self, fields):
        text, number = fields.text("text"), fields.number("label")
        return {"parts": ((text, False),), "label": repr(number)} if text.strip() else None

    def _tags(self, fields):
        words, tags = fields.words("tokens"), fields.tags("tags")
        if len(words) != len(tags):
            raise UnusableError("other number of tags", f"{len(words)} in column {fields.name('tokens')!r} and {len(tags)} in {fields.name('tags')!r}",
                                "give each word one tag, or null")
        return {"parts": tuple((text, False) for text in spaced(words)), "tags": tags} if any(tags) else None

    def _choice(self, fields):
        prompt, choices, answer = fields.text("prompt"), fields.texts("choices"), fields.number("answer")
        if not 2 <= len(choices) <= self._most_choices:
            raise UnusableError("no choice", f"column {fields.name('choices')!r} holds {len(choices)} texts", f"give 2 to {self._most_choices}, or raise "
                                "data.length, which all choices of a prompt share")
        if answer not in range(len(choices)):
            raise UnusableError("no answer", f"column {fields.name('answer')!r} holds {answer:g}, and there are {len(choices)} choices",
                                f"write a number from 0 to {len(choices) - 1}")
        return {"parts": ((prompt, False), *((choice, False) for choice in choices)), "answer": int(answer)}

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
    """The columns of a record, by the name of their use.

    Args:
        record: as it was read.
        columns: the column for each use.
        intake: mends texts.
        key: of the recipe, under which the columns are named.
    """

    def __init__(self, record: Record, columns: ColumnsConfig | SimpleNamespace, intake: Intake, key: str = "data.columns"):
        self._record, self._columns, self._intake, self._key = record, columns, intake, key
        self.continues = record.continues

    def name(self, use: str) -> str:
        """Return the name of the column for a use such as `text`."""
        return getattr(self._columns, use)

    def has(self, use: str) -> bool:
        """Tell whether there is a column for a use, and it holds something."""
        value = self._record.fields.get(self.name(use))
        return value is not None and not (isinstance(value, str) and not value)

    def split(self) -> str:
        """Return the part that the record belongs to.

        Raises:
            UnusableError: there is no such column, or it names no part.
        """
        name = self.text("split").strip()
        if name not in SPLITS:
            raise UnusableError("no split", f"column {self.name('split')!r} holds {name[:40]!r}", f"write one of {', '.join(SPLITS)}")
        return name

    def value(self, use: str) -> object:
        """Return a value as it was read.

        Raises:
            UnusableError: there is no such column.
        """
        if self.name(use) not in self._record.fields:
            names = ", ".join(map(str, self._record.fields)) or "none"
            raise UnusableError("missing column", f"no column {self.name(use)!r} (columns: {names[:200]})", f"set {self._key}.{use} to one of them")
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

    def leave_out(self, what: str, count: int = 1) -> None:
        """Count parts of the record that are not used, by what they are."""
        if count:
            self._intake.account.parts_left_out[what] += count

    def label(self, use: str) -> str:
        """Return a label as text: a name, a number, true or false; of a list its names, sorted, with `SEPARATOR` between them.

        Raises:
            UnusableError: there is no such column, or it holds no such value.
        """
        value = self._plain(use)
        names = [self._name(one) for one in (value if isinstance(value, list) else [value])]
        if not all(names):
            raise UnusableError("no label", f"column {self.name(use)!r} holds {_kind(value)}, not a label", "write a name of one line, or a number")
        return SEPARATOR.join(sorted(set(names))) or SEPARATOR

    def tags(self, use: str) -> tuple[str | None, ...]:
        """Return the class of each word, `None` where there is none.

        Raises:
            UnusableError: there is no such column, or it holds no such values.
        """
        value = self._plain(use)
        values = value.split() if isinstance(value, str) else value
        names = [one if one is None else self._name(one) for one in values] if isinstance(values, list) else [""]
        if not all(name or name is None for name in names):
            raise UnusableError("no tags", f"column {self.name(use)!r} holds {_kind(value)}, not tags", "write a list of names, numbers and null")
        return tuple(names)

    def number(self, use: str) -> float:
        """Return a number.

        Raises:
            UnusableError: there is no such column, or it holds no number, or none of a size that float32 can hold.
        """
        value = self._plain(use)
        try:
            number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if not abs(number) <= LARGEST:
            is_one = isinstance(value, int | float) and not isinstance(value, bool)
            shown = f"the text {value[:40]!r}" if isinstance(value, str) else f"{value!r:.40}" if is_one else _kind(value)
            wanted = "a number that float32 can hold" if is_one else "a number"
            raise UnusableError("no number", f"column {self.name(use)!r} holds {shown}, not {wanted}", "write a number such as 3 or 0.5")
        return number

    def words(self, use: str) -> list[str]:
        """Return a list of texts; of one text its words, which white space is between.

        Raises:
            UnusableError: there is no such column, it holds no such list, or one with an empty text.
        """
        value = self._plain(use)
        return self._listed(use, value.split() if isinstance(value, str) else value)

    def texts(self, use: str) -> list[str]:
        """Return a list of texts; raises as `words`, of one text too."""
        return self._listed(use, self._plain(use))

    def _listed(self, use, texts):
        if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
            raise UnusableError("no list of texts", f"column {self.name(use)!r} holds {_kind(texts)}, not a list of texts", "write [\"one\", \"two\"]")
        return [self.mend(text) for text in texts]

    def _plain(self, use):
        """Return a value with Python's own lists and numbers for NumPy's."""
        value = self.value(use)
        if hasattr(value, "tolist"):
            value = value.tolist()
        return list(value) if isinstance(value, tuple) else value

    def _name(self, value) -> str:
        """Return a name or number as a text of one line, empty for anything else."""
        name = self.mend(str(value)).strip() if isinstance(value, str | int | float | bool) else ""
        return name if len(name.splitlines()) == 1 else ""


def spaced(words: Sequence[str]) -> list[str]:
    """Return words as they stand in a text: with a space before each that follows on another, unless one of the two is white space itself.

    >>> spaced(["Two", "lines", "\\n", "here"])
    ['Two', ' lines', '\\n', 'here']
    """
    later = (word if word.isspace() or before.isspace() else f" {word}" for before, word in itertools.pairwise(words))
    return [*words[:1], *later]


def _kind(value):
    if isinstance(value, str):
        return "a text" if value.strip() else "an empty text"
    names = {type(None): "nothing", dict: "an object", list: "a list", int: "a whole number", float: "a number"}
    return names.get(type(value), f"a {type(value).__name__}")
