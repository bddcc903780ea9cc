"""`tfgpt serve`: exported models over TensorFlow Serving's REST and gRPC protocols."""
from __future__ import annotations

import contextlib
import logging
import re
import socket
import sys
from pathlib import Path

from tfgpt.cli_support import DONE, UsageError, import_tensorflow_quietly, parse, parser_of
from tfgpt.interrupts import termination
from tfgpt.serving.config import ServableConfig, read_config

HOST = "127.0.0.1"
PORT = 8501
GRPC_PORT = 8500
COMMAND = "tfgpt serve"


def serve(arguments: list[str]) -> int:
    """Serve exported models over TensorFlow Serving's REST and gRPC protocols. SIGTERM and Ctrl-C end it when running requests are answered."""
    given = parse(_parser(), arguments)
    if bool(given.model) == bool(given.model_config_file):
        raise UsageError(f"{COMMAND}: give one of --model NAME=DIR and --model-config-file FILE; see {COMMAND} --help")
    for key in ("file_system_poll_wait_seconds", "model_config_file_poll_wait_seconds", "drain_seconds"):
        if not 0 <= given[key] < 10**6:
            raise UsageError(f"{COMMAND}: --{key.replace('_', '-')} {given[key]} is no time; give seconds, 0 or more")
    if given.grpc_max_message_bytes < 1:
        raise UsageError(f"{COMMAND}: --grpc-max-message-bytes {given.grpc_max_message_bytes} is too small; give 1 or more")
    file = Path(given.model_config_file) if given.model_config_file else None
    if given.backend:
        return _serve_backend(given)
    try:
        configs = [_config_of(text) for text in given.model] if file is None else read_config(file)
    except ValueError as error:
        raise UsageError(f"{COMMAND}: {error}") from error
    import_tensorflow_quietly()
    logging.getLogger("tfgpt.serving").setLevel(logging.INFO)
    logging.basicConfig(format="%(message)s")
    from tfgpt.serving.batched import BatchedModel
    from tfgpt.serving.catalog import Catalog
    from tfgpt.serving.errors import ServingError
    from tfgpt.serving.grpc_services import grpc_server
    from tfgpt.serving.metrics import Metrics
    from tfgpt.serving.server import config_watcher, create_app, run_until_asked

    listener = _listener(given.host, given.port)
    with contextlib.ExitStack() as running, contextlib.suppress(KeyboardInterrupt):  # Ctrl-C and SIGTERM are how a server is stopped
        asked = running.enter_context(termination())
        try:
            catalog = Catalog(configs, given.file_system_poll_wait_seconds, load=BatchedModel)
        except ServingError as error:
            raise UsageError(f"{COMMAND}: {error}") from error
        metrics = Metrics(catalog)
        if file is not None:
            running.enter_context(config_watcher(catalog, file, given.model_config_file_poll_wait_seconds))
        if given.grpc_port >= 0:
            address = f"{_in_url(given.host)}:{given.grpc_port}"
            server = grpc_server(catalog, metrics, address, given.drain_seconds, given.grpc_max_message_bytes)
            try:
                port = running.enter_context(server)
            except OSError as error:
                raise UsageError(f"{COMMAND}: --grpc-port {given.grpc_port}: {error}; choose another, 0 = any free one, -1 = none") from error
            print(f"serving grpc://{_in_url(given.host)}:{port}", file=sys.stderr, flush=True)
        listener.listen()  # before the address is printed: who reads it may connect at once
        for name in catalog.names():
            print(f"serving http://{_in_url(given.host)}:{listener.getsockname()[1]}/v1/models/{name}", file=sys.stderr, flush=True)
        run_until_asked(catalog, create_app(catalog, metrics), listener, asked, given.drain_seconds)
    return DONE


def _serve_backend(given):
    """Serve the models of another server."""
    if not re.fullmatch(r"grpc://[^/]+:\d+", given.backend) or not given.model:
        raise UsageError(f"{COMMAND}: --backend {given.backend} with --model {given.model}; give grpc://HOST:PORT and --model NAME for each of its models")
    if wrong := [name for name in given.model if "=" in name or "/" in name]:
        raise UsageError(f"{COMMAND}: --model {wrong[0]}: the server behind has the folders; give the name alone")
    import_tensorflow_quietly()
    from tfgpt.serving.gateway import Gateway
    from tfgpt.serving.server import create_app, run_until_asked

    listener = _listener(given.host, given.port)
    with termination() as asked, contextlib.suppress(KeyboardInterrupt):
        gateway = Gateway(given.backend.removeprefix("grpc://"), given.model)
        listener.listen()
        for name in gateway.names():
            print(f"serving http://{_in_url(given.host)}:{listener.getsockname()[1]}/v1/models/{name}", file=sys.stderr, flush=True)
        run_until_asked(gateway, create_app(gateway), listener, asked, given.drain_seconds)
    return DONE


def _parser():
    parser = parser_of("serve", serve.__doc__)
    parser.add_argument("--model", action="append", metavar="NAME=DIR",
                        help="A model and its base path, which holds the numbered versions; the newest is served. May be given again.")
    parser.add_argument("--backend", type=str, default="",
                        help="grpc://HOST:PORT of a TensorFlow Serving whose models are served over HTTP here, OpenAI's protocol among it; --model is then "
                             "NAME alone.")
    parser.add_argument("--model-config-file", type=str, default="",
                        help="Instead of --model: a file in TensorFlow Serving's text format, with a model_config_list: base paths, versions, labels.")
    parser.add_argument("--model-config-file-poll-wait-seconds", type=float, default=0.0, help="How often that file is read again, in seconds; 0 = never.")
    parser.add_argument("--file-system-poll-wait-seconds", type=float, default=1.0,
                        help="How often base paths are looked at for versions that came or went, in seconds; 0 = never again.")
    parser.add_argument("--host", type=str, default=HOST, help="Address to listen on.")
    parser.add_argument("--port", type=int, default=PORT, help="TCP port of REST; 0 = any free one, which is then printed.")
    parser.add_argument("--grpc-port", type=int, default=GRPC_PORT, help="TCP port of gRPC; 0 = any free one, which is then printed; -1 = no gRPC.")
    parser.add_argument("--grpc-max-message-bytes", type=int, default=64 * 2**20, help="The largest request and the largest answer over gRPC, in bytes.")
    parser.add_argument("--drain-seconds", type=float, default=30.0, help="How long running requests may take after SIGTERM, in seconds.")
    return parser


def _listener(host, port):
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        raise UsageError(f"{COMMAND}: cannot listen on --host {host} --port {port} ({error}); choose another") from error
    return listener


def _in_url(host):
    return f"[{host}]" if ":" in host else host


def _config_of(text):
    name, equals, folder = text.partition("=")
    if not (name and equals and folder) or "/" in name:
        raise ValueError(f"--model {text} is not NAME=DIR, such as quickstart=runs/quickstart/export/quickstart")
    return ServableConfig(name, Path(folder))
