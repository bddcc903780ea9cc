"""How fast a model is trained, beside its peers: the sides take turns of a few steps."""
from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from tfgpt.bench.trainers import Settings, arguments_of
from tfgpt.bench.turns import figures, take_turns

MODELS = {
    "small": Settings(layers=4, width=256, heads=4, vocab=8192, length=256, batch=8),
    "char": Settings(layers=4, width=128, heads=4, vocab=257, length=64, batch=12, lanes=2),
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
        For each side its `tfgpt.bench.turns.figures`; the tokens are the useful ones: padding does not count.

    Raises:
        RuntimeError: a side ends.
    """
    commands = {side: arguments_of(side, settings) for side in sides}
    _, turns = take_turns("tfgpt bench train", commands, rounds, times=steps, first_times=WARM_UP_STEPS)
    return figures(turns, steps)


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
