"""The end of a training: a head is made as sure as it is right, on records of the training part that it was not trained on."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from tfgpt.evaluation.calibration import fit_temperature
from tfgpt.generation.batches import batches
from tfgpt.generation.calling import call
from tfgpt.generation.text_model import TextModel
from tfgpt.models.heads import targets_of
from tfgpt.models.surgery import set_temperature
from tfgpt.progress import console, progress_bar
from tfgpt.recipe import Recipe
from tfgpt.stages.plan import has_head
from tfgpt.stages.records import has_records, read_records
from tfgpt.tasks.task import task_of
from tfgpt.text.bpe import load_tokenizer

FEW = 100
"""Records below which it is said that a temperature is uncertain."""


def calibrated(model, recipe: Recipe, folder: Path):
    """Return a trained model whose head tells calibrated probabilities, if the recipe's task keeps records for that."""
    if not (has_records(recipe) and has_head(recipe)) or not (task := task_of(recipe.task)).calibration(recipe.task):
        return model
    records, size = read_records(folder, "calibration"), recipe.evaluate.batch_size
    if not records:
        console.print("train: no records are left for calibration; probabilities are as the training leaves them")
        return model
    judge, outputs = TextModel(model, load_tokenizer(folder / "tokenizer")).judge, []
    with progress_bar("train: calibration", total=len(records), unit="records") as advance:
        for batch in batches(records, size):
            outputs.append(call(judge.logits_graph, tf.constant([task.calibrated_on(record) for record in batch])).numpy())
            advance(len(batch))
    right = targets_of(model.adaptation.head, [record["label"] for record in records])
    temperature = fit_temperature(np.concatenate(outputs), right > 0 if right.ndim == 2 else right)
    console.print(f"train: temperature {temperature:.3f}, by {len(records):,} records that were not trained on"
                  + (f"; these are few, and the probabilities the less to be trusted, so keep more ({FEW} do)" if len(records) < FEW else ""))
    return set_temperature(model, temperature)
