"""The stage that turns a user's records into those of a task, each with its split; all later stages read these."""
from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from tfgpt.data.examples import Fields, UnusableError
from tfgpt.data.intake import PLACES_KEPT, Intake
from tfgpt.data.sources import input_files, passed_over
from tfgpt.data.split import split_of
from tfgpt.files import whole_folder, write_json
from tfgpt.progress import console, progress_bar
from tfgpt.recipe import ColumnsConfig, DataConfig, Recipe, RecipeError
from tfgpt.recipe_checks import check
from tfgpt.stages.plan import encoder_of
from tfgpt.tasks.task import Task, examples_of, long_text_of, task_of

RECORDS = "records/records.jsonl"
LONG_PAIRS = {("pairs", "cut"): "cut", ("pairs", "window"): "window", ("pairs", "refuse"): "refuse", ("chat", "refuse"): "refuse",
              ("translation", "refuse"): "refuse"}
"""What data.long_pairs may be, by the examples of a task; else pieces."""
CALIBRATION = "records/calibration.jsonl"
"""What is kept of the training part for calibration: it is neither trained nor measured on."""
LEARNED = "records/learned.json"


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
    examples, columns = examples_of(recipe.task, task), task.record_columns
    if (encoder := encoder_of(recipe).kind) != "none":
        check(task.encoder_columns is not None, f"adapt.encoder.kind: {encoder} (or model.init has one), and {recipe.task.kind} (task.kind) has no sources; "
              "set it to none, or take another model")
        examples, columns = "translation", task.encoder_columns
    long_text = long_text_of(recipe.task, task)
    long_pairs = LONG_PAIRS.get((examples, task.long_pairs.get(long_text, long_text)), "pieces")
    return dataclasses.replace(recipe, data=dataclasses.replace(
        data, path=str(folder / RECORDS), sources=(), kind="jsonl", encoding="utf-8", column_names=(), split="hash", examples=examples,
        columns=ColumnsConfig(split="split", place="place", **columns), long_pairs=long_pairs,
    ))  # fmt: skip


def make_records(recipe: Recipe, folder: Path) -> None:
    """Write records/: the task's records of all that the recipe names, and stats.json, what became of each."""
    intake, task = Intake(recipe.data), task_of(recipe.task)
    splits = (*recipe.data.splits(), *(["calibration"] if task.calibration(recipe.task) else []))
    counts, shown, others = dict.fromkeys(splits, 0), set(), {}
    with whole_folder(folder / "records") as partial, progress_bar("records: of the task", unit="records") as advance:
        names = {split: Path(CALIBRATION if split == "calibration" else RECORDS).name for split in splits}
        with contextlib.ExitStack() as stack:
            files = {name: stack.enter_context(open(partial / name, "w", encoding="utf-8")) for name in set(names.values())}
            for record in task_records(recipe, intake):
                counts[record["split"]] += 1
                if record["split"] == "train":
                    shown.update(task.labels(record))
                else:
                    others.update({label: record["place"] for label in task.labels(record) if label not in others})
                files[names[record["split"]]].write(json.dumps(record, ensure_ascii=False) + "\n")
                advance()
        if unseen := {label: place for label, place in others.items() if label not in shown}:
            _without_unseen([partial / name for name in files], task, unseen, intake, counts)
        if task.completed:
            _complete(partial, names, task, recipe, counts, advance)
        if task.learned:
            write_json(partial / Path(LEARNED).name, task.learned(_of_split(partial / Path(RECORDS).name, "train")))
        account, others_there = intake.account, passed_over(recipe.data)
        write_json(partial / "stats.json", {
            "task": recipe.task.kind, "read": account.documents_read, "empty": account.empty, "refused": dict(account.refused),
            "refused_places": account.refused_places, "parts_left_out": dict(account.parts_left_out),
            "files_with_invalid_utf8": account.files_with_invalid_utf8, "invalid_files": account.invalid_files,
            "replaced_characters": account.replaced_characters, "files_passed_over": len(others_there), "passed_over": others_there[:PLACES_KEPT],
            "records": counts,
        })  # fmt: skip
        for split, count in counts.items():
            if not count and split != "calibration":
                share = f", or change data.{split}" if split in ("validation", "test") else ""
                raise RecipeError(f"data.path: {recipe.data.path or 'data.sources'} gives no record for {split} ({account.documents_read:,} read, "
                                  f"{account.empty:,} empty, {account.refused.total():,} refused); give more that are not all the same{share}")
    console.print("records: " + ", ".join(f"{count:,} for {split}" for split, count in counts.items())
                  + (f"; {account.refused.total():,} records cannot be used, records/stats.json says why" if account.refused else ""))
    for what, count in account.parts_left_out.items():
        console.print(f"records: {count:,} {what} left out")
    _tell_of_files(account.replaced_characters, account.invalid_files, others_there)


def _tell_of_files(replaced, invalid, passed_over):
    if replaced:
        console.print(f"records: {replaced:,} bytes that are no text in their file's encoding were replaced, the first in {invalid[0]}; set "
                      "data.encoding to what it is, or data.invalid_utf8 to refuse")
    if passed_over:
        console.print(f"records: {len(passed_over):,} files with other endings are passed over, such as {passed_over[0]}")


def read_learned(folder: Path, task: Task) -> dict[str, object]:
    """Return, by the name `learned`, what a task keeps for its answers in the folder of a run; nothing if it keeps nothing."""
    return {"learned": json.loads((folder / LEARNED).read_text("utf-8"))} if task.learned else {}


def _complete(folder, names, task: Task, recipe: Recipe, counts, advance):
    """Give the records that are held out what the task says of these alone."""
    records = [json.loads(line) for name in dict.fromkeys(names.values()) for line in (folder / name).read_text("utf-8").splitlines()]
    trained = [record for record in records if record["split"] == "train"]
    records = trained + task.completed([record for record in records if record["split"] != "train"], recipe.task, advance)
    counts.update(dict.fromkeys(counts, 0) | Counter(record["split"] for record in records))
    for name in set(names.values()):
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records if names[record["split"]] == name)
        (folder / name).write_text("".join(lines), "utf-8")


def _of_split(path, split):
    with open(path, encoding="utf-8") as file:
        return [record for record in map(json.loads, file) if record["split"] == split]


def _without_unseen(paths, task: Task, unseen: dict[str, str], intake, counts):
    """Leave out of the files, and of the counts, what has a label that no training record has; or refuse it, as data.bad_records says."""
    for path in paths:
        records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        kept = []
        for record in records:
            if never := sorted(unseen.keys() & set(task.labels(record))):
                counts[record["split"]] -= 1
                intake.refuse("label never seen in training", record["place"], f"no record for training has the label {never[0]!r}",
                              "give more records of it, or correct it")
                intake.account.documents_read -= 1                                        # it was counted when it was read
            else:
                kept.append(record)
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept), "utf-8")


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
    split, share, found = "train", task.calibration(recipe.task), set()
    for file in input_files(recipe.data):
        columns = SimpleNamespace(**vars(file.source.columns) | names)
        if file.kind == "text":
            columns.text = names.get("text", columns.text)
        source = dataclasses.replace(file.source, columns=columns)
        for record in dataclasses.replace(file, source=source).read(intake):
            found.update(record.fields)
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
                    if split == "train" and split_of(f"calibration {one.get('group') or whole}", share) == "validation":
                        split = "calibration"
                yield one | {"split": split, "place": record.place}
    for use, name in recipe.task.columns.items():
        check(name in found or not found, f"task.columns.{use}: no record has a column {name!r} (columns: {', '.join(sorted(found))}); set it to one of them")


def read_records(folder: Path, split: str, most: int = 0) -> list[dict]:
    """Return the records of a split.

    Args:
        folder: of the run.
        split: its name.
        most: how many, evenly from beginning to end; 0 = all.
    """
    records = _of_split(folder / (CALIBRATION if split == "calibration" else RECORDS), split)
    return records if not 0 < most < len(records) else [records[place * len(records) // most] for place in range(most)]
