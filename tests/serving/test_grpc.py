"""The gRPC services and what both protocols share, asked over sockets by TensorFlow Serving's stubs, ovmsclient, curl and our client."""
import json
import shutil
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import numpy as np
import ovmsclient
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.serving.served import serving
from tfgpt.serving.client import Client, ServerError

SECONDS = 60


@pytest.fixture(scope="module")
def base(exported, tmp_path_factory):
    """A base path with versions 1 and 3 of one model."""
    base = tmp_path_factory.mktemp("served") / "tiny"
    for version in ("1", "3"):
        shutil.copytree(exported, base / version)
    return base


@pytest.fixture(scope="module")
def server(base):
    config = base.parent / "models.config"
    config.write_text(f"""model_config_list {{ config {{ name: "tiny" base_path: "{base}" model_platform: "tensorflow"
        model_version_policy {{ all {{}} }} version_labels {{ key: "stable" value: 1 }} version_labels {{ key: "canary" value: 3 }} }} }}""")
    with serving("--model-config-file", str(config), "--file-system-poll-wait-seconds", "0.2") as served:
        yield served


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def models(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


def request_of(name="tiny", signature="", version=None, label="", output_filter=(), **inputs):
    request = predict_pb2.PredictRequest(output_filter=output_filter)
    request.model_spec.name, request.model_spec.signature_name = name, signature
    if version is not None:
        request.model_spec.version.value = version
    if label:
        request.model_spec.version_label = label
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request


def of_no_type(dtype):
    request = request_of(prompt=["x"])
    request.inputs["prompt"].dtype = dtype
    return request


def code_of(call, request, **options):
    with pytest.raises(grpc.RpcError) as raised:
        call(request, **({"timeout": SECONDS} | options))
    return raised.value.code(), raised.value.details()


def test_predict_gives_what_rest_gives_and_fills_defaults_in(prediction, server):
    response = prediction.Predict(request_of(prompt=["with open", "def"], max_new_tokens=np.array([4, 5], np.int32)), timeout=SECONDS)
    body = {"instances": [{"prompt": "with open", "max_new_tokens": 4}, {"prompt": "def", "max_new_tokens": 5}]}
    rest = httpx.post(f"{server.rest}/v1/models/tiny:predict", json=body, timeout=SECONDS).json()["predictions"]

    assert [text.decode() for text in response.outputs["text"].string_val] == [row["text"] for row in rest]
    assert list(response.outputs["token_count"].int_val) == [row["token_count"] for row in rest]
    np.testing.assert_allclose(response.outputs["log_prob"].float_val, [row["log_prob"] for row in rest], rtol=1e-6)  # float32 written in decimals
    assert (response.model_spec.name, response.model_spec.version.value, response.model_spec.signature_name) == ("tiny", 3, "serving_default")


def test_versions_labels_and_filters_choose(prediction):
    chosen = [prediction.Predict(request_of(signature="score", text=["a b"], output_filter=["perplexity"], **choice), timeout=SECONDS)
              for choice in ({"version": 1}, {"label": "stable"}, {"label": "canary"}, {})]

    assert [response.model_spec.version.value for response in chosen] == [1, 1, 3, 3]
    assert [list(response.outputs) for response in chosen] == [["perplexity"]] * 4


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (request_of(name="", prompt=["x"]), "INVALID_ARGUMENT", "no name specified"),
        (request_of(name="other", prompt=["x"]), "NOT_FOUND", r"Servable not found for request: Latest(other)"),
        (request_of(version=9, prompt=["x"]), "NOT_FOUND", r"Servable not found for request: Specific(tiny, 9)"),
        (request_of(label="beta", prompt=["x"]), "INVALID_ARGUMENT", "Unrecognized servable version label: beta"),
        (request_of(signature="nope", prompt=["x"]), "FAILED_PRECONDITION", 'Serving signature key "nope" not found'),
        (request_of(), "INVALID_ARGUMENT", "['prompt'] are missing"),
        (request_of(prompt=["x"], promt=["x"]), "INVALID_ARGUMENT", "Sent extra: {promt}"),
        (request_of(prompt=[1.0]), "INVALID_ARGUMENT", "prompt: is float32, but the signature's input is string"),
        (request_of(prompt="x"), "INVALID_ARGUMENT", "prompt: has 0 dimensions, expected 1"),
        (request_of(prompt=["x"], output_filter=["nope"]), "INVALID_ARGUMENT", "output tensor alias not found in signature: nope"),
        (request_of(prompt=["x"], output_filter=["text", "text"]), "INVALID_ARGUMENT", "duplicate output tensor alias: text"),
        (request_of(prompt=["x"], banned_tokens=np.array([[10**6]], np.int32)), "INVALID_ARGUMENT", ""),
        (of_no_type(999), "INVALID_ARGUMENT", "prompt: is of the type 999, which there is not, but the signature's input is string"),
    ],
)
def test_what_cannot_be_predicted_has_tensorflow_servings_code(prediction, request_, code, message):
    found, details = code_of(prediction.Predict, request_)

    assert found.name == code and message in details, details


def shaped(dims, key="prompt", **values):
    """Return a request one of whose inputs claims a shape."""
    request = request_of(prompt=["x"])
    dtype = tf.string if "string_val" in values else tf.int32
    request.inputs[key].CopyFrom(tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum, **values))
    for size in dims:
        request.inputs[key].tensor_shape.dim.add(size=size)
    return request


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (shaped([2**45], "max_new_tokens", int_val=[1]), "give at most 64 at once"),
        (shaped([2**31], string_val=[b"x"]), "give at most 64 at once"),
        (shaped([-1], string_val=[b"x"]), "negative dimension"),
        (shaped([-1], "max_new_tokens", tensor_content=b"\1\0\0\0"), "negative dimension"),
        (shaped([1, 2**40], "banned_tokens", int_val=[1]), "but 1 values are sent"),
        (shaped([1, 2**40], "banned_tokens"), "but 0 values are sent"),
        (shaped([2**33, 2**33], "banned_tokens", int_val=[1]), "give at most 64 at once"),
        (shaped([2, 2], "banned_tokens", tensor_content=b"\1\0\0\0"), "is no tensor"),
        (shaped([1, 2], "banned_tokens", int_val=[1, 2, 3]), "is no tensor"),
        (shaped([1, 1000], "stop", string_val=[b"x" * 100_000]), "would be repeated for 99900000 bytes"),
    ],
)
def test_a_small_message_makes_no_large_tensor(prediction, request_, message):
    code, details = code_of(prediction.Predict, request_)

    assert code == grpc.StatusCode.INVALID_ARGUMENT and message in details, details


def test_a_tensor_whose_last_value_holds_for_the_rest_is_filled(prediction):
    request = request_of(signature="score", text=["x"])
    request.inputs["text"].tensor_shape.dim[0].size = 3

    assert len(prediction.Predict(request, timeout=SECONDS).outputs["perplexity"].float_val) == 3


def test_classify_and_regress_refuse_signatures_of_predict_and_multi_inference_is_not_there(prediction, server):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = "tiny"
    request.input.example_list.examples.add().features.feature["text"].bytes_list.value.append(b"x")
    message = "Expected classification signature method_name to be tensorflow/serving/classify. Was: tensorflow/serving/predict"

    assert code_of(prediction.Classify, request) == (grpc.StatusCode.INVALID_ARGUMENT, message)
    assert code_of(prediction.MultiInference, inference_pb2.MultiInferenceRequest())[0] == grpc.StatusCode.UNIMPLEMENTED
    rest = httpx.post(f"{server.rest}/v1/models/tiny:classify", json={"examples": [{"text": "x"}]})
    assert (rest.status_code, rest.json()) == (400, {"error": message})
    for body in ({"examples": []}, {}, {"examples": ["x"]}, {"examples": [{"text": [1, "x"]}]}, {"examples": [{"text": 2**70}]}):
        assert httpx.post(f"{server.rest}/v1/models/tiny:regress", json=body).status_code == 400


def test_a_deadline_ends_a_call(prediction):
    code, _ = code_of(prediction.Predict, request_of(prompt=["x"], max_new_tokens=np.array([40], np.int32)), timeout=0.001)

    assert code == grpc.StatusCode.DEADLINE_EXCEEDED


def test_metadata_and_status(prediction, models):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "tiny"
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response = prediction.GetModelMetadata(request, timeout=SECONDS)
    response.metadata["signature_def"].Unpack(signatures)
    status = models.GetModelStatus(get_model_status_pb2.GetModelStatusRequest(model_spec=request.model_spec), timeout=SECONDS)

    assert response.model_spec.version.value == 3
    assert signatures.signature_def["score"].inputs["text"].dtype == tf.string.as_datatype_enum
    found = {one.version: one.state for one in status.model_version_status}
    assert found[1] == found[3] == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    request.model_spec.version.value = 9
    missing = get_model_status_pb2.GetModelStatusRequest(model_spec=request.model_spec)
    assert code_of(models.GetModelStatus, missing) == (grpc.StatusCode.NOT_FOUND, "Could not find version 9 of model tiny")
    wrong = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=request.model_spec, metadata_field=["weights"])
    assert code_of(prediction.GetModelMetadata, wrong)[0] == grpc.StatusCode.INVALID_ARGUMENT


def test_ovmsclient_works_over_both_protocols(server):
    over_grpc = ovmsclient.make_grpc_client(server.grpc)
    over_http = ovmsclient.make_http_client(server.rest.removeprefix("http://"))

    assert over_grpc.get_model_status("tiny")[3]["state"] == over_http.get_model_status("tiny")[3]["state"] == "AVAILABLE"
    assert over_grpc.get_model_metadata("tiny")["model_version"] == 3
    outputs = over_grpc.predict({"prompt": ["with open"]}, "tiny", timeout=SECONDS)
    assert outputs["text"][0].decode() == Client(f"{server.rest}/v1/models/tiny").generate(["with open"])[0]["text"]
    with pytest.raises(ovmsclient.tfs_compat.base.errors.ModelNotFoundError):
        over_grpc.predict({"prompt": ["x"]}, "other")


def test_curl_works_with_its_own_content_type(server):
    command = ["curl", "-s", "-d", '{"signature_name": "tokenize", "instances": [{"b64": "w6k="}]}', f"{server.rest}/v1/models/tiny/labels/stable:predict"]

    plain = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)

    assert plain["predictions"][0]["length"] > 0
    for path, code in (("tiny/versions/99999999999999999999", 400), ("tiny/versions/one", 400), ("tiny/labels/beta", 400), ("tiny:explode", 400),
                       ("tiny/versions/2", 404)):
        found = httpx.get(f"{server.rest}/v1/models/{path}")
        assert found.status_code == code and set(found.json()) == {"error"}, path


def test_our_client_speaks_both(server):
    rest, over_grpc = Client(f"{server.rest}/v1/models/tiny"), Client(f"grpc://{server.grpc}/tiny")

    options = {"max_new_tokens": 5, "temperature": 0.7, "seed": 3}
    for one, other in zip(rest.generate(["a b", "def"], **options), over_grpc.generate(["a b", "def"], **options)):
        assert one.pop("log_prob") == pytest.approx(other.pop("log_prob"), rel=1e-6)  # float32 in decimals
        assert one == other
    with pytest.raises(ServerError, match="NOT_FOUND: Servable not found"):
        Client(f"grpc://{server.grpc}/other").generate(["x"])
    with pytest.raises(ServerError, match="give grpc://HOST:PORT/NAME"):
        Client("grpc://nowhere")


def test_metrics_have_tensorflow_servings_names(server, prediction):
    prediction.Predict(request_of(signature="tokenize", text=["x"]), timeout=SECONDS)

    page = httpx.get(f"{server.rest}/monitoring/prometheus/metrics")

    assert page.headers["content-type"].startswith("text/plain")
    assert "# TYPE :tensorflow:serving:request_count counter" in page.text
    assert ':tensorflow:serving:request_count{model_name="tiny",status="OK"}' in page.text
    assert ':tensorflow:serving:request_latency_count{API="Predict",entrypoint="GRPC",model_name="tiny"}' in page.text
    assert ":tensorflow:cc:saved_model:load_latency{model_path=" in page.text


@pytest.mark.parametrize(("code", "calls"), [(grpc.StatusCode.UNAVAILABLE, 3), (grpc.StatusCode.INVALID_ARGUMENT, 1)])
def test_our_client_asks_again_over_grpc_where_that_may_help(monkeypatch, code, calls):
    waits, asked = [], []

    class Refusing(prediction_service_pb2_grpc.PredictionServiceServicer):
        def GetModelMetadata(self, request, context):  # noqa: N802
            asked.append(context.time_remaining())
            context.abort(code, "not now")

    server = grpc.server(ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Refusing(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setattr("tfgpt.serving.client.time.sleep", waits.append)

    with pytest.raises(ServerError, match=f"{code.name}: not now"):
        Client(f"grpc://127.0.0.1:{port}/m", timeout_seconds=20, retries=2).generate(["x"])
    server.stop(None).wait()

    assert len(asked) == calls == len(waits) + 1 and max(asked) <= 20.5  # the deadline of all of them, by gRPC's coarser clock


@pytest.fixture(scope="module")
def swapped(exported, tmp_path_factory):
    """A server of its own for tests that change what is served."""
    base = tmp_path_factory.mktemp("swapped") / "tiny"
    shutil.copytree(exported, base / "1")
    options = ("--max-batch", "256", "--file-system-poll-wait-seconds", "0.1")
    with serving("--model", f"tiny={base}", *options) as served:
        yield served, base


def wait_for(condition):
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.1)


def test_a_new_version_takes_over_under_load_and_a_damaged_one_does_not(swapped, exported):
    served, base = swapped
    address, stop, versions, failures = f"{served.rest}/v1/models/tiny", threading.Event(), [], []

    def ask():
        with grpc.insecure_channel(served.grpc) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not stop.is_set():
                try:
                    versions.append(stub.Predict(request_of(prompt=["x"]), timeout=SECONDS).model_spec.version.value)
                    httpx.post(f"{address}:predict", json={"instances": [{"prompt": "y"}]}, timeout=SECONDS).raise_for_status()
                except (grpc.RpcError, httpx.HTTPError) as error:
                    failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(versions) > 5)
    (base / "2").mkdir()
    (base / "2" / "saved_model.pb").write_bytes((exported / "saved_model.pb").read_bytes()[:1000])
    state = lambda: {one["version"]: one["state"] for one in httpx.get(address).json()["model_version_status"]}  # noqa: E731
    wait_for(lambda: state() == {"2": "END", "1": "AVAILABLE"})
    shutil.copytree(exported, base.parent / "3")
    (base.parent / "3").rename(base / "3")
    wait_for(lambda: state() == {"3": "AVAILABLE", "2": "END", "1": "END"})
    before = len(versions)
    wait_for(lambda: len(versions) > before + 6)
    stop.set()
    for thread in threads:
        thread.join()

    assert not failures
    assert set(versions[:5]) == {1} and set(versions[before + 3 :]) == {3}  # three may have been on their way


def test_reload_over_grpc_replaces_models_and_refuses_what_is_not_there(swapped):
    served, base = swapped
    with grpc.insecure_channel(served.grpc) as channel:
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        wrong = model_management_pb2.ReloadConfigRequest()
        wrong.config.model_config_list.config.add(name="gone", base_path=str(base / "nowhere"), model_platform="tensorflow")
        code, message = code_of(models.HandleReloadConfigRequest, wrong)
        assert code == grpc.StatusCode.PERMISSION_DENIED and message.endswith("or start it with --allow-reload-paths")
        assert Client(f"{served.rest}/v1/models/tiny").generate(["x"])
        right = model_management_pb2.ReloadConfigRequest()
        right.config.model_config_list.config.add(name="renamed", base_path=str(base), model_platform="tensorflow").version_labels["stable"] = 3
        response = models.HandleReloadConfigRequest(right, timeout=SECONDS)

    assert response.status.error_code == 0
    assert Client(f"{served.rest}/v1/models/renamed/labels/stable").generate(["x"])
    with pytest.raises(ServerError, match=r"404: Servable not found for request: Latest\(tiny\)"):
        Client(f"{served.rest}/v1/models/tiny").generate(["x"])


def test_sigterm_answers_what_has_begun(swapped):
    served, _ = swapped
    answers = []
    body = {"instances": [{"prompt": f"{number} words", "max_new_tokens": 40} for number in range(256)]}
    models = f"{served.rest}/v1/models"
    name = next(name for name in ("renamed", "tiny") if httpx.get(f"{models}/{name}", timeout=SECONDS).status_code == 200)  # whether or not one above ran
    address = f"{models}/{name}:predict"
    thread = threading.Thread(target=lambda: answers.append(httpx.post(address, json=body, timeout=SECONDS)))
    thread.start()
    time.sleep(0.3)  # until the request is on its way; it takes longer than that
    served.process.send_signal(signal.SIGTERM)
    thread.join()

    assert served.process.wait(timeout=60) == 0
    assert answers[0].status_code == 200 and len(answers[0].json()["predictions"]) == 256
