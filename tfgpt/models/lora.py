"""Low-rank changes of a model's matrices, trained instead of them, merged into them, and kept by themselves.

A folder of theirs has the form of the package PEFT, which reads it into PyTorch's GPT-2, and whose folders are read here. One difference: a change of
the embeddings here is one of the output matrix too, where the two are one.
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from tfgpt.models import weights
from tfgpt.models.adaptation import matches
from tfgpt.models.surgery import changed
from tfgpt.recipe import LoraConfig

CONFIG_FILE, TENSORS_FILE = "adapter_config.json", "adapter_model.safetensors"
IN_FILE = {".lora.a": ".lora_A.weight", ".lora.b": ".lora_B.weight"}
IN_FILE_OF_EMBEDDINGS = {".lora.a": ".lora_embedding_A", ".lora.b": ".lora_embedding_B"}
PREFIX = "base_model.model."
NOT_KNOWN = {"bias": "none", "use_rslora": False, "use_dora": False, "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None}
"""Settings of PEFT that change what a folder means, with the one value that is understood here."""


def add_lora(model, config: LoraConfig, seed: int = 0):
    """Return a model whose matrices are changed by LoRA (Hu et al. 2021); nothing changes at first, and the changes are what is trained.

    Args:
        model: a `GPTLMHeadModel` without LoRA.
        config: rank, scale, dropout, and patterns of the matrices.
        seed: of the changes.

    Raises:
        ValueError: a pattern that matches no matrix, or a model that has LoRA.

    >>> [weights.short_name(variable) for variable in add_lora(model, LoraConfig(rank=2, matrices=("h.1.mlp.c_fc",))).trainable_variables]
    ['h.1.mlp.c_fc.lora.a', 'h.1.mlp.c_fc.lora.b']
    """
    if model.low_ranks:
        raise ValueError("lora: the model has low-rank changes already; merge_lora them first")
    matrices = ["wte", *(weights.short_name(layer.weight).removesuffix(".weight") for layer in model.projections)]
    for pattern in config.matrices:
        if not any(matches(pattern, name) for name in matrices):
            raise ValueError(f"adapt.lora.matrices: the pattern {pattern!r} matches no matrix; there are {', '.join(matrices[:5])}, ... {matrices[-1]}")
    return changed(model, seed=seed, lora=config)


def merge_lora(model):
    """Return a model without LoRA whose matrices hold its changes: the same function, for the price of none."""
    return changed(model, weights.state(model, merged=True), lora=LoraConfig())


def save_lora(model, folder: str | Path) -> None:
    """Write the changes alone: adapter_config.json and adapter_model.safetensors.

    Raises:
        ValueError: a model without LoRA.
    """
    if not model.low_ranks:
        raise ValueError("save_lora: the model has no low-rank changes; add_lora first, and save before merge_lora")
    folder, lora = Path(folder), model.adaptation.lora
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_name_in_file(name): np.ascontiguousarray(array.T) for name, array in weights.state(model).items() if ".lora." in name}
    content = NOT_KNOWN | {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": None, "inference_mode": True, "fan_in_fan_out": True,
        "r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout,
        "target_modules": sorted(name.removesuffix(".weight") for name in model.low_ranks),
    }  # fmt: skip
    save_file(tensors, folder / TENSORS_FILE, metadata={"format": "pt"})
    (folder / TENSORS_FILE).chmod(0o644)  # like the file beside it; safetensors lets nobody else read it
    (folder / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def load_lora(model, folder: str | Path):
    """Return a model with the changes that `save_lora`, or PEFT, wrote.

    Args:
        model: the `GPTLMHeadModel` that they belong to, without LoRA.
        folder: of the changes.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: changes of another kind, or of another model.
    """
    config, tensors = _read(folder)
    return changed(model, weights.state(model) | tensors, lora=config)


def unmerge_lora(model, folder: str | Path):
    """Return a model with LoRA from one into whose matrices the changes in a folder were merged: the inverse of `merge_lora`, to rounding."""
    loaded = load_lora(model, folder)
    changes = {f"transformer.{name}": layer.change().numpy() for name, layer in loaded.low_ranks.items()}
    merged = weights.state(loaded)
    return changed(loaded, merged | {name: merged[name] - change for name, change in changes.items()})


def _name_in_file(name):
    table = IN_FILE_OF_EMBEDDINGS if name.startswith("transformer.wte.") else IN_FILE
    part = name[-len(".lora.a") :]
    return f"{PREFIX}{name.removesuffix(part)}{table[part]}"


def _read(folder) -> tuple[LoraConfig, Mapping[str, np.ndarray]]:
    folder = Path(folder)
    for file in (CONFIG_FILE, TENSORS_FILE):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder} holds no {file}; give a folder that save_lora, or PEFT, wrote")
    content = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
    if content.get("peft_type") != "LORA":
        raise ValueError(f"{folder / CONFIG_FILE}: peft_type is {content.get('peft_type')!r}; LORA alone is understood")
    for key, known in NOT_KNOWN.items():
        if content.get(key, known) != known:
            raise ValueError(f"{folder / CONFIG_FILE}: {key} is {content[key]!r}; {known!r} alone is understood")
    tensors = {}
    for name, array in load_file(folder / TENSORS_FILE).items():
        short = name.removeprefix(PREFIX)
        for part, in_file in (*IN_FILE.items(), *IN_FILE_OF_EMBEDDINGS.items()):
            short = short.removesuffix(in_file) + part if short.endswith(in_file) else short
        tensors[short] = np.ascontiguousarray(array.T)
    paths = sorted({name.removeprefix("transformer.").rpartition(".lora.")[0] for name in tensors})
    return LoraConfig(content["r"], float(content["lora_alpha"]), content.get("lora_dropout", 0.0), tuple(paths)), tensors
