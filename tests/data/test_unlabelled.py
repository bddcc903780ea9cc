"""What a model is pre-trained on before its fine-tune: all text of the training part, and nothing that is held out."""
import json

import numpy as np
import pytest

from tfgpt.data.corpus import read_corpus
from tfgpt.data.pipeline import evaluation_batches
from tfgpt.data.shards import ShardedData
from tfgpt.data.unlabelled import HELD_OUT, check_unlabelled, prepare_unlabelled
from tfgpt.recipe import ColumnsConfig, DataConfig, PretrainConfig, Recipe, RecipeError, SourceConfig, TokenizerConfig
from tfgpt.stages.text import make_tokenizer
from tfgpt.text.bpe import load_tokenizer

ROWS = 120
EXAMPLES = {
    "labels": lambda n: {"text": f"Message number {n} of the lot, free of charge.", "label": "ham" if n % 3 else "spam"},
    "pairs": lambda n: {"prompt": f"What is {n} plus one?", "target": f" It is {n + 1}, I think."},
    "numbers": lambda n: {"text": f"Message number {n} of the lot.", "label": n / 7},
    "tags": lambda n: {"tokens": ["Miss", f"Smith-{n}", "left", "at", "once"], "tags": ["O", "NAME", "O", None, "O"]},
    "choice": lambda n: {"prompt": f"One and {n} is", "choices": [f" {n + 1}.", f" {n + 2}."], "answer": n % 2},
    "translation": lambda n: {"source": f"Das ist Satz {n}.", "target": f"This is sentence {n}."},
    "chat": lambda n: {"messages": [{"role": "user", "content": f"Is {n} odd?"}, {"role": "assistant", "content": f"See for yourself: {n % 2}."}]},
}


def task(folder, examples, **settings):
    rows = [EXAMPLES[examples](n) for n in range(ROWS)]
    (folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(path=str(folder / "task.jsonl"), examples=examples, length=80, validation=0.2, test=0.1, **settings)


def texts_of(folder, tokenizer, split):
    """Return the documents of packed shards as texts."""
    texts = []
    for batch in evaluation_batches(ShardedData(folder), split, 8).as_numpy_iterator():
        for ids, segments in zip(batch["input_ids"], batch["segment_ids"]):
            texts += [tokenizer.decode(ids[segments == number][1:]) for number in range(1, segments.max() + 1)]
    return texts


def held_out(data):
    return {text for example in read_corpus(data) if example.split != "train" for text in (example.text, example.encoder_text, *(t for t, _ in example.parts))}


@pytest.mark.parametrize("examples", EXAMPLES)
def test_all_text_of_the_training_part_and_none_of_the_held_out_parts(examples, tmp_path, tokenizer):
    data = task(tmp_path, examples)

    stats = prepare_unlabelled(data, PretrainConfig(steps=1), tokenizer, tmp_path / "data")

    found = sorted(text for split in ("train", "validation") for text in texts_of(tmp_path / "data", tokenizer, split))
    training = [example for example in read_corpus(data) if example.split == "train"]
    if examples == "translation":
        expected = [side for example in training for side in (example.encoder_text, example.parts[0][0])]
    elif examples == "choice":
        expected = ["".join(text for text, _ in example.documents[example.answer]) for example in training]  # and no wrong one
    else:
        expected = [example.text for example in training]
    assert found == sorted(expected)
    assert not held_out(data) & set(found)
    assert stats["splits"]["validation"]["documents"] > 5 and set(stats["splits"]) == {"train", "validation"}
    batch = next(evaluation_batches(ShardedData(tmp_path / "data"), "train", 8).as_numpy_iterator())
    np.testing.assert_array_equal(batch["labels"] >= 0, batch["segment_ids"] > 0)  # every token is trained on, prompts and questions too
    assert "label" not in json.dumps(stats["splits"])


def test_another_corpus_is_left_without_what_the_task_holds_out(tmp_path, tokenizer):
    data = task(tmp_path, "labels")
    pool = [EXAMPLES["labels"](n)["text"] for n in range(2 * ROWS)]
    (tmp_path / "pool.txt").write_text("".join(f"{text.upper()}\n" for text in pool))  # upper case: the same but for case

    stats = prepare_unlabelled(data, PretrainConfig(steps=1, path=str(tmp_path / "pool.txt")), tokenizer, tmp_path / "data")

    held = {text.upper() for text in held_out(data) if text}
    found = [text for split in ("train", "validation") for text in texts_of(tmp_path / "data", tokenizer, split)]
    assert sorted(found) == sorted({text.upper() for text in pool} - held)
    assert stats["filtered"] == {HELD_OUT: len(held)} and len(held) > 20
    assert stats["documents_read"] == len(pool) == len(found) + len(held)


def test_of_the_tasks_own_texts_as_a_corpus_a_share_is_left_to_validate_on(tmp_path, tokenizer):
    data = task(tmp_path, "labels")
    (tmp_path / "own.txt").write_text("".join(f"{EXAMPLES['labels'](n)['text']}\n" for n in range(ROWS)))

    stats = prepare_unlabelled(data, PretrainConfig(steps=1, path=str(tmp_path / "own.txt")), tokenizer, tmp_path / "data")

    used = {split: part["documents"] for split, part in stats["splits"].items()}
    assert sum(used.values()) + stats["filtered"][HELD_OUT] == stats["documents_read"] == ROWS
    assert used["validation"] / sum(used.values()) == pytest.approx(data.validation, abs=0.1)


def test_a_document_loses_the_lines_that_are_held_out(tmp_path, tokenizer):
    data = task(tmp_path, "labels")
    held = sorted(held_out(data) - {None})
    (tmp_path / "one.txt").write_text("A line of its own.\n" * 200 + "\n".join(held) + "\nThe end of the document.\n" * 200)

    prepare_unlabelled(data, PretrainConfig(steps=1, path=str(tmp_path / "one.txt"), documents="file"), tokenizer, tmp_path / "data")

    found = "".join(text for split in ("train", "validation") for text in texts_of(tmp_path / "data", tokenizer, split))
    assert not [text for text in held if text in found]
    assert found.count("A line of its own.") > 100 < found.count("The end of the document.")  # the others are cut at the border of a sequence


def test_sources_say_how_a_corpus_is_read_and_take_nothing_of_that_from_the_task(tmp_path, tokenizer):
    (tmp_path / "task.tsv").write_text("".join(f"ham\tMessage {n} of the lot.\n" for n in range(ROWS)))
    data = DataConfig(path=str(tmp_path / "task.tsv"), kind="tsv", examples="labels", column_names=("label", "text"), length=24)
    (tmp_path / "pool.data").write_text("".join(json.dumps({"body": f"Pool text {n}."}) + "\n" for n in range(ROWS)))
    source = SourceConfig(path=str(tmp_path / "pool.data"), kind="jsonl", columns=ColumnsConfig(text="body"))

    stats = prepare_unlabelled(data, PretrainConfig(steps=1, sources=(source,)), tokenizer, tmp_path / "data")

    assert stats["documents"] == ROWS
    assert set(texts_of(tmp_path / "data", tokenizer, "train")) < {f"Pool text {n}." for n in range(ROWS)}


def test_what_cannot_be_pretrained_on_is_refused_by_its_own_key(tmp_path, tokenizer):
    (tmp_path / "one.txt").write_text("One running text. " * 500)
    running = DataConfig(path=str(tmp_path / "one.txt"))
    data = task(tmp_path, "labels")
    (tmp_path / "short.txt").write_text("".join(f"{n}\n" for n in range(20)))

    with pytest.raises(RecipeError, match="adapt.pretrain.path: empty, and the task is one running text"):
        check_unlabelled(running, PretrainConfig(steps=1))
    with pytest.raises(RecipeError, match="^adapt.pretrain.path: no file /nowhere"):
        check_unlabelled(data, PretrainConfig(steps=1, path="/nowhere"))
    with pytest.raises(RecipeError, match=r"^adapt.pretrain.sources\[0\].path: no file /nowhere"):
        check_unlabelled(data, PretrainConfig(steps=1, sources=(SourceConfig(path="/nowhere"),)))
    with pytest.raises(RecipeError, match="^adapt.pretrain.path: .*short.txt gives .* tokens to train on, less than one sequence"):
        prepare_unlabelled(data, PretrainConfig(steps=1, path=str(tmp_path / "short.txt")), tokenizer, tmp_path / "data")
    with pytest.raises(RecipeError, match="adapt.pretrain.path: a and 1 adapt.pretrain.sources; give one of the two"):
        PretrainConfig(path="a", sources=(SourceConfig(path="b"),))


def test_a_tokenizer_is_trained_on_labelled_texts(tmp_path):
    recipe = Recipe(task(tmp_path, "labels"), tokenizer=TokenizerConfig(vocab=300))

    make_tokenizer(recipe, tmp_path)

    assert len(load_tokenizer(tmp_path / "tokenizer")("Message number", return_tensors="np").input_ids[0]) < len("Message number")
