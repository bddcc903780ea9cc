"""A text's vector: PyTorch's hidden states, averaged by hand."""
import numpy as np
import pytest
import tensorflow as tf
import torch

from tfgpt.generation.text_model import TextModel
from tfgpt.models.compiled import CompiledModel

FP32 = 2e-5  # two libraries' sums of 32 to 128 products; states are of the size of 10


@pytest.fixture(scope="module")
def text_model(model, tokenizer):
    """In this room it is LiteRT too, which has no states."""
    return TextModel(model, tokenizer)


def test_the_vector_is_the_mean_of_pytorchs_states_at_the_texts_own_tokens(text_model, torch_model, tokenizer, prompts):
    context, end = torch_model.config.n_positions, tokenizer.eos_token_id

    found = text_model.embed(prompts, batch_size=7)

    for prompt, vector in zip(prompts, found):
        ids = [end, *tokenizer(prompt, verbose=False).input_ids[-(context - 1) :]]
        with torch.no_grad():
            states = torch_model.transformer(torch.tensor([ids])).last_hidden_state[0].numpy()
        expected = states[1:].mean(axis=0) if len(ids) > 1 else states[0]
        np.testing.assert_allclose(vector, expected, atol=FP32, err_msg=repr(prompt))
    assert found.dtype == np.float32 and len(set(map(bytes, found))) == len(prompts)


def test_a_row_does_not_see_its_neighbours(text_model, prompts):
    together = text_model.embed(prompts)

    np.testing.assert_allclose(np.concatenate([text_model.embed([prompt]) for prompt in prompts]), together, atol=FP32)
    assert text_model.embed([]).shape == (0, 32)


def test_with_an_encoder_it_is_the_mean_of_the_encoders_states(translator, tokenizer):
    texts = ["It was", "", "a longer text than the other two, though not by very much"]

    found = TextModel(translator, tokenizer).embed(texts)

    for text, vector in zip(texts, found):
        ids = tokenizer(text).input_ids[: translator.encoder.context - 1]
        states = translator.encode(tf.constant([[*ids, tokenizer.eos_token_id]]), tf.constant([len(ids) + 1])).states[0].numpy()
        np.testing.assert_allclose(vector, states[: max(len(ids), 1)].mean(axis=0), atol=FP32)


@pytest.mark.slow
def test_a_compiled_model_with_an_encoder_gives_the_same_whatever_it_pads(translator, tokenizer, prompts):
    compiled, plain = TextModel(CompiledModel(translator, batch_sizes=(4,), lengths=()), tokenizer), TextModel(translator, tokenizer)

    np.testing.assert_allclose(compiled.embed(prompts[:3]), plain.embed(prompts[:3]), atol=FP32)
    assert [row.text for row in compiled.generate(prompts[:3], 9)] == [row.text for row in plain.generate(prompts[:3], 9)]


def test_what_cannot_be_embedded_or_compiled_is_said(text_model, tmp_path, model):
    from tfgpt.models.build import load_model

    with pytest.raises(ValueError, match=r"embed: texts is one text; give a list"):
        text_model.embed("x")
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"export\.jit: true with weights in int8"):
        CompiledModel(load_model(tmp_path, "int8"), (1,), ())
