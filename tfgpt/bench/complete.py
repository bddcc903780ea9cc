"""How long a keystroke takes in auto-complete: texts are typed letter by letter, with a suggestion accepted now and then."""
from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfgpt.bench.served import Settings, documents
from tfgpt.generation.loading import load_text_model
from tfgpt.generation.text_model import TextModel
from tfgpt.models import build
from tfgpt.recipe import ModelConfig
from tfgpt.tasks.autocomplete import AutoCompleter
from tfgpt.text.bpe import train_tokenizer

ACCEPT_EVERY = 12
"""Keystrokes, of which the last accepts the first suggestion."""
WARM_UP = 60
"""Keystrokes before the first that counts: each shape is made ready for once."""


def run(source: Path | None, characters: int, settings: Settings = Settings()) -> dict:  # noqa: B008
    """Type and return the figures.

    Args:
        source: a run's folder; `None` = random weights, under which all words are about as likely as each other, so that more ways on are looked at than with a
            trained model.
        characters: that are typed, of Python's reference.
        settings: of the model with random weights.

    Returns:
        `keystrokes`; `p50_milliseconds`, `p95_milliseconds` and `most_milliseconds` of one; `parameters`.
    """
    texts = documents()
    text_model = load_text_model(source) if source else _random(settings, texts)
    seconds = typed_seconds(text_model, " ".join(" ".join(texts).split())[: characters + WARM_UP])[WARM_UP:]
    p50, p95, most = (1000.0 * float(value) for value in (*np.percentile(seconds, [50, 95]), max(seconds)))
    return {"keystrokes": len(seconds), "p50_milliseconds": p50, "p95_milliseconds": p95, "most_milliseconds": most,
            "parameters": text_model.model.count_params()}


def typed_seconds(text_model: TextModel, text: str) -> Sequence[float]:
    """Return the seconds of each keystroke with which a text is typed; where a suggestion was accepted, the text goes on behind that."""
    session, seconds = AutoCompleter(text_model).session(), []
    for number, letter in enumerate(text, 1):
        accepts = number % ACCEPT_EVERY == 0 and session.suggestions
        start = time.perf_counter()
        session.accept() if accepts else session.type(letter)
        seconds.append(time.perf_counter() - start)
    return seconds


def _random(settings, texts):
    tokenizer = train_tokenizer(texts, settings.vocab)
    shape = ModelConfig(layers=settings.layers, width=settings.width, heads=settings.heads, dropout=0.0)
    return TextModel(build.new_model(shape, settings.context, tokenizer, seed=1), tokenizer)
