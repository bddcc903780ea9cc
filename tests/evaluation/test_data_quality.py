from collections import Counter

import numpy as np
import pytest

from tfgpt.data.quality import Quality
from tfgpt.evaluation.data_quality import Plan, draw_lengths, judge, plan_of
from tfgpt.models.build import new_model, parameter_count
from tfgpt.recipe import DataConfig, ModelConfig, Recipe

GOOD = Quality(documents=1000, characters=400_000, bytes=400_000, lengths=np.full(1000, 100), vocabulary=500, vocabulary_used=480,
               languages=Counter(en=990, de=10))  # fmt: skip


def complaints(quality=GOOD, **plan):
    plan = {"parameters": 1000, "from_random": True, "train_tokens": 100_000, "passes": 1.0} | plan
    return {(judgement.question, judgement.text) for judgement in judge(quality, Plan(**plan)) if not judgement.good}


def test_a_good_corpus_gets_no_complaint():
    assert complaints() == set()


@pytest.mark.parametrize(
    ("change", "plan", "question", "words"),
    [
        ({}, {"parameters": 1_000_000}, "enough", "use a smaller model, more text, or a pretrained model"),
        ({}, {"passes": 40.0}, "enough", "sees each sequence 40 times"),
        ({"documents": 50}, {"from_random": False, "bits_per_byte": 2.0, "general_bits_per_byte": 1.0}, "enough", "a few hundred good documents"),
        ({"exact_duplicates": 200}, {}, "clean", "200 of 1,000 documents (20.0%) were there before; set data.clean.deduplicate to exact"),
        ({"near_duplicates": 200}, {}, "clean", "set data.clean.deduplicate to near"),
        ({"garbled": 2, "garbled_places": ["a.txt:1", "b.txt:2"]}, {}, "clean", "2 documents are garbled: a.txt:1, b.txt:2"),
        ({"personal": Counter(email=7)}, {}, "clean", "email in 7; set data.clean.mask to [email]"),
        ({"languages": Counter(en=500, de=500)}, {}, "relevant", "en 50%, de 50%"),
        ({"bytes": 150_000}, {}, "relevant", "1.50 bytes a token"),
        ({}, {"from_random": False, "bits_per_byte": 1.1, "general_bits_per_byte": 1.0}, "relevant", "will gain little but style"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(change, plan, question, words):
    found = complaints(Quality(**(vars(GOOD) | change)), **plan)

    assert [(where, words in text) for where, text in found] == [(question, True)]


def test_the_parameter_count_is_that_of_the_model(tokenizer):
    config = ModelConfig(layers=3, width=24, heads=2)

    assert parameter_count(config, context=20, vocab=len(tokenizer)) == new_model(config, 20, tokenizer, seed=1).count_params()


def test_a_starting_models_loss_is_compared_with_general_text(tokenizer, model_folder, documents):
    from tfgpt.data.examples import Example

    recipe = Recipe(data=DataConfig(path="x", length=32), model=ModelConfig(init=str(model_folder)))
    examples = [Example(((text, True),), place="x") for text in documents[:5]]

    plan = plan_of(recipe, tokenizer, {"tokens": 1000, "sequences": 40}, examples)

    assert plan.parameters > 0 and not plan.from_random
    assert plan.passes == 1000 * 16 / 40
    assert plan.bits_per_byte == pytest.approx(plan.general_bits_per_byte, rel=0.2)  # both are of Python's reference, and the weights are random


def test_lengths_are_drawn(tmp_path):
    draw_lengths(GOOD, 256, tmp_path / "lengths.png")

    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")
