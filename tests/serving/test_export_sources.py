"""The SavedModel of a model with an encoder: in a process without tfgpt, and over REST."""
import json
import re
import subprocess
import sys
import threading

import httpx
import numpy as np
import pytest

from tfgpt.generation.text_model import TextModel
from tfgpt.models import build
from tfgpt.recipe import ExportConfig
from tfgpt.serving.ask import ask_in_fresh_process
from tfgpt.serving.export import export
from tfgpt.serving.saved_model import LoadedModel

PLAIN = """
import json, sys
import tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
generate = loaded.signatures["generate"]
given = dict(generate.structured_input_signature[1])
defaults = {name: tf.zeros([1] * spec.shape.rank if spec.dtype != tf.string else [1, 0], spec.dtype) for name, spec in given.items() if name != "prompt"}
defaults |= {name: tf.zeros([1, 0], tf.int32) for name in ("banned_tokens", "forced_tokens")}
defaults |= {name: tf.ones([1]) for name in ("top_p", "typical_p", "repetition_penalty")} | {"max_new_tokens": tf.constant([9])}
outputs = generate(prompt=tf.constant(json.load(sys.stdin)), **defaults)
ids = loaded.signatures["tokenize"](text=tf.constant(["it's"]))["ids"]
back = loaded.signatures["detokenize"](ids=ids)["text"]
ours = sorted(name for name in sys.modules if name.startswith("tfgpt"))
print(json.dumps([[text.decode() for text in outputs["text"].numpy()], back.numpy()[0].decode(), ours]))
"""


@pytest.fixture(scope="module")
def text_model(translator, tokenizer):
    return TextModel(translator, tokenizer)


@pytest.fixture(scope="module")
def exported(text_model, tmp_path_factory):
    return export(text_model, tmp_path_factory.mktemp("export") / "translator", ExportConfig(max_new_tokens=9))


def test_tensorflow_alone_writes_the_same_texts(exported, text_model, prompts):
    done = subprocess.run([sys.executable, "-c", PLAIN, str(exported)], input=json.dumps(prompts), capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    texts, back, ours = json.loads(done.stdout)
    assert texts == [answer.text for answer in text_model.generate(prompts, 9)] and len(set(texts)) > 10
    assert back == "it's" and ours == []


@pytest.mark.slow
def test_samples_in_a_fresh_process_are_those_of_here(exported, text_model, prompts):
    there = ask_in_fresh_process(exported, prompts[:5], max_new_tokens=8, temperature=0.9, top_p=0.9, seed=3)

    here = text_model.generate(prompts[:5], 8, temperature=0.9, top_p=0.9, seed=3)
    assert [row["text"] for row in there] == [row.text for row in here]
    np.testing.assert_allclose([row["log_prob"] for row in there], [row.log_prob for row in here], atol=1e-3)


def test_a_text_without_a_source_has_no_signature(exported):
    assert sorted(LoadedModel(exported).signatures) == ["detokenize", "embed", "generate", "serving_default", "tokenize"]


def test_the_server_gives_what_the_model_gives(exported, text_model, prompts):
    command = [sys.executable, "-m", "tfgpt", "serve", "--model", f"translator={exported.parent}", "--port", "0", "--grpc-port", "-1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        url = next(found[1] for line in process.stderr if (found := re.search(r"serving (http://\S+/v1/models/translator)", line)))
        threading.Thread(target=process.stderr.read, daemon=True).start()  # so that it never waits for a reader
        answer = httpx.post(f"{url}:predict", json={"instances": [{"prompt": prompt} for prompt in prompts[:6]]}, timeout=60).json()
    finally:
        process.terminate()
        process.wait(timeout=30)

    assert [row["text"] for row in answer["predictions"]] == [row.text for row in text_model.generate(prompts[:6], 9)]


@pytest.mark.parametrize("weights", [pytest.param("bfloat16", marks=pytest.mark.slow), "int8"])
def test_weights_in_fewer_bits_are_exported_too(translator, tokenizer, prompts, tmp_path, weights):
    translator.save_pretrained(tmp_path / "model")
    text_model = TextModel(build.load_model(tmp_path / "model", weights), tokenizer)

    version = export(text_model, tmp_path / "export", ExportConfig(max_new_tokens=6))

    there = LoadedModel(version).predict("generate", {"prompt": np.array(prompts[:5], object)})["text"]
    assert [text.decode() for text in there] == [row.text for row in text_model.generate(prompts[:5], 6)]
