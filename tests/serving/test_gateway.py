"""`tfgpt serve --backend` in front of another server's gRPC: the same answers, over OpenAI's protocol too. All are processes of their own."""
import re
import subprocess
import sys
import threading
from dataclasses import replace

import httpx
import openai
import pytest
from fastapi.testclient import TestClient

from tests.serving.limited import LIMITS
from tests.serving.served import serving
from tfgpt.serving.gateway import Gateway
from tfgpt.serving.server import create_app


@pytest.fixture(scope="module")
def behind(exported):
    with serving("--model", f"tiny={exported.parent}") as server:
        yield server


@pytest.fixture(scope="module")
def url(behind):
    """The gateway's address."""
    command = [sys.executable, "-m", "tfgpt", "serve", "--backend", f"grpc://{behind.grpc}", "--model", "tiny", "--model", "absent", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    found = re.search(r"serving (http://[^/\s]+)", next(line for line in process.stderr if "serving http" in line))
    threading.Thread(target=process.stderr.read, daemon=True).start()
    yield found[1]
    process.terminate()
    assert process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def gateway_app(behind):
    """An application in this process whose limits are lower than those of the server behind."""
    limits = replace(LIMITS, max_new_tokens=5)  # the default of the export is 7
    gateway = Gateway(behind.grpc, ["tiny"], limits)
    yield TestClient(create_app(gateway, limits=limits), raise_server_exceptions=False)
    gateway.close()


@pytest.mark.parametrize("given", [{"temperature": 0, "stop": ["e"]}, {"temperature": 1.0, "seed": 7, "n": 2, "extra_body": {"top_k": 4}}])
def test_completions_are_those_of_the_server_behind(client, behind, given):
    direct = openai.OpenAI(base_url=f"{behind.rest}/v1", api_key="none", timeout=60)
    asked = {"model": "tiny", "prompt": ["It was", "The"], "max_tokens": 9} | given

    ours, theirs = client.completions.create(**asked), direct.completions.create(**asked)

    assert (ours.choices, ours.usage) == (theirs.choices, theirs.usage)
    streamed = {}
    for event in client.completions.create(**asked, stream=True):
        for choice in event.choices:
            streamed[choice.index] = streamed.get(choice.index, "") + choice.text
    assert [streamed[choice.index] for choice in theirs.choices] == [choice.text for choice in theirs.choices]


def test_chats_rest_status_and_metadata_go_through(client, url, behind):
    turns = [{"role": "user", "content": "Hi"}]
    body = {"signature_name": "score", "instances": [{"text": "It was"}, {"text": ""}]}

    assert client.chat.completions.create(model="tiny", messages=turns, max_tokens=4, temperature=0).choices[0].message.content is not None
    for address, method, content in (("tiny:predict", "POST", body), ("tiny/versions/3", "GET", None), ("tiny/metadata", "GET", None)):
        one, other = (httpx.request(method, f"{base}/v1/models/{address}", json=content, timeout=60) for base in (url, behind.rest))
        assert one.status_code == other.status_code == 200
        assert one.json() == other.json(), address


@pytest.mark.parametrize(("body", "error", "message"), [
    ({"model": "absent"}, openai.NotFoundError, "absent"),
    ({"model": "other"}, openai.NotFoundError, "other"),
    ({"model": "tiny:9"}, openai.NotFoundError, "9"),
    ({"model": "tiny:stable"}, openai.BadRequestError, "stable"),
    ({"logprobs": 2}, openai.BadRequestError, "logprobs: the server behind"),
    ({"prompt": [5]}, openai.BadRequestError, "give a text"),
    ({"logit_bias": {"99999": -100}}, openai.BadRequestError, "banned_tokens"),
])  # fmt: skip
def test_what_cannot_be_had_is_a_clear_error(client, body, error, message):
    with pytest.raises(error, match=message):
        client.completions.create(**{"model": "tiny", "prompt": "x", "max_tokens": 2} | body)


@pytest.mark.parametrize(("body", "message"), [
    ({"instances": [{"prompt": "x"}] * 7}, "prompt: 7 rows; give at most 6"),
    ({"instances": [{"prompt": "x" * 501}]}, "prompt: a text of more than 500 bytes"),
    ({"instances": [{"prompt": "x", "max_new_tokens": 6}]}, "max_new_tokens: 6 is more than this server writes; give at most 5"),
    ({"instances": [{"prompt": "x", "stop": ["e"] * 17}]}, "stop: 17 in a row; give at most 16"),
    ({"instances": [{"prompt": "x", "presence_penalty": 1e7}]}, "presence_penalty: 10000000.0 is not between"),
    ({"inputs": {"prompt": ["x", "y"], "top_k": [3, -1]}}, "top_k: -1 is not between 0 and"),
    ({"signature_name": "score", "inputs": ["x"] * 7}, "text: 7 rows; give at most 6"),
])  # fmt: skip
def test_a_gateways_own_limits_hold(gateway_app, body, message):
    answer = gateway_app.post("/v1/models/tiny:predict", json=body)

    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_who_does_not_tell_a_gateway_how_many_tokens_gets_as_many_as_its_limit(gateway_app):
    answer = gateway_app.post("/v1/models/tiny:predict", json={"instances": [{"prompt": "x", "min_new_tokens": 5}]})

    assert answer.json()["predictions"][0]["token_count"] == 5


def test_without_a_server_behind_it_says_so():
    command = [sys.executable, "-m", "tfgpt", "serve", "--backend", "grpc://127.0.0.1:9", "--model", "tiny", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    url = re.search(r"serving (http://[^/\s]+)", next(line for line in process.stderr if "serving http" in line))[1]

    answer = httpx.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": "x"}, timeout=60)

    process.terminate()
    assert (answer.status_code, process.wait(timeout=60)) == (503, 0)


@pytest.mark.parametrize("options", [["--backend", "127.0.0.1:8500", "--model", "tiny"], ["--backend", "grpc://127.0.0.1:8500", "--model", "tiny=folder"]])
def test_a_backend_that_cannot_be_is_one_line(options):
    done = subprocess.run([sys.executable, "-m", "tfgpt", "serve", *options], capture_output=True, text=True, check=False)

    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "give" in done.stderr
