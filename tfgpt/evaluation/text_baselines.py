"""What a head must beat on the same texts: always the most frequent answer, and a linear model on TF-IDF counts of words."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from tfgpt.data.examples import Example
from tfgpt.evaluation.judging import Findings
from tfgpt.models.adaptation import Head
from tfgpt.models.heads import names_of

MOST_TEXTS = 100_000
"""That the linear model is trained on, the first ones of the training part."""
REGRESSION = {"C": 10.0, "max_iter": 1000}
"""Of the logistic regression; with TF-IDF, whose rows are of length 1, scikit-learn's own C of 1 holds it back too much."""


def most_frequent(head: Head, train: Iterable[Example], held_out: list[Example]) -> Findings:
    """Find the same of every text: the share of each class in the training part, or the mean of its numbers."""
    train = list(train)
    right, text = _right(head, held_out)
    learned, _ = _right(head, train)
    if head.kind == "number":
        return Findings(head, right, np.full(len(right), learned.mean()), text)
    if head.kind == "labels":
        return Findings(head, right, np.tile((learned.sum(axis=0) + 0.5) / (len(learned) + 1.0), [len(right), 1]), text)
    outputs = max(example.answer_count for example in (*train, *held_out)) if head.kind == "choice" else len(head.labels)
    shares = (np.bincount(learned, minlength=outputs) + 0.5) / (len(learned) + 0.5 * outputs)
    return Findings(head, right, np.tile(shares, [len(right), 1]), text)


def linear(head: Head, train: Iterable[Example], held_out: list[Example]) -> tuple[str, Findings]:
    """Return the name and the findings of a linear model; for tags those of the most frequent tag of each word."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier  # here: what has no head would wait a second for them

    train = [example for example, _ in zip(train, range(MOST_TEXTS))]
    right, text = _right(head, held_out)
    learned, _ = _right(head, train)
    if head.kind == "tags":
        return "each word's most frequent tag", Findings(head, right, _by_word(head, train, held_out), text)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    if head.kind == "choice":
        return "TF-IDF and logistic regression on each choice", Findings(head, right, _by_choice(vectorizer, train, held_out), text)
    counts, held_counts = vectorizer.fit_transform([example.text for example in train]), vectorizer.transform([example.text for example in held_out])
    if head.kind == "number":
        return "TF-IDF and ridge regression", Findings(head, right, Ridge().fit(counts, learned).predict(held_counts), text)
    name = "TF-IDF and logistic regression"
    if head.kind == "labels":
        varies = learned.any(axis=0) & ~learned.all(axis=0)
        found = np.tile(learned.mean(axis=0), [len(right), 1])
        if varies.any():
            # one regression a label, of which verse has hundreds: on sparse rows liblinear finds the same in a third of the time
            model = OneVsRestClassifier(LogisticRegression(solver="liblinear", **REGRESSION)).fit(counts, learned[:, varies])
            found[:, varies] = model.predict_proba(held_counts)[:, -varies.sum() :]       # of a single label also the column of its absence comes
        return name, Findings(head, right, found, text)
    found = np.zeros([len(right), len(head.labels)])
    classes = np.unique(learned)
    found[:, classes] = LogisticRegression(**REGRESSION).fit(counts, learned).predict_proba(held_counts) if len(classes) > 1 else 1.0
    return name, Findings(head, right, found, text)


def _right(head, examples) -> tuple[np.ndarray, np.ndarray]:
    """Return what is right (see `Findings`), and the text of each."""
    places = {label: place for place, label in enumerate(head.labels)}
    if head.kind == "tags":
        tags = [(places[tag], text) for text, example in enumerate(examples) for tag in example.tags if tag is not None]
        return tuple(np.array(tags, np.int64).reshape(-1, 2).T)
    text = np.arange(len(examples))
    if head.kind == "choice":
        return np.array([example.answer for example in examples], np.int64), text
    if head.kind == "number":
        return np.array([float(example.label) for example in examples]), text
    if head.kind == "classes":
        return np.array([places[example.label] for example in examples], np.int64), text
    right = np.zeros([len(examples), len(places)], bool)
    for row, example in zip(right, examples):
        row[[places[name] for name in names_of(example.label)]] = True
    return right, text


def _by_word(head, train, held_out):
    """Return how often each word had each tag, as probabilities, float64 [words, tags]; all tags together stand behind it, for words never seen."""
    places = {label: place for place, label in enumerate(head.labels)}
    overall, of_word = np.full(len(places), 0.5), {}
    for word, tag in _words(train):
        overall[places[tag]] += 1
        of_word.setdefault(word, Counter())[places[tag]] += 1
    rows = []
    for word, _ in _words(held_out):
        row = overall / overall.sum()
        for place, count in of_word.get(word, {}).items():
            row[place] += count
        rows.append(row / row.sum())
    return np.array(rows)


def _words(examples):
    for example in examples:
        yield from ((text.strip(), tag) for (text, _), tag in zip(example.parts, example.tags) if tag is not None)


def _by_choice(vectorizer, train, held_out):
    """Return the probability of each choice, float64 [questions, most choices], by a regression that tells right choices from wrong ones."""
    from sklearn.linear_model import LogisticRegression

    texts = [[text for text, _ in example.parts[1:]] for example in train]
    right = [number == example.answer for example, choices in zip(train, texts) for number in range(len(choices))]
    model = LogisticRegression(**REGRESSION).fit(vectorizer.fit_transform([text for choices in texts for text in choices]), right)
    found = np.zeros([len(held_out), max(example.answer_count for example in held_out)])
    for row, example in zip(found, held_out):
        scores = np.exp(model.decision_function(vectorizer.transform([text for text, _ in example.parts[1:]])))
        row[: len(scores)] = scores / scores.sum()
    return found
