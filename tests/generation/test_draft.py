"""A draft model: the same texts, whatever it guesses, in fewer rounds where it guesses right."""
import pytest
import tensorflow as tf

from tests.small_models import CONTEXT
from tfgpt.generation.controls import Controls, controls_of
from tfgpt.generation.decoding import Decoder
from tfgpt.generation.sampling import Constraints
from tfgpt.generation.text_model import TextModel
from tfgpt.models import build
from tfgpt.models.lite import LiteModel
from tfgpt.models.weights import pytorch_name
from tfgpt.recipe import ModelConfig
from tfgpt.serving.export import export
from tfgpt.serving.saved_model import LoadedModel

NEW = 12


@pytest.fixture(scope="module")
def small(model, tokenizer):
    """The model's embeddings and first layer alone: often right, and often not."""
    small = build.new_model(ModelConfig(layers=1, width=32, heads=4, dropout=0.0), CONTEXT, tokenizer, seed=3)
    of_model = {pytorch_name(variable): variable for variable in model.weights}
    for variable in small.weights:
        variable.assign(of_model[pytorch_name(variable)])
    return small


@pytest.fixture(scope="module", params=["graph", "lite"])
def drafting(request, model, small, tokenizer):
    kind = LiteModel if request.param == "lite" else lambda model: model
    return TextModel(kind(model), tokenizer, draft=kind(small))


@pytest.fixture(scope="module")
def alone(model, tokenizer):
    return TextModel(model, tokenizer)


@pytest.mark.parametrize("given", [
    {},
    {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
    {"temperature": 1.0, "top_p": 0.9, "seed": list(range(20))},
    {"prompt_lookup_num_tokens": [0, 4] * 10, "max_new_tokens": [NEW, 3, 0, 1] * 5},
])  # fmt: skip
def test_a_draft_changes_no_text(drafting, alone, prompts, given):
    expected = alone.generate(prompts, **{"max_new_tokens": NEW} | given)

    found = drafting.generate(prompts, **{"max_new_tokens": NEW} | given)

    assert [row.text for row in found] == [row.text for row in expected]
    assert [row.token_count for row in found] == [row.token_count for row in expected]
    assert [row.log_prob for row in found] == [pytest.approx(row.log_prob, abs=1e-3) for row in expected]  # sums of fp32 in other shapes


@pytest.mark.slow
def test_streams_and_exports_have_it_too(drafting, alone, prompts, tmp_path):
    expected = alone.generate(prompts[5:8], NEW)

    assert ["".join(drafting.stream(prompt, NEW)) for prompt in prompts[5:8]] == [row.text for row in expected]
    if not isinstance(drafting.model, LiteModel):
        loaded = LoadedModel(export(drafting, tmp_path / "export"))
        outputs = loaded.predict("generate", {"prompt": tf.constant(prompts[5:8]), "max_new_tokens": tf.constant([NEW])})
        assert [text.decode() for text in outputs["text"]] == [row.text for row in expected]


def rounds_of(decoder, ids):
    """Count the rounds of a greedy continuation by `NEW` tokens."""
    controls = Controls(*map(tf.constant, controls_of({"max_new_tokens": NEW, "min_new_tokens": NEW}, rows=1)))
    prompts, rounds = tf.RaggedTensor.from_row_lengths(ids, [len(ids)]), 0
    state = decoder.begin(prompts, controls)
    while int(state.written.length[0]) < len(ids) + NEW:
        state, rounds = decoder.advance(state, controls, Constraints.none(1), 1), rounds + 1
    return rounds


def test_what_is_guessed_right_takes_fewer_rounds(model, small, tokenizer, documents):
    ids = tokenizer(documents[0], verbose=False).input_ids[:9]
    rounds = {tokens: rounds_of(Decoder(model, tokenizer.eos_token_id, draft=model, draft_tokens=tokens), ids) for tokens in (1, 3, 5)}

    assert rounds == {1: 6, 3: 3, 5: 3}                  # two tokens a round; four; four, and then six as trust grows
    assert rounds_of(Decoder(model, tokenizer.eos_token_id), ids) == NEW
    assert rounds[5] < rounds_of(Decoder(model, tokenizer.eos_token_id, draft=small, draft_tokens=5), ids) <= NEW


def test_a_draft_that_does_not_fit_is_told(model, tokenizer):
    other = build.new_model(ModelConfig(layers=1, width=32, heads=4), CONTEXT - 1, tokenizer, seed=3)

    with pytest.raises(ValueError, match="draft: its vocabulary of 512 tokens must be the model's 512, and its context of 47 no shorter than 48"):
        TextModel(model, tokenizer, draft=other)
    with pytest.raises(ValueError, match="draft_tokens 0; give a whole number, 1 or more"):
        TextModel(model, tokenizer, draft=model, draft_tokens=0)
    with pytest.raises(ValueError, match=r"draft_tokens 2\.5"):
        TextModel(model, tokenizer, draft=model, draft_tokens=2.5)
