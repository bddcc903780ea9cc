"""Changes of an existing model. Each function takes a model and returns a new one, which trains, saves, loads, exports and serves like any other.

A change is one of the configuration and of the weights by name; the model is then built anew of both. The model that was given stays as it is.
"""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tfgpt.models import heads, weights
from tfgpt.models.adaptation import Head, matches
from tfgpt.models.build import model_of
from tfgpt.models.causal_lm import GPTLMHeadModel
from tfgpt.recipe import AdaptConfig, HeadConfig, LoraConfig


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


def adapt(model: GPTLMHeadModel, config: AdaptConfig, seed: int, labels: Mapping[str, int] | None = None) -> GPTLMHeadModel:
    """Return a model with all layers that a recipe asks for, ready to be trained as it asks.

    Args:
        model: the starting model.
        config: of the recipe.
        seed: of what is new.
        labels: that a head is to find, with how often each occurs in the training part.

    Raises:
        ValueError: a pattern that matches nothing, a block or head that there is not.
    """
    if config.lora.rank:
        model = add_lora(model, config.lora, seed)
    if config.head.kind != "none":
        model = add_head(model, config.head, labels or {}, seed)
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
    matrices = ["wte", *(name.removesuffix(".weight") for name in model.weight_names if re.search(r"\.c_\w+\.weight$", name))]
    for pattern in config.matrices:
        if not any(matches(pattern, name) for name in matrices):
            raise ValueError(f"adapt.lora.matrices: the pattern {pattern!r} matches no matrix; there are {', '.join(matrices[:5])}, ...")
    return changed(model, seed=seed, lora=config)


def merge_lora(model: GPTLMHeadModel) -> GPTLMHeadModel:
    """Return a model without LoRA whose matrices hold its changes: the same function, and a plain GPT-2 again."""
    return changed(model, weights.state(model, merged=True), lora=LoraConfig())


def add_head(model: GPTLMHeadModel, config: HeadConfig, labels: Mapping[str, int] | Sequence[str] = (), seed: int = 0) -> GPTLMHeadModel:
    """Return a model with a head, which reads the final hidden state of the last token of what it judges; nothing else changes.

    Args:
        model: one with a head of the same kind and labels keeps that head's weights, one with another head loses them.
        config: what the head finds, and how it is trained.
        labels: the names (for a number: the numbers) in the order of data/labels.txt, or with how often each occurs; none for choice.
        seed: of its weights.

    Raises:
        ValueError: too few labels, or one that is no number.

    >>> add_head(model, HeadConfig("classes"), ["ham", "spam"]).head.weight.shape
    TensorShape([32, 2])
    """
    head = heads.head_of(config, labels)
    tensors, old = weights.state(model), model.adaptation.head
    if (old.kind, old.labels) != (head.kind, head.labels):
        tensors = {name: array for name, array in tensors.items() if not matches("head", name)}
    elif head.kind == "number":
        head = replace(head, center=old.center, spread=old.spread)                        # what its weights belong to
    return changed(model, tensors, seed, head=head)


def remove_head(model: GPTLMHeadModel) -> GPTLMHeadModel:
    """Return a model without its head: the language model alone."""
    return changed(model, {name: array for name, array in weights.state(model).items() if not matches("head", name)}, head=Head())
