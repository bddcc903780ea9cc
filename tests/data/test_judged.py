"""Examples for heads: labels of every kind are read or refused with their place, and stand where a head looks for them."""
import itertools
import json

import numpy as np
import pytest

from tfgpt.data.corpus import examples_of, read_corpus
from tfgpt.data.encode import SequenceMaker, SplitCounts
from tfgpt.data.examples import Example
from tfgpt.data.intake import Account
from tfgpt.data.labels import count_labels, read_labels
from tfgpt.data.packing import IGNORED
from tfgpt.data.pipeline import evaluation_batches
from tfgpt.data.prepare import prepare
from tfgpt.data.shards import ShardedData
from tfgpt.data.unlabelled import documents_of
from tfgpt.recipe import DataConfig, RecipeError
from tfgpt.text.encode import BatchEncoder

LENGTH = 32


def examples(rows, kind, **settings):
    return list(examples_of(rows, DataConfig(path="x", examples=kind, validation=0.001, bad_records="skip", **settings), Account()))


def blocks_of(tokenizer, some, kind, labels=(), counts=None, length=LENGTH):
    maker = SequenceMaker(DataConfig(path="x", length=length, examples=kind), BatchEncoder(tokenizer), tokenizer.eos_token_id, labels)
    blocks = list(maker.sequences(some, length, counts or SplitCounts()))
    return {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}


@pytest.fixture
def many(monkeypatch):
    """Records of which none is held out, so that few are enough."""
    monkeypatch.setattr("tfgpt.data.corpus.check_not_empty", lambda config, account: None)


def test_labels_may_be_lists_and_none_at_all(many):
    rows = [{"text": f"text {n}", "label": label} for n, label in enumerate((["b", "a", "b"], [], "x|y", np.array(["c"]), ("d", 2)))]

    assert [example.label for example in examples(rows, "labels")] == ["a|b", "|", "x|y", "c", "2|d"]


def test_numbers_are_read_from_numbers_and_text(many):
    rows = [{"text": f"text {n}", "label": label} for n, label in enumerate((3, "0.50", -1e3, " 7 ", np.float32(0.25)))]

    assert [example.label for example in examples(rows, "numbers")] == ["3.0", "0.5", "-1000.0", "7.0", "0.25"]


def test_words_and_tags_may_be_lists_or_text(many):
    rows = [{"tokens": ["Roses", "are", "\n", "red"], "tags": ["N", 1, None, "A"]}, {"tokens": "one  two", "tags": "x y"}, {"tokens": ["z"], "tags": [None]}]

    first, second = examples(rows, "tags")

    assert (first.text, first.tags, first.label_names) == ("Roses are\nred", ("N", "1", None, "A"), ("N", "1", "A"))
    assert ([text for text, _ in second.parts], second.tags) == (["one", " two"], ("x", "y"))


def test_choices_are_texts_of_their_own_behind_the_prompt(many):
    (example,) = examples([{"prompt": "The sky is", "choices": [" green", " blue"], "answer": 1}], "choice")

    assert example.documents == [(("The sky is", False), (" green", False)), (("The sky is", False), (" blue", False))]
    assert [document.text for document in documents_of(example)] == ["The sky is blue"]


@pytest.mark.parametrize(("kind", "record", "message"), [
    ("numbers", {"text": "a", "label": "three"}, "column 'label' holds the text 'three', not a number; write a number such as 3 or 0.5"),
    ("numbers", {"text": "a", "label": "nan"}, "holds the text 'nan', not a number"),
    ("numbers", {"text": "a", "label": float("nan")}, "holds nan, not a number that float32 can hold"),
    ("numbers", {"text": "a", "label": 5e201}, r"holds 5e\+201, not a number that float32 can hold"),
    ("numbers", {"text": "a", "label": True}, "holds a bool, not a number"),
    ("numbers", {"text": "a", "label": None}, "holds nothing, not a number"),
    ("labels", {"text": "a", "label": ["x", ""]}, "column 'label' holds a list, not a label"),
    ("labels", {"text": "a"}, "no column 'label'"),
    ("tags", {"tokens": ["a", "b"], "tags": ["x"]}, "2 in column 'tokens' and 1 in 'tags'; give each word one tag, or null"),
    ("tags", {"tokens": ["a", ""], "tags": ["x", "y"]}, r"column 'tokens' holds a list, not a list of texts; write \[\"one\", \"two\"\]"),
    ("tags", {"tokens": ["a"], "tags": [["x"]]}, "column 'tags' holds a list, not tags; write a list of names, numbers and null"),
    ("tags", {"tokens": ["a"], "tags": 3}, "column 'tags' holds a whole number, not tags"),
    ("choice", {"prompt": "a", "choices": ["b"], "answer": 0}, "column 'choices' holds 1 texts; give 2 to 16, or raise data.length"),
    ("choice", {"prompt": "a", "choices": ["b"] * 17, "answer": 0}, "holds 17 texts; give 2 to 16"),
    ("choice", {"prompt": "a", "choices": ["b", "c"], "answer": 2}, "column 'answer' holds 2, and there are 2 choices; write a number from 0 to 1"),
    ("choice", {"prompt": "a", "choices": ["b", "c"], "answer": 0.5}, "column 'answer' holds 0.5"),
    ("choice", {"prompt": "a", "choices": ["b", 3], "answer": 0}, "column 'choices' holds a list, not a list of texts"),
    ("choice", {"prompt": "a", "choices": "the cat|a dog", "answer": 1}, "column 'choices' holds a text, not a list of texts"),
])  # fmt: skip
def test_what_is_no_label_is_refused_with_file_and_line(tmp_path, kind, record, message):
    (tmp_path / "rows.jsonl").write_text("\n" + json.dumps(record) + "\n")
    config = DataConfig(path=str(tmp_path / "rows.jsonl"), examples=kind, length=LENGTH)

    with pytest.raises(RecipeError, match=rf"rows\.jsonl:2: .*{message}.*, or set data.bad_records to skip"):
        list(read_corpus(config))


def test_a_tag_stands_at_the_last_piece_of_its_word(tokenizer):
    words = ["Unbelievable", " statements", " here"]
    pieces = [tokenizer(word).input_ids for word in words]
    assert len(pieces[0]) > 1
    example = Example(tuple((word, False) for word in words), "x:1", tags=("A", None, "B"))

    block = blocks_of(tokenizer, [example], "tags", ["A", "B"])

    end_of_first, end = len(pieces[0]), sum(map(len, pieces))
    assert block["input_ids"][0, : end + 1].tolist() == [tokenizer.eos_token_id, *itertools.chain(*pieces)]
    assert {place: label for place, label in enumerate(block["labels"][0].tolist()) if label != IGNORED} == {end_of_first: 0, end: 1}


def test_a_long_text_with_tags_is_cut_and_each_tag_is_judged_once(tokenizer):
    words = [f" word{n}" for n in range(60)]
    example = Example(tuple((word, False) for word in words), "x:1", tags=tuple("AB"[n % 2] for n in range(60)))
    counts = SplitCounts()

    maker = SequenceMaker(DataConfig(path="x", length=LENGTH, examples="tags"), BatchEncoder(tokenizer), tokenizer.eos_token_id, ["A", "B"])
    blocks = list(maker.sequences([example], LENGTH // 2, counts))  # overlapping, as held-out text is

    labels = np.concatenate([block["labels"] for block in blocks])
    assert np.bincount(labels[labels != IGNORED]).tolist() == [30, 30]
    assert (counts.cut, counts.tokens) == (1, 60)


def test_the_choices_of_a_question_share_a_sequence_and_each_keeps_its_end(tokenizer):
    rng = np.random.default_rng(3)
    texts = [["Why? " * rng.integers(1, 12), *(" " + "so " * rng.integers(1, 9) for _ in range(rng.integers(2, 5)))] for _ in range(40)]
    some = [Example(tuple((text, False) for text in of_question), "x:1", answer=1) for of_question in texts]
    counts = SplitCounts()

    block = blocks_of(tokenizer, some, "choice", counts=counts)

    questions = []
    for labels, segments, ids in zip(block["labels"], block["segment_ids"], block["input_ids"]):
        for place in np.flatnonzero(labels != IGNORED):
            assert place == LENGTH - 1 or segments[place + 1] != segments[place]
            if labels[place] // 2 == 0:
                questions.append([])
            assert labels[place] // 2 == len(questions[-1])  # 0, 1, 2, ... in one sequence
            questions[-1].append((ids[segments == segments[place]].tolist(), labels[place] % 2))
    assert sorted(map(len, questions)) == sorted(example.answer_count for example in some)
    assert all([right for _, right in question] == [0, 1, *[0] * (len(question) - 2)] for question in questions)
    texts = {tuple(tuple([tokenizer.eos_token_id, *tokenizer(example.parts[0][0]).input_ids, *tokenizer(choice).input_ids][-(LENGTH // example.answer_count) :])
             for choice, _ in example.parts[1:]) for example in some}
    assert {tuple(tuple(ids) for ids, _ in question) for question in questions} == texts
    assert counts.documents == 40 and 0 < counts.cut < 40


def test_labels_are_listed_and_counted(tmp_path, tokenizer):
    rows = [{"tokens": [f"word{n}", "x"], "tags": ["AB"[n % 2], "C" if n % 3 == 0 else None]} for n in range(90)]

    prepare(DataConfig(path="-", length=LENGTH, examples="tags"), tokenizer, tmp_path, rows)

    assert read_labels(tmp_path) == ["A", "B", "C"]
    train = np.concatenate([batch["labels"].numpy() for batch in evaluation_batches(ShardedData(tmp_path), "train", 16)])
    assert count_labels(tmp_path) == {name: int(np.count_nonzero(train == number)) for number, name in enumerate("ABC")}
    assert not read_labels(tmp_path / "nowhere")


def test_more_labels_than_two_bytes_hold_are_stored_in_four(tmp_path, tokenizer):
    rows = [{"text": f"{n}", "label": n + 0.5} for n in range(70_000)]

    prepare(DataConfig(path="-", length=LENGTH, examples="numbers"), tokenizer, tmp_path, rows)

    data, names = ShardedData(tmp_path), read_labels(tmp_path)
    assert not data.layout.small and len(names) == 70_000
    batch = next(iter(evaluation_batches(data, "validation", 4)))
    ids, labels, segments = (batch[key].numpy()[0] for key in ("input_ids", "labels", "segment_ids"))
    text = tokenizer.decode(ids[segments == 1], skip_special_tokens=True)
    assert float(names[labels[segments == 1][-1]]) == int(text) + 0.5


def test_docstrings_come_with_their_packages():
    config = DataConfig(path="python-docstrings", examples="labels")

    some = list(read_corpus(config))

    assert len(some) > 1500 and {example.label for example in some} >= {"asyncio", "email", "logging", "xml"}
    assert all(f"/{example.label}/" in example.place for example in some)
    assert {"train", "validation"} == {example.split for example in some}
