"""One model for all tests that ask an application in this process: a load takes seconds."""
import functools

import pytest

from tfgpt.serving.batched import BatchedModel
from tfgpt.serving.catalog import Catalog
from tfgpt.serving.config import ServableConfig
from tfgpt.serving.limits import Limits
from tfgpt.serving.manifest import verify_manifest

LIMITS = Limits(max_rows=4, max_batch=6, max_prompt_bytes=500, max_new_tokens=12, request_seconds=20.0, max_body_bytes=20_000, max_json_depth=16)


@pytest.fixture(scope="session")
def limited(exported):
    """A catalog of the model `tiny` with `LIMITS`."""
    catalog = Catalog([ServableConfig("tiny", exported.parent)], 0, verify_manifest, functools.partial(BatchedModel, limits=LIMITS))
    yield catalog
    assert catalog.close()
