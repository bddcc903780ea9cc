"""An application behind a listening socket, served in a thread. Needs no TensorFlow."""
from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from tfgpt.serving.drain import DRAIN_SECONDS, Drain
from tfgpt.serving.impatience import impatient
from tfgpt.serving.limits import Limits
from tfgpt.serving.tls import Tls


def listening(host: str, port: int) -> socket.socket:
    """Return a bound socket, which does not listen yet.

    Args:
        host: an address of this machine, of IPv4 or IPv6.
        port: 0 = any free one.

    Raises:
        OSError, OverflowError: it cannot be had.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError):
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def http_server(app: FastAPI, listener: socket.socket, drain: float | Drain = DRAIN_SECONDS, tls: Tls | None = None,
                header_seconds: float = Limits.body_seconds) -> Iterator[threading.Thread]:
    """Serve an application in a thread while the block runs; at its end accept nothing more and answer what has begun.

    Args:
        app: the application.
        listener: a listening socket.
        drain: how long what has begun may take, in seconds; then it is cut off.
        tls: the certificate; `None` = HTTP without encryption.
        header_seconds: how long the headers of a request may take.

    Yields:
        The thread, which ends by itself only if the server fails.
    """
    files = {} if tls is None else {"ssl_certfile": tls.certificate, "ssl_keyfile": tls.key}
    config = uvicorn.Config(app, log_level="warning", lifespan="on", http=impatient(header_seconds), **files)
    server = uvicorn.Server(config)
    # asyncio sets this only where a socket names TCP as its protocol, which sockets by default do not. Without it the end of an answer waits for the client
    # to acknowledge its beginning, about 40 ms. Connections inherit it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="tfgpt-http")  # outside of the main thread it takes no signals
    thread.start()
    try:
        yield thread
    finally:
        config.timeout_graceful_shutdown = Drain.of(drain).left()  # read when the server ends, and of any kind of number
        server.should_exit = True
        thread.join()
