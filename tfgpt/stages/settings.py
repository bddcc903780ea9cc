"""What the result of each stage depends on: it is done again where this has changed."""
from __future__ import annotations

import dataclasses
from pathlib import Path

from tfgpt.data.sources import inputs_sha256
from tfgpt.data.unlabelled import unlabelled_data
from tfgpt.evaluation.general import general_data
from tfgpt.files import sha256_of_file
from tfgpt.recipe import DataConfig, PretrainConfig, Recipe
from tfgpt.stages.plan import measures_loss_of_knowledge, pretrain_config
from tfgpt.stages.records import has_records

PACKING_KEYS = ("length", "stride", "source_length", "bpe_dropout", "tokenizations", "service", "long_pairs")
"""Keys of data that change nothing in the text that a tokenizer is trained on."""


def of_records(recipe: Recipe) -> tuple:
    """Return what a task's records depend on: the corpus, how it is read and split, and the task."""
    source = {key: value for key, value in dataclasses.asdict(recipe.data).items() if key not in PACKING_KEYS and key != "clean"}
    return inputs_sha256(recipe.data), source, recipe.task


def of_tokenizer(recipe: Recipe) -> tuple:
    """Return what a tokenizer depends on: the corpus and its split, and where the tokenizer comes from."""
    source = {key: value for key, value in dataclasses.asdict(recipe.data).items() if key not in PACKING_KEYS}
    source["path"] = "" if has_records(recipe) else source["path"]                       # then it is in the run's folder, which may be moved
    return inputs_sha256(recipe.data), source, recipe.tokenizer, _files_of(recipe.tokenizer.init)


def of_data(recipe: Recipe) -> DataConfig:
    """Return what the packed data depends on, beside its text and tokenizer."""
    return dataclasses.replace(recipe.data, service="", **({"path": "-"} if has_records(recipe) else {}))


def of_train(recipe: Recipe) -> tuple:
    """Return what the training depends on; on which devices it goes on is free."""
    return dataclasses.replace(recipe.train, strategy="auto"), recipe.seed


def of_model(recipe: Recipe) -> tuple:
    """Return what the model at the start depends on."""
    adapt, tokenizer = recipe.adapt, recipe.adapt.embeddings
    return recipe.model, recipe.seed, _files_of(recipe.model.init), adapt.context, adapt.positions, adapt.dropout, tokenizer.vocabulary, tokenizer.new_rows


def of_pretrain(recipe: Recipe) -> tuple:
    """Return what the training on text without labels depends on."""
    own = recipe.adapt.pretrain
    corpus = inputs_sha256(unlabelled_data(recipe.data, own)) if own.path or own.sources else ""
    return own, dataclasses.replace(pretrain_config(recipe), strategy="auto"), recipe.seed, corpus


def of_adapt(recipe: Recipe) -> tuple:
    """Return what the changes of the model depend on."""
    vectors = Path(recipe.adapt.embeddings.vectors)
    return dataclasses.replace(recipe.adapt, pretrain=PretrainConfig()), recipe.seed, sha256_of_file(vectors) if vectors.is_file() else ""


def of_evaluate(recipe: Recipe) -> tuple:
    """Return what the figures depend on, beside the model and the data."""
    return recipe.evaluate, recipe.task, inputs_sha256(general_data(recipe)) if measures_loss_of_knowledge(recipe) else ""


def _files_of(init: str) -> list[str]:
    """Return a hash of every file of a folder that a recipe starts from; nothing for random, train or a hub id."""
    if init in ("random", "train"):
        return []
    return [sha256_of_file(path) for path in sorted(Path(init).glob("*")) if path.is_file()]
