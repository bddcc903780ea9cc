"""Clients of a server in one process: each sends its next request when the last one is answered (a closed loop)."""
from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import httpx

T = TypeVar("T")
Call = Callable[[httpx.AsyncClient], Awaitable[T]]
TIMEOUT_SECONDS = 120.0
DATA = "data: "


def run_clients(url: str, clients: int, calls: Iterable[Call]) -> list[T]:
    """Make calls, as many at once as there are clients, and return what they return, in the order in which each client made its own.

    Args:
        url: of the server; what a call asks for is relative to it.
        clients: how many.
        calls: taken one by one, when a client is free.
    """
    return asyncio.run(_run_clients(url, clients, iter(calls)))


async def _run_clients(url, clients, left):
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_SECONDS, limits=limits, trust_env=False) as http:  # no proxy stands in between

        async def client():
            return [await call(http) for call in left]  # one iterator for all: whoever is free takes the next

        return [answer for of_client in await asyncio.gather(*(client() for _ in range(clients))) for answer in of_client]


@dataclass
class Streamed:
    """What a stream of completions brought."""

    status: int
    """Of HTTP; the rest is empty unless it is 200."""
    text: str = ""
    finish_reason: str | None = None
    """`None` = the stream was cut off before its end."""
    token_count: int = 0
    first_seconds: float = 0.0
    """From the request to the first piece of text."""
    error: str = ""
    """What the server said in the stream instead of an end."""


async def stream(http: httpx.AsyncClient, body: dict, pieces: int | None = None) -> Streamed:
    """Ask /v1/completions for a stream.

    Args:
        http: the connections.
        body: of the request, without `stream`.
        pieces: after which the client goes away; `None` = it stays.

    Raises:
        httpx.HTTPError: no answer, or not all of one.
    """
    started = time.perf_counter()
    asked = body | {"stream": True, "stream_options": {"include_usage": True}}
    async with http.stream("POST", "/v1/completions", json=asked) as response:
        found, seen = Streamed(response.status_code), 0
        if response.status_code != httpx.codes.OK:
            return found
        async for event in _events(response):
            if "error" in event:
                found.error = event["error"]["message"]
            for choice in event.get("choices", []):
                if choice["text"] and not found.text:
                    found.first_seconds = time.perf_counter() - started
                found.text += choice["text"]
                found.finish_reason = choice["finish_reason"]
                seen += 1
            if event.get("usage"):
                found.token_count = event["usage"]["completion_tokens"]
            if seen == pieces:
                break
    return found


async def _events(response) -> AsyncIterator[dict]:
    async for line in response.aiter_lines():
        if line.startswith(DATA) and line != f"{DATA}[DONE]":
            yield json.loads(line[len(DATA) :])
