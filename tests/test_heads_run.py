"""Whole runs with a head by the command line: every kind, and what is refused before any work."""
import html
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics

from tests.commands import called
from tfgpt.data.corpus import read_corpus
from tfgpt.generation.text_model import TextModel
from tfgpt.models.build import load_model
from tfgpt.recipe_file import load_recipe
from tfgpt.serving.saved_model import LoadedModel
from tfgpt.text.bpe import load_tokenizer

ROOT = Path(__file__).parent.parent
SMS = ROOT.parent / "shared" / "data" / "sms_spam.tsv"
RECIPE = """
name: tiny
data: {{path: {corpus}, examples: {examples}, length: 48, validation: 0.25}}
tokenizer: {{vocab: 300}}
model: {{layers: 1, width: 32, heads: 2, dropout: 0.0}}
adapt: {{head: {{kind: {kind}, weight: {weight}}}}}
train: {{steps: {steps}, global_batch_size: 4, evaluate_every: 20, log_every: 5, sample_tokens: 4, schedule: {{peak: 1.0e-2, warmup_steps: 5}}}}
"""
WORDS = ("sun", "rain", "snow", "wind")
ROWS = {
    "classes": [{"text": f"{n} there is {WORDS[n % 4]} today", "label": WORDS[n % 4]} for n in range(160)],
    "labels": [{"text": f"{n} {'sun ' * (n % 2)}{'rain ' * (n % 3 == 0)}today", "label": ["sun"] * (n % 2) + ["rain"] * (n % 3 == 0)} for n in range(160)],
    "number": [{"text": f"{n} there is {WORDS[n % 4]} today", "label": 10 * (n % 4)} for n in range(160)],
    "tags": [{"tokens": [str(n), WORDS[n % 4], "today"], "tags": ["NUM", "WEATHER", "TIME"]} for n in range(160)],
    "choice": [{"prompt": f"{n} there is", "choices": [f" {WORDS[(n + k) % 4]}" for k in range(4)], "answer": (3 - n) % 4} for n in range(160)],
}
EXAMPLES = {"classes": "labels", "labels": "labels", "number": "numbers", "tags": "tags", "choice": "choice"}


def recipe_of(folder, kind, weight=1.0, steps=60, examples=None):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[kind if kind in ROWS else "classes"]))
    text = RECIPE.format(corpus=folder / "rows.jsonl", examples=examples or EXAMPLES[kind], kind=kind, weight=weight, steps=steps)
    (folder / "tiny.yaml").write_text(text)
    return folder / "tiny.yaml"


def read_json(path):
    return json.loads(path.read_text("utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "weight"), [*((kind, 1.0) for kind in ROWS), ("classes", 0.5)])
def test_a_run_learns_what_its_head_is_to_find_and_exports_it(tmp_path, kind, weight):
    recipe, folder = recipe_of(tmp_path, kind, weight, steps=120), tmp_path / "run"

    done = called("run", recipe, "--output", folder)

    assert done.returncode == 0, done.stderr
    evaluation = read_json(folder / "evaluation.json")
    found = evaluation if weight == 1 else evaluation["head"]
    better = "R2" if kind == "number" else "accuracy"
    assert found["metrics"][better]["value"] > 0.9 > found["most_frequent"]["metrics"][better]["value"]
    low, high = found["metrics"][better]["interval"]
    assert low <= found["metrics"][better]["value"] <= high
    assert found["baseline"]["name"].startswith(("TF-IDF", "each word's")) and set(found["baseline"]["metrics"]) == set(found["metrics"])
    assert ("perplexity" in evaluation) == (weight < 1) == evaluation.get("baseline", {}).get("name", "").startswith("5-gram")
    page = (folder / "report.html").read_text("utf-8")
    assert found["baseline"]["name"].replace("'", "&#39;") in page and f"{found['metrics'][better]['value']:.4f}" in page
    worst = found["worst"][0]
    assert html.escape(worst["right"]) in page and f"{worst['value']:.4g}" in page and ("Reliability diagram" in page) == (kind != "number")
    assert worst["value"] <= found["best"][0]["value"] or kind == "number"
    assert ("continues:" in done.stdout, better in done.stdout, "Serve the model" in done.stdout) == (False, True, True)
    assert "perplexity" in done.stderr if weight < 1 else "perplexity" not in done.stderr
    assert {"adaptation.safetensors", "model.safetensors"} <= {path.name for path in (folder / "model").iterdir()}

    exported = LoadedModel(folder / "export" / "tiny" / "1")
    judge = TextModel(load_model(folder / "model"), load_tokenizer(folder / "tokenizer"))
    if kind == "classes":
        data, _ = load_recipe(recipe)
        held_out = [example for example in read_corpus(data.data) if example.split == "validation"]
        rows = judge.classify([example.text for example in held_out])
        wanted, labels = [example.label for example in held_out], [row.label for row in rows]
        assert found["judged"] == len(held_out) and found["confusion"]["rows"] == metrics.confusion_matrix(wanted, labels).tolist()
        assert found["metrics"]["F1 of sun"]["value"] == pytest.approx(metrics.f1_score(wanted, labels, labels=["sun"], average="macro"))
        there = exported.predict("classify", {"text": np.array([example.text for example in held_out], object)})
        assert [label.decode() for label in there["label"]] == labels
    if kind == "tags":
        assert judge.classify(["7 snow today"])[0].label == ("NUM", "WEATHER", "TIME")


@pytest.mark.slow
def test_a_head_in_fewer_bits_is_exported_with_what_that_costs_and_a_run_is_resumed(tmp_path):
    recipe, folder = recipe_of(tmp_path, "classes"), tmp_path / "run"
    assert called("train", recipe, "--output", folder).returncode == 0

    done = called("run", recipe, "--output", folder, "--export.weights", "bfloat16")

    assert done.returncode == 0 and "train: up to date" in done.stderr, done.stderr
    cost = read_json(folder / "export" / "tiny" / "1" / "assets.extra" / "weights.json")
    evaluation = read_json(folder / "evaluation.json")
    assert cost["metrics"]["accuracy"]["float32"] == evaluation["metrics"]["accuracy"]["value"]
    assert 0 < abs(cost["loss"]["bfloat16"] - cost["loss"]["float32"]) < 0.05


@pytest.mark.parametrize(("kind", "examples", "overrides", "message"), [
    ("classes", "text", [], "data.examples: text is not what adapt.head.kind classes is trained on; set it to labels"),
    ("number", "labels", [], "data.examples: labels is not what adapt.head.kind number is trained on; set it to numbers"),
    ("none", "labels", [], "data.examples: labels is for a head, and adapt.head.kind is none; set it to classes or labels, or prepare the data alone"),
    ("none", "tags", [], "data.examples: tags is for a head, and adapt.head.kind is none; set it to tags"),
    ("classes", "labels", ["--adapt.train", "[wte.weight]"], r"adapt.train: ['wte.weight'] without [] (adapt.freeze) leaves head as it begins; add head"),
    ("classes", "labels", ["--adapt.freeze", "[head]"], r"adapt.train: [] without ['head'] (adapt.freeze) leaves head as it begins; add head"),
    ("classes", "labels", ["--adapt.head.weight", "0"], "adapt.head.weight: 0.0 is not in (0, 1]; 1 trains the head alone"),
])  # fmt: skip
def test_what_cannot_be_is_told_before_any_work(tmp_path, kind, examples, overrides, message):
    recipe = recipe_of(tmp_path, kind, examples=examples)

    done = called("run", recipe, "--output", tmp_path / "run", *overrides)

    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "run").exists()


def test_a_label_that_is_no_number_and_too_few_classes_are_told(tmp_path):
    recipe = recipe_of(tmp_path, "classes")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row | {"label": "only"}) + "\n" for row in ROWS["classes"]))

    few = called("run", recipe, "--output", tmp_path / "run")
    no_number = called("run", recipe, "--output", tmp_path / "run", "--data.examples", "numbers", "--adapt.head.kind", "number")

    assert few.returncode == 2 and "error: adapt.head.kind: classes needs 2 labels or more to tell apart, and the data has 1 (only)" in few.stderr
    assert no_number.returncode == 2 and "rows.jsonl:1: column 'label' holds the text 'only', not a number" in no_number.stderr


@pytest.mark.slow
def test_the_recipe_runs_from_texts_to_a_served_classifier(tmp_path):
    """On labels that it was not made for; what it reaches on its own stands in its header."""
    done = called("run", ROOT / "pipelines" / "classification.yaml", "--output", tmp_path, "--data.path", "python-docstrings", "--adapt.pretrain.steps", 20,
                 "--train.steps", 60)

    assert done.returncode == 0, done.stderr
    evaluation = read_json(tmp_path / "evaluation.json")
    assert evaluation["metrics"]["accuracy"]["value"] > evaluation["task"]["baselines"]["always the most frequent"]["metrics"]["accuracy"]["value"] + 0.1
    labels = (tmp_path / "export" / "classification" / "1" / "assets" / "labels.txt").read_text("utf-8").split()
    assert labels == evaluation["head"]["confusion"]["labels"] and "asyncio" in labels


@pytest.mark.slow
@pytest.mark.skipif(not SMS.is_file(), reason="needs the SMS spam collection at ../shared/data/sms_spam.tsv")
def test_the_recipe_finds_spam(tmp_path):
    done = called("run", ROOT / "pipelines" / "classification.yaml", "--output", tmp_path, "--data.path", SMS, "--data.column_names", "[label, text]")

    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "evaluation.json")["head"]["metrics"]["F1 of spam"]["value"] >= 0.93  # the recipe's header has what it was at several seeds
