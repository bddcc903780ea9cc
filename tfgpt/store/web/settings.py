"""What a store that is served can be told."""
from __future__ import annotations

import math
from dataclasses import dataclass, fields

from tfgpt.store.errors import StoreError


@dataclass(frozen=True)
class WebSettings:
    """Who may read without signing in, and how much is taken of whom."""

    anonymous_read: bool = False
    """Whether public models are shown to those who have not signed in."""
    requests_per_minute: int = 600
    """Of one address."""
    sign_ins_per_minute: int = 10
    """Attempts of one address; of all addresses with one name ten times as many."""
    tries_per_minute: int = 20
    """Of one user."""
    publishes_per_hour: int = 60
    """Of one user."""
    max_upload_bytes: int = 4 * 2**30
    """The largest upload over HTTP; what a model may have at most, store.json says."""
    max_form_bytes: int = 2**20
    """The largest other request."""
    body_seconds: float = 30.0
    """How long a client may let the server wait for its headers, or for the next part of a body."""
    try_models: int = 2
    """Models that are loaded at once to be tried, each in a process of its own; 0 = models cannot be tried."""
    try_tokens: int = 256
    """The most tokens that a try writes."""
    try_prompt_bytes: int = 16 * 2**10
    """The longest prompt of a try."""
    try_seconds: float = 120.0
    """How long a try may take, the loading included; then its process is ended."""

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "try_models" else 1
            if not isinstance(value, bool) and not (math.isfinite(value) and value >= least):
                raise StoreError(f"{field.name}: {value} is too small or no number; give {least} or more")
