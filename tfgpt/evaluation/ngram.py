"""An n-gram language model with modified Kneser-Ney smoothing: the baseline that a GPT must beat.

It sees the same tokens as the GPT, in NumPy arrays: an n-gram is the pair (its first n-1 tokens as an (n-1)-gram's number, its last token).
"""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

FALLBACK_DISCOUNTS = np.array([0.0, 0.5, 1.0, 1.5])
"""For counts 0, 1, 2 and from 3 up, where a corpus is too small to estimate them."""


@dataclass(frozen=True)
class _Order:
    """The n-grams of one order."""

    keys: np.ndarray
    """int64 [n-grams], sorted: number of the first n-1 tokens x vocab + last token."""
    discounted: np.ndarray
    """float64 [n-grams]: (count - discount) / the count of all n-grams that begin alike."""
    backoff: np.ndarray
    """float64 [(n-1)-grams]: the probability that the discounts leave to the shorter history; 1 where the history was never seen."""


class NgramModel:
    """Modified Kneser-Ney, interpolated down to the uniform distribution; the vocabulary is closed, so every token has a probability.

    Documents are framed by end-of-text tokens; history never reaches across them.

    Args:
        documents: int lists, the training part.
        order: 5 = four tokens of history.
        vocab: tokens in the vocabulary.
        end_of_text: the token that fills the history before a document and ends it.

    Source: Chen & Goodman 1999, "An empirical study of smoothing techniques for language modeling", section 4.

    >>> model = NgramModel([[1, 2, 1, 2, 1, 2]], order=3, vocab=4, end_of_text=0)
    >>> loss, tokens = model.summed_loss([[1, 2, 1, 2]])
    >>> bool(loss / tokens < np.log(4)), tokens  # four tokens and the end
    (True, 5)
    """

    def __init__(self, documents: Iterable[list[int]], order: int, vocab: int, end_of_text: int):
        self._order, self._vocab, self._end = order, vocab, end_of_text
        stream, targets = self._frame(documents)
        self._orders: list[_Order] = []
        numbers = np.zeros(len(stream), np.int64)  # of the n-gram that ends at each place, order by order
        levels = []
        for _ in range(order):
            keys, first, numbers = np.unique(_shift(numbers) * vocab + stream, return_index=True, return_inverse=True)
            levels.append((keys, first, numbers))
        for n, (keys, _, numbers) in enumerate(levels):
            if n + 1 < order:  # in how many different places a shorter n-gram was seen, not how often
                longer_keys, first, longer = levels[n + 1]
                seen = np.zeros(len(longer_keys), bool)
                seen[longer[targets]] = True
                counts = np.bincount(numbers[first[seen]], minlength=len(keys))
            else:
                counts = np.bincount(numbers[targets], minlength=len(keys))
            contexts = 1 if n == 0 else len(levels[n - 1][0])
            self._orders.append(_smooth(keys, counts, contexts, vocab))

    def summed_loss(self, documents: Iterable[list[int]], counted: Iterable[list[bool]] | None = None) -> tuple[float, int]:
        """Return the summed loss in nats and the number of tokens.

        Args:
            documents: int lists.
            counted: for each document, which of its tokens, and behind them whether its end, are summed over; `None` = all.
        """
        stream, targets = self._frame(documents)
        if counted is not None:
            targets[targets] = np.concatenate([np.asarray(flags, bool) for flags in counted])
        probabilities = np.full(len(stream), 1.0 / self._vocab)
        histories = np.zeros(len(stream), np.int64)  # number of the history before each place; -1 = never seen
        for level in self._orders:
            known = histories >= 0
            keys = np.where(known, histories * self._vocab + stream, -1)
            found = np.minimum(np.searchsorted(level.keys, keys), len(level.keys) - 1)
            numbers = np.where(level.keys[found] == keys, found, -1)
            backoff = np.where(known, level.backoff[np.maximum(histories, 0)], 1.0)
            probabilities = np.where(numbers >= 0, level.discounted[found], 0.0) + backoff * probabilities
            histories = _shift(numbers, fill=-1)
        return float(-np.log(probabilities[targets]).sum()), int(targets.sum())

    def next_token(self, history: list[int]) -> np.ndarray:
        """Return the probability of each token behind a history, float64 [vocab].

        Args:
            history: ids of the document so far; what is before its beginning is filled as in training.

        >>> model = NgramModel([[1, 2, 1, 2, 1, 2]], order=3, vocab=4, end_of_text=0)
        >>> found = model.next_token([1, 2, 1])
        >>> int(found.argmax()), round(float(found.sum()), 6)
        (2, 1.0)
        """
        length = self._order - 1
        seen = [self._end] * max(length - len(history), 0) + [int(token) for token in history[-length:]]
        probabilities = np.full(self._vocab, 1.0 / self._vocab)
        for n, level in enumerate(self._orders):
            number = self._number(seen[length - n :])
            if number < 0:
                break                                                                     # a history never seen leaves all to the shorter ones
            start, end = np.searchsorted(level.keys, [number * self._vocab, (number + 1) * self._vocab])
            probabilities *= level.backoff[number]
            probabilities[level.keys[start:end] - number * self._vocab] += level.discounted[start:end]
        return probabilities

    def _number(self, gram):
        """Return the number of an n-gram, 0 of the empty one; -1 = it was never seen."""
        number = 0
        for level, token in zip(self._orders, gram):
            key = number * self._vocab + token
            number = int(np.searchsorted(level.keys, key))
            if number == len(level.keys) or level.keys[number] != key:
                return -1
        return number

    def _frame(self, documents):
        """Return the documents as one stream, int64, and which places are targets: all but the ends put before each document."""
        before = np.full(self._order - 1, self._end, np.int64)
        parts = [np.concatenate([before, np.asarray(ids, np.int64), [self._end]]) for ids in documents]
        is_target = [np.arange(len(part)) >= len(before) for part in parts]
        return np.concatenate(parts), np.concatenate(is_target)


def _shift(numbers, fill=0):
    return np.concatenate([[fill], numbers[:-1]])


def _smooth(keys, counts, contexts, vocab) -> _Order:
    discounts = _discounts(counts)[np.minimum(counts, 3)]  # [n-grams]
    context = keys // vocab                                # [n-grams]
    totals = np.bincount(context, weights=counts, minlength=contexts)
    left = np.bincount(context, weights=discounts, minlength=contexts)
    backoff = np.divide(left, totals, out=np.ones(contexts), where=totals > 0)
    discounted = np.divide(counts - discounts, totals[context], out=np.zeros(len(keys)), where=totals[context] > 0)
    return _Order(keys, discounted, backoff)


def _discounts(counts) -> np.ndarray:
    """Return the discounts of counts 0, 1, 2 and from 3 up (Chen & Goodman 1999, equation 26)."""
    n1, n2, n3, n4 = (np.count_nonzero(counts == k) for k in (1, 2, 3, 4))
    if 0 in (n1, n2, n3, n4):
        return FALLBACK_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    discounts = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    usable = (discounts[1:] > 0).all() and (discounts[1:] < [1, 2, 3]).all()  # small corpora can give estimates outside
    return discounts if usable else FALLBACK_DISCOUNTS
