"""Whether a version for LiteRT does what it should, run by LiteRT's interpreter."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from tfgpt.generation.text_model import TextModel
from tfgpt.models.lite import LiteModel
from tfgpt.serving.check import FLOAT, TEXTS, Finding, tried
from tfgpt.serving.lite_export import MODEL, TOKENIZER
from tfgpt.serving.manifest import verify_manifest
from tfgpt.text.bpe import load_tokenizer

NEW = 16
"""Tokens that are written in a comparison."""


def check_lite(folder: Path, text_model: TextModel | None = None) -> Iterator[Finding]:
    """Yield what is found of a version's folder, check after check.

    Args:
        folder: holds model.tflite.
        text_model: the Python model in float32 that it was exported from; `None` = without. A version in int8 is compared with that model in int8 behind
            LiteRT, converted anew.
    """
    yield tried("manifest", lambda: verify_manifest(folder) or "every file is as it was written")
    yield tried("operations", lambda: _check_operations(folder / MODEL))
    opened = []
    yield tried("load", lambda: opened.append(TextModel(LiteModel.open(folder), load_tokenizer(folder / TOKENIZER))) or "by LiteRT's interpreter")
    if not opened:
        return
    lite = opened[0]
    yield tried("generate", lambda: _generated(lite))
    if text_model is not None:
        other = text_model if np.load(folder / "embeddings.npy", mmap_mode="r").dtype == np.float32 else None
        other = other or TextModel(LiteModel(text_model.model, "int8"), text_model.python_tokenizer)
        yield tried("model logits", lambda: _compare_logits(lite, other))
        yield tried("model texts", lambda: _compare_texts(lite, other))


def _check_operations(path):
    """Refuse what LiteRT does not have by itself."""
    flat = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in flat.operatorCodes]
    if custom := [code.customCode.decode() for code, kind in zip(flat.operatorCodes, codes) if kind == schema.BuiltinOperator.CUSTOM]:
        raise RuntimeError(f"{', '.join(custom)}: not among LiteRT's own operations")
    return f"{len(set(codes))} kinds, all LiteRT's own"


def _generated(lite):
    count = sum(answer.token_count for answer in lite.generate(list(TEXTS), NEW))
    return f"{count} tokens behind {len(TEXTS)} texts"


def _compare_logits(lite, other):
    ids = other.tokenizer.tokenize(tf.constant(TEXTS[:1]))[:, : lite.model.config.n_positions].to_tensor()
    places = tf.range(tf.shape(ids)[1])[tf.newaxis]
    there, here = (model.read(ids, places, places, None)[0].numpy() for model in (lite.model, other.model))
    difference = float(np.max(np.abs(there - here) / np.maximum(1.0, np.abs(here))))
    if not difference <= FLOAT:
        raise RuntimeError(f"they differ from the Python model's by up to {difference:.2g}, of numbers above 1 in proportion; {FLOAT:g} is allowed")
    return f"the same behind {ids.shape[1]} tokens, but for {difference:.1g}"


def _compare_texts(lite, other):
    for text, there, here in zip(TEXTS, lite.generate(list(TEXTS), NEW), other.generate(list(TEXTS), NEW)):
        if there.text != here.text:
            raise RuntimeError(f"behind {text[:20]!r} it writes {there.text[:40]!r}, and the Python model {here.text[:40]!r}")
    return f"the same behind {len(TEXTS)} texts"
