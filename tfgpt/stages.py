"""What each stage of a run does; `pipeline` decides which of them are run."""
from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from tfgpt.data import shards
from tfgpt.data.encode import SplitCounts, packed_sequences, token_lists
from tfgpt.data.sources import ReadCounts, find_files, inputs_sha256, split_documents
from tfgpt.evaluation.evaluate import figures, summed_loss
from tfgpt.evaluation.ngram import NgramModel
from tfgpt.evaluation.report import write_report
from tfgpt.files import sha256_of_file, whole_folder, write_json
from tfgpt.generation.text_model import TextModel
from tfgpt.models import build
from tfgpt.progress import console, progress_bar
from tfgpt.recipe import BUILT_IN_CORPORA, Recipe, RecipeError
from tfgpt.recipe_file import VERSIONS_OF
from tfgpt.serving.export import export
from tfgpt.text.bpe import load_tokenizer, train_tokenizer, with_bpe_dropout
from tfgpt.training.callbacks import BarCallback
from tfgpt.training.fit import train


def check_before_work(recipe: Recipe) -> None:
    """Refuse what can be known to fail before anything is written.

    Raises:
        RecipeError: a corpus, tokenizer or starting model that is not there, or one that does not fit the rest.
    """
    if recipe.data.path not in BUILT_IN_CORPORA:
        find_files(recipe.data.path)
    vocab = None if recipe.tokenizer.init == "train" else len(_load_tokenizer(recipe.tokenizer.init))
    if recipe.model.init != "random":
        build.check_start(recipe.model.init, recipe.data.length, recipe.tokenizer.vocab if vocab is None else vocab)


def tokenizer_settings(recipe: Recipe) -> tuple:
    """Return what a tokenizer depends on: the corpus and its split, and where the tokenizer comes from."""
    source = {key: getattr(recipe.data, key) for key in ("path", "documents", "invalid_utf8", "validation", "split")}
    loaded = [] if recipe.tokenizer.init == "train" else [
        sha256_of_file(path) for path in sorted(Path(recipe.tokenizer.init).glob("*.json"))
    ]
    return inputs_sha256(recipe.data), source, recipe.tokenizer, loaded


def make_tokenizer(recipe: Recipe, folder: Path) -> None:
    """Train the tokenizer on the training part, or copy the one that the recipe names; write tokenizer/."""
    if recipe.tokenizer.init == "train":
        with progress_bar("tokenizer: reading documents") as advance:
            tokenizer = train_tokenizer(_counted(_texts(recipe, "train"), advance), recipe.tokenizer.vocab)
    else:
        tokenizer = _load_tokenizer(recipe.tokenizer.init)
    with whole_folder(folder / "tokenizer") as partial:
        tokenizer.save_pretrained(partial)
    console.print(f"tokenizer: {len(tokenizer)} tokens")


def make_data(recipe: Recipe, folder: Path) -> None:
    """Tokenize, pack and write the shards and stats.json of data/."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    length = recipe.data.length
    counts, splits = ReadCounts(), {"train": SplitCounts(), "validation": SplitCounts()}
    with whole_folder(folder / "data") as partial:
        for split, of_split in splits.items():
            # Validation windows overlap by half, so that each token is scored with a history, as in a running text.
            training = split == "train"
            stride = length if training else max(length // 2, 1)
            with progress_bar(f"data: packing the {split} part", unit="documents") as advance:
                texts = _counted(_training_texts(recipe, counts) if training else _texts(recipe, split), advance)
                encoder = with_bpe_dropout(tokenizer, recipe.data.bpe_dropout) if training else tokenizer
                shards.write_shards(packed_sequences(texts, encoder, length, stride, of_split), partial, split)
        if (tokens := splits["train"].tokens // recipe.data.tokenizations) < length:
            raise RecipeError(f"data.path: {recipe.data.path} gives {tokens} tokens to train on, less than one sequence of "
                              f"data.length ({length}); give more text, or set data.length to {tokens} or less")
        stats = {"inputs_sha256": inputs_sha256(recipe.data)} | dataclasses.asdict(counts)
        stats |= {"length": length, "vocab": len(tokenizer), "tokenizations_of_train": recipe.data.tokenizations}
        write_json(partial / "stats.json", stats | {"splits": {split: dataclasses.asdict(of_split) for split, of_split in splits.items()}})
    for split, of_split in splits.items():
        console.print(f"data: {split} has {of_split.tokens:,} tokens of {of_split.documents:,} documents "
                      f"in {of_split.sequences:,} sequences, {of_split.fill_rate:.1%} full")


def make_model(recipe: Recipe, folder: Path) -> None:
    """Write the model that training starts from to checkpoints/initial."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    if recipe.model.init == "random":
        model = build.new_model(recipe.model, recipe.model.context or recipe.data.length, tokenizer, recipe.seed)
    else:
        build.check_start(recipe.model.init, recipe.data.length, len(tokenizer))
        model = build.load_model(recipe.model.init)
    with whole_folder(folder / "checkpoints" / "initial") as partial:
        model.save_pretrained(partial)
    config = model.config
    console.print(f"model: {model.count_params():,} weights in {config.n_layer} layers of width {config.n_embd}, "
                  f"vocabulary {config.vocab_size:,}, context {config.n_positions}")


def train_model(recipe: Recipe, folder: Path) -> None:
    """Train from checkpoints/initial, or from where an interrupted training stands; write model/ and logs/."""
    stats = _read_stats(folder)
    model = build.load_model(folder / "checkpoints" / "initial")
    model.seed_dropout(recipe.seed)
    text_model = TextModel(model, load_tokenizer(folder / "tokenizer"))
    settings, length = recipe.train, recipe.data.length

    def sample():
        written = text_model.generate(list(settings.sample_prompts), settings.sample_tokens, temperature=0.8, seed=recipe.seed)
        return [(prompt, continuation.text) for prompt, continuation in zip(settings.sample_prompts, written)]

    def batches(first_step):
        sequences = stats["splits"]["train"]["sequences"]
        return shards.training_batches(folder / "data", length, sequences, settings.global_batch_size, recipe.seed, first_step)

    with progress_bar("train", total=settings.steps, unit="steps") as advance:
        train(
            model,
            settings,
            batches,
            validation=shards.evaluation_batches(folder / "data", "validation", length, recipe.evaluate.batch_size),
            checkpoints=folder / "checkpoints" / "steps",
            logs=folder / "logs",
            sample=sample if settings.sample_prompts else None,
            callbacks=[BarCallback(advance, console.print)],
        )
    with whole_folder(folder / "model") as partial:
        model.save_pretrained(partial)


def evaluate_model(recipe: Recipe, folder: Path) -> None:
    """Measure the trained model on the validation part, beside an n-gram model; write evaluation.json and report.html."""
    start = time.monotonic()
    of_split = _read_stats(folder)["splits"]["validation"]
    model = build.load_model(folder / "model")
    batches = shards.evaluation_batches(folder / "data", "validation", recipe.data.length, recipe.evaluate.batch_size)
    with progress_bar("evaluate: model", total=-(-of_split["sequences"] // recipe.evaluate.batch_size), unit="batches") as advance:
        loss_sum, tokens, correct = summed_loss(model, batches, advance)
    evaluation = figures(loss_sum, tokens, of_split["bytes"]) | {
        "tokens": tokens,
        "split": "validation",
        "baseline": _baseline(recipe, folder, of_split["bytes"]),
        "metrics": {"accuracy": _share_with_interval(correct, tokens)},
        "seconds": round(time.monotonic() - start, 1),
        "versions": {name: metadata.version(name) for name in VERSIONS_OF},
    }
    write_report(folder, recipe, evaluation)
    write_json(folder / "evaluation.json", evaluation)


def export_model(recipe: Recipe, folder: Path) -> None:
    """Write export/NAME/VERSION."""
    with progress_bar("export: SavedModel"):
        text_model = TextModel(build.load_model(folder / "model"), load_tokenizer(folder / "tokenizer"))
        export(text_model, folder / "export" / recipe.name, recipe.export, assets=[folder / "recipe.yaml", folder / "evaluation.json"])


def export_outputs(recipe: Recipe) -> list[str]:
    """Return what `export_model` writes, relative to the run's folder."""
    return [f"export/{recipe.name}/{recipe.export.version}"]


def _texts(recipe: Recipe, split: str, counts: ReadCounts | None = None) -> Iterator[str]:
    return (document.text for of, document in split_documents(recipe.data, counts) if of == split)


def _training_texts(recipe: Recipe, counts: ReadCounts) -> Iterator[str]:
    yield from _texts(recipe, "train", counts)
    for _ in range(recipe.data.tokenizations - 1):
        yield from _texts(recipe, "train")


def _counted(texts: Iterable[str], advance) -> Iterator[str]:
    for text in texts:
        advance()
        yield text


def _baseline(recipe, folder, text_bytes):
    """Return the n-gram model's figures on the tokens that the GPT is measured on."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    order = recipe.evaluate.ngram_order
    with progress_bar(f"evaluate: {order}-gram baseline"):
        lists = {split: [ids for _, ids in token_lists(_texts(recipe, split), tokenizer)] for split in ("train", "validation")}
        ngram = NgramModel(lists["train"], order, len(tokenizer), tokenizer.eos_token_id)
        return {"name": f"{order}-gram, modified Kneser-Ney"} | figures(*ngram.summed_loss(lists["validation"]), text_bytes)


def _share_with_interval(hits: int, trials: int) -> dict:
    """Return a share with its 95 % Wilson score interval (Wilson 1927), which takes the tokens as independent."""
    z, share = 1.959964, hits / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * (share * (1 - share) / trials + z * z / (4 * trials * trials)) ** 0.5
    return {"value": share, "interval": [middle - half, middle + half]}


def _load_tokenizer(source):
    try:
        return load_tokenizer(source)
    except FileNotFoundError as error:
        raise RecipeError(f"tokenizer.init: {error}; give train, such a folder or a hub id") from error


def _read_stats(folder):
    return json.loads((folder / "data" / "stats.json").read_text("utf-8"))
