"""GPT-2-family models in TensorFlow, from raw text to a served model.

The public names below are imported when they are first used, so that `import tfgpt` does not wait for TensorFlow.
"""
from __future__ import annotations

import importlib
import os

from tfgpt import sqlite  # noqa: F401  before TensorFlow, which the names below import

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # left to itself TensorFlow uses oneDNN on newer processors alone; on others a step took 1.7 times as long
if "xla_cpu_experimental_ynn_fusion_type" not in (_flags := os.environ.get("XLA_FLAGS", "")):
    # of two threads that first run such a kernel of XLA's at once, both lengthen one list of constants, without a lock: a training of two lanes crashed
    os.environ["XLA_FLAGS"] = f"{_flags} --xla_cpu_experimental_ynn_fusion_type=".strip()

__version__ = "0.1.0"

_PUBLIC = {
    "DataConfig": "tfgpt.recipe",
    "GPTLMHeadModel": "tfgpt.models.causal_lm",
    "GraphTokenizer": "tfgpt.text.graph",
    "Recipe": "tfgpt.recipe",
    "ShardedData": "tfgpt.data.shards",
    "TensorBoard": "tfgpt.training.tensorboard",
    "TextModel": "tfgpt.generation.text_model",
    "evaluation_batches": "tfgpt.data.pipeline",
    "export": "tfgpt.serving.export",
    "load_model": "tfgpt.models.build",
    "load_recipe": "tfgpt.recipe_file",
    "load_text_model": "tfgpt.generation.loading",
    "load_tokenizer": "tfgpt.text.bpe",
    "pack_texts": "tfgpt.data.pipeline",
    "prepare": "tfgpt.data.prepare",
    "run": "tfgpt.pipeline",
    "train_tokenizer": "tfgpt.text.bpe",
    "training_batches": "tfgpt.data.pipeline",
}
__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"tfgpt has no {name}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
