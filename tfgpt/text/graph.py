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
ONE_TOKEN = "."
"""Stands for a special token while the texts are made tokens: any character of one byte is one token, whatever the vocabulary."""


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
        split = tf.raw_ops.StringSplitV2(input=marked, sep=BORDER)
        pieces, text_of_piece = split.values, split.indices[:, 0]              # [pieces]
        special = self._special_ids.lookup(pieces)                             # [pieces], -1 = ordinary text
        words, piece_of_word = self._split_words(tf.where(special >= 0, ONE_TOKEN, pieces))
        ids, piece = self._encode_words(words, piece_of_word)                  # [tokens]
        special = tf.gather(special, piece)
        ids = tf.cast(tf.where(special >= 0, special, ids), tf.int32)
        return tf.RaggedTensor.from_value_rowids(ids, tf.gather(text_of_piece, piece), nrows=tf.size(text, tf.int64), validate=False)

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

    # Below are raw operations where TensorFlow has a function around one: that takes texts and rows of any rank, by dozens of operations more, and each
    # signature of a served version holds this graph.

    def _split_words(self, pieces):
        """Split texts [pieces] as GPT-2's pattern does; return the words as strings [words] and the piece of each, int64 [words]."""
        text = tf.raw_ops.UnicodeDecode(input=pieces, input_encoding="UTF-8", errors="replace")
        points, piece = text.char_values, _rows(text.row_splits)               # [characters]
        at = _places(_word_starts(points, tf.gather(self._classes, points), piece))  # [words]
        ends = tf.concat([at, [tf.size(points, tf.int64)]], axis=0)
        return tf.raw_ops.UnicodeEncode(input_values=points, input_splits=ends, output_encoding="UTF-8"), tf.gather(piece, at)

    def _encode_words(self, words, piece_of_word):
        """Return the ids of all words, int64 [tokens], and the piece each belongs to, int64 [tokens]; equal words are merged once."""
        distinct, which = tf.unique(words, out_idx=tf.int64)
        ids, splits = self._merge(distinct)
        of_words = tf.raw_ops.RaggedGather(params_nested_splits=[splits], params_dense_values=ids, indices=which, OUTPUT_RAGGED_RANK=1)
        return of_words.output_dense_values, tf.gather(piece_of_word, _rows(of_words.output_nested_splits[0]))

    def _merge(self, words):
        """Apply the merges to each word [words], the lowest rank first; return ids, int64 [tokens], and where each word's begin, int64 [words + 1]."""
        text = tf.raw_ops.UnicodeDecode(input=words, input_encoding="ISO-8859-1")  # one number a byte
        ids, word = tf.gather(self._byte_ids, text.char_values), _rows(text.row_splits)
        count = tf.size(words, tf.int64)

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
            kept = _places(~right)
            return tf.gather(ids, kept), tf.gather(word, kept), tf.reduce_any(chosen)

        unknown = tf.TensorShape([None])
        ids, word, _ = tf.while_loop(lambda ids, word, more: more, step, [ids, word, tf.size(ids) > 1],
                                     shape_invariants=[unknown, unknown, tf.TensorShape([])])
        return ids, tf.searchsorted(word, tf.range(count + 1), out_type=tf.int64)


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
CLASS_PATTERNS = {LETTER: r"\p{L}+", NUMBER: r"\p{N}+", WHITESPACE: r"\s+"}


@functools.lru_cache(maxsize=1)
def code_point_classes() -> np.ndarray:
    """Return the class of each code point, uint8 [0x110000], as the regular expressions of `tokenizers` see it."""
    points = [point for span in LOOKED_AT for point in range(*span)]
    alike = pre_tokenizers.Split(Regex("|".join(CLASS_PATTERNS.values())), "isolated").pre_tokenize_str("".join(map(chr, points)))
    sizes = [end - start for _, (start, end) in alike]
    classes = np.full(0x110000, OTHER, np.uint8)
    classes[points] = np.repeat(_classes_of("".join(run[0] for run, _ in alike)), sizes)
    return classes


def _classes_of(text: str) -> np.ndarray:
    """Return the class of each character, uint8 [characters]."""
    classes = np.full(len(text), OTHER, np.uint8)
    for kind, pattern in CLASS_PATTERNS.items():
        matches = np.ones(len(text), bool)
        for _, (start, end) in pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(text):
            matches[start:end] = False
        classes[matches] = kind
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
    row_before, row_behind = _beside(rows)
    follows, precedes = row_before == rows, row_behind == rows               # in the same text there is one before it, one behind it

    def neighbours(values):
        before, behind = _beside(values)
        return tf.where(follows, before, -1), tf.where(precedes, behind, -1)

    previous, following = neighbours(points)
    classes = tf.cast(classes, tf.int32)
    class_before, class_after = neighbours(classes)                            # -1 at the ends of a text
    white, white_before = classes == WHITESPACE, class_before == WHITESPACE
    last_of_white_run = (class_after != WHITESPACE) & (class_after >= 0)
    starts_word = tf.where(white_before, previous != ord(" "), classes != class_before)
    starts = (class_before < 0) | tf.where(white, ~white_before | last_of_white_run, starts_word)

    apostrophe = (points == ord("'")) & (class_before != OTHER) & (previous != ord(" "))  # else it belongs to the word before it
    _, after_next = neighbours(following)
    short = apostrophe & _any_of(following, "stmd")
    long = apostrophe & (((_any_of(following, "rv")) & (after_next == ord("e"))) | ((following == ord("l")) & (after_next == ord("l"))))
    in_long = _moved(long, 1)
    inside = _moved(short | long | in_long, 1)
    return (starts & ~inside) | _moved(short | in_long, 2)


def _beside(values):
    """Return what stands before each number and behind it; -1 at the ends."""
    padded = tf.concat([[-1], values, [-1]], axis=0)
    return padded[:-2], padded[2:]


def _moved(flags, places):
    """Move flags `places` on; what leaves at the end is gone."""
    return tf.concat([[False] * places, flags], axis=0)[:-places]


def _rows(splits):
    """Return the row that each value stands in, int64 [values], from where the rows begin and the last one ends, int64 [rows + 1]."""
    return tf.searchsorted(splits, tf.range(splits[-1]), side="right", out_type=tf.int64) - 1


def _places(flags):
    """Return where flags are true, int64 [true ones]."""
    return tf.where(flags)[:, 0]


def _any_of(points, letters):
    return functools.reduce(tf.logical_or, [points == ord(letter) for letter in letters])


def _even_in_run(flags):
    """Keep the first, third, fifth... of each run of true flags."""
    place = tf.range(tf.size(flags, tf.int64))
    first = flags & ~_moved(flags, 1)
    starts = tf.concat([[0], _places(first)], axis=0)
    since = place - tf.gather(starts, tf.cumsum(tf.cast(first, tf.int32)))
    return flags & (since % 2 == 0)
