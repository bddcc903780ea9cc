"""What Keras and transformers have around a model's steps: figures, batches, generate."""
import math
import re

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from transformers import GPT2LMHeadModel, TFGPT2LMHeadModel

from tfgpt.data.pipeline import pack_texts
from tfgpt.models import build
from tfgpt.models.causal_lm import GPTLMHeadModel
from tfgpt.recipe import ModelConfig

LENGTH = 16


@pytest.fixture
def compiled(tokenizer):
    model = build.new_model(ModelConfig(layers=1, width=32, heads=2, dropout=0.0), LENGTH, tokenizer, seed=1)
    model.compile(tf_keras.optimizers.Adam(1e-2))
    return model


@pytest.fixture(scope="module")
def batch(tokenizer):
    ids = np.random.default_rng(1).integers(0, len(tokenizer), [24, LENGTH + 1]).astype(np.int32)
    labels = ids[:, 1:].copy()
    labels[:9, 4:] = -100  # batches with few labels and with many
    return {"input_ids": ids[:, :-1], "labels": labels}


def shown(capsys):
    """Return the figures that the last progress bar ended with."""
    return {name: float(value) for name, value in re.findall(r"- (\w+): ([-+.\deinfa]+)", re.split(r"[\r\b\n]+", capsys.readouterr().out.strip())[-1])}


def test_the_progress_bar_ends_with_the_epochs_own_figures(compiled, batch, capsys):
    found = {name: values[-1] for name, values in compiled.fit(batch, batch_size=4, epochs=1, verbose=1).history.items()}
    trained = shown(capsys)
    measured = compiled.evaluate(batch, batch_size=4, verbose=1, return_dict=True)

    assert trained.keys() == found.keys() >= {"loss", "perplexity", "accuracy", "tokens", "gradient_norm", "skipped"}
    for name, value in (found | {"tokens": 9 * 4 + 15 * 16}).items():
        assert trained[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name
    assert shown(capsys) == pytest.approx(measured, rel=1e-4, abs=1e-4)


def test_evaluate_returns_the_loss_first_and_tells_the_names_of_the_rest(compiled, batch):
    named = compiled.evaluate(batch, batch_size=4, verbose=0, return_dict=True)
    values = compiled.evaluate(batch, batch_size=4, verbose=0)
    names = compiled.metrics_names

    assert names[:2] == ["loss", "perplexity"] and len(names) == len(values) == len(named)
    assert values[0] == named["loss"] and values[names.index("tokens")] == 9 * 4 + 15 * 16
    assert [float(metric.result()) for metric in compiled.metrics] == values
    assert compiled.train_on_batch(batch)[0] == pytest.approx(named["loss"], abs=1e-5) and "gradient_norm" in compiled.metrics_names


def test_what_was_skipped_is_no_perfect_loss(compiled, batch, tmp_path):
    compiled.transformer.wte.embeddings.assign(tf.fill(compiled.transformer.wte.embeddings.shape, np.nan))
    best = tf_keras.callbacks.ModelCheckpoint(str(tmp_path / "best.h5"), monitor="loss", save_best_only=True, save_weights_only=True)

    history = compiled.fit(batch, batch_size=8, verbose=0, callbacks=[best]).history

    assert history["skipped"] == [3] and history["tokens"] == [0] and math.isnan(history["loss"][0]) and math.isnan(history["gradient_norm"][0])
    assert not (tmp_path / "best.h5").exists()
    assert math.isnan(compiled.evaluate(batch | {"labels": np.full_like(batch["labels"], -100)}, verbose=0)[0])


def test_an_attention_mask_hides_padding_on_either_side(compiled, batch):
    mask = np.ones_like(batch["input_ids"])
    mask[::2, :5] = 0
    mask[1::2, 11:] = 0
    labels = np.where(mask, batch["labels"], -100)

    loss = compiled.evaluate(batch | {"labels": labels, "attention_mask": mask}, batch_size=8, verbose=0)[0]

    log_probs = tf.nn.log_softmax(compiled(batch["input_ids"], attention_mask=mask).logits).numpy()
    row, place = np.nonzero(labels != -100)
    assert loss == pytest.approx(-log_probs[row, place, labels[row, place]].mean(), abs=1e-5)
    terms = compiled.loss_terms(batch | {"labels": labels, "attention_mask": mask})
    assert float(terms.loss) / int(terms.tokens) == pytest.approx(loss, abs=1e-5)
    assert abs(loss - compiled.evaluate(batch | {"labels": labels}, batch_size=8, verbose=0)[0]) > 1e-4
    with pytest.raises(ValueError, match="attention_mask and segment_ids; leave attention_mask out"):
        compiled.evaluate(batch | {"attention_mask": mask, "segment_ids": mask}, verbose=0)


@pytest.mark.parametrize("own", [False, True], ids=["Keras", "TensorFlow"])
def test_a_model_trained_with_dropout_is_saved_as_keras_and_tensorflow_save_models(tokenizer, batch, tmp_path, own):
    model = build.new_model(ModelConfig(layers=1, width=32, heads=2, dropout=0.2), LENGTH, tokenizer, seed=1)
    model.compile("adam")
    weights = len(model.weights)
    if own:
        model.fit(batch, batch_size=8, verbose=0)
        tf.saved_model.save(model, str(tmp_path / "best"))
    else:
        model.fit(batch, batch_size=8, verbose=0, callbacks=[tf_keras.callbacks.ModelCheckpoint(str(tmp_path / "best"), monitor="loss")])

    ids = tf.constant(batch["input_ids"][:3, :7])
    found = tf.saved_model.load(str(tmp_path / "best")).signatures["serving_default"](input_ids=ids, attention_mask=tf.ones_like(ids))

    np.testing.assert_allclose(found["logits"], model(ids).logits, atol=1e-5)
    assert len(model.weights) == weights


def test_labels_of_another_shape_are_refused_also_where_sizes_change(compiled, batch):
    shorter = batch | {"labels": batch["labels"][:, 1:]}
    with pytest.raises(ValueError, match=r"labels and input_ids differ in shape; .* \(\(None, 15\) and \(None, 16\)\)"):
        compiled.fit(shorter, verbose=0)

    compiled.evaluate({name: values[:, :12] for name, values in batch.items()}, verbose=0)
    compiled.evaluate(batch, verbose=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="labels and input_ids differ in shape"):
        compiled.evaluate(shorter, verbose=0)


def test_what_would_be_passed_over_is_refused(compiled, batch):
    refused = {"metrics": ["accuracy"], "weighted_metrics": ["accuracy"], "loss_weights": [1.0],
               "loss": tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    for name, given in refused.items():
        with pytest.raises(ValueError, match=f"compile: {name} is not taken.*leave {name} out"):
            compiled.compile("adam", **{name: given})
    for name, given in (("sample_weight", np.ones(24)), ("class_weight", {0: 1.0})):
        with pytest.raises(ValueError, match=f"fit: {name} is not taken"):
            compiled.fit(batch, verbose=0, **{name: given})
    with pytest.raises(ValueError, match="fit: sample_weight is not taken"):
        compiled.fit(batch, None, 8, 1, 0, None, 0.0, None, True, None, np.ones(24))
    for name in ("evaluate", "train_on_batch", "test_on_batch"):
        with pytest.raises(ValueError, match=f"{name}: sample_weight is not taken"):
            getattr(compiled, name)(batch, sample_weight=np.ones(24))
    with pytest.raises(ValueError, match="no y and no sample_weight"):
        compiled.fit(tf.data.Dataset.from_tensors((batch, batch["labels"])), verbose=0)
    with pytest.raises(ValueError, match=r"a batch has token_type_ids, which training does not look at"):
        compiled.fit(batch | {"token_type_ids": batch["input_ids"]}, verbose=0)
    with pytest.raises(ValueError, match=r"input_ids and labels.*got \['input_ids'\]"):
        compiled.fit({"input_ids": batch["input_ids"]}, verbose=0)


def test_a_train_step_of_ones_own_is_fitted(compiled, batch):
    class Own(GPTLMHeadModel):
        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(self(data["input_ids"], labels=data["input_ids"], training=True).loss)
            self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
            return {"loss": loss}

    model = Own(compiled.config)
    model.compile(tf_keras.optimizers.Adam(1e-2))

    history = model.fit(batch, batch_size=8, epochs=3, verbose=0).history

    assert history.keys() == {"loss"} and history["loss"][-1] < history["loss"][0]


def test_predict_takes_the_batches_that_fit_takes(compiled, tokenizer):
    batches = pack_texts(["It was.", "The with statement", "a"], tokenizer, length=LENGTH, batch_size=1)

    logits = compiled.predict(batches, verbose=0)["logits"]

    packed = next(iter(batches))
    second = (packed["segment_ids"][0] == 2).numpy()
    np.testing.assert_allclose(logits[0][second], compiled(packed["input_ids"].numpy()[:, second]).logits[0], atol=1e-5)


@pytest.mark.parametrize(("options", "in_graph"), [({}, True), ({"num_beams": 3}, True), ({"penalty_alpha": 0.6, "top_k": 4}, False)])
def test_generate_is_that_of_tfgpt2(model, model_folder, options, in_graph):
    ids = np.random.default_rng(2).integers(0, 500, [3, 6])
    wanted = {"max_new_tokens": 8, "pad_token_id": model.config.eos_token_id, **options}
    stock = TFGPT2LMHeadModel.from_pretrained(model_folder)

    found = model.generate(tf.constant(ids), attention_mask=tf.ones_like(ids), **wanted).numpy()

    np.testing.assert_array_equal(found, stock.generate(tf.constant(ids), attention_mask=tf.ones_like(ids), **wanted).numpy())
    if in_graph:
        graph = tf.function(lambda ids: model.generate(ids, attention_mask=tf.ones_like(ids), **wanted))
        np.testing.assert_array_equal(graph(tf.constant(ids, tf.int32)).numpy(), found)
    if "num_beams" in options:
        import torch

        torch_model = GPT2LMHeadModel.from_pretrained(model_folder).eval()
        there = torch_model.generate(torch.tensor(ids), attention_mask=torch.ones([3, 6], dtype=torch.long), **wanted).numpy()
        np.testing.assert_array_equal(found, there)
