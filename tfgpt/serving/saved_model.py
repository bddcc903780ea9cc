"""Load an exported SavedModel and call its signatures with the defaults that TensorFlow Serving would fill in.

Needs TensorFlow alone: nothing of the model's Python code, nor of the tokenizer's.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2


class LoadedModel:
    """One version of an exported model.

    Args:
        folder: the version's folder, which holds saved_model.pb.

    Raises:
        FileNotFoundError: no SavedModel there.
        RuntimeError: a damaged one.
    """

    signatures: dict[str, meta_graph_pb2.SignatureDef]
    writes = False
    """Whether texts can be handed in to be written in pieces."""

    def __init__(self, folder: Path):
        self.signatures = read_signatures(folder)
        self._loaded = tf.saved_model.load(str(folder))  # kept, since the functions hold its variables weakly
        self._functions = self._loaded.signatures
        self.stepper = getattr(self._loaded, "stepper", None)
        """The functions of `tfgpt.generation.stepping.Stepper`; `None` in a SavedModel that another program wrote."""

    def predict(self, signature: str, inputs: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
        """Call a signature; inputs left out take their defaults.

        Raises:
            KeyError: no such signature, an input that it does not have, or a missing one without a default.
            tf.errors.OpError: the graph refuses the values.
        """
        given = self.with_defaults(signature, inputs)
        return {name: value.numpy() for name, value in self._functions[signature](**given).items()}

    def with_defaults(self, signature: str, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return all inputs of a signature; raises as `predict`."""
        definition = signature_for(self.signatures, signature, inputs)
        defaults = {name: tf.make_ndarray(value) for name, value in definition.defaults.items()}
        return {name: tf.convert_to_tensor(value, tf.as_dtype(definition.inputs[name].dtype)) for name, value in (defaults | inputs).items()}

    def close(self) -> None:
        """Let go of the graph and its weights; nothing can be asked any more."""
        self._functions, self.stepper, self._loaded = {}, None, None


def read_graph(folder: Path) -> meta_graph_pb2.MetaGraphDef:
    """Return what a version's folder holds for servers: its graph and signatures.

    Raises:
        FileNotFoundError: no SavedModel there.
        RuntimeError: a damaged one, or one that is not for servers.
    """
    path = Path(folder) / "saved_model.pb"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no saved_model.pb; give the version's folder of an export, such as export/NAME/1")
    try:
        content = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except DecodeError as error:
        raise RuntimeError(f"{path}: is no SavedModel, or a damaged one; export it again") from error
    graphs = [graph for graph in content.meta_graphs if "serve" in graph.meta_info_def.tags]
    if not graphs:
        raise RuntimeError(f'{path}: holds no graph with the tag "serve"; export it again')
    return graphs[0]


def read_signatures(folder: Path) -> dict[str, meta_graph_pb2.SignatureDef]:
    """Return the signatures of a version's folder by name; raises what `read_graph` raises."""
    return {name: signature for name, signature in read_graph(folder).signature_def.items() if not name.startswith("__")}


def signature_for(signatures: Mapping[str, meta_graph_pb2.SignatureDef], name: str, inputs: Iterable[str]) -> meta_graph_pb2.SignatureDef:
    """Return the signature that a request with these inputs asks for.

    Raises:
        KeyError: no such signature, an input that it does not have, or a missing one without a default.
    """
    if name not in signatures:
        raise KeyError(f'signature "{name}" is not among {sorted(signatures)}')
    definition, given = signatures[name], set(inputs)
    if unknown := sorted(given - definition.inputs.keys()):
        raise KeyError(f"{unknown} are no inputs of {name}, which has {sorted(definition.inputs)}")
    if missing := sorted(definition.inputs.keys() - given - definition.defaults.keys()):
        raise KeyError(f"{missing} are missing among the inputs of {name}")
    return definition


def newest_version(folder: Path) -> int:
    """Return the highest version in a model's base path, as TensorFlow Serving chooses it.

    Raises:
        FileNotFoundError: no such folder, or no version in it.
    """
    versions = [int(path.name) for path in Path(folder).glob("*") if path.name.isdecimal() and (path / "saved_model.pb").is_file()]
    if not versions:
        raise FileNotFoundError(f"{folder} holds no version of an exported model; give the folder above the numbers, such as export/NAME")
    return max(versions)
