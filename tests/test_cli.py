import json
import subprocess
import sys

import pytest

from tests.commands import called, in_a_process
from tfgpt import cli

HEAVY = {"tensorflow", "torch", "transformers", "keras", "tf_keras"}


COMMANDS = (["run"], ["train"], ["generate"], ["export"], ["serve"], ["client"], ["client", "generate"], ["client", "score"], ["store"], ["store", "publish"],
            ["store", "search"])


def test_help_imports_no_tensorflow():
    calls = [["--help"], [], ["--version"], *([*command, "--help"] for command in COMMANDS)]
    code = f"""
import contextlib, io, json, sys
from tfgpt.cli import main
for arguments in {calls!r}:
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as exit:
            code = exit.code or 0
    print(json.dumps([arguments, code, out.getvalue(), err.getvalue(), sorted({HEAVY!r} & set(sys.modules))]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.stderr == "" and [arguments for arguments, *_ in found] == calls
    for arguments, code, out, err, heavy in found:
        assert (code, err, heavy) == (0, "", []) and out.count("\n") > (arguments != ["--version"]), arguments


def test_import_tfgpt_imports_no_tensorflow():
    code = f"import sys, tfgpt, tfgpt.cli, tfgpt.recipe; print(sorted({HEAVY!r} & set(sys.modules)), tfgpt.__version__)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.startswith("[] 0.")


def test_tensorflow_is_imported_without_what_no_command_gives_keras_and_what_is_needed_later_is_found():
    code = """
import os, sys
os.environ["TF_USE_LEGACY_KERAS"], os.environ["USE_TORCH"] = "1", "0"
from tfgpt.cli_support import import_tensorflow_quietly
import_tensorflow_quietly()
import tfgpt.pipeline
from transformers.utils import is_scipy_available
print(sorted({"pandas", "scipy", "sklearn", "pyarrow"} & set(sys.modules)), is_scipy_available())
import scipy.stats, pandas
import_tensorflow_quietly()
print(sys.modules["pandas"] is pandas, scipy.stats.norm.cdf(0.0))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == ["[] True", "True 0.5"]


def test_public_names_are_there():
    import tfgpt

    for name in tfgpt.__all__:
        assert getattr(tfgpt, name).__doc__
    with pytest.raises(AttributeError, match="tfgpt has no Model; it has DataConfig, GPTLMHeadModel"):
        _ = tfgpt.Model


def test_help_gives_units_and_defaults():
    text = " ".join(in_a_process("run", "--help").stdout.split())

    for part in ("Optimizer steps.", "default: 1000", "--data.length LENGTH Tokens in a packed sequence.", "0 = none", "0 = greedy"):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "nonsense is no command; the commands are run, train, data, evaluate, generate, export, serve, client, store, bench"),
        (["run"], "the recipe is missing"),
        (["run", "nowhere.yaml"], "nowhere.yaml: no such recipe"),
        (["run", "pipelines/quickstart.yaml", "--train.step", "4"], "--train.step: no such key (4); did you mean --train.steps?"),
        (["export"], "nothing to export; give a run's folder, such as runs/quickstart, or --check DIR"),
        (["export", "nowhere"], "nowhere is no folder; give an existing one"),
        (["export", "pipelines", "--batch-sizes", "4", "2"], "export.batch_sizes: [4, 2] is no list of rising whole numbers"),
        (["export", "pipelines", "--format", "tflite", "--jit"], "--jit is a server's, and --format tflite is for none"),
        (["export", "pipelines"], "pipelines"),
        (["serve", "--mode", "x=y"], "--mode"),
        (["serve"], "--model"),
        (["serve", "--model", "x"], "--model x is not NAME=DIR"),
        (["serve", "--model", "x=nowhere"], "nowhere holds no version of an exported model"),
        (["serve", "--model", "x=y", "--port", "many"], "--port"),
        (["serve", "--model", "x=y", "--grpc-port", "99999"], "--grpc-port 99999 is no port; give -1 to 65535"),
        (["serve", "--model", "x=y", "--cors", "example"], "--cors example is no origin; give one such as https://example.org, or *"),
        (["client"], "give generate or score"),
        (["client", "generate"], "--prompt"),
        (["client", "generate", "--prompt", "x", "--temperature", "hot"], "temperature"),
        (["bench", "generate", "--batch", "1", "many"], "--batch: many is not a whole number"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(arguments, message):
    assert_refused(called(*arguments), message)


@pytest.mark.parametrize(("arguments", "message"), [(["nonsense"], "nonsense is no command"), (["export", "pipelines"], "pipelines")])
def test_nor_has_a_process_more_to_say(arguments, message):
    """TensorFlow's C++ part writes to the process's standard error itself."""
    assert_refused(in_a_process(*arguments), message)


def assert_refused(done, message):
    assert done.returncode == cli.USAGE, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
    assert message in done.stderr


def test_bad_data_is_refused_before_any_work(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"name: bad\ndata: {{path: {tmp_path}/missing.txt}}\n")

    done = called("run", recipe, "--output", tmp_path / "run")

    assert (done.returncode, done.stdout) == (cli.USAGE, "")
    assert done.stderr.startswith(f"error: data.path: no file {tmp_path}/missing.txt; give an existing file") and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_dry_run_says_what_training_takes_and_does_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("data: {path: python-docs, length: 256}\nmodel: {size: gpt2}\ntokenizer: {vocab: 50257}\n"
                                          "train: {global_batch_size: 4, steps: 10, weight_decay: 0.0}\n")

    done = called("train", "recipe.yaml", "--dry-run")

    assert done.returncode == 0, done.stderr
    assert "12 layers of width 768, 12 heads, context 1024" in done.stdout
    assert "124,439,808 (vocabulary 50,257 at most)" in done.stdout
    assert "10,240 (10 steps)" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
