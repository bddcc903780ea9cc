"""Another server's models as a catalog: `tfgpt serve --backend` puts its HTTP faces in front of a TensorFlow Serving and its gRPC."""
from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tfgpt.generation.constraints import NO_TOKEN
from tfgpt.generation.controls import CONTROLS
from tfgpt.serving.batched import GENERATE_INPUTS, check_controls, check_inputs, check_prompts, longest_lists, makes_texts
from tfgpt.serving.catalog import ServedModel, VersionStatus
from tfgpt.serving.errors import (
    BadRequestError,
    CancelledError,
    DeadlineError,
    NotServedError,
    PreconditionError,
    ResourceExhaustedError,
    ServingError,
    UnavailableError,
)
from tfgpt.serving.limits import Limits
from tfgpt.serving.presence import Presence
from tfgpt.serving.saved_model import signature_for
from tfgpt.serving.scheduler import Prompt, Ticket

ERRORS = {kind.code: kind for kind in (BadRequestError, CancelledError, DeadlineError, NotServedError, PreconditionError, ResourceExhaustedError,
                                       UnavailableError)}  # fmt: skip
STATUS_SECONDS = 5.0
"""For questions about models, not to them."""
FRESH_SECONDS = 1.0
"""How long an answer to such a question holds."""


class Gateway:
    """What a `Catalog` is, of models that another server has loaded.

    Args:
        address: HOST:PORT of its gRPC.
        names: of the models; TensorFlow Serving does not tell which it has.
        limits: what a request may ask for.
    """

    def __init__(self, address: str, names: Iterable[str], limits: Limits | None = None):
        self._names, self._limits = sorted(names), limits or Limits()
        self._channel = grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)])
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._pool = ThreadPoolExecutor(self._limits.max_rows, thread_name_prefix="tfgpt-gateway")
        self._known: dict[tuple[str, int], RemoteModel] = {}
        self._states: dict[tuple, tuple[float, list[VersionStatus]]] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def lease(self, name: str, version: int | None = None, label: str | None = None) -> Iterator[ServedModel]:
        """Give a version; see `Catalog.lease`. The server behind sees to it that it stays loaded while it answers."""
        available = [one.version for one in self.status(name, version, label) if one.state == "AVAILABLE"]
        if not available:
            raise NotServedError(f"Servable not found for request: {f'Latest({name})' if version is None else f'Specific({name}, {version})'}")
        number = max(available)
        with self._lock:
            known = self._known.get((name, number))
        if known is None:
            spec = model_pb2.ModelSpec(name=name, version={"value": number})
            known = RemoteModel(self._prediction, spec, self._pool, self._limits)
            with self._lock:
                self._known[name, number] = known
        yield ServedModel(name, number, known)

    def status(self, name: str, version: int | None = None, label: str | None = None) -> list[VersionStatus]:
        """Return the states of a model's versions; see `Catalog.status`."""
        if name not in self._names:
            raise NotServedError(f"Could not find any versions of model {name}")
        key = name, version, label
        with self._lock:
            asked, states = self._states.get(key, (0.0, []))
        if time.monotonic() - asked < FRESH_SECONDS and states:
            return states
        spec = model_pb2.ModelSpec(name=name, version_label=label, version=None if version is None else {"value": version})
        with _as_ours():
            answer = self._models.GetModelStatus(get_model_status_pb2.GetModelStatusRequest(model_spec=spec), timeout=STATUS_SECONDS)
        states = [VersionStatus(one.version, get_model_status_pb2.ModelVersionStatus.State.Name(one.state), _code_of(one), one.status.error_message)
                  for one in answer.model_version_status]
        with self._lock:
            now = time.monotonic()
            self._states = {old: entry for old, entry in self._states.items() if now - entry[0] < FRESH_SECONDS} | {key: (now, states)}
        return states

    def names(self) -> list[str]:
        """Return the names of the models."""
        return self._names

    def loaded(self) -> list[ServedModel]:
        """Return none: they are loaded in the server behind."""
        return []

    def labels(self, name: str) -> dict[str, int]:
        """Return no labels: the server behind knows them, and does not tell."""
        return {}

    def reload(self, configs: Iterable) -> None:
        """Raise `PreconditionError`: what is served is the business of the server behind."""
        raise PreconditionError("This is a gateway; ask the server behind it to reload its models")

    def close(self, limit_seconds: float = 30.0) -> bool:
        """Close the connection, which ends what still runs: the HTTP server has waited for its requests before."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._channel.close()
        return True


class RemoteModel:
    """What a `BatchedModel` is, of a version on another server, which does the batching itself (`--enable_batching`).

    Args:
        stub: of its PredictionService.
        spec: the model and its version.
        pool: for the rows of requests, each of which is a request of its own to that server.
        limits: what a request may ask for.

    Raises:
        ServingError: the server does not know it, or cannot be reached.
    """

    chat_template = None
    token_texts = ()
    """Another server does not tell the bytes of its tokens, so prompts are texts here."""
    context = 0
    """Nor how many tokens its model reads, so a chat that is too long loses its beginning there."""

    def __init__(self, stub: prediction_service_pb2_grpc.PredictionServiceStub, spec: model_pb2.ModelSpec, pool: ThreadPoolExecutor, limits: Limits):
        self._stub, self._spec, self._pool, self.limits = stub, spec, pool, limits
        request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        found = get_model_metadata_pb2.SignatureDefMap()
        with _as_ours():
            stub.GetModelMetadata(request, timeout=STATUS_SECONDS).metadata["signature_def"].Unpack(found)
        self.signatures: dict[str, meta_graph_pb2.SignatureDef] = {name: one for name, one in found.signature_def.items() if not name.startswith("__")}
        self.writes = any(map(self._writes, self.signatures))

    def predict(self, signature: str, inputs: dict[str, np.ndarray], seconds: float | None = None, presence: Presence | None = None) -> dict[str, np.ndarray]:
        """Call a signature as `BatchedModel.predict` does; raises `ServingError`, and as `LoadedModel.predict`."""
        definition = signature_for(self.signatures, signature, inputs)
        check_inputs(inputs, self.limits, longest_lists(self.limits) if makes_texts(definition) else None)
        if makes_texts(definition):
            check_controls(inputs)
        if makes_texts(definition) and self.limits.max_new_tokens and "max_new_tokens" not in inputs:
            default = tf.make_ndarray(definition.defaults["max_new_tokens"])
            inputs = {**inputs, "max_new_tokens": np.minimum(default, self.limits.max_new_tokens)}
        request = predict_pb2.PredictRequest(model_spec=self._spec)
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value, tf.as_dtype(definition.inputs[name].dtype)))
        with _as_ours():
            asked = self._stub.Predict.future(request, timeout=self.limits.request_seconds if seconds is None else seconds)
            if presence is not None:
                presence.on_leaving(asked.cancel)  # which the server behind is told
            outputs = _answer_of(asked).outputs
        return {name: tf.make_ndarray(value) for name, value in outputs.items()}

    def submit(self, prompts: Sequence[Prompt], seconds: float | None = None, notify: Callable[[], None] = lambda: None) -> Ticket:
        """Hand in rows to be written; each comes as a whole, since TensorFlow Serving has no streams.

        Raises:
            ServingError: beyond a limit; log-probabilities of tokens, which that server does not tell.
        """
        check_prompts(prompts, self.limits)
        if any(prompt.top is not None for prompt in prompts):
            raise BadRequestError("logprobs: the server behind this gateway does not tell them; leave them out")
        seconds = self.limits.request_seconds if seconds is None else min(seconds, self.limits.request_seconds)
        ticket = Ticket(prompts, time.monotonic() + seconds, notify)
        futures = [self._pool.submit(self._write, ticket, number) for number in range(len(prompts))]

        def note(_):
            if all(future.done() for future in futures):
                errors = [future.exception() for future in futures if future.exception() is not None]
                ticket.end(errors[0] if errors else None)
            else:
                ticket.notify()

        for future in futures:
            future.add_done_callback(note)
        return ticket

    def _writes(self, signature):
        return set(self.signatures[signature].inputs) == GENERATE_INPUTS

    def _write(self, ticket, number):
        """Ask for one row and note what comes."""
        if ticket.is_over:
            raise ticket.reason
        prompt, writing, seconds = ticket.prompts[number], ticket.rows[number], ticket.deadline - time.monotonic()
        text = np.array([prompt.text], object)
        inputs = {"prompt": text} | {name: np.array([prompt.controls.get(name, control.neutral)], control.kind) for name, control in CONTROLS.items()}
        lists = {"stop": (object, b""), "banned_tokens": (np.int32, NO_TOKEN), "forced_tokens": (np.int32, NO_TOKEN)}
        inputs |= {name: np.array([getattr(prompt, name) or (filler,)], kind) for name, (kind, filler) in lists.items()}
        written = self.predict("generate", inputs, seconds, ticket.presence)
        writing.prompt_tokens = int(self.predict("tokenize", {"text": text}, seconds, ticket.presence)["length"][0])
        writing.token_count, writing.log_prob = int(written["token_count"][0]), float(written["log_prob"][0])
        writing.text, writing.finish_reason = written["text"][0].decode("utf-8", "replace"), written["finish_reason"][0].decode()

    def close(self) -> None:
        """Nothing is held here."""


def _answer_of(asked):
    """Wait for the answer to a call that may be cancelled."""
    try:
        return asked.result()
    except grpc.FutureCancelledError as error:
        raise CancelledError("The request was given up") from error


@contextlib.contextmanager
def _as_ours():
    """Turn what gRPC raises into the `ServingError` of its code."""
    try:
        yield
    except grpc.RpcError as error:
        code = error.code().name
        raise ERRORS.get(code, ServingError)(error.details() if code in ERRORS else f"{code}: {error.details()}") from error


def _code_of(version):
    return next(code.name for code in grpc.StatusCode if code.value[0] == version.status.error_code)
