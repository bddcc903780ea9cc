"""A trained model with its tokenizer, from where a run or a user left them."""
from __future__ import annotations

from pathlib import Path
from typing import get_args

from tfgpt.generation.controls import DRAFT_TOKENS
from tfgpt.generation.text_model import TextModel
from tfgpt.models.build import load_model
from tfgpt.models.causal_lm import GPTLMHeadModel
from tfgpt.models.lite import LiteModel
from tfgpt.recipe import Engine, Weights
from tfgpt.text.bpe import load_tokenizer


def load_text_model(source: str | Path, weights: Weights = "float32", engine: Engine = "graph", draft: str | Path = "",
                    draft_tokens: int = DRAFT_TOKENS, draft_weights: Weights | None = None) -> TextModel:
    """Return the model of a run, ready to be asked.

    Args:
        source: a run's folder, or one that holds a model and its tokenizer, or a hub id.
        weights: how the matrices are kept (see `tfgpt generate --help`).
        engine: what computes.
        draft: a smaller model with the same tokenizer, given as `source` is, which guesses tokens; empty = none, or the model itself in `draft_weights`.
        draft_tokens: the most tokens that it guesses at once.
        draft_weights: how the draft model's matrices are kept; `None` = as the model's.

    Raises:
        FileNotFoundError: no model there, or no tokenizer.
        ValueError: the two do not fit each other, or the weights the engine; a draft that is the model itself, in no fewer bits.
    """
    kinds = get_args(Weights)  # the fewer bits, the later
    if not draft and draft_weights and kinds.index(draft_weights) <= kinds.index(weights):
        raise ValueError(f"draft_weights: in {draft_weights} the model guesses no faster than it writes in {weights}; give fewer bits, or a draft model")
    tokenizer = load_tokenizer(part_of(source, "tokenizer"))
    model = load_model(part_of(source, "model"), weights, engine)
    guessing = load_draft(draft or (source if draft_weights else ""), draft_weights or weights, engine)
    return TextModel(model, tokenizer, guessing, draft_tokens)


def load_draft(source: str | Path, weights: Weights = "float32", engine: Engine = "graph") -> GPTLMHeadModel | LiteModel | None:
    """Return a draft model; see `load_text_model`."""
    return load_model(part_of(source, "model"), weights, engine) if source else None


def part_of(source: str | Path, part: str) -> str | Path:
    """Return where a part of a model is, `model` or `tokenizer`: in a run's folder, or all in one place, or on the hub."""
    return Path(source) / part if (Path(source) / "model" / "config.json").is_file() else source
