"""Runs with a stage of language modelling before the fine-tune: killed, repeated, changed, on two devices, and by a cluster."""
import csv
import json
import os
import signal
import subprocess

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.commands import called, command
from tests.test_cluster import ended, start_workers, wait_for
from tests.test_pipeline import assert_no_rest
from tfgpt import cli
from tfgpt.recipe import AdaptConfig, DataConfig, LoraConfig, PretrainConfig, Recipe, ScheduleConfig, TrainConfig
from tfgpt.stages.plan import is_adapted, pretrain_config, start_of

RECIPE = """
name: small
data: {path: PAIRS, examples: pairs, length: 32}
tokenizer: {vocab: 300}
model: {layers: 1, width: 32, heads: 2, dropout: 0.1}
adapt: {pretrain: {steps: 20, peak: 2.0e-3}}
train: {steps: 10, global_batch_size: 4, evaluate_every: 10, checkpoint_every: 5, log_every: 5, sample_prompts: [], schedule: {peak: 1.0e-3, warmup_steps: 5}}
"""
OTHER_ORDER = 3e-3
"""Float32 sums in another order; AdamW makes whole steps of what is left of gradients that are 0, those of the keys' biases. A step without the
pre-training, or of other batches, is 0.05 or more away."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    rows = [{"prompt": f"What is {n} plus one?", "target": f" It is {n + 1}."} for n in range(200)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE.replace("PAIRS", str(folder / "pairs.jsonl")))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "small"
    done = called("run", recipe, "--output", folder)
    assert done.returncode == 0, done.stderr
    return folder


def assert_same_weights(one, other):
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def curves(folder):
    with open(folder / "curves.csv", newline="") as file:
        return {(int(row["step"]), row["split"]): float(row["loss"]) for row in csv.DictReader(file)}


def test_a_stage_starts_from_what_the_last_one_before_it_wrote():
    def starts(**adapt):
        recipe = Recipe(DataConfig(path="x"), adapt=AdaptConfig(**adapt))
        return [start_of(stage, recipe).removeprefix("checkpoints/") for stage in ("pretrain", "adapt", "train")]

    assert starts() == ["start", "start", "start"]
    assert starts(lora=LoraConfig(rank=2)) == ["start", "start", "initial"]
    assert starts(pretrain=PretrainConfig(steps=5)) == ["start", "pretrained", "pretrained"]
    assert starts(pretrain=PretrainConfig(steps=5), lora=LoraConfig(rank=2)) == ["start", "pretrained", "initial"]
    assert not is_adapted(Recipe(DataConfig(path="x"), adapt=AdaptConfig(pretrain=PretrainConfig(peak=1.0))))


def test_pretraining_is_as_the_training_but_for_its_own_steps_and_peak():
    train = TrainConfig(steps=50, optimizer="lion", profile=(1, 2), l2_start=0.1, layer_decay=0.5, unfreeze_every=3,
                        schedule=ScheduleConfig(kind="wsd", peak=0.5, floor=0.1, decay_steps=30))

    config = pretrain_config(Recipe(DataConfig(path="x"), train=train, adapt=AdaptConfig(pretrain=PretrainConfig(steps=7, peak=0.01))))

    assert (config.steps, config.optimizer, config.profile, config.global_batch_size) == (7, "lion", (), 16)
    assert (config.l2_start, config.layer_decay, config.unfreeze_every) == (0, 1, 0)
    assert config.schedule == ScheduleConfig(kind="wsd", peak=0.01, floor=0.01, decay_steps=7)


@pytest.mark.slow
def test_the_fine_tune_starts_from_a_language_model_of_its_own_text(recipe, trained, tmp_path):
    plain = called("run", recipe, "--output", tmp_path, "--adapt.pretrain.steps", "0")

    assert plain.returncode == 0 and "pretrain" not in plain.stderr
    assert not (tmp_path / "checkpoints" / "pretrained").exists()
    pretraining, after, without = (curves(folder / "logs" / part) for folder, part in ((trained, "pretrain"), (trained, ""), (tmp_path, "")))
    assert pretraining[20, "validation"] < pretraining[10, "validation"] < np.log(300)
    assert after[5, "train"] < without[5, "train"] - 0.5  # twenty steps ahead
    start, pretrained = (load_file(trained / "checkpoints" / name / "model.safetensors") for name in ("start", "pretrained"))
    assert not np.array_equal(start["transformer.wte.weight"], pretrained["transformer.wte.weight"])
    assert {path.name for path in (trained / "logs" / "pretrain").iterdir()} == {"train", "validation", "curves.csv", "curves.png"}


@pytest.mark.slow
def test_it_is_not_done_twice_and_the_trainings_settings_leave_it_as_it_is(recipe, trained):
    kept = [trained / "logs" / "pretrain" / "curves.csv", trained / "checkpoints" / "pretrained" / "model.safetensors"]
    before = [path.stat().st_mtime_ns for path in kept]

    again = called("run", recipe, "--output", trained)
    longer = called("run", recipe, "--output", trained, "--train.steps", "15", "--adapt.lora.rank", "2")

    assert [line for line in again.stderr.splitlines() if "up to date" in line] == [
        f"{stage}: up to date" for stage in ("tokenizer", "data", "model", "pretrain", "train", "evaluate", "export")]
    assert "pretrain: up to date\nadapt: " in longer.stderr and (15, "validation") in curves(trained / "logs")
    assert [path.stat().st_mtime_ns for path in kept] == before
    other = called("run", recipe, "--output", trained, "--adapt.pretrain.peak", "1e-4")
    assert "model: up to date\npretrain: tokenizing" in other.stderr
    assert kept[0].stat().st_mtime_ns != before[0]


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_and_ends_with_the_weights_of_an_undisturbed_one(recipe, tmp_path):
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "killed"
    assert called("run", recipe, "--output", undisturbed).returncode == 0
    process = subprocess.Popen(command("train", recipe, "--output", folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)
    checkpoint = folder / "checkpoints" / "pretrain-steps" / "step-000000005"
    wait_for(checkpoint, [process])
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shards = [path.stat().st_mtime_ns for path in (folder / "data-pretrain").iterdir()]
    assert not (folder / "checkpoints" / "pretrained").exists()

    resumed = called("run", recipe, "--output", folder)

    assert resumed.returncode == 0 and "pretrain: going on from the checkpoint of step" in resumed.stderr, resumed.stderr
    assert [path.stat().st_mtime_ns for path in (folder / "data-pretrain").iterdir()] == shards
    for part in ("checkpoints/pretrained", "model"):
        assert_same_weights(undisturbed / part, folder / part)
    assert_no_rest(folder)


@pytest.mark.slow
def test_two_devices_have_the_losses_of_one(recipe, trained, tmp_path):
    assert called("run", recipe, "--output", trained).returncode == 0  # as it was, whatever the tests above did
    done = called("run", recipe, "--output", tmp_path, "--train.strategy", "mirrored")

    assert done.returncode == 0, done.stderr
    for part in ("logs/pretrain", "logs"):
        one, two = curves(trained / part), curves(tmp_path / part)
        assert two == pytest.approx(one, abs=OTHER_ORDER) and len(one) > 2


@pytest.mark.slow
def test_a_cluster_does_it_together_and_goes_on_where_a_worker_died(recipe, trained, tmp_path):
    assert called("run", recipe, "--output", trained).returncode == 0
    workers = start_workers(recipe, tmp_path)
    wait_for(tmp_path / "checkpoints" / "pretrain-steps" / "step-000000010", workers)
    workers[1].kill()
    chief, _ = (ended(worker) for worker in workers)
    assert chief[0] == cli.FAILED and "error: worker 0 of 2: another worker of the cluster is gone" in chief[2], chief[2]

    chief, other = (ended(worker) for worker in start_workers(recipe, tmp_path))

    assert (chief[0], other[0]) == (0, 0), chief[2] + other[2]
    assert "pretrain: going on from the checkpoint of step" in chief[2]
    assert "pretrain: worker 1 of 2" in other[2] and "train: worker 1 of 2" in other[2]
    for part in ("logs/pretrain", "logs"):
        assert curves(tmp_path / part) == pytest.approx(curves(trained / part), abs=OTHER_ORDER)
    assert [ended(worker)[0] for worker in start_workers(recipe, tmp_path)] == [0, 0]  # nothing is left to train, and nobody waits
