"""A page about an exported model, for who finds its folder: what it is, what it was trained on, how good it is, how to ask it."""
from __future__ import annotations

import json
from collections.abc import Iterable

from tfgpt.recipe import ExportConfig


def model_card(name: str, text_model, config: ExportConfig, signatures: Iterable[str], recipe: dict | None = None, evaluation: dict | None = None) -> str:
    """Return it in Markdown.

    Args:
        name: of the model.
        text_model: that is exported.
        config: of the export.
        signatures: their names.
        recipe: what recipe.yaml holds; `None` = not known.
        evaluation: what evaluation.json holds; `None` = it was not measured.
    """
    shape, head = text_model.model.config, text_model.model.adaptation.head
    kind = "encoder-decoder" if text_model.model.encoder is not None else "language"
    lines = [f"# {name}, version {config.version}", "",
             f"A GPT-2-family {kind} model of {shape.n_layer} layers, width {shape.n_embd} and {shape.n_head} heads, with {shape.vocab_size:,} tokens in its "
             f"vocabulary and a context of {shape.n_positions:,}; weights in {config.weights}."]
    if text_model.model.head is not None:
        lines += ["", f"It has a head of kind {head.kind}" + (f" for {', '.join(head.labels)}." if head.labels else ".")]
    lines += ["", "## Data", "", _data(recipe), "", "## Figures", "", *_figures(evaluation), "", "## Asking it", "", *_asking(name, text_model, signatures)]
    return "\n".join(lines) + "\n"


def _data(recipe):
    if recipe is None:
        return "Not known here: it was exported without its recipe."
    data = recipe["data"]
    paths = [source["path"] for source in data.get("sources") or ()] or [data["path"]]
    start = recipe["model"]["init"]
    began = "random weights" if start == "random" else start
    corpus = ", ".join(f"`{path}`" for path in paths)
    return f"Trained from {began} on {corpus} (examples: {data['examples']}); all settings are in recipe.yaml beside this file."


def _figures(evaluation):
    """Return lines with the figures of evaluation.json beside those of its baseline."""
    if evaluation is None:
        return ["None: it was exported without evaluation.json."]
    baseline = evaluation["baseline"]
    rows = [(key, evaluation[key], baseline.get(key)) for key in ("loss", "perplexity", "bits_per_byte") if key in evaluation]
    for of in (evaluation, evaluation.get("head", {})):
        beside = of.get("baseline", {}).get("metrics", {})
        rows += [(metric, value["value"], beside.get(metric, {}).get("value")) for metric, value in of.get("metrics", {}).items()]
    table = [f"| {key} | {value:.4f} | {'' if other is None else f'{other:.4f}'} |" for key, value, other in rows]
    return [f"On the {evaluation['split']} part; loss in nats.", "", f"| figure | this model | {baseline['name']} |", "| --- | --- | --- |", *table]


def _asking(name, text_model, signatures):
    judges = text_model.model.head is not None and text_model.model.adaptation.head.weight == 1
    row = {"text": "Some text of yours"} if judges else {"prompt": "Some text of yours", "max_new_tokens": 40}
    if judges and text_model.model.adaptation.head.kind == "choice":
        row = {"prompt": "Some", "choices": [" text", " yours"]}
    body = json.dumps({"instances": [row]})
    return [f"Signatures: {', '.join(f'`{one}`' for one in sorted(signatures))}. Behind TensorFlow Serving, or `tfgpt serve`:", "", "```",
            f"curl -d '{body}' http://127.0.0.1:8501/v1/models/{name}:predict", "```", "",
            "It writes what is likely after its data, true or not; nothing here filters that."]
