"""What generating and scoring give a caller."""
from __future__ import annotations

from typing import NamedTuple


class Token(NamedTuple):
    """One token of a continuation."""

    id: int
    text: str
    """Bytes that are no character by themselves show as U+FFFD."""
    log_prob: float
    """In nats, under the model itself (temperature 1, no filter)."""
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens at its place: id and log-probability, the likeliest first."""


class Continuation(NamedTuple):
    """What was written after a prompt."""

    text: str
    """The continuation alone."""
    token_count: int
    """Tokens generated, the end-of-text token among them where there is one."""
    log_prob: float
    """Sum of their log-probabilities, in nats, under the model itself (temperature 1, no filter)."""
    finish_reason: str
    """`stop` = the model ended the text, or a stop string did; `length` = `max_new_tokens` or the context was reached."""
    tokens: tuple[Token, ...] = ()
    """Each token, those of a stop string too, if they were asked for."""


class Score(NamedTuple):
    """How likely a text is."""

    log_prob: float
    """Sum over its tokens, in nats; the text is read from an end-of-text token on, so the first one counts."""
    token_count: int
    perplexity: float
    """1 for an empty text."""


class Choice(NamedTuple):
    """The likeliest of given answers to a prompt."""

    answer: str
    probability: float
    """Of this answer, if it must be one of those given."""
    log_probs: tuple[float, ...]
    """Of every answer given, in nats, under the model itself."""


class Classification(NamedTuple):
    """What a head finds of a text."""

    label: str | float | tuple[str, ...]
    """classes: the likeliest; labels: those above the threshold; number: the number; tags: one for each word; choice: the likeliest choice."""
    scores: tuple[float, ...]
    """Probabilities: of each class or label in the order of `model.adaptation.head.labels`; of each word's tag; of each choice. Empty for a number."""
