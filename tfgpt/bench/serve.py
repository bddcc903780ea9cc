"""How many tokens a second a server writes for one client and for many, how soon the first one comes, and whether it holds out (see `soak`)."""
from __future__ import annotations

import itertools
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from tfgpt.bench.load import run_clients, stream
from tfgpt.bench.served import BENCH, Server, Settings, documents, served, write_versions
from tfgpt.bench.soak import Soak
from tfgpt.progress import progress_bar

NAME = "bench"
PROMPTS = 64
PROMPT_CHARACTERS = (8, 320)
"""The shortest and the longest prompt of the throughput's: 3 to about 100 tokens."""
CALLS_PER_CLIENT = 8
"""In a turn."""


@dataclass(frozen=True)
class Load:
    """What the clients ask for."""

    clients: tuple[int, ...] = (1, 16)
    """That ask at once; they take turns."""
    rounds: int = 5
    """Turns of each."""
    new_tokens: int = 64
    """That each text gets."""
    requests: int = 0
    """Of the soak; 0 = none."""
    swaps: int = 6
    """Of versions during the soak."""


@dataclass(frozen=True)
class Timed:
    """A text that a client was given."""

    token_count: int
    first_seconds: float | None
    """Until its first piece; `None` = it came as a whole."""


def run(load: Load, export: Path | None = None, settings: Settings | None = None) -> dict:
    """Start a server, let clients ask it in turns, then many things at once if that is asked for.

    Args:
        load: what they ask for.
        export: base path of an exported model, of which a copy is served; `None` = a small model of random weights.
        settings: that model's shape; `None` = 4 layers of width 256.

    Returns:
        `protocols`: for `openai` (streams) and `rest` (predict) and each number of clients `tokens_per_second`, the median over the rounds, `to_first`, its
        rate by that of the first number of clients in the same round, `first_token_p50_seconds`, `first_token_p99_seconds` and `p99_to_p50`, `None`
        where texts come as a whole. And `soak`, `None` or `tfgpt.bench.soak.Soak.run`'s.

    Raises:
        FileNotFoundError: no version in `export`.
        RuntimeError: the server ends, refuses a text or writes one of another length.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder, texts = Path(scratch), documents()
        if export is None:
            versions = write_versions(settings or Settings(), texts, folder / "versions", count=2 if load.requests else 1)
        else:
            versions = versions_of(export)
        base = folder / "served" / NAME
        shutil.copytree(versions[0], base / "1")
        soak = Soak(versions, texts, load.requests, load.swaps) if load.requests else None  # what is right is computed before anything else takes the processor
        with served(base) as server:
            found = {"protocols": _in_turns(server, load, texts), "soak": None}
        if soak is not None:  # with a server of its own, whose memory no other work has stretched
            with served(base) as server:
                found["soak"] = soak.run(server, base)
        return found


def versions_of(export: Path) -> list[Path]:
    """Return the folders of an exported model's versions, the lowest first.

    Raises:
        FileNotFoundError: there is none.
    """
    found = [path for path in export.glob("*") if path.name.isdecimal() and (path / "saved_model.pb").is_file()]
    if not found:
        raise FileNotFoundError(f"{export} holds no version of an exported model; give the folder above the numbers, such as export/NAME")
    return sorted(found, key=lambda path: int(path.name))


def prompts_of(texts: list[str], count: int, shortest: int, longest: int) -> list[str]:
    """Return pieces of texts, as many and as long as is asked for, in characters, the same each time.

    >>> prompts_of(["abcdefgh"], 2, 3, 4)
    ['def', 'efgh']
    """
    draw = np.random.default_rng(1)
    found = []
    for _ in range(count):
        text = texts[draw.integers(len(texts))]
        length = int(draw.integers(shortest, longest + 1))
        start = int(draw.integers(max(1, len(text) - length + 1)))
        found.append(text[start : start + length])
    return found


def _in_turns(server, load, texts):
    """Return what `run` returns of the protocols."""
    prompts = _whole_prompts(server, prompts_of(texts, PROMPTS, *PROMPT_CHARACTERS))
    asks = {"openai": _ask_openai, "rest": _ask_rest}
    turns = list(itertools.product(asks, load.clients))
    rates: dict[tuple, list[float]] = {turn: [] for turn in turns}
    waits: dict[tuple, list[float]] = {turn: [] for turn in turns}
    with progress_bar(BENCH, total=(load.rounds + 1) * len(turns), unit="turns") as advance:
        for number in range(load.rounds + 1):  # the first is the warm-up
            for protocol, clients in turns:
                rate, wait = _turn(server, asks[protocol], clients, prompts, load.new_tokens)
                if number:
                    rates[protocol, clients].append(rate)
                    waits[protocol, clients] += wait
                advance()
    return {protocol: {clients: figures(rates[protocol, clients], rates[protocol, load.clients[0]], waits[protocol, clients]) for clients in load.clients}
            for protocol in asks}


def figures(rates: list[float], first_rates: list[float], waits: list[float]) -> dict:
    """Return what the turns of a number of clients say together; see `run`.

    Args:
        rates: tokens per second of each turn.
        first_rates: of what they are compared with.
        waits: seconds until the first token of each text; empty = not known.

    >>> figures([8.0, 6.0], [2.0, 2.0], [0.1] * 98 + [0.2, 0.3])["to_first"]
    3.5
    """
    p50, p99 = np.percentile(waits, [50, 99]).tolist() if waits else (None, None)
    return {
        "tokens_per_second": statistics.median(rates),
        "to_first": statistics.median(rate / first for rate, first in zip(rates, first_rates)),
        "first_token_p50_seconds": p50,
        "first_token_p99_seconds": p99,
        "p99_to_p50": p99 / p50 if waits else None,
    }


def _turn(server, ask, clients, prompts, new_tokens):
    calls = clients * CALLS_PER_CLIENT
    begin = time.perf_counter()
    answers = _answers(server, clients, (ask(server, prompt, new_tokens) for prompt in itertools.islice(itertools.cycle(prompts), calls)))
    seconds = time.perf_counter() - begin
    if wrong := {answer.token_count for answer in answers} - {new_tokens}:
        raise RuntimeError(f"{BENCH}: the server wrote {sorted(wrong)} tokens instead of {new_tokens}; give --new-tokens that the context has room for")
    waits = [answer.first_seconds for answer in answers if answer.first_seconds is not None]
    return sum(answer.token_count for answer in answers) / seconds, waits


def _answers(server, clients, calls):
    try:
        return run_clients(server.url, clients, calls)
    except httpx.HTTPError as error:
        raise RuntimeError(f"{BENCH}: the server does not answer ({type(error).__name__}: {error})") from error


def _whole_prompts(server: Server, prompts):
    """Return the prompts whose first token is whole characters: a piece of one is not sent before its rest, which says nothing of the server's speed."""

    def ask(prompt):
        async def call(http):
            body = {"model": server.model, "prompt": prompt, "max_tokens": 1, "min_new_tokens": 1, "temperature": 0}
            text = (await _posted(http, "/v1/completions", body))["choices"][0]["text"]
            return prompt if text and "\ufffd" not in text else None

        return call

    found = [prompt for prompt in _answers(server, 1, map(ask, prompts)) if prompt is not None]
    if not found:
        raise RuntimeError(f"{BENCH}: this model continues none of {len(prompts)} prompts with a whole character; give one that writes text")
    return found


def _ask_openai(server, prompt, new_tokens):
    async def call(http):
        body = {"model": server.model, "prompt": prompt, "max_tokens": new_tokens, "min_new_tokens": new_tokens, "temperature": 0}
        found = await stream(http, body)
        if found.finish_reason is None:
            raise RuntimeError(f"{BENCH}: a stream was answered with {found.status} and ended early: {found.error}")
        return Timed(found.token_count, found.first_seconds)

    return call


def _ask_rest(server, prompt, new_tokens):
    async def call(http):
        body = {"instances": [{"prompt": prompt, "max_new_tokens": new_tokens, "min_new_tokens": new_tokens}]}
        predictions = (await _posted(http, f"/v1/models/{server.model}:predict", body))["predictions"]
        return Timed(predictions[0]["token_count"], None)

    return call


async def _posted(http, path, body):
    response = await http.post(path, json=body)
    if response.status_code != httpx.codes.OK:
        raise RuntimeError(f"{BENCH}: the server answered {response.status_code} to a good request: {response.text[:200]}")
    return response.json()
