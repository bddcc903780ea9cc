"""A cluster of two worker processes on this machine, by the command: its losses, a worker that dies, one that is told to end."""
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

RECIPE = """
name: cluster
data: {path: CORPUS, length: 32}
tokenizer: {vocab: 400}
model: {layers: 1, width: 32, heads: 2, dropout: 0.1}
train: {steps: 40, global_batch_size: 8, accumulate: 2, evaluate_every: 10, checkpoint_every: 5, log_every: 2, sample_prompts: [],
        schedule: {peak: 3.0e-3, warmup_steps: 5}}
"""
MINUTES = 5


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, documents):
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "corpus.txt").write_text("\n\n".join(documents[20:60]), "utf-8")
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.replace("CORPUS", str(folder / "corpus.txt")))
    return path


def start(recipe, folder, config=None, *more):
    environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"} | ({"TF_CONFIG": json.dumps(config)} if config else {})
    command = [sys.executable, "-m", "tfgpt", "train", str(recipe), "--output", str(folder), *more]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_workers(recipe, folder):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(2)]
    addresses = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return [start(recipe, folder, {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": number}}) for number in range(2)]


def ended(process):
    out, err = process.communicate(timeout=60 * MINUTES)
    return process.returncode, out, err


def wait_for(path, processes):
    end = time.monotonic() + 60 * MINUTES
    while not path.exists():
        assert time.monotonic() < end and all(process.poll() is None for process in processes), [ended(process) for process in processes if process.poll()]
        time.sleep(0.02)


def curves(folder):
    with open(folder / "logs" / "curves.csv", newline="") as file:
        return {(int(row["step"]), row["split"]): float(row["loss"]) for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def undisturbed(recipe, tmp_path_factory):
    """The curves of one process on one device."""
    folder = tmp_path_factory.mktemp("one")
    code, _, err = ended(start(recipe, folder))
    assert code == 0, err
    return curves(folder)


def disturbed(recipe, folder, step, disturb):
    """Start the cluster, disturb it once the checkpoint of a step is there, and return how its workers ended."""
    workers = start_workers(recipe, folder)
    wait_for(folder / "checkpoints" / "steps" / f"step-{step:09}", workers)
    disturb(workers)
    return [ended(worker) for worker in workers]


@pytest.mark.slow
def test_a_cluster_outlives_its_workers_and_has_the_losses_of_one_process(recipe, undisturbed, tmp_path):
    for victim, step in ((0, 10), (1, 20)):
        codes = disturbed(recipe, tmp_path, step, lambda workers, victim=victim: workers[victim].kill())

        assert codes[victim][0] == -signal.SIGKILL
        code, _, err = codes[1 - victim]
        assert code == 1 and "Traceback" not in err
        assert f"error: worker {1 - victim} of 2: another worker of the cluster is gone; start all workers again with the same command" in err
        assert not (tmp_path / "model").exists()

    codes = disturbed(recipe, tmp_path, 30, lambda workers: workers[1].terminate())

    steps = {line.partition("after step ")[2].split(",")[0] for _, _, err in codes for line in err.splitlines() if "stopped by SIGTERM" in line}
    assert [code for code, *_ in codes] == [143, 143] and len(steps) == 1, codes
    assert (tmp_path / "checkpoints" / "steps" / f"step-{int(steps.pop()):09}").is_dir()

    chief, other = (ended(worker) for worker in start_workers(recipe, tmp_path))

    assert (chief[0], other[0]) == (0, 0), chief[2] + other[2]
    assert "train: going on from the checkpoint of step" in chief[2]
    assert f"The model is in {tmp_path / 'model'}." in chief[1] and "worker 1 of 2" in other[2] and other[1] == ""
    found = curves(tmp_path)
    assert set(found) == set(undisturbed) and len(found) == 24
    for place, loss in undisturbed.items():
        assert found[place] == pytest.approx(loss, abs=1e-4), place
    assert [ended(worker)[0] for worker in start_workers(recipe, tmp_path)] == [0, 0]  # nothing is left to train, and nobody waits
