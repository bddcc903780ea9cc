"""What a request may ask of a server. Needs no TensorFlow: the command line reads its defaults here."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a request may ask for, and how many may ask at once."""

    max_rows: int = 16
    """Texts that a model writes side by side, and rows of other requests that it joins into one call."""
    max_waiting: int = 256
    """Texts that may wait to be written, and rows of other requests that may wait; a request beyond them is refused with 429."""
    max_batch: int = 64
    """Rows of a request."""
    max_prompt_bytes: int = 1_000_000
    """Of a prompt or text."""
    max_new_tokens: int = 0
    """That a request may ask for; 0 = what the model's context holds."""
    max_stops: int = 16
    """Stop strings of a row."""
    request_seconds: float = 300.0
    """Until a request that is not answered ends with an error."""
    max_body_bytes: int = 16 * 2**20
    """Of a request over HTTP; a larger one is refused with 413."""
    body_seconds: float = 30.0
    """For the headers of a request over HTTP, after which the connection is closed, and again for its body, which is then refused with 408."""
    max_json_depth: int = 64
    """Of lists and objects inside each other in a request over HTTP; a deeper one is refused with 400."""

    def __post_init__(self):
        for name in ("max_rows", "max_waiting", "max_batch", "max_prompt_bytes", "max_stops", "max_body_bytes", "max_json_depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} lets no request through; give 1 or more")
        if self.max_new_tokens < 0:
            raise ValueError(f"max_new_tokens: {self.max_new_tokens} is no number of tokens; give 1 or more, or 0 for what the model's context holds")
        for name in ("request_seconds", "body_seconds"):
            if not 0 < getattr(self, name) < 10**6:
                raise ValueError(f"{name}: {getattr(self, name)} is no time; give seconds above 0 and below a million")
