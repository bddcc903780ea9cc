"""The stages that train: on text without labels, and on the task."""
from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

from tfgpt.data.labels import read_labels
from tfgpt.data.pipeline import evaluation_batches, training_batches
from tfgpt.data.prepare import read_stats
from tfgpt.data.shards import ShardedData
from tfgpt.data.unlabelled import prepare_unlabelled, unlabelled_data
from tfgpt.files import whole_folder
from tfgpt.generation.text_model import TextModel
from tfgpt.models.adapt import choose_trained, finished
from tfgpt.models.heads import for_head
from tfgpt.models.lora import save_lora
from tfgpt.models.regularization import new_weights
from tfgpt.progress import console, progress_bar
from tfgpt.recipe import DataConfig, Recipe, TrainConfig
from tfgpt.stages.calibration import calibrated
from tfgpt.stages.model import load_made, save_whole
from tfgpt.stages.plan import has_head, is_language_model, pretrain_config, start_of, training_estimate
from tfgpt.text.bpe import load_tokenizer
from tfgpt.training.control import BarCallback
from tfgpt.training.curves import RunFigures
from tfgpt.training.devices import Devices
from tfgpt.training.estimate import peak_flops
from tfgpt.training.fit import train
from tfgpt.training.tensorboard import PROJECTED_TOKENS, write_projector
from tfgpt.training.views import draw_views


@dataclass(frozen=True)
class _Training:
    """One of a run's trainings."""

    stage: str
    config: TrainConfig
    data: DataConfig
    """What its shards were made by."""
    shards: str
    """This and the two below are folders in the run's."""
    checkpoints: str
    logs: str


def pretrain_model(recipe: Recipe, folder: Path, devices: Devices) -> None:
    """Train checkpoints/start as a language model on text without labels, made to data-pretrain/; write checkpoints/pretrained and logs/pretrain.

    It goes on from where an interrupted one stands; workers take part as in `train_model`.
    """
    own = recipe.adapt.pretrain
    if devices.is_chief and not (folder / "data-pretrain").exists():  # where it was interrupted it goes on with what is there
        with progress_bar("pretrain: tokenizing and packing", unit="documents") as advance:
            stats = prepare_unlabelled(recipe.data, own, load_tokenizer(folder / "tokenizer"), folder / "data-pretrain", advance)
        console.print(f"pretrain: {stats['splits']['train']['tokens']:,} tokens of {stats['splits']['train']['documents']:,} documents without labels")
    training = _Training("pretrain", pretrain_config(recipe), unlabelled_data(recipe.data, own), "data-pretrain", "checkpoints/pretrain-steps", "logs/pretrain")
    model = _trained(recipe, folder, devices, training)
    if devices.is_chief:
        save_whole(model, folder / "checkpoints" / "pretrained")


def train_model(recipe: Recipe, folder: Path, devices: Devices) -> None:
    """Train the model that `start_of` names, or from where an interrupted training stands; write model/ and logs/.

    Every worker of a cluster does so with the same folder; the chief, which the others wait for, alone writes and shows.
    """
    model = _trained(recipe, folder, devices, _Training("train", recipe.train, recipe.data, "data", "checkpoints/steps", "logs"))
    if not devices.is_chief:
        return
    tokenizer = load_tokenizer(folder / "tokenizer")
    tokens = [tokenizer.decode([number]) for number in range(min(len(tokenizer), PROJECTED_TOKENS))]
    write_projector(folder / "logs" / "embeddings", model.transformer.wte.embeddings, tokens)
    if model.low_ranks:
        with whole_folder(folder / "adapter") as partial:
            save_lora(model, partial)
    save_whole(calibrated(finished(model, recipe.adapt), recipe, folder), folder / "model")


def _trained(recipe, folder, devices, training):
    """Return the trained model; the chief shows how it goes."""
    if devices.is_chief:
        devices.call(training.stage)
    data, settings, stage = ShardedData(folder / training.shards), training.config, training.stage
    data.check()
    with devices.strategy.scope():
        model = load_made(folder, start_of(stage, recipe))
    judges = stage == "train" and has_head(recipe)
    if stage == "train":
        choose_trained(model, recipe.adapt)
    if judges:
        model.name_labels(read_labels(folder / training.shards))
    model.seed_dropout(recipe.seed)
    weights = [source.weight for source in training.data.sources if source.weight is not None]

    def as_trained(batches):
        return batches.map(for_head) if judges else batches

    def batches(first_step, **worker):
        return as_trained(training_batches(data, settings.global_batch_size, recipe.seed, first_step, weights, service=recipe.data.service, **worker))

    validation = as_trained(evaluation_batches(data, "validation", recipe.evaluate.batch_size))
    new = new_weights(recipe.adapt, model.config.n_layer - len(recipe.adapt.insert_blocks)) if stage == "train" else ()
    fit = functools.partial(train, model, settings, batches, validation, folder / training.checkpoints, folder / training.logs, devices=devices, new=new)
    if not devices.is_chief:
        console.print(f"{stage}: worker {devices.worker} of {devices.workers}; what is to be seen, the chief shows")
        fit()
        return model
    with progress_bar(stage, total=settings.steps, unit="steps") as advance:
        fit(callbacks=[BarCallback(advance, console.print, stage)], **_shown(recipe, folder, model, devices, training))
    return model


def _shown(recipe, folder, model, devices, training) -> dict:
    """Return what a training shows beside its losses, by the names of `train`."""
    settings, stats, written = training.config, read_stats(folder / training.shards)["splits"], {}
    tokenizer = load_tokenizer(folder / "tokenizer")
    text_model = TextModel(model, tokenizer)
    needed = training_estimate(dataclasses.replace(recipe, train=settings), model.config.vocab_size, devices.replicas)
    on = f" on {devices.replicas} devices" if devices.replicas > 1 else ""
    each = " on each" if devices.replicas > 1 else ""
    console.print(f"{training.stage}: {needed.tokens_per_step:,} tokens a step{on}, {needed.flops_per_token * needed.tokens_per_step / 1e9:,.2f} billion "
                  f"floating-point operations, about {needed.memory_bytes / 1e6:,.0f} MB of tensors{each}")

    def sample():
        answers = text_model.generate(list(settings.sample_prompts), settings.sample_tokens, temperature=0.8, seed=recipe.seed)
        written.update({prompt: answer.text for prompt, answer in zip(settings.sample_prompts, answers)})
        return list(written.items())

    def draw():
        prompt, text = next(iter(written.items()))
        return draw_views(model, tokenizer, prompt + text)

    # The bytes of what a head judges are no text that is written.
    judges = training.stage == "train" and has_head(recipe)
    bytes_per_token = {} if judges else {
        split: stats[split]["bytes"] * _tokenizations(recipe, split) / stats[split]["tokens"] for split in ("train", "validation")
    }
    writes = settings.sample_prompts and not (judges and not is_language_model(recipe))
    return {
        "sample": sample if writes else None,
        "draw": draw if writes and model.encoder is None else None,  # a text without its source would show a decoder that sees nothing
        "figures": RunFigures(bytes_per_token, needed.flops_per_token, peak_flops(settings.precision) * devices.replicas),
        "hparams": _hparams(recipe) if training.stage == "train" else None,
    }


def _tokenizations(recipe, split):
    """Return how often a split's text is stored; its bytes are counted once."""
    return recipe.data.tokenizations if split == "train" else 1


def _hparams(recipe) -> dict:
    """Return the numbers and names by which trainings are compared."""
    shape, train = recipe.model.shape, recipe.train
    chosen = {key: getattr(train, key) for key in ("steps", "global_batch_size", "precision", "optimizer", "beta_2", "weight_decay", "label_smoothing", "ema")}
    return chosen | {"peak": train.schedule.peak, "schedule": train.schedule.kind, "warmup_steps": train.schedule.warmup_steps, "layers": shape.layers,
                     "width": shape.width, "heads": shape.heads, "dropout": recipe.model.dropout, "init": recipe.model.init,
                     "length": recipe.data.length, "seed": recipe.seed}
