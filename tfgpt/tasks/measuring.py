"""A model and the plain baselines of its task on the same held-out records, with intervals and paired tests; and two runs of one task."""
from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from tfgpt.evaluation.metrics import compared, measured
from tfgpt.evaluation.shown import ends
from tfgpt.files import write_text
from tfgpt.generation.text_model import TextModel
from tfgpt.recipe import TaskConfig
from tfgpt.tasks.task import Task, task_of

ANSWERS = "answers.jsonl"


def measure_task(task: Task, config: TaskConfig, text_model: TextModel, train: Sequence[dict], held_out: Sequence[dict], answers: Sequence[dict],
                 seed: int) -> dict:
    """Return what is known of a model's answers.

    Args:
        task: of them.
        config: of the task.
        text_model: that answered.
        train: records that the baselines learn from.
        held_out: records that were answered.
        answers: of the model, one for each.
        seed: of the bootstrap.

    Returns:
        `kind`; `answered`, how many; `not_measured`, the names of metrics for which no record has anything to measure; `metrics`, the others by name, each
        with `value` and 95 % `interval`; `baselines`, of each by its name `metrics` and `compared`, the model's figure minus the baseline's with `difference`,
        `interval` and `p`; `best` and `worst`, records with their answers; where answers have confidences `reliability`, the rows of that diagram.
    """
    found = task.metrics(held_out, answers)
    metrics = {name: metric for name, metric in found.items() if not metric.is_empty}
    baselines = {}
    for name, of_baseline in task.baselines(text_model, train, held_out, config).items():
        theirs = task.metrics(held_out, of_baseline)
        shared = [metric for metric in theirs if metric in metrics]
        baselines[name] = {"metrics": {metric: measured(theirs[metric], seed) for metric in shared},
                           "compared": {metric: compared(metrics[metric], theirs[metric], seed) for metric in shared}}
    shown = found[task.shown]
    best, worst = ([{"record": held_out[place], "answer": answers[place], "value": float(shown.of_texts[place])} for place in places]
                   for places in ends(shown.of_texts, shown.lower_is_better))
    return {"kind": config.kind, "answered": len(answers), "not_measured": sorted(found.keys() - metrics),
            "metrics": {name: measured(metric, seed) for name, metric in metrics.items()},
            "baselines": baselines, "best": best, "worst": worst} | _reliability(metrics)


def _reliability(metrics):
    rows = [list(metric.diagram) for metric in metrics.values() if metric.diagram]
    return {"reliability": rows[0]} if rows else {}


def write_answers(folder: Path, records: Sequence[dict], answers: Sequence[dict]) -> None:
    """Write answers.jsonl into a run's folder: each held-out record with the model's answer."""
    rows = zip(records, answers, strict=True)
    write_text(folder / ANSWERS, "".join(json.dumps({"record": record, "answer": answer}, ensure_ascii=False) + "\n" for record, answer in rows))


def shared_answers(*runs: Path) -> tuple[Task, list[dict], list[list[dict]], list[int]]:
    """Return the task of some runs, the records that all of them answered, the answers of each to these, and how many each answered in all.

    Records are the same if what the data gave of them is: prompts by other templates do not matter.

    Args:
        runs: their folders.

    Raises:
        FileNotFoundError: a run without answers.
        ValueError: runs of different tasks, or that have no record in common.
    """
    kinds, of_runs = [], []
    for run in runs:
        if not (run / ANSWERS).is_file():
            raise FileNotFoundError(f"{run} holds no {ANSWERS}; give the folder of a run of a task that has been evaluated")
        kinds.append(yaml.safe_load((run / "recipe.yaml").read_text("utf-8"))["task"]["kind"])
        rows = map(json.loads, (run / ANSWERS).read_text("utf-8").splitlines())
        of_runs.append({_identity(row["record"]): row for row in rows})
    if len(set(kinds)) > 1:
        raise ValueError(f"{' and '.join(f'{run} is of {kind}' for run, kind in zip(runs, kinds))}; give runs of one task")
    shared = [identity for identity in of_runs[0] if all(identity in of_run for of_run in of_runs)]
    if not shared:
        raise ValueError(f"{' and '.join(map(str, runs))} have answered no record in common; give runs with the same held-out data")
    answers = [[of_run[one]["answer"] for one in shared] for of_run in of_runs]
    return task_of(TaskConfig(kinds[0])), [of_runs[0][one]["record"] for one in shared], answers, [len(of_run) for of_run in of_runs]


def _identity(record):
    return json.dumps({key: value for key, value in record.items() if key not in ("prompt", "place", "split", "group")}, sort_keys=True)
