"""A model behind LiteRT: its logits are the graph's, whatever was read before."""
import numpy as np
import pytest
import tensorflow as tf

from tfgpt.generation.text_model import TextModel
from tfgpt.models import lite
from tfgpt.models.build import load_model
from tfgpt.models.lite import LiteModel
from tfgpt.serving.export import export

FP32 = 2e-5  # two libraries' sums of 32 to 128 products; logits are of the size of 10


@pytest.fixture(scope="module")
def lite_model(model):
    return LiteModel(model, threads=2)


@pytest.fixture(scope="module")
def ids(tokenizer, documents):
    rows = tokenizer(documents[:6], verbose=False).input_ids
    return tf.constant([row[:40] for row in rows], tf.int32)


def read(model, ids, start, end, cache):
    """Read columns of rows, each at its place; return all their logits."""
    batch = len(ids)
    positions = tf.broadcast_to(tf.range(start, end), [batch, end - start])
    last = tf.broadcast_to(tf.range(end - start), [batch, end - start])
    logits, cache = model.read(ids[:, start:end], positions, last, cache)
    return logits.numpy(), cache


def test_logits_are_the_graphs_in_pieces_of_any_width(model, lite_model, ids):
    whole, none = read(lite_model, ids, 0, 40, None)
    assert none is None
    np.testing.assert_allclose(whole, read(model, ids, 0, 40, None)[0], atol=FP32)

    cache = lite_model.empty_cache(len(ids), 40)
    for start, end in [(0, 7), (7, 8), (8, 9), (9, 30), (30, 31), (31, 40)]:
        logits, cache = read(lite_model, ids, start, end, cache)
        np.testing.assert_allclose(logits, whole[:, start:end], atol=FP32)
    np.testing.assert_array_equal(cache.ids, ids)


def test_what_was_read_before_changes_no_number(model, lite_model, ids):
    """Another batch in between, rows in another order, rows that go back and on with other tokens, rows read by no one here."""
    _, cache = read(lite_model, ids, 0, 20, lite_model.empty_cache(len(ids), 40))
    _, theirs = read(model, ids, 0, 20, model.empty_cache(len(ids), 40))

    def both(rows, end):
        order = tf.constant(rows)
        mixed = tf.concat([tf.gather(ids, order)[:, :end], tf.gather(ids, order[::-1])[:, 5:40]], axis=1)
        ours, _ = read(lite_model, mixed, end, end + 3, tf.nest.map_structure(lambda part: tf.gather(part, order), cache))
        right, _ = read(model, mixed, end, end + 3, tf.nest.map_structure(lambda part: tf.gather(part, order), theirs))
        np.testing.assert_allclose(ours, right, atol=FP32, err_msg=f"rows {rows} from {end} on")

    both([0, 1, 2, 3, 4, 5], 20)
    read(lite_model, ids[:1], 0, 4, None)                # takes the place of all
    both([3, 1, 1], 20)
    both([3, 1, 1], 9)                                   # other tokens behind the ninth
    both([3, 1, 1], 20)
    both([5, 4, 3, 2, 1, 0, 0, 0, 0], 12)
    both([2], 20)


def test_a_model_that_has_read_nothing_goes_on_from_tokens_that_another_has_read(model, lite_model, ids):
    _, cache = read(lite_model, ids, 0, 20, lite_model.empty_cache(len(ids), 40))
    expected, _ = read(lite_model, ids, 20, 22, cache)

    logits, _ = read(LiteModel(model), ids, 20, 22, cache)

    np.testing.assert_allclose(logits, expected, atol=FP32)


def test_rows_of_different_lengths_and_padding_behind_them(model, lite_model, ids):
    lengths = np.array([3, 17, 8, 1, 16, 12])
    positions = tf.broadcast_to(tf.range(32), [6, 32])
    last = tf.constant(lengths - 1)[:, tf.newaxis]
    ours, cache = lite_model.read(ids[:, :32], positions, last, lite_model.empty_cache(6, 40))
    right, theirs = model.read(ids[:, :32], positions, last, model.empty_cache(6, 40))
    np.testing.assert_allclose(ours, right, atol=FP32)

    behind, zeros = tf.constant(lengths)[:, tf.newaxis], tf.zeros([6, 1], tf.int32)
    for _ in range(3):                                   # one token more in each row, at its own place
        ours, cache = lite_model.read(ids[:, :1], behind, zeros, cache)
        right, theirs = model.read(ids[:, :1], behind, zeros, theirs)
        np.testing.assert_allclose(ours, right, atol=FP32)
        behind += 1


def test_long_texts_are_read_in_chunks(monkeypatch, model, ids):
    monkeypatch.setattr(lite, "CHUNK", 16)
    chunked = LiteModel(model)
    np.testing.assert_allclose(read(chunked, ids, 0, 40, None)[0], read(model, ids, 0, 40, None)[0], atol=FP32)

    last = tf.constant([[39, 2], [20, 20], [3, 16], [0, 39], [15, 31], [16, 17]])
    positions = tf.broadcast_to(tf.range(40), [6, 40])
    np.testing.assert_allclose(chunked.read(ids, positions, last, None)[0], model.read(ids, positions, last, None)[0], atol=FP32)


def test_two_streams_take_turns(model, tokenizer, prompts):
    text_model = TextModel(LiteModel(model), tokenizer)
    expected = [row.text for row in TextModel(model, tokenizer).generate(prompts[5:7], 12)]

    texts = ["", ""]
    streams = [text_model.stream(prompt, 12) for prompt in prompts[5:7]]
    for pieces in zip(*streams):
        texts = [text + piece for text, piece in zip(texts, pieces)]
    texts = [text + "".join(stream) for text, stream in zip(texts, streams)]

    assert texts == [text[: len(got)] for text, got in zip(expected, texts)] and sum(map(len, texts)) > 10


def test_int8_is_as_near_as_the_graphs_int8(model, tokenizer, model_folder, prompts):
    exact, graph, light = (TextModel(loaded, tokenizer).score(prompts) for loaded in (
        model, load_model(model_folder, weights="int8"), load_model(model_folder, weights="int8", engine="lite")))  # fmt: skip
    exact, graph, light = (sum(row.log_prob for row in rows) / sum(row.token_count for row in rows) for rows in (exact, graph, light))

    assert light != exact
    assert light == pytest.approx(exact, rel=0.05)  # weights ten times as large as a new model's: worse than any that was trained
    assert light == pytest.approx(graph, rel=0.03)


def test_int8_rows_do_not_depend_on_their_batch(model, tokenizer, prompts):
    text_model = TextModel(LiteModel(model, "int8"), tokenizer)

    together = text_model.generate(prompts, 6)

    assert [text_model.generate([prompt], 6)[0].text for prompt in prompts] == [row.text for row in together]


def test_the_model_is_left_as_it_was(model, ids):
    before = read(model, ids, 0, 40, None)[0]
    LiteModel(model, "int8")

    np.testing.assert_array_equal(read(model, ids, 0, 40, None)[0], before)
    assert len(model.all_variables) == len(model.weights)


def test_what_it_cannot_do_is_told(model, model_folder, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="engine lite has float32 and int8, not 'bfloat16'"):
        LiteModel(model, "bfloat16")
    with pytest.raises(ValueError, match="engine lite: it takes a model whose weights are in float32"):
        LiteModel(load_model(model_folder, weights="bfloat16"))
    with pytest.raises(ValueError, match="engine: 'onnx' is none of graph, lite"):
        load_model(model_folder, engine="onnx")
    with pytest.raises(ValueError, match="export: .* engine lite .* engine='graph'"):
        export(TextModel(LiteModel(model), tokenizer), tmp_path / "export")
    assert not (tmp_path / "export" / "1").exists()
