"""What TensorFlow Serving's REST documentation says about bodies, tested on the codec and on the application without a socket."""
import json

import httpx
import numpy as np
import pytest
import tensorflow as tf
from fastapi.testclient import TestClient
from tensorflow.core.protobuf import saved_model_pb2

from tests.serving.test_catalog import Loaded, write
from tfgpt.serving.catalog import Catalog
from tfgpt.serving.client import Client, ServerError
from tfgpt.serving.config import ServableConfig
from tfgpt.serving.rest_codec import encode_predict
from tfgpt.serving.server import create_app


class Estimator(tf.Module):
    """Scores of the feature `x`, 2 x and 1 - 2 x, from serialized examples, as estimators export them."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(self, inputs):
        x = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]
        return {"classes": tf.tile([["yes", "no"]], [tf.size(x), 1]), "scores": tf.stack([2.0 * x, 1.0 - 2.0 * x], 1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def regress(self, inputs):
        features = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([], tf.float32), "y": tf.io.FixedLenFeature([], tf.float32, 0.0)})
        return {"outputs": features["x"] + features["y"]}


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("estimator") / "e"
    estimator = Estimator()
    tf.saved_model.save(estimator, str(folder / "1"), {"serving_default": estimator.classify, "regress": estimator.regress})
    file = folder / "1" / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    signatures = saved.meta_graphs[0].signature_def
    signatures["serving_default"].method_name = "tensorflow/serving/classify"
    signatures["regress"].method_name = "tensorflow/serving/regress"
    file.write_bytes(saved.SerializeToString())
    return TestClient(create_app(Catalog([ServableConfig("e", folder)], 0)), raise_server_exceptions=False)


def test_classify_and_regress_answer_for_signatures_made_for_them(app):
    classes = app.post("/v1/models/e:classify", json={"examples": [{"x": 0.1}, {"x": [0.25]}]})
    numbers = app.post("/v1/models/e/versions/1:regress", json={"signature_name": "regress", "context": {"y": 0.5}, "examples": [{"x": 0.25}, {"x": 1.0}]})

    assert classes.json() == {"results": [[["yes", 0.2], ["no", 0.8]], [["yes", 0.5], ["no", 0.5]]]}
    assert numbers.json() == {"results": [0.75, 1.5]}


@pytest.mark.parametrize(
    ("method", "body", "message"),
    [
        ("classify", {"examples": [{"x": "text"}]}, "Key: x"),
        ("classify", {"examples": [{"x": [1.0, "text"]}]}, "Unexpected element type in feature: x"),
        ("classify", {"signature_name": "regress", "examples": [{"x": 1.0}]}, "Was: tensorflow/serving/regress"),
        ("regress", {"signature_name": "no", "examples": [{"x": 1.0}]}, "No signature was found with the name: no"),
        ("regress", {"examples": [{"x": None}]}, "Feature: x has an element"),
        ("regress", {"examples": [[1.0]]}, "Example must be a JSON object"),
        ("regress", [1], "must be a JSON object"),
    ],
)
def test_examples_that_cannot_be_served_are_400(app, method, body, message):
    response = app.post(f"/v1/models/e:{method}", json=body)

    assert response.status_code == 400 and message in response.json()["error"], response.text


def test_a_version_or_a_label_in_the_query_chooses_nothing(app):
    assert app.get("/v1/models/e?version=9").json()["model_version_status"][0]["version"] == "1"
    assert app.post("/v1/models/e:regress?label=x", json={"signature_name": "regress", "examples": [{"x": 1.0}]}).json() == {"results": [1.0]}


def test_numbers_are_written_short_and_nan_and_infinity_as_tensorflow_serving_writes_them():
    body = encode_predict({"x": np.array([0.2, np.nan, np.inf, -np.inf], np.float32)}, row_format=False)

    assert json.dumps(body) == '{"outputs": [0.2, NaN, Infinity, -Infinity]}'


def test_outputs_named_bytes_are_base64():
    outputs = {"image_bytes": np.array([b"\xff"], object), "flag": np.array([True])}

    assert encode_predict(outputs, row_format=True) == {"predictions": [{"image_bytes": {"b64": "/w=="}, "flag": True}]}


def test_row_format_refuses_outputs_without_one_batch():
    with pytest.raises(ValueError, match="loss has no shape information"):
        encode_predict({"loss": np.array(1.0)}, row_format=True)
    with pytest.raises(ValueError, match="inconsistent batch sizes"):
        encode_predict({"a": np.zeros(2), "b": np.zeros(3)}, row_format=True)


def test_an_error_of_ours_is_500_in_the_same_form(tmp_path):
    write(tmp_path / "m", 1)
    catalog = Catalog([ServableConfig("m", tmp_path / "m")], 0, load=Loaded)  # which has no signatures
    app = TestClient(create_app(catalog), raise_server_exceptions=False)

    response = app.post("/v1/models/m:predict", json={"instances": ["x"]})
    catalog.close()
    closing = app.post("/v1/models/m:predict", json={"instances": ["x"]})

    assert (response.status_code, set(response.json())) == (500, {"error"})
    assert (closing.status_code, closing.json()) == (503, {"error": "The server is closing"})


def answering(monkeypatch, *responses):
    """Let the client's requests be answered by these, one after another; an exception is raised."""
    left, waits = list(responses), []

    def post(url, **options):
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(httpx, "post", post)
    monkeypatch.setattr("time.sleep", waits.append)
    return left, waits


def test_the_client_asks_again_where_that_may_help(monkeypatch):
    answer = httpx.Response(200, json={"predictions": [{"text": "x"}]})
    left, waits = answering(monkeypatch, httpx.ConnectError("refused"), httpx.Response(503, headers={"Retry-After": "2"}, json={"error": "busy"}), answer)

    assert Client("http://h/v1/models/m", retries=2).generate(["x"]) == [{"text": "x"}]
    assert not left and 0.1 <= waits[0] <= 0.2 and waits[1] == 2.0


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1/models/m", "grpc://127.0.0.1:1/m"])
def test_without_prompts_the_client_asks_nothing(url):
    client = Client(url, retries=0)

    assert client.generate([]) == client.score([]) == client.classify([]) == []
    with pytest.raises(ServerError):
        client.generate(["x"])  # nobody is there


@pytest.mark.parametrize(
    ("first", "options", "message"),
    [
        (httpx.Response(400, json={"error": "wrong"}), {}, "400: wrong"),
        (httpx.Response(429, text="a proxy's page"), {"retries": 0}, "429: a proxy's page"),
        (httpx.Response(503, headers={"Retry-After": "60"}, json={"error": "busy"}), {"timeout_seconds": 5.0}, "503: busy"),
        (httpx.ReadTimeout("too slow"), {}, "no answer .too slow"),
    ],
)
def test_the_client_gives_up_where_asking_again_is_of_no_use(monkeypatch, first, options, message):
    left, waits = answering(monkeypatch, first, httpx.Response(200, json={"predictions": []}))

    with pytest.raises(ServerError, match=message):
        Client("http://h/v1/models/m", **options).generate(["x"])
    assert len(left) == 1 and not waits
