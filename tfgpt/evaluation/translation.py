"""How well a model writes targets from their sources: held-out pairs, beside the sources themselves as answers.

BLEU and chrF are sacrebleu's. Exact matches have a Wilson interval: where nearly all are exact, a bootstrap of them has next to no width.
"""
from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

import numpy as np

from tfgpt.data.corpus import read_corpus
from tfgpt.evaluation.evaluate import share_with_interval
from tfgpt.generation.text_model import TextModel
from tfgpt.recipe import DataConfig, RecipeError

RESAMPLES = 1000
"""Of the bootstrap (Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation")."""
SEED = 1
"""Of the resamples, so that the same answers have the same interval."""


def check_packages() -> None:
    """Refuse to begin what could not be measured in the end.

    Raises:
        RecipeError: sacrebleu is not installed.
    """
    if importlib.util.find_spec("sacrebleu") is None:
        raise RecipeError("evaluate.translations: BLEU and chrF need the package sacrebleu, which is not installed; pip install 'tfgpt[tasks]', or set "
                          "evaluate.translations to -1")


def held_out_pairs(config: DataConfig, split: str, most: int) -> list[tuple[str, str]]:
    """Return (source, target) pairs of a split.

    Args:
        config: of the data, which is read again; its examples are translations.
        split: that they are taken from.
        most: how many, evenly from beginning to end; 0 = all.
    """
    pairs = [(example.encoder_text, "".join(text for text, _ in example.parts)) for example in read_corpus(config) if example.split == split]
    return pairs if not 0 < most < len(pairs) else [pairs[place] for place in np.arange(most) * len(pairs) // most]


def evaluate_translation(text_model: TextModel, pairs: Sequence[tuple[str, str]], batch_size: int, advance: Callable[[], None] = lambda: None) -> dict:
    """Return the `metrics` of greedy answers to sources, `translated`, how many they are, and `copied`, the metrics of the sources as answers.

    Args:
        text_model: with an encoder.
        pairs: of sources and targets, one at least.
        batch_size: sources that are answered together; changes the speed alone.
        advance: called after each batch.
    """
    sources, targets = map(list, zip(*pairs))
    answers = []
    for start in range(0, len(sources), batch_size):
        rows = text_model.generate(sources[start : start + batch_size], text_model.model.config.n_positions)
        answers += [row.text for row in rows]
        advance()
    return {"translated": len(pairs), "metrics": measure(answers, targets), "copied": measure(sources, targets)}


def measure(answers: Sequence[str], targets: Sequence[str]) -> dict[str, dict]:
    """Return `exact_match` (share, 0 to 1), `chrf` and `bleu` (0 to 100), each with `value` and a 95 % `interval`.

    White space at an answer's or a target's ends does not count as a difference.

    >>> found = measure(["one two", "three four five six"], ["one two", "three four five"])
    >>> found["exact_match"]["value"], round(found["chrf"]["value"], 1)
    (0.5, 95.7)
    """
    from sacrebleu.metrics import BLEU, CHRF

    answers, targets = ([text.strip() for text in texts] for texts in (answers, targets))
    exact = sum(answer == target for answer, target in zip(answers, targets))
    return {"exact_match": share_with_interval(exact, len(targets)), "chrf": _scored(CHRF(), answers, targets), "bleu": _scored(BLEU(), answers, targets)}


def _scored(metric, answers, targets):
    """Return a metric's value and interval: it is computed from sums over all pairs, so that of a resample is one of other sums.

    The two methods are sacrebleu's own for the same purpose; its public bootstrap breaks off where a resample scores 0 (its numbers are then of two types).
    """
    of_pairs = np.array(metric._extract_corpus_statistics(answers, [targets]))             # [pairs, statistics]
    drawn = np.random.default_rng(SEED).multinomial(len(of_pairs), np.full(len(of_pairs), 1 / len(of_pairs)), RESAMPLES)
    scores = [float(metric._compute_score_from_stats(sums.tolist()).score) for sums in (of_pairs.sum(axis=0), *(drawn @ of_pairs))]
    low, high = np.percentile(scores[1:], [2.5, 97.5])
    return {"value": min(scores[0], 100.0), "interval": [min(float(low), 100.0), min(float(high), 100.0)]}
