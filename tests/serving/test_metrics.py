"""What a server tells of itself while it works."""
import threading

import numpy as np
import tensorflow as tf

from tests.serving.conftest import until
from tfgpt.serving.metrics import Metrics
from tfgpt.serving.scheduler import Prompt


def rows_of(metrics):
    """Return the gauges of rows that run and that wait."""
    lines = dict(line.rsplit(" ", 1) for line in metrics.page().decode().splitlines() if line.startswith("tfgpt_rows"))
    return [float(lines[f'tfgpt_rows_{name}{{model_name="tiny",version="3"}}']) for name in ("running", "waiting")]


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
