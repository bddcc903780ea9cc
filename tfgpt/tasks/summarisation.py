"""Summarisation: a short text that says what a long one says, such as the sentence that says what a function does.

Each record of yours has a text and its summary. The model is a plain one, or has an encoder (adapt.encoder), which then reads the text. A text longer than the
model reads at once is read in windows that overlap: each is summarised by itself, and the summary that the model finds likeliest, a token, is the answer; the
windows' summaries are not summarised again, for which a model that was trained on texts alone would not do. It is trained on the first window of such a text.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tfgpt.data.examples import Fields, UnusableError
from tfgpt.evaluation.metrics import Metric
from tfgpt.evaluation.text_metrics import rouge
from tfgpt.generation.batches import checked_texts
from tfgpt.generation.text_model import TextModel
from tfgpt.recipe import TaskConfig
from tfgpt.tasks.pieces import most_read, written_of_pieces
from tfgpt.tasks.task import Task, around, long_text_of, task_of
from tfgpt.text.windows import token_count, windows

TEMPLATE = "{text}\nSummary:"
MOST_TOKENS = 64
"""Of a summary."""
OVERLAP = 0.25
"""Of a window, which it shares with the one before."""


class Summary(NamedTuple):
    """What a text says."""

    text: str
    windows: int
    """How many the text was read in; 1 = at once."""
    window: int
    """Which of them the summary is of, counted from 0."""
    log_prob: float
    """Of the summary, nats a token: what windows are chosen by."""
    cut: bool
    """Whether the text goes on behind what was read of it."""
    finished: bool
    """Whether the model ended the summary, and not the limit of 64 tokens."""


class Summarizer:
    """Summarises texts with a model that was trained for it.

    Args:
        text_model: the model, as of `tfgpt.load_text_model("runs/summarisation")`.
        template: of the prompt, if it was trained with another than `TEMPLATE`.
        long_text: what is done with a text longer than the model reads at once: window = all of it is read, in windows; cut = its first window is; refuse.

    Raises:
        ValueError: a template that leaves no room for a text, or none of these ways.

    >>> summary = Summarizer(TextModel(model, tokenizer)).summarize("def double(number):\\n    return 2 * number\\n" * 2)
    >>> summary.windows, summary.cut
    (2, False)
    """

    def __init__(self, text_model: TextModel, template: str = "", long_text: str = "window"):
        if long_text not in TASK.long_text:
            raise ValueError(f"long_text: {long_text!r}; give {', '.join(TASK.long_text)}")
        task_of(TaskConfig("summarisation", template=template))
        self._text_model, self._tokenizer, self._long_text = text_model, text_model.python_tokenizer, long_text
        self._before, self._behind = ("", "") if text_model.model.encoder is not None else around(template or TEMPLATE, "text")
        self._most = most_read(text_model, self._before, self._behind, min(MOST_TOKENS, text_model.model.config.n_positions // 4))

    def summarize(self, text: str) -> Summary:
        """Summarise a text of any length.

        Raises:
            ValueError: it is longer than the model reads at once, and such ones are to be refused.
        """
        return self.summarize_all([text])[0]

    def summarize_all(self, texts: Iterable[str], batch_size: int = 16, advance=lambda count: None) -> list[Summary]:
        """Summarise texts, so many windows together.

        Args:
            texts: of any length.
            batch_size: how many windows are summarised together; changes the speed alone.
            advance: called with how many texts were summarised since.

        Raises:
            ValueError: as `summarize`.
        """
        texts = checked_texts("summarize_all: texts", texts, of=(str,))
        parts = [self._parts(text.strip()) for text in texts]
        written = written_of_pieces(self._text_model, [of_text for of_text, _ in parts], self._before, self._behind, MOST_TOKENS, batch_size, advance)
        return [self._chosen(rows, cut) for rows, (_, cut) in zip(written, parts)]

    def _parts(self, text):
        """Return the windows of a text that are read, and whether any is not."""
        parts = [text[start:end] for start, end in windows(text, self._tokenizer, self._most, int(OVERLAP * self._most))]
        if len(parts) > 1 and self._long_text == "refuse":
            raise ValueError(f"the text {text[:40]!r} has {token_count(text, self._tokenizer)} tokens, and {self._most} are read at once; shorten it, or set "
                             "long_text to window or cut")
        return (parts, False) if self._long_text == "window" else (parts[:1], len(parts) > 1)

    def _chosen(self, rows, cut):
        likely = [row.log_prob / row.token_count if row.token_count else -np.inf for row in rows]
        best = int(np.argmax(likely))
        return Summary(rows[best].text.strip(), len(rows), best, likely[best], cut, rows[best].finish_reason == "stop")


def _records(fields: Fields, config: TaskConfig) -> Iterable[dict]:
    text, summary = fields.text("text").strip(), fields.text("summary").strip()
    if not text:
        raise UnusableError("no text", f"column {fields.name('text')!r} is empty", "write the text")
    if not summary:
        raise UnusableError("no summary", f"column {fields.name('summary')!r} is empty", "write what the text says")
    before, behind = around(config.template or TEMPLATE, "text")
    return [{"prompt": before + text, "prompt_end": behind, "target": f" {summary}", "text": text, "summary": summary, "group": text}]


def _answers(text_model: TextModel, records: Sequence[dict], config: TaskConfig, batch_size: int, advance) -> list[dict]:
    # What is to be refused was left out of the training; held out, it is answered by its first window, and marked.
    summarizer = Summarizer(text_model, config.template, "window" if long_text_of(config, TASK) == "window" else "cut")
    return [answer._asdict() for answer in summarizer.summarize_all([record["text"] for record in records], batch_size, advance)]


def _metrics(records: Sequence[dict], answers: Sequence[dict]) -> dict[str, Metric]:
    return rouge([answer["text"] for answer in answers], [record["summary"] for record in records])


def _baselines(text_model: TextModel, train: Sequence[dict], held_out: Sequence[dict], config: TaskConfig) -> dict[str, list[dict]]:
    most = Counter(record["summary"] for record in train).most_common(1)[0][0]
    return {"the first line": [{"text": record["text"].splitlines()[0]} for record in held_out],
            "the most frequent summary": [{"text": most}] * len(held_out)}


TASK = Task(
    columns={"text": "what is to be summarised", "summary": "what it says"},
    examples="pairs",
    record_columns={"prompt_end": "prompt_end"},
    encoder_columns={"source": "text", "target": "summary"},
    records=_records,
    answers=_answers,
    metrics=_metrics,
    baselines=_baselines,
    shown="rougeL",
    packages=("rouge_score",),
    long_text=("window", "cut", "refuse"),
    default_template=TEMPLATE,
)
