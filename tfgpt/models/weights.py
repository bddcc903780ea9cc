"""A model's weights by name: as files, as fresh random numbers, and as what is trained. Files have PyTorch's names and layout."""
from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from safetensors.numpy import save_file
from tensorflow.python.ops.resource_variable_ops import UninitializedVariable
from transformers.modeling_tf_pytorch_utils import convert_tf_weight_name_to_pt_weight_name

from tfgpt.models import gpt1
from tfgpt.models.adaptation import matches

FILE, ADDED_FILE = "model.safetensors", "adaptation.safetensors"
ALL = ("**",)
BESIDE = ("**.lora", "**.prefix", "prompt", "**.bottleneck_*", "head", "encoder")
"""Weights that PyTorch's GPT-2 has no place for."""
ADDED = (*BESIDE, "**.crossattention", "**.ln_cross_attn")
"""Weights that are new in an adapted model."""
ZERO_AT_FIRST = ("**.lora.b", "**.bottleneck_*.up.weight", "**.crossattention.c_proj.weight")
"""Weights by which something new changes nothing at first."""


def pytorch_name(variable: tf.Variable) -> str:
    """Return the name that PyTorch's GPT-2 gives to a weight, such as `transformer.h.0.attn.c_attn.weight`."""
    return convert_tf_weight_name_to_pt_weight_name(variable.name, tf_weight_shape=variable.shape)[0]


def short_name(variable: tf.Variable) -> str:
    """Return the name of a weight without the first part, `transformer`: what patterns are matched with."""
    return pytorch_name(variable).removeprefix("transformer.")


def state(model, merged: bool = False) -> dict[str, np.ndarray]:
    """Return all weights by PyTorch's names and in its layout; heads that are pruned away are there, as zeros.

    Args:
        model: a built `GPTLMHeadModel`.
        merged: whether LoRA's changes are added to the matrices and left out themselves.
    """
    tensors, low_ranks = {}, model.low_ranks if merged else {}
    for variable in model.weights:
        if merged and matches("**.lora", short_name(variable)):
            continue
        array = variable.numpy()
        if short_name(variable) in low_ranks:
            array = array + low_ranks[short_name(variable)].change().numpy()
        array = array[0] if variable.name.endswith("/bias:0") and array.ndim == 2 else array  # TF biases: [1, n]
        tensors[pytorch_name(variable)] = _with_all_heads(model, short_name(variable), array)
    return tensors


def save(model, folder: Path) -> None:
    """Write model.safetensors, which PyTorch's and TensorFlow's transformers both read, and what they have no place for beside it."""
    files: dict[str, dict[str, np.ndarray]] = {FILE: {}, ADDED_FILE: {}}
    for name, array in state(model).items():
        beside = _is_one_of(BESIDE, name.removeprefix("transformer."))
        files[ADDED_FILE if beside else FILE][gpt1.file_name(name) if gpt1.is_gpt1(model.config) else name] = array
    for file, tensors in files.items():
        if tensors:
            save_file(tensors, folder / file, metadata={"format": "pt"})
            (folder / file).chmod(0o644)  # like the files beside it; safetensors lets nobody else read it
        else:
            (folder / file).unlink(missing_ok=True)


def build(model) -> None:
    """Make the weights of a model, which are then to be assigned: until then they have no values, and take no memory.

    Those of a distribution strategy are drawn, since it copies their first values from replica to replica.
    """
    if tf.distribute.has_strategy():
        model.build_in_name_scope()
        return
    with tf.variable_creator_scope(lambda _, **given: UninitializedVariable(**given)):
        model.build_in_name_scope()


def assign(model, tensors: Mapping[str, np.ndarray], seed: int | None = 0,
           keep: Callable[[tf.Variable, np.ndarray], object] = lambda variable, value: variable.assign(value)) -> None:
    """Give a built model these weights, in the form of `state`; those it has and they have not are drawn anew.

    Args:
        model: a built `GPTLMHeadModel`.
        tensors: by PyTorch's names; read one at a time.
        seed: of what is drawn; `None` = nothing may be missing.
        keep: gives a weight its value, those of LoRA first and the model's `matrices` last; by itself it assigns.

    Raises:
        ValueError: a weight of another shape, or one that the model has no place for; one that is missing and may not be drawn.
    """
    places = {pytorch_name(variable): variable for variable in model.weights}
    if unknown := sorted(tensors.keys() - places.keys()):
        raise ValueError(f"weights: the model has no place for {unknown[0]} ({len(unknown)} such); its config.json belongs to other weights")
    if seed is None and (missing := sorted(places.keys() - tensors.keys())):
        raise ValueError(f"weights: {missing[0]} is missing ({len(missing)} such); the files are not whole, or belong to another config.json")
    matrices = {variable.ref() for variable in model.matrices}
    for name, variable in sorted(places.items(), key=lambda place: (place[1].ref() in matrices, not matches("**.lora", short_name(place[1])))):
        if name not in tensors:
            variable.assign(fresh(model, variable, seed))
            continue
        array = _without_pruned_heads(model, short_name(variable), tensors[name])
        if list(array.shape) != [size for size in variable.shape if size > 1 or array.ndim == variable.shape.rank]:
            raise ValueError(f"weights: {name} has the shape {list(array.shape)}, and the model's is {list(variable.shape)}; its config.json belongs to "
                             "other weights")
        keep(variable, array if array.shape == tuple(variable.shape) else np.asarray(array).reshape(variable.shape))


def initialize(model, seed: int) -> None:
    """Draw every weight anew, the same for the same seed whatever else the process has drawn."""
    for variable in model.weights:
        variable.assign(fresh(model, variable, seed))


def fresh(model, variable: tf.Variable, seed: int) -> tf.Tensor:
    """Return new numbers for a weight, the same for the same seed and name.

    Normal with the config's `initializer_range` (0.02); the projections back into the residual stream are scaled by
    1 / sqrt(2 layers), as Radford et al. 2019 ("Language Models are Unsupervised Multitask Learners", 2.3) describe and as
    TFGPT2 omits. Biases are 0, layer norms 1 and 0; what must change nothing at first is 0.
    """
    spread, name = model.config.initializer_range, pytorch_name(variable)
    short = short_name(variable)
    if _is_one_of(ZERO_AT_FIRST, short):
        return tf.zeros(variable.shape)
    if matches("**.lora.a", short):
        return _normal(name, seed, variable.shape, 1.0 / math.sqrt(variable.shape[0]))
    if short in ("wpe.weight", "encoder.wpe.weight") and not model.transformer.wpe.trainable:
        return sinusoids(*variable.shape) * (math.sqrt(2.0) * spread)  # as large as learned positions begin
    if name.endswith("c_proj.weight"):
        return _normal(name, seed, variable.shape, spread / math.sqrt(2 * model.config.n_layer))
    if variable.shape.rank >= 2 and not name.endswith(".bias"):
        return _normal(name, seed, variable.shape, spread)
    return tf.fill(variable.shape, 1.0 if name.endswith(".weight") else 0.0)


def sinusoids(positions: int, width: int) -> tf.Tensor:
    """Return sines and cosines of falling frequencies, float32 [positions, width] (Vaswani et al. 2017, "Attention Is All You Need", 3.5).

    >>> sinusoids(2, 4).numpy().round(4)
    array([[0.    , 1.    , 0.    , 1.    ],
           [0.8415, 0.5403, 0.01  , 1.    ]], dtype=float32)
    """
    column = tf.range(width)
    angles = tf.range(positions, dtype=tf.float64)[:, tf.newaxis] / 10_000.0 ** (tf.cast(column // 2 * 2, tf.float64) / width)
    return tf.cast(tf.where(column % 2 == 0, tf.sin(angles), tf.cos(angles)), tf.float32)


def _is_one_of(patterns, short):
    return any(matches(pattern, short) for pattern in patterns)


def _normal(name, seed, shape, spread):
    salt = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")  # a stream of its own for each weight
    return tf.random.stateless_normal(shape, seed=[seed, salt], stddev=spread)


def _head_axis(model, short):
    """Return the block of a weight some of whose heads are pruned, and the number of the axis that has its heads; else `None`."""
    parts = short.split(".")
    if parts[0] != "h" or parts[2:4] not in (["attn", "c_attn"], ["attn", "c_proj"]) or parts[4:] not in (["weight"], ["bias"]):
        return None
    if parts[3:] == ["c_proj", "bias"] or len(model.adaptation.heads_of(int(parts[1]), model.config.n_head)) == model.config.n_head:
        return None
    return int(parts[1]), 1 if parts[3:] == ["c_attn", "weight"] else 0


def _with_all_heads(model, short, array):
    """Return a weight with zeros where heads were pruned away."""
    if (found := _head_axis(model, short)) is None:
        return array
    (block, axis), heads = found, model.config.n_head
    kept, width = model.adaptation.heads_of(block, heads), model.config.n_embd // heads
    parts = array.shape[axis] // (len(kept) * width)                                      # query, key and value; or one
    apart = np.moveaxis(array, axis, 0).reshape(parts, len(kept), width, -1)
    whole = np.zeros([parts, heads, *apart.shape[2:]], array.dtype)
    whole[:, kept] = apart
    return np.ascontiguousarray(np.moveaxis(whole.reshape(parts * heads * width, *np.moveaxis(array, axis, 0).shape[1:]), 0, axis))  # as files want it


def _without_pruned_heads(model, short, array):
    """Return a weight without the heads that are pruned away."""
    if (found := _head_axis(model, short)) is None:
        return array
    (block, axis), heads = found, model.config.n_head
    kept, width = model.adaptation.heads_of(block, heads), model.config.n_embd // heads
    moved = np.moveaxis(array, axis, 0)
    apart = moved.reshape(-1, heads, width, *moved.shape[1:])[:, kept]
    return np.moveaxis(apart.reshape(-1, *moved.shape[1:]), 0, axis)
