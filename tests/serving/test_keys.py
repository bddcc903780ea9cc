"""Keys and certificates: who is let in over HTTP and gRPC, to what, how often, and how a key comes about."""
import datetime
import hashlib
import ipaddress
import os
import socket
import subprocess
import sys
import threading

import grpc
import httpx
import pytest
import yaml
from fastapi.testclient import TestClient
from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2, model_service_pb2_grpc, predict_pb2, prediction_service_pb2_grpc

from tests.serving.limited import LIMITS
from tfgpt.cli import main
from tfgpt.cli_serve_options import open_door
from tfgpt.serving.client import Client, ServerError
from tfgpt.serving.config import BasePaths
from tfgpt.serving.errors import ResourceExhaustedError, UnauthenticatedError
from tfgpt.serving.grpc_services import grpc_server
from tfgpt.serving.http_server import http_server
from tfgpt.serving.keys import KeyEntry, Keys, add_key, read_keys
from tfgpt.serving.metrics import Metrics
from tfgpt.serving.server import create_app
from tfgpt.serving.tls import Tls

SECONDS = 20
BODY = {"signature_name": "tokenize", "inputs": ["a"]}
SCOPES_OF = {"writer": ["predict"], "chatter": ["openai"], "watcher": ["status"], "boss": ["admin"], "elsewhere": ["predict", "openai", "status", "admin"]}


def entry_of(name, *scopes, models=(), per_minute=0):
    return KeyEntry(name, hashlib.sha256(f"key of {name}".encode()).hexdigest(), frozenset(scopes), frozenset(models), per_minute)


def bearer(name):
    return {"Authorization": f"Bearer key of {name}"}


@pytest.fixture(scope="module")
def keys():
    return Keys([entry_of(name, *scopes, models=["other"] if name == "elsewhere" else []) for name, scopes in SCOPES_OF.items()])


@pytest.fixture(scope="module")
def app(limited, keys):
    return TestClient(create_app(limited, limits=LIMITS, keys=keys), raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("method", "path", "body", "good"),
    [
        ("POST", "/v1/models/tiny:predict", BODY, "writer"),
        ("POST", "/v1/models/tiny/versions/3:predict", BODY, "writer"),
        ("POST", "/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 1}, "chatter"),
        ("POST", "/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}, "chatter"),
        ("GET", "/v1/models/tiny", None, "watcher"),
        ("GET", "/v1/models/tiny/metadata", None, "watcher writer"),
        ("GET", "/v1/models", None, "watcher"),
        ("GET", "/monitoring/prometheus/metrics", None, "watcher"),
    ],
)
def test_each_route_is_open_to_its_scope_alone(app, method, path, body, good):
    codes = {name: app.request(method, path, json=body, headers=bearer(name)).status_code for name in SCOPES_OF if name != "elsewhere"}
    foreign = app.request(method, path, json=body, headers=bearer("elsewhere"))

    assert codes == {name: 200 if name in good.split() else 403 for name in codes}
    if path == "/v1/models":
        assert foreign.json()["data"] == []  # a key for some models sees those alone
    else:
        assert foreign.status_code == 403, foreign.text


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer unknown", "Basic a2V5", "key of writer", "Bearer key of writer2", "Bearer \xe9"])
def test_without_a_key_that_is_known_everything_is_401(app, header):
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}

    rest = app.post("/v1/models/tiny:predict", json=BODY, headers=headers)
    openai = app.post("/v1/completions", json={"model": "tiny"}, headers=headers)

    assert (rest.status_code, openai.status_code) == (401, 401)
    assert rest.headers["www-authenticate"] == "Bearer" and isinstance(rest.json()["error"], str)
    assert openai.json()["error"]["code"] == "invalid_api_key"
    assert app.get("/nowhere", headers=headers).status_code == 401


def test_pages_of_an_origin_that_is_named_may_ask_from_a_browser(limited, keys):
    app = TestClient(create_app(limited, keys=keys, origins=["https://here.example"]))
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type"}
    allowed = lambda answer: answer.headers.get("access-control-allow-origin")  # noqa: E731

    before = {origin: app.options("/v1/completions", headers={"Origin": origin} | asks) for origin in ("https://here.example", "https://there.example")}
    answers = [app.get("/v1/models", headers={"Origin": "https://here.example"} | key) for key in (bearer("watcher"), {})]

    assert [(answer.status_code, allowed(answer)) for answer in before.values()] == [(200, "https://here.example"), (400, None)]
    assert [(answer.status_code, allowed(answer)) for answer in answers] == [(200, "https://here.example"), (401, "https://here.example")]
    assert allowed(TestClient(create_app(limited)).get("/v1/models", headers={"Origin": "https://here.example"})) is None


def test_a_body_without_a_key_is_not_read(app):
    assert app.post("/v1/completions", content=b"[" * 30_000).status_code == 401
    assert app.post("/v1/completions", content=b"[" * 30_000, headers=bearer("chatter")).status_code == 413


def test_so_many_requests_in_any_minute_and_no_more():
    now = [100.0]
    keys = Keys([entry_of("slow", "predict", per_minute=3), entry_of("free", "predict")], clock=lambda: now[0])
    for now[0] in (100.0, 130.0, 159.9):
        keys.caller("Bearer key of slow")

    with pytest.raises(ResourceExhaustedError, match="More than 3 requests in a minute with the key of slow") as raised:
        keys.caller("Bearer key of slow")
    assert raised.value.retry_after == 1  # until 160.0, when the first is a minute old
    for _ in range(9):
        keys.caller("Bearer key of free")
    now[0] = 160.0
    keys.caller("Bearer key of slow")
    with pytest.raises(ResourceExhaustedError) as raised:
        keys.caller("Bearer key of slow")
    assert raised.value.retry_after == 30


def test_one_request_too_many_is_429_and_says_when(limited):
    app = TestClient(create_app(limited, keys=Keys([entry_of("slow", "status", "openai", per_minute=1)])))

    first, second = (app.get("/v1/models/tiny", headers=bearer("slow")) for _ in range(2))

    assert (first.status_code, second.status_code) == (200, 429)
    assert 1 <= int(second.headers["retry-after"]) <= 60


def test_a_rate_holds_for_many_threads_together():
    keys, refused = Keys([entry_of("slow", "predict", per_minute=50)]), []

    def ask():
        for _ in range(20):
            try:
                keys.caller("Bearer key of slow")
            except ResourceExhaustedError as error:
                refused.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(refused) == 160 - 50


@pytest.fixture(scope="module")
def grpc_address(limited, keys):
    with grpc_server(limited, Metrics(limited), "127.0.0.1:0", 5.0, base_paths=BasePaths([]), keys=keys) as port:
        yield f"127.0.0.1:{port}"


def grpc_code(address, method, name):
    """Return the code that a call ends with."""
    request = {"Predict": predict_pb2.PredictRequest(), "GetModelStatus": get_model_status_pb2.GetModelStatusRequest(),
               "HandleReloadConfigRequest": model_management_pb2.ReloadConfigRequest()}[method]
    if method == "HandleReloadConfigRequest":
        request.config.model_config_list.config.add(name="m", base_path="/etc")
    else:
        request.model_spec.name = "tiny"
    metadata = [] if name is None else [("authorization", f"Bearer key of {name}")]
    with grpc.insecure_channel(address) as channel:
        stub = (prediction_service_pb2_grpc.PredictionServiceStub if method == "Predict" else model_service_pb2_grpc.ModelServiceStub)(channel)
        try:
            getattr(stub, method)(request, timeout=SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name, error.details()
    return "OK", ""


def test_grpc_asks_for_the_same_keys(grpc_address):
    for method, good, done in (("Predict", "writer", ("INVALID_ARGUMENT", "['prompt'] are missing")), ("GetModelStatus", "watcher", ("OK", "")),
                               ("HandleReloadConfigRequest", "boss", ("PERMISSION_DENIED", "base_path: /etc of m is none of those"))):
        for name in SCOPES_OF:
            code, message = grpc_code(grpc_address, method, name)
            if name == good:
                assert code == done[0] and done[1] in message
            else:
                assert code == "PERMISSION_DENIED" and f"The key of {name} is" in message, (method, name, message)
        assert grpc_code(grpc_address, method, None)[0] == grpc_code(grpc_address, method, "nobody")[0] == "UNAUTHENTICATED"


def test_grpc_says_when_there_is_room_again(limited):
    with grpc_server(limited, Metrics(limited), "127.0.0.1:0", 5.0, keys=Keys([entry_of("slow", "status", per_minute=1)])) as port:
        assert grpc_code(f"127.0.0.1:{port}", "GetModelStatus", "slow")[0] == "OK"
        assert grpc_code(f"127.0.0.1:{port}", "GetModelStatus", "slow")[0] == "RESOURCE_EXHAUSTED"


def test_the_command_makes_a_key_and_prints_it_once(tmp_path, capsys):
    file = tmp_path / "keys.yaml"
    file.write_text("# ours\n- {name: old, sha256: '" + "0" * 64 + "', scopes: [admin], requests_per_minute: 5}")

    assert main(["serve", "--new-api-key", "anna", "--api-keys", str(file)]) == 0
    key = capsys.readouterr().out.strip()

    old, new = read_keys(file)
    assert file.read_text().startswith("# ours\n") and key not in file.read_text()
    assert (old.scopes, old.requests_per_minute, new.name, new.scopes) == ({"admin"}, 5, "anna", {"predict", "openai", "status"})
    assert Keys([old, new]).caller(f"Bearer {key}").entry == new
    assert len(key) == 43  # 32 bytes in base64
    assert main(["serve", "--new-api-key", "anna", "--api-keys", str(file)]) == 2
    assert "there is a key of anna already" in capsys.readouterr().err
    assert main(["serve", "--new-api-key", "bert"]) == 2
    assert add_key(tmp_path / "new.yaml", "a") != add_key(tmp_path / "new.yaml", "b")
    file.write_text("[]")
    assert main(["serve", "--new-api-key", "bert", "--api-keys", str(file)]) == 2 and file.read_text() == "[]"


def test_a_change_of_the_file_is_in_force_without_a_restart(tmp_path, caplog):
    file, now = tmp_path / "keys.yaml", [100.0]
    anna = add_key(file, "anna")
    entries = yaml.safe_load(file.read_text())
    entries[0]["requests_per_minute"] = 2
    file.write_text(yaml.safe_dump(entries))
    keys = Keys.of_file(file, clock=lambda: now[0])
    keys.caller(f"Bearer {anna}")

    bert = add_key(file, "bert")
    with pytest.raises(UnauthenticatedError):  # not at every request
        keys.caller(f"Bearer {bert}")
    now[0] += 1.0
    assert keys.caller(f"Bearer {bert}").entry.name == "bert"
    keys.caller(f"Bearer {anna}")
    with pytest.raises(ResourceExhaustedError):  # two in this minute: a change elsewhere forgets none
        keys.caller(f"Bearer {anna}")

    for wrong in ("[", None):
        if wrong is None:
            file.unlink()
        else:
            file.write_text(wrong)
        for _ in range(2):
            now[0] += 1.0
            assert keys.caller(f"Bearer {bert}").entry.name == "bert"
    assert caplog.text.count("the keys stay those that they were") == 2

    file.write_text(yaml.safe_dump(entries))
    now[0] += 1.0
    with pytest.raises(UnauthenticatedError):
        keys.caller(f"Bearer {bert}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "key of anna"}, r"\[1\].sha256: 'key of anna' is no sha256"),
        ({"sha256": "0" * 64}, "the sha256 0+ stands twice"),
        ({"name": "zero"}, "the name zero stands twice"),
        ({"name": ""}, "name: '' is no name"),
        ({"scopes": []}, "scopes: nothing is no scope"),
        ({"scopes": "predict"}, "scopes: 'predict' is no list"),
        ({"scopes": ["all"]}, "scopes: all is no scope; give some of predict, openai, status, admin"),
        ({"models": []}, "models: an empty list"),
        ({"requests_per_minute": 0}, "requests_per_minute: 0 is no number of requests"),
        ({"requests_per_minute": True}, "requests_per_minute: True is no number"),
        ({"key": "x"}, "'key' is none of name"),
    ],
)
def test_a_file_that_is_not_understood_is_refused_with_the_place(tmp_path, change, message):
    entries = [{"name": "zero", "sha256": "0" * 64, "scopes": ["admin"]}, {"name": "anna", "sha256": "1" * 64, "scopes": ["predict"]} | change]
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump(entries))

    with pytest.raises(ValueError, match=message):
        read_keys(tmp_path / "keys.yaml")


def test_keys_are_compared_whole():
    keys = Keys([entry_of("anna", "predict")])
    with pytest.raises(UnauthenticatedError):
        keys.caller(f"Bearer {hashlib.sha256(b'key of anna').hexdigest()}")  # who reads the file has no key


@pytest.mark.parametrize(("address", "warned"), [("127.0.0.1", False), ("::1", False), ("0.0.0.0", True), ("192.0.2.1", True), ("::", True)])
def test_an_open_door_is_warned_of(address, warned):
    keys = Keys([entry_of("anna", "predict")])

    assert bool(open_door(address, None, None)) == bool(open_door(address, keys, None)) == warned
    assert open_door(address, keys, Tls.__new__(Tls)) == ""


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """A certificate for 127.0.0.1 that signs itself."""
    x509 = pytest.importorskip("cryptography.x509", reason="cryptography is not installed; pip install cryptography")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder, key, now = tmp_path_factory.mktemp("tls"), ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tfgpt test")])
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return Tls(folder / "certificate.pem", folder / "key.pem")


@pytest.fixture(scope="module")
def addresses(limited, keys, tls):
    """HTTPS and gRPC with keys and a certificate."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        app = create_app(limited, limits=LIMITS, keys=keys)
        with http_server(app, listener, 5.0, tls), grpc_server(limited, Metrics(limited), "127.0.0.1:0", 5.0, keys=Keys([entry_of("a", "predict")]),
                                                               tls=tls) as port:  # fmt: skip
            yield f"https://127.0.0.1:{listener.getsockname()[1]}", f"grpcs://127.0.0.1:{port}/tiny"


def test_the_client_has_keys_and_certificates_over_both_protocols(addresses, tls):
    rest, over_grpc = addresses
    options = {"timeout_seconds": SECONDS, "retries": 0, "ca_certificate": tls.certificate}

    written = Client(f"{rest}/v1/models/tiny", api_key="key of writer", **options).generate(["a b"], max_new_tokens=3)
    same = Client(over_grpc, api_key="key of a", **options).generate(["a b"], max_new_tokens=3)

    assert written[0]["text"] == same[0]["text"]
    with pytest.raises(ServerError, match="401: This server asks for a key"):
        Client(f"{rest}/v1/models/tiny", **options).generate(["a"])
    with pytest.raises(ServerError, match="UNAUTHENTICATED: The key is not known"):
        Client(over_grpc, api_key="key of writer", **options).generate(["a"])
    with pytest.raises(ServerError, match="no answer .*certificate"):
        Client(f"{rest}/v1/models/tiny", SECONDS, 0, "key of writer").generate(["a"])
    with pytest.raises(ServerError, match="api_key: holds nothing"):
        Client(rest, api_key="a\nb")
    for url in addresses:
        with pytest.raises(ServerError, match="ca_certificate: .*nowhere"):
            Client(url, ca_certificate="nowhere")


def test_the_client_command_takes_the_key_from_a_file_or_the_environment(addresses, tls, tmp_path):
    (tmp_path / "key").write_text("key of writer\n")
    command = [sys.executable, "-m", "tfgpt", "client", "score", "--url", f"{addresses[0]}/v1/models/tiny", "--text", "a b",
               "--ca-certificate", str(tls.certificate)]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "TFGPT_API_KEY"}

    from_file = subprocess.run([*command, "--api-key-file", str(tmp_path / "key")], env=environment, capture_output=True, text=True, check=False)
    from_environment = subprocess.run(command, env=environment | {"TFGPT_API_KEY": "key of writer"}, capture_output=True, text=True, check=False)
    without = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert from_file.stdout == from_environment.stdout and from_file.stdout.startswith("log_prob"), from_file.stderr + from_environment.stderr
    assert without.returncode == 1 and "401" in without.stderr


def test_what_is_served_with_a_certificate_does_not_answer_without(addresses):
    with pytest.raises(httpx.HTTPError):
        httpx.get(addresses[0].replace("https", "http"), timeout=SECONDS)


def test_files_that_are_no_certificate_and_its_key_are_refused(tls, tmp_path):
    with pytest.raises(FileNotFoundError, match="--tls-key: there is no file"):
        Tls(tls.certificate, tmp_path / "key.pem")
    with pytest.raises(ValueError, match="cannot be used together"):
        Tls(tls.certificate, tls.certificate)
