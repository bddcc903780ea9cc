"""The folder that a server is given: what is in a version, and the files beside it, read as their readers read them."""
import hashlib
import http.server
import json
import re
import subprocess
import threading

import numpy as np
import pytest
import tensorflow as tf
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from tfgpt.recipe import ExportConfig
from tfgpt.serving.export import export
from tfgpt.serving.layout import health_command, write_server_files
from tfgpt.serving.manifest import MANIFEST, verify_manifest, write_manifest
from tfgpt.serving.saved_model import LoadedModel, read_signatures
from tfgpt.serving.warmup import read_warmup
from tfgpt.text.bpe import load_tokenizer

FIELD = descriptor_pb2.FieldDescriptorProto
INT64 = ".google.protobuf.Int64Value"


@pytest.fixture(scope="module")
def version(text_model, tmp_path_factory):
    """A version exported with a recipe and an evaluation."""
    folder = tmp_path_factory.mktemp("layout")
    recipe = {"name": "My.Tiny", "data": {"path": "poems.txt", "sources": [], "examples": "text"}, "model": {"init": "random"}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    figures = {"loss": 4.5, "perplexity": 90.0, "bits_per_byte": 1.8}
    (folder / "evaluation.json").write_text(json.dumps(figures | {"split": "validation", "baseline": {"name": "5-gram"} | {**figures, "loss": 4.75}}))
    config = ExportConfig(version=12, max_new_tokens=7, batch_sizes=(1, 3), length_buckets=(5, 30))
    return export(text_model, folder / "My.Tiny", config, [folder / "recipe.yaml"], [folder / "evaluation.json"])


def message_of(name, fields):
    """Make a protobuf class as TensorFlow Serving has it, whose Python package leaves it out: (number, name, type, message, repeated)."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="test", syntax="proto3", dependency=["google/protobuf/wrappers.proto"])
    for of, its in fields.items():
        message = file.message_type.add(name=of)
        for number, field, kind, other, repeated in its:
            message.field.add(name=field, number=number, type=kind, type_name=other, label=FIELD.LABEL_REPEATED if repeated else FIELD.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"test.{name}"))


def test_a_version_holds_vocabulary_recipe_card_settings_and_manifest(version, tokenizer, tmp_path_factory):
    files = {path.relative_to(version).as_posix() for path in version.rglob("*") if path.is_file()}

    assert {"saved_model.pb", "assets/vocab.json", "assets/merges.txt", "assets/recipe.yaml", "assets/model_card.md", "assets.extra/evaluation.json",
            "assets.extra/export.json", "assets.extra/manifest.json", "assets.extra/tf_serving_warmup_requests"} <= files
    assert load_tokenizer(version / "assets")("naïve café").input_ids == tokenizer("naïve café").input_ids
    assert json.loads((version / "assets.extra" / "export.json").read_text())["settings"]["batch_sizes"] == [1, 3]
    card = (version / "assets" / "model_card.md").read_text()
    assert "2 layers, width 32" in card and "`poems.txt`" in card and "| loss | 4.5000 | 4.7500 |" in card
    assert json.loads(re.search(r"curl -d '(.*)' http", card)[1])["instances"][0]["prompt"] and "`embed`" in card
    written = b"".join((version / name).read_bytes() for name in files)
    assert str(tmp_path_factory.getbasetemp()).encode() not in written  # no path of the machine that exported it


def test_warm_up_requests_are_of_every_signature_batch_size_and_length(version, tokenizer):
    loaded, requests = LoadedModel(version), list(read_warmup(version))

    seen = set()
    for request in requests:
        arrays = {name: np.array(list(value.string_val) or list(value.int_val)) for name, value in request.inputs.items()}
        given = arrays.get("prompt", arrays.get("text"))
        tokens = len(tokenizer(given[0].decode()).input_ids) if given is not None else request.inputs["ids"].tensor_shape.dim[1].size
        rows = {value.tensor_shape.dim[0].size for value in request.inputs.values()}
        assert len(rows) == 1  # a server that joins requests refuses others
        assert request.inputs.keys() == loaded.signatures[request.model_spec.signature_name].inputs.keys()
        seen.add((request.model_spec.signature_name, *rows, tokens))
    assert request.model_spec.name == "My.Tiny"
    assert seen == {(signature, batch, length) for signature in read_signatures(version) for batch in (1, 3) for length in (5, 30)}
    assert len(requests) == len(seen)


def test_what_a_server_joins_into_a_batch_is_answered_as_each_alone(version):
    """Lists of rows are padded to the longest with their own first entry, and what a caller leaves out is the default, of one row (batching_util.cc)."""
    loaded = LoadedModel(version)
    defaults = {name: tf.make_ndarray(value) for name, value in loaded.signatures["generate"].defaults.items()}
    assert {array.shape for array in defaults.values()} == {(1,), (1, 1)}  # and none empty, which cannot be padded
    callers = [{"prompt": "It was", "stop": [["e", "s"]]}, {"prompt": "def f"}, {"prompt": "a b", "banned_tokens": [[5, 9, 11]], "temperature": [0.9]}]
    requests = [defaults | {"max_new_tokens": np.array([20], np.int32)} | {
        name: np.array([value] if name == "prompt" else value, object if name in ("prompt", "stop") else defaults[name].dtype) for name, value in caller.items()
    } for caller in callers]  # fmt: skip

    alone = [loaded.predict("generate", request)["text"][0] for request in requests]
    widths = {name: max(request[name].shape[-1] for request in requests) for name in requests[0]}
    joined = {name: np.concatenate([np.concatenate([each[name], *[each[name][:, :1]] * (width - each[name].shape[1])], axis=1) if each[name].ndim == 2
                                    else each[name] for each in requests]) for name, width in widths.items()}  # fmt: skip

    assert loaded.predict("generate", joined)["text"].tolist() == alone and len(set(alone)) == 3


def test_too_many_warm_up_requests_are_refused(text_model, tmp_path):
    with pytest.raises(ValueError, match=r"20 batch_sizes and 10 length_buckets make 1200 warm-up requests for 6 signatures.* takes 1000"):
        export(text_model, tmp_path / "x", ExportConfig(batch_sizes=tuple(range(1, 21)), length_buckets=tuple(range(1, 11))))
    assert list((tmp_path / "x").iterdir()) == []


def test_models_config_serves_the_two_newest_and_labels_them(version, tmp_path):
    for number in ("3", "12", "20"):
        (tmp_path / "m" / number).mkdir(parents=True)
    write_server_files(tmp_path / "m", ExportConfig())

    def model_of(base):
        text = (base / "models.config").read_text()
        (model,) = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
        return model

    model = model_of(version.parent)
    assert (model.name, model.base_path, model.model_platform) == ("My.Tiny", "/models/My.Tiny", "tensorflow")
    assert dict(model.version_labels) == {"latest": 12} and model.model_version_policy.latest.num_versions == 2
    assert dict(model_of(tmp_path / "m").version_labels) == {"latest": 20, "previous": 12}


def test_batching_and_monitoring_are_what_the_server_reads(version):
    kinds = [(1, "max_batch_size"), (2, "batch_timeout_micros"), (3, "max_enqueued_batches"), (4, "num_batch_threads")]
    batching = message_of("BatchingParameters", {"BatchingParameters": [
        *((number, name, FIELD.TYPE_MESSAGE, INT64, False) for number, name in kinds),
        (5, "thread_pool_name", FIELD.TYPE_MESSAGE, ".google.protobuf.StringValue", False),
        (6, "allowed_batch_sizes", FIELD.TYPE_INT64, None, True), (7, "pad_variable_length_inputs", FIELD.TYPE_BOOL, None, False)]})
    monitoring = message_of("MonitoringConfig", {
        "PrometheusConfig": [(1, "enable", FIELD.TYPE_BOOL, None, False), (2, "path", FIELD.TYPE_STRING, None, False)],
        "MonitoringConfig": [(1, "prometheus_config", FIELD.TYPE_MESSAGE, ".test.PrometheusConfig", False)]})

    sizes = text_format.Parse((version.parent / "batching_parameters.txt").read_text(), batching())
    figures = text_format.Parse((version.parent / "monitoring.config").read_text(), monitoring())

    assert (sizes.max_batch_size.value, list(sizes.allowed_batch_sizes), sizes.pad_variable_length_inputs) == (3, [1, 3], True)
    assert figures.prometheus_config.enable and figures.prometheus_config.path.startswith("/monitoring")


def test_compose_and_kubernetes_start_the_server_on_these_files(version):
    services = yaml.safe_load((version.parent / "docker-compose.yml").read_text())["services"]
    deployment, service = yaml.safe_load_all((version.parent / "kubernetes.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]

    assert {one["profiles"][0]: one["image"] for one in services.values()} == {"cpu": "tensorflow/serving:latest", "gpu": "tensorflow/serving:latest-gpu"}
    assert services["serving-gpu"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    for options in (services["serving"]["command"], container["args"]):
        named = dict(option.removeprefix("--").split("=", 1) for option in options)
        for key in ("model_config_file", "batching_parameters_file", "monitoring_config_file"):
            assert (version.parent / named[key].removeprefix("/models/My.Tiny/")).is_file()
        assert not [key for key in named if "xla" in key]
    assert services["serving"]["volumes"] == [".:/models/My.Tiny:ro"] and container["volumeMounts"][0]["mountPath"] == "/models/My.Tiny"
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == {"app": "my-tiny"}
    assert container["readinessProbe"]["exec"]["command"] == services["serving"]["healthcheck"]["test"][1:] == health_command("My.Tiny")
    assert container["livenessProbe"]["tcpSocket"]["port"] in {port["containerPort"] for port in container["ports"]}


@pytest.mark.parametrize(("state", "code"), [("AVAILABLE", 0), ("LOADING", 1), ("UNAVAILABLE", 1)])
def test_the_health_command_asks_whether_the_model_is_ready(state, code):
    asked = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"model_version_status": [{"version": "1", "state": state}]}, indent=1).encode())

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.handle_request)
    thread.start()

    done = subprocess.run(health_command("tiny", server.server_port), timeout=30, check=False)

    thread.join()
    server.server_close()
    assert (done.returncode, asked) == (code, ["/v1/models/tiny"])


def test_edited_files_are_kept_and_ours_are_written_anew(tmp_path):
    base = tmp_path / "tiny"
    (base / "1").mkdir(parents=True)
    assert write_server_files(base, ExportConfig()) == []
    (base / "models.config").write_text((base / "models.config").read_text().replace('"latest"', '"stable"'))
    (base / "kubernetes.yaml").write_text("mine: true\n")

    kept = write_server_files(base, ExportConfig(batch_sizes=(5,), jit=True))

    assert kept == [base / "models.config", base / "kubernetes.yaml"]
    assert '"stable"' in (base / "models.config").read_text() and (base / "kubernetes.yaml").read_text() == "mine: true\n"
    assert "allowed_batch_sizes: 5" in (base / "batching_parameters.txt").read_text()
    assert "--xla_gpu_compilation_enabled=true" in (base / "docker-compose.yml").read_text()
    assert newest_names(base) == ["1"]


def newest_names(base):
    """What a server takes for versions."""
    return sorted(path.name for path in base.iterdir() if path.name.isdecimal())


def test_the_manifest_names_every_file_and_what_is_wrong(version, tmp_path):
    verify_manifest(version)
    files = json.loads((version / MANIFEST).read_text())["files"]
    assert files["saved_model.pb"]["sha256"] == hashlib.sha256((version / "saved_model.pb").read_bytes()).hexdigest()
    assert files["saved_model.pb"]["size"] == (version / "saved_model.pb").stat().st_size and "assets/model_card.md" in files and MANIFEST not in files

    with pytest.raises(RuntimeError, match=r"holds no assets\.extra/manifest\.json; it was not exported by tfgpt"):
        verify_manifest(tmp_path)
    (tmp_path / "a").mkdir()
    for name, content in (("a/x", "one"), ("y", "two")):
        (tmp_path / name).write_text(content)
    write_manifest(tmp_path)
    verify_manifest(tmp_path)
    for name, content, message in (("a/x", "eno", r"a/x is changed: its sha256"), ("y", "longer", r"y is changed: it has 6 bytes, and 3 by"),
                                   ("z", "new", r"z is not listed"), ("y", None, r"y is missing, which its manifest lists")):
        before = (tmp_path / name).read_text() if (tmp_path / name).exists() else None
        (tmp_path / name).unlink() if content is None else (tmp_path / name).write_text(content)
        with pytest.raises(RuntimeError, match=message):
            verify_manifest(tmp_path)
        (tmp_path / name).unlink(missing_ok=True) if before is None else (tmp_path / name).write_text(before)
    (tmp_path / MANIFEST).write_text("[1]")
    with pytest.raises(RuntimeError, match="is no manifest, or a damaged one"):
        verify_manifest(tmp_path)
