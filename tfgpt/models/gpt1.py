"""GPT-1 (openai-gpt) as a GPT-2: another place of the norms, and other names in its files.

Its blocks norm what they have added to the residual stream, and no norm follows the last one. Radford et al. 2018, "Improving Language
Understanding by Generative Pre-Training".
"""
from __future__ import annotations

from collections.abc import Mapping

from transformers import GPT2Config, OpenAIGPTConfig

MODEL_TYPE = OpenAIGPTConfig.model_type
ACTIVATIONS = {"gelu": "gelu_new", "relu": "relu", "silu": "silu", "swish": "silu"}
"""What GPT-1's configuration calls GPT-2's activations; its gelu is the one with tanh."""
NAMES = {"wte.": "tokens_embed.", "wpe.": "positions_embed."}
"""Beginnings of GPT-2's weights' names, and what GPT-1's files have instead."""


def is_gpt1(config: GPT2Config) -> bool:
    """Tell whether a model's blocks are GPT-1's."""
    return getattr(config, "norms", "before") == "after"


def config_of_gpt1(content: Mapping[str, object]) -> GPT2Config:
    """Return the configuration of a GPT-1, given as its config.json has it, with the keys of GPT-2.

    It has no end-of-text token, unless the file names one.

    Raises:
        ValueError: an activation that GPT-1 has not.
    """
    content = OpenAIGPTConfig.from_dict(dict(content)).to_dict()
    activation = content.pop("afn")
    if activation not in ACTIVATIONS:
        raise ValueError(f"config.json: afn is {activation!r}, and GPT-1 has {', '.join(ACTIVATIONS)}")
    tokens = {key: content.pop(key, None) for key in ("bos_token_id", "eos_token_id")}
    del content["model_type"]
    return GPT2Config(**content, **tokens, activation_function=ACTIVATIONS[activation], norms="after")


def saved_config(config: GPT2Config) -> OpenAIGPTConfig:
    """Return the configuration as GPT-1's own class has it, with whatever it has beside."""
    content = {key: value for key, value in config.to_diff_dict().items() if key not in ("activation_function", "norms", "model_type", "n_inner")}
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items() if theirs != "swish"}
    saved = OpenAIGPTConfig(**content, afn=names[config.activation_function])
    saved.architectures = ["OpenAIGPTLMHeadModel"]
    return saved


def file_name(name: str) -> str:
    """Return what GPT-1's files call a weight.

    >>> file_name("transformer.wte.weight"), file_name("transformer.h.0.attn.c_attn.bias")
    ('transformer.tokens_embed.weight', 'transformer.h.0.attn.c_attn.bias')
    """
    return _renamed(name, NAMES)


def model_name(name: str) -> str:
    """Return what the model calls a weight of GPT-1's files; any other name stays."""
    return _renamed(name, {theirs: ours for ours, theirs in NAMES.items()})


def _renamed(name, names):
    for old, new in names.items():
        if name.startswith(f"transformer.{old}"):
            return f"transformer.{new}" + name.removeprefix(f"transformer.{old}")
    return name
