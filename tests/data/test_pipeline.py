import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfgpt.data import pipeline
from tfgpt.data.pipeline import evaluation_batches, mixture_pattern, pack_texts, training_batches
from tfgpt.data.prepare import prepare
from tfgpt.data.shards import ShardedData
from tfgpt.recipe import DataConfig, SourceConfig

LENGTH = 32
BATCH = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory, documents, tokenizer):
    """Several shards of real text."""
    folder = tmp_path_factory.mktemp("shards") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfgpt.data.prepare.WINDOW", 3000)
        prepare(DataConfig(path="python-docs", length=LENGTH), tokenizer, folder, documents[:25])
    data = ShardedData(folder)
    assert len(data.of("train")) >= 5
    return data


def stream(data, steps, seed=1, first_step=0, **settings):
    batches = training_batches(data, BATCH, seed, first_step, **settings)
    return [{key: value.numpy() for key, value in batch.items()} for batch in itertools.islice(batches, steps)]


def assert_same_batches(mine, others):
    for one, other in zip(mine, others, strict=True):
        for key in other:
            np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize("buffer", [16_384, 10])
def test_a_resumed_stream_gives_the_batches_it_would_have_given(data, monkeypatch, buffer):
    monkeypatch.setattr(pipeline, "SHUFFLE_BUFFER", buffer)  # 10: larger than memory, as it were
    of_a_pass = data.sequences("train") // BATCH
    whole = stream(data, steps=2 * of_a_pass + 5)

    for first in (1, of_a_pass, of_a_pass + 1, 2 * of_a_pass + 4):
        assert_same_batches(stream(data, steps=len(whole) - first, first_step=first), whole[first:])


@pytest.mark.parametrize("buffer", [16_384, 10])
def test_every_pass_sees_every_sequence_once_in_another_order(data, monkeypatch, buffer):
    monkeypatch.setattr(pipeline, "SHUFFLE_BUFFER", buffer)
    sequences = data.sequences("train")

    rows = np.concatenate([batch["input_ids"] for batch in stream(data, steps=-(-2 * sequences // BATCH))])

    first, second = rows[:sequences], rows[sequences : 2 * sequences]
    stored = np.concatenate([batch["input_ids"] for batch in evaluation_batches(data, "train", 5)])
    assert sorted(map(tuple, first)) == sorted(map(tuple, second)) == sorted(map(tuple, stored))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, stored)


def test_another_seed_gives_another_order(data):
    assert not np.array_equal(stream(data, seed=1, steps=1)[0]["input_ids"], stream(data, seed=2, steps=1)[0]["input_ids"])


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_share_each_batch_as_one_would_have_it(data, workers):
    whole = stream(data, steps=30)

    shares = [stream(data, steps=30, worker=worker, workers=workers) for worker in range(workers)]

    together = [{key: np.concatenate([share[step][key] for share in shares]) for key in whole[0]} for step in range(30)]
    assert_same_batches(together, whole)


def test_a_batch_that_cannot_be_dealt_is_refused(data):
    with pytest.raises(ValueError, match="train.global_batch_size: 8 sequences cannot be dealt to 3 workers"):
        training_batches(data, BATCH, seed=1, workers=3)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory, tokenizer):
    """Two sources of very different size, told apart by their text."""
    folder = tmp_path_factory.mktemp("mixture")
    (folder / "large.txt").write_text("\n".join(f"aaaa {number}" for number in range(3000)))
    (folder / "small.txt").write_text("\n".join(f"bbbb {number}" for number in range(200)))
    sources = (SourceConfig(path=str(folder / "large.txt"), weight=1.0), SourceConfig(path=str(folder / "small.txt"), weight=3.0))
    prepare(DataConfig(sources=sources, documents="line", length=LENGTH), tokenizer, folder / "data")
    return ShardedData(folder / "data")


def test_a_mixture_has_the_shares_its_weights_ask_for(mixture, tokenizer):
    rows = np.concatenate([batch["input_ids"] for batch in stream(mixture, steps=10_000 // BATCH, weights=[1.0, 3.0])])

    of_small = sum("b" in tokenizer.decode(row) for row in rows)
    assert (len(rows), of_small) == (10_000, 7500)
    seen = {tuple(row) for row in rows}
    assert len(seen) == mixture.sequences("train")  # of the large source too, every sequence had its turn


def test_a_mixture_is_resumed_where_it_stood(mixture):
    whole = stream(mixture, steps=1300, weights=[1.0, 3.0])

    for first in (1, 700, 1290):
        assert_same_batches(stream(mixture, steps=1300 - first, first_step=first, weights=[1.0, 3.0]), whole[first:])


def test_every_source_of_a_mixture_has_a_place_however_small_its_weight():
    assert np.bincount(mixture_pattern([1.0, 1e-9, 1e-9], seed=1)).tolist() == [9998, 1, 1]


def test_a_tf_data_service_makes_the_same_batches(data):
    dispatcher = tf.data.experimental.service.DispatchServer()
    worker = tf.data.experimental.service.WorkerServer(
        tf.data.experimental.service.WorkerConfig(dispatcher_address=dispatcher.target.split("://")[1])
    )

    served = stream(data, steps=40, service=dispatcher.target)

    assert_same_batches(served, stream(data, steps=40))
    del worker


def test_pack_texts_gives_batches_for_fit(documents, tokenizer):
    batches = list(pack_texts([*documents[:3], "  "], tokenizer, length=LENGTH, batch_size=4))

    assert {key: value.shape for key, value in batches[0].items()} == dict.fromkeys(("input_ids", "labels", "segment_ids", "position_ids"), (4, LENGTH))
    trained = sum(int(np.count_nonzero(batch["labels"].numpy() >= 0)) for batch in batches)
    assert trained == sum(len(tokenizer(text, verbose=False).input_ids) + 1 for text in documents[:3])
    with pytest.raises(ValueError, match="there is no text"):
        pack_texts([" "], tokenizer, length=LENGTH, batch_size=4)


@pytest.mark.parametrize(("given", "message"), [
    ({"texts": ["a", None]}, "pack_texts: None is no text"), ({"texts": [3]}, "pack_texts: 3 is no text"), ({"texts": "a"}, "is one text"),
    ({"texts": [" "]}, "there is no text"), ({"batch_size": 0}, "batch_size 0; give 1 or more"), ({"batch_size": 2.5}, "batch_size 2.5"),
])  # fmt: skip
def test_what_cannot_be_packed_is_told(tokenizer, given, message):
    with pytest.raises(ValueError, match=message):
        pack_texts(**({"texts": ["some text"], "tokenizer": tokenizer, "length": 16, "batch_size": 2} | given))


def test_no_thread_tunes_what_sleeps_when_its_iterator_is_deleted(data, documents, tokenizer):
    made = (training_batches(data, BATCH, 1), evaluation_batches(data, "train", BATCH), pack_texts(documents[:3], tokenizer, LENGTH, BATCH))

    assert [batches.options().autotune.enabled for batches in made] == [False] * 3
