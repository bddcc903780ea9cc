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
        if name.endswith("c_proj.weight"):
            variable.assign(_normal(name, seed, variable.shape, spread / math.sqrt(2 * model.config.n_layer)))
        elif variable.shape.rank == 2 and name.endswith(".weight"):
            variable.assign(_normal(name, seed, variable.shape, spread))
        else:
            variable.assign(tf.fill(variable.shape, 1.0 if name.endswith(".weight") else 0.0))


def _normal(name, seed, shape, spread):
    salt = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")  # a stream of its own for each weight
    return tf.random.stateless_normal(shape, seed=[seed, salt], stddev=spread)
