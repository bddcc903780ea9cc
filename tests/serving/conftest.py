"""One model for all tests that ask an application in this process: a load takes seconds. What is imported here waits for a test, see `tests.conftest`."""
import functools

import pytest


@pytest.fixture(scope="session")
def limited(exported):
    """A catalog of the model `tiny` with `LIMITS`."""
    from tests.serving.limited import LIMITS
    from tfgpt.serving.batched import BatchedModel
    from tfgpt.serving.catalog import Catalog
    from tfgpt.serving.config import ServableConfig
    from tfgpt.serving.manifest import verify_manifest

    catalog = Catalog([ServableConfig("tiny", exported.parent)], 0, verify_manifest, functools.partial(BatchedModel, limits=LIMITS))
    yield catalog
    assert catalog.close()


@pytest.fixture
def slow(limited, monkeypatch):
    """The model of `limited`, but so slow that a text of 12 tokens takes 6 s; two are written side by side."""
    from tests.serving.limited import Engine
    from tfgpt.serving.scheduler import Prompt, Scheduler

    with limited.lease("tiny") as served:
        served.loaded.submit([Prompt(b"The", {"max_new_tokens": 2})]).result()  # the first text of all takes seconds more, when TensorFlow optimizes its graph
        scheduler = Scheduler(Engine(served.loaded.stepper, seconds=0.5), max_rows=2)
        monkeypatch.setattr(served.loaded, "scheduler", scheduler)
        yield served.loaded
        scheduler.close(seconds=0)
