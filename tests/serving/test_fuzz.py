"""REST and OpenAI's protocol over a socket, fuzzed from the server's own OpenAPI description: no 500, no hang, every error in its form."""
import socket
import time

import jsonschema
import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.serving.limited import LIMITS
from tfgpt.serving.http_errors import OPENAI_PATHS
from tfgpt.serving.http_server import http_server
from tfgpt.serving.openapi import ERROR, OPENAI_ERROR
from tfgpt.serving.server import create_app

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed; pip install schemathesis")

EXAMPLES = 25
"""Of each operation and each kind: those that keep to the description, and those that break it."""
SLOW_SECONDS = 10.0
"""A batch of six rows of twelve tokens takes well under one on two cores; the rest is room for a machine that others use too."""
MODES = list(schemathesis.GenerationMode)


@pytest.fixture(scope="module")
def address(limited):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with http_server(create_app(limited, limits=LIMITS), listener, 5.0):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(scope="module")
def operations(address):
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    return [found.ok() for found in schema.get_all_operations()]


def names_what_is_there(case):
    """Let a request that was made up ask for the model that is served, since a name at random is all that it would test."""
    parameters = case.path_parameters or {}
    for key, value in {"name": "tiny", "version": 3}.items():
        if key in parameters:
            parameters[key] = value
    if isinstance(case.body, dict) and "model" in case.body:
        case.body["model"] = "tiny"


def fault_of(path, response, seconds):
    """Return what a server may not do that this answer does, or ""."""
    if seconds > SLOW_SECONDS:
        return f"took {seconds:.1f} s"
    if response.status_code >= 500 and response.status_code not in (503, 504):
        return f"answered {response.status_code}: {response.text[:500]}"
    if response.status_code >= 400 and response.request.method != "HEAD":
        try:
            jsonschema.validate(response.json(), OPENAI_ERROR if path in OPENAI_PATHS else ERROR)
        except (requests.JSONDecodeError, jsonschema.ValidationError) as error:
            return f"answered {response.status_code} in another form: {response.text[:500]} ({error})"
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES, ids=[mode.value for mode in MODES])
def test_no_request_brings_a_500_or_a_hang_or_an_error_of_another_form(address, operations, mode):
    asked = {}

    def fuzz(operation):
        @given(case=operation.as_strategy(generation_mode=mode), known=st.sampled_from([True, True, True, False]))
        @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        def ask(case, known):
            if known:
                names_what_is_there(case)
            started = time.monotonic()
            response = requests.request(**case.as_transport_kwargs(base_url=address), timeout=2 * SLOW_SECONDS)
            fault = fault_of(operation.path, response, time.monotonic() - started)
            assert not fault, f"{case.as_curl_command()} {fault}"
            asked.setdefault((operation.method, operation.path), []).append(response.status_code)

        ask()

    for operation in operations:
        if mode is schemathesis.GenerationMode.POSITIVE or operation.method == "post":  # where all that is asked for is a name, any text is one
            fuzz(operation)

    assert {"/v1/completions", "/v1/chat/completions", "/v1/models/{name}:predict"} <= {path for _, path in asked}
    if mode is schemathesis.GenerationMode.POSITIVE:  # what keeps to the description is served at least now and then, so it went deeper than the parser
        for path in ("/v1/completions", "/v1/chat/completions", "/v1/models/{name}:predict"):
            assert 200 in asked["post", path], (path, asked["post", path])
