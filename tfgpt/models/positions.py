"""How a model tells positions apart: a longer or shorter context, learned vectors or sines and cosines. Each function gives a new model."""
from __future__ import annotations

import math

import numpy as np

from tfgpt.models import weights
from tfgpt.models.causal_lm import GPTLMHeadModel
from tfgpt.models.surgery import changed

NAME = "transformer.wpe.weight"


def extend_context(model: GPTLMHeadModel, context: int) -> GPTLMHeadModel:
    """Return a model that takes another number of tokens at most.

    A longer context of learned positions is the old one stretched: position m of the new stands at m * old / new of the old, between two of its rows,
    of which it is the weighted mean; so the old position p is found at p * new / old. Places behind the last old row have that row. Such a
    model should be trained on for a while. A shorter context keeps the first rows. Sines and cosines are not stretched: they go on.

    Args:
        model: any.
        context: tokens.

    Raises:
        ValueError: a context under 1.

    Source: Chen et al. 2023, "Extending Context Window of Large Language Models via Positional Interpolation", on a table instead of rotary positions.

    >>> table = weights.state(extend_context(model, 2 * model.config.n_positions))["transformer.wpe.weight"]
    >>> np.array_equal(table[::2], weights.state(model)["transformer.wpe.weight"])
    True
    """
    if context < 1:
        raise ValueError(f"adapt.context: {context} is too small; set it to 1 or more")
    state = weights.state(model)
    table = state[NAME]                                                        # [old context, width]
    if context <= len(table):
        table = table[:context]
    elif _is_sinusoidal(model):
        table = weights.sinusoids(context, table.shape[1]).numpy() * table[0, 1]  # the cosine at position 0: how large they are
    else:
        table = _between_rows(table, np.arange(context) * (len(table) / context))
    return changed(model, state | {NAME: table}, of_config={"n_positions": context})


def set_positions(model: GPTLMHeadModel, kind: str) -> GPTLMHeadModel:
    """Return a model whose positions are told apart in another way.

    Args:
        model: any.
        kind: `learned` = by what they are, trained from now on, so that the function stays; `sinusoidal` = by sines and cosines as large as what they
            replace (the same root mean square), never trained.

    Raises:
        ValueError: another kind.

    Source: Vaswani et al. 2017, "Attention Is All You Need", 3.5.
    """
    if kind not in ("learned", "sinusoidal"):
        raise ValueError(f"adapt.positions: {kind!r} is none of learned, sinusoidal")
    state = weights.state(model)
    if kind == "sinusoidal" and not _is_sinusoidal(model):
        table = state[NAME]
        size = math.sqrt(2.0 * np.mean(np.square(table, dtype=np.float64)))    # a sine's own root mean square is 1 / sqrt(2)
        state[NAME] = weights.sinusoids(*table.shape).numpy() * np.float32(size)
    return changed(model, state, of_config={"positions": kind})


def _is_sinusoidal(model):
    return getattr(model.config, "positions", "learned") == "sinusoidal"


def _between_rows(table, places):
    """Return rows of a table [rows, width] at places between them, float32 [places, width]; behind the last row, that row."""
    low = np.minimum(places.astype(int), len(table) - 1)
    high, share = np.minimum(low + 1, len(table) - 1), (places - low)[:, np.newaxis]
    return (table[low] * (1.0 - share) + table[high] * share).astype(np.float32)
