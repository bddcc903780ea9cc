"""Every test of generation is one of both engines."""
import pytest


@pytest.fixture(scope="session", params=["graph", "lite"])
def text_model(request, model, tokenizer):
    from tfgpt.generation.text_model import TextModel
    from tfgpt.models.lite import LiteModel

    return TextModel(model if request.param == "graph" else LiteModel(model), tokenizer)
