"""Load an exported SavedModel and call its signatures with the defaults that TensorFlow Serving would fill in.

A version is a graph in a session of its own, as a C++ server has it. `tf.saved_model.load` would add its functions to the process, which never lets go of
them: a version of 5 million weights that was loaded, asked and dropped left 245 MB behind. Needs TensorFlow alone: nothing of the model's Python code,
nor of the tokenizer's.
"""
from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, saved_model_pb2
from tensorflow.python.saved_model.loader_impl import SavedModelLoader

from tfgpt.generation.calling import keep_few_passes
from tfgpt.heap import give_back_freed
from tfgpt.serving.pieces import SIGNATURES, SavedStepper


class LoadedModel:
    """One version of an exported model. Thread-safe, until it is closed.

    Args:
        folder: the version's folder, which holds saved_model.pb.

    Raises:
        FileNotFoundError: no SavedModel there.
        RuntimeError: a damaged one.
        tf.errors.OpError: its weights cannot be read.
    """

    signatures: dict[str, meta_graph_pb2.SignatureDef]
    writes = False
    """Whether texts can be handed in to be written in pieces."""

    def __init__(self, folder: Path):
        self._all_signatures = {name: _copied(signature) for name, signature in read_graph(folder).signature_def.items()}
        self.signatures = _public(self._all_signatures)
        self._defaults = {name: {key: tf.make_ndarray(value) for key, value in signature.defaults.items()} for name, signature in self.signatures.items()}
        self._session, self._calls, self._calling = _session_of(folder), {}, threading.Lock()
        _give_back()
        self.stepper = SavedStepper(self._run) if self._all_signatures.keys() >= set(SIGNATURES) else None
        """The functions of `tfgpt.generation.stepping.Stepper`; `None` in a SavedModel that another program wrote, or an earlier version of this one."""

    def predict(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Call a signature; inputs left out take their defaults.

        Raises:
            KeyError: no such signature, an input that it does not have, or a missing one without a default.
            ValueError, TypeError: an input of another type or number of dimensions.
            tf.errors.OpError: the graph refuses the values.
        """
        return self._run(signature, self.with_defaults(signature, inputs))

    def with_defaults(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return all inputs of a signature as arrays of its types; raises as `predict`."""
        wanted = signature_for(self.signatures, signature, inputs).inputs
        return self._defaults[signature] | {name: _array_for(name, value, wanted[name]) for name, value in inputs.items()}

    def prepare(self, names: Iterable[str]) -> None:
        """Make signatures, the hidden ones too, ready to run, for which their first call would wait: a second or two each."""
        with self._calling:
            missing = [name for name in names if name not in self._calls]
            for name in missing:
                self._calls[name] = _call_of(self._session, self._all_signatures[name])
            if missing:  # and not once for each caller who waited for the same
                _give_back()

    def close(self) -> None:
        """Let go of the graph and its weights; nothing can be asked any more."""
        if self._session is None:
            return
        self._session.close()
        self.stepper, self._session, self._calls = None, None, {}
        _give_back()

    def _run(self, signature, inputs):
        """Return the outputs of a signature, the hidden ones too, by name; `inputs` are all of its."""
        if signature not in self._calls:
            self.prepare([signature])
        call = self._calls[signature]
        values = call.function(*(inputs[name] for name in call.inputs))
        return {name: _as_array(values[place], kind) for name, (place, kind) in call.outputs.items()}


class _Call(NamedTuple):
    """A signature that is ready to be run."""

    inputs: list[str]
    outputs: dict[str, tuple[int, type]]
    """By name the place in what the function gives, and the type as NumPy has it."""
    function: Callable[..., list]
    """Takes the inputs in that order."""


def _call_of(session, definition):
    inputs, fetched = sorted(definition.inputs), sorted({info.name for info in definition.outputs.values()})
    options = config_pb2.CallableOptions(feed=[definition.inputs[name].name for name in inputs], fetch=fetched)
    # Session.run, and what its public make_callable gives, look all names up in every call: 1.3 ms of a step's 9 where 85 tensors go in and out
    function = session._make_callable_from_options(options)
    outputs = {name: (fetched.index(info.name), tf.as_dtype(info.dtype).as_numpy_dtype) for name, info in definition.outputs.items()}
    return _Call(inputs, outputs, function)


def _session_of(folder):
    """Return a session with a version's graph and weights."""
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph, config=_settings())
    try:
        with graph.as_default():
            SavedModelLoader(str(folder)).load(session, ["serve"])  # tf.compat.v1.saved_model.load, without its remark that Python has a newer one
    except BaseException:
        session.close()
        raise
    return session


def _copied(signature):
    """Return a copy of a part of a graph's message, which would keep the whole of it in memory."""
    copy = meta_graph_pb2.SignatureDef()
    copy.CopyFrom(signature)
    return copy


def _give_back():
    """Let the system have what a version took while it was loaded, of GPT-2 124M 170 MB."""
    gc.collect()  # the parts of a graph hold each other
    give_back_freed()


def _settings():
    """Return the settings of a session, those of TensorFlow outside of sessions."""
    threads = tf.config.threading
    settings = config_pb2.ConfigProto(
        allow_soft_placement=tf.config.get_soft_device_placement(),
        intra_op_parallelism_threads=threads.get_intra_op_parallelism_threads(),
        inter_op_parallelism_threads=threads.get_inter_op_parallelism_threads(),
    )
    keep_few_passes(settings)
    return settings


def _as_array(value, kind):
    """Return an array of what a session gives, which of no dimensions is the value alone."""
    return value if isinstance(value, np.ndarray) else np.array(value, kind)


def _array_for(name, value, info):
    """Return an input as the graph takes it."""
    kind = tf.as_dtype(info.dtype)
    array = np.asarray(tf.convert_to_tensor(value, kind).numpy(), kind.as_numpy_dtype)  # NumPy alone would make 1 of 1.5
    if not info.tensor_shape.unknown_rank and array.ndim != len(info.tensor_shape.dim):
        raise ValueError(f"{name}: has {array.ndim} dimensions, expected {len(info.tensor_shape.dim)} (the first is the batch)")
    return array


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
    return _public(read_graph(folder).signature_def)


def _public(signatures):
    """Leave out what is for loaders: TensorFlow's `__saved_model_init_op`, and the functions of a stepper."""
    return {name: signature for name, signature in signatures.items() if not name.startswith("__")}


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
