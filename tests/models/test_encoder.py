"""A model with an encoder against PyTorch's GPT-2 with cross-attention, and what must not change its loss."""
import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from safetensors.numpy import load_file
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

from tests.small_models import build_larger
from tfgpt.data.packing import IGNORED, Tokens, cut_documents, pack
from tfgpt.models import build, surgery, weights
from tfgpt.models.adapt import adapt
from tfgpt.models.adaptation import matches
from tfgpt.models.causal_lm import GPTLMHeadModel
from tfgpt.models.lora import add_lora, merge_lora
from tfgpt.models.step import StepSettings, summed_gradients
from tfgpt.recipe import AdaptConfig, BottleneckConfig, EncoderConfig, LoraConfig, PrefixConfig
from tfgpt.training.devices import Devices

FP32 = 1e-4
"""Of logits of size 1 to 50: a few layers of fp32 sums in another order."""
VOCAB, CONTEXT, SOURCE_CONTEXT = 97, 24, 20


@pytest.fixture(scope="module")
def plain():
    """Three layers of width 32 with large weights."""
    config = GPT2Config(vocab_size=VOCAB, n_positions=CONTEXT, n_embd=32, n_layer=3, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
                        bos_token_id=0, eos_token_id=0)
    model = GPTLMHeadModel(config)
    model.build_in_name_scope()
    weights.initialize(model, seed=2)
    return larger(model)


@pytest.fixture(scope="module")
def translator(plain):
    """The same with an encoder of two layers, every weight of which counts."""
    return larger(surgery.add_encoder(plain, EncoderConfig(kind="new", layers=2, context=SOURCE_CONTEXT), seed=4))


def larger(model):
    for number, variable in enumerate(model.weights):
        if matches("**.crossattention.c_proj.weight", weights.short_name(variable)):
            variable.assign(tf.random.stateless_normal(variable.shape, seed=[5, number], stddev=0.3))
        else:
            variable.assign(0.5 * build_larger(variable, number) if variable.shape.rank > 1 else build_larger(variable, number))
    return model


def random_ids(*shape, seed=1):
    return np.random.default_rng(seed).integers(1, VOCAB, shape).astype(np.int32)


def source_and_target(seed, source_size=9, target_size=11):
    """Return a batch of one pair, as it is trained on."""
    source, target = random_ids(source_size, seed=seed), random_ids(target_size, seed=seed + 100)
    return {"input_ids": np.array([[0, *target]], np.int32), "labels": np.array([[*target, 0]], np.int32),
            "encoder_input_ids": np.array([[*source, 0]], np.int32)}


def packed(pairs, length=CONTEXT, source_length=SOURCE_CONTEXT):
    """Return pairs in as few sequences as hold them."""
    flat = {key: np.concatenate([pair[key][0] for pair in pairs]) for key in pairs[0]}
    sizes, source_sizes = (np.array([pair[key].size for pair in pairs]) for key in ("input_ids", "encoder_input_ids"))
    tokens = Tokens(flat["input_ids"], flat["labels"], sizes, flat["encoder_input_ids"], source_sizes)
    (block,) = pack(tokens, cut_documents(sizes, length, length), length, source_length)
    return block


def loss_of(model, batch):
    terms = model.loss_terms({key: tf.constant(value) for key, value in batch.items()})
    return float(terms.loss), int(terms.tokens)


def numpy_norm(x, gamma, beta, epsilon=1e-5):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + epsilon) * gamma + beta


# The function.


@pytest.mark.parametrize("kind", ["new", "copy"])
def test_adding_an_encoder_changes_nothing_at_first(plain, kind):
    adapted = surgery.add_encoder(plain, EncoderConfig(kind=kind, context=SOURCE_CONTEXT), seed=9)
    batch = source_and_target(1)
    alone = {key: value for key, value in batch.items() if not key.startswith("encoder")}

    np.testing.assert_array_equal(adapted(batch["input_ids"]).logits, plain(batch["input_ids"]).logits)
    assert loss_of(adapted, batch) == loss_of(plain, alone)  # the source is read, and what is found of it multiplied by 0


def test_the_decoder_equals_pytorchs_with_cross_attention(translator, tmp_path):
    translator.save_pretrained(tmp_path)
    reference, report = GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    states = np.random.default_rng(3).normal(size=[2, 7, 32]).astype(np.float32)
    seen = np.array([[1] * 7, [1] * 4 + [0] * 3])
    ids = random_ids(2, CONTEXT)

    ours = translator(ids, encoder_hidden_states=states, encoder_attention_mask=seen).logits

    with torch.no_grad():
        theirs = reference.eval()(torch.tensor(ids).long(), encoder_hidden_states=torch.tensor(states), encoder_attention_mask=torch.tensor(seen)).logits
    assert not report["missing_keys"] and not report["unexpected_keys"]
    np.testing.assert_allclose(ours, theirs, atol=FP32)
    assert np.abs(ours - translator(ids).logits).max() > 1.0  # the states count


def test_the_encoder_equals_pytorchs_gpt2_without_its_causal_mask(translator):
    reference = torch_encoder(translator)
    lengths = np.array([SOURCE_CONTEXT, 7])
    ids = random_ids(2, SOURCE_CONTEXT)

    states = translator.encode(tf.constant(ids), tf.constant(lengths, tf.int32)).states.numpy()

    for row, length in enumerate(lengths):
        np.testing.assert_allclose(states[row, :length], encoded_by_torch(reference, ids[row, :length]), atol=FP32)


def torch_encoder(model):
    """Return PyTorch's `GPT2Model` with the encoder's weights and a mask that hides nothing."""
    tensors = {name: torch.tensor(array) for name, array in weights.state(model).items()}
    layers = model.adaptation.encoder.layers
    config = GPT2Config.from_dict(model.config.to_dict() | {"n_layer": layers, "n_positions": SOURCE_CONTEXT, "add_cross_attention": False})
    config._attn_implementation = "eager"
    reference = GPT2Model(config).eval()
    of_encoder = {name.removeprefix("encoder."): tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
    missing, unexpected = reference.load_state_dict(of_encoder | {"wte.weight": tensors["transformer.wte.weight"]}, strict=False)
    assert not unexpected and all(name.endswith(("attn.bias", "attn.masked_bias")) for name in missing)
    for block in reference.h:
        block.attn.bias.fill_(True)
    return reference


def encoded_by_torch(reference, ids):
    everything = torch.zeros(1, 1, len(ids), len(ids))
    with torch.no_grad():
        return reference(torch.tensor(ids[np.newaxis]).long(), attention_mask=everything).last_hidden_state[0].numpy()


def test_the_whole_model_equals_pytorchs_two_halves(translator, tmp_path):
    translator.save_pretrained(tmp_path)
    decoder, encoder = GPT2LMHeadModel.from_pretrained(tmp_path).eval(), torch_encoder(translator)
    pairs = [source_and_target(seed, source_size=3 + seed, target_size=14 - seed) for seed in range(1, 7)]

    for pair in pairs:
        states = torch.tensor(encoded_by_torch(encoder, pair["encoder_input_ids"][0]))[np.newaxis]
        with torch.no_grad():
            logits = decoder(torch.tensor(pair["input_ids"]).long(), encoder_hidden_states=states).logits[0].double()
        theirs = torch.nn.functional.cross_entropy(logits, torch.tensor(pair["labels"][0]).long(), reduction="sum").item()

        assert loss_of(translator, pair)[0] == pytest.approx(theirs, rel=1e-5)  # a sum of a dozen fp32 terms


def test_a_source_is_read_in_both_directions(translator):
    ids = random_ids(1, 8)
    changed = ids.copy()
    changed[0, 7] = (changed[0, 7] + 1) % VOCAB

    first, second = (translator.encode(tf.constant(tokens), tf.constant([8])).states.numpy() for tokens in (ids, changed))

    assert np.abs(first[0, 0] - second[0, 0]).max() > 1e-3  # the first token has seen the last


def test_a_copied_encoder_is_the_models_own_blocks(plain):
    adapted = surgery.add_encoder(plain, EncoderConfig(kind="copy", layers=2, context=10), seed=9)

    of_plain, of_adapted = weights.state(plain), weights.state(adapted)
    for number, block in enumerate((0, 2)):  # evenly chosen of three, the first and the last among them
        for part in ("ln_1.weight", "attn.c_attn.weight", "attn.c_proj.bias", "mlp.c_fc.weight", "mlp.c_proj.weight"):
            np.testing.assert_array_equal(of_adapted[f"encoder.h.{number}.{part}"], of_plain[f"transformer.h.{block}.{part}"])
    np.testing.assert_array_equal(of_adapted["encoder.wpe.weight"], of_plain["transformer.wpe.weight"][:10])
    np.testing.assert_array_equal(of_adapted["encoder.ln_f.weight"], of_plain["transformer.ln_f.weight"])


def test_a_copied_encoder_has_loras_changes_in_its_matrices(plain):
    changed = add_lora(plain, LoraConfig(rank=2), seed=1)
    for variable in changed.weights:
        if matches("**.lora.b", weights.short_name(variable)):
            variable.assign(tf.ones(variable.shape))

    adapted = surgery.add_encoder(changed, EncoderConfig(kind="copy"), seed=9)

    copy, name = weights.state(adapted)["encoder.h.1.attn.c_attn.weight"], "transformer.h.1.attn.c_attn.weight"
    np.testing.assert_array_equal(copy, weights.state(changed, merged=True)[name])
    assert np.abs(copy - weights.state(plain)[name]).max() > 0.1


# What must not matter.


def test_a_packed_batch_gives_each_pair_the_loss_it_has_alone(translator):
    pairs = [source_and_target(seed, source_size=2 + 2 * (seed % 4), target_size=3 + 3 * (seed % 3)) for seed in range(9)]
    block = packed(pairs)
    assert len(block["labels"]) < len(pairs) and (block["segment_ids"] == 0).any()  # some do share a sequence, and some places hold nothing

    loss, tokens = loss_of(translator, block)

    alone = [loss_of(translator, pair) for pair in pairs]
    assert tokens == sum(count for _, count in alone)
    assert loss == pytest.approx(sum(part for part, _ in alone), rel=1e-5)  # the same fp32 terms, summed over other places


def test_a_segment_sees_nothing_of_anothers_source(translator):
    block = packed([source_and_target(1, 6, 6), source_and_target(2, 6, 6)])
    other = {key: value.copy() for key, value in block.items()}
    of_second = other["encoder_segment_ids"] == 2
    other["encoder_input_ids"][of_second] = (other["encoder_input_ids"][of_second] + 1) % VOCAB
    only = {number: np.where(block["segment_ids"] == number, block["labels"], IGNORED) for number in (1, 2)}

    first, second = ([loss_of(translator, batch | {"labels": only[number]})[0] for number in (1, 2)] for batch in (block, other))

    assert first[0] == second[0]
    assert abs(first[1] - second[1]) > 0.1


def test_padding_of_sources_and_targets_does_not_change_the_loss(translator):
    pair = source_and_target(3)
    whole = pair | {"segment_ids": np.ones_like(pair["labels"]), "encoder_segment_ids": np.ones_like(pair["encoder_input_ids"])}
    padded = {key: np.pad(value, [[0, 0], [0, 7]], constant_values=IGNORED if key == "labels" else 0) for key, value in whole.items()}
    positions = np.minimum(np.arange(17), SOURCE_CONTEXT - 1)[np.newaxis]

    plain_loss, tokens = loss_of(translator, pair)
    padded_loss, same = loss_of(translator, padded | {"encoder_position_ids": positions.astype(np.int32)})

    assert padded_loss == pytest.approx(plain_loss, rel=2e-6) and same == tokens  # padded sums of fp32 terms


# Training.


def gradients(model, batch, **settings):
    settings = StepSettings(**settings)
    model.compile(tf_keras.optimizers.SGD(0.1), settings=settings)
    step = tf.function(lambda batch: summed_gradients(model, batch, settings, 1.0))
    terms, found = step({key: tf.constant(value) for key, value in batch.items()})
    return float(terms.loss), {weights.short_name(variable): gradient.numpy() for variable, gradient in zip(model.trainable_variables, found)}


def several_rows():
    block = packed([source_and_target(seed, source_size=2 + 2 * (seed % 4), target_size=3 + 3 * (seed % 3)) for seed in range(14)])
    return {key: value[:4] for key, value in block.items()}


def test_gradients_equal_pytorchs(translator, tmp_path):
    translator.save_pretrained(tmp_path)
    pair = source_and_target(5)
    decoder, encoder = GPT2LMHeadModel.from_pretrained(tmp_path).eval(), torch_encoder(translator)
    encoder.wte.weight = decoder.transformer.wte.weight  # one table, as here
    ids = torch.tensor(pair["encoder_input_ids"]).long()
    states = encoder(ids, attention_mask=torch.zeros(1, 1, ids.shape[1], ids.shape[1])).last_hidden_state
    logits = decoder(torch.tensor(pair["input_ids"]).long(), encoder_hidden_states=states).logits[0]
    torch.nn.functional.cross_entropy(logits, torch.tensor(pair["labels"][0]).long(), reduction="sum").backward()

    _, ours = gradients(translator, pair)

    theirs = {f"encoder.{name}": parameter.grad for name, parameter in encoder.named_parameters() if name != "wte.weight"}
    theirs |= {name.removeprefix("transformer."): parameter.grad for name, parameter in decoder.named_parameters()}
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        scale = float(gradient.abs().max())
        np.testing.assert_allclose(ours[name].reshape(gradient.shape) / scale, gradient.numpy() / scale, atol=2e-4, err_msg=name)  # fp32, five layers deep


@pytest.mark.parametrize("settings", [pytest.param({"accumulate": 2}, marks=pytest.mark.slow), {"recompute": True, "lanes": 2}])
def test_cutting_a_batch_or_recomputing_changes_no_gradient(translator, settings):
    batch = several_rows()
    assert len(batch["labels"]) == 4

    model = surgery.set_dropout(translator, 0.2)

    (loss, whole), (same, other) = gradients(model, batch), gradients(model, batch, **settings)

    assert same == pytest.approx(loss, rel=1e-5)
    for name, gradient in whole.items():
        np.testing.assert_allclose(other[name], gradient, atol=1e-4 * np.abs(gradient).max(), err_msg=name)  # sums in another order


def test_recomputing_keeps_the_gradients_of_a_prefix(plain):
    model = larger(surgery.changed(plain, seed=1, prefix=PrefixConfig(tokens=3)))
    batch = {"input_ids": random_ids(2, 8), "labels": random_ids(2, 8, seed=2)}

    (_, whole), (_, other) = gradients(model, batch), gradients(model, batch, recompute=True)

    assert sorted(whole) == sorted(other) and "h.0.attn.prefix.keys" in whole
    for name, gradient in whole.items():
        np.testing.assert_allclose(other[name], gradient, atol=1e-5 * np.abs(gradient).max(), err_msg=name)


def test_a_step_in_bfloat16_is_near_that_in_float32(translator):
    batch = several_rows()

    (loss, whole), (near, other) = gradients(translator, batch), gradients(translator, batch, precision="bfloat16")

    assert near == pytest.approx(loss, rel=0.03)  # bfloat16 has 8 bits, and these weights are large
    table = "encoder.h.0.attn.c_attn.weight"
    assert np.corrcoef(whole[table].ravel(), other[table].ravel())[0, 1] > 0.9


@pytest.mark.slow
def test_two_replicas_take_the_step_of_one(plain):
    config = EncoderConfig(kind="new", layers=1, context=SOURCE_CONTEXT)
    tensors = weights.state(larger(surgery.add_encoder(plain, config, seed=4)))
    shape = surgery.add_encoder(plain, config).config
    batch, after = several_rows(), []

    for strategy in (tf.distribute.OneDeviceStrategy("/cpu:0"), Devices("mirrored").strategy):  # the one of this process
        with strategy.scope():
            model = build.model_of(shape, tensors)
            model.compile(tf_keras.optimizers.SGD(0.01))
        model.fit(strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensors(batch).unbatch().batch(4)), steps_per_epoch=1, verbose=0)
        after.append(weights.state(model))

    for name, array in after[0].items():
        np.testing.assert_allclose(after[1][name], array, atol=1e-5 * max(1.0, np.abs(array).max()), err_msg=name)  # sums in another order


@pytest.mark.parametrize("patterns", [("encoder",), ("**.crossattention", "**.ln_cross_attn"), ("encoder.h.1",)])
def test_only_the_chosen_variables_move(plain, patterns):
    model = larger(surgery.add_encoder(plain, EncoderConfig(kind="new", layers=2, context=SOURCE_CONTEXT), seed=4))
    model.train_only(patterns)
    before = weights.state(model)

    model.compile(tf_keras.optimizers.AdamW(1e-2))
    model.fit(tf.data.Dataset.from_tensors(several_rows()), verbose=0)

    moved = {name.removeprefix("transformer.") for name, array in weights.state(model).items() if np.any(array != before[name])}
    wanted = {name for name in model.weight_names if any(matches(pattern, name) for pattern in patterns)}
    assert moved <= wanted
    still = wanted - moved
    assert all(name.endswith(("c_attn.bias", "wpe.weight")) for name in still), still  # a key's bias has no gradient; some positions do not occur


def test_a_new_encoder_learns_to_copy_where_the_decoder_alone_cannot():
    config = GPT2Config(vocab_size=17, n_positions=8, n_embd=32, n_layer=1, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    start = GPTLMHeadModel(config)
    start.build_in_name_scope()
    weights.initialize(start, seed=1)
    model = surgery.add_encoder(start, EncoderConfig(kind="new"), seed=1)
    ids = np.random.default_rng(1).integers(1, 17, [512, 5]).astype(np.int32)
    end = np.zeros([512, 1], np.int32)
    batch = {"input_ids": np.hstack([end, ids]), "labels": np.hstack([ids, end]), "encoder_input_ids": np.hstack([ids, end])}
    model.compile(tf_keras.optimizers.AdamW(3e-3))

    model.fit(tf.data.Dataset.from_tensor_slices(batch).batch(64).repeat(), steps_per_epoch=150, verbose=0)

    assert loss_of(model, batch)[0] / batch["labels"].size < 0.1  # a decoder alone stays at 5/6 x ln(16) = 2.31 nats


# Saved, loaded, refused.


def test_a_saved_folder_loads_with_the_same_weights_and_loss(translator, tmp_path):
    translator.save_pretrained(tmp_path)

    loaded = build.load_model(tmp_path)

    batch = several_rows()
    assert loss_of(loaded, batch) == loss_of(translator, batch)
    assert loaded.adaptation.encoder == EncoderConfig(kind="new", layers=2, context=SOURCE_CONTEXT)
    beside, inside = (set(load_file(tmp_path / file)) for file in ("adaptation.safetensors", "model.safetensors"))
    assert beside == {name for name in weights.state(translator) if name.startswith("encoder.")} and "transformer.h.2.crossattention.q_attn.weight" in inside


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_stored_weights_give_nearly_the_same_loss(translator, tmp_path, kind):
    translator.save_pretrained(tmp_path)
    batch = {key: tf.constant(value) for key, value in several_rows().items()}
    stored = build.load_model(tmp_path, kind)

    loss, exact = (tf.function(model.loss_terms)(batch).loss.numpy() for model in (stored, translator))

    assert loss == pytest.approx(exact, rel=0.05)  # 8 bits a number, large weights
    left = {name for name in stored.weight_names if name.endswith(("c_attn.weight", "q_attn.weight", "c_fc.weight", "c_proj.weight"))}
    assert not left  # all matrices are stored


def test_lora_may_change_the_encoder_and_cross_attention(plain):
    lora = LoraConfig(rank=2, matrices=("encoder.h.*.attn.c_attn", "h.*.crossattention.*"))
    model = adapt(plain, AdaptConfig(encoder=EncoderConfig(kind="new"), lora=lora), seed=1, importance=lambda model: {}, labels={})

    names = [name for name in model.weight_names if matches("**.lora", name)]
    assert {"encoder.h.0.attn.c_attn.lora.a", "h.2.crossattention.q_attn.lora.b"} <= set(names) and len(names) == 2 * (3 + 3 * 3)
    merged = merge_lora(model)
    assert loss_of(merged, several_rows()) == loss_of(model, several_rows())


def test_bottlenecks_and_prefixes_stay_the_decoders(plain):
    model = surgery.changed(surgery.add_encoder(plain, EncoderConfig(kind="new"), seed=1), bottleneck=BottleneckConfig(width=4), prefix=PrefixConfig(tokens=2),
                            masked_heads=("0.1",), pruned_heads=("1.0",))

    assert not [name for name in model.weight_names if name.startswith("encoder") and ("bottleneck" in name or "prefix" in name)]
    assert {block.attn.n_head for block in model.encoder.h} == {4} and not [block for block in model.encoder.h if block.attn.gates]
    assert np.isfinite(loss_of(model, several_rows())[0])


def test_dropout_draws_other_masks_in_the_encoder_than_in_the_decoder(plain):
    config = dataclasses.replace(EncoderConfig(kind="copy"), layers=3)
    model = surgery.changed(surgery.add_encoder(plain, config), of_config={"resid_pdrop": 0.1, "attn_pdrop": 0.1, "embd_pdrop": 0.1})

    salts = [dropout._salt for block in (*model.transformer.h, *model.encoder.h) for dropout in (*block._dropouts, block.attn._dropout)]
    salts += [dropout._salt for block in model.transformer.h for dropout in (block.crossattention._dropout, block.crossattention.residual_dropout)]
    salts += [model.transformer.drop._salt, model.encoder._dropout._salt]

    assert len(set(salts)) == len(salts) == 6 * 3 + 3 * 2 + 2


def test_what_cannot_be_is_told(plain, translator):
    with pytest.raises(ValueError, match=r"adapt.encoder.layers: 5 cannot be copied from a model that has 3; set it to 3 or less"):
        surgery.add_encoder(plain, EncoderConfig(kind="copy", layers=5))
    with pytest.raises(ValueError, match=r"adapt.encoder.context: 99 cannot be copied from a model that has 24"):
        surgery.add_encoder(plain, EncoderConfig(kind="copy", context=99))
    with pytest.raises(ValueError, match=r"adapt.encoder.kind: new, and the model has an encoder"):
        surgery.add_encoder(translator, EncoderConfig(kind="new"))
    with pytest.raises(ValueError, match=r"a batch has encoder_input_ids where the model has an encoder"):
        loss_of(translator, {"input_ids": random_ids(1, 4), "labels": random_ids(1, 4)})
    with pytest.raises(ValueError, match=r"a batch has encoder_input_ids where the model has an encoder"):
        loss_of(plain, source_and_target(1))
    with pytest.raises(ValueError, match=r"encoder_hidden_states: this model has no cross-attention"):
        plain(random_ids(1, 4), encoder_hidden_states=np.zeros([1, 2, 32], np.float32))
