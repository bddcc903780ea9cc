"""From a corpus to a served model by commands, with a store between two machines."""
import json
import time

import httpx
import pytest
import yaml

from tests.serving.served import serving
from tfgpt import cli

RECIPE = """
name: tiny
data: {{path: {corpus}, length: 32}}
tokenizer: {{vocab: 400}}
model: {{layers: 1, width: 32, heads: 2, dropout: 0.0}}
train: {{steps: {steps}, global_batch_size: 4, evaluate_every: 10, sample_prompts: [], schedule: {{peak: 3.0e-3, warmup_steps: 5}}}}
evaluate: {{general: ""}}
export: {{batch_sizes: [1], length_buckets: [8]}}
"""


@pytest.fixture
def tfgpt(capsys):
    """Run a command; return what it prints."""
    def command(*arguments):
        capsys.readouterr()
        code = cli.main([*map(str, arguments)])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return printed.out
    return command


def asked(server, name="tiny"):
    """Return which version answers, and how likely it takes a text to be."""
    body = {"signature_name": "score", "instances": [{"text": "The with statement"}]}
    [status] = [one for one in httpx.get(f"{server.rest}/v1/models/{name}").json()["model_version_status"] if one["state"] == "AVAILABLE"][:1]
    return int(status["version"]), httpx.post(f"{server.rest}/v1/models/{name}:predict", json=body, timeout=60).json()["predictions"][0]["log_prob"]


def until_version(server, version):
    limit = time.monotonic() + 60
    while (found := asked(server))[0] != version:
        assert time.monotonic() < limit, found
        time.sleep(0.1)  # between two looks at another process
    return found[1]


@pytest.mark.slow
def test_a_model_is_trained_published_found_promoted_pulled_and_served_by_commands(tmp_path, documents, monkeypatch, tfgpt):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFGPT_STORE", "store")
    (tmp_path / "corpus").mkdir()
    for number, text in enumerate(documents[20:50]):
        (tmp_path / "corpus" / f"{number:02}.txt").write_text(text, "utf-8")
    (tmp_path / "tiny.yaml").write_text(RECIPE.format(corpus="corpus", steps=20))
    tfgpt("store", "init")

    tfgpt("run", "tiny.yaml", "--publish.name", "tiny", "--publish.licence", "mit", "--publish.tags", "[reference]", "--publish.by", "jane")
    [found] = json.loads(tfgpt("store", "search", "reference", "--licence", "mit", "--json"))
    tfgpt("store", "promote", "tiny:1", "--by", "jane")
    evaluation = json.loads((tmp_path / "runs" / "tiny" / "evaluation.json").read_text())
    assert (found["reference"], found["loss"], found["stage"]) == ("store://tiny:1", evaluation["loss"], "draft")
    assert json.loads((tmp_path / "runs" / "tiny" / "published.json").read_text()) == {"reference": "store://tiny:1"}

    tfgpt("store", "pull", "tiny@production", "elsewhere/tiny")
    asked_for = [tfgpt("generate", "--model", model, "--prompt", "The ", "--max-new-tokens", 8)
                 for model in ("runs/tiny", "elsewhere/tiny", "store://tiny@production")]  # fmt: skip
    assert len(set(asked_for)) == 1

    started = ["--name", "next", "--model.init", "store://tiny@production", "--tokenizer.init", "store://tiny"]
    assert "32, 2 heads" in tfgpt("train", "tiny.yaml", *started, "--dry-run")
    tfgpt("run", "tiny.yaml", *started, "--publish.name", "tiny", "--publish.by", "jane")
    second = json.loads(tfgpt("store", "show", "tiny:2", "--json"))
    resolved = yaml.safe_load((tmp_path / "runs" / "next" / "recipe.yaml").read_text())
    assert resolved["model"]["init"] == resolved["tokenizer"]["init"] == second["base_model"] == "store://tiny:1"
    assert second["loss"] < found["loss"]  # it went on from there

    with serving("--model", "tiny=store://tiny@production", "--model", "fixed=store://tiny:1") as server:
        version, log_prob = asked(server)
        tfgpt("store", "promote", "tiny:2", "--by", "jane")
        promoted = until_version(server, 2)
        tfgpt("store", "rollback", "tiny", "--by", "jane")
        rolled_back = until_version(server, 1)
        assert version == 1 and log_prob == rolled_back == asked(server, "fixed")[1] and promoted > log_prob + 0.1
        assert asked(server, "fixed")[0] == 1


@pytest.mark.parametrize(("options", "message"), [
    (["--model.init", "store://nothing"], "model.init: store://nothing: there is no model nothing"),
    (["--model.init", "store://../x"], "model.init: name: '../x' cannot name a model"),
    (["--publish.name", "Not Small"], "publish.name: 'Not Small' cannot name a model"),
    (["--publish.name", "x", "--publish.licence", "<b>"], "publish.licence: '<b>' is not allowed"),
    (["--publish.name", "x", "--publish.store", "nowhere"], "publish.store: nowhere: there is no store"),
    (["--publish.name", "x", "--publish.card", "nowhere.md"], "publish.card: nowhere.md is not there"),
    (["--publish.licence", "mit"], "publish.name: empty, with other settings"),
    (["--publish.stage", "live"], "publish.stage: live is not one of")])  # fmt: skip
def test_what_a_recipe_cannot_publish_or_start_from_is_refused_before_any_work(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFGPT_STORE", "store")
    (tmp_path / "tiny.yaml").write_text(RECIPE.format(corpus="python-docs", steps=1))
    assert cli.main(["store", "init"]) == 0

    code = cli.main(["run", "tiny.yaml", *options])

    assert code == cli.USAGE and message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_store_reference_that_cannot_be_served_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFGPT_STORE", str(tmp_path / "store"))
    assert cli.main(["serve", "--model", "x=store://x"]) == cli.USAGE
    cli.main(["store", "init"])
    assert cli.main(["serve", "--model", "x=store://x"]) == cli.USAGE

    printed = capsys.readouterr().err
    assert "there is no store; tfgpt store init" in printed and "store://x: there is no model x" in printed
