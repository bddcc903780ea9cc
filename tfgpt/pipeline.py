"""Run a recipe's stages in order: records (of a task), tokenizer, data, model, pretrain, adapt, train, evaluate, export, publish.

A stage is done again when its settings, its inputs or a stage before it have changed; a stage that was interrupted goes on where it can.
What each stage ran with stands in `stages.json` of the run's folder.
"""
from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tfgpt.data.prepare import prepare
from tfgpt.files import remove_partial, sha256_of_parts, write_json, write_text
from tfgpt.progress import console
from tfgpt.recipe import Recipe, RecipeError
from tfgpt.recipe_file import resolved_yaml
from tfgpt.stages import settings
from tfgpt.stages.checks import check_before_work
from tfgpt.stages.evaluation import evaluate_model, evaluation_outputs
from tfgpt.stages.export import export_model, export_outputs
from tfgpt.stages.model import adapt_model, make_model
from tfgpt.stages.plan import is_adapted, is_pretrained
from tfgpt.stages.publish import PUBLISHED, check_publish, is_published, pinned, publish_model, with_folders
from tfgpt.stages.records import has_records, make_records, with_records
from tfgpt.stages.text import make_data, make_tokenizer
from tfgpt.stages.training import pretrain_model, train_model
from tfgpt.training.devices import SHARED_STAGES, Devices


@dataclass(frozen=True)
class Stage:
    """A step of a run."""

    name: str
    run: Callable[[Recipe, Path], None]
    settings: Callable[[Recipe], object]
    """The part of the recipe that its result depends on, beside the stages before it."""
    outputs: Callable[[Recipe], list[str]]
    """What it writes, relative to the run's folder; the old stays until the new is whole."""
    grows: tuple[str, ...] = ()
    """What of it an interrupted stage goes on from; removed before the stage is run with other settings."""
    wanted: Callable[[Recipe], bool] = lambda recipe: True
    """Whether the recipe has such a stage."""


LOGS = ("logs/train", "logs/validation", "logs/embeddings", "logs/curves.csv", "logs/curves.png")
"""Of the training."""

STAGES = (
    Stage("records", make_records, settings.of_records, lambda recipe: ["records"], wanted=has_records),
    Stage("tokenizer", make_tokenizer, settings.of_tokenizer, lambda recipe: ["tokenizer"]),
    Stage("data", make_data, settings.of_data, lambda recipe: ["data"]),
    Stage("model", make_model, settings.of_model, lambda recipe: ["checkpoints/start"]),
    Stage("pretrain", pretrain_model, settings.of_pretrain, lambda recipe: ["checkpoints/pretrained", "data-pretrain", "logs/pretrain"],
          grows=("checkpoints/pretrained", "checkpoints/pretrain-steps", "data-pretrain", "logs/pretrain"), wanted=is_pretrained),
    Stage("adapt", adapt_model, settings.of_adapt, lambda recipe: ["checkpoints/initial"], wanted=is_adapted),
    Stage("train", train_model, settings.of_train, lambda recipe: ["model", "checkpoints/steps", "logs/train"],
          grows=("model", "adapter", "checkpoints/steps", *LOGS)),
    Stage("evaluate", evaluate_model, settings.of_evaluate, evaluation_outputs),
    Stage("export", export_model, lambda recipe: (recipe.export, recipe.name), export_outputs),
    Stage("publish", publish_model, lambda recipe: recipe.publish, lambda recipe: [PUBLISHED], wanted=is_published),
)


def run(recipe: Recipe, folder: Path, until: str = "publish", prepare_data: Callable[..., dict] = prepare) -> bool:
    """Bring a run's folder up to date with its recipe.

    Where several workers train together, each calls this with the same folder: the chief does all stages, the others wait and train along.

    Args:
        recipe: of the run.
        folder: of the run.
        until: the last stage to bring up to date.
        prepare_data: does the work of the data stage; called as `tfgpt.prepare` is.

    Returns:
        Whether this process is the chief, by which the folder is now up to date.

    Raises:
        RecipeError: a setting or the data cannot be used.
        RuntimeError: a worker is gone.
    """
    told = pinned(recipe)
    recipe = with_folders(told)
    if until == "publish":
        check_publish(recipe)
    check_before_work(recipe, training=until != "data", folder=folder)
    if until == "data":
        _bring_folder_up_to_date(recipe, told, folder, until, {"data": {"prepare": prepare_data}})
        return True
    devices = Devices(recipe.train.strategy, recipe.train.lanes)
    devices.check_batch(recipe.train)
    with devices.lost_workers_told():
        if devices.is_chief:
            shared = {stage: {"devices": devices} for stage in SHARED_STAGES}
            _bring_folder_up_to_date(recipe, told, folder, until, {"data": {"prepare": prepare_data}} | shared)
            devices.dismiss()
        else:
            while stage := devices.wait_for_call():
                {one.name: one for one in STAGES}[stage].run(with_records(recipe, folder), folder, devices)
    return devices.is_chief


def _bring_folder_up_to_date(recipe, told, folder, until, further):
    """Bring the folder up to date with a recipe, which is `told` with published models by their names."""
    _make_writable(folder)
    for place in (folder, *(folder / part for part in ("checkpoints", "checkpoints/steps", "checkpoints/pretrain-steps", f"export/{recipe.name}"))):
        remove_partial(place)
    with _as_it_was_if_refused(folder):
        fingerprint = _run_stages(recipe, folder, STAGES[:1], "", until, further)
        fingerprint = _run_stages(with_records(recipe, folder), folder, STAGES[1:3], fingerprint, until, further)
        write_text(folder / "recipe.yaml", resolved_yaml(told))  # what can be wrong with the corpus is known now: the recipe stands
    if until != "data":
        _run_stages(with_records(recipe, folder), folder, STAGES[3:], fingerprint, until, further)


def _run_stages(recipe, folder, some, fingerprint, until, further) -> str:
    """Bring some of the stages up to date, by `further` arguments of some, and return the fingerprint of the last one."""
    for stage in some:
        if not stage.wanted(recipe):
            continue
        fingerprint = _fingerprint(fingerprint, stage.settings(recipe))
        stage = dataclasses.replace(stage, run=functools.partial(stage.run, **further.get(stage.name, {})))
        names = [one.name for one in STAGES]
        _bring_up_to_date(stage, fingerprint, recipe, folder, later=names[names.index(stage.name) + 1 :])
        if stage.name == until:
            break
    return fingerprint


@contextlib.contextmanager
def _as_it_was_if_refused(folder):
    """Put the records, tokenizer and states of a run back if the block refuses the recipe: its other stages are then untouched, and still right."""
    states, kept = folder / "stages.json", folder / ".partial-kept"
    parts = ("records", "tokenizer")
    before = states.read_text("utf-8") if states.exists() else None
    for part in parts:
        if (folder / part).exists():
            shutil.copytree(folder / part, kept / part)
    try:
        yield
    except RecipeError:
        for part in parts:
            shutil.rmtree(folder / part, ignore_errors=True)
            if (kept / part).exists():
                (kept / part).rename(folder / part)
        states.unlink(missing_ok=True) if before is None else write_text(states, before)
        raise
    finally:
        shutil.rmtree(kept, ignore_errors=True)


def _bring_up_to_date(stage, fingerprint, recipe, folder, later):
    path = folder / "stages.json"
    states = _read_states(path)
    state = states.get(stage.name, {})
    same = state.get("fingerprint") == fingerprint
    outputs = [folder / output for output in stage.outputs(recipe)]
    if same and state["done"] and all(output.exists() for output in outputs):
        console.print(f"{stage.name}: up to date")
        return
    if not same or state["done"]:  # else it was interrupted, and what it wrote so far is what it goes on from
        for output in (folder / output for output in stage.grows):
            shutil.rmtree(output) if output.is_dir() else output.unlink(missing_ok=True)
    states = {name: state for name, state in states.items() if name not in later}
    write_json(path, states | {stage.name: {"fingerprint": fingerprint, "done": False}})
    start = time.monotonic()
    stage.run(recipe, folder)
    done = {"fingerprint": fingerprint, "done": True, "seconds": round(time.monotonic() - start, 1)}
    write_json(path, states | {stage.name: done})


def _make_writable(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / ".partial-probe", "")
        (folder / ".partial-probe").unlink()
    except OSError as error:
        raise RecipeError(f"--output: {folder} cannot be written ({error.strerror}); give another folder") from error


def _read_states(path):
    try:
        return json.loads(path.read_text("utf-8")) if path.exists() else {}
    except ValueError as error:
        raise RecipeError(f"{path}: not JSON, as this file of a run must be ({error}); remove it, and every stage is done again") from error


def _fingerprint(before: str, settings) -> str:
    parts = settings if isinstance(settings, tuple) else (settings,)
    plain = [dataclasses.asdict(part) if dataclasses.is_dataclass(part) else part for part in parts]
    return sha256_of_parts([before.encode(), json.dumps(plain, sort_keys=True).encode()])
