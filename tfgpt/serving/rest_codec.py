"""TensorFlow Serving's JSON for Predict: row format (`instances`) and column format (`inputs`), bytes as {"b64": ...}.

Source: https://www.tensorflow.org/tfx/serving/api_rest#predict_api
"""
from __future__ import annotations

import base64
import json
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from tfgpt.serving.errors import BadRequestError

DEFAULT_SIGNATURE = "serving_default"
FORMATS = "exactly one of 'instances' (row format) and 'inputs' (column format)"


def decode_predict(body: bytes, signatures: Mapping[str, meta_graph_pb2.SignatureDef]) -> tuple[str, bool, dict[str, np.ndarray]]:
    """Return the signature's name, whether the body is in row format, and the inputs by name.

    Raises:
        BadRequestError: anything wrong with the body.
    """
    request = parse_object(body)
    if unknown := sorted(request.keys() - {"signature_name", "instances", "inputs"}):
        raise BadRequestError(f"Unknown keys {unknown}; allowed are signature_name and {FORMATS}")
    if ("instances" in request) == ("inputs" in request):
        raise BadRequestError(f"Request body must have {FORMATS}")
    name = request.get("signature_name", DEFAULT_SIGNATURE)
    if not isinstance(name, str) or name not in signatures:
        raise BadRequestError(f'Serving signature name: "{name}" not found in signature def; there are {sorted(signatures)}')
    wanted = signatures[name].inputs
    row_format = "instances" in request
    columns = _columns_of_rows(request["instances"], wanted) if row_format else _columns(request["inputs"], wanted)
    return name, row_format, {key: _to_array(key, value, wanted[key]) for key, value in columns.items()}


def encode_predict(outputs: dict[str, np.ndarray], row_format: bool) -> dict:
    """Return the response body. A single output stands without its name, as TensorFlow Serving does it.

    Raises:
        BadRequestError: row format, and the outputs have no batch in common.
    """
    columns = {name: _to_json(name, _short(value).tolist()) for name, value in outputs.items()}
    if not row_format:
        return {"outputs": next(iter(columns.values())) if len(columns) == 1 else columns}
    if without := [name for name, value in outputs.items() if value.ndim == 0]:
        raise BadRequestError(f"Tensor name: {without[0]} has no shape information; ask in column format ('inputs')")
    sizes = {name: len(value) for name, value in outputs.items()}
    if len(set(sizes.values())) > 1:
        raise BadRequestError(f"The outputs have inconsistent batch sizes: {sizes}; ask in column format ('inputs')")
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    return {"predictions": [dict(zip(columns, row)) for row in zip(*columns.values())]}


def parse_object(body: bytes) -> dict:
    """Return the JSON object of a body; NaN and Infinity are read, as TensorFlow Serving reads them.

    Raises:
        BadRequestError: no JSON, or no object.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"JSON Parse error: {error}") from error
    if not isinstance(request, dict):
        raise BadRequestError(f"Request body must be a JSON object with {FORMATS}")
    return request


def is_base64(value) -> bool:
    """Return whether a JSON value is an object that holds bytes in base64 and nothing else."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def bytes_of_base64(name: str, value: dict) -> bytes:
    """Return the bytes of such an object; raises BadRequestError, which names the input."""
    try:
        return base64.b64decode(value["b64"], validate=True)
    except ValueError as error:  # binascii.Error is one, and so is what letters outside of ASCII bring up
        raise BadRequestError(f"{name}: b64 is not base64: {error}") from error


def _short(array):
    """Return float32 as the doubles that are written with the fewest digits: 0.2, and not 0.20000000298023224."""
    return array.astype(str).astype(np.float64) if array.dtype == np.float32 else array


def _columns_of_rows(rows, wanted):
    if not isinstance(rows, list) or not rows:
        raise BadRequestError("'instances' must be a list with one entry at least")
    if not _is_object(rows[0]):
        return {_only(wanted, "instances"): rows}
    names = set(rows[0])
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or set(row) != names:
            raise BadRequestError(f"instances[{number}] must have the same keys as instances[0]: {sorted(names)}")
    _check_names(names, wanted)
    return {name: [row[name] for row in rows] for name in names}


def _columns(inputs, wanted):
    if not _is_object(inputs):
        return {_only(wanted, "inputs"): inputs}
    _check_names(inputs, wanted)
    return inputs


def _is_object(value):
    return isinstance(value, dict) and set(value) != {"b64"}


def _only(wanted, key):
    if len(wanted) != 1:
        raise BadRequestError(f"'{key}' is a plain list, but expecting objects with names, since there are several inputs: {sorted(wanted)}")
    return next(iter(wanted))


def _check_names(names, wanted):
    if unknown := sorted(set(names) - set(wanted)):
        raise BadRequestError(f"{unknown} are no inputs of this signature, which has {sorted(wanted)}")


def _to_array(name, value, info):
    dtype = tf.as_dtype(info.dtype).as_numpy_dtype
    shape = [dimension.size for dimension in info.tensor_shape.dim]
    value = _decode_leaves(name, value, np.dtype(dtype), len(shape))
    try:
        with np.errstate(over="raise"):  # else a number that float32 cannot hold would become infinite
            array = np.array(value, dtype)
    except (ValueError, ArithmeticError, TypeError) as error:
        raise BadRequestError(f"{name}: cannot be made a {np.dtype(dtype).name} tensor: {error}") from error
    if array.ndim != len(shape):
        raise BadRequestError(f"{name}: has {array.ndim} dimensions, expected {len(shape)} (the first is the batch)")
    return array


def _decode_leaves(name, value, dtype, depth):
    """Check every leaf against the tensor's type; text and {"b64": ...} become bytes."""
    if depth > 0 and isinstance(value, list):
        items = [_decode_leaves(name, item, dtype, depth - 1) for item in value]
        if len(lengths := {len(item) for item in items if isinstance(item, list)}) > 1:
            raise BadRequestError(f"{name}: lists of {min(lengths)} and of {max(lengths)} entries; give each as many")
        return items
    if dtype.kind == "O":
        if isinstance(value, str):
            return value.encode("utf-8", "replace")  # a lone surrogate of JSON is no UTF-8
        if is_base64(value):
            return bytes_of_base64(name, value)
    elif type(value) in {"b": (bool,), "f": (int, float)}.get(dtype.kind, (int,)):  # and not isinstance: a bool is an int to it
        return value
    kind = "string" if dtype.kind == "O" else dtype.name
    raise BadRequestError(f"{name}: {json.dumps(value)[:60]} is not a {kind} at this depth; expected lists of {kind}, the batch first")


def _to_json(name, value):
    if isinstance(value, list):
        return [_to_json(name, item) for item in value]
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()} if name.endswith("_bytes") else value.decode("utf-8", "replace")
    return value
