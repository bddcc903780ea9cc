"""Packed sequences as compressed TFRecord shards, with an index that knows every shard's size and checksum.

A record holds the ids, the labels and the segment numbers of one sequence, two bytes a token while the vocabulary allows; positions are
counted anew when it is read.
"""
from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfgpt.files import sha256_of_file, write_json
from tfgpt.recipe import DataConfig

INDEX = "index.json"
SMALL_IDS = 65_535
"""Vocabularies under this many tokens are stored in two bytes; this number itself stands for a label that is not trained on."""
COMPRESSION_LEVEL = 1
"""Of gzip: higher levels take four times as long for a tenth less."""


@dataclass(frozen=True)
class Layout:
    """What a record holds."""

    length: int
    """Tokens in a sequence."""
    encoder_length: int
    """Tokens of the encoder's side; 0 = there is none."""
    small: bool
    """Whether a token takes two bytes and not four."""

    @classmethod
    def of(cls, config: DataConfig, vocab: int) -> Layout:
        """Return the layout that a recipe's data has."""
        encoder_length = (config.source_length or config.length) if config.examples == "translation" else 0
        return cls(config.length, encoder_length, vocab < SMALL_IDS)

    @property
    def fields(self) -> tuple[tuple[str, int], ...]:
        """Name and length of what a record holds, in order."""
        decoder = [(key, self.length) for key in ("input_ids", "labels", "segment_ids")]
        encoder = [(f"encoder_{key}", self.encoder_length) for key in ("input_ids", "segment_ids")] if self.encoder_length else []
        return (*decoder, *encoder)

    def to_records(self, block: dict[str, np.ndarray]) -> np.ndarray:
        """Return a block of sequences as records, one a row."""
        rows = np.concatenate([block[key] for key, _ in self.fields], axis=1)
        return np.where(rows < 0, SMALL_IDS, rows).astype("<u2") if self.small else rows.astype("<i4")

    def parse(self, records: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return records, string [batch], as packed batches, int32 [batch, length]."""
        kind = tf.uint16 if self.small else tf.int32
        rows = tf.cast(tf.io.decode_raw(records, kind, little_endian=True), tf.int32)
        lengths = [length for _, length in self.fields]
        rows = tf.ensure_shape(rows, [None, sum(lengths)])
        batch = dict(zip([key for key, _ in self.fields], tf.split(rows, lengths, axis=1)))
        if self.small:
            batch["labels"] = tf.where(batch["labels"] == SMALL_IDS, -100, batch["labels"])
        for side in ("", "encoder_") if self.encoder_length else ("",):
            batch[f"{side}position_ids"] = _positions(batch[f"{side}segment_ids"])
        return batch


class ShardWriter:
    """Writes shards into a folder, and at the end their index.

    Args:
        folder: that exists.
        layout: of the records.
    """

    def __init__(self, folder: Path, layout: Layout):
        self._folder, self._layout = folder, layout
        self.shards: list[dict] = []
        """What the index says of each shard written so far."""

    def write(self, split: str, group: int, number: int, blocks: Iterable[dict[str, np.ndarray]]) -> None:
        """Write sequences as one shard; none, if there is no sequence.

        Args:
            split: train, validation or test.
            group: of the mixture's sources; 0 where they are not weighed.
            number: of the shard in its split and group.
            blocks: of sequences (see `pack`).
        """
        name = f"{split}-{group:02d}-{number:06d}.tfrecord.gz"
        path, sequences = self._folder / name, 0
        with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions("GZIP", compression_level=COMPRESSION_LEVEL)) as writer:
            for block in blocks:
                records = self._layout.to_records(block)
                sequences += len(records)
                for record in records:
                    writer.write(record.tobytes())
        if sequences:
            self.shards.append({"file": name, "split": split, "group": group, "sequences": sequences,
                                 "bytes": path.stat().st_size, "sha256": sha256_of_file(path)})
        else:
            path.unlink()

    def close(self) -> None:
        """Write the index."""
        write_index(self._folder, self._layout, self.shards)


def write_index(folder: Path, layout: Layout, shards: list[dict]) -> None:
    """Write the index of the shards in a folder."""
    write_json(folder / INDEX, {"layout": asdict(layout), "shards": sorted(shards, key=lambda shard: shard["file"])})


class ShardedData:
    """The shards of a folder, of which the sizes are checked at once.

    Args:
        folder: with an index.

    Raises:
        FileNotFoundError: no index, or a shard that it names is not there.
        RuntimeError: a shard that has not the size it was written with.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / INDEX).is_file():
            raise FileNotFoundError(f"{self.folder}: no {INDEX}; prepare the data first: tfgpt data prepare RECIPE.yaml")
        index = json.loads((self.folder / INDEX).read_text("utf-8"))
        self.layout, self.shards = Layout(**index["layout"]), index["shards"]
        for shard in self.shards:
            path = self.folder / shard["file"]
            if not path.is_file():
                raise FileNotFoundError(f"{path}: the shard is gone; remove {self.folder} and prepare the data again")
            if path.stat().st_size != shard["bytes"]:
                raise RuntimeError(f"{path}: {path.stat().st_size} bytes, but {shard['bytes']} were written; the shard was cut short or changed: "
                                 f"remove {self.folder} and prepare the data again")

    def of(self, split: str, group: int | None = None) -> list[dict]:
        """Return the index's entries of a split, and of one group if it is given."""
        return [shard for shard in self.shards if shard["split"] == split and group in (None, shard["group"])]

    def files(self, split: str, group: int | None = None) -> list[str]:
        """Return the paths of a split's shards.

        Raises:
            FileNotFoundError: there is none.
        """
        files = [str(self.folder / shard["file"]) for shard in self.of(split, group)]
        if not files:
            raise FileNotFoundError(f"{self.folder} has no shard of {split}; prepare the data again with a share for it")
        return files

    def sequences(self, split: str, group: int | None = None) -> int:
        """Return how many sequences a split has."""
        return sum(shard["sequences"] for shard in self.of(split, group))

    def check(self) -> None:
        """Read every shard and compare it with its checksum.

        Raises:
            RuntimeError: a shard that does not hold what was written.
        """
        for shard in self.shards:
            path = self.folder / shard["file"]
            if sha256_of_file(path) != shard["sha256"]:
                raise RuntimeError(f"{path}: its SHA-256 is not the one in {INDEX}; the shard was changed: remove {self.folder} and prepare the data again")


def _positions(segments):
    """Return the place of each token in its segment, and 0 in padding, int32 [batch, length]."""
    rising = tf.where(segments > 0, segments, segments.dtype.max)              # padding is at the end
    first = tf.searchsorted(rising, rising)                                    # [batch, length], where each token's segment begins
    return tf.where(segments > 0, tf.range(tf.shape(segments)[1]) - first, 0)
