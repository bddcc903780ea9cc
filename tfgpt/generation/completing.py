"""Words that a language model expects where somebody is typing: exactly those that begin with what is typed, over the borders of tokens.

What is typed of a word is seldom a token of its own: the model has read "the l" and "ist" as other tokens than "the list". So it reads the text as far as the
word that is being typed, and what this begins with is a condition on the tokens from there on; these are weighed as they were trained.
"""
from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfgpt.generation.beginnings import LEAST_SHARE, MOST_PIECES, MOST_WAYS, Beginnings
from tfgpt.generation.reading import Reader

LETTER, NUMBER, SPACE, OTHER = range(4)


class Expected(NamedTuple):
    """A word that may be meant."""

    text: str
    """All of it, with the space before it if there is one."""
    probability: float
    """Of this word, or one that begins with its tokens, given what is typed; 0 to 1."""
    ids: tuple[int, ...]


class WordCompleter:
    """Finds the words that may be meant at the end of a text, which may grow and shrink.

    Args:
        reader: of the model.
        tokenizer: of the model, byte-level.
        texts: bytes of each token.
    """

    def __init__(self, reader: Reader, tokenizer, texts: Sequence[bytes]):
        self.reader, self._tokenizer = reader, tokenizer
        self._texts = texts
        self._beginnings = Beginnings(texts)
        self._first = np.array([kind_of(text.decode("utf-8", "replace")[:1]) for text in texts])
        self.committed: tuple[int, ...] | None = None
        """The tokens of the text before the last word that was completed."""
        self._behind: dict[tuple[int, ...], np.ndarray] = {}

    def fresh(self) -> WordCompleter:
        """Return one for another text, in no time."""
        other = copy.copy(self)
        other.reader, other.committed, other._behind = self.reader.fresh(), None, {}
        return other

    def text_of(self, token: int) -> str:
        """Return the text of a token; of one that the vocabulary does not have nothing."""
        return self._texts[token].decode("utf-8", "replace") if token < len(self._texts) else ""

    def words(self, text: str, most: int) -> tuple[str, list[Expected]]:
        """Return what is typed of the last word, with the space before it, and the likeliest words that begin so, the likeliest first.

        Args:
            text: all of it.
            most: how many words.
        """
        committed, partial = self.parted(text)
        if committed != self.committed:
            self._behind = {(): self.reader.read(committed)}
            self.committed = committed
        begun = self._beginnings.find(partial.encode(), self._look)
        return partial, self._whole(begun, most)

    def parted(self, text: str) -> tuple[tuple[int, ...], str]:
        """Return the tokens of a text as far as its last word, and what is typed of that word: what may still become another token."""
        if text and text[-1].isspace():
            start = len(text) - 1 if text[-1] == " " else len(text)
        else:
            pieces = self._tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
            start = pieces[-1][1][0] if pieces else 0
        return tuple(self._tokenizer(text[:start]).input_ids), text[start:]

    def _whole(self, begun, most):
        """Return the likeliest whole words that begin with some tokens: a beam search that ends each word where the next token is none of it."""
        total = np.logaddexp.reduce([before for _, before in begun]) if begun else 0.0
        done: list[tuple[tuple[int, ...], float]] = []
        for _ in range(MOST_PIECES):
            if not begun:
                break
            self._look([ids for ids, _ in begun])
            further = []
            for ids, before in begun:
                log_probs, goes_on = self._behind[ids], self._first == self._last_kind(ids)
                inside = np.flatnonzero(goes_on)
                ends = float(np.log(max(1.0 - np.exp(log_probs[inside]).sum(dtype=np.float64), 1e-12)))
                done.append((ids, before + ends))
                best = inside[np.argpartition(-log_probs[inside], min(MOST_WAYS, len(inside) - 1))[:MOST_WAYS]] if len(inside) else inside
                further += [((*ids, int(number)), before + float(log_probs[number])) for number in best]
            done = sorted(done, key=lambda way: -way[1])[: max(most, MOST_WAYS)]
            least = max(done[0][1] + np.log(LEAST_SHARE), done[most - 1][1] if len(done) >= most else -np.inf)
            begun = sorted((way for way in further if way[1] > least), key=lambda way: -way[1])[:MOST_WAYS]
        words: dict[str, Expected] = {}
        for ids, log_prob in done:
            text = b"".join(self._texts[number] for number in ids).decode("utf-8", "replace")
            if text.strip() and "\ufffd" not in text and text not in words:
                words[text] = Expected(text, float(np.exp(log_prob - total)), ids)
        return list(words.values())[:most]

    def _last_kind(self, ids):
        return kind_of(self._texts[ids[-1]].decode("utf-8", "replace")[-1:])

    def _look(self, ways):
        """Return the log-probabilities behind each of some ways on from the text; those that have not been read are."""
        new = [ids for ids in ways if ids not in self._behind]
        for ids, log_probs in zip(new, self.reader.ahead(new) if new else ()):
            self._behind[ids] = log_probs
        return [self._behind[ids] for ids in ways]


def kind_of(character: str) -> int:
    """Return which kind a character is of; words are runs of one kind, as the tokenizer splits them. A part of a character is taken for a letter."""
    if character.isspace() or not character:
        return SPACE
    if character.isalpha() or character == "\ufffd":
        return LETTER
    return NUMBER if character.isnumeric() else OTHER
