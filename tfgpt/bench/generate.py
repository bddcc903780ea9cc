"""How fast a model writes, beside its peers: greedy decoding of the same random weights, the sides take turns of one generation each."""
from __future__ import annotations

import dataclasses
import tempfile

import numpy as np

from tfgpt.bench.decoders import FULL, SIDES, Settings, arguments_of
from tfgpt.bench.turns import Answers, figures, started, take_turns

MODELS = {
    "small": Settings(layers=4, width=256, heads=4, vocab=8192, context=256),
    "gpt2": Settings(layers=12, width=768, heads=12, vocab=50257, context=1024),
}
BATCHES = (1, 8)
BENCH = "tfgpt bench generate"


def run(settings: Settings, batches: tuple[int, ...], rounds: int, sides: tuple[str, ...] = tuple(SIDES)) -> dict[int, dict]:
    """Time every side on each size of batch and return the figures.

    Args:
        settings: the model and the lengths.
        batches: sizes of batch, one after the other; each begins with new processes.
        rounds: times that every side has its turn, which is one generation.
        sides: which of `tfgpt.bench.decoders.SIDES` to time; the others are compared with the first.

    Returns:
        For each size of batch and each side its `tfgpt.bench.turns.figures`, a step being one token in every row, the prompts' pass a part of the
        first; and `first_call_seconds`, the first generation after the weights are loaded, with its tracing. The memory is that of loading the weights
        where this takes more than decoding.

    Raises:
        RuntimeError: a side ends, writes more or fewer tokens than it should, or has all weights in float32 and writes others than the rest.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = dataclasses.replace(settings, folder=folder)
        with started(f"{BENCH}: writing the weights", arguments_of("weights", settings)) as ask:  # not in this process, nor in a side's memory
            ask(1)
        return {batch: _run_batch(dataclasses.replace(settings, batch=batch), rounds, sides) for batch in batches}


def _run_batch(settings, rounds, sides):
    commands = {side: arguments_of(side, settings) for side in sides}
    first, turns = take_turns(BENCH, commands, rounds, times=1, first_times=1, check=lambda answers: check_tokens(answers, settings))
    found = figures(turns, settings.new_tokens)
    return {side: row | {"first_call_seconds": first[side]["seconds"]} for side, row in found.items()}


def check_tokens(answers: Answers, settings: Settings) -> None:
    """Check that every side has written as many tokens as it should, and that those with all weights in float32 have written the same ones.

    Args:
        answers: of each side, with `ids`, [batch, new_tokens].
        settings: what they were asked for.

    Raises:
        RuntimeError: the side that has not; the tokens of PyTorch are right, or the first side's where PyTorch is not among them.
    """
    for side, answer in answers.items():
        lengths = [len(row) for row in answer["ids"]]
        if lengths != [settings.new_tokens] * settings.batch:
            raise RuntimeError(f"{BENCH}: the side {side} wrote {lengths} tokens instead of {settings.new_tokens} in each of {settings.batch} rows")
    full = [side for side in answers if SIDES[side].weights == FULL]
    right = "PyTorch" if "PyTorch" in full else next(iter(full), None)
    for side in full:
        differs = np.array(answers[side]["ids"]) != np.array(answers[right]["ids"])
        if differs.any():
            row, place = np.argwhere(differs)[0]
            raise RuntimeError(f"{BENCH}: the side {side} wrote other tokens than {right}: row {row}, token {place} is {answers[side]['ids'][row][place]} "
                               f"and not {answers[right]['ids'][row][place]}; it computes something else, or both are as likely there up to rounding")
