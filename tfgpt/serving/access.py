"""Keys at the door of both protocols: an ASGI middleware and a gRPC interceptor.

Each asks for a key before anything of a request is read, and for its scope and model before the model is looked for.
"""
from __future__ import annotations

from collections.abc import Callable

import grpc
from starlette.types import ASGIApp, Receive, Scope, Send

from tfgpt.serving.errors import ResourceExhaustedError, ServingError
from tfgpt.serving.http_errors import MODELS, refusal
from tfgpt.serving.keys import Caller, Keys
from tfgpt.serving.metrics import PATH as METRICS

CALLER = "tfgpt.caller"
"""Where a request's scope holds who made it, if the server asks for keys."""
OPENAI = ("/v1/completions", "/v1/chat/completions")
PREDICTION, MANAGEMENT = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"
OF_METADATA = ("status", "predict")
"""Who may ask what a model's inputs are: a client over gRPC does, before it asks for texts."""
GRPC_SCOPES = {
    f"{PREDICTION}GetModelMetadata": OF_METADATA,
    f"{MANAGEMENT}GetModelStatus": ("status",),
    f"{MANAGEMENT}HandleReloadConfigRequest": ("admin",),
}
"""Of methods; all others are for predict."""


class KeyGuard:
    """Lets requests with a key for them through.

    Args:
        app: what is guarded.
        keys: those that are known.
    """

    def __init__(self, app: ASGIApp, keys: Keys):
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] == "http":
            try:
                scope[CALLER] = self._checked(scope)
            except ServingError as error:
                await refusal(scope["path"], error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _checked(self, scope):
        caller = self._keys.caller(next((value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"), None))
        path = scope["path"]
        caller.check_scope(*_http_scopes(path, scope["method"]))
        if path.startswith(MODELS):
            caller.check_model(path.removeprefix(MODELS).split("/")[0].split(":")[0])
        elif path == METRICS:
            caller.check_all_models()
        return caller


def _http_scopes(path, method):
    if path in OPENAI:
        return ("openai",)
    if method == "POST":
        return ("predict",)
    return OF_METADATA if path.startswith(MODELS) and path.endswith("/metadata") else ("status",)


def caller_of(scope: Scope) -> Caller | None:
    """Return who made a request over HTTP; `None` = the server asks for no keys."""
    return scope.get(CALLER)


class KeyInterceptor(grpc.ServerInterceptor):
    """The same for gRPC.

    Args:
        keys: those that are known.
    """

    def __init__(self, keys: Keys):
        self._keys = keys

    def intercept_service(self, continuation: Callable, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return what answers a call: the service, or a refusal."""
        metadata = dict(handler_call_details.invocation_metadata)
        try:
            caller = self._keys.caller(metadata.get("authorization"))
            caller.check_scope(*GRPC_SCOPES.get(handler_call_details.method, ("predict",)))
            if handler_call_details.method.endswith("/HandleReloadConfigRequest"):
                caller.check_all_models()
        except ServingError as error:
            refused = error  # the name of an except clause is gone after it
            return grpc.unary_unary_rpc_method_handler(lambda request, context: _refuse(context, refused))
        handler = continuation(handler_call_details)
        return None if handler is None else _with_model_checked(handler, caller)


def _with_model_checked(handler, caller):
    """Return a handler that looks first whether the key is good for the model that a request names."""

    def answer(request, context):
        if "model_spec" in request.DESCRIPTOR.fields_by_name:
            try:
                caller.check_model(request.model_spec.name)
            except ServingError as error:
                _refuse(context, error)
        return handler.unary_unary(request, context)

    return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)


def _refuse(context, error):
    if isinstance(error, ResourceExhaustedError):
        context.set_trailing_metadata([("grpc-retry-pushback-ms", str(1000 * error.retry_after))])  # gRPC's own Retry-After
    context.abort(grpc.StatusCode[error.code], str(error))
