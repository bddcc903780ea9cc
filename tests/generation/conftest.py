"""Every test of generation is one of both engines."""
import pytest

from tfgpt.generation.text_model import TextModel
from tfgpt.models.lite import LiteModel


@pytest.fixture(scope="session", params=["graph", "lite"])
def text_model(request, model, tokenizer):
    return TextModel(model if request.param == "graph" else LiteModel(model), tokenizer)
