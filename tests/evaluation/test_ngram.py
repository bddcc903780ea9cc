"""The n-gram baseline against a direct, slow computation of modified Kneser-Ney."""
import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from tfgpt.evaluation.ngram import FALLBACK_DISCOUNTS, NgramModel

END = 0


def random_documents(count, vocab, seed):
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, vocab)
    return [rng.choice(np.arange(1, vocab), rng.integers(1, 30), p=weights / weights.sum()).tolist() for _ in range(count)]


class Direct:
    """Modified Kneser-Ney as Chen & Goodman write it, with dictionaries of tuples and a recursion."""

    def __init__(self, documents, order, vocab):
        self.order, self.vocab = order, vocab
        self.counts = [None] + [Counter() for _ in range(order)]
        for document in documents:
            padded = [END] * (order - 1) + document + [END]
            for place in range(order - 1, len(padded)):
                self.counts[order][tuple(padded[place - order + 1 : place + 1])] += 1
        for n in range(order - 1, 0, -1):
            self.counts[n] = Counter(gram[1:] for gram in self.counts[n + 1])  # in how many contexts, not how often
        self.after = [None] + [defaultdict(list) for _ in range(order)]
        self.discounts = [None]
        for n in range(1, order + 1):
            for gram, count in self.counts[n].items():
                self.after[n][gram[:-1]].append(count)
            self.discounts.append(self._discounts(Counter(self.counts[n].values())))

    @staticmethod
    def _discounts(of):
        if not all(of[k] for k in (1, 2, 3, 4)):
            return FALLBACK_DISCOUNTS
        y = of[1] / (of[1] + 2 * of[2])
        found = [k - (k + 1) * y * of[k + 1] / of[k] for k in (1, 2, 3)]
        return [0, *found] if all(0 < d < k for d, k in zip(found, (1, 2, 3))) else FALLBACK_DISCOUNTS

    def probability(self, history, token, n=None):
        n = self.order if n is None else n
        if n == 0:
            return 1 / self.vocab
        history = tuple(history)[len(history) - (n - 1) :] if n > 1 else ()
        lower = self.probability(history[1:], token, n - 1)
        beside = self.after[n][history]
        if not beside:
            return lower
        discount = self.discounts[n]
        count = self.counts[n][(*history, token)]
        left = sum(discount[min(other, 3)] for other in beside)
        return (count - discount[min(count, 3)] + left * lower) / sum(beside)


@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.parametrize("count", [4, 300])  # too small to estimate discounts, and large enough
def test_the_loss_equals_the_direct_computation(order, count):
    vocab = 12
    train, held_out = random_documents(count, vocab, seed=1), random_documents(20, vocab, seed=2)
    direct = Direct(train, order, vocab)

    loss, tokens = NgramModel(train, order, vocab, END).summed_loss(held_out)

    expected = 0.0
    for document in held_out:
        padded = [END] * (order - 1) + document + [END]
        expected -= sum(math.log(direct.probability(padded[place - order + 1 : place], padded[place])) for place in range(order - 1, len(padded)))
    assert tokens == sum(len(document) + 1 for document in held_out)
    assert loss == pytest.approx(expected, rel=1e-9)


def test_the_direct_probabilities_sum_to_one():
    direct = Direct(random_documents(300, 12, seed=1), 3, 12)

    for history in ([0, 0], [1, 2], [11, 11], [3, 1]):
        assert sum(direct.probability(history, token) for token in range(12)) == pytest.approx(1.0)


def test_a_text_it_has_seen_is_likelier_than_its_reverse():
    document = random_documents(1, 30, seed=3)[0] * 5

    model = NgramModel([document], 5, 30, END)

    assert model.summed_loss([document])[0] < 0.5 * model.summed_loss([document[::-1]])[0]


def test_a_longer_history_helps_on_real_text(documents, tokenizer):
    lists = tokenizer(documents, verbose=False).input_ids
    train, held_out = lists[10:], lists[:10:3]

    losses = [NgramModel(train, order, len(tokenizer), END).summed_loss(held_out)[0] for order in (2, 3, 5)]

    assert losses[0] > losses[1] > losses[2]


def test_the_probabilities_of_the_next_token_are_those_that_texts_are_scored_by():
    documents, held_out = random_documents(60, 12, seed=5), random_documents(6, 12, seed=6)
    model = NgramModel(documents, order=4, vocab=12, end_of_text=END)

    loss = 0.0
    for document in held_out:
        for place, token in enumerate([*document, END]):
            found = model.next_token(document[:place])
            assert found.sum() == pytest.approx(1.0)
            loss -= math.log(found[token])

    assert loss == pytest.approx(model.summed_loss(held_out)[0])
