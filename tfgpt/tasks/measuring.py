"""A model and the plain baselines of its task on the same held-out records, with intervals and paired tests."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfgpt.evaluation.metrics import Metric, compared, measured
from tfgpt.evaluation.text_metrics import reliability
from tfgpt.recipe import TaskConfig
from tfgpt.tasks.task import Task

SHOWN = 5
"""Of the best answers, and of the worst."""


def measure_task(task: Task, config: TaskConfig, train: Sequence[dict], held_out: Sequence[dict], answers: Sequence[dict], seed: int) -> dict:
    """Return what is known of a model's answers.

    Args:
        task: of them.
        config: of the task.
        train: records that the baselines learn from.
        held_out: records that were answered.
        answers: of the model, one for each.
        seed: of the bootstrap.

    Returns:
        `kind`; `answered`, how many; `metrics` by name, each with `value` and 95 % `interval`; `baselines`, of each by its name `metrics` and `compared`, the
        model's figure minus the baseline's with `difference`, `interval` and `p`; `best` and `worst`, records with their answers; of answers that say how
        sure they are also `reliability`, the rows of a diagram.
    """
    metrics = task.metrics(held_out, answers)
    baselines = {}
    for name, of_baseline in task.baselines(train, held_out, config).items():
        theirs = task.metrics(held_out, of_baseline)
        shared = [metric for metric in theirs if metric in metrics]
        baselines[name] = {"metrics": {metric: measured(theirs[metric], seed) for metric in shared},
                           "compared": {metric: compared(metrics[metric], theirs[metric], seed) for metric in shared}}
    best, worst = _ends(metrics[task.shown], held_out, answers)
    return {"kind": config.kind, "answered": len(answers), "metrics": {name: measured(metric, seed) for name, metric in metrics.items()},
            "baselines": baselines, "best": best, "worst": worst} | _reliability(task, held_out, answers)


def _reliability(task, held_out, answers):
    if task.confidences is None:
        return {}
    return {"reliability": reliability(*task.confidences(held_out, answers))}


def _ends(metric: Metric, records, answers):
    """Return the records with the best and with the worst answers, none in both."""
    order = np.argsort(metric.of_texts, kind="stable")
    order = order if metric.lower_is_better else order[::-1]
    shown = min(SHOWN, (len(order) + 1) // 2)
    pick = [[{"record": records[place], "answer": answers[place], "value": float(metric.of_texts[place])} for place in places]
            for places in (order[:shown], order[::-1][: min(shown, len(order) - shown)])]
    return pick[0], pick[1]
