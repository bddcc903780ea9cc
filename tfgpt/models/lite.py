"""A model that LiteRT runs: on a CPU the fastest way to read, score and write, with weights in float32 or int8.

TensorFlow runs one small operation after another, and that, not the matrix products, takes most of a token's time on a CPU; LiteRT's XNNPACK kernels
leave little between the products.
"""
from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfgpt.heap import give_back_freed
from tfgpt.models.adaptation import Adaptation
from tfgpt.models.causal_lm import GPTLMHeadModel
from tfgpt.models.checkpoint import config_in
from tfgpt.models.lite_file import LiteWriter, Table, write_lite

EMBEDDINGS, SCALES = "embeddings.npy", "embedding_scales.npy"
"""Files beside a model that was written: `Table.values` and `Table.scale`."""
CHUNK = 128
"""Tokens that are read at once at most: attention's memory grows with their number times that of all before."""
ROOM = 32
"""Slots that a cache gets to spare, or a quarter of what it holds: too many cost time at each token, too few have it made anew often."""


class KnownTokens(NamedTuple):
    """What stands for a cache in a graph: the tokens themselves, whose keys and values `LiteModel` keeps or reads anew."""

    ids: tf.Tensor
    """int32 [batch, slots]; the token at each position that was read."""


class LiteModel:
    """A language model behind LiteRT; it reads as `GPTLMHeadModel` does, but is neither trained nor saved.

    The keys and values of the tokens it read last stay in LiteRT's memory. Which they are is looked up by the tokens themselves: a row goes on from
    the longest beginning that any row there has in common with it. So any order of calls gives the same numbers; only the time differs.

    Args:
        model: a `GPTLMHeadModel` in float32, of which a copy is taken.
        weights: `float32` or `int8` (see `tfgpt.models.lite_file`).
        threads: of the CPU; 0 = one for each core that this process may use.

    Raises:
        ValueError: weights or a model that cannot be had so.

    >>> from tfgpt.generation.text_model import TextModel
    >>> TextModel(LiteModel(model), tokenizer).generate(["It was"])[0].text == TextModel(model, tokenizer).generate(["It was"])[0].text
    True
    """

    all_variables, encoder, head = (), None, None

    def __init__(self, model, weights: str = "float32", threads: int = 0):
        with _file_for_a_while() as path:
            self._begin(path, write_lite(model, path, weights), model.config, threads)

    @classmethod
    def load(cls, source: str | Path, weights: str = "float32", threads: int = 0) -> LiteModel:
        """Load a model whose matrices go from its files to LiteRT's one by one.

        Args:
            source: folder or hub id, as for `GPTLMHeadModel.from_pretrained`.
            weights: as above.
            threads: as above.

        Raises:
            FileNotFoundError: no such model, or no weights.
            ValueError: as above, and as `GPTLMHeadModel.from_pretrained`.
        """
        with _file_for_a_while() as path:
            writer, model = LiteWriter(path, weights), cls.__new__(cls)
            config = GPTLMHeadModel.from_pretrained(source, store_as=writer.keeper).config
            give_back_freed()                                                             # of GPT-2 124M's conversion 100 MB
            model._begin(path, writer.finish(), config, threads)
        return model

    @classmethod
    def open(cls, folder: str | Path, threads: int = 0) -> LiteModel:
        """Open a model that `tfgpt.serving.lite_export` has written.

        Args:
            folder: with config.json, model.tflite, embeddings.npy and embedding_scales.npy.
            threads: as above.

        Raises:
            FileNotFoundError: one of them is missing.
        """
        folder, model = Path(folder), cls.__new__(cls)
        table = Table(*(np.load(folder / name, mmap_mode="r") for name in (EMBEDDINGS, SCALES)))
        model._begin(folder / "model.tflite", table, config_in(folder), threads)
        return model

    def _begin(self, path, table, config, threads):
        self.config, self._table, self._lock = config, table, threading.Lock()
        self._session = _Session(Path(path).resolve(), threads or len(os.sched_getaffinity(0)), config)

    def empty_cache(self, batch: int | tf.Tensor, slots: int | tf.Tensor) -> KnownTokens:
        """Return what `read` takes before anything is read, with room for `slots` tokens in each of `batch` rows."""
        return KnownTokens(tf.zeros([batch, slots], tf.int32))

    def fit_cache(self, cache: KnownTokens, slots: tf.Tensor) -> KnownTokens:
        """Return a cache with room for its first `slots` tokens alone."""
        return KnownTokens(cache.ids[:, :slots])

    def own_cache(self, cache: KnownTokens, rows: tf.Tensor | None = None) -> KnownTokens:
        """Return a cache of these rows, int32 [n], or of all."""
        return cache if rows is None else KnownTokens(tf.gather(cache.ids, rows))

    def read(self, ids: tf.Tensor, positions: tf.Tensor, last: tf.Tensor, cache: KnownTokens | None) -> tuple[tf.Tensor, KnownTokens | None]:
        """Read tokens, as `GPTLMHeadModel.read` does."""
        known = self.empty_cache(tf.shape(ids)[0], 0) if cache is None else cache
        logits, kept = tf.numpy_function(self._read, [ids, positions, last, known.ids], [tf.float32, tf.int32], stateful=False)
        logits.set_shape([ids.shape[0], last.shape[1], self.config.vocab_size])
        kept.set_shape(known.ids.shape)
        return logits, None if cache is None else KnownTokens(kept)

    def _read(self, ids, positions, last, known):
        if not ids.size:
            return np.zeros([*last.shape, self.config.vocab_size], np.float32), known
        start, width = positions[:, 0], int(last.max(initial=0)) + 1                      # what is behind the last that is asked for is padding
        ids = ids[:, :width] if last.size else ids
        with self._lock:
            self._hold(known, start)
            logits = self._read_behind(ids, start, last, room=known.shape[1])
        slots = start[:, np.newaxis] + np.arange(ids.shape[1])
        row, column = np.nonzero(slots < known.shape[1])
        known = known.copy()
        known[row, slots[row, column]] = ids[row, column]
        return logits, known

    def _hold(self, known, start):
        """See to it that the first tokens of each row, `start` of `known`, int32 [batch, slots], are in the session."""
        tokens = known[:, : start.max()]
        wanted = np.arange(tokens.shape[1]) < start[:, np.newaxis]                        # [batch, tokens]
        if self._session.holds(tokens, wanted):
            return
        have = self._session.take_over(tokens, wanted)
        if (missing := start - have).any():
            place = have[:, np.newaxis] + np.arange(missing.max())
            ids = np.take_along_axis(known, np.minimum(place, known.shape[1] - 1), axis=1)
            self._read_behind(ids, have, np.zeros([len(ids), 0], np.int32), room=known.shape[1])

    def _read_behind(self, ids, start, last, room):
        """Read tokens, int32 [batch, width], behind the first `start` tokens of each row, of which there will be `room`; return the logits."""
        logits = None
        for first in range(0, ids.shape[1], CHUNK):
            chunk = ids[:, first : first + CHUNK]
            here = (last >= first) & (last < first + chunk.shape[1])                      # [batch, wanted]
            columns = np.flatnonzero(here.any(axis=0))
            asked = np.clip(last[:, columns] - first, 0, chunk.shape[1] - 1) if len(columns) else np.zeros([len(ids), 1], int)
            found = self._session.run(self._table.rows(chunk), chunk, start + first, asked, room)
            if here.all():
                return found
            if logits is None:
                logits = np.zeros([*last.shape, self.config.vocab_size], np.float32)
            row, column = np.nonzero(here[:, columns])
            logits[row, columns[column]] = found[row, column]
        return logits


@contextlib.contextmanager
def _file_for_a_while():
    """Give the path of a file. Who maps it into memory has it for as long as that lasts, even without a name."""
    with tempfile.TemporaryDirectory(prefix="tfgpt-lite-") as folder:
        yield Path(folder) / "model.tflite"


class _Session:
    """LiteRT's interpreter and the keys and values in its memory: those of the first tokens of some rows."""

    def __init__(self, path, threads, config):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated", category=UserWarning)  # the TensorFlow asked for here has it
            self._interpreter = tf.lite.Interpreter(str(path), num_threads=threads)
        self._path, self._mapped = path, None
        tensors = (*self._interpreter.get_input_details(), *self._interpreter.get_output_details())
        self._numbers = {tensor["name"]: tensor["index"] for tensor in tensors}
        self._views = {name: self._interpreter.tensor(number) for name, number in self._numbers.items()}
        self._config, self._window = config, Adaptation.of(config).window
        shapes = {tensor["name"]: tensor["shape_signature"] for tensor in self._interpreter.get_input_details()}
        self._cached = {name: (int(shape[1]), int(shape[3])) for name, shape in shapes.items() if name.startswith(("key_", "value_"))}
        self._kept = [(self._views[name], self._views[f"new_{name}"]) for name in self._cached]
        self._ids = np.zeros([0, 0], np.int32)                                            # [rows, slots]; -1 = nothing is there
        self._shape, self._aside = None, {}

    def holds(self, tokens, wanted):
        """Tell whether the rows here begin with these tokens, int32 [batch, tokens], where wanted, bool of the same shape."""
        if len(tokens) != len(self._ids) or tokens.shape[1] > self._ids.shape[1]:
            return False
        return not (wanted & (tokens != self._ids[:, : tokens.shape[1]])).any()

    def take_over(self, tokens, wanted):
        """Become these rows, each with the longest beginning that it has in common with any row here; return its length, int [batch]."""
        common = min(tokens.shape[1], self._ids.shape[1])
        source, have = np.zeros(len(tokens), int), np.zeros(len(tokens), int)
        for row, ids in enumerate(self._ids):
            alike = np.logical_and.accumulate(wanted[:, :common] & (tokens[:, :common] == ids[:common]), axis=1).sum(axis=1)
            source, have = np.where(alike > have, row, source), np.maximum(alike, have)
        longest = have.max()
        self._aside = {name: self._values(name)[source, :, :longest] if longest else None for name in self._cached}
        self._ids = np.where(np.arange(longest) < have[:, np.newaxis], tokens[:, :longest], -1)
        return have

    def run(self, embeddings, ids, start, last, room):
        """Read tokens behind the first ones of each row, and keep them.

        Args:
            embeddings: float32 [batch, width, model's width], of the tokens.
            ids: int32 [batch, width], the tokens.
            start: int [batch], tokens before them, which are here.
            last: int [batch, wanted].
            room: tokens that a row will have.

        Returns:
            The logits, float32 [batch, wanted, vocab].
        """
        batch, width = ids.shape
        self._reshape(batch, width, last.shape[1], needed=int(start.max()) + width, room=room)
        slots, place = np.arange(self._ids.shape[1]), start[:, np.newaxis] + np.arange(width)
        behind = np.iinfo(place.dtype).max                                                # of every token: nobody sees an empty slot
        keys = np.concatenate([np.where(slots < start[:, np.newaxis], slots, behind), place], axis=1)
        distance = place[:, :, np.newaxis] - keys[:, np.newaxis]                          # [batch, width, slots + width]
        seen = distance >= 0
        if self._window:
            seen &= distance < self._window
        positions = np.minimum(place, self._config.n_positions - 1)                       # of padding too
        alike = (start == start[0]).all()
        given = {"embeddings": embeddings, "positions": positions, "last": last, "seen": seen}
        for name, array in given.items():
            self._views[name]()[...] = array
        self._interpreter.invoke()
        row, first = np.arange(batch)[:, np.newaxis], int(start[0])
        for cached, new in self._kept:  # no view of the interpreter's memory outlives a line, or it does not run
            if alike:
                cached()[:, :, first : first + width] = new()
            else:
                cached()[row, :, place] = new().transpose(0, 2, 1, 3)
        self._ids[slots >= start[:, np.newaxis]] = -1                                     # what stood there was read behind other tokens
        self._ids[row, place] = ids
        return self._views["logits"]().copy()

    def _values(self, name):
        """Return the keys or values of a layer, float32 [rows, heads, slots, head width]: those set aside, or a view that must soon go."""
        return self._aside[name] if self._aside else self._views[name]()

    def _reshape(self, batch, width, wanted, needed, room):
        """Give the interpreter its shapes, with `needed` slots at least, `room` if that is not many more; what is in its memory survives."""
        free = self._shape[3] if self._shape and self._shape[0] == batch else 0
        sizes = (free, room, -(-(needed + max(ROOM, needed // 4)) // 16) * 16)
        slots = next(size for size in sizes if needed <= size <= 2 * needed + 2 * ROOM)
        shape = (batch, width, wanted, slots)
        if not self._aside and shape == self._shape:
            return
        used = min(int((self._ids >= 0).any(axis=0).sum()), slots)
        if not self._aside:
            self._aside = {name: self._values(name)[:, :, :used].copy() if used else None for name in self._cached}
        if shape != self._shape:
            self._shape = None                                                            # should there be no memory for the new one
            self._resize(*shape)
        for name in self._cached if used else ():
            self._views[name]()[:, :, :used] = self._aside[name][:, :, :used]
        self._ids = np.pad(self._ids[:, :slots], [[0, 0], [0, max(slots - self._ids.shape[1], 0)]], constant_values=-1)
        self._shape, self._aside = shape, {}

    def _resize(self, batch, width, wanted, slots):
        shapes = {"embeddings": [batch, width, self._config.n_embd], "positions": [batch, width], "seen": [batch, width, slots + width],
                  "last": [batch, wanted]} | {name: [batch, heads, slots, head_width] for name, (heads, head_width) in self._cached.items()}
        for name, shape in shapes.items():
            self._interpreter.resize_tensor_input(self._numbers[name], shape)
        self._interpreter.allocate_tensors()
        if self._mapped is None:
            self._mapped = _addresses(self._path)
        _let_go(self._mapped)                                                             # XNNPACK has read it all, and keeps what it needs
        for name in self._cached:
            self._views[name]()[...] = 0.0                                                # an empty slot's value is multiplied by 0, so it must be finite


def _addresses(path):
    """Return where this process has a file mapped, each a first and a last address; nothing where that cannot be known."""
    if sys.platform != "linux":
        return []
    found = []
    for line in Path("/proc/self/maps").read_text("utf-8", "surrogateescape").splitlines():
        addresses, *_, name = line.split(maxsplit=5)
        if name.removesuffix(" (deleted)") == str(path):
            found.append(tuple(int(address, 16) for address in addresses.split("-")))
    return found


def _let_go(mapped):
    """Let the system take back this memory, in which a file is mapped; what is read of it again comes from the file."""
    for start, end in mapped:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
