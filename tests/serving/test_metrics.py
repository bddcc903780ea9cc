"""What a server tells of itself while it works."""
import threading

import numpy as np
import pytest
import tensorflow as tf
from fastapi.testclient import TestClient

from tests.serving.limited import LIMITS, Engine, until
from tfgpt.serving.metrics import REQUESTS, Metrics
from tfgpt.serving.scheduler import Prompt, Scheduler
from tfgpt.serving.server import create_app


def rows_of(metrics):
    """Return the gauges of rows that run and that wait."""
    lines = dict(line.rsplit(" ", 1) for line in metrics.page().decode().splitlines() if line.startswith("tfgpt_rows"))
    return [float(lines[f'tfgpt_rows_{name}{{model_name="tiny",version="3"}}']) for name in ("running", "waiting")]


def counts_of(metrics):
    """Return how many requests of the model ended with each status."""
    samples = [sample for family in metrics.registry.collect() for sample in family.samples if sample.name == f"{REQUESTS}_total"]
    return {sample.labels["status"]: sample.value for sample in samples if sample.labels["model_name"] == "tiny"}


def test_rows_that_are_written_and_rows_that_wait_are_told(limited, slow):
    metrics = Metrics(limited)
    assert rows_of(metrics) == [0, 0]

    ticket = slow.submit([Prompt(b"The", {"max_new_tokens": 12, "min_new_tokens": 12})] * 5)

    until(lambda: rows_of(metrics) == [2, 3])
    ticket.cancel()
    until(lambda: rows_of(metrics) == [0, 0])


def test_rows_of_other_signatures_are_told_too(limited, slow, monkeypatch):
    metrics, may = Metrics(limited), threading.Event()
    call = slow.joiner._call
    monkeypatch.setattr(slow.joiner, "_call", lambda signature, inputs: (may.wait(20), call(signature, inputs))[1])
    texts = {"text": tf.constant(["a", "b"])}
    found = []
    threads = [threading.Thread(target=lambda: found.append(slow.predict("score", texts))) for _ in range(2)]
    for thread in threads:
        thread.start()

    until(lambda: rows_of(metrics) == [2, 2])
    may.set()
    for thread in threads:
        thread.join()
    assert rows_of(metrics) == [0, 0]
    np.testing.assert_array_equal(found[0]["token_count"], found[1]["token_count"])


@pytest.mark.parametrize(("body", "status"), [
    ({}, "OK"),
    ({"stream": True}, "OK"),
    ({"suffix": "end"}, "INVALID_ARGUMENT"),
    ({"max_tokens": 13}, "INVALID_ARGUMENT"),
    ({"model": "tiny:9"}, "NOT_FOUND"),
])  # fmt: skip
def test_a_request_of_openais_protocol_is_counted_with_its_own_status(limited, body, status):
    metrics = Metrics(limited)

    TestClient(create_app(limited, metrics, LIMITS)).post("/v1/completions", json={"model": "tiny", "prompt": "x", "max_tokens": 2} | body)

    assert counts_of(metrics) == {status: 1.0}


def test_a_stream_that_fails_on_its_way_is_counted_as_failed(limited, monkeypatch):
    metrics = Metrics(limited)
    with limited.lease("tiny") as served:
        scheduler = Scheduler(Engine(served.loaded.stepper, failures=1))
        monkeypatch.setattr(served.loaded, "scheduler", scheduler)
        body = {"model": "tiny", "prompt": "x", "stream": True, "max_tokens": 2}
        answer = TestClient(create_app(limited, metrics, LIMITS)).post("/v1/completions", json=body)
        scheduler.close()

    assert answer.status_code == 200 and "too little memory" in answer.text
    assert counts_of(metrics) == {"RESOURCE_EXHAUSTED": 1.0}
