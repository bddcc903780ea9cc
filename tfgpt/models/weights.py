"""A model's weights as files and as fresh random numbers. Files have PyTorch's names and layout."""
from __future__ import annotations

import hashlib
import math
from pathlib import Path

import tensorflow as tf
from safetensors.numpy import save_file
from transformers.modeling_tf_pytorch_utils import convert_tf_weight_name_to_pt_weight_name


def pytorch_name(variable: tf.Variable) -> str:
    """Return the name that PyTorch's GPT-2 gives to a weight, such as `transformer.h.0.attn.c_attn.weight`."""
    return convert_tf_weight_name_to_pt_weight_name(variable.name, tf_weight_shape=variable.shape)[0]


def save(model, path: Path) -> None:
    """Write the weights to a safetensors file that PyTorch's and TensorFlow's transformers both read."""
    tensors = {}
    for variable in model.weights:
        array = variable.numpy()
        tensors[pytorch_name(variable)] = array[0] if variable.name.endswith("/bias:0") and array.ndim == 2 else array  # TF biases: [1, n]
    save_file(tensors, path, metadata={"format": "pt"})


def initialize(model, seed: int) -> None:
    """Draw every weight anew, the same for the same seed whatever else the process has drawn.

    Normal with the config's `initializer_range` (0.02); the projections back into the residual stream are scaled by
    1 / sqrt(2 layers), as Radford et al. 2019 ("Language Models are Unsupervised Multitask Learners", 2.3) describe and as
    TFGPT2 omits. Biases are 0, layer norms 1 and 0.
    """
    spread = model.config.initializer_range
    for variable in model.weights:
        name = pytorch_name(variable)
        if name.endswith("wpe.weight") and not model.transformer.wpe.trainable:
            variable.assign(sinusoids(*variable.shape) * (math.sqrt(2.0) * spread))  # as large as learned positions begin
        elif name.endswith("c_proj.weight"):
            variable.assign(_normal(name, seed, variable.shape, spread / math.sqrt(2 * model.config.n_layer)))
        elif variable.shape.rank == 2 and name.endswith(".weight"):
            variable.assign(_normal(name, seed, variable.shape, spread))
        else:
            variable.assign(tf.fill(variable.shape, 1.0 if name.endswith(".weight") else 0.0))


def sinusoids(positions: int, width: int) -> tf.Tensor:
    """Return sines and cosines of falling frequencies, float32 [positions, width] (Vaswani et al. 2017, "Attention Is All You Need", 3.5).

    >>> sinusoids(2, 4).numpy().round(4)
    array([[0.    , 1.    , 0.    , 1.    ],
           [0.8415, 0.5403, 0.01  , 1.    ]], dtype=float32)
    """
    column = tf.range(width)
    angles = tf.range(positions, dtype=tf.float64)[:, tf.newaxis] / 10_000.0 ** (tf.cast(column // 2 * 2, tf.float64) / width)
    return tf.cast(tf.where(column % 2 == 0, tf.sin(angles), tf.cos(angles)), tf.float32)


def _normal(name, seed, shape, spread):
    salt = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")  # a stream of its own for each weight
    return tf.random.stateless_normal(shape, seed=[seed, salt], stddev=spread)
