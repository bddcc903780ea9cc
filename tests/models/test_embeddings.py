"""Vocabulary, output matrix and positions of a model that is there: what stays, what begins where, and PyTorch's word on what is saved."""
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from transformers import GPT2LMHeadModel, GPT2TokenizerFast, OpenAIGPTConfig, OpenAIGPTLMHeadModel, OpenAIGPTTokenizerFast

from tfgpt.generation.text_model import TextModel
from tfgpt.models import surgery, weights
from tfgpt.models.adapt import adapt
from tfgpt.models.build import load_model
from tfgpt.models.lora import add_lora
from tfgpt.models.positions import extend_context, set_positions
from tfgpt.models.vocabulary import exchange_vocabulary, resize_vocabulary
from tfgpt.recipe import AdaptConfig, EmbeddingsConfig, LoraConfig
from tfgpt.serving.export import export
from tfgpt.serving.saved_model import LoadedModel
from tfgpt.text.bpe import char_tokenizer, load_tokenizer, train_tokenizer
from tfgpt.text.tokens import load_old_tokenizer, pieces_of, token_bytes

FP32 = 2e-4
"""Of logits of size 1 to 60: two layers of fp32 sums in another order."""


def random_ids(model, *shape, seed=1, most=None):
    return np.random.default_rng(seed).integers(0, most or model.config.vocab_size, shape).astype(np.int32)


def saved_and_in_pytorch(model, folder, torch_class=GPT2LMHeadModel):
    """Return the logits of random ids by a model, by itself saved and loaded, and by PyTorch."""
    ids = random_ids(model, 2, 20)
    model.save_pretrained(folder)
    with torch.no_grad():
        theirs = torch_class.from_pretrained(folder).eval()(torch.tensor(ids).long()).logits.numpy()
    return model(ids).logits.numpy(), load_model(folder)(ids).logits.numpy(), theirs


@pytest.fixture(scope="module")
def other_tokenizer(documents):
    """One of the same text with other tokens in another order, and a special token."""
    return train_tokenizer(documents[:40], vocab=700, special_tokens=["<|user|>"])


@pytest.fixture(scope="module")
def exchanged(model, tokenizer, other_tokenizer):
    return exchange_vocabulary(model, tokenizer, other_tokenizer)


def table_of(model, name="transformer.wte.weight"):
    return weights.state(model)[name]


# vocabulary


def test_a_row_stays_with_its_token_wherever_it_now_stands(model, tokenizer, other_tokenizer, exchanged):
    old, new = tokenizer.get_vocab(), other_tokenizer.get_vocab()  # both spell bytes by GPT-2's letters: equal names are equal bytes
    shared = sorted(old.keys() & new.keys())
    assert 300 < len(shared) < len(new) and sum(old[token] != new[token] for token in shared) > 100

    np.testing.assert_array_equal(table_of(exchanged)[[new[token] for token in shared]], table_of(model)[[old[token] for token in shared]])
    assert exchanged.config.eos_token_id == exchanged.config.bos_token_id == other_tokenizer.eos_token_id == new["<|endoftext|>"]
    assert exchanged.config.vocab_size == len(new) == 700
    assert exchanged.generation_config.eos_token_id == other_tokenizer.eos_token_id


def test_a_new_row_begins_at_the_mean_of_the_pieces_that_the_old_tokenizer_makes(model, tokenizer, other_tokenizer, exchanged):
    old, table, found = tokenizer.get_vocab(), table_of(model), 0
    for token, number in other_tokenizer.get_vocab().items():
        text = other_tokenizer.convert_tokens_to_string([token])
        if token in old or "\ufffd" in text:
            continue
        pieces = tokenizer(text).input_ids
        assert len(pieces) > 1
        np.testing.assert_allclose(table_of(exchanged)[number], sum(table[piece] for piece in pieces) / len(pieces), atol=1e-6)  # sums in float64 there
        found += 1
    assert found > 100


def test_the_end_of_text_is_the_new_tokenizers(model, tokenizer, gpt2_tokenizer):
    changed = exchange_vocabulary(model, tokenizer, gpt2_tokenizer)

    assert tokenizer.eos_token_id == 0 and gpt2_tokenizer.eos_token_id == 50256
    assert changed.config.eos_token_id == changed.config.bos_token_id == changed.generation_config.eos_token_id == 50256
    np.testing.assert_array_equal(table_of(changed)[50256], table_of(model)[0])


def test_new_rows_may_begin_at_the_mean_of_all(model, tokenizer, other_tokenizer):
    changed = exchange_vocabulary(model, tokenizer, other_tokenizer, new_rows="mean")

    of_user = table_of(changed)[other_tokenizer.convert_tokens_to_ids("<|user|>")]
    np.testing.assert_allclose(of_user, table_of(model).mean(axis=0), atol=1e-5)  # fp32 sums of 512 rows there


def test_a_text_of_shared_tokens_has_the_hidden_states_it_had(model, tokenizer, other_tokenizer, exchanged):
    old, new = tokenizer.get_vocab(), other_tokenizer.get_vocab()
    tokens = sorted(old.keys() & new.keys())[40:60]

    before = model(np.array([[old[token] for token in tokens]])).logits.numpy()[0]
    after = exchanged(np.array([[new[token] for token in tokens]])).logits.numpy()[0]

    shared = sorted(old.keys() & new.keys())
    np.testing.assert_allclose(after[:, [new[token] for token in shared]], before[:, [old[token] for token in shared]], atol=FP32)


def test_an_exchanged_vocabulary_is_saved_exported_and_read_by_pytorch(exchanged, other_tokenizer, tmp_path):
    ours, again, theirs = saved_and_in_pytorch(exchanged, tmp_path / "model")

    np.testing.assert_array_equal(again, ours)
    np.testing.assert_allclose(theirs, ours, atol=FP32)
    text_model = TextModel(exchanged, other_tokenizer)
    served = LoadedModel(export(text_model, tmp_path / "export" / "exchanged"))
    answer = served.predict("generate", {"prompt": ["The value of"], "max_new_tokens": [8]})
    assert answer["text"][0].decode() == text_model.generate(["The value of"], 8)[0].text


def test_bytes_that_are_no_text_have_pieces_too(tokenizer):
    assert pieces_of(tokenizer, b"\xe6\x97") == [token for byte in (0xE6, 0x97) for token in pieces_of(tokenizer, bytes([byte]))]
    assert token_bytes(char_tokenizer(["é"]))[257] == "é".encode()


@pytest.mark.parametrize("size", [300, 512, 530])
def test_a_vocabulary_grows_and_shrinks_by_number(size, model, tmp_path):
    untied = surgery.untie_output(model)
    untied.lm_head.weight.assign(untied.lm_head.weight[::-1])

    changed = resize_vocabulary(untied, size)

    kept = min(size, 512)
    for name in ("transformer.wte.weight", "lm_head.weight"):
        old, new = table_of(untied, name), table_of(changed, name)
        assert new.shape == (size, 32)
        np.testing.assert_array_equal(new[:kept], old[:kept])
        for row in new[512:]:
            np.testing.assert_allclose(row, old.mean(axis=0), atol=1e-5)  # fp32 sums of 512 rows there
    ids = random_ids(model, 2, 9, most=300)
    np.testing.assert_allclose(changed(ids).logits[..., :kept], untied(ids).logits[..., :kept], atol=FP32)
    ours, again, theirs = saved_and_in_pytorch(changed, tmp_path)
    np.testing.assert_array_equal(again, ours)
    np.testing.assert_allclose(theirs, ours, atol=FP32)


def test_a_model_with_lora_on_its_embeddings_takes_another_vocabulary(model, tokenizer, other_tokenizer):
    adapted = add_lora(model, LoraConfig(rank=2, matrices=("wte",)), seed=1)
    adapted.transformer.wte_lora.b.assign(tf.random.stateless_normal([2, 32], [1, 2]))

    changed = exchange_vocabulary(adapted, tokenizer, other_tokenizer)
    plain = exchange_vocabulary(surgery.changed(adapted, weights.state(adapted, merged=True), lora=LoraConfig()), tokenizer, other_tokenizer)

    np.testing.assert_allclose(changed.transformer.table(), plain.transformer.table(), atol=1e-5)  # the mean of sums, or the sum of means


def test_what_no_vocabulary_can_be_is_refused(model, tokenizer, gpt2_tokenizer):
    late = surgery.changed(model, of_config={"eos_token_id": 511})

    with pytest.raises(ValueError, match="vocabulary: 400 tokens are too few, since the model's end-of-text token is number 511; give 512 or more"):
        resize_vocabulary(late, 400)
    with pytest.raises(ValueError, match="adapt.embeddings.new_rows: 'random' is none of pieces, mean"):
        exchange_vocabulary(model, tokenizer, tokenizer, "random")
    with pytest.raises(ValueError, match="the old tokenizer has 50257 tokens and the model 512"):
        exchange_vocabulary(model, gpt2_tokenizer, tokenizer)


@pytest.fixture(scope="module")
def gpt1_tokenizer_folder(tmp_path_factory):
    """A tokenizer as GPT-1's: lower case, a sign for the end of a word, no bytes and no end of text."""
    folder = tmp_path_factory.mktemp("gpt1-tokenizer")
    letters = "abcdefghijklmnopqrstuvwxyz<>|."
    merges = ["t h", "th e</w>", "i n", "in g</w>", "s t"]
    tokens = ["<unk>", *letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return folder


def test_a_tokenizer_as_gpt1s_is_refused_for_text_and_looked_up_for_a_new_vocabulary(gpt1_tokenizer_folder, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="is no byte-level BPE as GPT-2's.*adapt.embeddings.vocabulary to tokenizer"):
        load_tokenizer(gpt1_tokenizer_folder)
    OpenAIGPTTokenizerFast.from_pretrained(gpt1_tokenizer_folder).save_pretrained(tmp_path / "fast")
    with pytest.raises(ValueError, match="is no byte-level BPE as GPT-2's"):
        load_tokenizer(tmp_path / "fast")
    old = load_old_tokenizer(gpt1_tokenizer_folder)
    torch.manual_seed(1)
    config = OpenAIGPTConfig(vocab_size=len(old), n_positions=48, n_embd=32, n_layer=1, n_head=2)
    OpenAIGPTLMHeadModel(config).save_pretrained(tmp_path / "gpt1")
    model = load_model(tmp_path / "gpt1")

    changed = exchange_vocabulary(model, old, tokenizer)

    table, rows = table_of(model), table_of(changed)
    def row(token):
        return rows[tokenizer.convert_tokens_to_ids(token)]
    vocab = old.get_vocab()
    np.testing.assert_array_equal(row("Ġthe"), table[vocab["the</w>"]])
    np.testing.assert_array_equal(row("the"), table[vocab["the</w>"]])                # lone in its text, so the end of a word there
    np.testing.assert_allclose(row("Ġto"), (table[vocab["t"]] + table[vocab["o</w>"]]) / 2, atol=1e-7)
    np.testing.assert_allclose(row("Ċ"), table.mean(axis=0), atol=1e-6)               # of white space GPT-1 has nothing
    assert changed.config.eos_token_id == tokenizer.eos_token_id and model.config.eos_token_id is None
    ours, again, theirs = saved_and_in_pytorch(changed, tmp_path / "changed", OpenAIGPTLMHeadModel)
    np.testing.assert_array_equal(again, ours)
    np.testing.assert_allclose(theirs, ours, atol=FP32)
    assert isinstance(TextModel(changed, tokenizer).generate(["The "], 3)[0].text, str)


@pytest.mark.slow
def test_a_run_starts_from_a_gpt1_with_a_tokenizer_of_its_own(gpt1_tokenizer_folder, documents, tmp_path):
    from tests.commands import called

    start = shutil.copytree(gpt1_tokenizer_folder, tmp_path / "gpt1")
    torch.manual_seed(1)
    OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=66, n_positions=24, n_embd=32, n_layer=2, n_head=2)).save_pretrained(start)
    (tmp_path / "text.txt").write_text("\n\n".join(documents[:40]), "utf-8")
    (tmp_path / "recipe.yaml").write_text(f"""
data: {{path: {tmp_path}/text.txt, length: 32}}
tokenizer: {{vocab: 400}}
model: {{init: {start}}}
adapt: {{context: 48, embeddings: {{vocabulary: tokenizer}}}}
train: {{steps: 12, global_batch_size: 4, evaluate_every: 6, schedule: {{peak: 3.0e-3, warmup_steps: 2}}}}
evaluate: {{prompts: ["The "], max_new_tokens: 5}}
""")

    done = called("run", tmp_path / "recipe.yaml", "--output", tmp_path / "run")
    refused = called("run", tmp_path / "recipe.yaml", "--output", tmp_path / "other", "--tokenizer.init", start)

    assert done.returncode == 0, done.stderr
    trained = load_model(tmp_path / "run" / "model")
    ids = random_ids(trained, 2, 20)
    with torch.no_grad():
        theirs = OpenAIGPTLMHeadModel.from_pretrained(tmp_path / "run" / "model").eval()(torch.tensor(ids).long()).logits.numpy()
    np.testing.assert_allclose(theirs, trained(ids).logits, atol=FP32)
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["loss"] < np.log(400)
    assert refused.returncode == 2 and "is no byte-level BPE as GPT-2's" in refused.stderr and not (tmp_path / "other").exists()


def test_the_tokenizer_of_a_run_is_found_beside_its_model(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "model")

    with pytest.raises(FileNotFoundError, match="holds no tokenizer"):
        load_old_tokenizer(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert isinstance(load_old_tokenizer(tmp_path / "model"), GPT2TokenizerFast)


# output matrix


def fit_once(model, **trained):
    """Return the weights that two steps of training change."""
    model.train_only(**trained)
    model.compile(tf_keras.optimizers.AdamW(1e-2))
    ids = random_ids(model, 4, 17)
    before = weights.state(model)
    model.fit(tf.data.Dataset.from_tensors({"input_ids": ids[:, :-1], "labels": ids[:, 1:]}).repeat(), steps_per_epoch=2, verbose=0)
    after = weights.state(model)
    return {name for name in before if (before[name] != after[name]).any()}


def test_an_untied_output_changes_nothing_until_it_is_trained(model, tmp_path):
    untied = surgery.untie_output(model)
    ids = random_ids(model, 2, 20)
    np.testing.assert_allclose(untied(ids).logits, model(ids).logits, atol=FP32)
    assert surgery.untie_output(untied) is untied

    assert fit_once(untied, patterns=["lm_head"]) == {"lm_head.weight"}

    ours, again, theirs = saved_and_in_pytorch(untied, tmp_path)
    assert np.abs(untied(ids).logits - model(ids).logits).max() > 0.1
    np.testing.assert_array_equal(again, ours)
    np.testing.assert_allclose(theirs, ours, atol=FP32)


def test_an_untied_output_is_exported(model, tokenizer, tmp_path):
    untied = surgery.untie_output(model)
    untied.lm_head.weight.assign(untied.lm_head.weight[::-1])
    text_model = TextModel(untied, tokenizer)

    served = LoadedModel(export(text_model, tmp_path / "export" / "untied"))

    answer = served.predict("generate", {"prompt": ["The value of"], "max_new_tokens": [8]})
    assert answer["text"][0].decode() == text_model.generate(["The value of"], 8)[0].text != TextModel(model, tokenizer).generate(["The value of"], 8)[0].text


def test_frozen_embeddings_stay_beside_an_output_that_learns(model):
    moved = fit_once(surgery.untie_output(model), freeze=["wte"])

    assert "lm_head.weight" in moved and "transformer.h.0.mlp.c_fc.weight" in moved and "transformer.wte.weight" not in moved


def test_a_tied_output_is_the_embeddings_again(model, tmp_path):
    untied = surgery.untie_output(model)
    untied.lm_head.weight.assign(untied.lm_head.weight[::-1])

    tied = surgery.tie_output(untied)

    ids = random_ids(model, 2, 20)
    np.testing.assert_array_equal(tied(ids).logits, model(ids).logits)
    tied.save_pretrained(tmp_path)
    assert "tie_word_embeddings" not in json.loads((tmp_path / "config.json").read_text())


def test_a_recipe_replaces_the_output_matrix_and_trains_it_alone(model):
    config = AdaptConfig(embeddings=EmbeddingsConfig(untie=True), reinitialize=("lm_head",), train=("lm_head",))

    changed = adapt(model, config, seed=5, importance=lambda model: {}, labels={})

    before, after = table_of(model), table_of(changed, "lm_head.weight")
    assert abs(after.std() - 0.02) < 0.001 and np.abs(after - before).min() > 0  # 16,384 draws of standard deviation 0.02
    np.testing.assert_array_equal(table_of(changed), before)
    assert [variable.name.split("/")[-2] for variable in changed.trainable_weights] == ["lm_head"]


def test_a_gpt1_has_an_output_of_its_own_too(tmp_path):
    torch.manual_seed(1)
    OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=64, n_positions=32, n_embd=32, n_layer=1, n_head=2)).save_pretrained(tmp_path / "gpt1")
    model = surgery.untie_output(load_model(tmp_path / "gpt1"))
    model.lm_head.weight.assign(model.lm_head.weight[::-1])

    ours, again, theirs = saved_and_in_pytorch(model, tmp_path / "untied", OpenAIGPTLMHeadModel)

    np.testing.assert_array_equal(again, ours)
    np.testing.assert_allclose(theirs, ours, atol=FP32)
    with pytest.raises(ValueError, match="adapt.insert_blocks: a new block of GPT-1 cannot"):
        surgery.insert_blocks(model, [1])


# positions


@pytest.mark.parametrize(("context", "expected"), [
    (8, [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]),                     # position 1 is found at 2; behind the last row there is nothing to go to
    (6, [0, 2 / 3, 4 / 3, 2, 8 / 3, 3]),                     # position 2 is found at 3
    (4, [0, 1, 2, 3]),
    (3, [0, 1, 2]),
])  # fmt: skip
def test_positions_are_stretched_by_hand(tokenizer, context, expected):
    from tfgpt.models.build import new_model
    from tfgpt.recipe import ModelConfig

    model = new_model(ModelConfig(layers=1, width=8, heads=2), 4, tokenizer, seed=1)
    table = np.outer(np.arange(4.0), np.arange(1.0, 9.0)).astype(np.float32)  # row p is p times row 1
    model.transformer.wpe.embeddings.assign(table)

    changed = extend_context(model, context)

    np.testing.assert_allclose(table_of(changed, "transformer.wpe.weight"), np.outer(expected, np.arange(1.0, 9.0)), atol=1e-6)  # fp32 of numbers to 24
    assert changed.config.n_positions == context


def test_a_text_at_the_places_its_positions_have_gone_to_has_the_logits_it_had(model):
    ids = random_ids(model, 2, 48)

    stretched = extend_context(model, 144)(ids, position_ids=3 * np.arange(48)[np.newaxis])

    np.testing.assert_array_equal(stretched.logits, model(ids).logits)


@pytest.mark.parametrize("context", [pytest.param(20, marks=pytest.mark.slow), 101])
def test_another_context_is_saved_exported_and_used_to_its_end(model, tokenizer, context, tmp_path):
    changed = extend_context(model, context)

    ours, again, theirs = saved_and_in_pytorch(changed, tmp_path / "model")

    np.testing.assert_array_equal(again, ours)
    np.testing.assert_allclose(theirs, ours, atol=FP32)
    text_model = TextModel(changed, tokenizer)
    served = LoadedModel(export(text_model, tmp_path / "export" / "long"))
    answer = served.predict("generate", {"prompt": ["The value of"], "max_new_tokens": [500]})
    here = text_model.generate(["The value of"], 500)[0]
    assert answer["text"][0].decode() == here.text
    assert here.finish_reason == "stop" or here.token_count + len(tokenizer("The value of").input_ids) >= context


def test_sines_and_cosines_go_on_where_the_context_grows(model):
    waves = set_positions(model, "sinusoidal")

    longer = extend_context(waves, 100)

    old, new = (table_of(one, "transformer.wpe.weight") for one in (waves, longer))
    np.testing.assert_allclose(new[:48], old, atol=1e-6 * np.abs(old).max())  # one product in fp32
    np.testing.assert_allclose(new, np.abs(old).max() * weights.sinusoids(100, 32).numpy(), atol=1e-6 * np.abs(old).max())


def test_sinusoidal_positions_are_as_large_as_those_they_replace_and_never_trained(model, tmp_path):
    changed = set_positions(model, "sinusoidal")
    old, new = (table_of(one, "transformer.wpe.weight").astype(float) for one in (model, changed))

    np.testing.assert_allclose((new**2).mean(), (old**2).mean(), rtol=1e-4)  # fp32, over 1,536 numbers
    angle = 7 / 10_000 ** (2 / 32)
    np.testing.assert_allclose(new[7, 2:4] / new[0, 1], [np.sin(angle), np.cos(angle)], atol=1e-6)
    assert "transformer.wpe.weight" not in fit_once(changed)
    ours, again, theirs = saved_and_in_pytorch(changed, tmp_path)
    np.testing.assert_array_equal(again, ours)
    np.testing.assert_allclose(theirs, ours, atol=FP32)
    assert load_model(tmp_path).config.positions == "sinusoidal" and not load_model(tmp_path).transformer.wpe.trainable
    assert np.abs(changed(random_ids(model, 1, 20)).logits - model(random_ids(model, 1, 20)).logits).max() > 0.1


def test_sinusoidal_positions_become_learned_without_a_change_of_the_function(model):
    waves = set_positions(model, "sinusoidal")

    learned = set_positions(waves, "learned")

    ids = random_ids(model, 2, 20)
    np.testing.assert_array_equal(learned(ids).logits, waves(ids).logits)
    assert "transformer.wpe.weight" in fit_once(learned)


def test_contexts_and_kinds_that_there_are_not_are_refused(model):
    with pytest.raises(ValueError, match="adapt.context: 0 is too small"):
        extend_context(model, 0)
    with pytest.raises(ValueError, match="adapt.positions: 'rotary' is none of learned, sinusoidal"):
        set_positions(model, "rotary")
