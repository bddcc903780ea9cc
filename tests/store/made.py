"""Versions made up for tests of the catalog, which asks for no files, and runs whose files are of the right kinds."""
import hashlib
import json

import numpy as np
from safetensors.numpy import save_file

from tfgpt.serving.manifest import write_manifest
from tfgpt.store import blobs, catalog
from tfgpt.store.fields import Description


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def stored(database, *texts):
    """Return files whose bytes the database takes for stored."""
    files = [catalog.StoredFile(f"model/{number}.json", sha256(text), len(text), (sha256(text),)) for number, text in enumerate(texts)]
    blobs.touch(database, {file.sha256: file.size_bytes for file in files})
    return files


def published(database, name="tickets", actor="jane", text="weights", figures=None, stage="draft", **said):
    return catalog.publish(database, name, actor, Description(**said), stored(database, text), figures or {}, stage=stage).reference


def make_run(folder, seed=1, version=1):
    """Write what a finished run leaves, but with weights that nobody trained and a graph that nobody can load; return the export."""
    for part in ("model", "tokenizer", "data"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "model" / "config.json").write_text('{"model_type": "gpt2"}')
    save_file({"wte.weight": np.random.default_rng(seed).normal(size=(50, 8)).astype(np.float32)}, folder / "model" / "model.safetensors")
    (folder / "tokenizer" / "vocab.json").write_text('{"a": 0}')
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (folder / "data" / "stats.json").write_text(json.dumps({"inputs_sha256": sha256("corpus")}))
    (folder / "recipe.yaml").write_text("name: tickets\nmodel: {init: random}\ntask: {kind: classification}\nadapt: {head: {kind: classes}}\n")
    (folder / "evaluation.json").write_text(json.dumps({
        "loss": 1.25, "perplexity": 3.49, "bits_per_byte": 0.6, "tokens": 100, "split": "validation", "metrics": {"f1": {"value": 0.5, "interval": [0.4, 0.6]}},
        "baseline": {"name": "5-gram", "loss": 2.0, "perplexity": 7.39, "bits_per_byte": 0.9}}))  # fmt: skip
    export = folder / "export" / "tickets" / str(version)
    (export / "variables").mkdir(parents=True, exist_ok=True)
    (export / "assets.extra").mkdir(exist_ok=True)
    (export / "saved_model.pb").write_bytes(b"\x08\x01" + bytes(range(256)))
    (export / "variables" / "variables.data-00000-of-00001").write_bytes(np.random.default_rng(seed).bytes(500))
    (export / "variables" / "variables.index").write_bytes(b"\x00index")
    write_manifest(export)
    return export
