"""The metrics of answers that are texts, as `Metric`s of the same texts: what another library measures is measured by it.

White space at an answer's ends never counts as a difference.
"""
from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import regex

from tfgpt.evaluation.metrics import Metric, mean, ratio
from tfgpt.recipe import RecipeError

PACKAGES = {"sacrebleu": "BLEU and chrF", "rouge_score": "ROUGE", "jiwer": "word error rates"}
"""What measures what; all are of the extra `tasks`."""
ARTICLES = re.compile(r"\b(a|an|the)\b")
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts that have no space between words; each of their characters is taken for a word."""
UNITS = regex.compile(rf"[{UNSPACED}]\p{{M}}*|[^\s{UNSPACED}]+")
WORDS = regex.compile(rf"[{UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{UNSPACED}]]+", regex.VERSION1)
"""For ROUGE."""


def check_packages(names: Iterable[str], key: str) -> None:
    """Refuse to begin what could not be measured in the end.

    Args:
        names: modules that are needed.
        key: of the recipe, by which they are.

    Raises:
        RecipeError: one is not installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise RecipeError(f"{key}: needs the package {name.replace('_', '-')} (for {PACKAGES.get(name, 'its data')}), which is not installed; "
                              "pip install 'tfgpt[tasks]'")


def normalized(answer: str) -> str:
    """Return an answer as SQuAD compares it: lower case, without punctuation, articles and spare white space; so C++ and C# are the same answer.

    Source: Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text", section 6.1; with the punctuation of all scripts, as in Lewis
    et al. 2020, "MLQA: Evaluating Cross-lingual Extractive Question Answering".

    >>> normalized(" The  Answer, (42)!"), normalized("「東京」。")
    ('answer 42', '東京')
    """
    text = "".join(character for character in answer.lower() if not _is_punctuation(character))
    return " ".join(ARTICLES.sub(" ", text).split())


def _is_punctuation(character):
    return not character.isalnum() and (unicodedata.category(character).startswith("P") or character in "$+<=>^`|~")  # of ASCII's marks these are symbols


def exact_match(answers: Sequence[str], targets: Sequence[str], normalize=str.strip) -> Metric:
    """Return the share of answers that are their targets.

    Args:
        answers: one for each target.
        targets: what is right.
        normalize: what both go through before they are compared.

    >>> exact_match(["yes ", "no"], ["yes", "yes"]).value
    0.5
    """
    return mean([float(normalize(answer) == normalize(target)) for answer, target in zip(answers, targets, strict=True)])


def word_f1(answers: Sequence[str], targets: Sequence[str]) -> Metric:
    """Return the mean F1 of the words that an answer shares with its target, normalized as SQuAD's are; two empty ones agree.

    >>> word_f1(["in the red house"], ["a red house"]).value
    0.8
    """
    return mean([_word_f1(*(UNITS.findall(normalized(text)) for text in pair)) for pair in zip(answers, targets, strict=True)])


def _word_f1(answer, target):
    if not answer or not target:
        return float(answer == target)
    shared = (Counter(answer) & Counter(target)).total()
    return 2 * shared / (len(answer) + len(target))


def rouge(answers: Sequence[str], targets: Sequence[str]) -> dict[str, Metric]:
    """Return `rouge1`, `rouge2` and `rougeL`: mean F-measures with stemming, by rouge-score (Lin 2004).

    Texts of ASCII have the words that rouge-score finds; of others it would see a to z and 0 to 9 alone, so their words are letters and digits of any script.

    >>> round(rouge(["the cat sat"], ["the cat sat down"])["rouge1"].value, 3)
    0.857
    >>> round(rouge(["un café"], ["le café"])["rouge1"].value, 3)
    0.5
    """
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

    english = DefaultTokenizer(use_stemmer=True)

    class Words(Tokenizer):
        def tokenize(self, text):
            if text.isascii():
                return english.tokenize(text)
            words = WORDS.findall(unicodedata.normalize("NFC", text.lower()))
            return [token for word in words for token in (english.tokenize(word) if word.isascii() else [word])]

    names = ("rouge1", "rouge2", "rougeL")
    scorer = RougeScorer(names, tokenizer=Words())
    scores = [scorer.score(target, answer) for answer, target in zip(answers, targets, strict=True)]
    return {name: mean([score[name].fmeasure for score in scores]) for name in names}


def bleu_and_chrf(answers: Sequence[str], targets: Sequence[str]) -> dict[str, Metric]:
    """Return `bleu` and `chrf`, 0 to 100, by sacrebleu, over all texts together as these metrics are meant.

    >>> round(bleu_and_chrf(["one two"], ["one two"])["chrf"].value)
    100
    """
    from sacrebleu.metrics import BLEU, CHRF

    answers, targets = ([text.strip() for text in texts] for texts in (answers, targets))
    return {"bleu": _by_sacrebleu(BLEU(), answers, targets), "chrf": _by_sacrebleu(CHRF(), answers, targets)}


def _by_sacrebleu(scorer, answers, targets) -> Metric:
    """Make a metric of sacrebleu's: it is computed from sums of each text's statistics.

    The two methods are sacrebleu's own for the same purpose; its public bootstrap breaks off where a resample scores 0 (its numbers are then of two types).
    """
    of_texts = np.array(scorer._extract_corpus_statistics(answers, [targets]))             # [texts, statistics]

    def value_of(counts):
        return min(float(scorer._compute_score_from_stats((counts.astype(np.int64) @ of_texts).tolist()).score), 100.0)  # rounding may go past

    return Metric(value_of, len(answers), np.array([value_of(one) for one in np.eye(len(answers))]) if len(answers) <= 5000 else None)


def word_error_rate(answers: Sequence[str], targets: Sequence[str]) -> Metric:
    """Return the words wrong, missing or too many, divided by the words of the targets, by jiwer; lower is better.

    >>> word_error_rate(["one too three"], ["one two three"]).value.__round__(3)
    0.333
    """
    import jiwer

    errors = []
    for answer, target in zip(answers, targets, strict=True):
        found = jiwer.process_words(" ".join(target.split()), " ".join(answer.split())) if target.split() else None
        errors.append(len(answer.split()) if found is None else found.substitutions + found.deletions + found.insertions)
    return ratio(errors, [len(target.split()) for target in targets], lower_is_better=True)


def perplexity(log_probs: Sequence[float], token_counts: Sequence[int]) -> Metric:
    """Return exp of the loss in nats a token, over all tokens of all texts; lower is better.

    Args:
        log_probs: of each text, in nats.
        token_counts: of each text.

    >>> round(perplexity([-2.0, -1.0], [2, 4]).value, 4) == round(float(np.exp(3 / 6)), 4)
    True
    """
    loss = ratio([-log_prob for log_prob in log_probs], token_counts, lower_is_better=True)
    return Metric(lambda counts: float(np.exp(loss.value_of(counts))), loss.texts, np.exp(loss.of_texts), lower_is_better=True)


def edit_similarity(answers: Sequence[str], targets: Sequence[str]) -> Metric:
    """Return the mean of 1 - Levenshtein distance / the longer length, in characters; two empty texts agree.

    >>> edit_similarity(["retrun x"], ["return x"]).value
    0.75
    """
    from rapidfuzz.distance import Levenshtein

    return mean([Levenshtein.normalized_similarity(answer.strip(), target.strip()) for answer, target in zip(answers, targets, strict=True)])


def distinct(texts: Sequence[str], order: int) -> Metric:
    """Return distinct-n: the different n-grams of words of all texts together, divided by all n-grams.

    Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models".

    >>> distinct(["a b a b", "a b"], order=1).value.__round__(3)
    0.333
    """
    grams = [_ngrams(text.split(), order) for text in texts]
    numbers: dict[tuple, int] = {}
    ids = np.array([numbers.setdefault(gram, len(numbers)) for of_text in grams for gram in of_text], np.int64)
    text = np.repeat(np.arange(len(texts)), [len(of_text) for of_text in grams])

    def value_of(counts):
        times = counts[text]
        return float(len(np.unique(ids[times > 0])) / times.sum()) if times.sum() else 0.0

    return Metric(value_of, len(texts), needs_each_once=True, bounds=(0.0, 1.0))


def repetition(texts: Sequence[str], order: int = 4) -> Metric:
    """Return the share of a text's n-grams of words that stand earlier in it already, over all texts; lower is better.

    Source: Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training" (seq-rep-n).

    >>> repetition(["a b a b a b"], order=2).value
    0.6
    """
    grams = [_ngrams(text.split(), order) for text in texts]
    return ratio([len(of_text) - len(set(of_text)) for of_text in grams], [len(of_text) for of_text in grams], lower_is_better=True)


def _ngrams(words, order):
    return list(zip(*(words[start:] for start in range(order))))


def calibration_error(confidences: Sequence[float], hits: Sequence[bool], bins: int = 15, texts: Sequence[int] | None = None) -> Metric:
    """Return the expected calibration error: how far, on average, confidence and the share of right answers are apart; lower is better.

    Its `diagram` has of each bin that holds any `confidence` and `accuracy`, both means, and its `count`.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3; bins of equal width.

    Args:
        confidences: 0 to 1, of each answer.
        hits: whether each is right.
        bins: how many.
        texts: the number of the text that each answer belongs to, from 0; `None` = each is a text of its own.

    >>> calibration_error([0.9, 0.9, 0.6, 0.6], [True, True, True, False]).value.__round__(3)
    0.1
    """
    confidences, hits = np.asarray(confidences, np.float64), np.asarray(hits, np.float64)
    place = np.minimum((confidences * bins).astype(np.int64), bins - 1)
    texts = np.arange(len(hits)) if texts is None else np.asarray(texts)

    def value_of(counts):
        of_answers = counts[texts]
        gaps = np.bincount(place, of_answers * (confidences - hits), bins)
        return float(np.abs(gaps).sum() / of_answers.sum())

    rows = ({"confidence": float(confidences[place == one].mean()), "accuracy": float(hits[place == one].mean()), "count": int((place == one).sum())}
            for one in np.unique(place))
    return Metric(value_of, int(texts.max()) + 1, lower_is_better=True, diagram=tuple(rows))



def mean_reciprocal_rank(ranks: Sequence[int] | Sequence[Sequence[int]]) -> Metric:
    """Return the mean of 1 / rank of what is right among the candidates, the first = 1; 0 = it is not among them.

    Args:
        ranks: one for each text, or any number of them, each of which counts alike.

    >>> mean_reciprocal_rank([1, 2, 0]).value, mean_reciprocal_rank([[1, 2], [0]]).value
    (0.5, 0.5)
    """
    of_texts = [of_text if isinstance(of_text, Sequence) else [of_text] for of_text in ranks]
    return ratio([sum(1.0 / rank for rank in of_text if rank) for of_text in of_texts], [len(of_text) for of_text in of_texts])


def recall_at(ranks: Sequence[int], most: int) -> Metric:
    """Return how often what is right is among the first so many candidates.

    Args:
        ranks: of what is right, the first = 1; 0 = it is not among the candidates.
        most: of the first candidates.

    >>> recall_at([1, 5, 0, 3], most=3).value
    0.5
    """
    return mean([float(0 < rank <= most) for rank in ranks])


def f_beta(hits: Sequence[int], found: Sequence[int], right: Sequence[int], beta: float = 1.0) -> Metric:
    """Return F-beta from counts of each text: below 1, beta makes what is wrongly found weigh more than what is missed.

    Args:
        hits: found and right.
        found: in all.
        right: in all, found or not.
        beta: 1 = F1, 0.5 = F0.5.

    >>> f_beta([1], [2], [1], beta=0.5).value.__round__(3)
    0.556
    """
    square = beta * beta
    wholes = [square * of_right + of_found for of_right, of_found in zip(right, found, strict=True)]
    return ratio([(1 + square) * one for one in hits], wholes)
