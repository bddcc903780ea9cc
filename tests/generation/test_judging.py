"""What a head says of texts: framed as in training, whatever else is in the batch, however long they are."""
import numpy as np
import pytest
import tensorflow as tf

from tfgpt.data.encode import SequenceMaker, SplitCounts
from tfgpt.data.examples import Example, spaced
from tfgpt.data.packing import IGNORED
from tfgpt.generation.text_model import TextModel
from tfgpt.models import surgery
from tfgpt.models.heads import for_head
from tfgpt.models.lite import LiteModel
from tfgpt.recipe import DataConfig, HeadConfig
from tfgpt.text.encode import BatchEncoder

LABELS = {"classes": ["ham", "spam", "eggs"], "labels": ["a", "b", "c"], "number": ["1", "5", "6"], "tags": ["D", "N", "V"], "choice": []}


@pytest.fixture(scope="module")
def judges(model, tokenizer):
    """A text model with each kind of head, whose weights are as large as the model's."""
    made = {}
    for kind, labels in LABELS.items():
        judging = surgery.add_head(model, HeadConfig(kind), labels, seed=6)
        judging.head.weight.assign(20.0 * judging.head.weight)
        made[kind] = TextModel(judging, tokenizer)
    return made


def in_training(judge, examples, kind, tokenizer):
    """Return what the head finds of examples, packed as for training: float32 [labels, outputs] in the order of the examples."""
    config = DataConfig(path="x", length=judge.model.config.n_positions, examples={"number": "numbers", "classes": "labels"}.get(kind, kind))
    labels = [str(number) for number in range(len(examples))] if kind != "tags" else LABELS["tags"]
    maker = SequenceMaker(config, BatchEncoder(tokenizer), tokenizer.eos_token_id, labels)
    found = {}
    for block in maker.sequences(examples, config.length, SplitCounts()):
        outputs = judge.model.head_outputs(for_head(block)).numpy()
        for row, place in np.argwhere(block["labels"] != IGNORED):
            found.setdefault(int(block["labels"][row, place]), []).append(outputs[row, place])
    return found


def test_a_text_is_read_as_in_training_whatever_its_length(judges, tokenizer, prompts):
    texts = [text for text in prompts if text.strip()]
    examples = [Example(((text, False),), "x", label=str(number)) for number, text in enumerate(texts)]

    found = judges["classes"].classify(texts, batch_size=7)

    trained = in_training(judges["classes"], examples, "classes", tokenizer)
    logits = np.array([trained[number][0] for number in range(len(texts))])
    np.testing.assert_allclose([row.scores for row in found], tf.nn.softmax(logits), atol=1e-4)  # fp32 of logits up to 20, in other batches
    assert [row.label for row in found] == [LABELS["classes"][number] for number in logits.argmax(axis=1)]
    assert any(len(tokenizer(text, verbose=False).input_ids) > judges["classes"].model.config.n_positions for text in texts)
    assert len({row.label for row in found}) > 1


def test_a_row_depends_on_itself_alone(judges, prompts):
    judge = judges["labels"]

    together, alone = judge.classify(prompts), [judge.classify([prompt])[0] for prompt in prompts]

    np.testing.assert_allclose([row.scores for row in together], [row.scores for row in alone], atol=1e-5)  # fp32 sums in another order
    assert [row.label for row in together] == [row.label for row in alone]


def test_labels_are_those_above_the_threshold(judges, prompts):
    rows = judges["labels"].classify(prompts, threshold=0.2)

    assert all(row.label == tuple(name for name, score in zip("abc", row.scores) if score > 0.2) for row in rows)
    assert {len(row.label) for row in rows} > {1, 2}
    joined = [label.decode() for label in judges["labels"].judge.classify_graph(tf.constant(prompts))["label"].numpy()]
    assert joined == ["|".join(row.label) or "|" for row in judges["labels"].classify(prompts)]
    assert "|" in joined or len(set(joined)) > 2


def test_a_number_comes_in_its_own_unit(judges, tokenizer):
    texts = ["small", "quite large"]
    examples = [Example(((text, False),), "x", label=str(number)) for number, text in enumerate(texts)]

    found = judges["number"].classify(texts)

    trained = in_training(judges["number"], examples, "number", tokenizer)
    np.testing.assert_allclose([row.label for row in found], [4.0 + np.std([1, 5, 6]) * trained[number][0][0] for number in (0, 1)], rtol=1e-4)
    assert found[0].scores == ()


def test_each_word_has_a_tag_as_in_training(judges, tokenizer):
    words = ["The", "unbelievable", "statement", "\n", "ends", "here"]
    example = Example(tuple((text, False) for text in spaced(words)), "x", tags=("D", "N", "V", None, "D", "N"))

    (found,) = judges["tags"].classify([words])

    trained = in_training(judges["tags"], [example], "tags", tokenizer)
    logits = np.array([trained[0][0], trained[1][0], trained[2][0], trained[0][1], trained[1][1]])
    assert [tag for number, tag in enumerate(found.label) if number != 3] == ["DNV"[number] for number in logits.argmax(axis=1)]
    scores = [score for number, score in enumerate(found.scores) if number != 3]
    np.testing.assert_allclose(scores, tf.reduce_max(tf.nn.softmax(logits), axis=1), atol=1e-4)  # fp32 of logits up to 20


def test_words_of_a_text_are_what_white_space_is_between_and_first_ones_may_be_too_many(judges):
    judge = judges["tags"]
    words = [f"word{number}" for number in range(100)]

    text, listed, short, nothing = judge.classify([" ".join(words), words, words[-3:], []])

    assert text == listed and len(text.label) == 100
    first = text.label.index(next(tag for tag in text.label if tag))
    assert 0 < first < 97 and not any(text.label[:first]) and all(text.label[first:]) and not any(text.scores[:first])
    assert len(short.label) == 3 and all(short.label) and nothing.label == ()


def test_of_choices_the_likeliest_wins_and_padding_is_none(judges, tokenizer):
    rows = [("The sky is", [" blue", " green", " a fish"]), ("One and one is", [" two", " three"])]
    examples = [Example(((prompt, False), *((choice, False) for choice in choices)), "x", answer=0) for prompt, choices in rows]

    found = judges["choice"].classify(rows)

    trained = in_training(judges["choice"], examples[:1], "choice", tokenizer)
    scores = tf.nn.softmax([trained[1][0][0], trained[2][0][0], trained[4][0][0]]).numpy()
    np.testing.assert_allclose(found[0].scores, scores, atol=1e-4)  # fp32 of logits up to 20
    assert found[0].label == rows[0][1][scores.argmax()]
    assert len(found[1].scores) == 2 and sum(found[1].scores) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(judges["choice"].classify(rows[1:])[0].scores, found[1].scores, atol=1e-5)


@pytest.mark.parametrize(("kind", "texts", "message"), [
    ("classes", "one text", r"classify: texts is one text; give a list of texts"),
    ("classes", [["a", "b"]], r"classify: texts\[0\] is a list; give a text$"),
    ("tags", ["a", 3], r"classify: texts\[1\] is a int; give a text or a list of words"),
    ("tags", [["a", ""]], r"classify: texts\[0\] is a list; give a text or a list of words"),
    ("choice", ["a"], r"classify: texts\[0\] is not a prompt with two choices or more"),
    ("choice", [("a", ["b"])], r"classify: texts\[0\] is not a prompt with two choices or more"),
])  # fmt: skip
def test_what_a_head_cannot_judge_is_refused(judges, kind, texts, message):
    with pytest.raises((ValueError, TypeError), match=message):
        judges[kind].classify(texts)


def test_a_model_without_a_head_is_refused(model, tokenizer):
    for judge in (TextModel(model, tokenizer), TextModel(LiteModel(model), tokenizer)):
        with pytest.raises(ValueError, match="classify: the model has no head"):
            judge.classify(["a"])


def test_a_model_with_a_head_writes_as_before(judges, model, tokenizer, prompts):
    assert judges["classes"].generate(prompts[:3], max_new_tokens=5) == TextModel(model, tokenizer).generate(prompts[:3], max_new_tokens=5)
