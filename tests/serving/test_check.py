"""`tfgpt export`: what it writes for a run, and whether its check tells a good version from each kind of bad one."""
import json
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from tfgpt import cli
from tfgpt.generation.text_model import TextModel
from tfgpt.models import surgery
from tfgpt.models.lite import LiteModel
from tfgpt.recipe import ExportConfig, HeadConfig
from tfgpt.serving.check import FLOAT, TEXTS, check_operations, compare
from tfgpt.serving.export import signatures_of
from tfgpt.serving.manifest import verify_manifest, write_manifest
from tfgpt.serving.saved_model import LoadedModel, read_graph
from tfgpt.text.bpe import load_tokenizer


@pytest.fixture(scope="module")
def run_folder(model, tokenizer, tmp_path_factory):
    """What is left of a run: its model and tokenizer."""
    folder = tmp_path_factory.mktemp("runs") / "poems"
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def watched(run_folder):
    """The version that the command writes, and every state of its base path that another thread saw meanwhile."""
    base, seen, done = run_folder / "export" / "poems", [], threading.Event()

    def watch():
        while not done.is_set():
            seen.append([(path.name, complete(path)) for path in base.glob("*") if path.name.isdecimal()] if base.exists() else [])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        code = cli.main(["export", str(run_folder), "--batch-sizes", "1", "2", "--length-buckets", "8", "--max-new-tokens", "5"])
    finally:
        done.set()
        thread.join()
    assert code == cli.DONE
    return base / "1", seen


def complete(version):
    """Tell whether a version is whole: a server may read any of its files."""
    try:
        verify_manifest(version)
    except RuntimeError:
        return False
    return True


def findings_of(capsys, *arguments):
    code = cli.main(["export", "--json", *map(str, arguments)])
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] == all(check["ok"] for check in found["checks"]) == (code == cli.DONE)
    return {check["check"]: check for check in found["checks"]}


def test_a_watched_folder_never_holds_half_a_version(watched):
    version, seen = watched

    assert version.is_dir() and all(whole for state in seen for _, whole in state)
    assert len(seen) > 20 and seen[0] == []  # it was looked at before, and often


def test_the_check_runs_everything_and_compares_it_with_the_model(watched, run_folder, capsys):
    found = findings_of(capsys, "--check", watched[0], "--model", run_folder)

    assert [name for name, check in found.items() if not check["ok"]] == []
    signatures = {"detokenize", "embed", "generate", "score", "serving_default", "tokenize"}
    assert found.keys() == {"manifest", "operations", "load", "warm-up", *(f"{part} {one}" for part in ("signature", "model") for one in signatures)}
    assert found["warm-up"]["detail"] == "12 requests answered" and "embedding [5, 32]" in found["signature embed"]["detail"]


def test_another_models_version_fails_the_comparison(watched, model, text_model, tokenizer):
    other = surgery.reinitialize(model, ["h.1.mlp"], seed=9)
    other.transformer.h[1].mlp.c_proj.bias.assign_add(tf.ones_like(other.transformer.h[1].mlp.c_proj.bias))

    loaded = LoadedModel(watched[0])

    for name, fields in (("embed", "embedding"), ("score", "log_prob")):
        with pytest.raises(RuntimeError, match=rf"^{fields} of the text 'It was' is .* by the Python model$"):
            compare(loaded, name, signatures_of(TextModel(other, tokenizer), ExportConfig(max_new_tokens=1))[name], FLOAT)
        assert "the same for 5 texts" in compare(loaded, name, signatures_of(text_model, ExportConfig(max_new_tokens=1))[name], FLOAT)


def test_damage_is_found(watched, tmp_path, capsys):
    from tensorflow_serving.apis import prediction_log_pb2

    changed, none = tmp_path / "m" / "1", tmp_path / "m" / "2"
    shutil.copytree(watched[0], changed)
    unanswerable = prediction_log_pb2.PredictionLog()
    unanswerable.predict_log.request.model_spec.signature_name = "embed"
    unanswerable.predict_log.request.inputs["txt"].CopyFrom(tf.make_tensor_proto(["x"]))
    with tf.io.TFRecordWriter(str(changed / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        writer.write(unanswerable.SerializeToString())
    shutil.copytree(watched[0], none)
    (none / "saved_model.pb").write_bytes((none / "saved_model.pb").read_bytes()[:5000])
    write_manifest(none)

    first = findings_of(capsys, "--check", changed)
    second = findings_of(capsys, "--check", none)

    assert [name for name, check in first.items() if not check["ok"]] == ["manifest", "warm-up"]
    assert "tf_serving_warmup_requests is changed" in first["manifest"]["detail"]
    assert first["warm-up"]["detail"].startswith("request 1 (embed): ")
    assert [name for name, check in second.items() if not check["ok"]] == ["operations", "load"]
    assert cli.main(["export", "--check", str(tmp_path / "m")]) == cli.FAILED  # the newest of a base path
    assert capsys.readouterr().out.endswith("/m/2: NOT TO BE SERVED\n")


def test_operations_that_a_server_lacks_are_named(watched):
    graph = read_graph(watched[0])
    graph.graph_def.node.add(name="a", op="TfgptCustomOp")
    graph.graph_def.library.function[0].node_def.add(name="b", op="EagerPyFunc")

    with pytest.raises(RuntimeError, match=r"^EagerPyFunc, TfgptCustomOp: not in TensorFlow Serving"):
        check_operations(graph)


@pytest.mark.slow
def test_a_version_with_a_head_and_weights_in_int8_is_checked_too(run_folder, tokenizer, tmp_path, capsys, model):
    judging = surgery.add_head(model, HeadConfig("choice"), [], seed=6)
    judging.save_pretrained(tmp_path / "judge" / "model")
    tokenizer.save_pretrained(tmp_path / "judge" / "tokenizer")
    assert cli.main(["export", str(tmp_path / "judge"), "--weights", "int8", "--batch-sizes", "2", "--output", str(tmp_path / "out")]) == cli.DONE
    assert capsys.readouterr().out == f"{tmp_path}/out/1\n"

    found = findings_of(capsys, "--check", tmp_path / "out", "--model", tmp_path / "judge")

    assert [check for check in found.values() if not check["ok"]] == [] and "model choose" in found


def test_a_version_that_is_there_is_not_overwritten_and_the_next_one_is_new(watched, run_folder, capsys):
    assert cli.main(["export", str(run_folder), "--version", "1"]) == cli.USAGE
    assert "poems/1 is there already; give another, or remove it" in capsys.readouterr().err


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_version_for_litert_gives_the_models_texts(run_folder, capsys, text_model, weights):
    assert cli.main(["export", "--model", str(run_folder), "--format", "tflite", "--weights", weights]) == cli.DONE
    base = run_folder / "export" / "poems-tflite"
    version = base / capsys.readouterr().out.strip().rsplit("/", 1)[1]

    found = findings_of(capsys, "--check", version, "--model", run_folder)

    assert [check for check in found.values() if not check["ok"]] == []
    assert {"operations", "generate", "model logits", "model texts"} < found.keys()
    lite = TextModel(LiteModel.open(version), load_tokenizer(version / "tokenizer"))
    if weights == "float32":
        assert [row.text for row in lite.generate(list(TEXTS), 9)] == [row.text for row in text_model.generate(list(TEXTS), 9)]
    np.save(version / "embeddings.npy", np.roll(np.load(version / "embeddings.npy"), 1, axis=0))
    wrong = findings_of(capsys, "--check", version, "--model", run_folder)
    assert {name for name, check in wrong.items() if not check["ok"]} == {"manifest", "model logits", "model texts"}


def test_a_litert_model_is_not_put_among_a_servers_versions(watched, run_folder, capsys):
    assert cli.main(["export", str(run_folder), "--format", "tflite", "--output", str(watched[0].parent)]) == cli.USAGE
    assert "holds SavedModels (1), and a server would take a LiteRT model for one" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_export_leaves_nothing_that_a_server_would_load(run_folder, tmp_path):
    base = tmp_path / "poems"
    process = subprocess.Popen([sys.executable, "-m", "tfgpt", "export", str(run_folder), "--output", str(base)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(base.glob(".partial-*/*")):
        assert process.poll() is None and time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)

    assert [path.name[:9] for path in base.iterdir()] == [".partial-"]
