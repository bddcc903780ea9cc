"""One model for all tests that ask an application in this process: a load takes seconds."""
import functools
import time

import numpy as np
import pytest
import tensorflow as tf

from tfgpt.serving.batched import BatchedModel
from tfgpt.serving.catalog import Catalog
from tfgpt.serving.config import ServableConfig
from tfgpt.serving.limits import Limits
from tfgpt.serving.manifest import verify_manifest
from tfgpt.serving.scheduler import Prompt, Scheduler

LIMITS = Limits(max_rows=4, max_batch=6, max_prompt_bytes=500, max_new_tokens=12, request_seconds=20.0, max_body_bytes=20_000, max_json_depth=16)


@pytest.fixture(scope="session")
def limited(exported):
    """A catalog of the model `tiny` with `LIMITS`."""
    catalog = Catalog([ServableConfig("tiny", exported.parent)], 0, verify_manifest, functools.partial(BatchedModel, limits=LIMITS))
    yield catalog
    assert catalog.close()


class Engine:
    """The exported engine, but so slow that what happens between tokens can be seen; it fails once when it is told to."""

    def __init__(self, stepper, seconds=0.01, failures=0):
        self._stepper, self._seconds, self._failures = stepper, seconds, failures
        self.begin, self.join, self.keep = stepper.begin, stepper.join, stepper.keep

    def advance(self, rows, rounds):
        if self._failures:
            self._failures -= 1
            raise tf.errors.ResourceExhaustedError(None, None, "no memory for 2 rows")
        time.sleep(self._seconds)
        return self._stepper.advance(rows, np.int32(1))


@pytest.fixture
def slow(limited, monkeypatch):
    """The model of `limited`, but so slow that a text of 12 tokens takes 6 s; two are written side by side."""
    with limited.lease("tiny") as served:
        served.loaded.submit([Prompt(b"The", {"max_new_tokens": 2})]).result()  # the first text of all takes seconds more, when TensorFlow optimizes its graph
        scheduler = Scheduler(Engine(served.loaded.stepper, seconds=0.5), max_rows=2)
        monkeypatch.setattr(served.loaded, "scheduler", scheduler)
        yield served.loaded
        scheduler.close(seconds=0)


def until(holds, seconds=20.0):
    """Wait until something holds."""
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.001)
