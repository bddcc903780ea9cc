"""`tfgpt serve` as a process of its own, asked over a socket by curl's kind of client and by `tfgpt client`."""
import json
import re
import socket
import subprocess
import sys
import threading

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from tfgpt.serving.client import Client, ServerError
from tfgpt.serving.http_server import http_server
from tfgpt.serving.saved_model import LoadedModel


@pytest.fixture(scope="module")
def server(exported):
    """The base URL of a running server of the model `tiny`."""
    command = [sys.executable, "-m", "tfgpt", "serve", "--model", f"tiny={exported.parent}", "--port", "0", "--grpc-port", "-1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if found := re.search(r"serving (http://\S+)/v1/models/tiny", line):
            break
    else:
        pytest.fail("".join(lines))
    threading.Thread(target=process.stderr.read, daemon=True).start()  # so that it never waits for a reader
    yield found[1]
    process.terminate()
    assert process.wait(timeout=30) == 0


@pytest.fixture(scope="module")
def url(server):
    return f"{server}/v1/models/tiny"


def post(url, body, **options):
    content = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return httpx.post(f"{url}:predict", content=content, timeout=60, **options)


def test_row_and_column_format_give_what_the_model_gives(url, exported):
    expected = LoadedModel(exported).predict("generate", {"prompt": np.array(["with open", "def"], object)})

    rows = post(url, {"instances": [{"prompt": "with open"}, {"prompt": "def"}]}).json()["predictions"]
    columns = post(url, {"signature_name": "generate", "inputs": {"prompt": ["with open", "def"]}}).json()["outputs"]

    assert [row["text"] for row in rows] == columns["text"] == [text.decode() for text in expected["text"]]
    assert [row["token_count"] for row in rows] == columns["token_count"] == expected["token_count"].tolist()
    np.testing.assert_allclose(columns["log_prob"], expected["log_prob"], rtol=1e-5)
    assert set(rows[0]) == {"text", "token_count", "log_prob", "finish_reason"}


def test_a_single_input_may_come_without_its_name_and_a_single_output_goes_without(url, tokenizer):
    ids = tokenizer("it's").input_ids

    assert post(url, {"signature_name": "tokenize", "instances": ["it's"]}).json()["predictions"] == [{"ids": ids, "length": len(ids)}]
    assert post(url, {"signature_name": "detokenize", "instances": [ids]}).json() == {"predictions": ["it's"]}
    assert post(url, {"signature_name": "detokenize", "inputs": {"ids": [ids]}}).json() == {"outputs": ["it's"]}


def test_bytes_come_as_base64(url):
    plain = post(url, {"signature_name": "tokenize", "inputs": ["é"]}).json()

    assert post(url, {"signature_name": "tokenize", "inputs": [{"b64": "w6k="}]}).json() == plain


def test_controls_are_honoured_and_a_request_can_be_repeated(url):
    request = {"instances": [{"prompt": "a", "max_new_tokens": 5, "temperature": 1.0, "seed": 11}]}

    first, second = post(url, request).json(), post(url, request).json()
    request["instances"][0]["seed"] = 12

    assert first == second != post(url, request).json()
    assert first["predictions"][0]["token_count"] == 5


def test_lists_of_each_row_are_honoured(url, tokenizer):
    forced = tokenizer(" one, two").input_ids
    rows = [{"prompt": "a", "max_new_tokens": len(forced), "stop": [stop, ""], "forced_tokens": forced, "banned_tokens": [-1]} for stop in (", t", "nowhere")]

    found = post(url, {"instances": rows}).json()["predictions"]

    assert [(row["text"], row["finish_reason"]) for row in found] == [(" one", "stop"), (" one, two", "length")]
    wrong = post(url, {"instances": [{"prompt": "a", "banned_tokens": [10**6]}]})
    assert wrong.status_code == 400


def test_status_and_metadata_are_tensorflow_servings(server, url):
    state = {"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for address in (url, f"{url}/versions/3"):
        assert httpx.get(address).json() == {"model_version_status": [state]}

    metadata = httpx.get(f"{url}/metadata").json()

    assert metadata["model_spec"] == {"name": "tiny", "signature_name": "", "version": "3"}
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert signatures["generate"]["inputs"]["prompt"]["dtype"] == "DT_STRING"
    assert signatures["serving_default"]["inputs"]["prompt"]["tensor_shape"]["dim"][0]["size"] == "-1"
    assert signatures["generate"]["method_name"] == "tensorflow/serving/predict"


@pytest.mark.parametrize("path", ["/v1/models/other", "/v1/models/tiny/versions/9", "/v1/models/other/metadata", "/nowhere"])
def test_what_is_not_served_is_404_with_an_error(server, path):
    response = httpx.get(server + path)

    assert response.status_code == 404
    assert set(response.json()) == {"error"}


def test_predict_on_what_is_not_served_is_404(server):
    response = post(f"{server}/v1/models/other", {"instances": [{"prompt": "x"}]})

    assert (response.status_code, response.json()) == (404, {"error": "Servable not found for request: Latest(other)"})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error"),
        (b"{", "JSON Parse error"),
        (b"\xff", "JSON Parse error"),
        (b"[" * 100_000, "JSON Parse error"),
        ([1], "must be a JSON object"),
        ({}, "exactly one of"),
        ({"instances": ["x"], "inputs": ["x"]}, "exactly one of"),
        ({"instances": []}, "one entry at least"),
        ({"instances": "x"}, "must be a list"),
        ({"instances": ["x"]}, "expecting objects with names"),
        ({"instances": [{"prompt": "x"}, {"prompt": "y", "seed": 1}]}, r"instances\[1\] must have the same keys"),
        ({"instances": [{"promt": "x"}]}, r"\['promt'\] are no inputs"),
        ({"instances": [{"seed": 3}]}, r"\['prompt'\] are missing"),
        ({"instances": [{"prompt": 3}]}, "prompt: 3 is not a string"),
        ({"instances": [{"prompt": ["x"]}]}, "is not a string at this depth"),
        ({"inputs": {"prompt": "x"}}, "has 0 dimensions, expected 1"),
        ({"instances": [{"prompt": "x", "max_new_tokens": 1.5}]}, "max_new_tokens: 1.5 is not a int32"),
        ({"instances": [{"prompt": "x", "max_new_tokens": True}]}, "max_new_tokens: true is not a int32"),
        ({"instances": [{"prompt": "x", "max_new_tokens": 2**40}]}, "max_new_tokens: cannot be made a int32"),
        ({"instances": [{"prompt": "x", "temperature": 1e300}]}, "temperature: cannot be made a float32"),
        ({"inputs": {"prompt": [{"b64": "?"}]}}, "b64 is not base64"),
        ({"inputs": {"prompt": [{"b64": "é"}]}}, "b64 is not base64"),
        ({"inputs": {"prompt": ["x", "y"], "seed": [1, 2, 3]}}, ""),
        ({"signature_name": "nope", "inputs": ["x"]}, '"nope" not found'),
        ({"signature_name": ["generate"], "inputs": ["x"]}, "not found"),
        ({"signature_name": "detokenize", "inputs": [[1, 2], [3]]}, "ids: lists of 1 and of 2 entries; give each as many"),
        ({"signature_name": "detokenize", "inputs": [[1, 2], 3]}, "ids: cannot be made a int32"),
        ({"inputs": {"prompt": ["x", "y"], "stop": [["a", "b"], []]}}, "stop: lists of 0 and of 2 entries"),
        ({"instances": [{"prompt": "x"}], "extra": 1}, r"Unknown keys \['extra'\]"),
    ],
)
def test_a_body_that_cannot_be_served_is_400_and_says_why(url, body, message):
    response = post(url, body)

    assert response.status_code == 400, response.text
    assert set(response.json()) == {"error"}
    assert re.search(message, response.json()["error"]), response.json()


def test_the_server_lives_on_after_bad_bodies_and_serves_many_at_once(url):
    answers = []

    def ask(number):
        answers.append((number, Client(url).generate([f"number {number}"], max_new_tokens=4)[0]["text"]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert dict(answers) == {number: Client(url).generate([f"number {number}"], max_new_tokens=4)[0]["text"] for number in range(12)}


def test_the_client_command_prints_what_the_server_says(url):
    command = [sys.executable, "-m", "tfgpt", "client"]
    expected = Client(url).generate(["a b", "c"], max_new_tokens=3, temperature=0.5)

    plain = subprocess.run([*command, "generate", "--url", url, "--prompt", "a b", "--max-new-tokens", "3"], capture_output=True, text=True, check=True)
    as_json = subprocess.run([*command, "generate", "--url", url, "--prompt", "a b", "--prompt", "c", "--max-new-tokens", "3", "--temperature", "0.5",
                              "--json"], capture_output=True, text=True, check=True)  # fmt: skip
    score = subprocess.run([*command, "score", "--url", url, "--text", "a b", "--json"], capture_output=True, text=True, check=True)

    assert plain.stdout == Client(url).generate(["a b"], max_new_tokens=3)[0]["text"] + "\n"
    assert [json.loads(line) for line in as_json.stdout.split("\n")[:-1]] == [{"prompt": p} | row for p, row in zip(["a b", "c"], expected)]
    assert json.loads(score.stdout) == {"text": "a b"} | Client(url).score(["a b"])[0]


def test_the_client_says_what_went_wrong(server, url):
    with pytest.raises(ServerError, match="no answer .* is the server running"):
        Client("http://127.0.0.1:9/v1/models/tiny").generate(["x"])
    with pytest.raises(ServerError, match="404: Servable not found"):
        Client(f"{server}/v1/models/other").generate(["x"])
    command = [sys.executable, "-m", "tfgpt", "client", "generate", "--url", "nonsense", "--prompt", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: tfgpt client generate: nonsense: is no address of a model; ") and done.stderr.count("\n") == 1


def test_an_answer_does_not_wait_for_the_client_to_acknowledge_its_beginning():
    with socket.create_server(("127.0.0.1", 0)) as listener, http_server(FastAPI(), listener, 1.0):
        assert httpx.get(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=60).status_code == 404

        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)  # which connections inherit
