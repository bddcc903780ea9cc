"""Another vocabulary for a model that is there: rows of the embeddings, and of an output matrix of its own, stay, begin or go with their tokens."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfgpt.models import weights
from tfgpt.models.causal_lm import GPTLMHeadModel
from tfgpt.models.surgery import changed
from tfgpt.text.bpe import GPT2TokenizerFast
from tfgpt.text.tokens import pieces_of, token_bytes

BY_TOKEN = ("transformer.wte.weight", "transformer.wte.lora.a", "lm_head.weight")
"""The weights with a row for each token."""


def resize_vocabulary(model: GPTLMHeadModel, size: int) -> GPTLMHeadModel:
    """Return a model with more tokens at the end of its vocabulary, or without the last ones.

    New rows begin at the mean of all old ones, so that a new token is as likely as the average one.

    Args:
        model: any.
        size: tokens.

    Raises:
        ValueError: a size under 1, or one without the model's end-of-text token.

    Source: Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models".
    """
    config, old = model.config, model.config.vocab_size
    last = max([token for token in (config.bos_token_id, config.eos_token_id) if token is not None and token < old], default=0)
    if size <= last:
        raise ValueError(f"vocabulary: {size} tokens are too few, since the model's end-of-text token is number {last}; give {last + 1} or more")
    return _with_rows(model, [[number] if number < old else [] for number in range(size)], {"vocab_size": size})


def exchange_vocabulary(model: GPTLMHeadModel, old_tokenizer, new_tokenizer: GPT2TokenizerFast, new_rows: str = "pieces") -> GPTLMHeadModel:
    """Return a model for another tokenizer.

    The rows of tokens that both tokenizers have, of the same bytes, stay, wherever they now stand; a special token is known by its name.

    Args:
        model: whose rows belong to `old_tokenizer`.
        old_tokenizer: byte-level, or GPT-1's (see `tfgpt.text.tokens.load_old_tokenizer`).
        new_tokenizer: byte-level.
        new_rows: where the row of a new token begins: `pieces` = at the mean of the pieces into which the old tokenizer splits its text, or `mean` = at
            that of all old rows, as also where there are no pieces.

    Raises:
        ValueError: other new rows; an old tokenizer with more tokens than the model.
    """
    if new_rows not in ("pieces", "mean"):
        raise ValueError(f"adapt.embeddings.new_rows: {new_rows!r} is none of pieces, mean")
    if len(old_tokenizer) > model.config.vocab_size:
        raise ValueError(f"vocabulary: the old tokenizer has {len(old_tokenizer)} tokens and the model {model.config.vocab_size}; give the one it was "
                         "trained with")
    known = {text: number for number, text in token_bytes(old_tokenizer).items()}
    sources: list[Sequence[int]] = [[] for _ in range(len(new_tokenizer))]
    for number, text in token_bytes(new_tokenizer).items():
        if text in known:
            sources[number] = [known[text]]
        elif new_rows == "pieces":
            sources[number] = pieces_of(old_tokenizer, text)
    tokens = {"bos_token_id": new_tokenizer.bos_token_id, "eos_token_id": new_tokenizer.eos_token_id}
    return _with_rows(model, sources, {"vocab_size": len(new_tokenizer)} | tokens)


def _with_rows(model, sources, of_config):
    """Return a model each of whose rows by token is the mean of some old ones, which `sources` names; of all, where it names none."""
    state = weights.state(model)
    for name in BY_TOKEN:
        if name in state:
            state[name] = _means(state[name], sources)
    return changed(model, state, of_config=of_config)


def _means(table, sources):
    """Return the mean of some rows of a table [old vocab, width] for each entry of `sources`, float32 [new vocab, width]."""
    of_all = table.mean(axis=0, dtype=np.float64)
    return np.stack([table[rows[0]] if len(rows) == 1 else table[rows].mean(axis=0, dtype=np.float64) if len(rows) else of_all
                     for rows in sources]).astype(np.float32)
