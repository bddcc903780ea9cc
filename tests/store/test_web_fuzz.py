"""The store's API over a socket, fuzzed from its own OpenAPI description as an administrator: no 500, every error in its form, the catalog whole."""
import contextlib
import socket

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from tests.store.web import Site
from tfgpt.serving.http_server import http_server
from tfgpt.store import catalog
from tfgpt.store.access.audit import audit
from tfgpt.store.reference import Reference

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed; pip install schemathesis")

EXAMPLES = 25
"""Of each operation and each kind: those that keep to the description, and those that break it."""
MODES = list(schemathesis.GenerationMode)


@pytest.fixture
def site(tmp_path, monkeypatch, database_url):
    site = Site(tmp_path, monkeypatch, database_url, requests_per_minute=10**6, publishes_per_hour=10**6, tries_per_minute=10**6, try_models=0)
    site.publish()
    return site


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES, ids=[mode.value for mode in MODES])
def test_no_request_brings_a_500_or_an_error_of_another_form(site, mode):
    key = site.program("root").headers["Authorization"]
    listener = socket.create_server(("127.0.0.1", 0))
    asked = {}

    def fuzz(operation, address):
        @given(case=operation.as_strategy(generation_mode=mode), known=st.sampled_from([True, True, True, False]))
        @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        def ask(case, known):
            parameters = case.path_parameters or {}
            parameters |= {name: value for name, value in {"name": "tickets", "version": 1, "path": "README.md"}.items() if known and name in parameters}
            made = case.as_transport_kwargs(base_url=address)
            made["headers"] = dict(made["headers"]) | {"Authorization": key}
            response = requests.request(**made, timeout=20)
            assert response.status_code < 500, f"{case.as_curl_command()} answered {response.status_code}: {response.text[:500]}"
            if response.status_code >= 400:
                assert isinstance(response.json()["error"], str), f"{case.as_curl_command()} answered {response.text[:500]}"
            asked.setdefault((operation.method, operation.path), []).append(response.status_code)

        ask()

    with http_server(site.app, listener, 5.0):
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for found in schemathesis.openapi.from_url(f"{address}/api/openapi.json").get_all_operations():
            with contextlib.suppress(Unsatisfiable):  # of an operation without parameters nothing can be broken
                fuzz(found.ok(), address)
    assert len(asked) >= 15 and any(min(codes) < 300 for codes in asked.values())
    assert catalog.details_of(site.store.database, Reference("tickets", 1)).entry.owner == "jane"
    assert {line.actor for line in audit(site.store.database, limit=1000)} <= {"root", "jane", "setup"}
