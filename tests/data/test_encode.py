import numpy as np
import pytest

from tfgpt.data.encode import SequenceMaker, SplitCounts
from tfgpt.data.examples import Example
from tfgpt.data.packing import IGNORED
from tfgpt.recipe import DataConfig
from tfgpt.text.encode import BatchEncoder

LENGTH = 32


def maker(tokenizer, labels=(), **settings):
    return SequenceMaker(DataConfig(path="x", length=LENGTH, **settings), BatchEncoder(tokenizer), tokenizer.eos_token_id, labels)


def example(*parts, **fields):
    return Example(tuple(parts), place="x:1", **fields)


def test_a_document_begins_with_end_of_text_and_ends_with_it(tokenizer):
    ids, end = tokenizer("the with statement").input_ids, tokenizer.eos_token_id

    tokens = maker(tokenizer).tokens([example(("the with statement", True)), example(("x", True))])

    assert tokens.inputs[: len(ids) + 1].tolist() == [end, *ids]
    assert tokens.labels[: len(ids) + 1].tolist() == [*ids, end]
    assert tokens.sizes.tolist() == [len(ids) + 1, 2]


def test_of_a_pair_only_the_target_is_trained_on(tokenizer):
    prompt, target = tokenizer("Question: why?").input_ids, tokenizer(" Because.").input_ids

    tokens = maker(tokenizer).tokens([example(("Question: why?", False), (" Because.", True))])

    assert tokens.inputs.tolist() == [tokenizer.eos_token_id, *prompt, *target]
    assert tokens.labels.tolist() == [IGNORED] * len(prompt) + [*target, tokenizer.eos_token_id]


def test_the_end_after_a_part_that_is_not_trained_on_is_not_trained_on(tokenizer):
    tokens = maker(tokenizer).tokens([example(("a", True), ("b", False))])

    assert tokens.labels.tolist() == [*tokenizer("a").input_ids, IGNORED, IGNORED]


def test_empty_parts_shift_nothing(tokenizer):
    tokens = maker(tokenizer).tokens([example(("", False), ("a", True)), example(("b", True), ("", True))])

    a, b, end = *tokenizer("ab").input_ids, tokenizer.eos_token_id
    if len(tokenizer("ab").input_ids) != 2:
        pytest.fail("this test needs a and b to be two tokens")
    assert (tokens.inputs.tolist(), tokens.labels.tolist(), tokens.sizes.tolist()) == ([end, a, end, b], [a, end, b, end], [2, 2])


def test_the_class_of_a_text_is_the_label_of_its_last_token_and_long_texts_keep_their_end(tokenizer, documents):
    labelled = [example((documents[0], False), label="ham"), example(("short text", False), label="spam")]
    counts = SplitCounts()

    blocks = list(maker(tokenizer, labels=["ham", "spam"], examples="labels").sequences(labelled, LENGTH, counts))

    inputs, labels, segment = (np.concatenate([block[key] for block in blocks]) for key in ("input_ids", "labels", "segment_ids"))
    assert sorted(labels[labels != IGNORED]) == [0, 1]
    row, place = np.argwhere(labels == 0)[0]
    assert inputs[row][segment[row] == segment[row, place]].tolist() == tokenizer(documents[0], verbose=False).input_ids[-LENGTH:]
    assert place == np.flatnonzero(segment[row] == segment[row, place])[-1]
    assert counts.cut == 1


def test_a_translation_has_its_source_on_the_encoders_side(tokenizer):
    pairs = [example((" zwei", True), encoder_text="two"), example((" drei", True), encoder_text="three")]

    (block,) = maker(tokenizer, examples="translation", source_length=24).sequences(pairs, LENGTH, SplitCounts())

    first = block["encoder_segment_ids"][0] == 1
    assert block["encoder_input_ids"].shape == (1, 24)
    texts = {tokenizer.decode(block["encoder_input_ids"][0][block["encoder_segment_ids"][0] == n], skip_special_tokens=True) for n in (1, 2)}
    assert texts == {"two", "three"}
    assert block["encoder_position_ids"][0][first].tolist() == list(range(first.sum()))


def test_a_translation_longer_than_its_sides_keeps_both_beginnings_and_is_counted(tokenizer, documents):
    pairs = [example((documents[0], True), encoder_text=documents[1]), example((" b", True), encoder_text="a")]
    counts = SplitCounts()

    blocks = list(maker(tokenizer, examples="translation", source_length=24).sequences(pairs, LENGTH, counts))

    (block,) = blocks
    row, segment = next((row, 1) for row in range(len(block["labels"])) if (block["segment_ids"][row] == 1).all())
    target, source = (tokenizer(text, verbose=False).input_ids for text in (documents[0], documents[1]))
    assert block["labels"][row].tolist() == target[:LENGTH]
    assert block["encoder_input_ids"][row].tolist() == [*source[:23], tokenizer.eos_token_id]
    assert (counts.documents, counts.cut, segment) == (2, 1, 1)
    assert counts.tokens == LENGTH + len(tokenizer(" b").input_ids) + 1


def test_counts_say_what_the_text_holds(tokenizer, documents):
    counts = SplitCounts()

    blocks = list(maker(tokenizer).sequences([example((text, True)) for text in documents[:12]], LENGTH, counts))

    lengths = [len(tokenizer(text, verbose=False).input_ids) + 1 for text in documents[:12]]
    assert counts == SplitCounts(documents=12, bytes=sum(len(text.encode()) for text in documents[:12]), tokens=sum(lengths),
                                 sequences=sum(len(block["labels"]) for block in blocks), filled=sum(lengths),
                                 cut=sum(length > LENGTH for length in lengths))
    assert counts.fill_rate(LENGTH) == pytest.approx(sum(lengths) / (counts.sequences * LENGTH))
