"""The signatures of heads: in a process with TensorFlow alone, as a plain session, and over `tfgpt serve` by a client."""
import json
import re
import subprocess
import sys
import threading

import httpx
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tfgpt.generation.text_model import TextModel
from tfgpt.models import surgery
from tfgpt.recipe import ExportConfig, HeadConfig
from tfgpt.serving.client import Client, ServerError
from tfgpt.serving.export import export
from tfgpt.serving.joining import joinable_of
from tfgpt.serving.saved_model import LoadedModel

LABELS = {"classes": ["ham", "späm", "two words"], "labels": ["a", "b"], "number": ["1", "5", "6"], "tags": ["D", "N", "V"], "choice": []}
TEXTS = ["Call now!", "", "naïve café 日本語", "x " * 200]


@pytest.fixture(scope="module")
def judges(model, tokenizer):
    made = {kind: surgery.add_head(model, HeadConfig(kind), labels, seed=6) for kind, labels in LABELS.items()}
    made["beside"] = surgery.add_head(model, HeadConfig("classes", weight=0.5), LABELS["classes"], seed=6)
    for judging in made.values():
        judging.head.weight.assign(20.0 * judging.head.weight)
    return {kind: TextModel(judging, tokenizer) for kind, judging in made.items()}


@pytest.fixture(scope="module")
def versions(judges, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return {kind: export(judge, folder / kind, ExportConfig(version=2)) for kind, judge in judges.items()}


@pytest.fixture(scope="module")
def loaded(versions):
    return {kind: LoadedModel(version) for kind, version in versions.items()}


def test_a_fresh_process_with_tensorflow_alone_classifies(versions, judges):
    code = """
import json, sys
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
found = loaded.signatures["serving_default"](text=tf.constant(json.loads(sys.argv[2])))
labels = (tf.io.read_file(sys.argv[1] + "/assets/labels.txt")).numpy().decode()
json.dump({"label": [label.decode() for label in found["label"].numpy()], "scores": found["scores"].numpy().tolist(), "labels": labels.splitlines(),
           "imported": sorted({"transformers", "tokenizers", "tfgpt"} & set(sys.modules))}, sys.stdout)
"""
    done = subprocess.run([sys.executable, "-c", code, str(versions["classes"]), json.dumps(TEXTS)], capture_output=True, text=True, check=True)

    there, here = json.loads(done.stdout), judges["classes"].classify(TEXTS)
    assert there["label"] == [row.label for row in here]
    np.testing.assert_allclose(there["scores"], [row.scores for row in here], atol=1e-5)  # the same graph
    assert (there["labels"], there["imported"]) == (LABELS["classes"], [])


def test_signatures_are_those_of_the_contract(versions, loaded):
    def of(kind):
        return {name: ({key: (tf.as_dtype(info.dtype).name, len(info.tensor_shape.dim)) for key, info in definition.inputs.items()},
                       {key: (tf.as_dtype(info.dtype).name, len(info.tensor_shape.dim)) for key, info in definition.outputs.items()})
                for name, definition in loaded[kind].signatures.items()}  # fmt: skip

    text = {"text": ("string", 1)}
    classify = (text, {"label": ("string", 1), "scores": ("float32", 2)})
    assert of("classes")["classify"] == of("classes")["serving_default"] == of("labels")["classify"] == classify
    assert set(of("classes")) == {"serving_default", "classify", "generate", "score", "embed", "tokenize", "detokenize"}
    assert of("number")["regress"] == of("number")["serving_default"] == (text, {"value": ("float32", 1)})
    assert of("tags")["tag"] == of("tags")["serving_default"] == (text, {"words": ("string", 2), "tags": ("string", 2), "scores": ("float32", 2)})
    choose = ({"prompt": ("string", 1), "choices": ("string", 2)}, {"label": ("string", 1), "scores": ("float32", 2)})
    assert of("choice")["choose"] == of("choice")["serving_default"] == choose
    assert of("beside")["serving_default"] == of("beside")["generate"] and of("beside")["classify"] == classify  # a language model first
    assert not (versions["number"] / "assets" / "labels.txt").exists() and (versions["tags"] / "assets" / "labels.txt").read_text() == "D\nN\nV\n"


def test_calls_of_heads_are_joined_where_an_output_is_not_as_wide_as_the_widest_row(loaded):
    joinable = {kind: joinable_of(one.signatures) for kind, one in loaded.items()}

    assert {"classify", "serving_default"} <= joinable["classes"] & joinable["labels"] and "regress" in joinable["number"]
    assert not {"tag", "serving_default"} & joinable["tags"] and "choose" not in joinable["choice"]


def test_every_kind_finds_there_what_it_finds_here(loaded, judges):
    texts = np.array(TEXTS, object)

    labels = loaded["labels"].predict("classify", {"text": texts})
    numbers = loaded["number"].predict("regress", {"text": texts})
    tags = loaded["tags"].predict("tag", {"text": texts})
    choices = [" blue", " green"]
    chosen = loaded["choice"].predict("choose", {"prompt": np.array(["It is"], object), "choices": np.array([choices], object)})

    assert [label.decode() for label in labels["label"]] == ["|".join(row.label) or "|" for row in judges["labels"].classify(TEXTS)]
    np.testing.assert_allclose(numbers["value"], [row.label for row in judges["number"].classify(TEXTS)], rtol=1e-5)  # the same graph
    for number, row in enumerate(judges["tags"].classify(TEXTS)):
        assert [tag.decode() for tag in tags["tags"][number]][: len(row.label)] == list(row.label)
        assert [word.decode() for word in tags["words"][number]][: len(row.label)] == TEXTS[number].split()
    assert chosen["label"][0].decode() == judges["choice"].classify([("It is", choices)])[0].label


def test_the_graph_has_tensorflows_own_ops_only(versions):
    for version in versions.values():
        graph = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
        ops = {node.op for node in graph.node} | {node.op for function in graph.library.function for node in function.node_def}
        known = set(tf.raw_ops.__dict__) | {function.signature.name for function in graph.library.function}
        assert not {op for op in ops if (op not in known and not op.startswith("_")) or "PyFunc" in op or "Xla" in op}


@pytest.fixture(scope="module")
def server(versions):
    command = [sys.executable, "-m", "tfgpt", "serve", "--port", "0", "--grpc-port", "-1"]
    for kind in ("classes", "choice"):
        command += ["--model", f"{kind}={versions[kind].parent}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if found := re.search(r"serving (http://\S+)/v1/models/choice", line):
            break
    else:
        pytest.fail("the server did not start")
    threading.Thread(target=process.stderr.read, daemon=True).start()
    yield found[1]
    process.terminate()
    assert process.wait(timeout=30) in (0, -15)


def test_a_client_gets_over_rest_what_the_model_finds(server, judges):
    url = f"{server}/v1/models/classes"
    here = judges["classes"].classify(TEXTS)

    there = Client(url).classify(TEXTS)
    rows = httpx.post(f"{url}:predict", json={"instances": TEXTS}, timeout=60).json()["predictions"]  # serving_default, its one input without a name
    command = [sys.executable, "-m", "tfgpt", "client", "classify", "--url", url, "--text", TEXTS[0], "--text", TEXTS[2]]
    plain = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    as_json = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout

    assert there == rows and [row["label"] for row in there] == [row.label for row in here]
    np.testing.assert_allclose([row["scores"] for row in there], [row.scores for row in here], atol=1e-5)  # the same graph
    assert plain == f"{here[0].label}\n{here[2].label}\n"
    assert [json.loads(line)["label"] for line in as_json.splitlines()] == [here[0].label, here[2].label]


def test_choices_over_rest_and_a_model_that_does_not_classify(server, judges):
    url, row = f"{server}/v1/models/choice", ("It is", [" blue", " green", " late"])

    answer = httpx.post(f"{url}:predict", json={"instances": [{"prompt": row[0], "choices": row[1]}]}, timeout=60).json()["predictions"][0]

    assert answer["label"] == judges["choice"].classify([row])[0].label and len(answer["scores"]) == 3
    with pytest.raises(ServerError, match='"classify" not found'):
        Client(url).classify(["x"])


def test_a_head_is_exported_with_weights_of_fewer_bits(judges, model, tokenizer, tmp_path):
    judging = surgery.add_head(model, HeadConfig("classes"), LABELS["classes"], seed=6)
    judging.head.weight.assign(20.0 * judging.head.weight)
    judging.store_weights("bfloat16")

    version = export(TextModel(judging, tokenizer), tmp_path / "small")

    scores = LoadedModel(version).predict("classify", {"text": np.array(TEXTS, object)})["scores"]
    np.testing.assert_allclose(scores, [row.scores for row in TextModel(judging, tokenizer).classify(TEXTS)], atol=1e-3)  # the same graph, bf16 sums
