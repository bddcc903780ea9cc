"""Packed sequences as compressed TFRecord shards, and back as batches in an order that the seed alone decides."""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

KEYS = ("input_ids", "labels", "segment_ids", "position_ids")
SEQUENCES_PER_SHARD = 8192
SHUFFLE_BUFFER = 16_384
"""Sequences the shuffle holds in memory; a smaller corpus is shuffled whole."""


def write_shards(sequences: Iterable[dict[str, np.ndarray]], folder: Path, split: str) -> int:
    """Write sequences to `<split>-00000.tfrecord.gz`, `<split>-00001...` and return how many there were."""
    count, writer = 0, None
    for sequence in sequences:
        if count % SEQUENCES_PER_SHARD == 0:
            if writer:
                writer.close()
            writer = tf.io.TFRecordWriter(str(folder / f"{split}-{count // SEQUENCES_PER_SHARD:05d}.tfrecord.gz"), options="GZIP")
        writer.write(np.stack([sequence[key] for key in KEYS]).astype("<i4").tobytes())
        count += 1
    if writer:
        writer.close()
    return count


def read_sequences(folder: str | Path, split: str, length: int) -> tf.data.Dataset:
    """Return the packed sequences of a split in the order they were written: dicts of int32 [length].

    Raises:
        FileNotFoundError: the folder has no shard of that split.
    """
    files = sorted(str(path) for path in Path(folder).glob(f"{split}-*.tfrecord.gz"))
    if not files:
        raise FileNotFoundError(f"{folder} has no shard {split}-*.tfrecord.gz; run the recipe's data stage first")

    def parse(record):
        rows = tf.reshape(tf.io.decode_raw(record, tf.int32, little_endian=True), [len(KEYS), length])
        return dict(zip(KEYS, tf.unstack(rows)))

    return tf.data.TFRecordDataset(files, compression_type="GZIP").map(parse, num_parallel_calls=tf.data.AUTOTUNE)


def training_batches(folder: str | Path, length: int, sequences: int, batch_size: int, seed: int, first_step: int = 0) -> tf.data.Dataset:
    """Return the endless stream of training batches, from `first_step` on.

    Every pass over the data is shuffled anew, by seed and number of the pass alone, so that a resumed run sees exactly the batches that it
    would have seen. A batch may span two passes; no sequence is left out.

    Args:
        folder: of the shards.
        length: tokens in a sequence.
        sequences: how many there are in the split.
        batch_size: sequences in a batch.
        seed: of the order.
        first_step: batches to pass over.

    Returns:
        Dicts of `input_ids`, `labels`, `segment_ids`, `position_ids`, int32 [batch_size, length] each.
    """
    stored = read_sequences(folder, "train", length)
    if sequences <= SHUFFLE_BUFFER:
        stored = stored.cache()
    first_pass, offset = divmod(first_step * batch_size, sequences)

    def one_pass(number):
        return stored.shuffle(min(sequences, SHUFFLE_BUFFER), seed=seed * 1_000_003 + number, reshuffle_each_iteration=False)

    passes = tf.data.Dataset.range(first_pass, np.iinfo(np.int64).max).flat_map(one_pass)
    return passes.skip(offset).batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def evaluation_batches(folder: str | Path, split: str, length: int, batch_size: int) -> tf.data.Dataset:
    """Return one pass over a split, in order, the last batch as small as it comes."""
    return read_sequences(folder, split, length).batch(batch_size).prefetch(tf.data.AUTOTUNE)
