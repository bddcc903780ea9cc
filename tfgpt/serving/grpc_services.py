"""TensorFlow Serving's gRPC services over a catalog: PredictionService and ModelService.

Source: https://github.com/tensorflow/serving/tree/master/tensorflow_serving/apis
"""
from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.message import Message
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from tfgpt.serving import examples
from tfgpt.serving.access import KeyInterceptor
from tfgpt.serving.catalog import Catalog
from tfgpt.serving.config import BasePaths, configs_of
from tfgpt.serving.drain import DRAIN_SECONDS, Drain
from tfgpt.serving.errors import BadRequestError, DeadlineError, PreconditionError, ResourceExhaustedError, ServingError
from tfgpt.serving.keys import Keys
from tfgpt.serving.limits import Limits
from tfgpt.serving.metrics import Metrics
from tfgpt.serving.predicting import run_signature
from tfgpt.serving.presence import Presence
from tfgpt.serving.rest_codec import DEFAULT_SIGNATURE
from tfgpt.serving.tls import Tls

MAX_MESSAGE_BYTES = 64 * 2**20
WORKERS = 32
FILLED_PER_ROW = 4096
"""The most elements of a row that a tensor may leave to be filled with its last value, as TensorFlow's own clients shorten a tensor."""
FIELDS = {tf.float32: "float_val", tf.float64: "double_val", tf.int32: "int_val", tf.int64: "int64_val", tf.bool: "bool_val", tf.string: "string_val"}


@contextlib.contextmanager
def grpc_server(catalog: Catalog, metrics: Metrics, address: str, drain: float | Drain = DRAIN_SECONDS, max_message_bytes: int = MAX_MESSAGE_BYTES,
                workers: int = WORKERS, base_paths: BasePaths | None = None, keys: Keys | None = None,
                tls: Tls | None = None) -> Iterator[int]:
    """Serve a catalog over gRPC while the block runs; at its end accept nothing more and answer what has begun.

    Args:
        catalog: what is served.
        metrics: which count the requests.
        address: HOST:PORT to listen on; port 0 = any free one.
        drain: how long what has begun may take, in seconds; then it is cut off. When a drain begins, nothing more is accepted.
        max_message_bytes: the largest request and the largest answer.
        workers: the most requests that run at once; more wait.
        base_paths: those that a request to reload may choose among; `None` = any folder of this machine.
        keys: which requests must have; `None` = they need none.
        tls: the certificate; `None` = without encryption.

    Yields:
        The port.

    Raises:
        OSError: the address cannot be listened on.
    """
    options = [("grpc.so_reuseport", 0),  # else a second server on the port would take half of the requests, and no one would be told
               ("grpc.max_receive_message_length", max_message_bytes), ("grpc.max_send_message_length", max_message_bytes)]
    interceptors = [] if keys is None else [KeyInterceptor(keys)]
    server = grpc.server(ThreadPoolExecutor(workers, "tfgpt-grpc"), interceptors=interceptors, options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(catalog, metrics), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(catalog, base_paths), server)
    try:
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
            port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
    server.start()
    drain = Drain.of(drain)
    drain.on_begin(lambda: server.stop(drain.left()))
    try:
        yield port
    finally:
        server.stop(drain.left()).wait()


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, Classify, Regress and GetModelMetadata; MultiInference is UNIMPLEMENTED."""

    def __init__(self, catalog: Catalog, metrics: Metrics):
        self._catalog, self._metrics = catalog, metrics

    def Predict(self, request, context):  # noqa: N802
        """Run a signature on tensors; see predict.proto."""
        return self._answer("Predict", request, context, self._predict)

    def Classify(self, request, context):  # noqa: N802
        """Classify examples by a signature of that method; see classification.proto."""
        return self._answer("Classify", request, context, self._classify)

    def Regress(self, request, context):  # noqa: N802
        """Return numbers for examples by a signature of that method; see regression.proto."""
        return self._answer("Regress", request, context, self._regress)

    def GetModelMetadata(self, request, context):  # noqa: N802
        """Return a version's signatures; see get_model_metadata.proto."""
        with _errors_of(context):
            if not request.HasField("model_spec"):
                raise BadRequestError("Missing ModelSpec")
            if not request.metadata_field:
                raise BadRequestError("GetModelMetadataRequest must specify at least one metadata_field")
            if unknown := [field for field in request.metadata_field if field != "signature_def"]:
                raise BadRequestError(f"Metadata field {unknown[0]} is not supported")
            with self._catalog.lease(request.model_spec.name, *_version_of(request.model_spec)) as served:
                response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=_spec(served))
                signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=served.loaded.signatures)
            response.metadata["signature_def"].Pack(signatures)
            return response

    def _answer(self, api: str, request: Message, context: grpc.ServicerContext, work: Callable) -> Message:
        spec = request.model_spec
        with _errors_of(context), self._metrics.request(spec.name, api, "GRPC"):
            presence = Presence()
            if not context.add_callback(presence.leave):
                raise DeadlineError("The deadline of the request was over, or it was cancelled, before its turn came")
            if not spec.name:
                raise BadRequestError("ModelSpec has no name specified.")
            with self._catalog.lease(spec.name, *_version_of(spec)) as served:
                return work(served, request, presence)

    def _predict(self, served, request, presence):
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        if name not in served.loaded.signatures:
            raise PreconditionError(f'Serving signature key "{name}" not found; there are {sorted(served.loaded.signatures)}')
        definition = served.loaded.signatures[name]
        wanted = list(request.output_filter) or sorted(definition.outputs)
        if unknown := [alias for alias in wanted if alias not in definition.outputs]:
            raise BadRequestError(f"output tensor alias not found in signature: {unknown[0]} "
                                  f"Outputs expected to be in the set {{{','.join(sorted(definition.outputs))}}}.")
        if len(set(wanted)) < len(wanted):
            raise BadRequestError(f"duplicate output tensor alias: {max(wanted, key=wanted.count)}")
        limits = getattr(served.loaded, "limits", None) or Limits()  # a catalog may load models without any
        inputs = {key: _array_of(key, value, definition, limits) for key, value in request.inputs.items()}
        outputs = run_signature(served.loaded, name, inputs, presence)
        return predict_pb2.PredictResponse(model_spec=_spec(served, name), outputs={alias: tensor_of(outputs[alias]) for alias in wanted})

    def _classify(self, served, request, presence):
        name = request.model_spec.signature_name
        result = examples.classify(served.loaded, name, request.input, presence)
        return classification_pb2.ClassificationResponse(model_spec=_spec(served, name or DEFAULT_SIGNATURE), result=result)

    def _regress(self, served, request, presence):
        name = request.model_spec.signature_name
        result = examples.regress(served.loaded, name, request.input, presence)
        return regression_pb2.RegressionResponse(model_spec=_spec(served, name or DEFAULT_SIGNATURE), result=result)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus and HandleReloadConfigRequest."""

    def __init__(self, catalog: Catalog, base_paths: BasePaths | None):
        self._catalog, self._base_paths = catalog, base_paths

    def GetModelStatus(self, request, context):  # noqa: N802
        """Return the states of a model's versions; see get_model_status.proto."""
        with _errors_of(context):
            if not request.HasField("model_spec"):
                raise BadRequestError("Missing ModelSpec")
            response = get_model_status_pb2.GetModelStatusResponse()
            for found in self._catalog.status(request.model_spec.name, *_version_of(request.model_spec)):
                one = response.model_version_status.add(version=found.version, state=found.state)
                one.status.error_code = grpc.StatusCode[found.error_code].value[0]
                one.status.error_message = found.error_message
            return response

    def HandleReloadConfigRequest(self, request, context):  # noqa: N802
        """Serve the models of the request and no others; see model_management.proto. On an error the models stay those that they were."""
        with _errors_of(context):
            try:
                configs = configs_of(request.config)
                self._catalog.reload(configs if self._base_paths is None else self._base_paths.confine(configs))
            except FileNotFoundError as error:
                raise BadRequestError(str(error)) from error
            except RuntimeError as error:
                raise LoadError(str(error)) from error
            return model_management_pb2.ReloadConfigResponse()


class LoadError(ServingError):
    """A config whose models cannot be loaded."""

    code = "UNKNOWN"


def tensor_of(array: np.ndarray) -> tensor_pb2.TensorProto:
    """Return an array as a tensor whose values stand in the field of their type: clients read `float_val` without asking how it was written."""
    dtype = tf.string if array.dtype.kind in "OSU" else tf.as_dtype(array.dtype)
    if dtype not in FIELDS:
        return tf.make_tensor_proto(array)
    tensor = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum, tensor_shape=tf.TensorShape(array.shape).as_proto())
    getattr(tensor, FIELDS[dtype]).extend(array.reshape(-1).tolist())
    return tensor


@contextlib.contextmanager
def _errors_of(context):
    """End the call with the code of the `ServingError` that the block raises."""
    try:
        yield
    except ServingError as error:
        context.abort(grpc.StatusCode[error.code], str(error))


def _version_of(spec):
    """Return the version and the label that are asked for, each `None` if it is not."""
    choice = spec.WhichOneof("version_choice")
    return (spec.version.value if choice == "version" else None), (spec.version_label if choice == "version_label" else None)


def _spec(served, signature=""):
    spec = model_pb2.ModelSpec(name=served.name, signature_name=signature)
    spec.version.value = served.version
    return spec


def _array_of(name, tensor, definition, limits):
    if name not in definition.inputs:
        raise BadRequestError(f"Sent extra: {{{name}}}; the inputs of the signature are {sorted(definition.inputs)}")
    wanted = definition.inputs[name]
    if tensor.dtype != wanted.dtype:
        raise BadRequestError(f"{name}: is {_dtype_name(tensor.dtype)}, but the signature's input is {_dtype_name(wanted.dtype)}")
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if len(shape) != len(wanted.tensor_shape.dim):
        raise BadRequestError(f"{name}: has {len(shape)} dimensions, expected {len(wanted.tensor_shape.dim)} (the first is the batch)")
    _check_shape(name, shape, tensor, limits)
    try:
        return tf.make_ndarray(tensor)
    except (TypeError, ValueError) as error:
        raise BadRequestError(f"{name}: is no tensor: {error}") from error
    except MemoryError as error:
        raise ResourceExhaustedError(f"{name}: there is too little memory for a tensor of shape {shape}") from error


def _check_shape(name, shape, tensor, limits):
    """Refuse a shape that a message names and does not fill: `tf.make_ndarray` would make all of it from the last value."""
    if shape and min(shape) < 0:
        raise BadRequestError(f"{name}: the shape {shape} has a negative dimension; give each as it is")
    if shape and shape[0] > limits.max_batch:
        raise BadRequestError(f"{name}: {shape[0]} rows; give at most {limits.max_batch} at once")
    if tensor.tensor_content:
        return  # whose length is the shape's or an error
    values = [value for field, value in tensor.ListFields() if field.name.endswith("_val")]
    sent, elements = sum(map(len, values)), math.prod(shape)
    most = limits.max_batch * FILLED_PER_ROW
    if elements > max(sent, most):
        raise BadRequestError(f"{name}: the shape {shape} has {elements} elements, but {sent} values are sent; send all of them beyond {most}")
    if tensor.string_val and (size := (elements - sent) * len(tensor.string_val[-1])) > MAX_MESSAGE_BYTES:
        raise BadRequestError(f"{name}: the last value would be repeated for {size} bytes; send all values beyond {MAX_MESSAGE_BYTES}")


def _dtype_name(dtype):
    try:
        return tf.as_dtype(dtype).name if dtype else "of no type"
    except TypeError:
        return f"of the type {dtype}, which there is not"
