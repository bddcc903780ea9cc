import numpy as np
import pytest

from tfgpt.data.packing import IGNORED, best_fit, cut_document, pack

LENGTH = 16


def documents(count=60, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 1000, rng.integers(1, 50)).tolist() for _ in range(count)]


def segments(sequence):
    """Take a packed sequence apart again: (inputs, labels, positions) of each segment."""
    for number in range(1, sequence["segment_ids"].max() + 1):
        inside = sequence["segment_ids"] == number
        yield sequence["input_ids"][inside], sequence["labels"][inside], sequence["position_ids"][inside]


@pytest.mark.parametrize("stride", [1, 5, LENGTH // 2, LENGTH])
def test_each_token_is_a_label_once_whatever_the_stride(stride):
    for ids in documents():
        pieces = cut_document(ids, end_of_text=0, length=LENGTH, stride=stride)

        labels = np.concatenate([piece.labels for piece in pieces])
        assert labels[labels != IGNORED].tolist() == [*ids, 0]
        for piece in pieces:
            np.testing.assert_array_equal(piece.inputs[1:][piece.labels[:-1] != IGNORED], piece.labels[:-1][piece.labels[:-1] != IGNORED])


def test_overlapping_pieces_give_a_label_the_history_that_the_stride_promises():
    pieces = cut_document(list(range(1, 100)), end_of_text=0, length=LENGTH, stride=4)

    for piece in pieces[1:]:
        assert np.count_nonzero(piece.labels == IGNORED) >= LENGTH - 4


def test_packing_keeps_every_piece_whole_and_adds_only_padding():
    pieces = [piece for ids in documents() for piece in cut_document(ids, 0, LENGTH, LENGTH)]

    sequences = list(pack(pieces, LENGTH))

    unpacked = [(inputs.tolist(), labels.tolist()) for sequence in sequences for inputs, labels, _ in segments(sequence)]
    assert sorted(unpacked) == sorted((piece.inputs.tolist(), piece.labels.tolist()) for piece in pieces)
    for sequence in sequences:
        assert {key: (value.shape, value.dtype) for key, value in sequence.items()} == dict.fromkeys(
            ("input_ids", "labels", "segment_ids", "position_ids"), ((LENGTH,), np.int32)
        )
        assert (sequence["labels"][sequence["segment_ids"] == 0] == IGNORED).all()
        for inputs, _, positions in segments(sequence):
            assert positions.tolist() == list(range(len(inputs)))


def test_packing_in_small_windows_loses_nothing_either():
    pieces = [piece for ids in documents() for piece in cut_document(ids, 0, LENGTH, LENGTH)]

    sequences = list(pack(iter(pieces), LENGTH, window=7))

    assert sum(len(list(segments(sequence))) for sequence in sequences) == len(pieces)


def test_best_fit_wastes_little():
    sizes = np.random.default_rng(2).integers(1, 200, 5000).tolist()

    bins = best_fit(sizes, capacity=256)

    assert sorted(item for members in bins for item in members) == list(range(5000))
    assert max(sum(sizes[item] for item in members) for members in bins) <= 256
    assert sum(sizes) / (256 * len(bins)) > 0.99


def test_an_item_larger_than_a_bin_is_refused():
    with pytest.raises(ValueError, match="9 tokens is longer than a sequence of 8"):
        best_fit([3, 9], capacity=8)
