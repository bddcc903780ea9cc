"""Heads: their losses against PyTorch's, right whatever is packed, accumulated or dealt to replicas; what moves; and a save."""
import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from safetensors.numpy import load_file
from torch.nn import functional
from transformers import GPT2LMHeadModel

from tfgpt.data.packing import IGNORED
from tfgpt.models import build, surgery, weights
from tfgpt.models.heads import for_head, for_language, head_of, next_tokens, targets_of
from tfgpt.models.loss import Objective
from tfgpt.models.step import StepSettings
from tfgpt.recipe import HeadConfig, ModelConfig

LENGTH = 16
SEGMENTS = np.array([[1] * 6 + [2] * 5 + [3] * 3 + [0] * 2, [1] * 7 + [2] * 3 + [3] * 6, [1] * 16, [1] * 2 + [2] * 3 + [0] * 11], np.int32)
LABELS = {"classes": ["ham", "spam", "eggs"], "labels": ["a|b", "|", "c", "b"], "number": ["1.5", "-2", "10", "3"], "tags": ["D", "N", "V"], "choice": []}
KINDS = pytest.mark.parametrize("kind", LABELS)
LABELLED = {0: {5: 0, 10: 2, 13: 1}, 1: {6: 1, 9: 0, 15: 2}, 2: {15: 2}, 3: {1: 1, 4: 0}}
"""Row by row the last tokens of some segments, each with the number of its label."""
OF_TAGS = {0: {2: 0, 3: 1, 5: 1, 9: 2, 10: 0, 13: 2}, 1: {1: 1, 15: 0}, 2: {4: 2}, 3: {1: 0}}
OF_CHOICES = {0: {5: 0, 10: 3, 13: 4}, 1: {6: 1, 9: 2}, 2: {}, 3: {1: 0, 4: 3}}
"""2 x the number of the choice, and 1 more where it is right: three questions."""


def batch_of(kind, rows=slice(None)):
    ids = np.random.default_rng(7).integers(1, 512, [4, LENGTH]).astype(np.int32)
    labels = np.full([4, LENGTH], IGNORED, np.int32)
    for row, places in {"tags": OF_TAGS, "choice": OF_CHOICES}.get(kind, LABELLED).items():
        for place, label in places.items():
            labels[row, place] = label
    positions = np.array([[list(row[:place]).count(row[place]) for place in range(LENGTH)] for row in SEGMENTS], np.int32)
    batch = {"input_ids": ids, "head_labels": labels, "segment_ids": SEGMENTS, "position_ids": positions}
    return {key: value[rows] for key, value in batch.items()}


@pytest.fixture
def new(tokenizer):
    def make(kind, weight=1.0, dropout=0.0, jit_compile=False, **settings):
        model = build.new_model(ModelConfig(layers=2, width=32, heads=2, dropout=0.0), LENGTH, tokenizer, seed=1)
        model = surgery.add_head(model, HeadConfig(kind, weight, dropout), LABELS[kind], seed=2)
        for variable in model.weights:
            if variable.shape.rank == 2:
                variable.assign(6.0 * variable)  # large enough for gradients that tell
        if LABELS[kind]:
            model.name_labels(LABELS[kind])
        model.compile(tf_keras.optimizers.SGD(0.5), settings=StepSettings(**settings), jit_compile=jit_compile)
        return model

    return make


def by_pytorch(model, folder, kind, smoothing=0.0):
    """Return the summed loss of each text by PyTorch's GPT-2, which reads it alone, and what it finds: labels, logits, as lists."""
    model.save_pretrained(folder)
    body = GPT2LMHeadModel.from_pretrained(folder).eval().transformer
    head = {name: torch.tensor(array) for name, array in load_file(folder / "adaptation.safetensors").items()}
    batch, found, losses = batch_of(kind), [], []
    for row, segments in enumerate(batch["segment_ids"]):
        scores, right = [], None
        for number in range(1, segments.max() + 1):
            inside = segments == number
            with torch.no_grad():
                hidden = body(torch.tensor(batch["input_ids"][row, inside][np.newaxis]).long()).last_hidden_state[0]
            logits = hidden @ head["head.weight"] + head["head.bias"]
            for logit, label in zip(logits, batch["head_labels"][row, inside]):
                if label == IGNORED:
                    continue
                if kind != "choice":
                    losses.append(_loss(kind, logit, int(label), smoothing))
                    found.append((int(label), logit))
                    continue
                if label // 2 == 0 and scores:
                    losses.append(functional.cross_entropy(torch.stack(scores)[np.newaxis], torch.tensor([right])))
                    scores = []
                scores.append(logit[0])
                right = int(label) // 2 if label % 2 else right
        if scores:
            losses.append(functional.cross_entropy(torch.stack(scores)[np.newaxis], torch.tensor([right])))
    return [float(loss) for loss in losses], found


def _loss(kind, logit, label, smoothing):
    value = LABELS[kind][label]
    if kind == "labels":
        names = [name in value.split("|") for name in ("a", "b", "c")]
        return functional.binary_cross_entropy_with_logits(logit, torch.tensor(names).float(), reduction="sum")
    if kind == "number":
        numbers = np.array([float(one) for one in LABELS[kind]])
        return 0.5 * (logit[0] - (float(value) - numbers.mean()) / numbers.std()) ** 2
    return functional.cross_entropy(logit[np.newaxis], torch.tensor([label]), label_smoothing=smoothing)


@KINDS
def test_a_packed_batch_has_pytorchs_loss_of_each_text_alone(new, tmp_path, kind):
    model = new(kind)

    terms = model.loss_terms(batch_of(kind))

    losses, found = by_pytorch(model, tmp_path, kind)
    np.testing.assert_allclose(terms.loss, sum(losses), rtol=2e-5)  # two layers of fp32 sums in another order
    assert terms.judged == len(losses) == {"tags": 10, "choice": 3}.get(kind, 9)
    assert terms.tokens == np.count_nonzero(SEGMENTS)
    if kind in ("classes", "tags"):
        assert terms.correct == sum(int(logit.argmax()) == label for label, logit in found)
    if kind == "labels":
        right = [[(float(one) > 0) == (name in LABELS[kind][label].split("|")) for one, name in zip(logit, "abc")] for label, logit in found]
        assert terms.correct == sum(map(all, right))
    assert float(terms.language_loss) == 0


def test_label_smoothing_is_pytorchs(new, tmp_path):
    model = new("classes", objective=Objective(label_smoothing=0.2))

    terms = model.loss_terms(batch_of("classes"))

    np.testing.assert_allclose(terms.objective, sum(by_pytorch(model, tmp_path, "classes", smoothing=0.2)[0]), rtol=2e-5)  # as above
    np.testing.assert_allclose(terms.loss, sum(by_pytorch(model, tmp_path, "classes")[0]), rtol=2e-5)


def test_the_right_choice_is_counted_where_no_other_is_likelier(new):
    model, batch = new("choice"), batch_of("choice")
    scores = model.head_outputs(batch).numpy()[..., 0]

    wanted = [scores[0, 10] >= max(scores[0, 5], scores[0, 13]), scores[1, 6] >= scores[1, 9], scores[3, 4] >= scores[3, 1]]
    assert int(model.loss_terms(batch).correct) == sum(wanted)


def gradients_of(model, terms):
    with tf.GradientTape() as tape:
        loss = terms()
    return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, model.trainable_variables, unconnected_gradients="zero")]


@KINDS
def test_an_auxiliary_head_is_trained_by_the_weighted_mean_of_both_losses(new, kind):
    """Against the two losses taken apart, each divided by its own count, and one step of plain gradient descent."""
    alone, model = new(kind), new(kind, weight=0.3)
    batch = batch_of(kind)
    language = for_language(batch, model.adaptation.head, 0)
    count = int(alone.loss_terms(batch).judged)
    tokens = np.count_nonzero(language["labels"] != IGNORED)
    of_head = gradients_of(alone, lambda: alone.loss_terms(batch, training=True).objective / count)
    of_language = gradients_of(alone, lambda: alone.loss_terms(language, training=True).objective / tokens)
    before = [variable.numpy() for variable in model.weights]

    logs = model.train_on_batch(batch, return_dict=True)

    for variable, old, one, other in zip(model.weights, before, of_head, of_language):
        np.testing.assert_allclose(variable.numpy() - old, -0.5 * (0.3 * one + 0.7 * other), atol=2e-6, err_msg=variable.name)  # fp32 of weights up to 1
    np.testing.assert_allclose(logs["loss"], 0.3 * logs["head_loss"] + 0.7 * logs["language_loss"], rtol=1e-6)
    np.testing.assert_allclose(logs["head_loss"], float(alone.loss_terms(batch).loss) / count, rtol=1e-5)
    np.testing.assert_allclose(logs["perplexity"], np.exp(float(alone.loss_terms(language).loss) / tokens), rtol=1e-5)
    assert (logs["judged"], logs["language_tokens"]) == (count, tokens)


@pytest.mark.parametrize(("kind", "weight", "settings"), [
    ("classes", 1.0, {"accumulate": 4, "recompute": True}), ("tags", 0.3, {"lanes": 3}),
    *(pytest.param("choice", 0.3, settings, marks=pytest.mark.slow) for settings in ({"accumulate": 2}, {"accumulate": 4}, {"jit_compile": True})),
])  # fmt: skip
def test_micro_steps_with_unequal_counts_take_the_step_of_the_whole_batch(new, kind, weight, settings):
    whole, cut = new(kind, weight), new(kind, weight, **settings)
    batch = batch_of(kind)

    logs, of_cut = (model.train_on_batch(batch, return_dict=True) for model in (whole, cut))

    for one, other in zip(whole.weights, cut.weights):
        np.testing.assert_allclose(other, one, atol=3e-6, err_msg=one.name)  # the same sums in another order
    np.testing.assert_allclose(of_cut["loss"], logs["loss"], rtol=1e-5)


@pytest.mark.parametrize(("kind", "weight"), [
    ("tags", 0.3), *(pytest.param(*of_head, marks=pytest.mark.slow) for of_head in (("choice", 0.6), ("number", 1.0))),
])
def test_two_replicas_take_the_step_of_one(new, kind, weight):
    one, batch = new(kind, weight, accumulate=2), batch_of(kind)
    # Not the default on CPUs, collective operations: their numbers begin anew with every strategy, and TensorFlow wants the same dtype for the same
    # number in a process, which models with and without a head do not have.
    strategy = tf.distribute.MirroredStrategy(cross_device_ops=tf.distribute.ReductionToOneDevice())
    with strategy.scope():
        two = new(kind, weight)
    data = tf.data.Dataset.from_tensor_slices(batch)

    two.fit(strategy.experimental_distribute_dataset(data.batch(4).repeat()), steps_per_epoch=3, verbose=0)
    logs = one.fit(data.batch(4, drop_remainder=True).repeat(), steps_per_epoch=3, verbose=0).history

    for mine, other in zip(two.weights, one.weights):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), atol=2e-5, rtol=2e-6, err_msg=other.name)  # three steps of fp32 sums in another order
    np.testing.assert_allclose(two.history.history["loss"], logs["loss"], rtol=1e-5)


@KINDS
def test_a_few_texts_can_be_learned_by_heart(new, kind):
    model, batch = new(kind), batch_of(kind)
    model.compile(tf_keras.optimizers.Adam(3e-3), settings=StepSettings())
    before = model.loss_terms(batch)

    model.fit(tf.data.Dataset.from_tensors(batch).repeat(), steps_per_epoch=100, verbose=0)

    after = model.loss_terms(batch)
    assert after.loss < 0.05 * before.loss
    assert kind == "number" or after.correct == after.judged


def test_validation_means_are_over_all_labels_and_not_over_batches(new):
    model, batch = new("tags"), batch_of("tags")

    logs = model.evaluate(tf.data.Dataset.from_tensor_slices(batch).batch(1), verbose=0, return_dict=True)

    terms = model.loss_terms(batch)
    np.testing.assert_allclose(logs["loss"], float(terms.loss) / 10, rtol=1e-5)  # rows have 6, 2, 1 and 1 labels
    assert logs["accuracy"] == pytest.approx(int(terms.correct) / 10)
    assert "perplexity" not in logs


def test_a_number_has_no_accuracy_and_its_mean_counts_every_text():
    head = head_of(HeadConfig("number"), {"1": 3, "5": 1})

    assert (head.center, head.spread) == (2.0, pytest.approx(np.std([1, 1, 1, 5])))
    np.testing.assert_allclose(targets_of(head, ["1", "5"]), [-1 / np.sqrt(3), np.sqrt(3)], rtol=1e-6)
    assert head_of(HeadConfig("number"), ["4"]).spread == 1.0


def test_only_the_head_moves_where_it_alone_is_trained(new):
    model = new("classes", dropout=0.3)
    before = weights.state(model)

    model.train_only(["head"])
    model.compile(tf_keras.optimizers.SGD(0.5), settings=StepSettings())
    model.train_on_batch(batch_of("classes"))

    after = weights.state(model)
    assert {name for name in before if (before[name] != after[name]).any()} == {"head.weight", "head.bias"}


def test_all_weights_move_by_themselves_and_those_of_the_language_model_with_it(new):
    for kind, weight in (("labels", 1.0), ("number", 0.5)):
        model = new(kind, weight)
        before = weights.state(model)
        model.train_on_batch(batch_of(kind))
        after = weights.state(model)
        assert {name for name in before if (before[name] == after[name]).all()} <= {"transformer.wpe.weight"}  # of positions that none has


def test_dropout_before_the_head_changes_training_alone(new):
    model, batch = new("classes", dropout=0.5), batch_of("classes")

    assert float(model.loss_terms(batch).loss) == float(new("classes").loss_terms(batch).loss)
    assert float(model.loss_terms(batch, training=True).loss) != float(model.loss_terms(batch).loss)


def test_a_new_head_leaves_the_language_model_as_it_is_and_takes_nothing_from_the_model_given(model):
    ids = np.arange(20, dtype=np.int32)[np.newaxis]

    judging = surgery.add_head(model, HeadConfig("classes"), ["a", "b"])

    np.testing.assert_array_equal(judging(ids).logits, model(ids).logits)
    assert model.head is None and not [name for name in model.weight_names if name.startswith("head")]
    bare = surgery.remove_head(judging)
    assert bare.head is None and bare.adaptation == model.adaptation
    np.testing.assert_array_equal(bare(ids).logits, model(ids).logits)


@KINDS
def test_a_head_is_saved_beside_a_plain_gpt2_and_loaded_again(new, tmp_path, kind):
    model, batch = new(kind, weight=0.25), batch_of(kind)

    model.save_pretrained(tmp_path)
    again = build.load_model(tmp_path)

    assert again.adaptation == model.adaptation and json.loads((tmp_path / "config.json").read_text())["adaptation"]["head"]["kind"] == kind
    assert set(load_file(tmp_path / "adaptation.safetensors")) == {"head.weight", "head.bias"}
    if LABELS[kind]:
        again.name_labels(LABELS[kind])
    assert again.loss_terms(batch).loss == model.loss_terms(batch).loss
    plain = GPT2LMHeadModel.from_pretrained(tmp_path).eval()  # which leaves the head out
    with torch.no_grad():
        logits = plain(torch.tensor(batch["input_ids"][2:3]).long()).logits.numpy()
    np.testing.assert_allclose(again(batch["input_ids"][2:3]).logits, logits, atol=2e-4)  # two layers of fp32 sums in another order


def test_a_head_of_the_same_labels_keeps_its_weights_and_another_one_begins_anew(new):
    model = new("classes")

    same = surgery.add_head(model, HeadConfig("classes", dropout=0.4), LABELS["classes"], seed=9)
    other = surgery.add_head(model, HeadConfig("classes"), ["ham", "spam", "bacon"], seed=9)

    np.testing.assert_array_equal(same.head.weight, model.head.weight)
    assert same.adaptation.head.dropout == 0.4
    assert np.abs(other.head.weight - model.head.weight).max() > 0.01


def test_labels_in_another_order_than_the_heads_are_told_by_their_names(new):
    model, batch = new("classes"), batch_of("classes")
    loss = float(model.loss_terms(batch).loss)

    model.name_labels(["eggs", "ham", "spam"])
    moved = dict(batch, head_labels=np.where(batch["head_labels"] == IGNORED, IGNORED, (batch["head_labels"] + 1) % 3).astype(np.int32))

    assert float(model.loss_terms(moved).loss) == pytest.approx(loss)


def test_the_next_tokens_end_where_a_text_does_and_not_where_it_may_be_cut():
    ids = np.arange(1, 13, dtype=np.int32).reshape(2, 6)
    batch = {"input_ids": ids, "segment_ids": np.array([[1, 1, 1, 2, 2, 0], [1] * 6], np.int32), "head_labels": np.full([2, 6], IGNORED, np.int32)}

    found = next_tokens(head_of(HeadConfig("classes"), ["a", "b"]), batch, end_of_text=0).numpy().tolist()

    assert found == [[2, 3, 0, 5, 0, IGNORED], [8, 9, 10, 11, 12, IGNORED]]


def test_of_choices_the_right_one_alone_is_text_to_learn():
    batch = {key: value[:2] for key, value in batch_of("choice").items()}

    found = next_tokens(head_of(HeadConfig("choice"), []), batch, end_of_text=0).numpy()

    counted = [[number for number in (1, 2, 3) if (found[row][SEGMENTS[row] == number] != IGNORED).all()] for row in (0, 1)]
    assert counted == [[2], [1]]
    assert np.count_nonzero(found != IGNORED) == 5 + 7


def test_batches_of_data_are_those_of_a_head_by_another_name():
    assert for_head({"input_ids": 1, "labels": 2}) == {"input_ids": 1, "head_labels": 2}


@pytest.mark.parametrize(("kind", "labels", "message"), [
    ("classes", ["a"], r"adapt.head.kind: classes needs 2 labels or more to tell apart, and the data has 1 \(a\)"),
    ("classes", ["ham", "spam", "ham"], "the label 'ham' stands twice among those of the classes"),
    ("labels", ["|"], r"labels needs 1 labels or more to tell apart, and the data has 0 \(none\)"),
    ("number", ["1", "x"], r"labels.txt:2: 'x' is no number; prepare the data with data.examples numbers"),
])  # fmt: skip
def test_labels_that_make_no_head_are_told(model, kind, labels, message):
    with pytest.raises(ValueError, match=message):
        surgery.add_head(model, HeadConfig(kind), labels)


def test_what_a_batch_or_a_model_lacks_is_told(new, model):
    batch = batch_of("classes")
    with pytest.raises(ValueError, match=r"head_labels: the model has no head; add one \(tfgpt.models.surgery.add_head\)"):
        model.loss_terms(batch)
    labels = surgery.add_head(model, HeadConfig("labels"), ["a", "b"])
    with pytest.raises(ValueError, match="head_labels: call name_labels before"):
        labels.loss_terms(batch)
    with pytest.raises(ValueError, match=r"labels.txt:2: 'bacon' is none of the head's labels \(ham, spam, eggs\)"):
        new("classes").name_labels(["ham", "bacon"])
    with pytest.raises(ValueError, match="a batch is a dict with input_ids and labels"):
        new("classes").loss_terms({"input_ids": batch["input_ids"]})


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_a_head_reads_weights_of_fewer_bits(new, kind):
    model, batch = new("classes"), batch_of("classes")
    exact = float(model.loss_terms(batch).loss)

    model.store_weights(kind)

    assert abs(float(model.loss_terms(batch).loss) - exact) < 0.05 * exact  # rounded matrices: 3 digits at most
