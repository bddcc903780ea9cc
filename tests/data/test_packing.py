import numpy as np
import pytest

from tfgpt.data.packing import IGNORED, Tokens, best_fit, cut_documents, last_pieces, pack, trained_pieces

LENGTH = 16


def tokens(count=60, seed=1, longest=50):
    """Documents of random ids; each label is the next input, and the last one is 0."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, longest, count)
    inputs = rng.integers(1, 1000, sizes.sum()).astype(np.int32)
    labels = np.append(inputs[1:], 0).astype(np.int32)
    labels[np.cumsum(sizes) - 1] = 0
    return Tokens(inputs, labels, sizes)


def rows_of(blocks):
    return [dict(zip(block, row)) for block in blocks for row in zip(*block.values())]


def segments(sequence):
    """Take a packed sequence apart again: (inputs, labels, positions) of each segment."""
    for number in range(1, sequence["segment_ids"].max() + 1):
        inside = sequence["segment_ids"] == number
        yield sequence["input_ids"][inside], sequence["labels"][inside], sequence["position_ids"][inside]


@pytest.mark.parametrize("stride", [1, 5, LENGTH // 2, LENGTH])
def test_each_token_is_a_label_once_whatever_the_stride(stride):
    given = tokens()

    sequences = rows_of(pack(given, cut_documents(given.sizes, LENGTH, stride), LENGTH))

    labels = np.concatenate([sequence["labels"] for sequence in sequences])
    assert sorted(labels[labels != IGNORED]) == sorted(given.labels)
    for sequence in sequences:
        for inputs, labels, positions in segments(sequence):
            assert positions.tolist() == list(range(len(inputs)))
            trained = labels[:-1] != IGNORED
            np.testing.assert_array_equal(inputs[1:][trained], labels[:-1][trained])


def test_overlapping_pieces_give_a_label_the_history_that_the_stride_promises():
    pieces = cut_documents(np.array([100]), LENGTH, stride=4)
    sequences = rows_of(pack(Tokens(np.arange(100, dtype=np.int32), np.arange(1, 101, dtype=np.int32), np.array([100])), pieces, LENGTH))

    for sequence in sequences:
        for inputs, labels, _ in segments(sequence):
            assert inputs[0] == 0 or np.count_nonzero(labels == IGNORED) >= LENGTH - 4


def test_packing_keeps_every_piece_whole_and_adds_only_padding():
    given = tokens()
    pieces = cut_documents(given.sizes, LENGTH, LENGTH)

    blocks = list(pack(given, pieces, LENGTH))

    (block,) = blocks
    assert {key: (value.shape[1], value.dtype) for key, value in block.items()} == dict.fromkeys(
        ("input_ids", "labels", "segment_ids", "position_ids"), (LENGTH, np.int32)
    )
    unpacked = [(inputs.tolist(), labels.tolist()) for sequence in rows_of(blocks) for inputs, labels, _ in segments(sequence)]
    wanted = [(given.inputs[start : start + size].tolist(), given.labels[start : start + size].tolist()) for start, size in zip(pieces.starts, pieces.sizes)]
    assert sorted(unpacked) == sorted(wanted)
    assert (block["labels"][block["segment_ids"] == 0] == IGNORED).all()
    assert (block["input_ids"][block["segment_ids"] == 0] == 0).all()


def test_many_sequences_come_in_several_blocks_and_nothing_is_lost(monkeypatch):
    given = tokens(count=300)
    pieces = cut_documents(given.sizes, LENGTH, LENGTH // 2)
    whole = rows_of(pack(given, pieces, LENGTH))

    monkeypatch.setattr("tfgpt.data.packing.SEQUENCES_AT_ONCE", 7)
    blocks = list(pack(given, pieces, LENGTH))

    assert len(blocks) == -(-len(whole) // 7)
    for mine, other in zip(rows_of(blocks), whole, strict=True):
        for key in other:
            np.testing.assert_array_equal(mine[key], other[key])


def test_pieces_without_anything_to_train_on_are_left_out():
    labels = np.array([IGNORED] * 20 + [1] * 5 + [IGNORED] * 3, np.int32)
    given = Tokens(np.arange(28, dtype=np.int32), labels, np.array([25, 3]))

    kept = trained_pieces(given, cut_documents(given.sizes, 8, 8))

    assert kept.starts.tolist() == [16, 24]  # tokens 16 to 23 hold labels 20 to 23, the last piece holds label 24


def test_a_piece_whose_labels_were_all_trained_on_before_is_left_out():
    labels = np.array([1] * 8 + [IGNORED] * 4, np.int32)
    given = Tokens(np.arange(12, dtype=np.int32), labels, np.array([12]))

    kept = trained_pieces(given, cut_documents(given.sizes, 8, 4))

    assert kept.starts.tolist() == [0]


def test_the_last_tokens_of_a_document_are_one_piece():
    pieces = last_pieces(np.array([20, 3]), length=8)

    assert (pieces.starts.tolist(), pieces.sizes.tolist()) == ([12, 20], [8, 3])


def test_an_encoders_side_lies_beside_its_document_under_the_same_segment():
    rng = np.random.default_rng(4)
    given = tokens(count=200, longest=12)
    encoder_sizes = rng.integers(1, 20, 200)
    encoder_inputs = np.repeat(np.arange(200), encoder_sizes).astype(np.int32)  # each document's number, as often as it has tokens
    both = Tokens(given.inputs, np.repeat(np.arange(200), given.sizes).astype(np.int32), given.sizes, encoder_inputs, encoder_sizes)

    sequences = rows_of(pack(both, cut_documents(both.sizes, LENGTH, LENGTH), LENGTH, encoder_length=24))

    seen = []
    for sequence in sequences:
        for number in range(1, sequence["segment_ids"].max() + 1):
            (document,) = set(sequence["labels"][sequence["segment_ids"] == number])
            beside = sequence["encoder_input_ids"][sequence["encoder_segment_ids"] == number]
            assert beside.tolist() == [document] * encoder_sizes[document]
            seen.append(document)
    assert sorted(seen) == list(range(200))


def test_best_fit_wastes_little_and_overfills_no_bin():
    sizes = np.random.default_rng(2).integers(1, 200, 5000)

    bins, count = best_fit(sizes, capacity=256)

    filled = np.bincount(bins, weights=sizes)
    assert len(filled) == count
    assert filled.max() <= 256
    assert sizes.sum() / (256 * count) > 0.99


def test_best_fit_takes_the_fullest_bin_that_has_room():
    bins, count = best_fit(np.array([7, 6, 2, 3, 1, 1]), capacity=10)

    assert (bins.tolist(), count) == ([0, 1, 1, 0, 1, 1], 2)  # 3 beside 7, 2 beside 6, and the ones in what is left of the second


def test_an_item_larger_than_a_bin_is_refused():
    with pytest.raises(ValueError, match="9 tokens is longer than a sequence of 8"):
        best_fit(np.array([3, 9]), capacity=8)
