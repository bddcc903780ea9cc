"""General text beside a task: sources of a mixture with examples of their own, which are trained on and measured by nothing."""
import json
import re

import numpy as np
import pytest

from tests.data.test_unlabelled import texts_of
from tfgpt.data.corpus import REPLAY_HELD_OUT, read_corpus
from tfgpt.data.intake import Account
from tfgpt.data.pipeline import evaluation_batches, training_batches
from tfgpt.data.prepare import prepare
from tfgpt.data.shards import ShardedData
from tfgpt.data.split import split_of
from tfgpt.data.unlabelled import prepare_unlabelled
from tfgpt.recipe import DataConfig, PretrainConfig, Recipe, RecipeError, SourceConfig, TokenizerConfig
from tfgpt.stages.text import make_tokenizer
from tfgpt.text.bpe import load_tokenizer

SHARE = 0.2


@pytest.fixture
def mixture(tmp_path):
    """Pairs, chats and general text; a fifth is held out."""
    pairs = [{"prompt": f"What is {n} plus one?", "target": f" It is {n + 1}."} for n in range(60)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    (tmp_path / "general.txt").write_text("\n".join(f"Of all the general texts this one is number {n}." for n in range(80)))
    task = SourceConfig(path=str(tmp_path / "pairs.jsonl"), weight=3.0)
    general = SourceConfig(path=str(tmp_path / "general.txt"), weight=1.0, examples="text", documents="line")
    return DataConfig(sources=(task, general), examples="pairs", length=48, validation=SHARE)


def test_prompts_are_not_trained_on_and_general_text_is(mixture, tokenizer, tmp_path):
    prepare(mixture, tokenizer, tmp_path / "data")

    data = ShardedData(tmp_path / "data")
    trained = {"pairs": [], "text": []}
    for batch in training_batches(data, 8, seed=1, weights=[3.0, 1.0]).take(data.sequences("train")).as_numpy_iterator():
        for labels, segments in zip(batch["labels"], batch["segment_ids"]):
            for number in range(1, segments.max() + 1):
                mine = labels[segments == number]
                text = tokenizer.decode(mine[mine >= 0])
                trained["text" if text.startswith("Of all") else "pairs"].append((text, np.mean(mine >= 0)))
    assert all(re.fullmatch(r" It is \d+\.<\|endoftext\|>", text) and share < 0.7 for text, share in trained["pairs"])
    assert all(share == 1.0 for _, share in trained["text"])


def test_shares_of_the_sequences_are_those_of_the_weights(mixture, tokenizer, tmp_path):
    prepare(mixture, tokenizer, tmp_path / "data")

    batches = training_batches(ShardedData(tmp_path / "data"), 10, seed=1, weights=[3.0, 1.0]).take(100).as_numpy_iterator()
    general = np.mean([b"general" in tokenizer.decode(ids).encode() for batch in batches for ids in batch["input_ids"]])

    assert general == pytest.approx(0.25, abs=0.05)  # 1,000 draws without replacement out of 10,000: a standard deviation of 0.013


def test_what_is_held_out_is_the_tasks_alone(mixture, tokenizer, tmp_path):
    stats = prepare(mixture, tokenizer, tmp_path / "data")

    alone = prepare(DataConfig(path=mixture.sources[0].path, examples="pairs", length=48, validation=SHARE), tokenizer, tmp_path / "alone")
    assert stats["splits"]["validation"] == alone["splits"]["validation"]
    batches = [list(evaluation_batches(ShardedData(tmp_path / name), "validation", 64).as_numpy_iterator()) for name in ("data", "alone")]
    for mine, other in zip(*batches, strict=True):
        np.testing.assert_array_equal(mine["labels"], other["labels"])
    left_out = [text for n in range(80) if split_of(text := f"Of all the general texts this one is number {n}.", SHARE) != "train"]
    assert stats["filtered"] == {REPLAY_HELD_OUT: len(left_out)} and len(left_out) > 5
    assert not set(left_out) & set(texts_of(tmp_path / "data", tokenizer, "train"))


def test_text_is_replayed_beside_text_where_it_is_said(tmp_path):
    for name in ("task", "general"):
        (tmp_path / f"{name}.txt").write_text("\n".join(f"{name} {n}" for n in range(50)))
    sources = [SourceConfig(path=str(tmp_path / f"{name}.txt"), replay=name == "general" or None) for name in ("task", "general")]

    account = Account()
    examples = list(read_corpus(DataConfig(sources=tuple(sources), documents="line", validation=SHARE), account))

    assert {example.text.split()[0] for example in examples if example.split == "validation"} == {"task"}
    assert account.filtered[REPLAY_HELD_OUT] > 3 and account.is_whole()
    both = DataConfig(sources=tuple(SourceConfig(path=source.path) for source in sources), documents="line", validation=SHARE)
    assert {example.text.split()[0] for example in read_corpus(both) if example.split == "validation"} == {"task", "general"}


def test_long_general_text_comes_in_sections_beside_pairs(tmp_path, mixture, tokenizer, monkeypatch):
    from tfgpt.data import readers

    monkeypatch.setattr(readers, "SECTION", 300)
    long = "".join(f"Sentence {n} of a long text. " for n in range(200))
    (tmp_path / "general.txt").write_text(long)

    prepare(mixture, tokenizer, tmp_path / "data")

    found = "".join(texts_of(tmp_path / "data", tokenizer, "train"))
    whole = sum(f"Sentence {n} of a long text." in found for n in range(200))
    assert split_of(long, SHARE) == "train" and whole > 100  # the others are cut at the border of a sequence


def test_pre_training_takes_all_text_and_holds_none_of_the_replay_out(mixture, tokenizer, tmp_path):
    prepare_unlabelled(mixture, PretrainConfig(steps=1), tokenizer, tmp_path / "data")

    train, validation = (texts_of(tmp_path / "data", tokenizer, split) for split in ("train", "validation"))
    assert {text.split()[0] for text in train} == {"What", "Of"} and {text.split()[0] for text in validation} == {"What"}


def test_a_mixture_with_chats_has_their_template(tmp_path):
    rows = [{"messages": [{"role": "user", "content": f"Is {n} odd?"}, {"role": "assistant", "content": f"Let me see {n}."}]} for n in range(60)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "lines.txt").write_text("\n".join(f"This line is number {n}." for n in range(60)))
    sources = (SourceConfig(path=str(tmp_path / "lines.txt"), documents="line"), SourceConfig(path=str(tmp_path / "chats.jsonl"), examples="chat"))
    recipe = Recipe(DataConfig(sources=sources), tokenizer=TokenizerConfig(vocab=300))

    make_tokenizer(recipe, tmp_path)

    assert load_tokenizer(tmp_path / "tokenizer").chat_template


@pytest.mark.parametrize(("settings", "source", "message"), [
    ({"examples": "labels"}, {"examples": "text"}, "data.sources[1].examples: text beside data.examples labels, and of different examples only"),
    ({"examples": "pairs"}, {"examples": "translation"}, "data.sources[1].examples: translation beside data.examples pairs"),
    ({"split": "tail"}, {"replay": True}, "data.split: tail cuts one running text, and there is text to replay beside it; set it to hash"),
])  # fmt: skip
def test_mixtures_that_cannot_be_are_refused(settings, source, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        DataConfig(sources=(SourceConfig(path="a"), SourceConfig(path="b", **source)), **settings)


def test_a_corpus_of_nothing_but_replay_is_refused():
    with pytest.raises(RecipeError, match="data.sources: each is replay, and nothing is left that is the task"):
        DataConfig(sources=(SourceConfig(path="a", replay=True),))
