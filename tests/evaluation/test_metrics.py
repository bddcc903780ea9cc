"""Metrics: worked by hand, against the libraries that are known for them, and intervals and tests against a formula and scipy."""
import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import fbeta_score

from tfgpt.evaluation import text_metrics
from tfgpt.evaluation.metrics import compared, mean, measured, ratio, share_with_interval
from tfgpt.recipe import RecipeError

ANSWERS = ["the cat sat on the mat", "a dog", "", "one two three four", "she reads a book in the garden"]
TARGETS = ["the cat lay on the mat", "a dog", "nothing", "one two four three", "she read the book in a garden"]


def test_the_interval_of_a_mean_is_that_of_the_central_limit_theorem():
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)

    found = measured(mean(values), seed=1)

    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found["value"] == pytest.approx(values.mean())
    assert np.allclose(found["interval"], [values.mean() - half, values.mean() + half], atol=0.02)  # a fifth of the half width, and 1,000 draws give a tenth


def test_a_pooled_ratio_has_the_interval_that_scipys_bootstrap_gives():
    rng = np.random.default_rng(4)
    wholes = rng.integers(1, 30, 300)
    parts = rng.binomial(wholes, 0.3)

    found = measured(ratio(parts, wholes), seed=1)

    theirs = stats.bootstrap((parts, wholes), lambda a, b: a.sum() / b.sum(), paired=True, vectorized=False, n_resamples=2000, method="percentile", rng=5)
    assert np.allclose(found["interval"], theirs.confidence_interval, atol=0.004)                   # a tenth of the interval's width


def test_the_paired_test_sees_what_two_intervals_that_overlap_hide():
    rng = np.random.default_rng(5)
    one = rng.normal(0.0, 1.0, 200)
    other = one - 0.1 + rng.normal(0.0, 0.1, 200)

    alone = [measured(mean(values), seed=1)["interval"] for values in (one, other)]
    together = compared(mean(one), mean(other), seed=1)

    assert alone[0][0] < alone[1][1]
    assert together["p"] == 0.001 and together["interval"][0] > 0 and stats.ttest_rel(one, other).pvalue < 0.001


def test_the_paired_test_finds_nothing_where_there_is_nothing_about_as_often_as_it_says():
    rng = np.random.default_rng(6)

    found = [compared(mean(rng.normal(size=100)), mean(rng.normal(size=100)), seed)["p"] < 0.1 for seed in range(100)]

    assert 2 <= sum(found) <= 20                                                                     # 10 wanted; binomial, 99.8 %


def test_a_model_compared_with_itself_does_not_differ():
    assert compared(mean([0.0, 1.0, 1.0]), mean([0.0, 1.0, 1.0]), seed=1) == {"difference": 0.0, "interval": [0.0, 0.0], "p": 1.0}


def test_models_that_answered_other_numbers_of_texts_are_not_compared():
    with pytest.raises(ValueError, match="3 texts and 2"):
        compared(mean([1, 2, 3]), mean([1, 2]), seed=1)


def test_word_error_rate_bleu_and_chrf_are_those_of_the_libraries_over_all_texts_together():
    import jiwer
    import sacrebleu

    found = text_metrics.bleu_and_chrf(ANSWERS, TARGETS)

    assert text_metrics.word_error_rate(ANSWERS, TARGETS).value == pytest.approx(jiwer.wer(TARGETS, ANSWERS))
    assert found["bleu"].value == pytest.approx(sacrebleu.corpus_bleu(ANSWERS, [TARGETS]).score)
    assert found["chrf"].value == pytest.approx(sacrebleu.corpus_chrf(ANSWERS, [TARGETS]).score)


def test_words_written_where_there_is_nothing_to_say_are_errors():
    assert text_metrics.word_error_rate(["two words", "a b"], ["", "a b"]).value == 1.0


def test_f_beta_from_counts_is_scikit_learns():
    right, found = np.random.default_rng(7).integers(0, 2, (2, 200))

    for beta in (0.5, 1.0, 2.0):
        assert text_metrics.f_beta(right & found, found, right, beta).value == pytest.approx(fbeta_score(right, found, beta=beta))


def test_calibration_error_by_hand():
    # Two bins of ten: 0.95 said and half right, 0.25 said and a quarter right.
    confidences, hits = [0.95, 0.95, 0.25, 0.25, 0.25, 0.25], [True, False, True, False, False, False]

    found = text_metrics.calibration_error(confidences, hits, bins=10)

    assert found.value == pytest.approx((2 * 0.45 + 4 * 0.0) / 6)
    assert [(row["count"], row["accuracy"]) for row in found.diagram] == [(4, 0.25), (2, 0.5)]


def test_distinct_counts_the_ngrams_of_all_texts_together():
    assert text_metrics.distinct(["a b c", "a b"], order=2).value == pytest.approx(2 / 3)
    assert text_metrics.distinct(["a", ""], order=2).value == 0.0
    assert measured(text_metrics.distinct(["a b", "c d", "a b"], 1), seed=1)["interval"][1] == 1.0  # and not more, as the jackknife's error has it


def test_the_interval_of_distinct_ngrams_holds_its_value_which_drawing_texts_twice_would_push_down():
    words = np.random.default_rng(8).zipf(1.3, (200, 20))
    texts = [" ".join(str(word % 3000) for word in row) for row in words]

    found = measured(text_metrics.distinct(texts, 1), seed=1)

    halves = [text_metrics.distinct([texts[number] for number in np.random.default_rng(seed).permutation(200)[:150]], 1).value for seed in range(30)]
    assert found["interval"][0] < found["value"] < found["interval"][1] and min(halves) > found["value"]
    assert found["interval"][1] - found["interval"][0] == pytest.approx(4 * np.std(halves) * np.sqrt(150 / 50), rel=0.5)  # of 30 draws without replacement


def test_the_jackknife_of_a_mean_is_the_central_limit_theorem():
    from tfgpt.evaluation.metrics import Metric

    values, other = np.random.default_rng(9).normal(size=(2, 100))
    one, two = (Metric(mean(each).value_of, 100, needs_each_once=True) for each in (values, other))

    assert np.diff(measured(one, seed=1)["interval"])[0] == pytest.approx(2 * 1.959964 * values.std(ddof=1) / 10)
    assert compared(one, two, seed=1)["p"] == pytest.approx(2 * stats.norm.sf(abs((values - other).mean()) / ((values - other).std(ddof=1) / 10)))


def test_every_metric_of_a_perfect_answer_is_perfect():
    texts = ["one two three four five", "six seven eight nine ten"]

    best = [*text_metrics.rouge(texts, texts).values(), text_metrics.exact_match(texts, texts), text_metrics.word_f1(texts, texts),
            text_metrics.edit_similarity(texts, texts)]

    assert [metric.value for metric in best] == [1.0] * 6
    assert text_metrics.word_error_rate(texts, texts).value == 0.0


def test_rouge_of_ascii_is_rouge_scores_and_sees_the_words_of_every_script():
    from rouge_score.rouge_scorer import RougeScorer

    ours = text_metrics.rouge(ANSWERS, TARGETS)
    scores = [RougeScorer(list(ours), use_stemmer=True).score(target, answer) for target, answer in zip(TARGETS, ANSWERS)]
    assert {name: metric.value for name, metric in ours.items()} == pytest.approx({name: np.mean([one[name].fmeasure for one in scores]) for name in ours})

    def rouge1(answer, target):
        return text_metrics.rouge([answer], [target])["rouge1"].value

    assert rouge1("мама мыла раму", "мама мыла окно") == pytest.approx(2 / 3)
    assert rouge1("我爱北京", "我爱上海") == rouge1("ฉันรัก", "ฉันรก") == 0.5 or rouge1("我爱北京", "我爱上海") == 0.5
    assert rouge1("cafe\u0301 noir", "café") == pytest.approx(2 / 3)                       # one letter, written in two ways
    assert rouge1("café running", "cafe runs") == 0.5                                      # words of ASCII are stemmed there too
    assert rouge1("हिन्दी", "हिन्दु") == 0.0                                               # a word with its marks is one


def test_answers_of_other_scripts_are_compared_without_their_punctuation():
    assert text_metrics.exact_match(["「東京」。"], ["東京"], text_metrics.normalized).value == 1.0
    assert text_metrics.word_f1(["东京塔"], ["东京"]).value == pytest.approx(0.8)
    assert text_metrics.normalized("a $5 + 6% ~ «so»") == "5 6 so"


def test_texts_without_anything_to_measure_are_neither_good_nor_bad():
    from tfgpt.evaluation.shown import ends

    some, none = ratio([1, 0, 0, 3], [2, 0, 1, 3]), ratio([0, 0], [0, 0])

    assert some.value == pytest.approx(4 / 6) and [places.tolist() for places in ends(some.of_texts)] == [[3, 0], [2]]
    assert none.is_empty and not some.is_empty and [places.tolist() for places in ends(none.of_texts)] == [[], []]


def test_the_interval_of_a_share_of_those_asked_has_a_width_where_none_is_right():
    assert measured(ratio([0, 0, 0, 0], [1, 1, 0, 1]), seed=1)["interval"] == pytest.approx(share_with_interval(0, 3)["interval"])


@pytest.mark.parametrize("trials", range(1, 60))
def test_the_interval_of_a_share_is_wilsons_and_holds_the_share(trials):
    for hits in range(trials + 1):
        found, theirs = share_with_interval(hits, trials), stats.binomtest(hits, trials).proportion_ci(method="wilson")
        low, high = found["interval"]

        assert 0.0 <= low <= found["value"] <= high <= 1.0  # to the last bit, with all or none right too
        assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-7)  # of the normal quantile, which has seven digits here


@pytest.mark.parametrize(("texts", "least"), [(1, 1.0), (2, 0.5), (5, 1 / 16), (60, 0.001)])
def test_p_is_never_below_what_so_few_texts_can_tell(texts, least):
    """Of the exact paired test by signs, where all are alike."""
    found = compared(mean([0.9] * texts), mean([0.1] * texts), seed=1)

    assert found["p"] == least == max(stats.binomtest(texts, texts).pvalue, 0.001)


@pytest.mark.parametrize(("ahead", "behind"), [(5, 0), (3, 0), (1, 0)])
def test_texts_that_both_models_got_alike_tell_nothing(ahead, behind):
    alike = [1.0] * 100 + [0.0] * 95

    found = [compared(mean(alike + [1.0] * ahead + [0.0] * behind), mean(alike + [0.0] * ahead + [1.0] * behind), seed)["p"] for seed in range(3)]

    assert min(found) >= stats.binomtest(ahead, ahead + behind).pvalue  # McNemar's exact test


def test_a_missing_package_is_told_with_its_extra():
    with pytest.raises(RecipeError, match=r"task.kind: x: needs the package no-such-thing .* pip install 'tfgpt\[tasks\]'"):
        text_metrics.check_packages(["no_such_thing"], "task.kind: x")
