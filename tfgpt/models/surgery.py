"""Changes of an existing model. Each function takes a model and returns a new one, which trains, saves, loads, exports and serves like any other.

A change is one of the configuration and of the weights by name; the model is then built anew of both. The model that was given stays as it is.
"""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import tensorflow as tf

from tfgpt.models import weights
from tfgpt.models.adaptation import Head, matches
from tfgpt.models.build import model_of
from tfgpt.models.causal_lm import GPTLMHeadModel
from tfgpt.models.gpt1 import is_gpt1
from tfgpt.models.heads import head_of
from tfgpt.recipe import BottleneckConfig, EncoderConfig, HeadConfig, PrefixConfig

OF_BLOCK = re.compile(r"^(transformer\.h\.)(\d+)(\..*)$")
INTO_THE_STREAM = ("attn.c_proj.weight", "mlp.c_proj.weight")
"""The matrices by which a block adds to the residual stream."""
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


def reinitialize(model: GPTLMHeadModel, patterns: Sequence[str], seed: int = 0) -> GPTLMHeadModel:
    """Return a model some of whose weights begin at random.

    Args:
        model: any.
        patterns: of the weights, as in `GPTLMHeadModel.train_only`.
        seed: of the new numbers; each weight draws its own, whatever else is drawn.

    Raises:
        ValueError: a pattern that no weight matches.

    >>> names = weights.state(model)
    >>> fresh = weights.state(reinitialize(model, ["h.1"], seed=2))
    >>> sorted({name.split(".")[2] for name in names if (names[name] != fresh[name]).any()})
    ['1']
    """
    for pattern in patterns:
        model.check_pattern("reinitialize", pattern)
    state = weights.state(model)
    kept = {name: array for name, array in state.items() if not any(matches(one, name.removeprefix("transformer.")) for one in patterns)}
    return changed(model, kept, seed)


def insert_blocks(model: GPTLMHeadModel, places: Sequence[int], seed: int = 0) -> GPTLMHeadModel:
    """Return a deeper model with the same function: what the new blocks add to the residual stream is multiplied by 0 at first.

    Args:
        model: any.
        places: behind which of its blocks, counted from 1, a new one is put; 0 = before all of them; a number twice = two new ones.
        seed: of the new blocks.

    Raises:
        ValueError: a place behind no block; a GPT-1, whose blocks norm what comes out of them, so that none leaves it as it is.
    """
    layers = model.config.n_layer
    if is_gpt1(model.config):
        raise ValueError("adapt.insert_blocks: a new block of GPT-1 cannot leave the function as it is, since it norms what comes out; leave it out")
    if wrong := [place for place in places if not 0 <= place <= layers]:
        raise ValueError(f"adapt.insert_blocks: there is no block {wrong[0]}; give places from 0 to {layers}")
    moved = moved_blocks(layers, places)
    new = sorted(set(range(layers + len(places))) - set(moved.values()))

    def renamed(name):
        found = OF_BLOCK.match(name)
        return f"{found[1]}{moved[int(found[2])]}{found[3]}" if found else name

    tensors = {renamed(name): array for name, array in weights.state(model).items()}
    for block in new:
        for name in INTO_THE_STREAM:
            tensors[f"transformer.h.{block}.{name}"] = np.zeros_like(tensors[f"transformer.h.{moved[0]}.{name}"])
    heads = {key: tuple(f"{moved[int(block)]}.{head}" for block, head in (one.split(".") for one in getattr(model.adaptation, key)))
             for key in ("masked_heads", "pruned_heads")}
    return changed(model, tensors, seed, {"n_layer": layers + len(places)}, **heads)


def set_dropout(model: GPTLMHeadModel, rate: float) -> GPTLMHeadModel:
    """Return a model that drops another share of embeddings, attention weights and what attention and MLP add, in training."""
    return changed(model, of_config={"embd_pdrop": rate, "attn_pdrop": rate, "resid_pdrop": rate})


def moved_blocks(layers: int, places: Sequence[int]) -> dict[int, int]:
    """Return the new number of each of so many blocks once new ones are put in `places` (see `insert_blocks`).

    >>> moved_blocks(2, [0, 2, 2])
    {0: 1, 1: 2}
    """
    count = Counter(places)
    return {old: old + sum(count[place] for place in range(old + 1)) for old in range(layers)}


def add_bottleneck(model: GPTLMHeadModel, config: BottleneckConfig, seed: int = 0) -> GPTLMHeadModel:
    """Return a model with small layers behind attention and MLP, which change nothing at first and are what is trained (Houlsby et al. 2019).

    Raises:
        ValueError: a model that has other ones already.
    """
    if model.adaptation.bottleneck.width and model.adaptation.bottleneck != config:
        raise ValueError(f"adapt.bottleneck: {config.width} wide, and the model has some of {model.adaptation.bottleneck.width} already; leave it out, and "
                         "these are trained on, or start from a model without")
    return changed(model, seed=seed, bottleneck=config)


def add_prefix(model: GPTLMHeadModel, config: PrefixConfig, seed: int = 0) -> GPTLMHeadModel:
    """Return a model with learned tokens before every text, which are what is trained.

    They begin as the embeddings of tokens drawn from the vocabulary (Lester et al. 2021, 3.2); a `prefix` as what the model makes of these. They take
    no place in the context, and the positions of the text stay what they were.

    Raises:
        ValueError: a model that has such tokens already.
    """
    if model.adaptation.prefix.tokens:
        raise ValueError(f"adapt.prefix.tokens: {config.tokens}, and the model has {model.adaptation.prefix.tokens} already; leave adapt.prefix out, and these "
                         "are trained on, or start from a model without")
    table = model.transformer.table().numpy()
    drawn = np.random.default_rng(seed).choice(len(table), config.tokens, replace=config.tokens > len(table))
    tensors = weights.state(model) | {"transformer.prompt.weight": table[drawn]}
    prompted = changed(model, tensors, seed, prefix=replace(config, kind="prompt"))
    return prompted if config.kind == "prompt" else prompt_as_prefix(prompted)


def prompt_as_prefix(model: GPTLMHeadModel) -> GPTLMHeadModel:
    """Return a model with the keys and values that it makes of its learned prompt: the same function, without the work of making them each time."""
    state = weights.state(model)
    tensors = {name: array for name, array in state.items() if name != "transformer.prompt.weight"}
    for block, (keys, values) in enumerate(model.transformer.first_keys()):
        for part, array in (("keys", keys), ("values", values)):
            tensors[f"transformer.h.{block}.attn.prefix.{part}"] = tf.cast(array[0], tf.float32).numpy()
    return changed(model, tensors, prefix=replace(model.adaptation.prefix, kind="prefix"))


def set_window(model: GPTLMHeadModel, window: int) -> GPTLMHeadModel:
    """Return a model each of whose tokens sees that many tokens in every block, itself among them; 0 = all before it (Beltagy et al. 2020)."""
    return changed(model, window=window)


def add_encoder(model: GPTLMHeadModel, config: EncoderConfig, seed: int = 0) -> GPTLMHeadModel:
    """Return a model that also reads a source: with an encoder, and in every block attention to its states, which adds nothing at first.

    Args:
        model: without an encoder.
        config: kind, layers and the rest; a context of 0 = the model's.
        seed: of what is new.

    Raises:
        ValueError: a model that has an encoder, or is a GPT-1; kind none; more to copy than the model has.
    """
    if is_gpt1(model.config):
        raise ValueError("adapt.encoder.kind: GPT-1's blocks have no place for cross-attention; start from a GPT-2")
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


def add_head(model: GPTLMHeadModel, config: HeadConfig, labels: Mapping[str, int] | Sequence[str] = (), seed: int = 0) -> GPTLMHeadModel:
    """Return a model with a head, which reads the final hidden state of the last token of what it judges; nothing else changes.

    Args:
        model: one with a head of the same kind and labels keeps that head's weights, one with another head loses them.
        config: what the head finds, and how it is trained.
        labels: the names (for a number: the numbers) in the order of data/labels.txt, or with how often each occurs; none for choice.
        seed: of its weights.

    Raises:
        ValueError: too few labels, or one that is no number; a model with an encoder.

    >>> add_head(model, HeadConfig("classes"), ["ham", "spam"]).head.weight.shape
    TensorShape([32, 2])
    """
    if model.encoder is not None:
        raise ValueError("adapt.head.kind: the model has an encoder, beside which no head judges; start from one without")
    head = head_of(config, labels)
    tensors, old = weights.state(model), model.adaptation.head
    if (old.kind, old.labels) != (head.kind, head.labels):
        tensors = {name: array for name, array in tensors.items() if not matches("head", name)}
    elif head.kind == "number":
        head = replace(head, center=old.center, spread=old.spread)                        # what its weights belong to
    return changed(model, tensors, seed, head=head)


def set_temperature(model: GPTLMHeadModel, temperature: float) -> GPTLMHeadModel:
    """Return a model whose head's outputs are divided by a number above 0 before they are made probabilities of classes or labels."""
    return changed(model, head=replace(model.adaptation.head, temperature=temperature))


def remove_head(model: GPTLMHeadModel) -> GPTLMHeadModel:
    """Return a model without its head: the language model alone."""
    return changed(model, {name: array for name, array in weights.state(model).items() if not matches("head", name)}, head=Head())


def untie_output(model: GPTLMHeadModel) -> GPTLMHeadModel:
    """Return a model whose output matrix is its own, `lm_head`, and begins as a copy of the embeddings: the same function. One that has its own keeps it."""
    if model.lm_head is not None:
        return model
    tensors = weights.state(model) | {"lm_head.weight": model.output_table().numpy()}
    return changed(model, tensors, of_config={"tie_word_embeddings": False})


def tie_output(model: GPTLMHeadModel) -> GPTLMHeadModel:
    """Return a model whose output matrix is the embeddings; what it had of its own is gone."""
    if model.lm_head is None:
        return model
    tensors = {name: array for name, array in weights.state(model).items() if name != "lm_head.weight"}
    return changed(model, tensors, of_config={"tie_word_embeddings": True})
