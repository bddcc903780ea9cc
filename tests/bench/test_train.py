import dataclasses
import itertools

import numpy as np
import pytest

from tfgpt import cli
from tfgpt.bench.train import run, run_on_texts
from tfgpt.bench.trainers import IGNORED, Settings, dataset, packed_batches, padded_batches

TINY = Settings(layers=1, width=16, heads=2, vocab=300, length=32, batch=4, precision="float32")


@pytest.fixture
def settings(tmp_path, tokenizer, documents):
    """Of real lines, of which one is longer than the context."""
    lines = [line.strip() for text in documents[:40] for line in text.splitlines() if line.strip()]
    (tmp_path / "texts.txt").write_text("\n".join(lines), "utf-8")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return Settings(1, 16, 2, len(tokenizer), 32, 4, texts=str(tmp_path / "texts.txt"), tokenizer=str(tmp_path / "tokenizer")), lines


@pytest.mark.parametrize("to_longest", [False, True])
def test_padded_batches_hold_a_text_a_row_with_the_next_tokens_as_labels(settings, tokenizer, to_longest):
    given, lines = dataclasses.replace(settings[0], batch=2), settings[1]
    expected = {(*tokenizer(line).input_ids, tokenizer.eos_token_id)[:32] for line in lines}

    widths = set()
    for batch in itertools.islice(padded_batches(given, to_longest), 200):
        widths.add(batch["labels"].shape[1])
        for inputs, labels in zip(batch["input_ids"], batch["labels"]):
            trained = labels[labels != IGNORED]
            assert tuple(trained) in expected
            np.testing.assert_array_equal(inputs[: len(trained)], [tokenizer.eos_token_id, *trained[:-1]])
    assert widths == ({16, 32} if to_longest else {32})


def test_packed_batches_are_full_and_endless(settings):
    given, _ = settings

    batches = list(itertools.islice(packed_batches(given), 300))

    assert {batch["labels"].shape for batch in batches} == {(4, 32)}
    assert np.mean([batch["segment_ids"] > 0 for batch in batches]) > 0.95


@pytest.mark.parametrize("batches_of", [packed_batches, lambda given: padded_batches(given, to_longest=True)])
def test_this_packages_sides_get_the_batches_as_they_are_and_again(settings, batches_of):
    batches = list(itertools.islice(batches_of(settings[0]), 5))

    given = list(dataset(settings[0], batches).take(7).as_numpy_iterator())

    for batch, expected in zip(given, batches + batches[:2], strict=True):
        assert batch.keys() == expected.keys()
        for key, values in expected.items():
            np.testing.assert_array_equal(batch[key], values)


@pytest.mark.slow
def test_the_sides_take_turns_and_count_useful_tokens(documents):
    peers = run(TINY, rounds=2, steps=2, sides=("tfgpt", "transformers"))
    texts = [line for text in documents[:60] for line in text.splitlines() if line.strip()]
    batchings = run_on_texts(texts, TINY, rounds=2, steps=3)

    assert set(peers) == {"tfgpt", "transformers"} and peers["tfgpt"]["to_first"] == 1.0
    for row in peers.values():
        assert row["tokens_per_second"] * row["milliseconds"] / 1000 == pytest.approx(4 * 32, rel=0.5)  # medians of two turns each
        assert row["peak_megabytes"] > 300
    assert set(batchings) == {"tfgpt", "padded to the length", "padded to the longest"}
    tokens = {side: row["tokens_per_second"] * row["milliseconds"] / 1000 for side, row in batchings.items()}
    assert tokens["tfgpt"] > 1.5 * tokens["padded to the length"]  # lines of ten tokens in rows of 32


@pytest.mark.slow
def test_a_side_that_ends_is_told():
    with pytest.raises(RuntimeError, match="the side nobody ended: .*KeyError: 'nobody'"):
        run(TINY, rounds=1, steps=1, sides=("nobody",))


def test_too_few_texts_are_refused(tmp_path, capsys):
    (tmp_path / "few.txt").write_text("one\ntwo\n")

    assert cli.main(["bench", "train", "--texts", str(tmp_path / "few.txt")]) == cli.USAGE
    assert "few.txt has 2 texts; give a file of 8 or more, one a line" in capsys.readouterr().err
    assert cli.main(["bench", "train", "--texts", str(tmp_path / "none.txt")]) == cli.USAGE
