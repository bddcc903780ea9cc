"""Whole runs by the command line, on a corpus of their own: resumed, repeated, killed, and with bad input."""
import json
import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from transformers import GPT2LMHeadModel, GPT2TokenizerFast, TFGPT2LMHeadModel

from tests.commands import called, command, in_a_process
from tfgpt import cli
from tfgpt.models import build, surgery
from tfgpt.models.lora import load_lora, merge_lora
from tfgpt.models.weights import state
from tfgpt.recipe import LoraConfig, RecipeError
from tfgpt.serving.ask import ask_in_fresh_process
from tfgpt.serving.manifest import verify_manifest
from tfgpt.serving.saved_model import read_signatures
from tfgpt.stages.model import load_made

RECIPE = """
name: tiny
data: {{path: {corpus}, length: 32}}
tokenizer: {{vocab: 400}}
model: {{layers: 1, width: 32, heads: 2, dropout: 0.1}}
train: {{steps: {steps}, global_batch_size: 4, evaluate_every: 10, log_every: 5, sample_tokens: 4, schedule: {{peak: 3.0e-3, warmup_steps: 5}}}}
evaluate: {{prompts: ["The "], max_new_tokens: 5}}
"""
OUTPUTS = {"recipe.yaml", "stages.json", "data", "tokenizer", "checkpoints", "model", "logs", "evaluation.json", "report.html", "export"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, documents):
    folder = tmp_path_factory.mktemp("corpus")
    for number, text in enumerate(documents[20:60]):
        (folder / f"{number:02}.txt").write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def recipe(corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE.format(corpus=corpus, steps=25))
    return path


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    """A finished run's folder and what the command printed."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    done = in_a_process("run", recipe, "--output", folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def weights(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model" / "model.safetensors")


def assert_no_rest(folder):
    assert not [path for path in folder.rglob("*") if path.name.startswith(".partial-")]


@pytest.mark.slow
def test_the_folder_is_that_of_the_contract_and_loads_everywhere(finished):
    folder, _ = finished

    assert {path.name for path in folder.iterdir()} == OUTPUTS
    assert {"config.json", "model.safetensors", "generation_config.json"} == {path.name for path in (folder / "model").iterdir()}
    tokenizer = GPT2TokenizerFast.from_pretrained(folder / "tokenizer")
    ids = tokenizer("The statement", return_tensors="np").input_ids
    theirs = GPT2LMHeadModel.from_pretrained(folder / "model").eval()
    import torch

    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(TFGPT2LMHeadModel.from_pretrained(folder / "model")(ids).logits, expected, atol=1e-4)
    stats = json.loads((folder / "data" / "stats.json").read_text())
    assert stats["documents"] == 40 == sum(split["documents"] for split in stats["splits"].values())
    assert re.fullmatch("[0-9a-f]{64}", stats["inputs_sha256"])
    base = folder / "export" / "tiny"
    verify_manifest(base / "1")
    beside = {"models.config", "batching_parameters.txt", "monitoring.config", "docker-compose.yml", "kubernetes.yaml"}
    assert {path.name for path in base.iterdir()} == {"1", *beside}
    assert (base / "1" / "assets" / "recipe.yaml").read_text() == (folder / "recipe.yaml").read_text()
    card = (base / "1" / "assets" / "model_card.md").read_text()
    assert f"{json.loads((folder / 'evaluation.json').read_text())['perplexity']:.4f}" in card and "Trained from random weights" in card
    assert_no_rest(folder)


@pytest.mark.slow
def test_weights_of_fewer_bits_are_exported_with_what_they_cost(recipe, finished, tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(finished[0], folder)

    done = in_a_process("run", recipe, "--output", folder, "--export.version", "2", "--export.weights", "int8")

    assert done.returncode == 0, done.stderr
    (base,) = (folder / "export").iterdir()
    verify_manifest(base / "2")
    cost = json.loads((base / "2" / "assets.extra" / "weights.json").read_text())
    assert cost["perplexity"]["float32"] == json.loads((folder / "evaluation.json").read_text())["perplexity"]
    assert 0.99 < cost["ratio"] == cost["perplexity"]["int8"] / cost["perplexity"]["float32"] < 1.01
    assert cost["ratio"] != 1.0
    sizes = [(base / version / "variables" / "variables.data-00000-of-00001").stat().st_size for version in ("1", "2")]
    assert sizes[1] < 0.5 * sizes[0]
    assert ask_in_fresh_process(base / "2", ["The statement"], max_new_tokens=5)[0]["token_count"] == 5


@pytest.mark.slow
def test_a_search_and_a_draft_model_are_exported(recipe, finished, tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(finished[0], folder)

    done = in_a_process("run", recipe, "--output", folder, "--export.version", "2", "--export.beams", "2", "--export.draft", finished[0])

    assert done.returncode == 0, done.stderr
    (base,) = (folder / "export").iterdir()
    assert "search" in read_signatures(base / "2") and "search" not in read_signatures(base / "1")
    sizes = [(base / version / "variables" / "variables.data-00000-of-00001").stat().st_size for version in ("1", "2")]
    assert sizes[1] > 1.9 * sizes[0]
    texts = [ask_in_fresh_process(base / version, ["The statement"], max_new_tokens=5)[0]["text"] for version in ("1", "2")]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_the_evaluation_is_over_every_token_beside_the_baseline(finished):
    folder, _ = finished
    evaluation = json.loads((folder / "evaluation.json").read_text())
    of_split = json.loads((folder / "data" / "stats.json").read_text())["splits"]["validation"]

    assert evaluation["tokens"] == of_split["tokens"]
    for row in (evaluation, evaluation["baseline"]):
        assert row["perplexity"] == pytest.approx(np.exp(row["loss"]))
        assert row["bits_per_byte"] == pytest.approx(row["loss"] * of_split["tokens"] / np.log(2) / of_split["bytes"])
    assert evaluation["baseline"]["name"].startswith("5-gram")
    low, high = evaluation["metrics"]["accuracy"]["interval"]
    assert low < evaluation["metrics"]["accuracy"]["value"] < high
    assert f"{evaluation['bits_per_byte']:.4f}" in (folder / "report.html").read_text()
    assert set(evaluation) == {"loss", "perplexity", "bits_per_byte", "tokens", "split", "baseline", "metrics", "seconds", "versions"}


@pytest.mark.slow
def test_the_command_prints_continuations_figures_and_what_to_do_next(finished):
    folder, done = finished

    for part in ("[The ]", "5-gram, modified Kneser-Ney", "bits per byte", f"tensorboard --logdir {folder}/logs", "tfgpt serve --model tiny=", "curl -d"):
        assert part in done.stdout
    assert "step 25: loss" in done.stderr
    assert "Traceback" not in done.stderr and "oneDNN" not in done.stderr


def tensor_of(event):
    from tensorboard.util import tensor_util

    return tensor_util.make_ndarray(event.tensor_proto)


@pytest.mark.slow
def test_tensorboard_and_the_curves_have_every_scalar_and_samples(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = finished
    events = {}
    for split in ("train", "validation"):
        events[split] = EventAccumulator(str(folder / "logs" / split))
        events[split].Reload()

    scalars = {"loss", "perplexity", "bits_per_byte", "accuracy", "tokens_per_second"}
    of_training = {"learning_rate", "gradient_norm", "weight_norm", "utilization", "memory_gigabytes", "padding"}
    pictures = {"attention, layer 1", "next token"}
    assert set(events["train"].Tags()["tensors"]) == scalars | of_training
    assert set(events["validation"].Tags()["tensors"]) == scalars | {"samples", "_hparams_/session_start_info"} | pictures
    last = {name: float(tensor_of(events["train"].Tensors(name)[-1])) for name in scalars | of_training}
    stats = json.loads((folder / "data" / "stats.json").read_text())["splits"]["train"]
    assert last["bits_per_byte"] == pytest.approx(last["loss"] / np.log(2) * stats["tokens"] / stats["bytes"], rel=1e-5)
    assert 0 <= last["padding"] < 0.2 and 0 < last["utilization"] < 1 and last["memory_gigabytes"] > 0.3 and last["weight_norm"] > 1
    assert (folder / "logs" / "embeddings" / "projector_config.pbtxt").is_file()
    assert len((folder / "logs" / "embeddings" / "embeddings.tsv").read_text().splitlines()) == 400
    assert [event.step for event in events["train"].Tensors("loss")] == [5, 10, 15, 20, 25]
    assert [event.step for event in events["validation"].Tensors("samples")] == [10, 20, 25]
    assert (folder / "logs" / "curves.png").stat().st_size > 5000
    rows = (folder / "logs" / "curves.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [
        ["5", "train"], ["10", "train"], ["10", "validation"], ["15", "train"], ["20", "train"], ["20", "validation"], ["25", "train"], ["25", "validation"]
    ]  # fmt: skip


@pytest.mark.slow
def test_nothing_is_done_twice_and_a_changed_setting_runs_its_stage_and_what_follows(finished, recipe):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name not in ("recipe.yaml", "stages.json")}

    again = called("run", recipe, "--output", folder)

    stages = ["tokenizer", "data", "model", "train", "evaluate", "export"]
    assert [line for line in again.stderr.splitlines() if "up to date" in line] == [f"{stage}: up to date" for stage in stages]
    assert before == {path: path.stat().st_mtime_ns for path in before}

    changed = called("run", recipe, "--output", folder, "--evaluate.ngram_order", "3")

    assert [line for line in changed.stderr.splitlines() if "up to date" in line] == [f"{stage}: up to date" for stage in stages[:4]]
    assert "3-gram" in (folder / "evaluation.json").read_text()
    model = folder / "model" / "model.safetensors"
    assert model.stat().st_mtime_ns == before[model]


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_with_the_weights_of_an_undisturbed_one(finished, recipe, tmp_path):
    folder = tmp_path / "killed"
    steps, killed = folder / "checkpoints" / "steps", 0
    for moment in ("step-000000010", ".partial-step-000000020-*/*"):  # between two checkpoints; while one is being written
        process = subprocess.Popen(command("train", recipe, "--output", folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 240
        while not any(steps.glob(moment)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.0005)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
        assert not (folder / "model").exists() or process.returncode == 0
    assert killed >= 1

    done = in_a_process("train", recipe, "--output", folder)

    assert done.returncode == 0, done.stderr
    assert re.search(r"going on from the checkpoint of step (10|20)", done.stderr)
    undisturbed, resumed = weights(finished[0]), weights(folder)
    for name in undisturbed:
        np.testing.assert_array_equal(resumed[name], undisturbed[name], err_msg=name)  # to the bit: data order and dropout follow from the step
    assert_no_rest(folder)


@pytest.mark.slow
def test_sigterm_ends_a_training_in_order_and_the_same_command_goes_on(finished, recipe, tmp_path):
    folder = tmp_path / "stopped"
    process = subprocess.Popen(command("train", recipe, "--output", folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (folder / "checkpoints" / "steps" / "step-000000010").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.terminate()
    stderr = process.communicate(timeout=120)[1]

    assert process.returncode == 143, stderr
    assert re.search(r"error: stopped by SIGTERM after step \d+, which is saved; the same command goes on from there$", stderr.strip()), stderr
    assert "Traceback" not in stderr
    assert in_a_process("train", recipe, "--output", folder).returncode == 0
    undisturbed, resumed = weights(finished[0]), weights(folder)
    for name in undisturbed:
        np.testing.assert_array_equal(resumed[name], undisturbed[name], err_msg=name)


@pytest.mark.slow
def test_a_changed_corpus_is_noticed(recipe, corpus, finished, tmp_path):
    (tmp_path / "corpus").mkdir()
    for path in corpus.iterdir():
        (tmp_path / "corpus" / path.name).write_bytes(path.read_bytes())
    copied = tmp_path / "tiny.yaml"
    copied.write_text(RECIPE.format(corpus=tmp_path / "corpus", steps=2))
    assert called("run", copied, "--output", tmp_path / "run").returncode == 0
    (tmp_path / "corpus" / "new.txt").write_text("One more document.\n")

    again = called("run", copied, "--output", tmp_path / "run")

    assert again.returncode == 0, again.stderr
    assert "up to date" not in again.stderr
    after = (tmp_path / "run" / "stages.json").read_bytes()

    (tmp_path / "short.txt").write_text("".join(f"line {number}\n" for number in range(3)))
    refused = called("run", copied, "--output", tmp_path / "run", "--data.path", tmp_path / "short.txt", "--data.documents", "line", "--data.validation", "0.5")
    same = called("run", copied, "--output", tmp_path / "run")

    assert refused.returncode == cli.USAGE and "less than one sequence" in refused.stderr, refused.stderr
    assert same.stderr.count("up to date") == 6, same.stderr  # what was refused has left the finished run as it was
    assert (tmp_path / "run" / "stages.json").read_bytes() == after


@pytest.mark.parametrize(
    ("content", "overrides", "message"),
    [
        (b"", [], "holds no text"),
        (b"too short\nto train on\n", [], "less than one sequence of data.length (32)"),
        (b"fine so far\nthen \xff\n", ["--data.invalid_utf8", "refuse"], "text.txt:2: byte 0xff is no UTF-8"),
        (b"text " * 99, ["--model.init", "/nowhere"], "model.init: /nowhere is neither a folder"),
        (b"text " * 99, ["--tokenizer.init", "/nowhere"], "tokenizer.init: /nowhere is neither a folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, content, overrides, message):
    (tmp_path / "text.txt").write_bytes(content)
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(corpus=tmp_path / "text.txt", steps=2))

    done = called("run", path, "--output", tmp_path / "run", *overrides)

    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == cli.USAGE, done.stderr
    assert len(errors) == 1 and message in errors[0]
    assert "Traceback" not in done.stderr
    assert_no_rest(tmp_path)


def test_a_context_longer_than_the_starting_models_is_refused_before_any_work(tmp_path, model_folder, tokenizer, corpus):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(corpus=corpus, steps=2))

    done = called("run", path, "--output", tmp_path / "run", "--model.init", model_folder, "--tokenizer.init", tmp_path / "tokenizer", "--data.length", "64")

    assert done.returncode == cli.USAGE
    assert "data.length: 64 tokens is longer than the model's context of 48" in done.stderr
    done = called("run", path, "--output", tmp_path / "run", "--model.init", model_folder, "--tokenizer.init", tmp_path / "tokenizer",
                     "--export.length_buckets", "[16, 48]")
    assert "export.length_buckets: 48 tokens leave no room to write in the model's context of 48" in done.stderr
    done = called("run", path, "--output", tmp_path / "run", "--export.draft", tmp_path)
    assert f"export.draft: {tmp_path} has no config.json; give a folder with a model" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_shard_cut_short_is_named_before_training(finished, recipe, tmp_path):
    shutil.copytree(finished[0] / "data", tmp_path / "run" / "data")
    for name in ("tokenizer", "checkpoints/start"):
        shutil.copytree(finished[0] / name, tmp_path / "run" / name)
    shutil.copy(finished[0] / "stages.json", tmp_path / "run" / "stages.json")
    shard = next((tmp_path / "run" / "data").glob("train-*"))
    shard.write_bytes(shard.read_bytes()[:-9])

    done = called("run", recipe, "--output", tmp_path / "run")

    assert done.returncode == cli.FAILED
    assert f"error: {shard}: " in done.stderr and "the shard was cut short or changed: remove " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_starts_from_a_given_model_and_tokenizer(tmp_path, finished, corpus):
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(corpus=corpus, steps=3))
    start = finished[0]

    done = called("run", path, "--output", tmp_path / "run", "--model.init", start / "model", "--tokenizer.init", start / "tokenizer")

    assert done.returncode == 0, done.stderr
    before, after = (json.loads((folder / "evaluation.json").read_text())["loss"] for folder in (start, tmp_path / "run"))
    assert after < before + 0.3  # three steps more, not a new start (which stands at ln(400) = 6)
    assert (tmp_path / "run" / "tokenizer" / "vocab.json").read_bytes() == (start / "tokenizer" / "vocab.json").read_bytes()

    copied = shutil.copytree(start / "model", tmp_path / "copied")
    overrides = ("--model.init", copied, "--tokenizer.init", start / "tokenizer")
    assert "tokenizer: up to date\ndata: up to date\nmodel: " in called("run", path, "--output", tmp_path / "run", *overrides).stderr
    (copied / "model.safetensors").write_bytes((tmp_path / "run" / "model" / "model.safetensors").read_bytes())
    again = called("run", path, "--output", tmp_path / "run", *overrides)
    assert again.stderr.count("up to date") == 2, again.stderr  # other weights to start from: the model, and what follows from it


@pytest.mark.slow
@pytest.mark.parametrize("examples", ["pairs", "chat"])
def test_a_run_trains_on_pairs_and_chats_and_measures_what_is_trained_on(tmp_path, examples):
    said = [(f"What is {n} plus one?", f"It is {n + 1}.") for n in range(150)]
    rows = {
        "pairs": [{"prompt": asked, "target": told} for asked, told in said],
        "chat": [{"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]} for asked, told in said],
    }[examples]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(corpus=tmp_path / "rows.jsonl", steps=3))

    done = called("run", path, "--output", tmp_path / "run", "--data.examples", examples, "--data.length", "64")

    assert done.returncode == 0, done.stderr
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    tokenizer = GPT2TokenizerFast.from_pretrained(tmp_path / "run" / "tokenizer")
    documents = json.loads((tmp_path / "run" / "data" / "stats.json").read_text())["splits"]["validation"]["documents"]
    longest = max(len(tokenizer(told).input_ids) for _, told in said) + 3
    assert 3 * documents < evaluation["tokens"] <= longest * documents  # the answers, and none of the questions
    assert evaluation["baseline"]["perplexity"] > 1
    assert (tokenizer.chat_template is not None) == (examples == "chat")


@pytest.mark.slow
def test_an_adapted_run_trains_what_is_new_and_keeps_a_plain_gpt2_with_the_changes_beside_it(finished, recipe, tmp_path):
    start, settings = finished[0] / "model", "{lora: {rank: 2}, insert_blocks: [1], attention: {prune: 0.3}}"

    done = called("run", recipe, "--output", tmp_path, "--model.init", start, "--tokenizer.init", finished[0] / "tokenizer", "--adapt", settings)

    assert done.returncode == 0, done.stderr
    assert "adapt: which heads matter" in done.stderr
    initial, model = build.load_model(tmp_path / "checkpoints" / "initial"), build.load_model(tmp_path / "model")
    assert model.low_ranks == {} and model.adaptation.pruned_heads == initial.adaptation.pruned_heads != ()
    before, merged = state(initial), state(model)
    assert {name.split(".", 3)[3] for name in merged if (merged[name] != before[name]).any()} == {"attn.c_attn.weight"}
    again = merge_lora(load_lora(surgery.changed(initial, state(initial, merged=True), lora=LoraConfig()), tmp_path / "adapter"))
    for name, array in state(again).items():
        np.testing.assert_allclose(array, merged[name], atol=1e-6, err_msg=name)  # a sum in another order


@pytest.mark.parametrize(("settings", "message"), [
    ("{train: ['h.*.attention']}", "adapt.train: the pattern 'h.*.attention' matches no weight"),
    ("{insert_blocks: [99]}", "adapt.insert_blocks: there is no block 99"),
    ("{lora: {rank: 2, matrices: ['h.0.ln_1']}}", "adapt.lora.matrices: the pattern 'h.0.ln_1' matches no matrix"),
    ("{attention: {masked_heads: ['0.77']}}", "there is no head '0.77'"),
    ("{lora: {rank: -1}}", "adapt.lora.rank: -1 is too small"),
    ("{lora: {rank: 2}, train: [ln_f]}", "adapt.train: ['ln_f'] without [] (adapt.freeze) leaves lora as it begins; add **.lora"),
    ("{prefix: {tokens: 2, kind: prompt}, train: [ln_f]}", "leaves prefix as it begins; add prompt"),
])
def test_an_adaptation_that_cannot_be_is_refused_before_any_work(recipe, tmp_path, settings, message):
    done = called("run", recipe, "--output", tmp_path / "run", "--adapt", settings)

    assert done.returncode == cli.USAGE
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_starting_model_takes_another_vocabulary_context_and_dropout(finished, recipe, tmp_path):
    changes = {"tokenizer.vocab": 450, "data.length": 48, "train.steps": 10, "adapt.context": 48, "adapt.dropout": 0.0,
               "adapt.embeddings.vocabulary": "tokenizer", "adapt.embeddings.untie": "true"}

    done = called("run", recipe, "--output", tmp_path, "--model.init", finished[0] / "model", *(f"--{key}={value}" for key, value in changes.items()))

    assert done.returncode == 0, done.stderr
    model = build.load_model(tmp_path / "model")
    assert (model.config.vocab_size, model.config.n_positions, model.config.resid_pdrop) == (450, 48, 0.0)
    assert model.lm_head is not None and not np.array_equal(model.output_table(), model.transformer.table())
    curves = (tmp_path / "logs" / "curves.csv").read_text().splitlines()
    first = float(curves[1].split(",")[2])
    assert first < np.log(450) - 0.5  # what the starting model knows is not lost with its vocabulary: from random weights it would be ln(450)


def test_a_vocabulary_cannot_be_exchanged_without_the_old_one(model_folder, recipe, tmp_path):
    shutil.copytree(model_folder, tmp_path / "alone")

    done = called("run", recipe, "--output", tmp_path / "run", "--model.init", tmp_path / "alone", "--adapt.embeddings.vocabulary", "tokenizer")

    assert done.returncode == cli.USAGE
    assert "adapt.embeddings.vocabulary: tokenizer needs the one that model.init" in done.stderr and "Traceback" not in done.stderr


def test_new_tokens_do_not_stand_on_the_rows_of_others(model_folder, recipe, tmp_path):
    """They would be trained without a word and know nothing."""
    done = called("run", recipe, "--output", tmp_path / "run", "--model.init", model_folder)

    assert done.returncode == cli.USAGE
    assert "tokenizer.init: train makes new tokens" in done.stderr and "Traceback" not in done.stderr and not (tmp_path / "run").exists()


def test_damaged_weights_of_a_starting_model_are_known_before_any_work(model_folder, tokenizer, recipe, tmp_path):
    shutil.copytree(model_folder, tmp_path / "cut")
    whole = (tmp_path / "cut" / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    tokenizer.save_pretrained(tmp_path / "tokenizer")

    done = called("run", recipe, "--output", tmp_path / "run", "--model.init", tmp_path / "cut", "--tokenizer.init", tmp_path / "tokenizer")

    assert done.returncode == cli.USAGE
    assert "is no safetensors file, or a damaged one" in done.stderr and "Traceback" not in done.stderr and not (tmp_path / "run").exists()


def test_damaged_weights_of_a_run_are_told_with_what_makes_them_anew(model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])

    with pytest.raises(RecipeError, match=r"is no safetensors file, or a damaged one.*; get it again, or remove .*/model, and the run makes it again$"):
        load_made(tmp_path, "model")


def test_vectors_that_are_damaged_in_their_midst_are_known_before_any_training(recipe, tmp_path):
    rows = [f"word{number} 0.5 {number}.0" for number in range(50)]
    (tmp_path / "vectors.txt").write_text("\n".join([*rows, "of nan 1.0", *rows[:1]]) + "\n")

    done = called("run", recipe, "--output", tmp_path / "run", "--adapt.pretrain.steps", "5", "--adapt.embeddings.vectors", tmp_path / "vectors.txt")

    assert done.returncode == cli.USAGE
    assert "has a number that is none in the vector of 'of'" in done.stderr and "Traceback" not in done.stderr and not (tmp_path / "run").exists()
