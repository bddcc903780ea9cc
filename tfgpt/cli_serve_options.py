"""What `tfgpt serve` can be told, and the checks of it that need no TensorFlow."""
from __future__ import annotations

import ipaddress
import re
from dataclasses import fields
from pathlib import Path

from tfgpt.cli_support import UsageError, parser_of
from tfgpt.serving.keys import Keys, add_key
from tfgpt.serving.limits import Limits
from tfgpt.serving.tls import Tls

HOST = "127.0.0.1"
PORT = 8501
GRPC_PORT = 8500
COMMAND = "tfgpt serve"
LIMITS = {
    "max_rows": "Texts that a model writes side by side, and rows of other requests that it joins into one call.",
    "max_waiting": "Texts that may wait to be written, and rows of other requests that may wait; a request beyond them is refused with 429.",
    "max_batch": "The most rows of a request.",
    "max_prompt_bytes": "The longest prompt or text, in bytes.",
    "max_new_tokens": "The most tokens that a request may ask for; 0 = what the model's context holds.",
    "max_stops": "The most stop strings of a row.",
    "request_seconds": "How long a request may take, in seconds; then it ends with an error.",
    "max_body_bytes": "The largest request over HTTP, in bytes; a larger one is refused with 413.",
    "body_seconds": "How long a client may take to send the headers of a request over HTTP, then the connection is closed, and again for the whole body, "
                    "then the answer is 408; in seconds.",
    "max_json_depth": "How many lists and objects may stand inside each other in a request over HTTP.",
}


def serve_parser(description: str):
    """Return the parser of `tfgpt serve`."""
    parser = parser_of("serve", description)
    parser.add_argument("--model", action="append", metavar="NAME=DIR",
                        help="A model and its base path, which holds the numbered versions; the newest is served. Or NAME=store://MODEL[:VERSION|@STAGE], a "
                             "published model, which is pulled; a promotion or roll back is followed without a restart. May be given again.")
    parser.add_argument("--store", type=str, default="", metavar="DIR",
                        help="The store's folder for store://; default the environment's TFGPT_STORE, else ~/.tfgpt/store.")
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
    parser.add_argument("--drain-seconds", type=float, default=30.0,
                        help="How long running requests of all protocols may take after SIGTERM, in seconds; then they are cut off.")
    parser.add_argument("--trust", action="store_true",
                        help="Load a version without comparing its files with its manifest. A SavedModel is code: only for folders that you made.")
    parser.add_argument("--allow-reload-paths", action="store_true",
                        help="Let a config sent over gRPC name any folder of this machine, and not only those given here.")
    parser.add_argument("--api-keys", type=str, default="", metavar="FILE",
                        help="Answer only requests with one of these keys: YAML, a list of name, sha256, scopes (predict, openai, status, admin), and if "
                             "wanted models and requests_per_minute. A change is in force within a second, without a restart; a file that is not "
                             "understood changes nothing.")
    parser.add_argument("--new-api-key", type=str, default="", metavar="NAME",
                        help="Serve nothing: append a new key for predict, openai and status to the file --api-keys, and print it, this once.")
    parser.add_argument("--tls-certificate", type=str, default="", metavar="FILE", help="Encrypt HTTP and gRPC with this certificate, in PEM.")
    parser.add_argument("--tls-key", type=str, default="", metavar="FILE", help="The certificate's key, in PEM, without a passphrase.")
    parser.add_argument("--cors", action="append", default=[], metavar="ORIGIN",
                        help="Let pages of this origin, such as https://example.org, ask over HTTP from a browser; * = of all. May be given again.")
    for name, text in LIMITS.items():
        default = getattr(Limits, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=text)
    return parser


def check(given) -> None:
    """Refuse what cannot be served.

    Raises:
        UsageError: the first thing that is wrong.
    """
    if bool(given.model) == bool(given.model_config_file):
        raise UsageError(f"{COMMAND}: give one of --model NAME=DIR and --model-config-file FILE; see {COMMAND} --help")
    if bool(given.tls_certificate) != bool(given.tls_key):
        raise UsageError(f"{COMMAND}: --tls-certificate and --tls-key go together; give both, or none")
    for key in ("file_system_poll_wait_seconds", "model_config_file_poll_wait_seconds", "drain_seconds"):
        if not 0 <= given[key] < 10**6:
            raise UsageError(f"{COMMAND}: {option(key)} {given[key]} is no time; give seconds, 0 or more")
    for key, least in (("port", 0), ("grpc_port", -1)):
        if not least <= given[key] < 2**16:
            raise UsageError(f"{COMMAND}: {option(key)} {given[key]} is no port; give {least} to 65535")
    if wrong := [origin for origin in given.cors if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin)]:
        raise UsageError(f"{COMMAND}: --cors {wrong[0]} is no origin; give one such as https://example.org, or *")
    if given.grpc_max_message_bytes < 1:
        raise UsageError(f"{COMMAND}: --grpc-max-message-bytes {given.grpc_max_message_bytes} is too small; give 1 or more")


def new_key(given) -> str:
    """Make a key and return it.

    Raises:
        UsageError: there is no file for it, or it cannot be put there.
    """
    if not given.api_keys:
        raise UsageError(f"{COMMAND}: --new-api-key {given.new_api_key} has no file to stand in; give --api-keys FILE too")
    try:
        return add_key(Path(given.api_keys), given.new_api_key)
    except ValueError as error:
        raise UsageError(f"{COMMAND}: --api-keys {error}") from error


def doors_of(given) -> tuple[Keys | None, Tls | None]:
    """Return the keys that requests must have and the certificate; `None` = there is none.

    Raises:
        FileNotFoundError: a file is not there.
        UsageError: one that is not understood.
    """
    try:
        keys = Keys.of_file(Path(given.api_keys)) if given.api_keys else None
    except ValueError as error:
        raise UsageError(f"{COMMAND}: --api-keys {error}") from error
    try:
        tls = Tls(Path(given.tls_certificate), Path(given.tls_key)) if given.tls_certificate else None
    except ValueError as error:
        raise UsageError(f"{COMMAND}: {error}") from error
    return keys, tls


def open_door(address: str, keys: Keys | None, tls: Tls | None) -> str:
    """Return a warning if others than this machine can reach an IP address that lacks keys or encryption, and "" if not."""
    missing = [text for text, is_there in (("keys (--api-keys)", keys), ("encryption (--tls-certificate, --tls-key)", tls)) if is_there is None]
    if not missing or ipaddress.ip_address(address).is_loopback:
        return ""
    return f"warning: other machines can reach {address}, which has no {' and no '.join(missing)}"


def limits_of(given) -> Limits:
    """Return the limits.

    Raises:
        UsageError: one that lets nothing through.
    """
    try:
        return Limits(**{field.name: given[field.name] for field in fields(Limits)})
    except ValueError as error:
        name, _, rest = str(error).partition(": ")
        raise UsageError(f"{COMMAND}: {option(name)} {rest}") from error


def option(key: str) -> str:
    """Return how a setting is written on the command line."""
    return f"--{key.replace('_', '-')}"
