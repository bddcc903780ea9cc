"""Weights in bfloat16 and int8: the products' formulas, and what they cost a model."""
import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf

from tfgpt.data.pipeline import pack_texts
from tfgpt.evaluation.evaluate import summed_loss
from tfgpt.generation.text_model import TextModel
from tfgpt.models import checkpoint, stored
from tfgpt.models.build import load_model
from tfgpt.models.stored import PART, Bfloat16Matrix, Int8Matrix, for_two_uses, int8_rows, rows_of
from tfgpt.models.transformer import segment_mask
from tfgpt.serving.export import export
from tfgpt.serving.saved_model import LoadedModel


def numbers(*shape, seed):
    random = np.random.default_rng(seed)
    return (random.normal(size=shape) * random.uniform(0.01, 30, size=[shape[0], 1])).astype(np.float32)


@pytest.mark.parametrize("as_it_is", [True, False], ids=["processor", "processor without int8"])
@pytest.mark.parametrize("rows", [1, 2, 8, 33])
def test_the_int8_product_is_the_one_of_the_formula(rows, as_it_is, monkeypatch):
    if not as_it_is:
        monkeypatch.setattr(stored, "has_int8", lambda: False)
    x, matrix = numbers(rows, 64, seed=1), numbers(50, 64, seed=2)
    of_x, of_matrix = (np.abs(side).max(axis=1, keepdims=True) / 127 for side in (x, matrix))
    whole = np.round(x / of_x).astype(int) @ np.round(matrix / of_matrix).astype(int).T

    product = Int8Matrix(tf.constant(matrix)).product(tf.constant(x))

    np.testing.assert_allclose(product, whole * of_x * of_matrix.T, rtol=1e-5, atol=1e-4 * np.abs(whole * of_x * of_matrix.T).max())


def test_a_row_of_an_int8_product_does_not_depend_on_the_others():
    matrix, x = Int8Matrix(tf.constant(numbers(40, 32, seed=3))), numbers(6, 32, seed=4)

    together = matrix.product(tf.constant(x)).numpy()

    for number, row in enumerate(x):
        np.testing.assert_array_equal(matrix.product(tf.constant(row[np.newaxis]))[0], together[number])


def test_rows_of_zeros_stay_zeros():
    for kind in (Bfloat16Matrix, Int8Matrix):
        matrix = kind(tf.zeros([3, 4]))
        np.testing.assert_array_equal(matrix.product(tf.zeros([2, 4])), np.zeros([2, 3]))
        np.testing.assert_array_equal(matrix.rows(tf.constant([1])), np.zeros([1, 4]))


@pytest.mark.parametrize(("kind", "share"), [pytest.param("bfloat16", 0.6, marks=pytest.mark.slow), ("int8", 0.4)])
def test_a_model_with_fewer_bits_writes_scores_and_exports(model_folder, text_model, tokenizer, prompts, tmp_path, kind, share):
    model = load_model(model_folder, weights=kind)
    stored = TextModel(model, tokenizer)

    exact, near = text_model.score(prompts), stored.score(prompts)
    loss = [sum(row.log_prob for row in rows) / sum(row.token_count for row in rows) for rows in (exact, near)]
    assert loss[0] != loss[1]
    assert loss[1] == pytest.approx(loss[0], rel=0.05)  # weights ten times as large as a new model's: worse than any that was trained

    written = stored.generate(prompts, 6)
    assert [stored.generate([prompt], 6)[0].text for prompt in prompts] == [row.text for row in written]
    loaded = LoadedModel(export(stored, tmp_path / kind))
    assert [text.decode() for text in loaded.predict("generate", {"prompt": tf.constant(prompts), "max_new_tokens": tf.constant([6])})["text"]] == \
        [row.text for row in written]
    before, kept = (sum(int(tf.size(variable)) * variable.dtype.size for variable in each.weights) for each in (text_model, stored))
    assert kept < before * share  # biases, norms and positions, which stay, are much of so small a model


def test_the_loss_of_a_stored_model_is_that_of_its_logits(model_folder, tokenizer, documents):
    model = load_model(model_folder, weights="int8")
    batch = next(iter(pack_texts(documents[:6], tokenizer, length=32, batch_size=4)))

    loss, tokens, _ = summed_loss(model, tf.data.Dataset.from_tensors(batch))

    hidden = model.transformer(input_ids=batch["input_ids"], position_ids=batch["position_ids"],
                               attention_mask=segment_mask(batch["segment_ids"])).last_hidden_state
    log_probs = tf.nn.log_softmax(model.project(hidden)).numpy().reshape(-1, model.config.vocab_size)
    labels = batch["labels"].numpy().reshape(-1)
    expected = -sum(log_probs[place, label] for place, label in enumerate(labels) if label >= 0)
    assert tokens == (labels >= 0).sum()
    assert loss == pytest.approx(expected, rel=1e-4)


def test_what_cannot_be_done_with_stored_weights_is_told(model_folder, tmp_path):
    with pytest.raises(ValueError, match="weights: 'int4' is none of float32, bfloat16, int8"):
        load_model(model_folder, weights="int4")
    model = load_model(model_folder, weights="int8")
    with pytest.raises(ValueError, match="cannot be saved; load the model again"):
        model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="stored already"):
        model.store_weights("int8")


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_nothing_stays_of_what_is_kept_in_fewer_bits(model_folder, kind, monkeypatch):
    model = load_model(model_folder)
    for module in (checkpoint, stored):
        monkeypatch.setattr(module, "PART", 1000)
    loaded = load_model(model_folder, weights=kind)                                       # of files that are read by some rows at once
    matrices = [weakref.ref(layer.weight) for layer in model.projections] + [weakref.ref(model.transformer.wte.embeddings)]

    model.store_weights(kind)

    gc.collect()
    assert [matrix() for matrix in matrices] == [None] * len(matrices)
    for ours, theirs in zip(model.all_variables, loaded.all_variables, strict=True):  # in whatever order they are made smaller
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_rows_of_a_long_matrix_are_scaled_each_by_itself():
    values = numbers(2 * PART // 1024 + 3, 1024, seed=6)

    whole, scale = int8_rows(values)

    np.testing.assert_array_equal(scale, np.abs(values).max(axis=1) / np.float32(127.0))
    np.testing.assert_array_equal(whole, np.rint(values / scale[:, np.newaxis]))


@pytest.mark.parametrize("kind", ["plain", "generate"])
def test_a_table_whose_rows_are_looked_up_is_not_copied_when_it_is_read(model, tokenizer, kind):
    """What TensorFlow does to a variable that `tf.gather` was given: each reading of it then makes a copy."""
    text_model = TextModel(model, tokenizer)
    graph = getattr(text_model, f"{kind}_graph").get_concrete_function().graph.as_graph_def()

    of_matrices = [node for function in graph.library.function for node in function.node_def if node.op == "ResourceGather"]

    assert all("wpe" in node.name for node in of_matrices)  # which nothing else reads


@pytest.mark.parametrize("in_xla", [False, True])
def test_a_table_for_two_uses_has_the_gradient_of_both(in_xla):
    rng = np.random.default_rng(6)
    table, ids = tf.Variable(rng.normal(size=[11, 4]).astype(np.float32)), tf.constant([[3, 3, 10], [0, 3, 1]])

    def gradient(uses):
        with tf.GradientTape() as tape:
            looked_up, whole = uses(tf.convert_to_tensor(table))
            loss = tf.reduce_sum(tf.sin(tf.matmul(tf.reshape(rows_of(looked_up, ids), [-1, 4]), whole, transpose_b=True)))
        return tf.convert_to_tensor(tape.gradient(loss, table))

    found = tf.function(gradient, jit_compile=in_xla)(lambda table: for_two_uses(table, in_xla))

    np.testing.assert_allclose(found, gradient(lambda table: (table, table)), rtol=1e-5, atol=1e-6)  # the sums of repeated rows in another order
    np.testing.assert_allclose(rows_of(table, ids)[0, 0], table[3])
