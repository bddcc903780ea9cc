"""Whether an exported version does what it should, found out as a C++ server would run it: a plain session, and no Python functions."""
from __future__ import annotations

import importlib
import importlib.util
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.framework import op_def_registry
from tensorflow_serving.apis import predict_pb2

from tfgpt.generation.text_model import TextModel
from tfgpt.models.stored import INT8_PRODUCT
from tfgpt.recipe import ExportConfig
from tfgpt.serving.export import SETTINGS, signatures_of
from tfgpt.serving.manifest import verify_manifest
from tfgpt.serving.saved_model import LoadedModel, read_graph
from tfgpt.serving.warmup import WARMUP, read_warmup

INTERNAL_OPS = {INT8_PRODUCT}
"""Of TensorFlow's, those that its Python interface leaves out and an export may hold."""
PYTHON_OPS = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
"""Call Python, which a server does not have."""
TEXTS = ("It was", "", "def f(x):\n    return ", "naïve café 日本語 ½", " a" * 3000)
"""Asked of the version and of the Python model alike: the last is longer than any context."""
FLOAT = 1e-4
"""The largest difference between two runs of one model, of numbers above 1 in proportion: float32 sums in another order."""
FAILURES = (RuntimeError, ValueError, KeyError, FileNotFoundError, tf.errors.OpError)


class Finding(NamedTuple):
    """What a check has found."""

    check: str
    ok: bool
    detail: str
    seconds: float


def check_version(folder: Path, text_model: TextModel | None = None) -> Iterator[Finding]:
    """Yield what is found of a version's folder, check after check; nothing more is asked of one that cannot be loaded.

    Args:
        folder: holds saved_model.pb.
        text_model: the Python model that it was exported from, in the same weights, to compare with; `None` = without.
    """
    yield tried("manifest", lambda: verify_manifest(folder) or "every file is as it was written")
    yield tried("operations", lambda: check_operations(read_graph(folder)))
    versions = []
    yield tried("load", lambda: versions.append(LoadedModel(folder)) or "in a plain session, tag serve")
    if not versions:
        return
    loaded = versions[0]
    for name in sorted(loaded.signatures):
        yield tried(f"signature {name}", lambda name=name: _check_signature(loaded, name))
    yield tried("warm-up", lambda: _check_warmup(loaded, folder))
    if text_model is not None:
        for name, function in signatures_of(text_model, ExportConfig(max_new_tokens=1, beams=_beams_of(folder))).items():
            yield tried(f"model {name}", lambda name=name, function=function: compare(loaded, name, function, FLOAT))
    loaded.close()


def _beams_of(folder):
    """Return the beams of a version's search; 0 = it has none."""
    path = folder / "assets.extra" / SETTINGS
    settings = json.loads(path.read_text("utf-8"))["settings"] if path.is_file() else {}
    return settings.get("beams", 0)  # which an earlier export does not tell


def tried(check: str, run: Callable[[], str]) -> Finding:
    """Return what `run` says, or what it fails with."""
    start = time.monotonic()
    try:
        ok, detail = True, run()
    except FAILURES as error:
        ok, detail = False, (error.message if isinstance(error, tf.errors.OpError) else str(error.args[0] if error.args else error)).split("\n")[0]
    return Finding(check, ok, detail, round(time.monotonic() - start, 2))


def check_operations(graph: meta_graph_pb2.MetaGraphDef) -> str:
    """Return in words what operations a graph holds.

    Raises:
        RuntimeError: one that is neither TensorFlow's nor TF Text's, or that calls Python: no such server has it.
    """
    functions = graph.graph_def.library.function
    nodes = [*graph.graph_def.node, *(node for function in functions for node in function.node_def)]
    operations = {node.op for node in nodes} - {function.signature.name for function in functions}
    core = {name for name in dir(tf.raw_ops) if not name.startswith("_")} | INTERNAL_OPS
    foreign = operations - core
    if foreign and importlib.util.find_spec("tensorflow_text"):
        foreign = {name for name in foreign if not _is_of_tf_text(name)}
    if wrong := sorted(foreign | operations & PYTHON_OPS):
        raise RuntimeError(f"{', '.join(wrong)}: not in TensorFlow Serving, which has TensorFlow's operations and TF Text's (those are known to this check "
                           "where tensorflow-text is installed)")
    count = sum(function.attr["_XlaMustCompile"].b for function in functions)
    said = f"; XLA compiles {count} functions, so start the server with --xla_cpu_compilation_enabled or --xla_gpu_compilation_enabled" if count else ""
    return f"{len(operations)} kinds, all TensorFlow's or TF Text's{said}"


def _is_of_tf_text(name):
    """Tell whether importing TF Text makes an operation known that was not."""
    if op_def_registry.get(name) is not None and "tensorflow_text" not in importlib.sys.modules:
        return False
    importlib.import_module("tensorflow_text")
    return op_def_registry.get(name) is not None


def inputs_for(definition: meta_graph_pb2.SignatureDef, texts: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return what a signature must be given for these texts; what has a default is left out."""
    rows = np.array([text.encode() for text in texts], object)
    known = {"text": rows, "prompt": rows, "choices": np.array([[b" a", b" b"]] * len(texts), object),
             "ids": np.array([[number, number + 1] for number in range(len(texts))], np.int32)}
    return {name: known[name] for name in definition.inputs if name not in definition.defaults}


def _check_signature(loaded, name):
    definition = loaded.signatures[name]
    return _check_outputs(definition, loaded.predict(name, inputs_for(definition, TEXTS)), len(TEXTS))


def _check_outputs(definition, outputs, rows):
    for key, value in outputs.items():
        kind = tf.as_dtype(definition.outputs[key].dtype)
        if not value.shape or value.shape[0] != rows or kind.as_numpy_dtype not in (value.dtype.type, object):
            raise RuntimeError(f"{key} is {value.dtype} {list(value.shape)} and not {kind.name} with {rows} rows, as the signature says")
        if np.issubdtype(value.dtype, np.floating) and np.isnan(value).any():
            raise RuntimeError(f"{key} holds numbers that are none (NaN)")
    return ", ".join(f"{key} {list(value.shape)}" for key, value in sorted(outputs.items()))


def _check_warmup(loaded, folder):
    count = 0
    for count, request in enumerate(read_warmup(folder), 1):
        answer_warmup(loaded, request, count)
    if not count:
        raise RuntimeError(f"there are no requests in {WARMUP}; export the model again")
    return f"{count} requests answered"


def answer_warmup(loaded: LoadedModel, request: predict_pb2.PredictRequest, number: int) -> None:
    """Answer a warm-up request.

    Raises:
        RuntimeError: it cannot be, or the answer is not what the signature says.
    """
    signature, inputs = request.model_spec.signature_name, {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
    try:
        rows = len(next(iter(inputs.values())))
        _check_outputs(loaded.signatures[signature], loaded.predict(signature, inputs), rows)
    except FAILURES as error:
        raise RuntimeError(f"request {number} ({signature}): {error}") from error


def compare(loaded: LoadedModel, name: str, function: Callable, tolerance: float) -> str:
    """Compare what a signature gives with what its function in Python does (see `signatures_of`), row for row; say in words what is the same.

    Raises:
        RuntimeError: a text or a number that differs, floats by more than the tolerance, of numbers above 1 in proportion.
    """
    if name not in loaded.signatures:
        raise RuntimeError(f"the Python model has the signature {name}, and the version has not")
    definition = loaded.signatures[name]
    given = inputs_for(definition, TEXTS)
    if "max_new_tokens" in definition.inputs:
        given["max_new_tokens"] = np.array([16], np.int32)
    there, here = loaded.predict(name, given), {key: value.numpy() for key, value in function(**{k: tf.constant(v) for k, v in given.items()}).items()}
    for key, value in here.items():
        if value.shape != there[key].shape:
            raise RuntimeError(f"{key} is {list(there[key].shape)}, and {list(value.shape)} by the Python model")
        floats = np.issubdtype(value.dtype, np.floating)
        differ = np.abs(value - there[key]) > tolerance * np.maximum(1.0, np.abs(value)) if floats else value != there[key]
        if np.any(differ):
            row = int(np.argwhere(differ)[0][0])
            raise RuntimeError(f"{key} of the text {TEXTS[row][:20]!r} is {str(there[key][row])[:60]}, and {str(value[row])[:60]} by the Python model")
    return f"{', '.join(sorted(here))}: the same for {len(TEXTS)} texts"
