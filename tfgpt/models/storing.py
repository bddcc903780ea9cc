"""A model's matrices in fewer bits: which there are, and how each is exchanged for one of `tfgpt.models.stored`, so that nothing of it stays in memory."""
from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tf_keras

from tfgpt.models.stored import KINDS

FULL = "float32"
"""Weights as they are."""
Keeper = Callable[..., Callable[[tf.Variable, np.ndarray], object]]
"""Takes a built model and returns what gives each of its weights its value."""


def store(model, kind: str) -> None:
    """Keep the matrices of a model whose weights have values in fewer bits; see `GPTLMHeadModel.store_weights`."""
    if model.stored_output is not None:
        raise ValueError("weights: they are stored already; load the model again")
    for variable, exchange in _exchanges(model, kind).items():
        exchange(variable.deref().numpy())


def keeper(model, kind: str) -> Callable[[tf.Variable, np.ndarray], object]:
    """Return what gives a weight of a model its value: a matrix is kept in fewer bits, and its variable forgotten; what is none is assigned.

    Args:
        model: a built `GPTLMHeadModel`; LoRA's weights must have their values before the matrix that they change.
        kind: `float32`, with which all are assigned, or one of `tfgpt.models.stored.KINDS`.

    Raises:
        ValueError: no such kind.
    """
    exchanges = _exchanges(model, kind)
    return lambda variable, value: exchanges.get(variable.ref(), variable.assign)(value)


def _exchanges(model, kind):
    """Return for each matrix, by reference, what keeps its value, float32, in fewer bits from now on."""
    if kind == FULL:
        return {}
    if kind not in KINDS:
        raise ValueError(f"weights: {kind!r} is none of {FULL}, {', '.join(KINDS)}")
    kind, tied = KINDS[kind], model.lm_head is None
    exchanges = {layer.weight.ref(): functools.partial(layer.store, kind) for layer in model.projections}
    exchanges[model.transformer.wte.embeddings.ref()] = lambda value: _store_table(model, kind, value, tied)
    return exchanges if tied else exchanges | {model.lm_head.weight.ref(): lambda value: _store_output(model, kind, value)}


def _store_table(model, kind, value, tied):
    transformer = model.transformer
    transformer.stored_table = kind(transformer.merged(value))
    forget(transformer.wte, "embeddings")
    transformer.wte_lora = None
    if tied:
        model.stored_output = transformer.stored_table


def _store_output(model, kind, value):
    model.stored_output = kind(value)
    forget(model, "lm_head")
    model.lm_head = None


def forget(layer: tf_keras.layers.Layer, name: str) -> None:
    """Delete what a layer has under a name: a weight, or a layer with weights."""
    delattr(layer, name)
    layer._delete_tracking(name)  # which Keras leaves out: its note for checkpoints kept the weight in memory
