"""A whole run of a model with an encoder on a file of two columns, and what is refused before it."""
import json

import pytest
import tensorflow as tf
from safetensors.numpy import load_file

from tests.commands import called
from tfgpt import cli
from tfgpt.generation.text_model import TextModel
from tfgpt.models import build
from tfgpt.recipe_file import load_recipe
from tfgpt.serving.ask import ask_in_fresh_process
from tfgpt.stages.plan import training_estimate
from tfgpt.text.bpe import load_tokenizer

RECIPE = """
name: swap
data: {{path: {path}, {more}length: 24, source_length: 16}}
tokenizer: {{kind: char}}
model: {{layers: 2, width: 32, heads: 2, dropout: 0.1}}
adapt: {{encoder: {{kind: {kind}, layers: 1}}}}
train: {{steps: 4, global_batch_size: 4, evaluate_every: 2, log_every: 2, sample_prompts: ["ab cd"], sample_tokens: 4}}
evaluate: {{prompts: ["ab cd"], max_new_tokens: 5, batch_size: 8}}
export: {{weights: int8}}
"""
TASK = "task: {kind: translation, columns: {source: from, target: to}}\n"
PLAIN = "examples: translation, columns: {source: from, target: to}, "


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "pairs.csv"
    words = [f"{a}{b}" for a in "abcdefgh" for b in "abcdefgh"]
    path.write_text("from,to\n" + "".join(f"{one} {other},{other} {one}\n" for one, other in zip(words, words[7:] + words[:7])))
    return path


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    """The folder of a finished run, its recipe, and what was printed."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "swap.yaml").write_text(RECIPE.format(path=table, kind="new", more="") + TASK)
    done = called("run", folder / "swap.yaml", "--output", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run", folder / "swap.yaml", done.stdout


@pytest.fixture
def plain(table, tmp_path):
    """A recipe without a task."""
    (tmp_path / "swap.yaml").write_text(RECIPE.format(path=table, kind="new", more=PLAIN))
    return tmp_path / "swap.yaml"


@pytest.mark.slow
def test_a_run_trains_evaluates_and_exports(finished):
    folder, _, printed = finished

    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert set(evaluation["metrics"]) == {"accuracy", "exact_match", "chrf", "bleu"}
    assert set(evaluation["baseline"]["metrics"]) == {"exact_match", "chrf", "bleu"} and evaluation["baseline"]["loss"] > 0
    assert evaluation["task"]["answered"] == json.loads((folder / "data" / "stats.json").read_text())["splits"]["validation"]["documents"] > 1
    assert all(0 <= figure["interval"][0] <= figure["interval"][1] for figure in evaluation["metrics"].values())
    assert "the source, copied" in printed and "the source, copied" in (folder / "report.html").read_text()
    assert json.loads((folder / "export" / "swap" / "1" / "assets.extra" / "weights.json").read_text())["weights"] == "int8"


@pytest.mark.slow
def test_the_encoder_takes_sources_as_long_as_the_datas_and_lies_beside_the_gpt(finished):
    folder, _, _ = finished

    model = build.load_model(folder / "model")
    recipe = load_recipe(finished[1])[0]
    assert training_estimate(recipe, model.config.vocab_size).parameters == model.count_params()
    assert (model.encoder.context, len(model.encoder.h), model.config.n_positions) == (16, 1, 24)
    assert all(name.startswith("encoder.") for name in load_file(folder / "model" / "adaptation.safetensors"))


@pytest.mark.slow
def test_the_export_writes_what_the_saved_model_writes(finished):
    folder, _, _ = finished
    text_model = TextModel(build.load_model(folder / "model", "int8"), load_tokenizer(folder / "tokenizer"))

    there = ask_in_fresh_process(folder / "export" / "swap" / "1", ["ab cd", "gh"], max_new_tokens=7)

    assert [row["text"] for row in there] == [row.text for row in text_model.generate(["ab cd", "gh"], 7)]


@pytest.mark.slow
def test_a_second_run_does_nothing_again_and_generate_takes_sources(finished, capsys):
    folder, recipe, _ = finished

    again = called("run", recipe, "--output", folder)
    assert cli.main(["generate", "--model", str(folder), "--prompt", "ab cd", "--max-new-tokens", "5"]) == 0

    assert again.stderr.count("up to date") == 8
    text_model = TextModel(build.load_model(folder / "model"), load_tokenizer(folder / "tokenizer"))
    assert capsys.readouterr().out.rstrip("\n") == text_model.generate(["ab cd"], 5)[0].text.rstrip("\n")


@pytest.mark.slow
def test_a_run_without_a_task_may_go_on_from_a_model_that_has_an_encoder(finished, plain, tmp_path):
    folder, recipe = finished[0], plain
    start = ["--model.init", folder / "model", "--tokenizer.init", folder / "tokenizer", "--adapt.encoder.kind", "none"]

    done = called("run", recipe, "--output", tmp_path / "on", *start, "--export.weights", "float32")

    assert done.returncode == 0, done.stderr
    assert set(json.loads((tmp_path / "on" / "evaluation.json").read_text())["metrics"]) == {"accuracy"}
    assert build.load_model(tmp_path / "on" / "model").adaptation == build.load_model(folder / "model").adaptation


@pytest.mark.slow
def test_a_copied_encoder_trains_with_pruned_heads_and_lora(table, tmp_path):
    (tmp_path / "swap.yaml").write_text(RECIPE.format(path=table, kind="copy", more=PLAIN))

    changes = ["--adapt.attention.prune", "0.25", "--adapt.lora.rank", "2", "--export.weights", "float32"]

    done = called("run", tmp_path / "swap.yaml", "--output", tmp_path / "run", *changes)

    assert done.returncode == 0, done.stderr
    start, model = (build.load_model(tmp_path / "run" / part) for part in ("checkpoints/start", "model"))
    assert model.adaptation.pruned_heads and model.adaptation.encoder.kind == "copy" and not model.adaptation.lora.rank
    before, after = (dict(zip(one.weight_names, one.weights)) for one in (start, model))
    moved = {name for name in ("wte.weight", "h.1.mlp.c_fc.weight") if tf.reduce_any(before[name] != after[name])}
    moved |= {name for name in ("mlp.c_fc.weight", "ln_1.bias") if tf.reduce_any(before[f"h.0.{name}"] != after[f"encoder.h.0.{name}"])}
    assert moved == {"mlp.c_fc.weight", "ln_1.bias"}  # with LoRA what is new is trained, the encoder among it


@pytest.mark.parametrize(("changes", "message"), [
    (["--adapt.encoder.kind", "none"], "data.examples: translation needs a model with an encoder; set adapt.encoder.kind to new or copy"),
    (["--data.examples", "pairs", "--data.columns.prompt", "from"], "adapt.encoder.kind: new reads sources, which data.examples: pairs has not"),
    (["--adapt.encoder.context", "12"], "data.source_length: 16 tokens is longer than the 12 that the encoder takes; set it to 12 or less, or raise"),
    (["--adapt.encoder.kind", "copy", "--adapt.encoder.layers", "3"], "adapt.encoder.layers: 3 cannot be copied from a model that has 2; set it to 2 or less"),
    (["--data.source_length", "30", "--adapt.encoder.kind", "copy"], "adapt.encoder.context: 30 cannot be copied from a model that has 24"),
])  # fmt: skip
def test_what_does_not_fit_is_told_before_any_work(plain, tmp_path, changes, message):
    done = called("run", plain, "--output", tmp_path / "run", *changes)

    assert done.returncode == 2 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_encoder_is_not_given_twice(finished, tmp_path):
    folder, recipe, _ = finished

    done = called("run", recipe, "--output", tmp_path / "run", "--model.init", folder / "model", "--tokenizer.init", folder / "tokenizer")

    assert done.returncode == 2 and "adapt.encoder.kind: new, and the model has an encoder; give new or copy to one that has none" in done.stderr
