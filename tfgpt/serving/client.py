"""A client for TensorFlow Serving's protocols, REST and gRPC, and so for `tfgpt serve` too."""
from __future__ import annotations

import itertools
import json
import random
import re
import ssl
import threading
import time
from collections.abc import Generator
from pathlib import Path

import httpx

FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 10.0
MODEL = re.compile(r"(?P<base>https?://[^/]+)/v1/models/(?P<name>[^/]+)(?:/versions/(?P<version>\d{1,18})|/labels/(?P<label>[^/]+))?")
ADDRESS = "a model's address is http://HOST:PORT/v1/models/NAME, or grpc://HOST:PORT/NAME"
BUSY = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)


class ServerError(RuntimeError):
    """The server refused the request or could not be reached; the message says which."""


class BusyError(ServerError):
    """The same, where asking again later may help. `wait_seconds` is the wait that the server asked for; `None` = it said nothing."""

    def __init__(self, message: str, wait_seconds: float | None = None):
        super().__init__(message)
        self.wait_seconds = wait_seconds


class Client:
    """One model on a server. Asking again is safe: the same prompt, controls and seed give the same text.

    Args:
        url: the model's address: http://127.0.0.1:8501/v1/models/quickstart, or over gRPC grpc://127.0.0.1:8500/quickstart; with or without
            /versions/<v> or /labels/<l> behind; https:// and grpcs:// where the server has a certificate.
        timeout_seconds: how long to wait for an answer, with all retries.
        retries: how often to ask again where the server is busy (429, 503, UNAVAILABLE, RESOURCE_EXHAUSTED) or cannot be reached; the waits double
            from a fifth of a second on, less a random part, or are what the server's Retry-After says.
        api_key: sent as Authorization: Bearer KEY; `None` = the server asks for none.
        ca_certificate: PEM of whoever signed the server's certificate, for https:// and grpcs://; `None` = one that this machine trusts.

    Raises:
        ServerError: what is no address, or a grpc:// address without a port or a name; a key with characters that no header holds, or a `ca_certificate`
            that is none; no time to wait.
    """

    def __init__(self, url: str, timeout_seconds: float = 60.0, retries: int = 2, api_key: str | None = None,
                 ca_certificate: str | Path | None = None):
        if not 0 < timeout_seconds < threading.TIMEOUT_MAX:
            raise ServerError(f"timeout_seconds: {timeout_seconds} is no time to wait; give seconds above 0")
        self._url = url.rstrip("/").removesuffix(":predict")
        self._timeout, self._retries = timeout_seconds, retries
        headers = {} if api_key is None else {"authorization": f"Bearer {_checked_key(api_key)}"}
        if self._url.startswith(("grpc://", "grpcs://")):
            from tfgpt.serving.client_grpc import GrpcTransport  # here, not above: its stubs import TensorFlow

            self._transport = GrpcTransport(self._url, headers, ca_certificate)
        else:
            self._transport = _RestTransport(self._url, headers, ca_certificate)

    def generate(self, prompts: list[str], **controls: float) -> list[dict]:
        """Continue prompts.

        Args:
            prompts: one answer each.
            controls: those of `tfgpt.generation.controls.CONTROLS`; what is left out is the server's default.

        Returns:
            For each prompt its `text`, `token_count`, `log_prob` and `finish_reason`. Without prompts nothing is asked.

        Raises:
            ServerError: one text and not a list; no answer in time, or an error of the server's.
        """
        return self._ask("generate", [{"prompt": prompt} | controls for prompt in _listed("prompts", prompts)])

    def score(self, texts: list[str]) -> list[dict]:
        """Return `log_prob`, `token_count` and `perplexity` of each text; raises as `generate`."""
        return self._ask("score", [{"text": text} for text in _listed("texts", texts)])

    def classify(self, texts: list[str]) -> list[dict]:
        """Return `label` and `scores` of each text, by a model with such a head; raises as `generate`."""
        return self._ask("classify", [{"text": text} for text in _listed("texts", texts)])

    def stream(self, prompt: str, **controls: float) -> Generator[str, None, dict]:
        """Continue a prompt and yield its text piece by piece, as it is written; over `tfgpt serve`'s HTTP address alone, which asks nothing again.

        Args:
            prompt: any text.
            controls: those of OpenAI's completions with their ranges (`temperature` to 100, penalties from -100 to 100) and the names of `generate`; no
                `banned_tokens` or `forced_tokens`; `stop`, a list of texts. Greedy and 64 tokens unless they say otherwise.

        Yields:
            Pieces of text. The generator's own value at its end is a dict with `text`, `token_count` and `finish_reason`.

        Raises:
            ServerError: at the first piece: a list and not one text; a grpc:// address; no answer in time, or an error of the server's.
        """
        if not isinstance(prompt, str):
            raise ServerError(f"stream: the prompt is {type(prompt).__name__}; give one text")
        text, usage, reason = "", {}, None
        for event in self._transport.events(prompt, controls, self._timeout):
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                reason = choice["finish_reason"] or reason
                if choice["text"]:
                    text += choice["text"]
                    yield choice["text"]
        if reason is None:
            raise ServerError(f"{self._url}: the answer broke off before its end")
        return {"text": text, "token_count": usage["completion_tokens"], "finish_reason": reason}

    def close(self) -> None:
        """Close the connection; a client over REST keeps none."""
        self._transport.close()

    def _ask(self, signature, rows):
        if not rows:
            return []
        end = time.monotonic() + self._timeout
        for attempt in itertools.count():
            try:
                return self._transport.ask(signature, rows, end - time.monotonic())
            except BusyError as error:
                wait = error.wait_seconds
                if wait is None:
                    wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**attempt) * random.uniform(0.5, 1.0)  # apart, where many wait at once
                if attempt >= self._retries or time.monotonic() + wait >= end:
                    raise
                time.sleep(wait)


class _RestTransport:
    def __init__(self, url, headers, ca_certificate):
        if not re.match(r"https?://[^/]", url):
            raise ServerError(f"{url}: is no address of a model; {ADDRESS}")
        self._url, self._headers = url, headers
        try:
            self._verify = True if ca_certificate is None else ssl.create_default_context(cafile=ca_certificate)
        except (OSError, ValueError) as error:
            raise ServerError(f"ca_certificate: {ca_certificate} cannot be used ({error}); give a certificate in PEM") from error

    def ask(self, signature, rows, seconds):
        try:
            body = {"signature_name": signature, "instances": rows}
            response = httpx.post(f"{self._url}:predict", json=body, headers=self._headers, timeout=seconds, verify=self._verify)
        except ValueError as error:  # an infinite number, or half a character
            raise ServerError(f"the request cannot be sent as JSON ({error}); give finite numbers, and text that UTF-8 can write") from error
        except (httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
            raise BusyError(self._no_answer(error)) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerError(self._no_answer(error)) from error
        if response.status_code in BUSY:
            raise BusyError(f"{self._url}: {response.status_code}: {_error_of(response)}", _seconds_of(response.headers.get("retry-after", "")))
        try:
            content = response.json()
        except ValueError as error:
            raise ServerError(f"{self._url}: answered {response.status_code} without JSON; is this TensorFlow Serving or tfgpt serve?") from error
        if response.status_code != httpx.codes.OK:
            raise ServerError(f"{self._url}: {response.status_code}: {_error_of(response)}")
        return content["predictions"]

    def events(self, prompt, controls, seconds):
        """Yield what the server's completions tell of a prompt, an object an event."""
        found = MODEL.fullmatch(self._url)
        if found is None:
            raise ServerError(f"{self._url}: is no address of a model; {ADDRESS}")
        which = found["version"] or found["label"]
        body = {"model": found["name"] + (f":{which}" if which else ""), "prompt": prompt, "stream": True, "stream_options": {"include_usage": True}}
        named = {"max_tokens" if name == "max_new_tokens" else name: value for name, value in controls.items()}
        body |= {"temperature": 0.0, "seed": 0, "max_tokens": 64} | named
        try:
            address = f"{found['base']}/v1/completions"
            with httpx.stream("POST", address, json=body, headers=self._headers, timeout=seconds, verify=self._verify) as answer:
                if answer.status_code != httpx.codes.OK:
                    answer.read()
                    error = _error_of(answer)
                    raise ServerError(f"{self._url}: {answer.status_code}: {error['message'] if isinstance(error, dict) else error}")
                for line in answer.iter_lines():
                    if line.startswith("data: {"):
                        event = json.loads(line.removeprefix("data: "))
                        if "error" in event:
                            raise ServerError(f"{self._url}: {event['error']['message']}")
                        yield event
        except ValueError as error:
            raise ServerError(f"the request cannot be sent as JSON ({error}); give finite numbers, and text that UTF-8 can write") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerError(self._no_answer(error)) from error

    def close(self):
        pass

    def _no_answer(self, error):
        return f"{self._url}: no answer ({error}); is the server running? {ADDRESS}"


def _listed(what, texts):
    if isinstance(texts, str):
        raise ServerError(f"{what}: is one text; give a list of texts, such as [text]")
    return texts


def _checked_key(key):
    if not (key.isascii() and key.isprintable() and key.strip()):
        raise ServerError("api_key: holds nothing, or characters that no header can hold; give the key alone, as tfgpt serve --new-api-key printed it")
    return key.strip()


def _error_of(response):
    """Return an error's text: TensorFlow Serving's, or the beginning of whatever else, such as a proxy's page."""
    try:
        content = response.json()
    except ValueError:
        return response.text[:200]
    return content["error"] if isinstance(content, dict) and "error" in content else content


def _seconds_of(retry_after):
    """Return the seconds of a Retry-After header; `None` if it has none, or a date, which some other clock wrote."""
    return float(retry_after) if re.fullmatch(r"\d{1,6}", retry_after.strip()) else None
