"""How fast a model is trained, beside its peers: the sides take turns of a few steps, so that a machine whose speed changes is the same to all."""
from __future__ import annotations

import contextlib
import dataclasses
import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tfgpt.bench.trainers import Settings, arguments_of
from tfgpt.progress import progress_bar

MODELS = {
    "small": Settings(layers=4, width=256, heads=4, vocab=8192, length=256, batch=8),
    "gpt2": Settings(layers=12, width=768, heads=12, vocab=50257, length=256, batch=4),
}
PEERS = ("tfgpt", "PyTorch", "transformers")
BATCHINGS = ("tfgpt", "padded to the length", "padded to the longest")
WARM_UP_STEPS = 3
VOCAB_OF_TEXTS = 4096


def run(settings: Settings, rounds: int, steps: int, sides: tuple[str, ...] = PEERS) -> dict:
    """Time every side and return the figures.

    Args:
        settings: the model, the batch and the precision.
        rounds: times that every side has its turn.
        steps: in a turn.
        sides: which of `tfgpt.bench.trainers.SIDES` to time; the others are compared with the first.

    Returns:
        For each side `tokens_per_second` (useful ones: padding does not count), the median over the rounds; `to_first`, the median over the rounds of
        its rate by the first side's of the same round; `milliseconds` a step; and `peak_megabytes` of memory.

    Raises:
        RuntimeError: a side ends.
    """
    with contextlib.ExitStack() as stack, progress_bar("bench", total=len(sides) * (rounds + 1), unit="turns") as advance:
        asked = {}
        for side in sides:  # one after the other: compiling takes all cores
            asked[side] = stack.enter_context(_started(side, settings))
            asked[side](WARM_UP_STEPS)
            advance()
        turns = {side: [] for side in sides}
        for _ in range(rounds):
            for side in sides:
                turns[side].append(asked[side](steps))
                advance()
    rates = {side: [turn["tokens"] / turn["seconds"] for turn in of_side] for side, of_side in turns.items()}
    return {
        side: {
            "tokens_per_second": statistics.median(rates[side]),
            "to_first": statistics.median(rate / first for rate, first in zip(rates[side], rates[sides[0]])),
            "milliseconds": statistics.median(turn["seconds"] for turn in turns[side]) / steps * 1000,
            "peak_megabytes": turns[side][-1]["peak_megabytes"],
        }
        for side in sides
    }


def run_on_texts(texts: list[str], settings: Settings, rounds: int, steps: int) -> dict:
    """Time the same model on texts in packed and in padded batches; see `run`.

    Args:
        texts: the documents, in one line each.
        settings: the model and the batch; the vocabulary is trained on the texts.
        rounds: see `run`.
        steps: see `run`.
    """
    from tfgpt.text.bpe import train_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        path, tokenizer = Path(folder) / "texts.txt", train_tokenizer(texts, vocab=VOCAB_OF_TEXTS)
        path.write_text("\n".join(" ".join(text.split()) for text in texts), "utf-8")
        tokenizer.save_pretrained(Path(folder) / "tokenizer")
        settings = dataclasses.replace(settings, vocab=len(tokenizer), texts=str(path), tokenizer=str(Path(folder) / "tokenizer"))
        return run(settings, rounds, steps, BATCHINGS)


@contextlib.contextmanager
def _started(side, settings) -> Iterator:
    """Start a side's process; give a function that lets it train so many steps and returns its answer."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(arguments_of(side, settings), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)

        def ask(steps):
            try:
                process.stdin.write(f"{steps}\n")
                process.stdin.flush()
            except BrokenPipeError:
                pass  # it has ended, which the missing answer tells too
            answer = process.stdout.readline()
            if not answer:
                errors.seek(0)
                raise RuntimeError(f"tfgpt bench train: the side {side} ended: {errors.read().strip().splitlines()[-1:]}; install what is missing with "
                                   "pip install 'tfgpt[bench]'")
            return json.loads(answer)

        try:
            yield ask
        finally:
            process.stdin.close()
            process.wait()
            process.stdout.close()
