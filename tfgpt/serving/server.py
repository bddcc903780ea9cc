"""A server of exported models: the catalog behind every protocol, put together and run until it is asked to end."""
from __future__ import annotations

import contextlib
import gc
import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import anyio.to_thread
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from tfgpt.serving.access import KeyGuard
from tfgpt.serving.catalog import Catalog
from tfgpt.serving.config import BasePaths, read_config
from tfgpt.serving.drain import Drain
from tfgpt.serving.errors import ServingError
from tfgpt.serving.guard import BodyGuard
from tfgpt.serving.http_errors import CutOff, add_error_handlers
from tfgpt.serving.http_server import http_server
from tfgpt.serving.keys import Keys
from tfgpt.serving.limits import Limits
from tfgpt.serving.metrics import Metrics
from tfgpt.serving.openai_routes import add_openai
from tfgpt.serving.rest import add_rest
from tfgpt.serving.tls import Tls

LOG = logging.getLogger(__name__)
OTHER_THREADS = 40
"""For what does not write texts: AnyIO's own number."""


def create_app(catalog: Catalog, metrics: Metrics | None = None, limits: Limits | None = None, keys: Keys | None = None,
               origins: Sequence[str] = ()) -> FastAPI:
    """Return the ASGI application that serves a catalog over HTTP.

    Args:
        catalog: what is served.
        metrics: which count the requests; `None` = new ones.
        limits: of bodies; and those that the models were loaded with, by which threads are counted. `None` = the defaults.
        keys: which requests must have; `None` = they need none.
        origins: of pages that may ask from a browser, such as https://example.org; "*" = of all.
    """
    limits = limits or Limits()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = threads_for(limits, len(catalog.names()))
        yield

    app = FastAPI(title="tfgpt", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(BodyGuard, max_body_bytes=limits.max_body_bytes, max_json_depth=limits.max_json_depth, seconds=limits.body_seconds)
    if keys is not None:
        app.add_middleware(KeyGuard, keys=keys)  # before the guard of bodies: what comes without a key is not read
    if origins:  # before the keys: a browser's question whether it may ask has none, and its page is to read a 401 too
        app.add_middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["Authorization", "Content-Type"],
                           expose_headers=["Retry-After"])
    app.add_middleware(CutOff)
    add_error_handlers(app)
    metrics = metrics or Metrics(catalog)
    add_openai(app, catalog, metrics)
    add_rest(app, catalog, metrics)
    return app


def threads_for(limits: Limits, models: int) -> int:
    """Return how many requests must be able to wait in threads of their own so that a model's queues, and not the pool, refuse one too many.

    A model has two: of texts to be written, and of other calls.
    """
    return OTHER_THREADS + 2 * models * (limits.max_rows + limits.max_waiting)


def spare_collector() -> None:
    """Keep Python's garbage collector from looking through what is there now, before any model is loaded.

    That is half a million objects of the imported modules, which take it 0.2 s each time, while nobody is answered. Called later, it would spare the graph of
    a loaded version too, which is then never freed.
    """
    gc.collect()
    gc.freeze()


def run_until_asked(catalog: Catalog, app: FastAPI, listener: socket.socket, asked: threading.Event, drain: Drain, tls: Tls | None = None,
                    header_seconds: float = Limits.body_seconds) -> None:
    """Serve until `asked` is set, then let what has begun end, for as long as `drain` lasts; see `http_server` for the arguments.

    Raises:
        RuntimeError: the HTTP server ended by itself.
    """
    try:
        with http_server(app, listener, drain, tls, header_seconds) as thread:
            while not asked.wait(0.1):
                if not thread.is_alive():
                    raise RuntimeError("the HTTP server ended by itself; its own message stands above")
    finally:
        if not catalog.close(drain.left()):
            LOG.warning("some requests took more than %g s after the end was asked for, and were cut off", drain.seconds)


@contextlib.contextmanager
def config_watcher(catalog: Catalog, path: Path, poll_seconds: float, seen: bytes, base_paths: BasePaths | None = None) -> Iterator[None]:
    """Read a model config file again every `poll_seconds` while the block runs, and serve what it then asks for; 0 = do not.

    A file that cannot be read or served is logged once, and the models stay those that they were. `base_paths` learns the folders of one that is served.
    `seen` is what the file held when the catalog was made of it: it may have changed while the models were loaded.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(catalog, path, poll_seconds, base_paths, ended, seen), name="tfgpt-config", daemon=True)
    if poll_seconds > 0:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if poll_seconds > 0:
            thread.join(1.0)  # no longer: it may be loading a version, which nothing can end


def _follow(catalog, path, poll_seconds, base_paths, ended, seen):
    while not ended.wait(poll_seconds):
        try:
            text = _text_of(path)
            if text == seen:
                continue
            seen = text
            configs = read_config(path)
            catalog.reload(configs)
            if base_paths is not None:
                base_paths.add(configs)
            LOG.info("%s has changed and is served", path)
        except (OSError, RuntimeError, ValueError, ServingError) as error:
            LOG.error("%s has changed, but the models stay those that they were: %s", path, error)


def _text_of(path):
    return path.read_bytes() if path.is_file() else None
