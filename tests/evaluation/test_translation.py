"""The figures of written targets: by hand, by sacrebleu, and of a real model's texts."""
import importlib.util

import numpy as np
import pytest
import sacrebleu

from tfgpt.evaluation import translation
from tfgpt.evaluation.translation import check_packages, evaluate_translation, held_out_pairs, measure
from tfgpt.generation.text_model import TextModel
from tfgpt.recipe import ColumnsConfig, DataConfig, RecipeError

TARGETS = [f"{word} and {other} are some words" for word in ("one", "two", "three", "four", "five") for other in ("six", "seven", "eight", "nine")]


def test_figures_are_those_of_sacrebleu_and_intervals_hold_them():
    answers = [target if number % 3 else target.replace("some", "no") for number, target in enumerate(TARGETS)]

    found = measure([f" {answer}\n" for answer in answers], TARGETS)

    assert found["exact_match"]["value"] == 13 / 20
    assert found["bleu"]["value"] == pytest.approx(sacrebleu.corpus_bleu(answers, [TARGETS]).score)
    assert found["chrf"]["value"] == pytest.approx(sacrebleu.corpus_chrf(answers, [TARGETS]).score)
    for figure in found.values():
        assert figure["interval"][0] < figure["value"] < figure["interval"][1]


def test_intervals_are_of_the_bootstrap():
    answers = [target if number % 3 else target.replace("some", "no") for number, target in enumerate(TARGETS)]
    random, scores = np.random.default_rng(1), []
    for _ in range(300):
        chosen = random.integers(0, len(TARGETS), len(TARGETS))
        scores.append(sacrebleu.corpus_bleu([answers[place] for place in chosen], [[TARGETS[place] for place in chosen]]).score)

    low, high = measure(answers, TARGETS)["bleu"]["interval"]

    expected = np.percentile(scores, [2.5, 97.5])
    np.testing.assert_allclose([low, high], expected, atol=0.1 * (expected[1] - expected[0]))  # the ends of 300 and of 1,000 resamples


def test_perfect_answers_have_a_hundred_and_an_interval_with_width():
    found = measure(TARGETS, TARGETS)

    assert [round(figure["value"], 6) for figure in found.values()] == [1.0, 100.0, 100.0]
    assert 0.8 < found["exact_match"]["interval"][0] < 0.9  # 20 of 20 leave room for some wrong ones


def test_a_models_answers_are_measured_beside_copied_sources(translator, tokenizer):
    text_model = TextModel(translator, tokenizer)
    sources = ["one", "two words", "three of them"]
    written = [answer.text for answer in text_model.generate(sources, 1000)]

    found = evaluate_translation(text_model, list(zip(sources, [written[0], "other", sources[2]])), batch_size=2)

    assert found["translated"] == 3
    assert found["metrics"]["exact_match"]["value"] == found["copied"]["exact_match"]["value"] == 1 / 3


def test_held_out_pairs_are_taken_evenly(tmp_path):
    (tmp_path / "pairs.csv").write_text("a,b\n" + "".join(f"x{number},y{number}\n" for number in range(400)))
    config = DataConfig(path=str(tmp_path / "pairs.csv"), examples="translation", columns=ColumnsConfig(source="a", target="b"), validation=0.25)

    whole, some = held_out_pairs(config, "validation", 0), held_out_pairs(config, "validation", 10)

    assert 60 < len(whole) < 140 and all(source[1:] == target[1:] for source, target in whole)
    assert len(set(some)) == 10 and set(some) < set(whole)
    assert some[0] == whole[0] and whole.index(some[-1]) >= 0.85 * len(whole)
    assert held_out_pairs(config, "validation", 1000) == whole


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(translation.importlib.util, "find_spec", lambda name: None if name == "sacrebleu" else find(name))

    with pytest.raises(RecipeError, match=r"evaluate.translations: .* sacrebleu, which is not installed; pip install 'tfgpt\[tasks\]'"):
        check_packages()
