"""A model's card: Markdown with the YAML head that Hugging Face's hub reads; and what is read of a run's files to write one."""
from __future__ import annotations

import json
import re
import reprlib
from pathlib import Path

import yaml

from tfgpt.files import sha256_of_file
from tfgpt.store.errors import StoreError
from tfgpt.store.fields import Description, check_figures

HUB_TASKS = {
    "classification": "text-classification", "question_answering": "question-answering", "summarisation": "summarization", "translation": "translation",
    "verse": "text-generation",
}  # fmt: skip
"""The hub's names for our tasks; of the others those with a head judge texts, and the rest write."""
FIGURES = ("loss", "perplexity", "bits_per_byte", "tokens", "judged", "answered")
OF_ONE_LABEL, MOST_LABELS = "F1 of ", 20
"""Figures of single labels are left to evaluation.json where there are more of them than anybody would read."""
HEAD = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*$\r?\n?", re.DOTALL | re.MULTILINE)
MOST_RECIPE_BYTES = 2**20
PULLED = "pulled.json"
"""In a pulled folder: which version it is."""


class PlainLoader(yaml.SafeLoader):
    """YAML without aliases, a few lines of which can stand for more than any memory holds."""

    def compose_node(self, parent, index):
        """Refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias (*) is not allowed; write the value itself", self.peek_event().start_mark)
        return super().compose_node(parent, index)


def split_card(text: str) -> tuple[dict, str]:
    """Return the head of a card, as a dict, and the Markdown behind it.

    Raises:
        StoreError: a head that is no YAML with keys.

    >>> split_card("---\\nlicense: mit\\n---\\n# Tickets")
    ({'license': 'mit'}, '# Tickets')
    """
    found = HEAD.match(text)
    if found is None:
        return {}, text
    try:
        head = yaml.load(found[1], PlainLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise StoreError(f"card: its head is no YAML ({' '.join(str(error).split())}); correct it") from error
    if not isinstance(head, dict):
        raise StoreError("card: its head holds no keys; write lines such as license: mit between two lines of ---")
    return head, text[found.end():]


def fields_of_head(head: dict) -> dict:
    """Return the fields of a `Description` that a card's head gives, by name; tags are spelt as they are here.

    Raises:
        StoreError: a value of a kind that the field does not have.
    """
    fields = {}
    for key, name in (("license", "licence"), ("pipeline_tag", "task"), ("base_model", "base_model"), ("language", "languages"), ("tags", "tags")):
        if (value := head.get(key)) in (None, [], ""):
            continue
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise StoreError(f"card: {key} {reprlib.repr(value)} is no text or list of texts")
        fields[name] = tuple(texts) if name in ("languages", "tags") else texts[0]
    if "tags" in fields:
        fields["tags"] = tuple(dict.fromkeys(re.sub(r"[^a-z0-9._-]+", "-", tag.lower()).strip("-._") for tag in fields["tags"]))
    return fields


def fields_of_run(folder: Path, is_from_here: bool = True) -> dict:
    """Return the fields of a `Description` that a run's files tell, by name: task, base model, hashes of data and recipe.

    Args:
        folder: of the run.
        is_from_here: whether paths in its recipe are of this machine; of another's nothing is looked for here.

    Raises:
        StoreError: recipe.yaml or data/stats.json is not what a run writes.
    """
    path = folder / "recipe.yaml"
    if not path.is_file():
        return {"base_model": "unknown"}
    if path.stat().st_size > MOST_RECIPE_BYTES:
        raise StoreError(f"{path}: {path.stat().st_size:,} bytes are more than a recipe has; run the recipe again")
    try:
        recipe = yaml.load(path.read_text("utf-8"), PlainLoader)
        told = recipe["task"]["kind"], recipe["adapt"]["head"]["kind"], recipe["model"]["init"]
        stats = folder / "data" / "stats.json"
        data = json.loads(stats.read_text("utf-8"))["inputs_sha256"] if stats.is_file() else ""
    except (yaml.YAMLError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{folder}: recipe.yaml or data/stats.json is not what a run writes ({reprlib.repr(error)}); run the recipe again") from error
    if wrong := [value for value in told if not isinstance(value, str)]:
        raise StoreError(f"{path}: {reprlib.repr(wrong[0])} is no text, where a run writes one; run the recipe again")
    kind, head, start = told
    return {"task": HUB_TASKS.get(kind, "text-generation" if head == "none" else "text-classification"), "base_model": _base_of(start, is_from_here),
            "data_sha256": data, "recipe_sha256": sha256_of_file(path)}


def figures_of(folder: Path) -> dict[str, float]:
    """Return the numbers of a folder's evaluation.json by name, such as loss, metrics/f1 and baseline/loss; none if it was not measured.

    Raises:
        StoreError: it is not what a run writes, or a figure is no finite number.
    """
    path = folder / "evaluation.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
        figures = {name: value for part in ("", "head", "task") for name, value in _figures(content.get(part, {}) if part else content, part)}
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
        raise StoreError(f"{path}: is not what a run writes ({reprlib.repr(error)}); run its evaluation again") from error
    check_figures(figures)
    return figures


def make_card(name: str, description: Description, figures: dict[str, float], body: str = "") -> str:
    """Return a card.

    Args:
        name: of the model.
        description: what its head says; its own card is not looked at.
        figures: as `figures_of` gives them.
        body: the Markdown; empty = a page is written.
    """
    metrics = [{"type": figure.rpartition("/")[2], "name": figure, "value": value} for figure, value in figures.items() if "baseline/" not in figure]
    task = {"type": description.task}
    head = {
        "language": list(description.languages), "license": description.licence, "library_name": "tfgpt", "tags": list(description.tags),
        "pipeline_tag": description.task, "base_model": description.base_model if _is_hub_id(description.base_model) else "",
        "model-index": [{"name": name, "results": [{"task": task, "dataset": {"type": "held-out", "name": "held-out part of the run's data"},
                                                    "metrics": metrics}]}] if metrics else [],
    }  # fmt: skip
    kept = {key: value for key, value in head.items() if value}
    return f"---\n{yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)}---\n{body.strip() or _page(name, description, figures)}\n"


def _page(name, description, figures):
    lines = [f"# {name}", "", f"A GPT-2-family model made with tfgpt, for {description.task}.", "", "## Where it comes from", "",
             f"- trained from: {description.base_model}"]
    lines += [f"- {text}: `{value}`" for text, value in (("sha256 of the data's inputs", description.data_sha256),
                                                         ("sha256 of the recipe", description.recipe_sha256)) if value]  # fmt: skip
    if figures:
        lines += ["", "## Figures", "", "Of evaluation.json; loss in nats.", "", "| figure | value |", "| --- | --- |"]
        lines += [f"| {figure} | {value:.6g} |" for figure, value in figures.items()]
    return "\n".join([*lines, "", "## Asking it", "", "```", f"tfgpt serve --model {name}=store://{name}", "```", "",
                      "It writes what is likely after its data, true or not; nothing here filters that."])


def _figures(content, part):
    """Yield the figures of a part of evaluation.json, and those of its baseline."""
    prefix = f"{part}/" if part else ""
    for name in FIGURES:
        if name in content:
            yield prefix + name, content[name]
    metrics = content.get("metrics", {})
    has_many = sum(name.startswith(OF_ONE_LABEL) for name in metrics) > MOST_LABELS
    for name, of in metrics.items():
        if not (has_many and name.startswith(OF_ONE_LABEL)):
            yield f"{prefix}metrics/{name}", of["value"]
    if "baseline" in content:
        yield from _figures(content["baseline"], f"{prefix}baseline")


def _base_of(start, is_from_here):
    """Return what is said of a starting model: of a folder the version that it was pulled as, or that it is one of the publisher's."""
    if not is_from_here:
        return "local" if start.startswith((".", "/", "~")) or ("://" not in start and start.count("/") > 1) else start  # a hub id is OWNER/NAME
    pulled = next((path for path in (Path(start) / PULLED, Path(start).parent / PULLED) if path.is_file()), None)
    if pulled is not None:
        return json.loads(pulled.read_text("utf-8"))["reference"]
    return "local" if Path(start).exists() or start.startswith((".", "/", "~")) else start


def _is_hub_id(base):
    return base not in ("random", "local", "unknown") and "://" not in base
