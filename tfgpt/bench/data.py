"""How fast text becomes packed shards, and shards become batches, beside what else there is for it.

Each side is timed in a process of its own (`python -m tfgpt.bench.data SIDE ...`), one after the other, round after round; imports and the
reading of settings are not in the time.
"""
from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

LENGTH = 256
BATCH = 8
TEXTS_AT_ONCE = 1000
SIDES = ("tfgpt", "GPT2TokenizerFast", "datasets")
READ_BATCHES = 3000
TRAIN_STEPS = 12


def run(megabytes: int, rounds: int, tokenizer: str = "", sides: tuple[str, ...] = SIDES) -> dict:
    """Time every side on the same text and return the figures.

    Args:
        megabytes: of text, Python source of the packages installed here; documents are its blocks between blank lines.
        rounds: times that every side has its turn; the best counts.
        tokenizer: folder or hub id; empty = a BPE of 8,192 tokens, trained on a part of the text.
        sides: which of `SIDES` to time.

    Returns:
        For each side `tokens_per_second`, `seconds`, `cores` (processor time by time) and `peak_megabytes` of memory, `imported_megabytes`
        of which were there before the work began; and for reading `batches_tokens_per_second` beside `step_tokens_per_second`.
    """
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        written = write_corpus(corpus, megabytes * 1_000_000)
        tokenizer = tokenizer or _train_tokenizer(corpus, Path(folder) / "tokenizer")
        results: dict[str, dict] = {}
        for _, side in itertools.product(range(rounds), sides):
            found = _in_process(side, corpus, tokenizer, Path(folder) / "work")
            if found["tokens_per_second"] > results.get(side, {"tokens_per_second": 0})["tokens_per_second"]:
                results[side] = found
        reading = _in_process("read", corpus, tokenizer, Path(folder) / "work")
        return {"text": written, "sides": results, "reading": reading}


def write_corpus(path: Path, size: int) -> dict:
    """Write the sources of the installed packages, cut at blank lines, as JSONL until there are `size` bytes of text; return what was written."""
    documents = written = 0
    roots = [Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib")]
    with open(path, "w", encoding="utf-8") as file:
        for source in itertools.chain.from_iterable(sorted(root.rglob("*.py")) for root in roots):
            try:
                text = source.read_text("utf-8")
            except (UnicodeDecodeError, OSError):  # a test file in another encoding, a broken link: there is enough text without it
                continue
            for block in filter(str.strip, text.split("\n\n")):
                file.write(json.dumps({"text": block}) + "\n")
                documents += 1
                written += len(block.encode())
            if written >= size:
                break
    return {"documents": documents, "bytes": written}


def _train_tokenizer(corpus, folder) -> str:
    from tfgpt.text.bpe import train_tokenizer

    train_tokenizer(itertools.islice(_texts(corpus), 20_000), vocab=8192).save_pretrained(folder)
    return str(folder)


def _in_process(side, corpus, tokenizer, work) -> dict:
    command = [sys.executable, "-m", "tfgpt.bench.data", side, str(corpus), tokenizer, str(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"tfgpt bench data: the side {side} failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _texts(corpus: Path) -> Iterator[str]:
    with open(corpus, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]


def _timed(work: Callable[[], int]) -> dict:
    """Run work that returns how many tokens it made; return what it took."""
    imported = _peak_megabytes()
    start, start_cpu = time.perf_counter(), _cpu_seconds()
    tokens = work()
    seconds = time.perf_counter() - start
    return {
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
        "cores": (_cpu_seconds() - start_cpu) / seconds,
        "imported_megabytes": imported,
        "peak_megabytes": _peak_megabytes(),
    }


def _cpu_seconds() -> float:
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(of.ru_utime + of.ru_stime for of in times)


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _time_tfgpt(corpus, tokenizer, work) -> dict:
    """Time the whole preparation: read, split, tokenize, pack, write."""
    from tfgpt.data.prepare import prepare
    from tfgpt.recipe import DataConfig
    from tfgpt.text.bpe import load_tokenizer

    loaded = load_tokenizer(tokenizer)

    def prepared():
        stats = prepare(DataConfig(path=str(corpus), length=LENGTH), loaded, work)
        return sum(split["tokens"] for split in stats["splits"].values())

    return _timed(prepared)


def _time_tokenizer(corpus, tokenizer, work) -> dict:
    """Time the tokenizer alone, on batches of texts that are in memory already."""
    from tfgpt.text.bpe import load_tokenizer

    loaded, texts = load_tokenizer(tokenizer), list(_texts(corpus))

    def tokenized():
        starts = range(0, len(texts), TEXTS_AT_ONCE)
        return sum(len(ids) + 1 for start in starts for ids in loaded(texts[start : start + TEXTS_AT_ONCE], verbose=False).input_ids)

    return _timed(tokenized)


def _time_datasets(corpus, tokenizer, work) -> dict:
    """Time Hugging Face datasets as its course does it: map to tokens, map to sequences of one length; nothing is kept apart in them."""
    import datasets

    from tfgpt.text.bpe import load_tokenizer

    loaded = load_tokenizer(tokenizer)
    datasets.disable_progress_bars()
    datasets.disable_caching()  # or the second round would find the work of the first
    rows = datasets.load_dataset("json", data_files=str(corpus), split="train", cache_dir=f"{work}-datasets")

    def group(batch):
        joined = list(itertools.chain.from_iterable([*ids, loaded.eos_token_id] for ids in batch["input_ids"]))
        return {"input_ids": [joined[start : start + LENGTH] for start in range(0, len(joined), LENGTH)]}

    def mapped():
        tokens = rows.map(lambda batch: {"input_ids": loaded(batch["text"], verbose=False).input_ids}, batched=True, remove_columns=["text"])
        grouped = tokens.map(group, batched=True)
        return sum(map(len, grouped["input_ids"]))

    return _timed(mapped)


def _time_reading(corpus, tokenizer, work) -> dict:
    """Time the batches of the shards that the side tfgpt has written, and a train step on them."""
    import tf_keras

    from tfgpt.data.pipeline import training_batches
    from tfgpt.data.shards import ShardedData
    from tfgpt.models.build import new_model
    from tfgpt.recipe import ModelConfig
    from tfgpt.text.bpe import load_tokenizer

    data = ShardedData(work)
    batches = iter(training_batches(data, BATCH, seed=1))
    next(batches)  # fills the shuffle's buffer
    start = time.perf_counter()
    for _ in range(READ_BATCHES):
        next(batches)
    read = READ_BATCHES * BATCH * LENGTH / (time.perf_counter() - start)
    model = new_model(ModelConfig(layers=4, width=256, heads=4, dropout=0.0), LENGTH, load_tokenizer(tokenizer), seed=1)
    model.compile(optimizer=tf_keras.optimizers.AdamW(1e-4))
    step = model.make_train_function()
    step(batches)
    start = time.perf_counter()
    for _ in range(TRAIN_STEPS):
        step(batches)
    trained = TRAIN_STEPS * BATCH * LENGTH / (time.perf_counter() - start)
    return {"batches_tokens_per_second": read, "step_tokens_per_second": trained}


if __name__ == "__main__":
    timers = {"tfgpt": _time_tfgpt, "GPT2TokenizerFast": _time_tokenizer, "datasets": _time_datasets, "read": _time_reading}
    sys.stdout.write(json.dumps(timers[sys.argv[1]](Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))) + "\n")
