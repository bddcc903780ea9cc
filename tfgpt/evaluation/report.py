"""The report of a run as one HTML file that needs no other file and no network."""
from __future__ import annotations

import base64
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
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(template).render(
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


def _picture(path):
    return base64.b64encode(path.read_bytes()).decode() if path.exists() else ""
