import itertools

import numpy as np
import pytest

from tfgpt.data.encode import SplitCounts, pack_texts, packed_sequences
from tfgpt.data.shards import evaluation_batches, training_batches, write_shards

LENGTH = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory, documents, tokenizer):
    """Shards of real text, and how many sequences they hold."""
    folder = tmp_path_factory.mktemp("shards")
    counts = SplitCounts()
    written = write_shards(packed_sequences(documents[:12], tokenizer, LENGTH, LENGTH, counts), folder, "train")
    assert written == counts.sequences
    return folder, counts


def stream(folder, seed=1, first_step=0, steps=400, batch_size=7):
    path, counts = folder
    batches = training_batches(path, LENGTH, counts.sequences, batch_size, seed, first_step)
    return [{key: value.numpy() for key, value in batch.items()} for batch in itertools.islice(batches, steps)]


def test_shards_hold_what_was_written(folder, documents, tokenizer):
    path, counts = folder
    written = list(packed_sequences(documents[:12], tokenizer, LENGTH, LENGTH, SplitCounts()))

    batches = evaluation_batches(path, "train", LENGTH, 5)
    read = [dict(zip(batch, rows)) for batch in batches for rows in zip(*map(np.array, batch.values()))]

    assert len(read) == len(written) == counts.sequences
    for mine, other in zip(read, written):
        for key in other:
            np.testing.assert_array_equal(mine[key], other[key])


def test_counts_say_what_the_text_holds(folder, documents, tokenizer):
    _, counts = folder

    assert counts.documents == 12
    assert counts.bytes == sum(len(text.encode()) for text in documents[:12])
    assert counts.tokens == sum(len(tokenizer(text, verbose=False).input_ids) + 1 for text in documents[:12])
    assert counts.fill_rate == pytest.approx(counts.tokens / (counts.sequences * LENGTH))


def test_a_resumed_stream_gives_the_batches_it_would_have_given(folder):
    whole = stream(folder)
    steps_of_a_pass = folder[1].sequences / 7
    assert len(whole) > 1.5 * steps_of_a_pass  # the test must cross the border of a pass

    for first in (1, 100, int(steps_of_a_pass), int(steps_of_a_pass) + 1, 399):
        for mine, other in zip(stream(folder, first_step=first, steps=400 - first), whole[first:], strict=True):
            for key in other:
                np.testing.assert_array_equal(mine[key], other[key])


def test_every_pass_sees_every_sequence_once_in_another_order(folder):
    sequences = folder[1].sequences
    rows = np.concatenate([batch["input_ids"] for batch in stream(folder, steps=-(-2 * sequences // 7))])

    first, second = rows[:sequences], rows[sequences : 2 * sequences]
    assert sorted(map(tuple, first)) == sorted(map(tuple, second))
    assert not np.array_equal(first, second)


def test_another_seed_gives_another_order(folder):
    assert not np.array_equal(stream(folder, seed=1, steps=1)[0]["input_ids"], stream(folder, seed=2, steps=1)[0]["input_ids"])


def test_a_missing_split_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no shard validation-\*"):
        evaluation_batches(tmp_path, "validation", LENGTH, 4)


def test_pack_texts_gives_batches_for_fit(documents, tokenizer):
    batches = list(pack_texts(documents[:3], tokenizer, length=LENGTH, batch_size=4))

    assert {key: value.shape for key, value in batches[0].items()} == dict.fromkeys(("input_ids", "labels", "segment_ids", "position_ids"), (4, LENGTH))
    trained = sum(int(np.count_nonzero(batch["labels"].numpy() >= 0)) for batch in batches)
    assert trained == sum(len(tokenizer(text, verbose=False).input_ids) + 1 for text in documents[:3])
    with pytest.raises(ValueError, match="there is no text"):
        pack_texts([], tokenizer, length=LENGTH, batch_size=4)
