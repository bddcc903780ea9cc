"""The byte-level BPE inside the graph: strings to ids and back with TensorFlow's own ops alone, so that a SavedModel holds it.

Gives the ids of `GPT2TokenizerFast`. Splitting works on code points and a table of their classes taken from the Rust tokenizer itself, not
on RE2, whose Unicode tables differ and which has no look-ahead. Nothing here grows with the text it has seen.
"""
from __future__ import annotations

import contextlib
import functools
import json
import re

import numpy as np
import tensorflow as tf
from tokenizers import Regex, pre_tokenizers
from transformers import GPT2TokenizerFast
from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

OTHER, LETTER, NUMBER, WHITESPACE = range(4)
NO_MERGE = np.iinfo(np.int64).max
BORDER = b"\xff"
"""Marks where a special token stands; no byte of a valid UTF-8 text."""


class GraphTokenizer(tf.Module):
    """A GPT-2-style tokenizer as a `tf.Module`, for use inside a `tf.function` and a SavedModel.

    Args:
        tokenizer: the Python tokenizer whose twin this is; it must be byte-level BPE with GPT-2's split pattern and no prefix space.
        device: that its operations are kept on, such as /CPU:0; "" = where TensorFlow puts them. Strings are on the host anyway, but on a machine with a
            GPU the many small operations between them would go there and back.

    Raises:
        ValueError: a tokenizer that works in another way.

    >>> twin = GraphTokenizer(tokenizer)
    >>> twin.tokenize(tf.constant(["Hello there"])).to_list() == [tokenizer("Hello there").input_ids]
    True
    """

    def __init__(self, tokenizer: GPT2TokenizerFast, device: str = ""):
        super().__init__(name="tokenizer")
        self._device = device
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        _check_twin_exists(state)
        vocab = tokenizer.get_vocab()
        special = {token["content"]: token["id"] for token in state["added_tokens"]}
        self.end_of_text = int(tokenizer.eos_token_id)
        self._special_pattern = "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True))
        self._special_ids = _string_table(special)
        letters = bytes_to_unicode()
        self._byte_ids = tf.constant([vocab[letters[byte]] for byte in range(256)], tf.int64)
        self._width = max(vocab.values()) + 1
        self._merges, self._merged = self._merge_tables(state["model"]["merges"], vocab)
        self._classes = tf.constant(code_point_classes())
        byte_of = {letter: byte for byte, letter in letters.items()}
        texts = [b""] * self._width
        for token, number in vocab.items():
            texts[number] = b"" if token in special else bytes(byte_of[letter] for letter in token)
        self.texts = tf.constant(texts)
        """string [vocab]; the bytes of each token, none of a special one."""

    @property
    def tables(self) -> list[tf.lookup.StaticHashTable]:
        """What its functions look up, and a SavedModel of them must hold."""
        return [self._special_ids, self._merges]

    def _merge_tables(self, merges, vocab):
        """Return the tables pair of ids -> rank of its merge, and rank -> id of the merged token."""
        pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]
        keys = [vocab[left] * self._width + vocab[right] for left, right in pairs] or [-1]  # characters of one byte need no merge, a table one row
        ranks = tf.lookup.KeyValueTensorInitializer(tf.constant(keys, tf.int64), tf.range(len(keys), dtype=tf.int64))
        merged = [vocab[left + right] for left, right in pairs] or [0]
        return tf.lookup.StaticHashTable(ranks, NO_MERGE), tf.constant(merged, tf.int64)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string)])
    def tokenize(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Return the ids, int32 [batch, (tokens)], of UTF-8 strings [batch]; special tokens inside the text become their ids.

        Bytes that are no UTF-8 are read as U+FFFD.
        """
        with self._placed():
            return self._tokenize(text)

    def _placed(self):
        return tf.device(self._device) if self._device else contextlib.nullcontext()

    def _tokenize(self, text):
        marked = tf.strings.regex_replace(as_unicode(text), self._special_pattern, BORDER + rb"\0" + BORDER)
        pieces = tf.strings.split(marked, BORDER)                              # [batch, (pieces)]
        special = self._special_ids.lookup(pieces.values)                      # [pieces], -1 = ordinary text
        is_special = special >= 0
        words, word_piece = self._split_words(tf.where(is_special, "", pieces.values))
        ids, owner = self._encode_words(words, word_piece)
        piece_count = tf.size(special, out_type=tf.int64)
        of_words = tf.RaggedTensor.from_value_rowids(ids, owner, nrows=piece_count, validate=False)
        of_special = tf.RaggedTensor.from_row_lengths(tf.boolean_mask(special, is_special), tf.cast(is_special, tf.int64), validate=False)
        by_piece = tf.concat([of_special, of_words], axis=1)                   # a piece is one or the other
        return tf.cast(tf.RaggedTensor.from_row_splits(by_piece, pieces.row_splits, validate=False).merge_dims(1, 2), tf.int32)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None], tf.int32)])
    def detokenize(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the texts, UTF-8 [batch], of int32 [batch, length].

        Special tokens and numbers outside the vocabulary give no text; bytes that are no UTF-8 become U+FFFD.
        """
        return as_unicode(self.joined(ids))

    def joined(self, ids: tf.Tensor) -> tf.Tensor:
        """Return what `detokenize` does as bytes, string [batch], before they are made UTF-8."""
        with self._placed():
            known = tf.logical_and(ids >= 0, ids < self._width)
            return tf.strings.reduce_join(tf.where(known, tf.gather(self.texts, tf.where(known, ids, 0)), ""), axis=1)

    def _split_words(self, pieces):
        """Split texts [pieces] as GPT-2's pattern does; return the words as strings [words] and the piece of each, int64 [words]."""
        points = tf.strings.unicode_decode(pieces, "UTF-8", errors="replace")  # [pieces, (characters)]
        starts = _word_starts(points.values, tf.gather(self._classes, points.values), points.value_rowids())
        at = tf.where(starts)[:, 0]                                            # [words]
        words = tf.RaggedTensor.from_row_starts(points.values, at, validate=False)
        return tf.strings.unicode_encode(words, "UTF-8"), tf.gather(points.value_rowids(), at)

    def _encode_words(self, words, word_piece):
        """Return the ids of all words, int64 [tokens], and the piece each belongs to, int64 [tokens]; equal words are merged once."""
        distinct, which = tf.unique(words, out_idx=tf.int64)
        merged = self._merge(distinct)                                         # [distinct words, (tokens)]
        ids = tf.gather(merged, which)                                         # [words, (tokens)]
        return ids.values, tf.repeat(word_piece, ids.row_lengths())

    def _merge(self, words):
        """Apply the merges to each word [words], the lowest rank first; return ids, int64 [words, (tokens)]."""
        text = tf.strings.unicode_decode(words, "ISO-8859-1")                  # one number a byte
        ids, word = tf.gather(self._byte_ids, text.values), text.value_rowids()
        count = tf.size(words, out_type=tf.int64)

        def step(ids, word, _):
            same = word[:-1] == word[1:]
            ranks = self._merges.lookup(ids[:-1] * self._width + ids[1:])
            ranks = tf.where(same, ranks, NO_MERGE)                            # [tokens - 1]
            best = tf.gather(tf.math.unsorted_segment_min(ranks, word[:-1], count), word[:-1])
            chosen = tf.logical_and(ranks == best, ranks < NO_MERGE)
            chosen = tf.logical_and(chosen, _even_in_run(chosen))              # a a a: the first pair only
            left = tf.concat([chosen, [False]], axis=0)                        # [tokens]
            right = tf.concat([[False], chosen], axis=0)
            new = tf.gather(self._merged, tf.where(chosen, ranks, 0))
            ids = tf.where(left, tf.concat([new, [0]], axis=0), ids)
            return tf.boolean_mask(ids, ~right), tf.boolean_mask(word, ~right), tf.reduce_any(chosen)

        unknown = tf.TensorShape([None])
        ids, word, _ = tf.while_loop(lambda ids, word, more: more, step, [ids, word, tf.size(ids) > 1],
                                     shape_invariants=[unknown, unknown, tf.TensorShape([])])
        return tf.RaggedTensor.from_value_rowids(ids, word, nrows=count, validate=False)


def as_unicode(text: tf.Tensor) -> tf.Tensor:
    """Return bytes, string [batch], as UTF-8; those that are none become U+FFFD."""
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")


def _check_twin_exists(state):
    """Refuse a tokenizer, given as its JSON, that is not what this module computes."""
    split = state["pre_tokenizer"] or {}
    found = {
        "model": state["model"]["type"],
        "normalizer": state["normalizer"],
        "pre_tokenizer": split.get("type"),
        "add_prefix_space": split.get("add_prefix_space"),
        "use_regex": split.get("use_regex", True),
    }
    wanted = {"model": "BPE", "normalizer": None, "pre_tokenizer": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    if found != wanted:
        raise ValueError(f"this tokenizer has no twin in the graph: it has {found}, and only {wanted} (GPT-2's way) has one")
    for token in state["added_tokens"]:
        odd = [key for key in ("single_word", "lstrip", "rstrip") if token[key]] + ([] if token["special"] else ["special: false"])
        if odd:
            raise ValueError(f"this tokenizer has no twin in the graph: its added token {token['content']!r} has {', '.join(odd)}")
    if len(bytes_to_unicode().values() - state["model"]["vocab"].keys()):
        raise ValueError("this tokenizer has no twin in the graph: its vocabulary lacks some of the 256 bytes")


def _string_table(ids):
    initializer = tf.lookup.KeyValueTensorInitializer(tf.constant(list(ids)), tf.constant(list(ids.values()), tf.int64))
    return tf.lookup.StaticHashTable(initializer, default_value=-1)


LOOKED_AT = ((0, 0xD800), (0xE000, 0x40000), (0xE0000, 0xF0000))
"""Code points that may be letters, numbers or white space: no string holds a surrogate, planes 4 to 13 are empty and 15 and 16 for private use.
Asking for those too would take three times as long."""


@functools.lru_cache(maxsize=1)
def code_point_classes() -> np.ndarray:
    """Return the class of each code point, uint8 [0x110000], as the regular expressions of `tokenizers` see it."""
    points = [point for span in LOOKED_AT for point in range(*span)]
    text = "".join(map(chr, points))
    classes = np.full(0x110000, OTHER, np.uint8)
    for kind, pattern in ((LETTER, r"\p{L}+"), (NUMBER, r"\p{N}+"), (WHITESPACE, r"\s+")):
        matches = np.ones(len(points), bool)
        for _, (start, end) in pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(text):
            matches[start:end] = False
        classes[np.asarray(points)[matches]] = kind
    return classes


def _word_starts(points, classes, rows):
    """Tell where a word of GPT-2's pattern begins, bool [characters], from each character and a few beside it.

    The pattern: 's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+.
    A run of one class is a word; of a run of white space before a word the last character stands apart, and if it is a space it begins
    that word.

    Args:
        points: int32 [characters], code points of all texts, one text after the other.
        classes: uint8 [characters].
        rows: int64 [characters], the text each belongs to.
    """
    previous, following = _neighbour(points, rows, -1), _neighbour(points, rows, 1)
    classes = tf.cast(classes, tf.int32)
    class_before, class_after = _neighbour(classes, rows, -1), _neighbour(classes, rows, 1)  # -1 at the ends of a text
    white, white_before = classes == WHITESPACE, class_before == WHITESPACE
    last_of_white_run = (class_after != WHITESPACE) & (class_after >= 0)
    starts_word = tf.where(white_before, previous != ord(" "), classes != class_before)
    starts = (class_before < 0) | tf.where(white, ~white_before | last_of_white_run, starts_word)

    apostrophe = (points == ord("'")) & (class_before != OTHER) & (previous != ord(" "))     # else it belongs to the word before it
    after_next = _neighbour(points, rows, 2)
    short = apostrophe & _any_of(following, "stmd")
    long = apostrophe & (((_any_of(following, "rv")) & (after_next == ord("e"))) | ((following == ord("l")) & (after_next == ord("l"))))
    inside = _later(short, 1) | _later(long, 1) | _later(long, 2)
    return (starts & ~inside) | _later(short, 2) | _later(long, 3)


def _neighbour(values, rows, offset):
    """Return the value `offset` places on within the same row, -1 outside it."""
    moved, moved_rows = tf.roll(values, -offset, axis=0), tf.roll(rows, -offset, axis=0)
    place = tf.range(tf.size(values)) + offset
    return tf.where((moved_rows == rows) & (place >= 0) & (place < tf.size(values)), moved, -1)


def _later(flags, places):
    """Move flags `places` on; what leaves at the end is gone."""
    return tf.concat([tf.zeros([places], tf.bool), flags], axis=0)[: tf.size(flags)]


def _any_of(points, letters):
    return functools.reduce(tf.logical_or, [points == ord(letter) for letter in letters])


def _even_in_run(flags):
    """Keep the first, third, fifth... of each run of true flags."""
    place = tf.range(tf.size(flags))
    first = flags & ~_later(flags, 1)
    starts = tf.concat([[0], tf.boolean_mask(place, first)], axis=0)
    since = place - tf.gather(starts, tf.cumsum(tf.cast(first, tf.int32)))
    return flags & (since % 2 == 0)
