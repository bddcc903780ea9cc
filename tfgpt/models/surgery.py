"""Changes of an existing model. Each function takes a model and returns a new one, which trains, saves, loads, exports and serves like any other.

A change is one of the configuration and of the weights by name; the model is then built anew of both. The model that was given stays as it is.
"""
from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tfgpt.models import weights
from tfgpt.models.adaptation import matches
from tfgpt.models.build import model_of
from tfgpt.models.causal_lm import GPTLMHeadModel
from tfgpt.recipe import AdaptConfig, EncoderConfig, LoraConfig

OF_EVERY_BLOCK = ("ln_1", "attn", "ln_2", "mlp")
"""Parts that a block has whether anything was added to it or not."""


def changed(model: GPTLMHeadModel, tensors: Mapping[str, np.ndarray] | None = None, seed: int = 0, of_config: Mapping[str, object] | None = None,
            **of_adaptation: object) -> GPTLMHeadModel:
    """Return a model with other weights, another configuration or another adaptation.

    Args:
        model: the one that is changed.
        tensors: weights, in the form of `tfgpt.models.weights.state`; `None` = those of the model.
        seed: of what is new.
        of_config: keys of the configuration with their new values.
        of_adaptation: parts of the `Adaptation` with their new values.
    """
    config = replace(model.adaptation, **of_adaptation).in_config(model.config, **(of_config or {}))
    return model_of(config, weights.state(model) if tensors is None else tensors, seed)


def adapt(model: GPTLMHeadModel, config: AdaptConfig, seed: int) -> GPTLMHeadModel:
    """Return a model with all layers that a recipe asks for, ready to be trained as it asks.

    Args:
        model: the starting model.
        config: of the recipe.
        seed: of what is new.

    Raises:
        ValueError: a pattern that matches nothing, a block or head that there is not.
    """
    if config.encoder.kind != "none":
        model = add_encoder(model, config.encoder, seed)
    if config.lora.rank:
        model = add_lora(model, config.lora, seed)
    choose_trained(model, config)
    return model


def choose_trained(model: GPTLMHeadModel, config: AdaptConfig) -> None:
    """Choose the weights that a recipe trains; where it says nothing, the model's own choice stands."""
    if config.train or config.freeze:
        model.train_only(config.train or model.trained, config.freeze)


def finished(model: GPTLMHeadModel, config: AdaptConfig) -> GPTLMHeadModel:
    """Return a trained model as it is kept: with LoRA's changes in its matrices, if the recipe wants that."""
    return merge_lora(model) if config.lora.rank and config.lora.merge else model


def add_lora(model: GPTLMHeadModel, config: LoraConfig, seed: int = 0) -> GPTLMHeadModel:
    """Return a model whose matrices are changed by LoRA, which changes nothing at first and is what is trained.

    Args:
        model: without LoRA.
        config: rank and the rest.
        seed: of the changes.

    Raises:
        ValueError: a pattern that matches no matrix.
    """
    matrices = ["wte", *(name.removesuffix(".weight") for name in model.weight_names if re.search(r"\.[cq]_\w+\.weight$", name))]
    for pattern in config.matrices:
        if not any(matches(pattern, name) for name in matrices):
            raise ValueError(f"adapt.lora.matrices: the pattern {pattern!r} matches no matrix; there are {', '.join(matrices[:5])}, ...")
    return changed(model, seed=seed, lora=config)


def add_encoder(model: GPTLMHeadModel, config: EncoderConfig, seed: int = 0) -> GPTLMHeadModel:
    """Return a model that also reads a source: with an encoder, and in every block attention to its states, which adds nothing at first.

    Args:
        model: without an encoder.
        config: kind, layers and the rest; a context of 0 = the model's.
        seed: of what is new.

    Raises:
        ValueError: a model that has an encoder; kind none; more to copy than the model has.
    """
    blocks, positions = model.config.n_layer, model.config.n_positions
    config = replace(config, layers=config.layers or blocks, context=config.context or positions)
    if model.encoder is not None or config.kind == "none":
        raise ValueError(f"adapt.encoder.kind: {config.kind}, and the model has {'an' if model.encoder is not None else 'no'} encoder; "
                         "give new or copy to one that has none")
    tensors = weights.state(model)
    if config.kind == "copy":
        for key, wanted, there in (("layers", config.layers, blocks), ("context", config.context, positions)):
            if wanted > there:
                raise ValueError(f"adapt.encoder.{key}: {wanted} cannot be copied from a model that has {there}; set it to {there} or less, or "
                                 "adapt.encoder.kind to new")
        tensors |= _copied_encoder(weights.state(model, merged=True), np.linspace(0, blocks - 1, config.layers).round().astype(int), config.context)
    return changed(model, tensors, seed, {"add_cross_attention": True}, encoder=config)


def _copied_encoder(tensors, chosen, context):
    """Return an encoder's weights of a model's, with the blocks of the numbers that are chosen."""
    copied = {f"encoder.ln_f.{part}": tensors[f"transformer.ln_f.{part}"] for part in ("weight", "bias")}
    copied["encoder.wpe.weight"] = tensors["transformer.wpe.weight"][:context]
    for number, block in enumerate(chosen):
        for name in (name for name in tensors if matches(f"transformer.h.{block}", name)):
            part = name.removeprefix(f"transformer.h.{block}.")
            if part.split(".")[0] in OF_EVERY_BLOCK:
                copied[f"encoder.h.{number}.{part}"] = tensors[name]
    return {name: array for name, array in copied.items() if not matches("**.prefix", name)}


def merge_lora(model: GPTLMHeadModel) -> GPTLMHeadModel:
    """Return a model without LoRA whose matrices hold its changes: the same function, and a plain GPT-2 again."""
    return changed(model, weights.state(model, merged=True), lora=LoraConfig())
