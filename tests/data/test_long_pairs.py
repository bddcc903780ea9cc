"""Pairs that are longer than a sequence, and records that say which part they belong to."""
import dataclasses

import numpy as np
import pytest

from tfgpt.data.corpus import examples_of
from tfgpt.data.encode import SequenceMaker, SplitCounts
from tfgpt.data.intake import Account
from tfgpt.data.packing import IGNORED
from tfgpt.recipe import ColumnsConfig, DataConfig, RecipeError
from tfgpt.text.encode import BatchEncoder

LENGTH = 16
LONG, SHORT, TARGET = "one two three four five six seven eight nine ten eleven twelve", "one two", " the answer"


def packed(tokenizer, rows, long_pairs, bad_records="skip"):
    config = DataConfig(path="x", examples="pairs", length=LENGTH, long_pairs=long_pairs, bad_records=bad_records)
    reading = DataConfig(path="x", examples="pairs", columns=ColumnsConfig(split="split"))
    examples = [example for example in examples_of(rows, reading, Account()) if example.split == "train"]
    counts = SplitCounts()
    blocks = list(SequenceMaker(config, BatchEncoder(tokenizer), tokenizer.eos_token_id).sequences(examples, LENGTH, counts))
    return {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]} if blocks else {}, counts


def rows(*pairs):
    return [{"prompt": prompt, "target": target, "split": "train"} for prompt, target in pairs] + [{"prompt": "a", "target": "b", "split": "validation"}]


def test_a_prompt_that_is_cut_keeps_its_last_tokens_and_the_whole_target(tokenizer):
    blocks, counts = packed(tokenizer, rows((LONG, TARGET)), "cut")

    whole = tokenizer.encode(LONG) + tokenizer.encode(TARGET)
    assert blocks["input_ids"].tolist() == [whole[-LENGTH:]]
    assert blocks["labels"][0][blocks["labels"][0] != IGNORED].tolist() == [*tokenizer.encode(TARGET), tokenizer.eos_token_id]
    assert counts.cut == 1 and counts.too_long == 0


def test_pieces_are_trained_on_with_what_fits_as_before(tokenizer):
    blocks, _ = packed(tokenizer, rows((LONG, TARGET)), "pieces")

    assert blocks["labels"][blocks["labels"] != IGNORED].tolist() == [*tokenizer.encode(TARGET), tokenizer.eos_token_id]


def test_a_window_keeps_the_first_tokens_of_the_prompt_its_end_and_the_whole_target(tokenizer):
    rows = [{"prompt": text, "prompt_end": "\nSo:", "target": TARGET, "split": "train"} for text in (LONG, SHORT)]
    config = DataConfig(path="x", examples="pairs", columns=ColumnsConfig(split="split", prompt_end="prompt_end"), length=LENGTH, long_pairs="window")
    examples = list(examples_of([*rows, rows[0] | {"split": "validation"}], config, Account()))[:2]
    maker, counts = SequenceMaker(config, BatchEncoder(tokenizer), tokenizer.eos_token_id), SplitCounts()

    tokens = maker.tokens(examples)
    blocks = list(maker.sequences(examples, LENGTH, counts))

    behind = tokenizer.encode("\nSo:") + tokenizer.encode(TARGET)
    kept = tokenizer.encode(LONG)[: LENGTH - 1 - len(behind)]
    assert tokens.inputs.tolist() == [tokenizer.eos_token_id, *kept, *behind, tokenizer.eos_token_id, *tokenizer.encode(SHORT), *behind]
    assert tokens.cut.tolist() == [True, False] and counts.cut == 1 and counts.too_long == 0
    trained = np.concatenate([block["labels"].ravel() for block in blocks])
    assert trained[trained != IGNORED].tolist() == [*tokenizer.encode(TARGET), tokenizer.eos_token_id] * 2


def test_translations_too_long_on_either_side_may_be_refused(tokenizer):
    rows = [{"source": source, "target": target, "split": "train"} for source, target in ((SHORT, TARGET), (LONG, TARGET), (SHORT, LONG))]
    config = DataConfig(path="x", examples="translation", columns=ColumnsConfig(split="split"), length=LENGTH, long_pairs="refuse", bad_records="skip")
    examples = list(examples_of([*rows, rows[0] | {"split": "validation"}], config, Account()))[:3]
    maker, counts = SequenceMaker(config, BatchEncoder(tokenizer), tokenizer.eos_token_id), SplitCounts()

    blocks = list(maker.sequences(examples, LENGTH, counts))

    trained = np.concatenate([block["labels"].ravel() for block in blocks])
    assert trained[trained != IGNORED].tolist() == [*tokenizer.encode(TARGET), tokenizer.eos_token_id] and counts.too_long == 2
    refusing = SequenceMaker(dataclasses.replace(config, bad_records="refuse"), BatchEncoder(tokenizer), tokenizer.eos_token_id)
    with pytest.raises(RecipeError, match="record 2: its source has more than the 16 tokens of data.source_length"):
        list(refusing.sequences(examples, LENGTH, SplitCounts()))


@pytest.mark.parametrize(("long_pairs", "pair"), [("cut", (SHORT, LONG)), ("refuse", (LONG, TARGET)), ("window", (SHORT, LONG))])
def test_a_pair_that_no_sequence_takes_is_counted_or_refused_with_its_place(tokenizer, long_pairs, pair):
    blocks, counts = packed(tokenizer, rows((SHORT, TARGET), pair), long_pairs)

    assert blocks["labels"][blocks["labels"] != IGNORED].tolist() == [*tokenizer.encode(TARGET), tokenizer.eos_token_id]
    assert (counts.too_long, counts.documents, counts.cut, counts.bytes) == (1, 1, 0, len(TARGET.encode()))
    with pytest.raises(RecipeError, match=r"record 2: its .* tokens, and a sequence 16 \(data.length\)"):
        packed(tokenizer, rows((SHORT, TARGET), pair), long_pairs, bad_records="refuse")


def test_records_say_which_part_they_belong_to():
    rows = [{"text": str(number), "part": part} for number, part in enumerate(["train", "validation", "test", "train"])]
    account = Account()

    found = list(examples_of(rows, DataConfig(path="x", test=0.1, columns=ColumnsConfig(split="part")), account))
    without_test = list(examples_of(rows, DataConfig(path="x", columns=ColumnsConfig(split="part")), account))

    assert [example.split for example in found] == ["train", "validation", "test", "train"]
    assert [example.split for example in without_test] == ["train", "validation", "train"]
    assert account.filtered.total() == 1


def test_a_split_that_there_is_not_is_refused():
    with pytest.raises(RecipeError, match="record 1: column 'split' holds 'dev'; write one of train, validation, test"):
        list(examples_of([{"text": "x", "split": "dev"}], DataConfig(path="x", columns=ColumnsConfig(split="split")), Account()))


def test_long_pairs_is_for_pairs_alone_but_chats_may_be_refused():
    for examples in ("text", "chat"):
        with pytest.raises(RecipeError, match="data.long_pairs: cut, and there are other examples than pairs"):
            DataConfig(path="x", examples=examples, long_pairs="cut")
    assert DataConfig(path="x", examples="chat", long_pairs="refuse").long_pairs == "refuse"
