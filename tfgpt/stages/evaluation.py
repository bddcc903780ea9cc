"""The stage that measures the trained model, beside a baseline."""
from __future__ import annotations

import time
from importlib import metadata
from pathlib import Path

from tfgpt.data.pipeline import evaluation_batches
from tfgpt.data.prepare import read_stats, tokenized_documents
from tfgpt.data.shards import ShardedData
from tfgpt.evaluation.board import write_to_tensorboard
from tfgpt.evaluation.evaluate import figures, summed_loss
from tfgpt.evaluation.general import general_figures, general_texts
from tfgpt.evaluation.heads import baselines, evaluate_head, evaluate_language, ngram_baseline
from tfgpt.evaluation.metrics import share_with_interval
from tfgpt.evaluation.ngram import NgramModel
from tfgpt.evaluation.report import write_report
from tfgpt.files import write_json
from tfgpt.generation.text_model import TextModel
from tfgpt.models import build
from tfgpt.progress import progress_bar
from tfgpt.recipe import Recipe
from tfgpt.recipe_file import VERSIONS_OF
from tfgpt.stages.model import load_made
from tfgpt.stages.plan import has_head, is_language_model, measures_loss_of_knowledge, old_tokenizer
from tfgpt.stages.records import has_records, read_learned, read_records
from tfgpt.tasks.measuring import ANSWERS, measure_task, write_answers
from tfgpt.tasks.task import task_of
from tfgpt.text.bpe import is_byte_level, load_tokenizer

TUNED = "tuned.json"
"""How the model answers best, in a run's folder (see `Task.tuned`)."""
MOST_TRAIN = 100_000
"""Records that the baselines of a task learn from, evenly from all."""


def evaluate_model(recipe: Recipe, folder: Path) -> None:
    """Measure the trained model on the validation part, beside a baseline; write evaluation.json and report.html."""
    start = time.monotonic()
    model = load_made(folder, "model")
    of_task = of_language = _language_evaluation(recipe, folder, model) if is_language_model(recipe) else {}
    of_head = _head_evaluation(recipe, folder, model) if has_head(recipe) else {}
    if has_records(recipe):
        of_task = _with_task(recipe, folder, model, of_language)
    of_general = {"general": _general_evaluation(recipe, folder, model)} if measures_loss_of_knowledge(recipe) else {}
    evaluation = (of_task | {"head": of_head} if of_task and of_head else of_task or of_head) | of_general | {
        "split": "validation",
        "seconds": round(time.monotonic() - start, 1),
        "versions": {name: metadata.version(name) for name in VERSIONS_OF},
    }
    write_report(folder, recipe, evaluation)
    write_to_tensorboard(folder / "logs" / "evaluation", evaluation, recipe.train.steps)
    write_json(folder / "evaluation.json", evaluation)


def _general_evaluation(recipe, folder, model):
    """Return the figures of the starting model and of the trained one on general text."""
    texts, tokenizer = list(general_texts(recipe)), load_tokenizer(folder / "tokenizer")
    start, source, own_tokenizer = _known_before(recipe, folder, tokenizer)
    length = min(recipe.data.length, start.config.n_positions)
    with progress_bar("evaluate: general text", unit="batches") as advance:
        before = general_figures(start, own_tokenizer, texts, length, recipe.evaluate.batch_size, advance)
        after = general_figures(model, tokenizer, texts, length, recipe.evaluate.batch_size, advance)
    same = own_tokenizer is tokenizer
    return {"path": recipe.evaluate.general, "tokens": after["tokens"], "start": source, "same_vocabulary": same, "before": before, "after": after}


def _known_before(recipe, folder, tokenizer):
    """Return the model before the fine-tune, where it comes from, and its tokenizer: a model given with another vocabulary is measured with that."""
    if recipe.adapt.embeddings.vocabulary == "tokenizer" and is_byte_level(old := old_tokenizer(recipe)) and old.eos_token_id is not None:
        return build.load_model(recipe.model.init), recipe.model.init, old
    source = "checkpoints/pretrained" if recipe.model.init == "random" else "checkpoints/start"  # of random weights nothing is forgotten
    return load_made(folder, source), source, tokenizer


def _head_evaluation(recipe, folder, model):
    """Return a head's figures beside its baselines'."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    with progress_bar("evaluate: head", total=_validation_batches(recipe, folder), unit="batches") as advance:
        found = evaluate_head(model, folder / "data", "validation", recipe.evaluate.batch_size, recipe.seed, advance,
                              None if has_records(recipe) else lambda ids: tokenizer.decode(ids, skip_special_tokens=True))  # a task shows its answers
    with progress_bar("evaluate: baselines of the head"):
        return found | baselines(model, recipe.data, "validation", recipe.seed)


def _language_evaluation(recipe, folder, model):
    """Return the language model's figures beside an n-gram model's on the same tokens."""
    settings, total = recipe.evaluate, _validation_batches(recipe, folder)
    if has_head(recipe):
        texts = TextModel(model, load_tokenizer(folder / "tokenizer")).tokenizer.texts.numpy()
        with progress_bar("evaluate: model", total=total, unit="batches") as advance:
            found = evaluate_language(model, folder / "data", "validation", settings.batch_size, texts, advance)
        with progress_bar(f"evaluate: {settings.ngram_order}-gram baseline"):
            baseline = ngram_baseline(model, folder / "data", "validation", settings.ngram_order, settings.ngram_tokens, texts)
        accuracy = share_with_interval(found.pop("correct"), found["tokens"])
        return found | {"baseline": baseline, "metrics": {"accuracy": accuracy}}
    text_bytes = read_stats(folder / "data")["splits"]["validation"]["bytes"]
    batches = evaluation_batches(ShardedData(folder / "data"), "validation", settings.batch_size)
    with progress_bar("evaluate: model", total=total, unit="batches") as advance:
        loss_sum, tokens, correct = summed_loss(model, batches, advance, recipe.train.lanes)
    return figures(loss_sum, tokens, text_bytes) | {
        "tokens": tokens,
        "baseline": _baseline(recipe, folder, text_bytes),
        "metrics": {"accuracy": share_with_interval(correct, tokens)},
    }


def evaluation_outputs(recipe: Recipe) -> list[str]:
    """Return what `evaluate_model` writes, relative to the run's folder."""
    return ["evaluation.json", "report.html", "logs/evaluation", *([ANSWERS] if has_records(recipe) else []),
            *([TUNED] if has_records(recipe) and task_of(recipe.task).tuned else [])]


def _with_task(recipe, folder, model, evaluation):
    """Return an evaluation with the task's metrics, also beside the n-gram model's figures those of the first baseline; write answers.jsonl."""
    task, settings = task_of(recipe.task), recipe.evaluate
    held_out, text_model = read_records(folder, "validation", settings.answers), TextModel(model, load_tokenizer(folder / "tokenizer"))
    with progress_bar(f"evaluate: {recipe.task.kind}", total=len(held_out), unit="answers") as advance:
        learned = read_learned(folder, task) | _tuned(recipe, folder, task, text_model)
        answers = task.answers(text_model, held_out, recipe.task, settings.batch_size, advance, **learned)
    write_answers(folder, held_out, answers)
    with progress_bar("evaluate: baselines of the task"):
        found = measure_task(task, recipe.task, text_model, read_records(folder, "train", MOST_TRAIN), held_out, answers, recipe.seed)
    name, first = next(iter(found["baselines"].items()))
    return evaluation | {"task": found, "metrics": evaluation.get("metrics", {}) | found["metrics"],
                         "baseline": evaluation.get("baseline", {"name": name}) | {"metrics_of": name, "metrics": first["metrics"]}}


def _tuned(recipe, folder, task, text_model):
    """Return, by the name `tuned`, how the model answers best, and write tuned.json; nothing if the task tunes nothing."""
    if task.tuned is None:
        return {}
    kept = read_records(folder, "calibration") if task.calibration(recipe.task) else []
    tuned = task.tuned(text_model, kept, recipe.task, recipe.evaluate.batch_size)
    write_json(folder / TUNED, tuned)
    return {"tuned": tuned}


def _validation_batches(recipe, folder):
    return -(-read_stats(folder / "data")["splits"]["validation"]["sequences"] // recipe.evaluate.batch_size)


def _baseline(recipe, folder, text_bytes):
    """Return the n-gram model's figures on the tokens that the GPT is measured on."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    order, most = recipe.evaluate.ngram_order, recipe.evaluate.ngram_tokens
    with progress_bar(f"evaluate: {order}-gram baseline"):
        held_out, counted = zip(*tokenized_documents(recipe.data, tokenizer, "validation"))
        train, tokens = [], 0
        for ids, _ in tokenized_documents(recipe.data, tokenizer, "train"):
            train.append(ids)
            tokens += len(ids)
            if tokens >= most > 0:
                break
        ngram = NgramModel(train, order, len(tokenizer), tokenizer.eos_token_id)
        seen = f", first {tokens:,} tokens" if tokens >= most > 0 else ""
        return {"name": f"{order}-gram, modified Kneser-Ney{seen}"} | figures(*ngram.summed_loss(held_out, counted), text_bytes)
