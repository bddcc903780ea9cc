"""What a request may not do to a server: bodies too large or too deep, more than the limits, folders that nobody gave it."""
import contextlib
import http.client
import json
import select
import shutil
import socket
import time
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from tests.serving.limited import LIMITS
from tests.serving.test_catalog import Loaded, write
from tfgpt.cli_serve_options import LIMITS as TOLD
from tfgpt.cli_serve_options import limits_of, serve_parser
from tfgpt.cli_support import UsageError
from tfgpt.serving.catalog import Catalog
from tfgpt.serving.config import BasePaths, ServableConfig
from tfgpt.serving.errors import PermissionDeniedError
from tfgpt.serving.guard import json_fault
from tfgpt.serving.http_server import http_server
from tfgpt.serving.limits import Limits
from tfgpt.serving.manifest import verify_manifest
from tfgpt.serving.server import create_app, threads_for

PREDICT, COMPLETIONS, CHAT = "/v1/models/tiny:predict", "/v1/completions", "/v1/chat/completions"


@pytest.fixture(scope="module")
def app(limited):
    return TestClient(create_app(limited, limits=LIMITS), raise_server_exceptions=False)


def message_of(path, response):
    """Return an error's text, which stands where the path's protocol has it."""
    body = response.json()
    if path == PREDICT:
        assert set(body) == {"error"} and isinstance(body["error"], str)
        return body["error"]
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]["message"]


@pytest.mark.parametrize(
    ("text", "deepest"),
    [
        (b'{"a": [[1], {"b": []}]}', 4),
        (b"[]" * 50, 1),
        (b'{"a": "[[[[[[", "b": ["]]]]"]}', 2),
        (rb'["\"[[[[", "\\", [1], "\\\"[[[["]', 2),
        (rb'["\\\\", [[1]], "[[[["]', 3),
        ('["é", ["日"]]'.encode(), 2),
        (b"[" * 100_000, 100_000),
    ],
)
def test_json_is_exactly_as_deep_as_it_is(text, deepest):
    assert json_fault(text, deepest) == ""
    assert f"more than {deepest - 1} deep" in json_fault(text, deepest - 1)


@pytest.mark.parametrize("path", [PREDICT, COMPLETIONS, CHAT])
@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"[" * 17, 400, "more than 16 deep"),
        (b'{"a":' * 17, 400, "more than 16 deep"),
        (json.dumps({"a": "x"}).encode("utf-16"), 400, "not UTF-8"),
        (b" " * 20_001, 413, "larger than 20000 bytes"),
        (b"{", 400, ""),
        (b"\xff", 400, ""),
        (b"", 400, ""),
    ],
)
def test_a_body_that_is_too_large_or_no_json_is_refused_in_the_protocols_own_form(app, path, content, status, message):
    response = app.post(path, content=content, headers={"Content-Type": "application/json"})

    assert response.status_code == status, response.text
    assert message in message_of(path, response)


def test_wrong_methods_and_paths_are_errors_in_the_protocols_own_form(app):
    assert message_of(CHAT, app.get(CHAT)).startswith("Malformed request: GET")
    assert app.get(CHAT).status_code == 405
    assert (app.post("/nowhere").status_code, set(app.post("/nowhere").json())) == (404, {"error"})


@pytest.mark.parametrize("path", ["/v1/models/../../etc/passwd", "/v1/models/%2e%2e%2fetc%2fpasswd", "/v1/models/tiny/versions/..%2f3", "//etc/passwd",
                                  "/v1/models/tiny%00/metadata", "/v1/models/tiny/labels/..%2f..%2f3/metadata"])  # fmt: skip
def test_no_path_of_a_request_leads_anywhere(app, path):
    response = app.get(path)

    assert response.status_code in (400, 404)
    assert set(response.json()) == {"error"}


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (PREDICT, {"instances": [{"prompt": "x"}] * 7}, "give at most 6"),
        (PREDICT, {"instances": [{"prompt": "x" * 501}]}, "more than 500 bytes"),
        (PREDICT, {"signature_name": "score", "inputs": ["é" * 251]}, "more than 500 bytes"),
        (PREDICT, {"instances": [{"prompt": "x", "max_new_tokens": 13}]}, "max_new_tokens: 13 is more than this server writes; give at most 12"),
        (PREDICT, {"instances": [{"prompt": "x", "stop": ["e"] * 17}]}, "stop: 17 in a row; give at most 16"),
        (PREDICT, {"instances": [{"prompt": "x", "stop": ["e" * 501]}]}, "stop: a text of more than 500 bytes"),
        (PREDICT, {"instances": [{"prompt": "x", "banned_tokens": [1] * 1000}]}, "banned_tokens: 1000 in a row; give at most "),
        (PREDICT, {"instances": [{"prompt": "x", "forced_tokens": [1] * 49}]}, "forced_tokens: 49 in a row; give at most 48"),
        (COMPLETIONS, {"model": "tiny", "prompt": "x", "stop": ["e"] * 17}, "stop: 17 in a row; give at most 16"),
        (COMPLETIONS, {"model": "tiny", "prompt": "x", "stop": "e" * 501}, "stop: a text of 501 bytes; give at most 500"),
        (COMPLETIONS, {"model": "tiny", "prompt": "x", "logit_bias": {str(token): -100 for token in range(1000)}}, "banned_tokens: 1000 in a row"),
        (COMPLETIONS, {"model": "tiny", "prompt": "x", "max_tokens": 13}, "max_tokens: 13 is more than this server writes; give at most 12"),
        (CHAT, {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_completion_tokens": 13}, "max_completion_tokens: 13 is more"),
        (COMPLETIONS, {"model": "tiny", "prompt": ["x"] * 3, "n": 3}, "give at most 6"),
        (COMPLETIONS, {"model": "tiny", "prompt": "x" * 501}, "give at most 500"),
        (CHAT, {"model": "tiny", "messages": [{"role": "user", "content": "x" * 501}]}, "give at most 500"),
    ],
)
def test_more_than_the_limits_is_refused(app, path, body, message):
    response = app.post(path, json=body)

    assert response.status_code == 400, response.text
    assert message in message_of(path, response)


def test_as_many_stops_as_the_limit_are_looked_for(app):
    body = {"model": "tiny", "prompt": "x", "stop": [f"stop {number}" for number in range(16)], "max_tokens": 2}

    assert app.post(COMPLETIONS, json=body).status_code == 200


CLASSIFY = "/v1/models/tiny:classify"
LONE = "\ud800"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {"model": "tiny:" + "9" * 5000, "prompt": "x"}),
        (COMPLETIONS, {"model": LONE, "prompt": "x"}),
        (CHAT, {"model": f"tiny:{LONE}", "messages": [{"role": "user", "content": "x"}]}),
        (COMPLETIONS, {"model": "tiny", "prompt": "x", LONE: 1}),
        (PREDICT, {"signature_name": LONE, "inputs": ["x"]}),
        (PREDICT, {"inputs": {LONE: ["x"]}}),
        (CLASSIFY, {"signature_name": LONE, "examples": [{"x": 1}]}),
        (CLASSIFY, {"examples": [{LONE: 1}]}),
        (CLASSIFY, {"examples": [{"x": [1, LONE]}]}),
    ],
)
def test_no_name_of_a_request_is_an_error_of_the_server(app, path, body):
    response = app.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})

    assert response.status_code in (400, 404), response.text
    assert message_of(PREDICT if path == CLASSIFY else path, response)


def test_an_error_of_the_server_says_that_its_connection_ends(app, limited, monkeypatch):
    monkeypatch.setattr(limited, "status", None)

    response = app.get("/v1/models/tiny")

    assert (response.status_code, response.headers["connection"]) == (500, "close")


def test_who_does_not_say_how_many_tokens_gets_as_many_as_the_limit(app):
    chat = app.post(CHAT, json={"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "min_new_tokens": 12})
    completion = app.post(COMPLETIONS, json={"model": "tiny", "prompt": "x", "min_new_tokens": 12})

    assert chat.status_code == completion.status_code == 200, (chat.text, completion.text)
    assert chat.json()["usage"]["completion_tokens"] == completion.json()["usage"]["completion_tokens"] == 12


@pytest.fixture(scope="module")
def port(limited):
    """Of a server over a socket."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with http_server(create_app(limited, limits=LIMITS), listener, 5.0):
            yield listener.getsockname()[1]


def test_a_chunked_body_without_a_length_is_bounded_too(port):
    """Nobody can send for ever: the server answers at the limit and hangs up."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("POST", PREDICT)
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    for _ in range(5):
        connection.send(b"1388\r\n" + b" " * 5000 + b"\r\n")  # 0x1388 = 5000; the body has no end

    response = connection.getresponse()

    assert response.status == 413 and "20000 bytes" in json.loads(response.read())["error"]
    assert response.getheader("connection") == "close"


def test_a_length_beyond_the_limit_is_refused_before_the_body_comes(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("POST", COMPLETIONS)
    connection.putheader("Content-Length", str(10**15))
    connection.endheaders()

    assert connection.getresponse().status == 413


def test_chunked_bodies_within_the_limit_are_served(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    text = json.dumps({"signature_name": "tokenize", "inputs": ["a b c"]}).encode()
    connection.request("POST", PREDICT, iter([text[:9], text[9:]]), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})

    response = connection.getresponse()

    assert response.status == 200 and set(json.loads(response.read())["outputs"]) == {"ids", "length"}


def dripped(port, head, rest, every_seconds=0.05):
    """Send the head, and of the rest a byte every so often, until the server says something or hangs up; return what it has said by then."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(head)
        for number in range(len(rest)):
            if select.select([client], [], [], every_seconds)[0]:
                break
            client.send(rest[number : number + 1])
        return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.fixture(scope="module")
def impatient_port(limited):
    """Of a server that waits for 0.3 s."""
    app = create_app(limited, limits=replace(LIMITS, body_seconds=0.3))
    with socket.create_server(("127.0.0.1", 0)) as listener, http_server(app, listener, 5.0, header_seconds=0.3):
        yield listener.getsockname()[1]


HEAD = b"POST %s HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"


@pytest.mark.parametrize("path", [PREDICT, COMPLETIONS])
@pytest.mark.parametrize("rest", [b"", b" " * 499])  # which would take 25 s
def test_a_body_that_does_not_come_in_time_is_408(impatient_port, path, rest):
    began = time.monotonic()

    answer = dripped(impatient_port, HEAD % path.encode(), rest)

    assert answer.startswith(b"HTTP/1.1 408 ") and b"connection: close" in answer.lower()
    assert b"not there after 0.3 s; send it faster, or start the server with a higher --body-seconds" in answer
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("head", [b"", b"POST / HTTP/1.1\r\n", b"GET /v1/models HTTP/1.1\r\nHost: here\r\n\r\nGET /"])
def test_headers_that_do_not_come_in_time_end_the_connection(impatient_port, head):
    """Of the first request and of a later one."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", impatient_port), timeout=20) as client:
        client.sendall(head)
        if head.startswith(b"GET"):
            answer = b""
            while not answer.endswith(b"]}"):
                answer += client.recv(65536)
            assert b"200 OK" in answer

        with contextlib.suppress(ConnectionError):  # a byte may be on its way when the server closes
            for _ in range(500):
                if select.select([client], [], [], 0.05)[0]:
                    break
                client.send(b"x")
            assert client.recv(65536) == b""
    assert time.monotonic() - began < 10


def test_a_connection_lives_on_from_request_to_request(impatient_port):
    connection = http.client.HTTPConnection("127.0.0.1", impatient_port, timeout=20)
    connection.connect()
    first = connection.sock
    for _ in range(4):
        connection.request("GET", "/v1/models")
        assert connection.getresponse().read()
        time.sleep(0.15)  # together more than 0.3 s

    assert connection.sock is first


def test_more_requests_can_wait_in_threads_than_a_models_queue_holds():
    limits = Limits(max_rows=4, max_waiting=100)

    assert threads_for(limits, models=2) > 2 * 104


def test_a_reload_may_choose_among_the_base_paths_given_and_names_no_other(tmp_path, monkeypatch):
    (tmp_path / "real" / "1").mkdir(parents=True)
    (tmp_path / "given").symlink_to(tmp_path / "real")
    (tmp_path / "sly").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    given = ServableConfig("m", tmp_path / "given")
    paths = BasePaths([given])

    for spelling in ("given", tmp_path / "given", tmp_path / "real", tmp_path / "x" / ".." / "real", f"{tmp_path}//real/"):
        assert paths.confine([ServableConfig("other", spelling)]) == [ServableConfig("other", given.base_path)]
    for wrong in (tmp_path, tmp_path / "real" / "1", tmp_path / "given" / "..", tmp_path / "sly", tmp_path / "sly" / "real", "/", "", "given\0"):
        with pytest.raises(PermissionDeniedError, match="--allow-reload-paths"):
            paths.confine([given, ServableConfig("other", wrong)])


def test_a_folder_that_is_not_as_its_manifest_says_is_not_loaded(exported, tmp_path):
    for version in ("1", "2"):
        shutil.copytree(exported, tmp_path / "m" / version)
    with open(tmp_path / "m" / "2" / "saved_model.pb", "ab") as file:
        file.write(b"\0")
    write(tmp_path / "foreign", 1)

    with pytest.raises(RuntimeError, match=r"saved_model.pb is changed"):
        Catalog([ServableConfig("m", tmp_path / "m")], 0, verify_manifest, Loaded)
    with pytest.raises(RuntimeError, match=r"holds no assets.extra/manifest.json"):
        Catalog([ServableConfig("m", tmp_path / "foreign")], 0, verify_manifest, Loaded)
    assert Catalog([ServableConfig("m", tmp_path / "foreign")], 0, None, Loaded).status("m")[0].state == "AVAILABLE"


def test_each_limit_is_an_option_and_one_that_lets_nothing_through_is_refused():
    given = serve_parser("").parse_args(["--model", "m=x", "--max-body-bytes", "5", "--request-seconds", "2.5"])

    assert limits_of(given) == Limits(max_body_bytes=5, request_seconds=2.5)
    assert TOLD.keys() == Limits.__dataclass_fields__.keys()
    for name in TOLD:
        with pytest.raises(UsageError, match=f"tfgpt serve: --{name.replace('_', '-')} -1"):
            limits_of(serve_parser("").parse_args(["--model", "m=x", f"--{name.replace('_', '-')}=-1"]))
