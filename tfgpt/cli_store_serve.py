"""`tfgpt store serve`: the store's pages and its API."""
from __future__ import annotations

import contextlib
import logging
import sys
from dataclasses import fields
from pathlib import Path

from tfgpt.cli_support import DONE, UsageError, parse, parser_of
from tfgpt.interrupts import termination
from tfgpt.store.errors import StoreError
from tfgpt.store.place import DEFAULT, VARIABLE, open_store

COMMAND = "tfgpt store serve"
HOST, PORT = "127.0.0.1", 8600
SETTINGS = {
    "anonymous_read": "Show public models to those who have not signed in too.",
    "requests_per_minute": "Requests of one address in a minute; more are answered with 429.",
    "sign_ins_per_minute": "Attempts to sign in, of one address; of all addresses with one name ten times as many.",
    "tries_per_minute": "Tries of one user.",
    "publishes_per_hour": "Versions that one user publishes over HTTP.",
    "max_upload_bytes": "The largest upload, in bytes; what a model may have at most, store.json says.",
    "max_form_bytes": "The largest other request, in bytes.",
    "body_seconds": "How long a client may let the server wait for its headers, or for the next part of a body, in seconds.",
    "try_models": "Models that are loaded at once to be tried, each in a process of its own; 0 = models cannot be tried.",
    "try_tokens": "The most tokens that a try writes.",
    "try_prompt_bytes": "The longest prompt of a try, in bytes.",
    "try_seconds": "How long a try may take, the loading included, in seconds; then its process is ended.",
}


def serve(arguments: list[str]) -> int:
    """Serve the store's pages and its API over HTTP. SIGTERM and Ctrl-C end it when running requests are answered."""
    from tfgpt.store.web.settings import WebSettings  # which needs no web framework yet

    parser = parser_of("store serve", serve.__doc__)
    parser.add_argument("--store", type=str, default="", metavar="DIR", help=f"The store's folder; default the environment's {VARIABLE}, else {DEFAULT}.")
    parser.add_argument("--host", type=str, default=HOST, help="Address to listen on.")
    parser.add_argument("--port", type=int, default=PORT, help="TCP port; 0 = any free one, which is then printed.")
    parser.add_argument("--tls-certificate", type=str, default="", metavar="FILE", help="Encrypt with this certificate, in PEM.")
    parser.add_argument("--tls-key", type=str, default="", metavar="FILE", help="The certificate's key, in PEM, without a passphrase.")
    parser.add_argument("--drain-seconds", type=float, default=10.0, help="How long running requests may take after SIGTERM, in seconds.")
    for field in fields(WebSettings):
        option, kind = f"--{field.name.replace('_', '-')}", type(field.default)
        if kind is bool:
            parser.add_argument(option, action="store_true", help=SETTINGS[field.name])
        else:
            parser.add_argument(option, type=kind, default=field.default, help=SETTINGS[field.name])
    given = parse(parser, arguments)
    if not 0 <= given.port < 2**16 or not 0 <= given.drain_seconds < 10**6:
        raise UsageError(f"{COMMAND}: --port {given.port}, --drain-seconds {given.drain_seconds}; give a port of 0 to 65535, and seconds of 0 or more")
    if bool(given.tls_certificate) != bool(given.tls_key):
        raise UsageError(f"{COMMAND}: --tls-certificate and --tls-key go together; give both, or none")
    try:
        settings = WebSettings(**{field.name: given[field.name] for field in fields(WebSettings)})
    except StoreError as error:
        name, _, rest = str(error).partition(": ")
        raise UsageError(f"{COMMAND}: --{name.replace('_', '-')}: {rest}") from error
    _serve(given, settings)
    return DONE


def _serve(given, settings):
    """Serve until the end is asked for."""
    from tfgpt.serving.http_server import http_server, listening
    from tfgpt.serving.tls import Tls
    from tfgpt.store.web.app import create_app

    logging.basicConfig(format="%(message)s")
    tls = Tls(Path(given.tls_certificate), Path(given.tls_key)) if given.tls_certificate else None
    store = open_store(given.store)
    try:
        listener = listening(given.host, given.port)
    except (OSError, OverflowError) as error:
        raise UsageError(f"{COMMAND}: cannot listen on --host {given.host} --port {given.port} ({error}); choose another") from error
    address, port = listener.getsockname()[:2]
    if warning := _warning(address, tls):
        print(warning, file=sys.stderr, flush=True)
    with contextlib.closing(store), contextlib.suppress(KeyboardInterrupt), termination() as asked:
        listener.listen()  # before the address is printed: who reads it may connect at once
        print(f"serving http{'' if tls is None else 's'}://{f'[{address}]' if ':' in address else address}:{port}/", file=sys.stderr, flush=True)
        with http_server(create_app(store, settings), listener, given.drain_seconds, tls, settings.body_seconds) as thread:
            while not asked.wait(0.1):
                if not thread.is_alive():
                    raise RuntimeError("the HTTP server ended by itself; its own message stands above")


def _warning(address, tls):
    """Return a warning if passwords would go over a network unencrypted."""
    import ipaddress

    if tls is not None or ipaddress.ip_address(address).is_loopback:
        return ""
    return f"warning: other machines reach {address} without encryption; give --tls-certificate and --tls-key, or put a proxy before it that has them"


ACTIONS = {"serve": serve}
