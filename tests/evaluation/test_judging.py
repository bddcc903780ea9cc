"""A head's figures: worked by hand, by scikit-learn on the answers alone, and by the model on each text by itself."""
import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax as softmax_along
from sklearn import metrics

from tfgpt.data.corpus import examples_of
from tfgpt.data.examples import Example
from tfgpt.data.intake import Account
from tfgpt.data.labels import count_labels, read_labels
from tfgpt.data.packing import IGNORED
from tfgpt.data.prepare import prepare
from tfgpt.data.split import split_of
from tfgpt.evaluation.evaluate import summed_loss
from tfgpt.evaluation.heads import evaluate_head, evaluate_language, head_batches, ngram_baseline
from tfgpt.evaluation.judging import Findings, figures_of, find, measure
from tfgpt.evaluation.shown import best_and_worst
from tfgpt.evaluation.text_baselines import linear, most_frequent
from tfgpt.models import surgery
from tfgpt.models.adaptation import Head
from tfgpt.models.heads import for_language, targets_of
from tfgpt.recipe import DataConfig, HeadConfig


def softmax(logits):
    return softmax_along(logits, axis=-1)


def findings(kind, labels, right, found, text=None, **head):
    return Findings(Head(kind, tuple(labels), **head), np.array(right), np.array(found, float), np.arange(len(right)) if text is None else np.array(text))


def of_random(kind="classes", size=400, labels=4, seed=1):
    rng = np.random.default_rng(seed)
    right = rng.choice(labels, size, p=[0.5, 0.3, 0.15, 0.05])
    logits = rng.normal(size=[size, labels]) + 1.5 * np.eye(labels)[right]
    return findings(kind, "abcd", right, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))


def test_figures_of_classes_worked_by_hand():
    measured = measure(findings("classes", ["ham", "spam"], [0, 0, 0, 1, 1], [[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.25, 0.75], [0.7, 0.3]]), seed=1)

    values = {name: of["value"] for name, of in measured["metrics"].items()}
    apart = (0.1 + 0.2 + 0.6 + 0.25 + 0.7) / 5  # each in a bin of its own
    figures = {"accuracy": 3 / 5, "macro F1": (2 / 3 + 1 / 2) / 2, "F1 of ham": 2 / 3, "F1 of spam": 1 / 2, "calibration error": apart}
    assert values == pytest.approx(figures)
    assert [(row["confidence"], row["accuracy"], row["count"]) for row in measured["reliability"]] == [
        (0.6, 0.0, 1), (0.7, 0.0, 1), (0.75, 1.0, 1), (0.8, 1.0, 1), (0.9, 1.0, 1)]
    assert measured["loss"] == pytest.approx(-np.log([0.9, 0.8, 0.4, 0.75, 0.3]).mean())
    assert measured["confusion"] == {"labels": ["ham", "spam"], "rows": [[2, 1], [1, 1]]}


def test_figures_of_labels_worked_by_hand():
    found = [[0.9, 0.2, 0.1], [0.6, 0.7, 0.1], [0.4, 0.1, 0.1]]
    measured = measure(findings("labels", "abc", [[True, False, False], [True, False, False], [True, True, False]], found), seed=1)

    values = {name: of["value"] for name, of in measured["metrics"].items()}
    apart = (5 * 0.9 - 4, 0.8 - 1, 0.7 - 0, 2 * 0.6 - 1)  # of the nine decisions in their bins: five, one, one, two
    assert values.pop("calibration error") == pytest.approx(np.abs(apart).sum() / 9)
    assert values == pytest.approx({"accuracy": 1 / 3, "F1 of a": 4 / 5, "F1 of b": 0.0, "F1 of c": 0.0, "macro F1": 2 / 5})  # c is nowhere: no F1 of its own
    assert measured["loss"] == pytest.approx(-np.log([0.9 * 0.8 * 0.9, 0.6 * 0.3 * 0.9, 0.4 * 0.1 * 0.9]).mean())
    assert "confusion" not in measured


def shown(kind, *args, ids, **head):
    return best_and_worst(dataclasses.replace(findings(kind, *args, **head), ids=ids), lambda ids: "-".join(map(str, ids)))


def test_the_best_and_the_worst_of_classes_are_told_with_their_texts():
    ends = shown("classes", ["ham", "spam"], [0, 0, 1], [[0.9, 0.1], [0.2, 0.8], [0.25, 0.75]], ids=([1], [2, 3], [4]))

    assert ends["best"] == [{"text": "1", "right": "ham", "found": "ham", "value": 0.9}, {"text": "4", "right": "spam", "found": "spam", "value": 0.75}]
    assert ends["worst"] == [{"text": "2-3", "right": "ham", "found": "spam", "value": 0.2}]


def test_the_best_and_the_worst_of_other_kinds():
    labels = shown("labels", "abc", [[True, False, True], [False, False, False]], [[0.9, 0.6, 0.8], [0.1, 0.2, 0.3]], ids=([1], [2]))
    assert labels["best"] == [{"text": "2", "right": "none", "found": "none", "value": 0.7}]
    assert labels["worst"] == [{"text": "1", "right": "a | c", "found": "a | b | c", "value": pytest.approx(0.4)}]

    numbers = shown("number", (), [1.0, 2.0], [4.0, 2.5], ids=([1], [2]))
    assert numbers == {"best": [{"text": "2", "right": "2", "found": "2.5", "value": 0.5}], "worst": [{"text": "1", "right": "1", "found": "4", "value": 3.0}]}

    tags = shown("tags", "DN", [0, 1, 1], [[0.6, 0.4], [0.2, 0.8], [0.9, 0.1]], [0, 0, 1], ids=([1, 2], [3]))
    assert tags["best"] == [{"text": "1-2", "right": "D N", "found": "D N", "value": pytest.approx(0.7)}] and tags["worst"][0]["right"] == "N"

    choice = shown("choice", (), [1, 0], [[0.7, 0.3], [0.9, 0.1]], ids=(([1], [2]), ([3], [4])))
    assert choice["worst"] == [{"right": "2", "found": "1", "value": 0.3}]


def test_figures_of_numbers_worked_by_hand():
    measured = measure(findings("number", (), [1.0, 2.0, 6.0], [2.0, 2.0, 5.0], spread=2.0), seed=1)

    values = {name: of["value"] for name, of in measured["metrics"].items()}
    assert values == pytest.approx({"mean absolute error": 2 / 3, "R2": 1 - 2 / 14})
    assert measured["loss"] == pytest.approx((0.5 + 0 + 0.5) / 4 / 3)


def test_weights_count_a_text_so_many_times():
    some, weights = of_random(), np.random.default_rng(2).integers(0, 4, 400)

    repeated = np.repeat(np.arange(400), weights)
    again = Findings(some.head, some.right[repeated], some.found[repeated], repeated)
    chosen = again.found.argmax(axis=1)

    values = figures_of(some, weights.astype(float))
    assert values == pytest.approx(figures_of(again, np.ones(len(repeated))))
    assert values["macro F1"] == pytest.approx(metrics.f1_score(again.right, chosen, average="macro"))
    assert [values[f"F1 of {label}"] for label in "abcd"] == pytest.approx(metrics.f1_score(again.right, chosen, average=None).tolist())


def test_the_bootstraps_interval_is_about_the_normal_one():
    accuracy = measure(of_random(), seed=3)["metrics"]["accuracy"]

    share = accuracy["value"]
    half = 1.96 * np.sqrt(share * (1 - share) / 400)
    np.testing.assert_allclose(accuracy["interval"], [share - half, share + half], atol=0.2 * half)  # 1,000 resamples: ends are off by a tenth


def test_where_all_are_right_the_interval_of_the_accuracy_has_a_width():
    accuracy = measure(findings("classes", "ab", [0] * 40, [[0.9, 0.1]] * 40), seed=3)["metrics"]["accuracy"]

    assert accuracy == {"value": 1.0, "interval": [pytest.approx(0.912, abs=1e-3), 1.0]}  # Wilson 1927: 40 / (40 + 1.96 ** 2)


def test_the_words_of_a_text_are_drawn_together():
    """Ten texts whose forty words are all right or all wrong are ten observations, and no more."""
    right = np.zeros(400, int)
    found = np.repeat(np.eye(2)[[0, 1] * 5], 40, axis=0)

    by_text = measure(findings("tags", "ab", right, found, text=np.repeat(np.arange(10), 40)), seed=3)["metrics"]["accuracy"]["interval"]
    by_word = measure(findings("tags", "ab", right, found), seed=3)["metrics"]["accuracy"]["interval"]

    assert by_text[1] - by_text[0] > 4 * (by_word[1] - by_word[0])  # the root of 40 is 6.3


ROWS = {
    "classes": [{"text": f"the word {'good' if n % 3 else 'bad'} number {n}", "label": "yes" if n % 3 else "no"} for n in range(200)],
    "labels": [{"text": f"{'sun ' * (n % 2)}{'rain ' * (n % 3 == 0)}{n}", "label": ["sun"] * (n % 2) + ["rain"] * (n % 3 == 0)} for n in range(200)],
    "number": [{"text": f"{('tiny', 'small', 'large', 'huge')[n % 4]} thing of {n}", "label": n % 4} for n in range(200)],
    "tags": [{"tokens": ["a", f"b{n}", "the", "x"], "tags": ["D", "N", "D", None if n % 2 else "N"]} for n in range(200)],
    "choice": [{"prompt": f"{n} is", "choices": [" odd", " even", " a fish"][: 2 + n % 4 // 3], "answer": 1 - n % 2} for n in range(200)],
}
EXAMPLES = {"classes": "labels", "labels": "labels", "number": "numbers", "tags": "tags", "choice": "choice"}
KINDS = pytest.mark.parametrize("kind", ROWS)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tokenizer):
    """A folder of packed data for each kind."""
    folder = tmp_path_factory.mktemp("prepared")
    for kind, rows in ROWS.items():
        prepare(DataConfig(path="-", length=48, examples=EXAMPLES[kind], validation=0.3), tokenizer, folder / kind, rows)
    return folder


def with_head(model, folder, kind, weight=1.0):
    return surgery.add_head(model, HeadConfig(kind, weight), count_labels(folder), seed=4)


@KINDS
def test_what_is_found_in_packed_batches_is_what_is_found_of_each_text_alone(prepared, model, kind):
    judging = with_head(model, prepared / kind, kind)
    names, head, size = read_labels(prepared / kind), judging.adaptation.head, model.config.n_positions

    found = find(judging, targets_of(head, names), head_batches(prepared / kind, "validation", 3))

    rows, labels = [], []
    for batch in head_batches(prepared / kind, "validation", 50):
        for ids, given, segments in zip(*(batch[key].numpy() for key in ("input_ids", "head_labels", "segment_ids"))):
            for place in np.flatnonzero(given != IGNORED):
                rows.append(ids[: place + 1][segments[: place + 1] == segments[place]])
                labels.append(int(given[place]))
    of_judged = [ids for one in found.ids for ids in one] if kind == "choice" else [found.ids[text] for text in found.text]
    assert all(len(ids) >= len(row) and (ids[: len(row)] == row).all() for ids, row in zip(of_judged, rows, strict=True))
    padded = tf.constant([[*row, *[0] * (size - len(row))] for row in rows])
    logits = judging.judge(padded, tf.constant([[len(row) - 1] for row in rows])).numpy()[:, 0].astype(float)
    if kind == "number":
        np.testing.assert_allclose(found.found, head.center + head.spread * logits[:, 0], atol=1e-3)  # fp32 of logits up to 10, and below
    elif kind == "labels":
        np.testing.assert_allclose(found.found, 1 / (1 + np.exp(-logits)), atol=1e-3)
    elif kind == "choice":
        starts = np.flatnonzero(np.array(labels) // 2 == 0)
        questions = list(zip(np.split(logits[:, 0], starts[1:]), np.split(np.array(labels) % 2, starts[1:])))
        assert found.right.tolist() == [of_question.argmax() for _, of_question in questions]
        for row, (scores, _) in zip(found.found, questions, strict=True):
            np.testing.assert_allclose(row[: len(scores)], softmax(scores), atol=1e-3)
            assert not row[len(scores) :].any()
    else:
        np.testing.assert_allclose(found.found, softmax(logits), atol=1e-3)
        assert found.right.tolist() == [head.labels.index(names[label]) for label in labels]
    assert len(found.right) == len(starts if kind == "choice" else labels)


@KINDS
def test_the_mean_loss_is_the_one_of_the_training(prepared, model, kind):
    judging = with_head(model, prepared / kind, kind)

    evaluation = evaluate_head(judging, prepared / kind, "validation", 3, seed=1)

    judging.name_labels(read_labels(prepared / kind))
    judging.compile()
    logs = judging.evaluate(head_batches(prepared / kind, "validation", 5), verbose=0, return_dict=True)
    assert evaluation["loss"] == pytest.approx(logs["loss"], rel=1e-4)
    assert evaluation["judged"] == logs["judged"]
    assert kind == "number" or evaluation["metrics"]["accuracy"]["value"] == pytest.approx(logs["accuracy"])


def test_the_language_model_beside_a_head_is_measured_on_the_tokens_of_its_texts(prepared, model, tokenizer, text_model):
    folder, texts = prepared / "classes", text_model.tokenizer.texts.numpy()
    judging = with_head(model, folder, "classes", weight=0.5)

    found = evaluate_language(judging, folder, "validation", 7, texts)
    baseline = ngram_baseline(judging, folder, "validation", 3, 0, texts)

    batches = head_batches(folder, "validation", 7).map(lambda batch: for_language(batch, judging.adaptation.head, tokenizer.eos_token_id))
    loss, tokens, correct = summed_loss(model, batches)
    assert (found["tokens"], found["correct"]) == (tokens, correct)
    assert found["loss"] == pytest.approx(loss / tokens, rel=1e-5)
    held_out = [row["text"] for row in ROWS["classes"] if _is_held_out(row["text"])]
    assert found["tokens"] == sum(len(tokenizer(text).input_ids) + 1 for text in held_out)
    assert found["bits_per_byte"] == pytest.approx(loss / np.log(2) / sum(len(text.encode()) for text in held_out), rel=1e-5)
    assert baseline["loss"] < found["loss"] and baseline["name"] == "3-gram, modified Kneser-Ney"  # the model's weights are random


def _is_held_out(text):
    return split_of(text, 0.3) == "validation"


def examples_of_kind(kind, rows):
    return list(examples_of(rows, DataConfig(path="-", length=48, examples=EXAMPLES[kind], validation=0.3), Account()))


@KINDS
def test_a_linear_model_learns_what_words_tell_and_the_most_frequent_answer_does_not(prepared, model, kind):
    head = with_head(model, prepared / kind, kind).adaptation.head
    some = examples_of_kind(kind, ROWS[kind])
    train, held_out = ([example for example in some if example.split == split] for split in ("train", "validation"))

    name, found = linear(head, train, held_out)
    always = most_frequent(head, train, held_out)

    values, plain = (figures_of(one, np.ones(len(one.right))) for one in (found, always))
    if kind == "number":
        assert values["R2"] > 0.4 > 0.1 > plain["R2"] and name == "TF-IDF and ridge regression"
    elif kind == "choice":
        assert values["accuracy"] >= 0.3  # a choice alone does not tell whether it is right
        assert plain["accuracy"] == pytest.approx(np.mean(always.right == np.bincount([example.answer for example in train]).argmax()))
    else:
        assert values["accuracy"] > plain["accuracy"] + 0.1
        assert values["accuracy"] > 0.95 or kind == "tags"  # of which a third are words never seen
    if kind == "classes":
        assert name == "TF-IDF and logistic regression" and plain["accuracy"] == np.mean([example.label == "yes" for example in held_out])
    if kind == "tags":
        assert name == "each word's most frequent tag"


def test_a_class_that_training_never_shows_costs_much_and_not_all():
    train = [Example(((text, False),), "x", label=label) for text, label in (("one two", "a"), ("three four", "b"))]
    held_out = [Example((("one three", False),), "x", label="c")]

    _, found = linear(Head("classes", ("a", "b", "c")), train, held_out)

    assert found.found[0, 2] == 0 and measure(found, seed=1)["loss"] == pytest.approx(-np.log(1e-9))
