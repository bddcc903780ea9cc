"""The SavedModel in a process that has nothing of tfgpt's model code, and as a C++ server reads it."""
import math
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tfgpt.generation.controls import CONTROLS
from tfgpt.recipe import ExportConfig
from tfgpt.serving.ask import ask_in_fresh_process
from tfgpt.serving.export import export
from tfgpt.serving.saved_model import LoadedModel, newest_version

NEW = 12


@pytest.fixture(scope="module")
def loaded(exported):
    return LoadedModel(exported)


def test_greedy_in_the_savedmodel_equals_the_models_own_generate(loaded, model, tokenizer, prompts):
    """Token for token with transformers' `generate`, twenty prompts of different lengths, in one batch and one by one."""
    assert len(prompts) == 20
    fitting = [prompt for prompt in prompts if 0 < len(tokenizer(prompt, verbose=False).input_ids) <= model.config.n_positions - NEW]

    def ask(rows):
        outputs = loaded.predict("generate", {"prompt": np.array(rows, object), "max_new_tokens": np.array([NEW], np.int32)})
        return [text.decode() for text in outputs["text"]]

    together = dict(zip(prompts, ask(prompts)))

    assert all(ask([prompt]) == [text] for prompt, text in together.items())
    for prompt in fitting:
        ids = np.array([tokenizer(prompt).input_ids], np.int32)
        written = model.generate(ids, attention_mask=np.ones_like(ids), max_new_tokens=NEW, do_sample=False, pad_token_id=0).numpy()
        assert together[prompt] == tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    assert len(fitting) > 8


@pytest.mark.parametrize(("wild", "tame"), [
    ({"presence_penalty": math.nan, "min_p": math.nan, "temperature": 1.0}, {"min_p": 0.0, "temperature": 1.0}),
    ({"frequency_penalty": math.inf, "temperature": -1.0}, {"frequency_penalty": 1e6, "temperature": 0.0}),
    ({"presence_penalty": -math.inf, "top_p": 7.0, "top_k": -3, "temperature": 1.0}, {"presence_penalty": -1e6, "temperature": 1.0}),
    ({"banned_tokens": [100_000, -7], "forced_tokens": [100_000], "prompt_lookup_num_tokens": 2**31 - 1}, {"prompt_lookup_num_tokens": 64}),
    ({"temperature": 1e-37}, {}),
])  # fmt: skip
def test_what_no_client_of_ours_may_ask_is_brought_into_range_and_fails_no_other_row(loaded, tokenizer, prompts, wild, tame):
    neutral = {name: control.neutral for name, control in CONTROLS.items()} | {"max_new_tokens": NEW, "min_p": 0.1}
    lists = {"banned_tokens": [-1], "forced_tokens": [-1]}

    def ask(*rows):
        given = [neutral | lists | row for row in rows]
        tensors = {name: tf.constant([row[name] for row in given], control.kind) for name, control in CONTROLS.items()}
        width = max(len(row[name]) for row in given for name in lists)
        tensors |= {name: tf.constant([row[name] + [-1] * (width - len(row[name])) for row in given], tf.int32) for name in lists}
        outputs = loaded.predict("generate", tensors | {"prompt": tf.constant(prompts[: len(rows)])})
        return [(text.decode(), int(count)) for text, count in zip(outputs["text"], outputs["token_count"])]

    assert ask({}, wild) == ask({}, tame)
    assert ask({}) == ask({}, wild)[:1]


def test_a_fresh_process_gives_the_same_text_and_imports_no_model_code(exported, text_model, prompts):
    here = text_model.generate(prompts[:6], max_new_tokens=9, temperature=0.8, top_k=40, seed=5)

    there = ask_in_fresh_process(exported, prompts[:6], max_new_tokens=9, temperature=0.8, top_k=40, seed=5)

    assert [row["text"] for row in there] == [row.text for row in here]
    assert [row["token_count"] for row in there] == [row.token_count for row in here]
    code = "import sys, tfgpt.serving.ask; print(sorted({'transformers', 'tokenizers', 'tfgpt.models'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_plain_session_serves_the_prompt_alone(exported, text_model, prompts):
    """As TensorFlow Serving loads it: the graph and its initializers, no Python functions."""
    graph = tf.Graph()
    with tf.compat.v1.Session(graph=graph) as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(exported))
        signature = meta.signature_def["serving_default"]
        fetches = {name: info.name for name, info in signature.outputs.items()}

        outputs = session.run(fetches, {signature.inputs["prompt"].name: np.array(prompts[:3], object)})

    expected = text_model.generate(prompts[:3], max_new_tokens=7)  # the export's default
    assert [text.decode() for text in outputs["text"]] == [row.text for row in expected]
    np.testing.assert_allclose(outputs["log_prob"], [row.log_prob for row in expected], rtol=1e-5)


def test_signatures_are_those_of_the_contract(loaded):
    shapes = {
        name: {
            side: {key: (tf.as_dtype(info.dtype).name, len(info.tensor_shape.dim)) for key, info in getattr(definition, side).items()}
            for side in ("inputs", "outputs")
        }
        for name, definition in loaded.signatures.items()
    }
    generate = {
        "inputs": {"prompt": ("string", 1), "max_new_tokens": ("int32", 1), "temperature": ("float32", 1), "top_k": ("int32", 1),
                   "top_p": ("float32", 1), "repetition_penalty": ("float32", 1), "seed": ("int64", 1), "min_p": ("float32", 1), "typical_p": ("float32", 1),
                   "presence_penalty": ("float32", 1), "frequency_penalty": ("float32", 1), "no_repeat_ngram_size": ("int32", 1),
                   "min_new_tokens": ("int32", 1), "prompt_lookup_num_tokens": ("int32", 1), "stop": ("string", 2), "banned_tokens": ("int32", 2),
                   "forced_tokens": ("int32", 2)},
        "outputs": {"text": ("string", 1), "token_count": ("int32", 1), "log_prob": ("float32", 1), "finish_reason": ("string", 1)},
    }  # fmt: skip
    assert shapes == {
        "serving_default": generate,
        "generate": generate,
        "score": {"inputs": {"text": ("string", 1)}, "outputs": {"log_prob": ("float32", 1), "token_count": ("int32", 1), "perplexity": ("float32", 1)}},
        "embed": {"inputs": {"text": ("string", 1)}, "outputs": {"embedding": ("float32", 2)}},
        "tokenize": {"inputs": {"text": ("string", 1)}, "outputs": {"ids": ("int32", 2), "length": ("int32", 1)}},
        "detokenize": {"inputs": {"ids": ("int32", 2)}, "outputs": {"text": ("string", 1)}},
    }
    assert set(loaded.signatures["generate"].defaults) == set(generate["inputs"]) - {"prompt"}


def test_tokenize_and_detokenize_are_the_python_tokenizers(loaded, tokenizer, documents):
    texts = [documents[0][:300], "", "it's ½ 日本語"]

    tokens = loaded.predict("tokenize", {"text": np.array(texts, object)})

    rows = [ids[:length].tolist() for ids, length in zip(tokens["ids"], tokens["length"])]
    assert rows == tokenizer(texts, verbose=False).input_ids
    back = loaded.predict("detokenize", {"ids": tokens["ids"]})["text"]
    assert [text.decode() for text in back] == texts  # the padding is the end-of-text token, which gives no text


def test_score_is_the_python_models(loaded, text_model, documents):
    texts = np.array([documents[0][:300], documents[1][:900], ""], object)

    there, here = loaded.predict("score", {"text": texts}), text_model.score_graph(tf.constant(texts), tf.constant(0))

    for name in ("log_prob", "token_count", "perplexity"):
        np.testing.assert_allclose(there[name], here[name], rtol=1e-6)


def test_embed_is_the_python_models(loaded, text_model, prompts):
    there = loaded.predict("embed", {"text": np.array(prompts, object)})["embedding"]

    np.testing.assert_allclose(there, text_model.embed(prompts), atol=2e-5)  # the same sums of products, with other padding


def test_the_graph_has_tensorflows_own_ops_only(exported):
    content = saved_model_pb2.SavedModel.FromString((exported / "saved_model.pb").read_bytes())
    graph = content.meta_graphs[0].graph_def
    ops = {node.op for node in graph.node} | {node.op for function in graph.library.function for node in function.node_def}

    known = set(tf.raw_ops.__dict__) | {function.signature.name for function in graph.library.function}
    assert not {op for op in ops if op not in known and not op.startswith("_")}
    assert not {op for op in ops if "PyFunc" in op or "Xla" in op}


def test_what_all_ways_of_writing_share_is_kept_once(exported, model):
    """So a server has it once, too: tokens are written into a cache in a round of decoding alone, of which there is one."""
    graph = saved_model_pb2.SavedModel.FromString((exported / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    operations = [node.op for function in graph.library.function for node in function.node_def]
    assert operations.count("InplaceUpdate") == 2 * model.config.n_layer
    assert operations.count("UnicodeDecode") == 2  # of texts, and of the bytes of their words


def test_what_is_missing_or_unknown_is_named(loaded, tmp_path):
    with pytest.raises(KeyError, match=r"\['prompt'\] are missing among the inputs of generate"):
        loaded.predict("generate", {})
    with pytest.raises(KeyError, match=r"\['promt'\] are no inputs of generate"):
        loaded.predict("generate", {"promt": np.array(["x"], object)})
    with pytest.raises(KeyError, match='"classify" is not among'):
        loaded.predict("classify", {})
    with pytest.raises(FileNotFoundError, match=r"holds no saved_model\.pb"):
        LoadedModel(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no version"):
        newest_version(tmp_path)


def test_a_failed_question_is_an_error_with_the_reason(tmp_path):
    with pytest.raises(RuntimeError, match=r"holds no saved_model\.pb"):
        ask_in_fresh_process(tmp_path, ["x"])


def test_an_export_that_fails_leaves_nothing_and_keeps_the_old_one(text_model, tmp_path):
    (tmp_path / "tiny" / "1").mkdir(parents=True)
    (tmp_path / "tiny" / "1" / "kept").write_text("old")

    with pytest.raises(FileNotFoundError):
        export(text_model, tmp_path / "tiny", ExportConfig(version=1), assets=[tmp_path / "missing"])

    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["1"]  # nothing for servers either
    assert (tmp_path / "tiny" / "1" / "kept").read_text() == "old"
