"""Errors over HTTP in the form of the protocol that was spoken: OpenAI's on its paths, TensorFlow Serving's on all others."""
from __future__ import annotations

import asyncio
import json

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from tfgpt.serving.errors import ResourceExhaustedError, ServingError

HTTP_CODES = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,  # TensorFlow Serving's; not 412, which is about a request's headers
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,  # nobody is there to read it
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
MODELS = "/v1/models/"
OPENAI_PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/models")
OPENAI_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""Of the errors of a caller; others of these are invalid_request_error, and ours are server_error."""
EVENT_STREAM = "text/event-stream"
SERVER_ENDS = "cut off: the server ends; ask another one, or again later"


def json_response(content: dict, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a response with text as it is, not escaped but for lone surrogates; NaN and Infinity are written so, as TensorFlow Serving writes them."""
    body = json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace")  # which for a lone surrogate is JSON's own escape
    return Response(body, status_code=status, headers=headers, media_type="application/json")


def error_response(path: str, status: int, message: str, headers: dict[str, str] | None = None, param: str | None = None) -> Response:
    """Return an error in the form that the path's protocol has for it.

    Args:
        path: of the request.
        status: the HTTP code.
        message: one line.
        headers: such as Retry-After.
        param: the key of the body that is wrong, which OpenAI's form names.
    """
    if path not in OPENAI_PATHS:
        return json_response({"error": message}, status, headers)
    kind = OPENAI_KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return json_response(_openai_error(message, kind, param, {401: "invalid_api_key", 404: "model_not_found"}.get(status)), status, headers)


def _openai_error(message, kind, param=None, code=None):
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def event(content: dict) -> str:
    """Return a server-sent event of OpenAI's streams."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def error_event(message: str) -> str:
    """Return the event that ends a stream of OpenAI's which goes wrong after its beginning; no `[DONE]` follows it."""
    return event(_openai_error(message, "server_error"))


def refusal(path: str, error: ServingError) -> Response:
    """Return the response for a request that is not served."""
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, ResourceExhaustedError) else {}
    if error.code == "UNAUTHENTICATED":
        headers["WWW-Authenticate"] = "Bearer"
    return error_response(path, HTTP_CODES[error.code], str(error), headers)


class CutOff:
    """Answers a request that is cut off with 503, so that a client asks another server or again: uvicorn cancels, at the end of its time, what still runs.

    Nothing else cancels a request. A stream of events that has begun ends with one that says so; another answer that has begun breaks off.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        begun = None

        async def noted(message):
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = dict(message["headers"]).get(b"content-type", b"").decode("latin-1")
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except asyncio.CancelledError:
            if scope["type"] == "http" and begun is None:
                await error_response(scope["path"], 503, SERVER_ENDS, {"Connection": "close"})(scope, receive, send)
            elif begun is not None and begun.startswith(EVENT_STREAM):
                await send({"type": "http.response.body", "body": error_event(SERVER_ENDS).encode(), "more_body": False})
            else:
                raise


def add_error_handlers(app: FastAPI) -> None:
    """Answer whatever goes wrong in `app` in the protocol's own form."""

    @app.exception_handler(ServingError)
    async def refused(request: Request, error: ServingError) -> Response:
        return refusal(request.url.path, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        if first["type"] == "json_invalid":  # whose place is that of a character
            return error_response(request.url.path, 400, f"body: no JSON at character {where}: {first['ctx']['error']}")
        sent = request.headers.get("content-type", "nothing said of what it is")
        if not where and not sent.split(";")[0].strip().endswith("json"):  # which FastAPI then takes for a text
            return error_response(request.url.path, 400, f"body: sent as {sent[:100]}; send JSON, with the header Content-Type: application/json")
        return error_response(request.url.path, 400, f"{where or 'body'}: {first['msg']}", param=where or None)

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> Response:
        path, status, message = request.url.path, error.status_code, str(error.detail)
        if status in (404, 405):
            message = f"Malformed request: {request.method} {path}"
            if path not in OPENAI_PATHS:
                status = 400 if path.startswith(MODELS) else 404  # under models TensorFlow Serving calls a wrong path or method malformed
        return error_response(path, status, message, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        message = f"Internal error: {type(error).__name__}; the server's log has the rest"
        return error_response(request.url.path, 500, message, {"Connection": "close"})  # the HTTP server closes it, since Starlette raises the error again
