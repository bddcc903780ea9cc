"""Make the model that a recipe starts from: new with random weights, or loaded."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import numpy as np
from transformers import GPT2Config, GPT2TokenizerFast

from tfgpt.models import checkpoint, weights
from tfgpt.models.causal_lm import GPTLMHeadModel
from tfgpt.models.lite import LiteModel
from tfgpt.recipe import Engine, ModelConfig, RecipeError


def new_model(config: ModelConfig, context: int, tokenizer: GPT2TokenizerFast, seed: int) -> GPTLMHeadModel:
    """Return a model with random weights, the same for the same seed.

    Args:
        config: its shape.
        context: the most tokens it takes.
        tokenizer: gives the vocabulary's size and the end-of-text token.
        seed: of the weights.
    """
    model = GPTLMHeadModel(new_config(config, context, len(tokenizer), tokenizer.eos_token_id))
    weights.build(model)
    weights.initialize(model, seed)
    return model


def new_config(config: ModelConfig, context: int, vocab: int, end_of_text: int) -> GPT2Config:
    """Return the configuration of a model with random weights, for a vocabulary of so many tokens with that end-of-text token."""
    shape = config.shape
    return GPT2Config(
        vocab_size=vocab, n_positions=context, n_embd=shape.width, n_layer=shape.layers, n_head=shape.heads,
        resid_pdrop=config.dropout_of("residual"), embd_pdrop=config.dropout_of("embedding"), attn_pdrop=config.dropout_of("attention"),
        bos_token_id=end_of_text, eos_token_id=end_of_text, positions=config.positions,
    )  # fmt: skip


def start_config(config: ModelConfig, length: int) -> GPT2Config:
    """Return the configuration of the model that a recipe starts from, whatever its vocabulary; `length` is that of its data, in tokens."""
    return new_config(config, config.shape.context or length, vocab=2, end_of_text=0) if config.init == "random" else config_of(config.init)


def model_of(config: GPT2Config, tensors: Mapping[str, np.ndarray], seed: int = 0) -> GPTLMHeadModel:
    """Return a model with these weights; what it has and they have not is drawn anew by `seed`.

    Args:
        config: its shape, with what it has beside GPT-2's layers (see `Adaptation`).
        tensors: in the form of `tfgpt.models.weights.state`.
        seed: of what is drawn.

    Raises:
        ValueError: weights that do not belong to the shape.
    """
    model = GPTLMHeadModel(config)
    weights.build(model)
    weights.assign(model, tensors, seed)
    return model


def parameter_count(config: ModelConfig, context: int, vocab: int) -> int:
    """Return how many weights a new model has; the output matrix is the embedding's.

    >>> parameter_count(ModelConfig(size="gpt2"), context=1024, vocab=50_257)
    124439808
    """
    layers, width, *_ = config.shape
    block = 12 * width * width + 13 * width  # attention 4, MLP 8; biases and two layer norms
    return (vocab + context) * width + layers * block + 2 * width


def load_model(source: str | Path, weights: str = "float32", engine: str = "graph") -> GPTLMHeadModel | LiteModel:
    """Load a GPT-2, or a GPT-1 (openai-gpt), from a folder or a hub id; safetensors or TensorFlow's h5, never a pickled file.

    Args:
        source: folder or hub id.
        weights: how they are kept: `float32`, or `bfloat16` or `int8` for a model that is not trained (see `GPTLMHeadModel.store_weights`).
        engine: `graph` = TensorFlow, which trains, exports and knows every device; `lite` = LiteRT, which reads and writes alone, on the CPU, and there
            faster (see `LiteModel`, and `tfgpt bench generate` for how much); it has float32 and int8.

    Raises:
        FileNotFoundError: neither a folder with a model nor a hub id that can be had.
        ValueError: pickled weights, or such as do not belong to their configuration; weights or an engine that are none of these, or that this
            machine cannot compute with.
    """
    if engine not in get_args(Engine):
        raise ValueError(f"engine: {engine!r} is none of {', '.join(get_args(Engine))}")
    if engine == "lite":
        return LiteModel.load(source, weights)
    return GPTLMHeadModel.from_pretrained(source, weights)


def config_of(source: str | Path) -> GPT2Config:
    """Return the configuration of a model in a folder or on the hub; no weights are downloaded.

    Raises:
        FileNotFoundError: neither a folder with a model nor a hub id that can be had.
        ValueError: another kind of model than GPT-2 and GPT-1.
    """
    return checkpoint.config_in(checkpoint.folder_of(source, weights=False))


def check_start(init: str, length: int, vocab: int | None = None, context: int = 0) -> None:
    """Check that the model to start from takes the data.

    Args:
        init: folder or hub id.
        length: tokens in a packed sequence.
        vocab: the tokenizer's, if it is known already and the model's is not to be exchanged for it.
        context: that the model is given; 0 = its own.

    Raises:
        RecipeError: no such model, or one with a shorter context or a smaller vocabulary.
    """
    try:
        config = config_of(init)
        if Path(init).is_dir():
            checkpoint.check_weights(Path(init))
    except FileNotFoundError as error:
        raise RecipeError(f"model.init: {error}; give random, a folder or a hub id") from error
    except ValueError as error:
        raise RecipeError(f"model.init: {error}") from error
    context = context or config.n_positions
    if length > context:
        raise RecipeError(f"data.length: {length} tokens is longer than the model's context of {context} (model.init: {init}); "
                          f"set it to {context} or less, or raise adapt.context")
    if vocab is not None and vocab > config.vocab_size:
        raise RecipeError(f"tokenizer.init: its {vocab} tokens are more than the {config.vocab_size} of model.init: {init}; "
                          f"set tokenizer.init to {init} too, or adapt.embeddings.vocabulary to tokenizer")
