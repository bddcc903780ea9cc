"""Clients that go away, over sockets: their rows leave the batch well before their texts would have ended, which takes 6 s."""
import contextlib
import json
import socket
import time

import grpc
import httpx
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.serving.limited import LIMITS, until
from tfgpt.serving.gateway import Gateway
from tfgpt.serving.grpc_services import grpc_server
from tfgpt.serving.http_server import http_server
from tfgpt.serving.metrics import Metrics
from tfgpt.serving.presence import Presence
from tfgpt.serving.server import create_app

SOON_SECONDS = 3.0
"""Half of what a text takes; a row that is given up leaves at the next token, after 0.5 s."""
ASKED = {"max_new_tokens": 12, "min_new_tokens": 12}
PREDICT = "/v1/models/tiny:predict", {"instances": [{"prompt": "The"} | ASKED]}
COMPLETIONS = "/v1/completions", {"model": "tiny", "prompt": "The", "max_tokens": 12, "min_new_tokens": 12}
CHAT = "/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "The"}], "max_tokens": 12, "min_new_tokens": 12}


@pytest.fixture(scope="module")
def port(limited):
    with socket.create_server(("127.0.0.1", 0)) as listener, http_server(create_app(limited, limits=LIMITS), listener, 5.0):
        yield listener.getsockname()[1]


@pytest.fixture(scope="module")
def grpc_address(limited):
    with grpc_server(limited, Metrics(limited), "127.0.0.1:0", 5.0) as port:
        yield f"127.0.0.1:{port}"


def running(port):
    """Return what the gauge of running rows says."""
    page = httpx.get(f"http://127.0.0.1:{port}/monitoring/prometheus/metrics", timeout=20).text
    return float(next(line.split()[-1] for line in page.splitlines() if line.startswith('tfgpt_rows_running{model_name="tiny"')))


@pytest.mark.parametrize(("path", "body"), [PREDICT, COMPLETIONS, CHAT, (CHAT[0], CHAT[1] | {"stream": True})])
def test_rows_leave_with_the_client_that_asked_for_them(port, slow, path, body):
    content = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content)
        until(lambda: running(port) == 1)
    left = time.monotonic()

    until(lambda: running(port) == 0)

    assert time.monotonic() - left < SOON_SECONDS


def test_rows_leave_with_the_grpc_client_that_asked_for_them(port, grpc_address, slow):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "tiny"
    for name, value in {"prompt": ["The"], **{name: [value] for name, value in ASKED.items()}}.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    with grpc.insecure_channel(grpc_address) as channel:
        call = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict.future(request, timeout=20)
        until(lambda: running(port) == 1)
        call.cancel()
        left = time.monotonic()

        until(lambda: running(port) == 0)

    assert time.monotonic() - left < SOON_SECONDS


@pytest.mark.parametrize(("path", "body"), [PREDICT, COMPLETIONS])
def test_a_gateway_tells_the_server_behind_it(port, grpc_address, slow, path, body):
    gateway, timeout = Gateway(grpc_address, ["tiny"], LIMITS), httpx.Timeout(20, read=1.5)
    with socket.create_server(("127.0.0.1", 0)) as listener, http_server(create_app(gateway, limits=LIMITS), listener, 5.0):
        with pytest.raises(httpx.ReadTimeout):  # and so it hangs up
            httpx.post(f"http://127.0.0.1:{listener.getsockname()[1]}{path}", json=body, timeout=timeout)
        left = time.monotonic()

        until(lambda: running(port) == 0)

        assert time.monotonic() - left < SOON_SECONDS
    gateway.close()


@pytest.mark.parametrize(("path", "body"), [COMPLETIONS, CHAT])
def test_a_stream_that_the_servers_end_cuts_off_says_so(limited, slow, path, body):
    """Its client is still there, and is told what whoever waits for a whole answer is told."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as server:
        server.enter_context(http_server(create_app(limited, limits=LIMITS), listener, 0.2))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}{path}"
        with httpx.stream("POST", url, json=body | {"stream": True}, timeout=20) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            server.close()
            last = [line for line in lines if line][-1]

    assert json.loads(first.removeprefix("data: "))["choices"]
    assert json.loads(last.removeprefix("data: "))["error"]["message"].startswith("cut off: the server ends")


def test_who_has_left_is_called_back_about_at_once():
    presence, told = Presence(), []
    presence.on_leaving(lambda: told.append("before"))
    presence.leave()
    presence.leave()
    presence.on_leaving(lambda: told.append("after"))

    assert (presence.left, told) == (True, ["before", "after"])
