"""The stage that exports the trained model."""
from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tfgpt.data.pipeline import evaluation_batches
from tfgpt.data.prepare import read_stats
from tfgpt.data.shards import ShardedData
from tfgpt.evaluation.evaluate import figures, summed_loss
from tfgpt.evaluation.heads import evaluate_head
from tfgpt.files import write_json
from tfgpt.generation.loading import load_draft
from tfgpt.generation.text_model import TextModel
from tfgpt.progress import progress_bar
from tfgpt.recipe import Recipe
from tfgpt.serving.export import export
from tfgpt.stages.model import load_made
from tfgpt.stages.plan import has_head
from tfgpt.text.bpe import load_tokenizer


def export_model(recipe: Recipe, folder: Path) -> None:
    """Write export/NAME/VERSION, and what the weights of fewer bits cost."""
    model, weights = load_made(folder, "model", recipe.export.weights), recipe.export.weights
    extra = [folder / "evaluation.json"]
    with tempfile.TemporaryDirectory() as scratch:
        if weights != "float32":
            extra.append(Path(scratch) / "weights.json")
            write_json(extra[-1], _cost_of_weights(recipe, folder, model))
        with progress_bar("export: SavedModel"):
            draft = load_draft(recipe.export.draft, weights)
            text_model = TextModel(model, load_tokenizer(folder / "tokenizer"), draft, recipe.export.draft_tokens)
            export(text_model, folder / "export" / recipe.name, recipe.export, [folder / "recipe.yaml"], extra)


def _cost_of_weights(recipe, folder, model):
    """Return the figures of the weights that are exported beside those of float32, on the validation part: the perplexity; of a head its metrics."""
    of_split, before = read_stats(folder / "data")["splits"]["validation"], json.loads((folder / "evaluation.json").read_text("utf-8"))
    batches = evaluation_batches(ShardedData(folder / "data"), "validation", recipe.evaluate.batch_size)
    weights = recipe.export.weights
    if has_head(recipe):
        before = before.get("head", before)
        after = evaluate_head(model, folder / "data", "validation", recipe.evaluate.batch_size, recipe.seed)
        of_each = {name: {"float32": of["value"], weights: after["metrics"][name]["value"]} for name, of in before["metrics"].items()}
        return {"weights": weights, "split": "validation", "judged": after["judged"], "loss": {"float32": before["loss"], weights: after["loss"]},
                "metrics": of_each}
    with progress_bar(f"export: {weights} weights", total=-(-of_split["sequences"] // recipe.evaluate.batch_size), unit="batches") as advance:
        loss_sum, tokens, _ = summed_loss(model, batches, advance)
    after = figures(loss_sum, tokens, of_split["bytes"])
    return {"weights": weights, "split": "validation", "tokens": tokens, "perplexity": {"float32": before["perplexity"], weights: after["perplexity"]},
            "ratio": after["perplexity"] / before["perplexity"]}


def export_outputs(recipe: Recipe) -> list[str]:
    """Return what `export_model` writes, relative to the run's folder."""
    return [f"export/{recipe.name}/{recipe.export.version}"]
