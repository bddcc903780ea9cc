import json

import numpy as np
import pytest
import tensorflow as tf

from tfgpt.data.pipeline import evaluation_batches
from tfgpt.data.prepare import prepare
from tfgpt.data.shards import Layout, ShardedData
from tfgpt.recipe import DataConfig

LENGTH = 32


@pytest.fixture
def folder(tmp_path, documents, tokenizer):
    prepare(DataConfig(path="python-docs", length=LENGTH), tokenizer, tmp_path / "data", documents[:40])
    return tmp_path / "data"


@pytest.mark.parametrize("vocab", [500, 100_000])
def test_a_record_gives_back_the_sequence_it_was_made_of(vocab):
    rng = np.random.default_rng(1)
    segment_ids = np.sort(rng.integers(1, 4, [5, LENGTH]), axis=1).astype(np.int32)
    segment_ids[:, -3:] = 0
    position_ids = np.stack([[np.count_nonzero(row[:place] == row[place]) if row[place] else 0 for place in range(LENGTH)] for row in segment_ids])
    block = {
        "input_ids": rng.integers(0, vocab, [5, LENGTH]).astype(np.int32),
        "labels": np.where(rng.random([5, LENGTH]) < 0.3, -100, rng.integers(0, vocab, [5, LENGTH])).astype(np.int32),
        "segment_ids": segment_ids,
        "position_ids": position_ids,
    }
    layout = Layout.of(DataConfig(path="x", length=LENGTH), vocab)

    parsed = layout.parse(tf.constant([record.tobytes() for record in layout.to_records(block)]))

    assert layout.small == (vocab < 65_535)
    for key, value in block.items():
        assert parsed[key].dtype == tf.int32
        np.testing.assert_array_equal(parsed[key], value)


def test_the_index_knows_every_shard(folder):
    data = ShardedData(folder)

    data.check()
    assert {shard["file"] for shard in data.shards} == {path.name for path in folder.glob("*.tfrecord.gz")}
    rows = sum(len(batch["labels"]) for batch in evaluation_batches(data, "train", 5))
    assert rows == data.sequences("train") == json.loads((folder / "stats.json").read_text())["splits"]["train"]["sequences"]


def test_a_shard_cut_short_is_named(folder):
    path = next(folder.glob("train-*"))
    path.write_bytes(path.read_bytes()[:-20])

    with pytest.raises(RuntimeError, match=rf"{path}: \d+ bytes, but \d+ were written; the shard was cut short"):
        ShardedData(folder)


def test_a_shard_with_a_changed_byte_is_named(folder):
    path = next(folder.glob("validation-*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    with pytest.raises(RuntimeError, match=rf"{path}: its SHA-256 is not the one in index.json"):
        ShardedData(folder).check()


def test_what_is_missing_is_named(folder, tmp_path):
    data = ShardedData(folder)
    with pytest.raises(FileNotFoundError, match="has no shard of test"):
        data.files("test")
    with pytest.raises(FileNotFoundError, match=r"no index.json; prepare the data first"):
        ShardedData(tmp_path)
    next(folder.glob("train-*")).unlink()
    with pytest.raises(FileNotFoundError, match=r"train-00-000000.tfrecord.gz: the shard is gone"):
        ShardedData(folder)
