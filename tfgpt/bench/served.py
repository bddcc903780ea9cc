"""The server of `tfgpt bench serve`: a model written for it, and `tfgpt serve` as a process of its own."""
from __future__ import annotations

import contextlib
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BENCH = "tfgpt bench serve"
START_SECONDS = 300.0
"""Until a server that has not said its address has failed."""
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Settings:
    """The model that is served where none is given."""

    layers: int = 4
    width: int = 256
    heads: int = 4
    vocab: int = 8192
    context: int = 256


@dataclass(frozen=True)
class Server:
    """A running server of one model."""

    url: str
    """Such as http://127.0.0.1:40000."""
    model: str
    """Its name."""
    pid: int

    def resident_megabytes(self) -> float:
        """Return the memory that its process holds now.

        Raises:
            RuntimeError: it has ended.
        """
        status = Path(f"/proc/{self.pid}/status")
        found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text("utf-8")) if status.exists() else None
        if found is None:  # what is left of a process that has ended holds none
            raise RuntimeError(f"{BENCH}: the server has ended by itself")
        return int(found[1]) / 1024


def documents() -> list[str]:
    """Return the text that prompts are taken from, Python's reference."""
    from tfgpt.data.corpus import read_corpus
    from tfgpt.recipe import DataConfig

    return [example.text for example in read_corpus(DataConfig(path="python-docs"))]


def write_versions(settings: Settings, texts: list[str], base: Path, count: int) -> list[Path]:
    """Export so many models of random weights, no two alike, as the versions 1, 2, ... of BASE; return their folders.

    The weights are larger than those a training begins with, under which all texts would be alike, and a wrong one would go unnoticed.

    Args:
        settings: their shape.
        texts: the tokenizer is trained on them.
        base: a folder.
        count: how many.
    """
    from transformers import GPT2Config

    from tfgpt.generation.text_model import TextModel
    from tfgpt.models.causal_lm import GPTLMHeadModel
    from tfgpt.models.weights import initialize
    from tfgpt.recipe import ExportConfig
    from tfgpt.serving.export import export
    from tfgpt.text.bpe import train_tokenizer

    tokenizer = train_tokenizer(texts, vocab=settings.vocab)
    sizes = {"vocab_size": len(tokenizer), "n_positions": settings.context, "n_embd": settings.width, "n_layer": settings.layers, "n_head": settings.heads}
    ends = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = GPTLMHeadModel(GPT2Config(**sizes, **ends, initializer_range=2.0 / math.sqrt(settings.width)))
    model.build_in_name_scope()
    written = []
    for version in range(1, count + 1):
        initialize(model, seed=version)
        written.append(export(TextModel(model, tokenizer), base, ExportConfig(version=version)))
    return written


@contextlib.contextmanager
def served(base: Path) -> Iterator[Server]:
    """Run `tfgpt serve` on a free port while the block runs.

    Args:
        base: the model's base path, whose name is the model's.

    Raises:
        RuntimeError: it ends, or does not say its address.
    """
    command = [sys.executable, "-m", "tfgpt", "serve", "--model", f"{base.name}={base}", "--port", "0", "--grpc-port", "-1"]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        try:
            yield Server(_address(process, said), base.name, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(process, said):
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit:
        ended = process.poll() is not None  # looked at before what it said, so that nothing of that is missed
        said.seek(0)
        text = said.read()
        if found := re.search(r"serving (http://[^/\s]+)/", text):
            return found[1]
        if ended:
            raise RuntimeError(f"{BENCH}: the server ended: {text.strip().splitlines()[-1:]}")
        time.sleep(0.05)
    raise RuntimeError(f"{BENCH}: the server has not said its address after {START_SECONDS:.0f} s")
