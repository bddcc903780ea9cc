"""Examples in docstrings, and what the README says about files and names, are true."""
import doctest
import importlib
import json
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from transformers import GPT2Config

import tfgpt
from tests.serving.served import serving
from tfgpt.models.surgery import add_head
from tfgpt.recipe import HeadConfig
from tfgpt.recipe_file import load_recipe

ROOT = Path(__file__).parent.parent
MODULES = sorted(module.name for module in pkgutil.walk_packages(tfgpt.__path__, "tfgpt.") if not module.name.endswith("__main__"))


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_print_what_they_say(name, model, tokenizer):
    names = {"tf": tf, "np": np, "tf_keras": tf_keras, "GPT2Config": GPT2Config, "model": model, "tokenizer": tokenizer}
    module = importlib.import_module(name)

    result = doctest.testmod(module, extraglobs=names, optionflags=doctest.NORMALIZE_WHITESPACE)

    assert result.failed == 0


def test_every_module_says_what_is_in_it():
    assert all(importlib.import_module(name).__doc__ for name in MODULES)


def test_the_readmes_links_lead_to_files():
    for page in ("README.md", "CONTRIBUTING.md", "pipelines/README.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text("utf-8")):
            assert target.startswith("http") or (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


@pytest.mark.slow
def test_the_readmes_python_runs(model, tokenizer, tmp_path, monkeypatch):
    first, *others = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for run in {"quickstart", *re.findall(r'load_text_model\("runs/(\w+)"\)', "".join(others))}:
        tokenizer.save_pretrained(f"runs/{run}/tokenizer")
        hears = add_head(model, HeadConfig("labels"), ["beat 2|rhyme AY T|syllables 2"]) if run == "verse" else model
        hears.save_pretrained(f"runs/{run}/model")

    exec(first.replace("length=256", f"length={model.config.n_positions}"), {})  # the test's model has a shorter context
    with serving("--model", "quickstart=export/my-model") as server:
        for code in others:
            exec(code.replace("http://127.0.0.1:8501", server.rest), {})

    assert (tmp_path / "my-model" / "model.safetensors").exists()
    assert (tmp_path / "export" / "my-model" / "1" / "saved_model.pb").exists()
    assert (tmp_path / "prepared" / "index.json").exists()


def test_the_readmes_recipes_are_some(tmp_path):
    pieces = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    for number, piece in enumerate(pieces):
        (tmp_path / f"{number}.yaml").write_text(piece if "data:" in piece else "data: {path: python-docs}\n" + piece)

    loaded, training, adapting = [load_recipe(tmp_path / f"{number}.yaml")[0] for number in range(len(pieces))][:3]

    assert adapting.adapt.lora.rank == 8 and adapting.adapt.insert_blocks == (12,)
    assert (training.model.shape.layers, training.train.accumulate, training.train.schedule.kind) == (12, 8, "wsd")
    assert [source.weight for source in loaded.data.sources] == [3.0, 1.0]
    assert loaded.data.all_sources()[0].columns.prompt == "question"


def test_dependencies_are_pinned_within_their_ranges():
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    wanted = re.findall(r"^    ([a-z][\w-]*)(?:\[[\w-]+\])? (?=[><]|==)", (ROOT / "setup.cfg").read_text("utf-8"), re.MULTILINE)

    assert len(wanted) > 15
    assert not [name for name in wanted if name not in pins]


def test_the_kubernetes_job_gives_each_pod_its_cluster(monkeypatch):
    import os

    import yaml

    from tfgpt.training.devices import cluster_workers

    service, job = yaml.safe_load_all((ROOT / "docs" / "train-job.yaml").read_text("utf-8"))
    pod = job["spec"]["template"]["spec"]
    *python, code = pod["containers"][0]["command"]
    started = []
    monkeypatch.setattr(os, "execvp", lambda program, arguments: started.append(arguments))
    monkeypatch.setenv("TF_CONFIG", "")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")

    exec(code, {})

    assert python == ["python", "-c"] and started[0][:2] == ["tfgpt", "run"]
    assert cluster_workers() == [("worker", number) for number in range(job["spec"]["completions"])]
    address = json.loads(os.environ["TF_CONFIG"])["cluster"]["worker"][3]
    name, port = address.split(":")
    assert name == f"{job['metadata']['name']}-3.{service['metadata']['name']}" and pod["subdomain"] == service["metadata"]["name"]
    assert int(port) == pod["containers"][0]["ports"][0]["containerPort"]
