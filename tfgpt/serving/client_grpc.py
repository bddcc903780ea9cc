"""The gRPC side of `tfgpt.serving.client`: TensorFlow Serving's Predict for rows of Python values."""
from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, model_pb2, predict_pb2, prediction_service_pb2_grpc

from tfgpt.serving.client import BusyError, ServerError

ADDRESS = re.compile(r"grpc(?P<secure>s?)://(?P<host>[^/]+:\d+)/(?P<name>[^/]+)(?:/versions/(?P<version>\d{1,18})|/labels/(?P<label>[^/]+))?")
BUSY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


class GrpcTransport:
    """A channel to one model.

    Args:
        url: grpc://HOST:PORT/NAME, with or without /versions/<v> or /labels/<l> behind.

        metadata: sent with each call.
        ca_certificate: PEM of whoever signed the server's certificate, for grpcs://; `None` = one that gRPC trusts.

    Raises:
        ServerError: another form of address, or a `ca_certificate` that cannot be read.
    """

    def __init__(self, url: str, metadata: Mapping[str, str] | None = None, ca_certificate: str | Path | None = None):
        found = ADDRESS.fullmatch(url)
        if found is None:
            raise ServerError(f"{url}: is no address of a model; give grpc://HOST:PORT/NAME, such as grpc://127.0.0.1:8500/quickstart")
        self._url = url
        self._spec = model_pb2.ModelSpec(name=found["name"], version_label=found["label"])
        if found["version"]:
            self._spec.version.value = int(found["version"])
        self._metadata = tuple((metadata or {}).items())
        options = [("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]
        self._channel = _secure(found["host"], ca_certificate, options) if found["secure"] else grpc.insecure_channel(found["host"], options)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._signatures: dict[str, meta_graph_pb2.SignatureDef] = {}

    def ask(self, signature: str, rows: list[dict], seconds: float) -> list[dict]:
        """Return a dictionary of outputs for each row; raises `ServerError`, or `BusyError` where asking again may help."""
        try:
            inputs = self._inputs_of(signature, seconds)
            request = predict_pb2.PredictRequest(model_spec=self._spec, inputs=_tensors(rows, inputs))
            request.model_spec.signature_name = signature
            response = self._stub.Predict(request, timeout=seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            kind = BusyError if error.code() in BUSY else ServerError
            raise kind(f"{self._url}: {error.code().name}: {error.details()}") from error
        outputs = {name: tf.make_ndarray(tensor).tolist() for name, tensor in response.outputs.items()}
        return [{name: _text(value) for name, value in zip(outputs, row)} for row in zip(*outputs.values())]

    def events(self, prompt: str, controls: dict, seconds: float) -> NoReturn:
        """Raise `ServerError`: TensorFlow Serving's gRPC has no streams."""
        raise ServerError(f"{self._url}: streams come over HTTP alone; give http://HOST:PORT/v1/models/NAME")

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _inputs_of(self, signature, seconds):
        """Return the signature's inputs, asked for once: their types are those that numbers are sent in."""
        if not self._signatures:
            request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=self._spec, metadata_field=["signature_def"])
            found = get_model_metadata_pb2.SignatureDefMap()
            self._stub.GetModelMetadata(request, timeout=seconds, metadata=self._metadata).metadata["signature_def"].Unpack(found)
            self._signatures = dict(found.signature_def)
        if signature not in self._signatures:
            raise ServerError(f"{self._url}: has no signature {signature}; there are {sorted(self._signatures)}")
        return self._signatures[signature].inputs


def _secure(host, ca_certificate, options):
    try:
        roots = None if ca_certificate is None else Path(ca_certificate).read_bytes()
    except OSError as error:
        raise ServerError(f"ca_certificate: {ca_certificate} cannot be read ({error}); give a certificate in PEM") from error
    return grpc.secure_channel(host, grpc.ssl_channel_credentials(roots), options)


def _tensors(rows, inputs):
    tensors = {}
    for name in rows[0] if rows else ():
        if name not in inputs:
            raise ServerError(f"{name}: is no input of this signature, which has {sorted(inputs)}")
        dtype = tf.as_dtype(inputs[name].dtype)
        values = [row[name] for row in rows]
        try:
            tensors[name] = tf.make_tensor_proto(np.array(values, dtype.as_numpy_dtype), dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise ServerError(f"{name}: {values[:3]} cannot be sent as {dtype.name} ({error})") from error
    return tensors


def _text(value):
    if isinstance(value, list):
        return [_text(item) for item in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
