"""The sides of a benchmark take turns: each is a process of its own that works when it is told to, so that a machine whose speed changes is the same to all.

A side reads numbers from standard input, one a line, works that many times and answers with a JSON line.
"""
from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

Ask = Callable[[int], dict]
Answers = dict[str, dict]
USE_TORCH = {"TensorFlow": "0", "PyTorch": "1", "both": "AUTO"}
"""What the variable of this name says to transformers, which by itself loads both into every process."""


def take_turns(
    bench: str, commands: dict[str, list[str]], rounds: int, times: int, first_times: int, check: Callable[[Answers], None] = lambda first: None
) -> tuple[Answers, dict[str, list[dict]]]:
    """Start every side and let them work in turns.

    Args:
        bench: name of the command, for errors.
        commands: of each side's process.
        rounds: times that every side has its turn.
        times: that a side works in a turn.
        first_times: that it works when it has started, before the first round.
        check: takes each side's first answer, before the first round.

    Returns:
        Each side's first answer, and its answers of all rounds.

    Raises:
        RuntimeError: a side ends.
    """
    from tfgpt.progress import progress_bar  # here, not above: a side has no bar, nor its memory

    with contextlib.ExitStack() as stack, progress_bar("bench", total=len(commands) * (rounds + 1), unit="turns") as advance:
        asked, first = {}, {}
        for side, command in commands.items():  # one after the other: compiling takes all cores
            asked[side] = stack.enter_context(started(f"{bench}: the side {side}", command))
            first[side] = asked[side](first_times)
            advance()
        check(first)
        turns = {side: [] for side in commands}
        for _ in range(rounds):
            for side, ask in asked.items():
                turns[side].append(ask(times))
                advance()
    return first, turns


@contextlib.contextmanager
def started(name: str, command: list[str]) -> Iterator[Ask]:
    """Start a process that serves (see `serve`); give a function that lets it work so many times and returns its answer.

    Args:
        name: of the process, for errors.
        command: that starts it.

    Raises:
        RuntimeError: it ends.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)

        def ask(times):
            try:
                process.stdin.write(f"{times}\n")
                process.stdin.flush()
            except BrokenPipeError:
                pass  # it has ended, which the missing answer tells too
            answer = process.stdout.readline()
            if not answer:
                errors.seek(0)
                raise RuntimeError(f"{name} ended: {errors.read().strip().splitlines()[-1:]}; install what is missing with pip install 'tfgpt[bench]'")
            return json.loads(answer)

        try:
            yield ask
        finally:
            process.stdin.close()
            process.wait()
            process.stdout.close()


def serve(make: Callable[[], Callable[[int], dict]], framework: str) -> None:
    """Work as many times as each line of standard input says, and answer.

    Args:
        make: returns the function that works so many times and returns what the answer holds besides `seconds` and `peak_megabytes`.
        framework: a key of `USE_TORCH`.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ["USE_TORCH"] = USE_TORCH[framework]
    work = make()
    for line in sys.stdin:
        start = time.perf_counter()
        found = work(int(line))
        seconds = time.perf_counter() - start
        answers.write(json.dumps(found | {"seconds": seconds, "peak_megabytes": peak_megabytes()}) + "\n")
        answers.flush()


def peak_megabytes() -> float:
    """Return the most memory that this process has held; not getrusage's `ru_maxrss`, where a child begins with its parent's."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8"))[1]) / 1024


def figures(turns: dict[str, list[dict]], steps: int) -> dict[str, dict]:
    """Return what the turns of each side say together.

    Args:
        turns: answers with `tokens` and `seconds`, as many for each side.
        steps: in a turn.

    Returns:
        For each side the medians over the rounds: `tokens_per_second`; `to_first`, its rate by the first side's of the same round; and `milliseconds` a
        step. And `peak_megabytes` of memory.

    >>> fast, slow = {"tokens": 8, "seconds": 2.0, "peak_megabytes": 9.0}, {"tokens": 8, "seconds": 4.0, "peak_megabytes": 7.0}
    >>> figures({"ours": [fast, slow, slow], "theirs": [slow, slow, fast]}, steps=4)["theirs"]
    {'tokens_per_second': 2.0, 'to_first': 1.0, 'milliseconds': 1000.0, 'peak_megabytes': 9.0}
    """
    rates = {side: [turn["tokens"] / turn["seconds"] for turn in of_side] for side, of_side in turns.items()}
    first = next(iter(rates.values()))
    return {
        side: {
            "tokens_per_second": statistics.median(rates[side]),
            "to_first": statistics.median(rate / of_first for rate, of_first in zip(rates[side], first)),
            "milliseconds": statistics.median(turn["seconds"] for turn in of_side) / steps * 1000,
            "peak_megabytes": of_side[-1]["peak_megabytes"],
        }
        for side, of_side in turns.items()
    }
