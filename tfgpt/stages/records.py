"""The stage that turns a user's records into those of a task, each with its split; all later stages read these."""
from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from tfgpt.data.examples import Fields, UnusableError
from tfgpt.data.intake import Intake
from tfgpt.data.sources import input_files
from tfgpt.data.split import split_of
from tfgpt.files import whole_folder, write_json
from tfgpt.progress import console, progress_bar
from tfgpt.recipe import ColumnsConfig, DataConfig, Recipe, RecipeError
from tfgpt.recipe_checks import check
from tfgpt.stages.plan import encoder_of
from tfgpt.tasks.task import long_text_of, task_of

RECORDS = "records/records.jsonl"
LONG_PAIRS = {("pairs", "cut"): "cut", ("pairs", "window"): "window", ("pairs", "refuse"): "refuse", ("chat", "refuse"): "refuse",
              ("translation", "refuse"): "refuse"}
"""What data.long_pairs may be, by the examples of a task; else pieces."""


def has_records(recipe: Recipe) -> bool:
    """Tell whether a recipe is of a task."""
    return recipe.task.kind != "none"


def with_records(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with its task's records as the corpus, in a run's folder; without a task as it is."""
    if not has_records(recipe):
        return recipe
    task = task_of(recipe.task)
    data, default = recipe.data, DataConfig(path="-")
    for key in ("examples", "columns", "long_pairs"):
        check(getattr(data, key) == getattr(default, key), f"data.{key}: {getattr(data, key)}, and what an example is follows from task.kind "
              f"({recipe.task.kind}); leave it out" + (", and name columns in task.columns" if key == "columns" else ""))
    check(data.split != "tail", f"data.split: tail cuts a running text, and {recipe.task.kind} (task.kind) has records; set it to auto or hash")
    examples, columns = task.examples, task.record_columns
    if (encoder := encoder_of(recipe).kind) != "none":
        check(task.encoder_columns is not None, f"adapt.encoder.kind: {encoder} (or model.init has one), and {recipe.task.kind} (task.kind) has no sources; "
              "set it to none, or take another model")
        examples, columns = "translation", task.encoder_columns
    long_text = long_text_of(recipe.task, task)
    return dataclasses.replace(recipe, data=dataclasses.replace(
        data, path=str(folder / RECORDS), sources=(), kind="jsonl", encoding="utf-8", column_names=(), split="hash", examples=examples,
        columns=ColumnsConfig(split="split", **columns), long_pairs=LONG_PAIRS.get((examples, task.long_pairs.get(long_text, long_text)), "pieces"),
    ))  # fmt: skip


def make_records(recipe: Recipe, folder: Path) -> None:
    """Write records/: the task's records of all that the recipe names, and stats.json, what became of each."""
    intake = Intake(recipe.data)
    counts = dict.fromkeys(recipe.data.splits(), 0)
    with whole_folder(folder / "records") as partial, progress_bar("records: of the task", unit="records") as advance:
        with open(partial / Path(RECORDS).name, "w", encoding="utf-8") as file:
            for record in task_records(recipe, intake):
                counts[record["split"]] += 1
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                advance()
        account = intake.account
        write_json(partial / "stats.json", {
            "task": recipe.task.kind, "read": account.documents_read, "empty": account.empty, "refused": dict(account.refused),
            "refused_places": account.refused_places, "records": counts,
        })  # fmt: skip
        for split, count in counts.items():
            if not count:
                raise RecipeError(f"data.path: {recipe.data.path or 'data.sources'} gives no record for {split} ({account.documents_read:,} read, "
                                  f"{account.empty:,} empty, {account.refused.total():,} refused); give more that are not all the same, or change data.{split}")
    console.print("records: " + ", ".join(f"{count:,} for {split}" for split, count in counts.items())
                  + (f"; {account.refused.total():,} records cannot be used, records/stats.json says why" if account.refused else ""))


def task_records(recipe: Recipe, intake: Intake) -> Iterator[dict]:
    """Yield the task's records of a recipe's corpus, each with `split` and `place`.

    Args:
        recipe: as it was given, not `with_records`.
        intake: keeps the account.

    Raises:
        RecipeError: a record that cannot be used, where data.bad_records is refuse.
    """
    task = task_of(recipe.task)
    names = {use: recipe.task.columns.get(use, use) for use in task.columns}
    split = "train"
    for file in input_files(recipe.data):
        columns = SimpleNamespace(**vars(file.source.columns) | names)
        if file.kind == "text":
            columns.text = names.get("text", columns.text)
        source = dataclasses.replace(file.source, columns=columns)
        for record in dataclasses.replace(file, source=source).read(intake):
            try:
                made = list(task.records(Fields(record, columns, intake, "task.columns"), recipe.task))
            except UnusableError as error:
                intake.refuse(error.reason, record.place, str(error), error.remedy)
                continue
            intake.account.documents_read += not record.continues
            intake.account.empty += not made and not record.continues
            whole = json.dumps(dict(record.fields), sort_keys=True, default=str)
            for one in made:
                if not record.continues:  # the sections of one long text are of one split
                    split = split_of(one.get("group") or whole, recipe.data.validation, recipe.data.test)
                yield one | {"split": split, "place": record.place}


def read_records(folder: Path, split: str, most: int = 0) -> list[dict]:
    """Return the records of a split.

    Args:
        folder: of the run.
        split: its name.
        most: how many, evenly from beginning to end; 0 = all.
    """
    with open(folder / RECORDS, encoding="utf-8") as file:
        records = [record for record in map(json.loads, file) if record["split"] == split]
    return records if not 0 < most < len(records) else [records[place * len(records) // most] for place in range(most)]
