"""What a run prints at its end: what the exported model writes, its figures, and what to do next."""
from __future__ import annotations

import json
import shlex
from pathlib import Path

from tfgpt.cli_serve_options import HOST, PORT
from tfgpt.recipe import Recipe

SAMPLE = "Some text of yours"


def _print_head(name, split, found, told):
    """Print a head's figures beside those of its baselines, but for metrics that are told already."""
    rows = (found["baseline"], found["most_frequent"])
    names = "".join(f"  {row['name']}" for row in rows)
    print(f"\nOn {found['judged']:,} labels of the {split} part:\n\n{'':<30}{name[:24]:>24}  {'95 % interval':<18}{names}")
    print(f"  {'loss':<28}{found['loss']:>24.4f}  {'':<18}" + "".join(f"  {row['loss']:<{len(row['name'])}.4f}" for row in rows))
    for metric, of in found["metrics"].items():
        if metric in told:
            continue
        low, high = of["interval"]
        beside = "".join(f"  {row['metrics'][metric]['value']:<{len(row['name'])}.4f}" for row in rows)
        print(f"  {metric:<28}{of['value']:>24.4f}  {f'{low:.4f} to {high:.4f}':<18}{beside}")


def _print_task(name, found):
    """Print a task's figures beside those of its baselines; p is that of the paired test of both on the same records."""
    print(f"\n{found['kind'].replace('_', ' ')}, {found['answered']:,} held-out records answered:\n\n{'':<26}{name[:22]:>22}  {'95 % interval':<20}")
    if found["not_measured"]:
        print(f"  not measured, since no record has anything to measure it on: {', '.join(found['not_measured'])}")
    for metric, of in found["metrics"].items():
        low, high = of["interval"]
        print(f"  {metric:<24}{of['value']:>22.4f}  {f'{low:.4f} to {high:.4f}':<20}")
        for baseline, theirs in found["baselines"].items():
            if metric in theirs["metrics"]:
                print(f"    {baseline:<44}  {theirs['metrics'][metric]['value']:.4f}  (p {theirs['compared'][metric]['p']:.3f})")


def _sample_request(kind):
    return {"prompt": "Some", "choices": [" text", " yours"]} if kind == "choice" else {"text": SAMPLE}


def print_figures(recipe: Recipe, evaluation: dict) -> None:
    """Print a run's figures beside those of its baselines.

    Args:
        recipe: of the run.
        evaluation: content of evaluation.json.
    """
    from tfgpt.evaluation.general import in_words

    judges = _judges(recipe)
    if not judges:
        print(f"\nOn the {evaluation['split']} part:\n\n{'':<36}{'loss':>8}{'perplexity':>12}{'bits per byte':>15}")
        for name, row in ((f"{recipe.name} (nats a token)", evaluation), (evaluation["baseline"]["name"], evaluation["baseline"])):
            print(f"  {name:<34}{row['loss']:>8.4f}{row['perplexity']:>12.2f}{row['bits_per_byte']:>15.4f}")
    if "task" in evaluation:
        _print_task(recipe.name, evaluation["task"])
    if judges or "head" in evaluation:
        of_task = evaluation["task"]["metrics"] if "task" in evaluation else ()
        _print_head(recipe.name, evaluation["split"], evaluation.get("head", evaluation), told=of_task)
    if "general" in evaluation:
        print(f"\n{in_words(evaluation['general'])}")


def _judges(recipe):
    """Tell whether a model has a head and does not write."""
    return recipe.adapt.head.kind != "none" and recipe.adapt.head.weight == 1


def _held_out_prompt(recipe, folder):
    """Return a prompt to try: one that the task has held out, as it is asked in training, else the recipe's first, or the beginning of any text."""
    from tfgpt.models.adaptation import Adaptation
    from tfgpt.models.checkpoint import config_in
    from tfgpt.stages.records import has_records, read_records
    from tfgpt.text.bpe import load_tokenizer

    record = read_records(folder, "validation", 1)[0] if has_records(recipe) else {}
    prompt = record.get("prompt", "") + record.get("prompt_end", "")
    if not prompt:
        return next(iter(recipe.evaluate.prompts), "The")
    encoder = Adaptation.of(config_in(folder / "model")).encoder
    return prompt if encoder.kind != "none" else load_tokenizer(folder / "tokenizer").eos_token + prompt


def print_summary(recipe: Recipe, folder: Path) -> None:
    """Print what the exported model writes, loaded by a fresh process, its figures, and what to do next.

    Args:
        recipe: of the run.
        folder: of the run.
    """
    from tfgpt.serving.ask import ask_in_fresh_process

    settings, judges = recipe.evaluate, _judges(recipe)
    if settings.prompts and not judges:
        answers = ask_in_fresh_process(folder / "export" / recipe.name / str(recipe.export.version), list(settings.prompts),
                                       max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, seed=recipe.seed)
        print("\nThe exported model, loaded by a fresh process, continues:")
        for prompt, answer in zip(settings.prompts, answers):
            print(f"\n  [{prompt}]{answer['text']}".replace("\n", "\n  "))
    print_figures(recipe, json.loads((folder / "evaluation.json").read_text("utf-8")))
    base, url = shlex.quote(str(folder / "export" / recipe.name)), f"http://{HOST}:{PORT}/v1/models/{recipe.name}"
    prompt = _held_out_prompt(recipe, folder)
    body = json.dumps({"instances": [_sample_request(recipe.adapt.head.kind) if judges else {"prompt": prompt, "max_new_tokens": 40}]})
    print("\nWatch the training:  tensorboard --logdir " + shlex.quote(str(folder / "logs")))
    print(f"Serve the model:     tfgpt serve --model {shlex.quote(recipe.name)}={base}")
    if not judges:
        print(f"Ask it:              tfgpt client generate --url {url} --prompt {shlex.quote(prompt)}")
    elif recipe.adapt.head.kind in ("classes", "labels"):
        print(f"Ask it:              tfgpt client classify --url {url} --text {shlex.quote(SAMPLE)}")
    if recipe.task.kind == "dialogue":
        print(f"Talk to it:          tfgpt generate --model {shlex.quote(str(folder))} --chat")
    print(f"Ask it with curl:    curl -d {shlex.quote(body)} {url}:predict")
    print(f"Read the report:     {folder / 'report.html'}")
