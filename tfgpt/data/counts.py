"""How often each token occurs in the training part."""
from __future__ import annotations

import numpy as np

from tfgpt.data.pipeline import evaluation_batches
from tfgpt.data.shards import ShardedData

AT_ONCE = 256
"""Sequences in a batch."""


def token_counts(data: ShardedData, vocab: int) -> np.ndarray:
    """Return how often each token is read in the training part, int64 [vocab]; padding is not counted."""
    counts = np.zeros(vocab, np.int64)
    for batch in evaluation_batches(data, "train", AT_ONCE).as_numpy_iterator():
        counts += np.bincount(batch["input_ids"][batch["segment_ids"] > 0], minlength=vocab)
    return counts
