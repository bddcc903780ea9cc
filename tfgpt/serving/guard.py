"""What stands before the application: a body that is too large or too slow, or whose JSON is too deep, never reaches it.

Pure ASGI. The body is read here, whole and bounded, and then handed on as if it had just come.
"""
from __future__ import annotations

import asyncio

import numpy as np
from fastapi.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from tfgpt.serving.http_errors import error_response

LONG_BYTES = 64 * 1024
"""From here on a body is looked through in a thread, so that the loop goes on."""


class BodyGuard:
    """Refuses bodies with 413 if they are too large, with 408 if they take too long to come, and with 400 if their JSON is too deep.

    Args:
        app: what is guarded.
        max_body_bytes: the largest body, whether its length is told before (Content-Length) or not (chunked).
        max_json_depth: the most lists and objects inside each other.
        seconds: until the whole of a body must be there.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, max_json_depth: int, seconds: float):
        self._app, self._max_bytes, self._max_depth, self._seconds = app, max_body_bytes, max_json_depth, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds):
                body = None if _declared_bytes(scope) > self._max_bytes else await self._read(receive)
            refused = 413, f"Request body is larger than {self._max_bytes} bytes; send less, or start the server with a higher --max-body-bytes"
        except TimeoutError:
            body = None
            refused = 408, f"Request body was not there after {self._seconds:g} s; send it faster, or start the server with a higher --body-seconds"
        if body is None:  # the rest of it is not read: the connection ends with the answer
            await error_response(scope["path"], *refused, {"Connection": "close"})(scope, receive, send)
            return
        if len(body) > LONG_BYTES:
            wrong = await run_in_threadpool(json_fault, body, self._max_depth)
        else:
            wrong = json_fault(body, self._max_depth)
        if wrong:
            await error_response(scope["path"], 400, f"JSON Parse error: {wrong}")(scope, receive, send)
            return
        await self._app(scope, _replaying(body, receive), send)

    async def _read(self, receive):
        """Return the body; `None` if it is too large."""
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b"".join(parts)  # nobody waits for the answer; the application will find out
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > self._max_bytes:
                return None
        return b"".join(parts)


def json_fault(body: bytes, max_depth: int) -> str:
    """Return why a body is not to be parsed, or "" if it may be: no parser ever sees JSON that is deeper than `max_depth`.

    What else may be wrong with it the parser says.

    >>> json_fault(b'{"a": [[1]]}', 2)
    'lists and objects stand more than 2 deep inside each other; give them flatter'
    >>> json_fault(b'{"a": ["[[[["]}', 2)
    ''
    """
    if b"\0" in body:  # raw in no UTF-8 JSON; Python would read UTF-16 and UTF-32, whose brackets are not counted here
        return "the body is not UTF-8"
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return ""
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"")  # so that each quote that is left begins or ends a text
    bytes_ = np.frombuffer(plain, np.uint8)
    marks = bytes_[np.isin(bytes_, np.frombuffer(b'"[]{}', np.uint8))]
    outside = np.cumsum(marks == ord('"'), dtype=np.int32) % 2 == 0
    steps = np.isin(marks, np.frombuffer(b"[{", np.uint8)).astype(np.int8) - np.isin(marks, np.frombuffer(b"]}", np.uint8)).astype(np.int8)
    depth = int(np.cumsum(steps * outside, dtype=np.int32).max(initial=0))
    return f"lists and objects stand more than {max_depth} deep inside each other; give them flatter" if depth > max_depth else ""


def _declared_bytes(scope):
    found = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(found) if found.isdigit() else 0  # anything else the HTTP server has refused before


def _replaying(body, receive):
    """Return a `receive` that gives the body and then what comes after it, which is that the client has gone."""
    sent = False

    async def replay():
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
