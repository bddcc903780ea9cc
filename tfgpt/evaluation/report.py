"""The report of a run as one HTML file that needs no other file and no network."""
from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import jinja2

from tfgpt.data.prepare import read_stats
from tfgpt.evaluation.general import in_words
from tfgpt.evaluation.pictures import pictures_of
from tfgpt.files import write_text
from tfgpt.recipe import Recipe


def write_report(folder: Path, recipe: Recipe, evaluation: dict) -> None:
    """Write report.html into a run's folder: the figures beside the baseline's, the curves, the corpus.

    Args:
        folder: with data/stats.json and, if they were drawn, logs/curves.png and logs/pretrain/curves.png.
        recipe: of the run.
        evaluation: content of evaluation.json.
    """
    template = resources.files("tfgpt.evaluation").joinpath("report.html").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["as_text"] = as_text
    page = environment.from_string(template).render(
        name=recipe.name,
        evaluation=evaluation,
        stats=read_stats(folder / "data"),
        recipe=(folder / "recipe.yaml").read_text("utf-8"),
        curves=_picture(folder / "logs" / "curves.png"),
        pictures={name: base64.b64encode(png).decode() for name, png in pictures_of(evaluation).items()},
        pretraining=_picture(folder / "logs" / "pretrain" / "curves.png") if recipe.adapt.pretrain.steps else "",
        lost=in_words(evaluation["general"]) if "general" in evaluation else "",
    )
    write_text(folder / "report.html", page)


def as_text(value: object) -> str:
    """Return what stands in a record or an answer as a person reads it.

    >>> print(as_text([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]))
    user: Hi
    assistant: Hello
    >>> as_text([0.25, 1]), as_text({"text": "one", "score": -2.5}), as_text(True)
    ('0.25, 1', 'one (score -2.5)', 'yes')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        if {"role", "content"} <= set(value):
            return f"{value['role']}: {value['content']}"
        own = [f"{key} {as_text(of)}" for key, of in value.items() if key != "text"]
        return f"{value['text']} ({', '.join(own)})" if "text" in value and own else value.get("text") or ", ".join(own)
    if isinstance(value, list | tuple):
        return (", " if all(isinstance(one, int | float) for one in value) else "\n").join(map(as_text, value))
    return "none" if value is None else str(value)


def _picture(path):
    return base64.b64encode(path.read_bytes()).decode() if path.exists() else ""
