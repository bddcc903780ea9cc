"""`tfgpt serve`: exported models over TensorFlow Serving's REST and gRPC protocols, and OpenAI's."""
from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sys
import tempfile
from pathlib import Path

from tfgpt.cli_serve_options import COMMAND, check, doors_of, limits_of, new_key, open_door, serve_parser
from tfgpt.cli_support import DONE, UsageError, import_tensorflow_quietly, parse
from tfgpt.interrupts import termination
from tfgpt.serving.config import BasePaths, ServableConfig, read_config
from tfgpt.serving.http_server import listening
from tfgpt.store.place import open_store
from tfgpt.store.reference import is_reference, parse_reference

LAST_SECONDS = 1.0
"""For those who were cut off to leave what they are in."""


def serve(arguments: list[str]) -> int:
    """Serve exported models over TensorFlow Serving's REST and gRPC protocols. SIGTERM and Ctrl-C end it when running requests are answered."""
    given = parse(serve_parser(serve.__doc__), arguments)
    if given.new_api_key:
        print(new_key(given))
        return DONE
    check(given)
    limits = limits_of(given)
    keys, tls = doors_of(given)
    file = Path(given.model_config_file) if given.model_config_file else None
    if given.backend:
        return _serve_backend(given, limits, keys, tls)
    try:
        seen = b"" if file is None or not file.is_file() else file.read_bytes()
        named = [_name_and_place(text) for text in given.model or ()]
        configs = [] if file is None else read_config(file)
    except ValueError as error:
        raise UsageError(f"{COMMAND}: {error}") from error
    with contextlib.ExitStack() as stack:
        published = _from_store(given, named, stack)
        configs += [ServableConfig(name, published[name].base if name in published else Path(place)) for name, place in named]
        _serve(given, configs, list(published.values()), file, seen, limits, keys, tls)
    return DONE


def _serve(given, configs, published, file, seen, limits, keys, tls):
    """Serve until the end is asked for."""
    base_paths = None if given.allow_reload_paths else BasePaths(configs)
    import_tensorflow_quietly()
    logging.getLogger("tfgpt.serving").setLevel(logging.INFO)
    logging.basicConfig(format="%(message)s")
    from tfgpt.serving.drain import Drain
    from tfgpt.serving.metrics import Metrics
    from tfgpt.serving.server import config_watcher, create_app, run_until_asked, spare_collector
    from tfgpt.store.following import following

    listener, drain, catalog = _listener(given.host, given.port), Drain(given.drain_seconds), None
    if warning := open_door(listener.getsockname()[0], keys, tls):
        print(warning, file=sys.stderr, flush=True)
    with contextlib.ExitStack() as running, contextlib.suppress(KeyboardInterrupt):  # Ctrl-C and SIGTERM are how a server is stopped
        asked = running.enter_context(termination())
        spare_collector()
        catalog = _catalog(given, configs, limits)
        metrics = Metrics(catalog)
        if file is not None:
            running.enter_context(config_watcher(catalog, file, given.model_config_file_poll_wait_seconds, seen, base_paths))
        running.enter_context(following(published, given.file_system_poll_wait_seconds))
        if given.grpc_port >= 0:
            port = running.enter_context(_grpc(given, catalog, metrics, limits, base_paths, keys, tls, drain))
            print(f"serving grpc{'' if tls is None else 's'}://{_in_url(given.host)}:{port}", file=sys.stderr, flush=True)
        listener.listen()  # before the address is printed: who reads it may connect at once
        for name in catalog.names():
            print(f"serving http{'' if tls is None else 's'}://{_in_url(given.host)}:{listener.getsockname()[1]}/v1/models/{name}", file=sys.stderr, flush=True)
        run_until_asked(catalog, create_app(catalog, metrics, limits, keys, given.cors), listener, asked, drain, tls, limits.body_seconds)
    if catalog is not None:  # else it was stopped while models were loaded
        _leave(catalog)


def _leave(catalog):
    """End the process where something cannot be waited for: a graph runs to its end, and Python would wait for the thread that called it."""
    if not catalog.close(LAST_SECONDS):
        logging.shutdown()
        sys.stderr.flush()
        os._exit(DONE)


def _serve_backend(given, limits, keys, tls):
    """Serve the models of another server."""
    if not re.fullmatch(r"grpc://[^/]+:\d+", given.backend) or not given.model:
        raise UsageError(f"{COMMAND}: --backend {given.backend} with --model {given.model}; give grpc://HOST:PORT and --model NAME for each of its models")
    if wrong := [name for name in given.model if "=" in name or "/" in name]:
        raise UsageError(f"{COMMAND}: --model {wrong[0]}: the server behind has the folders; give the name alone")
    import_tensorflow_quietly()
    from tfgpt.serving.drain import Drain
    from tfgpt.serving.gateway import Gateway
    from tfgpt.serving.server import create_app, run_until_asked, spare_collector

    listener = _listener(given.host, given.port)
    if warning := open_door(listener.getsockname()[0], keys, tls):
        print(warning, file=sys.stderr, flush=True)
    with termination() as asked, contextlib.suppress(KeyboardInterrupt):
        spare_collector()
        gateway = Gateway(given.backend.removeprefix("grpc://"), given.model, limits)
        listener.listen()
        for name in gateway.names():
            print(f"serving http{'' if tls is None else 's'}://{_in_url(given.host)}:{listener.getsockname()[1]}/v1/models/{name}", file=sys.stderr, flush=True)
        run_until_asked(gateway, create_app(gateway, None, limits, keys, given.cors), listener, asked, Drain(given.drain_seconds), tls, limits.body_seconds)
    return DONE


def _catalog(given, configs, limits):
    """Return the models, loaded: each from a folder that is as its manifest says, unless all of them are trusted."""
    from tfgpt.serving.batched import BatchedModel
    from tfgpt.serving.catalog import Catalog
    from tfgpt.serving.errors import ServingError
    from tfgpt.serving.manifest import verify_manifest

    verify = None if given.trust else verify_manifest
    try:
        return Catalog(configs, given.file_system_poll_wait_seconds, verify, functools.partial(BatchedModel, limits=limits))
    except ServingError as error:
        raise UsageError(f"{COMMAND}: {error}") from error
    except RuntimeError as error:
        hint = "" if given.trust or "manifest" not in str(error) else "; or serve it as it is with --trust, since a SavedModel is code, if you know who made it"
        raise RuntimeError(f"{error}{hint}") from error


@contextlib.contextmanager
def _grpc(given, catalog, metrics, limits, base_paths, keys, tls, drain):
    """Serve over gRPC while the block runs; give the port."""
    from tfgpt.serving.grpc_services import grpc_server
    from tfgpt.serving.server import threads_for

    address = f"{_in_url(given.host)}:{given.grpc_port}"
    with contextlib.ExitStack() as running:
        workers = threads_for(limits, len(catalog.names()))
        server = grpc_server(catalog, metrics, address, drain, given.grpc_max_message_bytes, workers, base_paths, keys, tls)
        try:
            port = running.enter_context(server)
        except OSError as error:
            raise UsageError(f"{COMMAND}: --grpc-port {given.grpc_port}: {error}; choose another, 0 = any free one, -1 = none") from error
        yield port


def _listener(host, port):
    try:
        return listening(host, port)
    except (OSError, OverflowError) as error:
        raise UsageError(f"{COMMAND}: cannot listen on --host {host} --port {port} ({error}); choose another") from error


def _in_url(host):
    return f"[{host}]" if ":" in host else host


def _name_and_place(text):
    name, equals, place = text.partition("=")
    if not (name and equals and place) or "/" in name or ":" in name:
        raise ValueError(f"--model {text} is not NAME=DIR, such as quickstart=runs/quickstart/export/quickstart, or NAME=store://MODEL")
    return name, place


def _from_store(given, named, stack):
    """Return, by name, what follows the models that are given as store://, each pulled once already; their base paths go with the stack."""
    references = {name: parse_reference(place) for name, place in named if is_reference(place)}
    if not references:
        return {}
    from tfgpt.store.following import Follower

    store, folder = open_store(given.store), Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tfgpt-serve-")))
    followers = {name: Follower(store, reference, folder / name) for name, reference in references.items()}
    for follower in followers.values():
        follower.look()
    return followers
