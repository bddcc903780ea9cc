"""Translation: of any pair of languages, by a plain model behind a prompt, or by one with an encoder (adapt.encoder), which reads the source.

Each record of yours has a source and its target, which may be any text that follows from it. A source longer than the model reads at once is translated in
pieces that are whole sentences or lines, as many together as fit, and never cut unless a sentence alone is too long. Such pairs are not trained on, since
nothing says which part of the target belongs to which of the source: they are refused, or skipped and counted (data.bad_records).
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tfgpt.data.examples import Fields, UnusableError
from tfgpt.evaluation.metrics import Metric
from tfgpt.evaluation.text_metrics import bleu_and_chrf, exact_match
from tfgpt.generation.batches import checked_texts
from tfgpt.generation.text_model import TextModel
from tfgpt.recipe import TaskConfig
from tfgpt.tasks.pieces import most_read, written_of_pieces
from tfgpt.tasks.task import Task, around, task_of
from tfgpt.text.windows import sentences_together, token_count

TEMPLATE = "{source}\nTranslation:"


class Translation(NamedTuple):
    """A translated text."""

    text: str
    log_prob: float
    """Of all of it, in nats."""
    pieces: int
    """In how many it was translated; 1 = at once."""
    finished: bool
    """Whether the model ended all of them, and not the end of its context."""


class Translator:
    """Translates texts with a model that was trained for it.

    Args:
        text_model: the model, as of `tfgpt.load_text_model("runs/translation")`; with an encoder or without.
        template: of the prompt of a model without an encoder, if it was trained with another than `TEMPLATE`.
        long_text: what is done with a text longer than the model reads at once: window = it is translated in pieces; refuse.

    Raises:
        ValueError: a template that leaves no room for a source, or none of these ways.

    >>> translation = Translator(TextModel(model, tokenizer)).translate("One. Two. Three. Four. Five. Six. Seven.")
    >>> translation.pieces, translation.log_prob < 0
    (3, True)
    """

    def __init__(self, text_model: TextModel, template: str = "", long_text: str = "window"):
        if long_text not in TASK.long_text:
            raise ValueError(f"long_text: {long_text!r}; give {' or '.join(TASK.long_text)}")
        task_of(TaskConfig("translation", template=template))
        self._text_model, self._tokenizer, self._long_text = text_model, text_model.python_tokenizer, long_text
        self._before, self._behind = ("", "") if text_model.model.encoder is not None else around(template or TEMPLATE, "source")
        self._most = most_read(text_model, self._before, self._behind, text_model.model.config.n_positions // 2)

    def translate(self, text: str) -> Translation:
        """Translate a text of any length.

        Raises:
            ValueError: it is longer than the model reads at once, and such ones are to be refused.
        """
        return self.translate_all([text])[0]

    def translate_all(self, texts: Iterable[str], batch_size: int = 16, advance=lambda count: None) -> list[Translation]:
        """Translate texts, so many pieces together.

        Args:
            texts: of any length.
            batch_size: how many pieces are translated together; changes the speed alone.
            advance: called with how many texts were translated since.

        Raises:
            ValueError: as `translate`.
        """
        texts = checked_texts("translate_all: texts", texts, of=(str,))
        spans = [self._pieces(text) for text in texts]
        pieces = [[text[start:end] for start, end in of_text] for text, of_text in zip(texts, spans)]
        most = self._text_model.model.config.n_positions
        written = written_of_pieces(self._text_model, pieces, self._before, self._behind, most, batch_size, advance)
        return [_joined(*of_text) for of_text in zip(texts, spans, written)]

    def _pieces(self, text):
        pieces = sentences_together(text, self._tokenizer, self._most)
        if len(pieces) > 1 and self._long_text == "refuse":
            raise ValueError(f"the source {text[:40]!r} has {token_count(text, self._tokenizer)} tokens, and {self._most} are read at once; shorten it, or set "
                             "long_text to window")
        return pieces


def _joined(text, spans, rows):
    """Return what was written of the pieces of a text, on lines of their own where these are."""
    joined = rows[0].text.strip()
    for (_, end), (start, _), row in zip(spans, spans[1:], rows[1:]):
        joined += ("\n" if "\n" in text[end:start] else " " if start > end else "") + row.text.strip()
    return Translation(joined, sum(row.log_prob for row in rows), len(rows), all(row.finish_reason == "stop" for row in rows))


def _records(fields: Fields, config: TaskConfig) -> Iterable[dict]:
    source, target = fields.text("source").strip(), fields.text("target").strip()
    if not source or not target:
        raise UnusableError("no pair", f"column {fields.name('target' if source else 'source')!r} is empty", "write both, the source and its target")
    before, behind = around(config.template or TEMPLATE, "source")
    return [{"prompt": before + source + behind, "target": f" {target}", "source": source, "translation": target, "group": source}]


def _answers(text_model: TextModel, records: Sequence[dict], config: TaskConfig, batch_size: int, advance) -> list[dict]:
    # What is to be refused was left out of the training; held out, it is answered in pieces, whose number is told.
    translator = Translator(text_model, config.template)
    return [answer._asdict() for answer in translator.translate_all([record["source"] for record in records], batch_size, advance)]


def _metrics(records: Sequence[dict], answers: Sequence[dict]) -> dict[str, Metric]:
    texts, right = [answer["text"] for answer in answers], [record["translation"] for record in records]
    return {"exact_match": exact_match(texts, right), **bleu_and_chrf(texts, right)}


def _baselines(text_model: TextModel, train: Sequence[dict], held_out: Sequence[dict], config: TaskConfig) -> dict[str, list[dict]]:
    return {"the source, copied": [{"text": record["source"]} for record in held_out]}


TASK = Task(
    columns={"source": "what is to be translated", "target": "its translation"},
    examples="pairs",
    encoder_columns={"source": "source", "target": "translation"},
    records=_records,
    answers=_answers,
    metrics=_metrics,
    baselines=_baselines,
    shown="chrf",
    packages=("sacrebleu",),
    long_text=("window", "refuse"),
    long_pairs={"window": "refuse"},
    default_template=TEMPLATE,
)
