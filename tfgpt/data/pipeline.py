"""Shards as `tf.data` batches, in an order that the seed alone decides, and that can be entered at any step.

Where a run stands in its data is its step: the batches from step n on are the same whether steps 0 to n - 1 were seen or not. So a checkpoint
needs no more than the step, whatever the number of workers.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral

import numpy as np
import tensorflow as tf

from tfgpt.data.encode import SequenceMaker, SplitCounts
from tfgpt.data.examples import Example
from tfgpt.data.shards import ShardedData
from tfgpt.recipe import DataConfig
from tfgpt.text.bpe import GPT2TokenizerFast
from tfgpt.text.encode import BatchEncoder

SHUFFLE_BUFFER = 16_384
"""Sequences the shuffle holds in memory, as they were stored; a smaller corpus is shuffled whole."""
SHARDS_AT_ONCE = 8
"""Shards whose sequences are interleaved."""
TURN = 16
"""Sequences taken from one shard before the next has its turn."""
AHEAD = 2
"""Batches made while others are worked on."""
CHOICES = 10_000
"""Sequences in which a mixture's shares are met exactly."""


def training_batches(
    data: ShardedData,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    weights: Sequence[float] = (),
    worker: int = 0,
    workers: int = 1,
    service: str = "",
) -> tf.data.Dataset:
    """Return the endless stream of training batches, from `first_step` on.

    Every pass over the data is shuffled anew, by seed and number of the pass alone. A batch may span two passes; no sequence is left out.
    A global seed of TensorFlow's (`tf.random.set_seed`) enters the order too: set none, or the same one whenever a run goes on.

    Args:
        data: the shards.
        batch_size: sequences in a batch over all workers.
        seed: of the order.
        first_step: batches to pass over.
        weights: of the sources of a mixture; their shares of the sequences are in proportion. Empty = one pass takes each sequence once.
        worker: number of this worker, from 0; each takes its rows of every batch.
        workers: how many there are; a divisor of `batch_size`.
        service: address of a tf.data service dispatcher whose worker, one, makes the batches; empty = made here.

    Returns:
        Dicts of `input_ids`, `labels`, `segment_ids`, `position_ids`, int32 [batch_size / workers, length] each; with an encoder its side too.

    Raises:
        ValueError: `workers` does not divide `batch_size`, or there is no such worker.
    """
    if batch_size % workers or not 0 <= worker < workers:
        raise ValueError(f"train.global_batch_size: {batch_size} sequences cannot be dealt to {workers} workers, of which this is number {worker}; "
                         f"set it to a multiple of {workers}")
    first_sequence = first_step * batch_size
    if weights:
        groups = sorted({shard["group"] for shard in data.of("train")})
        pattern = mixture_pattern([weights[group] for group in groups], seed)
        taken = [_count(pattern, number, first_sequence) for number in range(len(groups))]
        streams = [_passes(data, group, seed + 1009 * group, start) for group, start in zip(groups, taken)]
        turns = tf.data.Dataset.range(first_sequence, np.iinfo(np.int64).max).map(lambda place: tf.gather(pattern, place % CHOICES))
        records = tf.data.Dataset.choose_from_datasets(streams, turns, stop_on_empty_dataset=False)
    else:
        records = _passes(data, None, seed, first_sequence)
    mine = slice(worker * batch_size // workers, (worker + 1) * batch_size // workers)
    layout = data.layout
    batches = _mapped(records.batch(batch_size, drop_remainder=True), lambda batch: layout.parse(batch[mine]))
    if service:
        batches = batches.apply(tf.data.experimental.service.distribute(tf.data.experimental.service.ShardingPolicy.OFF, service))
    return ready(batches)


def evaluation_batches(data: ShardedData, split: str, batch_size: int) -> tf.data.Dataset:
    """Return one pass over a split, in the order it was stored, the last batch as small as it comes."""
    records = tf.data.TFRecordDataset(data.files(split), compression_type="GZIP")
    return ready(_mapped(records.batch(batch_size), data.layout.parse))


def _mapped(batches, function):
    """Return the batches that a function makes of some; rewriting it by AutoGraph would take half a second."""
    return batches.map(tf.autograph.experimental.do_not_convert(function), num_parallel_calls=tf.data.AUTOTUNE)


def ready(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Return batches of which `AHEAD` are made while others are worked on, without TensorFlow's tuning of such numbers.

    Its thread sleeps for up to a minute between two looks, and can miss that its iterator is deleted: `fit` then returns as much later. Without it
    `tf.data.AUTOTUNE` of `map` and `interleave` is the number of processors, at most 16, which is enough for what only reads and parses.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(AHEAD).with_options(options)


def pack_texts(texts: Iterable[str], tokenizer: GPT2TokenizerFast, length: int, batch_size: int, seed: int = 1) -> tf.data.Dataset:
    """Return texts as packed batches in memory, for `fit` and `evaluate`: one pass, shuffled anew each time by `seed`.

    Args:
        texts: the documents; one without any text is left out.
        tokenizer: gives their tokens.
        length: tokens in a sequence; the model's context at most.
        batch_size: sequences in a batch; the last batch is as small as it comes.
        seed: of the order.

    Returns:
        Dicts of `input_ids`, `labels`, `segment_ids` and `position_ids`, int32 [batch, length] each.

    Raises:
        ValueError: no text, or what is none; a size of batches that is none.
    """
    if isinstance(texts, str):
        raise ValueError("pack_texts: texts is one text; give a list of documents, such as [text]")
    texts = list(texts)
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise ValueError(f"pack_texts: {wrong[0]!r} is no text; give a list of documents, such as [text]")
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise ValueError(f"pack_texts: batch_size {batch_size!r}; give 1 or more sequences")
    examples = [Example(((text, True),), place="") for text in texts if text.strip()]
    if not examples:
        raise ValueError("pack_texts: there is no text; give one document at least")
    maker = SequenceMaker(DataConfig(path="texts", length=length), BatchEncoder(tokenizer), tokenizer.eos_token_id)
    blocks = list(maker.sequences(examples, length, SplitCounts()))
    arrays = {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}
    return ready(tf.data.Dataset.from_tensor_slices(arrays).shuffle(len(arrays["labels"]), seed=seed).batch(batch_size))


def mixture_pattern(weights: Sequence[float], seed: int) -> np.ndarray:
    """Return which source each of `CHOICES` sequences comes from, int64 [CHOICES], in shuffled order; every source has one place at least.

    >>> np.bincount(mixture_pattern([3, 1], seed=1)).tolist()
    [7500, 2500]
    """
    counts = np.diff(np.rint(np.cumsum([0.0, *weights]) / np.sum(weights) * CHOICES).astype(int))
    counts[counts.argmax()] -= np.count_nonzero(counts == 0)
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), np.maximum(counts, 1)))


def _count(pattern, number, until):
    """Return how many of the first `until` sequences come from a source."""
    whole, rest = divmod(until, CHOICES)
    return whole * int(np.count_nonzero(pattern == number)) + int(np.count_nonzero(pattern[:rest] == number))


def _passes(data, group, seed, first_sequence) -> tf.data.Dataset:
    """Return the endless passes over the training part, as stored records, without the first ones."""
    files, sequences = tf.constant(data.files("train", group)), data.sequences("train", group)
    first_pass, offset = divmod(first_sequence, sequences)
    small = sequences <= SHUFFLE_BUFFER
    stored = tf.data.TFRecordDataset(files, compression_type="GZIP").cache() if small else None

    def one_pass(number):
        if small:
            return stored.shuffle(sequences, seed=seed * 1_000_003 + number, reshuffle_each_iteration=False)
        order = tf.data.Dataset.from_tensor_slices(tf.random.experimental.stateless_shuffle(files, seed=[seed, number]))
        read = order.interleave(lambda file: tf.data.TFRecordDataset(file, compression_type="GZIP"), cycle_length=SHARDS_AT_ONCE, block_length=TURN,
                                num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return read.shuffle(SHUFFLE_BUFFER, seed=seed * 1_000_003 + number, reshuffle_each_iteration=False)

    return tf.data.Dataset.range(first_pass, np.iinfo(np.int64).max).flat_map(one_pass).skip(offset)
