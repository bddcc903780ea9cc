"""Many mixed requests at a server whose versions are swapped meanwhile: every answer is compared with the text that the exported model gives by itself.

A text depends on its row alone, so each has one right answer for each model that is swapped in. That is computed before the server starts, row by row,
by the signature of the SavedModel and without the server's batches.
"""
from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from tfgpt.bench.load import Streamed, run_clients, stream
from tfgpt.bench.served import BENCH, Server
from tfgpt.files import whole_folder
from tfgpt.progress import progress_bar

CLIENTS = 16
CASES = 48
SHARES = {"warm-up": 0.2, "steady": 0.5, "swaps": 0.3}
"""Of the requests, part by part. The versions are swapped in the last, and once in the warm-up: the first time that two versions are in memory at once
takes more of it for good, as the first request of each kind does, and neither tells whether memory goes on growing."""
SWAP_SECONDS = 120.0
"""Until a version that is not loaded, or not unloaded, has failed."""
MOST_NAMED = 5
"""Answers that were wrong or lost and are told of."""
SCORE_TOLERANCE = 1e-3
"""Relative: sums of fp32 log-probabilities over texts that were padded to other lengths."""
KINDS = {"completion": 5, "stream": 5, "rows": 4, "columns": 3, "score": 2, "left": 2, "malformed": 2, "unknown": 1}
"""How often of each: completions whole, as a stream, and as one that the client leaves; predict in rows and columns; scores; and what is to be refused."""
RIGHT, WRONG, LOST = "right", "wrong", "lost"


@dataclass(frozen=True)
class Case:
    """A text that is asked for, or scored, and what each model answers."""

    prompt: str
    controls: dict[str, float]
    texts: tuple[str, ...]
    """The continuation by each model."""
    log_probs: tuple[float, ...]
    """Of the prompt by each model's `score`, nats."""


@dataclass(frozen=True)
class Outcome:
    """What became of a request."""

    kind: str
    verdict: str
    told: str = ""
    """What was wrong with it."""


@dataclass
class Soak:
    """A soak: what is asked, and what is right.

    Args:
        versions: folders of exported models, which are swapped in in turn.
        texts: prompts are pieces of them.
        requests: how many.
        swaps: of versions during the last part, beside the one of the warm-up; 0 = none at all.
        cases: texts that are asked for again and again; `None` = they are made, and what is right is computed by each of the models.
    """

    versions: Sequence[Path]
    texts: Sequence[str]
    requests: int
    swaps: int
    cases: Sequence[Case] | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self):
        if self.cases is None:
            self.cases = cases_of(self.versions, self.texts)

    def run(self, server: Server, base: Path) -> dict:
        """Ask everything and return what came of it.

        Args:
            server: which serves `base`.
            base: where the version folders come and go; it holds the first of `versions` under the number 1.

        Returns:
            `requests`, `seconds`, `lost` (no answer, or one with the wrong status), `wrong` (another text), `kinds` (requests of each), `told` (the first
            that were lost or wrong), `swaps`; `memory_megabytes` of the server when each part ends, by its name; and `steady_growth` and `swaps_growth` of
            that memory, 0.05 = 5 %, over the part.

        Raises:
            RuntimeError: the server ends, or cannot load a version.
        """
        began, memory = time.monotonic(), {}
        kinds = kinds_of(self.requests)
        calls = iter([self._call(server, kind, number) for number, kind in enumerate(kinds)])
        with progress_bar(f"{BENCH} --requests", total=self.requests, unit="requests") as advance:
            for part, share in SHARES.items():
                of_part = list(itertools.islice(calls, round(share * self.requests) if part != "swaps" else None))
                numbers = {"warm-up": [0], "swaps": range(1, self.swaps + 1)}.get(part, []) if self.swaps else []
                self._run_part(server, base, of_part, numbers, advance)
                memory[part] = server.resident_megabytes()
        bad = [outcome for outcome in self.outcomes if outcome.verdict != RIGHT]
        verdicts = Counter(outcome.verdict for outcome in self.outcomes)
        return {
            "requests": len(self.outcomes), "seconds": time.monotonic() - began, "lost": verdicts[LOST], "wrong": verdicts[WRONG],
            "kinds": dict(Counter(outcome.kind for outcome in self.outcomes)), "swaps": self.swaps,
            "told": [f"{outcome.kind}: {outcome.verdict}: {outcome.told}" for outcome in bad[:MOST_NAMED]],
            "memory_megabytes": memory,
            "steady_growth": memory["steady"] / memory["warm-up"] - 1,
            "swaps_growth": memory["swaps"] / memory["steady"] - 1,
        }  # fmt: skip

    def _run_part(self, server, base, calls, swaps, advance):
        """Make calls while the versions are swapped, at equal distances of calls; `swaps` are their numbers."""
        begun = Counter()

        def counted(call):
            async def one(http):
                begun["calls"] += 1
                outcome = await call(http)
                advance()
                return outcome

            return one

        async def swapping(http):
            for turn, number in enumerate(swaps):
                while begun["calls"] < len(calls) * (turn + 0.5) / len(swaps):
                    await asyncio.sleep(0.05)
                await self._swap(http, server, base, number)
            return None

        extra = [swapping] if swaps else []
        try:
            found = run_clients(server.url, CLIENTS + len(extra), [*extra, *map(counted, calls)])
        except httpx.HTTPError as error:  # of the swaps, which ask for states; what the others meet is an outcome
            raise RuntimeError(f"{BENCH}: the server does not say what it serves ({type(error).__name__}: {error})") from error
        self.outcomes += [outcome for outcome in found if outcome is not None]

    async def _swap(self, http, server, base, number):
        """Put the next model under the next version and take the one before away when the next is available."""
        source, old = self.versions[(number + 1) % len(self.versions)], number + 1
        with whole_folder(base / str(old + 1)) as partial:
            await asyncio.to_thread(shutil.copytree, source, partial, dirs_exist_ok=True)
        await _reach(http, server, old + 1, "AVAILABLE")
        await asyncio.to_thread(shutil.rmtree, base / str(old))
        await _reach(http, server, old, "END")  # until then both are in memory

    def _call(self, server, kind, number):
        ask: Callable = getattr(self, f"_ask_{kind}")

        async def call(http):
            try:
                told = await ask(http, server, number)
            except httpx.HTTPError as error:
                return Outcome(kind, LOST, f"{type(error).__name__}: {error}")
            except (KeyError, IndexError, TypeError, ValueError) as error:  # an answer of another form than the protocol's
                return Outcome(kind, WRONG, f"{type(error).__name__}: {error}")
            return told if isinstance(told, Outcome) else Outcome(kind, WRONG if told else RIGHT, told)

        return call

    def _cases(self, number, count=1):
        return [self.cases[(number * 7 + more) % len(self.cases)] for more in range(count)]

    async def _ask_completion(self, http, server, number):
        [case] = self._cases(number)
        response = await http.post("/v1/completions", json=_completion(server, case))
        return _refused("completion", response) or _differs([response.json()["choices"][0]["text"]], [case])

    async def _ask_stream(self, http, server, number):
        [case] = self._cases(number)
        found = await stream(http, _completion(server, case))
        return _broken("stream", found) or _differs([found.text], [case])

    async def _ask_left(self, http, server, number):
        """Leave after the first piece, which must be the beginning of a text."""
        [case] = self._cases(number)
        found = await stream(http, _completion(server, case), pieces=1)
        if found.status != httpx.codes.OK or found.error:
            return Outcome("left", LOST, f"{found.status} {found.error}")
        return "" if any(text.startswith(found.text) for text in case.texts) else f"{found.text!r} begins none of {case.texts}"

    async def _ask_rows(self, http, server, number):
        cases = self._cases(number, 1 + number % 3)
        body = {"instances": [{"prompt": case.prompt} | case.controls for case in cases]}
        response = await http.post(f"/v1/models/{server.model}:predict", json=body)
        return _refused("rows", response) or _differs([row["text"] for row in response.json()["predictions"]], cases)

    async def _ask_columns(self, http, server, number):
        cases = self._cases(number, 1 + number % 3)
        columns = {name: [case.controls[name] for case in cases] for name in cases[0].controls}
        body = {"signature_name": "generate", "inputs": {"prompt": [case.prompt for case in cases]} | columns}
        response = await http.post(f"/v1/models/{server.model}:predict", json=body)
        return _refused("columns", response) or _differs(response.json()["outputs"]["text"], cases)

    async def _ask_score(self, http, server, number):
        cases = self._cases(number, 1 + number % 3)
        body = {"signature_name": "score", "instances": [{"text": case.prompt} for case in cases]}
        response = await http.post(f"/v1/models/{server.model}:predict", json=body)
        return _refused("score", response) or _scored_otherwise([row["log_prob"] for row in response.json()["predictions"]], cases)

    async def _ask_malformed(self, http, server, number):
        path, body = malformed(server.model)[number % len(malformed(server.model))]
        response = await http.post(path, content=body, headers={"Content-Type": "application/json"})
        return _not_refused("malformed", response, (400,), body)

    async def _ask_unknown(self, http, server, number):
        path, body = unknown(server.model)[number % len(unknown(server.model))]
        response = await http.post(path, content=body, headers={"Content-Type": "application/json"})
        return _not_refused("unknown", response, (404,), f"{path} {body}")


async def _reach(http, server, version, wanted):
    """Wait until a version is in a state.

    Raises:
        RuntimeError: it ends instead, or takes too long.
    """
    limit = time.monotonic() + SWAP_SECONDS
    while True:
        response = await http.get(f"/v1/models/{server.model}/versions/{version}")
        state = response.json()["model_version_status"][0]["state"] if response.status_code == httpx.codes.OK else None
        if state == wanted:
            return
        if state == "END" or time.monotonic() > limit:
            raise RuntimeError(f"{BENCH}: version {version} does not become {wanted}: {response.text}")
        await asyncio.sleep(0.1)


def cases_of(versions: Sequence[Path], texts: Sequence[str], count: int = CASES) -> list[Case]:
    """Return short texts to ask for, greedy and drawn, with what each model answers to them.

    Args:
        versions: folders of exported models.
        texts: prompts are pieces of them.
        count: how many.

    Raises:
        RuntimeError: a model that does not write texts and score them.
    """
    from tfgpt.serving.saved_model import LoadedModel

    draw, asked = random.Random(2), []
    for number in range(count):
        text, length = draw.choice(texts), draw.randint(1, 160)
        start = draw.randrange(max(1, len(text) - length))
        greedy = number % 2 == 0
        controls = {"max_new_tokens": draw.randint(8, 16), "temperature": 0.0 if greedy else 0.8, "top_k": 0 if greedy else 40, "seed": number}
        asked.append((text[start : start + length], controls))
    models = [LoadedModel(version) for version in versions]
    if any(not {"generate", "score"} <= set(model.signatures) for model in models):
        raise RuntimeError(f"{BENCH}: --requests wants a model with the signatures generate and score; give another --export")
    cases = []
    for prompt, controls in asked:
        given = {name: np.array([value], np.float32 if name == "temperature" else None) for name, value in controls.items()}
        written = [model.predict("generate", {"prompt": np.array([prompt.encode()], object)} | given) for model in models]
        scored = [model.predict("score", {"text": np.array([prompt.encode()], object)}) for model in models]
        cases.append(Case(prompt, controls, tuple(row["text"][0].decode() for row in written), tuple(float(row["log_prob"][0]) for row in scored)))
    for model in models:
        model.close()
    return cases


def malformed(model: str) -> list[tuple[str, str]]:
    """Return paths and bodies that a server must refuse with 400."""
    predict, completions = f"/v1/models/{model}:predict", "/v1/completions"
    wrong = [{"prompt": "x", "max_tokens": -1}, {"prompt": "x", "temperature": "hot"}, {"prompt": {"a": 1}}, {"prompt": "x", "no_such_key": 1},
             {"prompt": "x", "logit_bias": {"5": 1}}, {"prompt": [], "max_tokens": 4}, {"prompt": [-7]}]
    rows = [{"instances": []}, {"instances": [{"prompt": "x", "temperature": -1.0}]}, {"instances": [{"prompt": 5}]}, {"instances": "x", "inputs": "y"},
            {"instances": [{"prompt": "x"}, {"prompt": "y", "top_k": 3}]}, {"instances": [{"text": "x"}]}, {"signature_name": "none", "instances": ["x"]},
            {"inputs": {"prompt": ["x", "y"], "seed": [1, 2, 3]}}]
    texts = ["", "{", "[]", "null", '{"prompt": "\\ud800', '"text"', "\x00"]
    return [*((completions, json.dumps({"model": model} | body)) for body in wrong), *((predict, json.dumps(body)) for body in rows),
            *((path, text) for path in (completions, predict) for text in texts)]


def unknown(model: str) -> list[tuple[str, str]]:
    """Return paths and bodies that ask for models that a server must not know, and refuse with 404."""
    good = json.dumps({"instances": [{"prompt": "x"}]})
    asked = ["nobody", f"{model}:987654321", "", f"{model}x"]
    return [*(("/v1/completions", json.dumps({"model": name, "prompt": "x"})) for name in asked), ("/v1/models/nobody:predict", good),
            (f"/v1/models/{model}/versions/987654321:predict", good), ("/v1/nothing", good)]


def kinds_of(requests: int) -> list[str]:
    """Return the kind of each request, mixed, the same each time."""
    kinds = list(itertools.islice(itertools.cycle([kind for kind, times in KINDS.items() for _ in range(times)]), requests))
    random.Random(3).shuffle(kinds)
    return kinds


def _completion(server, case):
    names = {"max_new_tokens": "max_tokens"}
    return {"model": server.model, "prompt": case.prompt} | {names.get(name, name): value for name, value in case.controls.items()}


def _refused(kind, response) -> Outcome | None:
    return None if response.status_code == httpx.codes.OK else Outcome(kind, LOST, f"{response.status_code} {response.text[:200]}")


def _broken(kind, found: Streamed) -> Outcome | None:
    if found.status == httpx.codes.OK and found.finish_reason is not None:
        return None
    return Outcome(kind, LOST, f"{found.status} {found.error or 'the stream ended early'}")


def _not_refused(kind, response, wanted, asked) -> Outcome | str:
    if response.status_code not in wanted:
        return Outcome(kind, LOST, f"{response.status_code} instead of {wanted[0]} for {asked[:100]}: {response.text[:200]}")
    return "" if response.json().get("error") else f"no error is told: {response.text[:200]}"


def _differs(found: list[str], cases: list[Case]) -> str:
    """Return what is wrong with texts that should be those of the cases, all by the same model; empty = nothing."""
    right = list(zip(*(case.texts for case in cases)))
    return "" if tuple(found) in right else f"{found} is none of {right}"


def _scored_otherwise(found: list[float], cases: list[Case]) -> str:
    right = list(zip(*(case.log_probs for case in cases)))
    close = (len(of_model) == len(found) and all(math.isclose(*pair, rel_tol=SCORE_TOLERANCE, abs_tol=SCORE_TOLERANCE) for pair in zip(found, of_model))
             for of_model in right)
    return "" if any(close) else f"{found} is none of {right}"
