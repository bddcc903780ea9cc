"""Weights in a folder, by name, one at a time: files are mapped into memory, so a model is loaded without a second copy of its weights."""
from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors import safe_open

from tfgpt.models.weights import ADDED_FILE, FILE

INDEX = f"{FILE}.index.json"
NO_WEIGHTS = re.compile(r"\.attn\.(bias|masked_bias)$")
"""Constants that old checkpoints of GPT-2 hold among their weights."""


class Tensors(Mapping[str, np.ndarray]):
    """The weights in a folder's safetensors files, by the names that `tfgpt.models.weights.state` gives them; each is read when it is asked for.

    Args:
        folder: with model.safetensors, in one file or in several with an index.
        tied: whether the output matrix is the embeddings'; a copy of it in the files is then passed over.

    Raises:
        FileNotFoundError: no such file.
        ValueError: one that is cut short or no safetensors.
    """

    def __init__(self, folder: Path, tied: bool):
        self._files = {}
        for path in _files_of(folder):
            try:
                file = safe_open(path, framework="np")
            except Exception as error:
                if type(error).__name__ != "SafetensorError":
                    raise
                raise ValueError(f"{path}: is no safetensors file, or a damaged one ({error}); get it again") from error
            for name in list(file.keys()):
                whole = name if name.startswith(("transformer.", "lm_head.", "head.", "encoder.")) else f"transformer.{name}"
                if not NO_WEIGHTS.search(name) and not (tied and whole == "lm_head.weight"):
                    self._files[whole] = (file, name)

    def __getitem__(self, name: str) -> np.ndarray:
        file, stored = self._files[name]
        return file.get_tensor(stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _files_of(folder):
    files = [FILE]
    if (folder / INDEX).is_file():
        files = sorted(set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()))
    return [folder / file for file in files] + [path for path in [folder / ADDED_FILE] if path.is_file()]
