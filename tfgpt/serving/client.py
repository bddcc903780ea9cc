"""A client for the REST protocol of TensorFlow Serving, and so for `tfgpt serve` too."""
from __future__ import annotations

import threading

import httpx


class ServerError(RuntimeError):
    """The server refused the request or could not be reached; the message says which."""


class Client:
    """One model on a server.

    Args:
        url: the model's address, such as http://127.0.0.1:8501/v1/models/quickstart, with or without /versions/<v>.
        timeout_seconds: how long to wait for an answer.
    """

    def __init__(self, url: str, timeout_seconds: float = 60.0):
        self._url = url.rstrip("/").removesuffix(":predict")
        self._timeout = timeout_seconds

    def generate(self, prompts: list[str], **controls: float) -> list[dict]:
        """Continue prompts.

        Args:
            prompts: one answer each.
            controls: those of `tfgpt.generation.controls.CONTROLS`; what is left out is the server's default.

        Returns:
            For each prompt its `text`, `token_count`, `log_prob` and `finish_reason`.

        Raises:
            ServerError: no answer, or an error of the server's.
        """
        rows = [{"prompt": prompt} | controls for prompt in prompts]
        return self._post({"signature_name": "generate", "instances": rows})["predictions"]

    def score(self, texts: list[str]) -> list[dict]:
        """Return `log_prob`, `token_count` and `perplexity` of each text; raises as `generate`."""
        return self._post({"signature_name": "score", "instances": [{"text": text} for text in texts]})["predictions"]

    def classify(self, texts: list[str]) -> list[dict]:
        """Return `label` and `scores` of each text, by a model with such a head; raises as `generate`."""
        return self._post({"signature_name": "classify", "instances": [{"text": text} for text in texts]})["predictions"]

    def _post(self, body):
        if not 0 < self._timeout < threading.TIMEOUT_MAX:
            raise ServerError(f"timeout_seconds: {self._timeout} is no time to wait; give seconds above 0")
        try:
            response = httpx.post(f"{self._url}:predict", json=body, timeout=self._timeout)
        except ValueError as error:  # an infinite number, or half a character
            raise ServerError(f"the request cannot be sent as JSON ({error}); give finite numbers, and text that UTF-8 can write") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerError(f"{self._url}: no answer ({error}); is the server running, and is this the model's address "
                              "(http://HOST:PORT/v1/models/NAME)?") from error
        try:
            content = response.json()
        except ValueError as error:
            raise ServerError(f"{self._url}: answered {response.status_code} without JSON; is this TensorFlow Serving or tfgpt serve?") from error
        if response.status_code != httpx.codes.OK:
            raise ServerError(f"{self._url}: {response.status_code}: {content.get('error', content)}")
        return content
