"""Changes of a model: what must stay the same stays, what must change changes, only what is chosen moves, and all of it survives a save and an export."""
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from transformers import GPT2LMHeadModel, TFGPT2LMHeadModel

from tfgpt.generation.text_model import TextModel
from tfgpt.models import surgery, weights
from tfgpt.models.adapt import adapt
from tfgpt.models.build import load_model
from tfgpt.models.cache import StaticCache
from tfgpt.models.causal_lm import GPTLMHeadModel
from tfgpt.models.pruning import head_importance, least_important, mask_heads, prune_heads
from tfgpt.models.step import StepSettings
from tfgpt.models.transformer import segment_mask
from tfgpt.recipe import AdaptConfig, BottleneckConfig, PrefixConfig
from tfgpt.recipe_adapt import AttentionConfig, LoraConfig
from tfgpt.serving.export import export
from tfgpt.serving.saved_model import LoadedModel

FP32 = 2e-4
"""Of logits of size 1 to 60: two layers of fp32 sums in another order."""


def random_ids(model, *shape, seed=1):
    return np.random.default_rng(seed).integers(0, model.config.vocab_size, shape).astype(np.int32)


def batch_of(model, rows=4, length=17, seed=1):
    ids = random_ids(model, rows, length, seed=seed)
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}


def noisy(model):
    """Give every weight that is 0 at first another value, in place, and return the model."""
    for number, variable in enumerate(model.weights):
        if not np.any(variable.numpy()):
            variable.assign(tf.random.stateless_normal(variable.shape, [number, 8], stddev=0.1))
    return model


def moved(before, after):
    return {name for name in before if (before[name] != after[name]).any()}


CHANGES = {
    "insert_blocks": lambda model: noisy(surgery.insert_blocks(model, [0, 2, 2], seed=4)),
    "bottleneck": lambda model: noisy(surgery.add_bottleneck(model, BottleneckConfig(width=3), seed=4)),
    "prefix": lambda model: surgery.add_prefix(model, PrefixConfig(tokens=5), seed=4),
    "prompt": lambda model: surgery.add_prefix(model, PrefixConfig(tokens=5, kind="prompt"), seed=4),
    "window": lambda model: surgery.set_window(model, 6),
    "masked": lambda model: mask_heads(model, ["0.1", "1.3"]),
    "pruned": lambda model: prune_heads(model, ["0.1", "1.0", "1.3"]),
}
changes = pytest.mark.parametrize("change", CHANGES)


@pytest.fixture(scope="module")
def eager_torch_model(model_folder):
    """PyTorch's model with the one of its attentions that knows head masks."""
    return GPT2LMHeadModel.from_pretrained(model_folder, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def adapted(model):
    made = {}
    return lambda change: made.setdefault(change, CHANGES[change](model))


@changes
def test_the_function_changes_and_the_given_model_does_not(adapted, change, model):
    ids = random_ids(model, 2, 20)
    before = model(ids).logits.numpy()

    after = adapted(change)(ids).logits

    assert np.abs(after - before).max() > 0.1
    np.testing.assert_array_equal(model(ids).logits, before)


@changes
def test_saved_and_loaded_it_is_the_same(adapted, change, tmp_path):
    ids = random_ids(adapted(change), 2, 20)
    adapted(change).save_pretrained(tmp_path)

    loaded = load_model(tmp_path)

    np.testing.assert_array_equal(loaded(ids).logits, adapted(change)(ids).logits)
    assert loaded.adaptation == adapted(change).adaptation


@changes
def test_reading_over_a_cache_is_reading_at_once(adapted, change):
    model = adapted(change)
    ids = tf.constant(random_ids(model, 2, 12))
    cache, logits = model.empty_cache(2, 16), []

    for first, last in ((0, 5), (5, 6), (6, 12)):
        places = tf.repeat(tf.range(first, last)[tf.newaxis], 2, axis=0)
        found, cache = model.read(ids[:, first:last], places, places - first, cache)
        logits.append(found)

    assert isinstance(cache, StaticCache)
    np.testing.assert_allclose(tf.concat(logits, axis=1), model(ids).logits, atol=FP32)


@changes
def test_packed_documents_do_not_see_each_other(adapted, change):
    model = adapted(change)
    first, second = random_ids(model, 1, 7, seed=2), random_ids(model, 1, 9, seed=3)
    packed = tf.concat([first, second], axis=1)
    segments = tf.constant([[1] * 7 + [2] * 9])

    logits = model(packed, attention_mask=segment_mask(segments), position_ids=tf.constant([[*range(7), *range(9)]])).logits

    np.testing.assert_allclose(logits[:, :7], model(first).logits, atol=FP32)
    np.testing.assert_allclose(logits[:, 7:], model(second).logits, atol=FP32)


@pytest.mark.parametrize("change", [change if change == "prompt" else pytest.param(change, marks=pytest.mark.slow) for change in CHANGES])
def test_exported_it_writes_the_same_text(adapted, change, tokenizer, tmp_path):
    text_model = TextModel(adapted(change), tokenizer)
    prompts = ["It was", "", "The with statement is used to wrap the execution of a block"]

    served = LoadedModel(export(text_model, tmp_path)).predict("generate", {"prompt": prompts, "max_new_tokens": [9]})

    assert [text.decode() for text in served["text"]] == [row.text for row in text_model.generate(prompts, 9)]


@changes
def test_engine_lite_and_int8_hold_it(adapted, change, tmp_path):
    model = adapted(change)
    if change == "prompt":
        model = surgery.prompt_as_prefix(model)  # as a recipe keeps it
    model.save_pretrained(tmp_path)
    ids, places = tf.constant(random_ids(model, 1, 12)), tf.range(12)[tf.newaxis]
    expected = model(ids).logits.numpy()

    for options, tolerance in (({"engine": "lite"}, 1e-5), ({"weights": "int8"}, 0.04)):  # of the largest; int8: half a step of 127 in each of two layers
        found = load_model(tmp_path, **options).read(ids, places, places, None)[0]
        np.testing.assert_allclose(found / np.abs(expected).max(), expected / np.abs(expected).max(), atol=tolerance)


@pytest.mark.parametrize("settings", [StepSettings(), StepSettings(precision="bfloat16", recompute=True)], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("change", "trained"), [("bottleneck", "**.bottleneck_*"), ("prefix", "**.prefix"), ("prompt", "prompt")])
def test_only_what_is_new_moves(model, change, trained, settings):
    found = CHANGES[change](model)
    before = weights.state(found)
    found.compile(optimizer=tf_keras.optimizers.SGD(1.0), settings=settings)

    found.train_on_batch(batch_of(found))

    assert moved(before, weights.state(found)) == {name for name in before if surgery.matches(trained, name.removeprefix("transformer."))}


@pytest.mark.parametrize(("patterns", "freeze", "expected"), [
    (["h.*.attn"], [], {"h.0.attn", "h.1.attn"}),
    (["h.1"], ["h.1.mlp", "**.bias"], {"h.1.attn", "h.1.ln_1", "h.1.ln_2"}),
    (["wte", "ln_f"], [], {"wte.weight", "ln_f.weight", "ln_f.bias"}),
])
def test_only_chosen_parts_are_trained(model, patterns, freeze, expected):
    found = surgery.changed(model)
    before = weights.state(found)
    found.train_only(patterns, freeze)
    found.compile(optimizer=tf_keras.optimizers.SGD(1.0))

    found.train_on_batch(batch_of(found))

    names = {name.removeprefix("transformer.") for name in moved(before, weights.state(found))}
    assert {".".join(name.split(".")[: 3 if name.startswith("h.") else 2]) for name in names} == expected
    assert not (freeze and any(name.endswith(".bias") for name in names))


def test_inserted_blocks_change_nothing_at_first_and_learn(model):
    ids = random_ids(model, 2, 20)

    found = surgery.insert_blocks(model, [0, 2, 2], seed=4)

    assert found.config.n_layer == 5
    np.testing.assert_array_equal(found(ids).logits, model(ids).logits)
    old, new = weights.state(model), weights.state(found)
    for before, after in ((0, 1), (1, 2)):
        np.testing.assert_array_equal(new[f"transformer.h.{after}.mlp.c_fc.weight"], old[f"transformer.h.{before}.mlp.c_fc.weight"])
    found.train_only(["h.0", "h.3", "h.4"])
    found.compile(optimizer=tf_keras.optimizers.SGD(0.1))
    found.train_on_batch(batch_of(found))
    assert {name.split(".")[2] for name in moved(new, weights.state(found))} == {"0", "3", "4"}


def test_inserted_blocks_leave_heads_in_their_blocks(model):
    ids = random_ids(model, 2, 20)
    masked = prune_heads(mask_heads(model, ["0.1", "1.3"]), ["1.0"])

    found = surgery.insert_blocks(masked, [0, 1])

    assert found.adaptation.masked_heads == ("1.1", "3.3") and found.adaptation.pruned_heads == ("3.0",)
    np.testing.assert_allclose(found(ids).logits, masked(ids).logits, atol=1e-6)


def test_a_deeper_model_loads_in_pytorch(adapted, tmp_path):
    ids = random_ids(adapted("insert_blocks"), 2, 20)
    adapted("insert_blocks").save_pretrained(tmp_path)

    with torch.no_grad():
        theirs = GPT2LMHeadModel.from_pretrained(tmp_path).eval()(torch.tensor(ids).long()).logits

    np.testing.assert_allclose(adapted("insert_blocks")(ids).logits, theirs, atol=FP32)


def test_bottlenecks_change_nothing_at_first(model):
    ids = random_ids(model, 2, 20)

    np.testing.assert_array_equal(surgery.add_bottleneck(model, BottleneckConfig(width=3, places=("mlp",)))(ids).logits, model(ids).logits)


def test_a_bottleneck_is_the_formula(model):
    found = noisy(surgery.add_bottleneck(model, BottleneckConfig(width=3)))
    layer = found.transformer.h[0].bottlenecks["attn"]
    x, bias = np.random.default_rng(1).normal(size=[2, 3, 32]).astype(np.float32), np.random.default_rng(2).normal(size=[1, 32]).astype(np.float32)
    inner = (x + bias) @ layer.down.weight.numpy() + layer.down.bias.numpy()
    inner = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))

    np.testing.assert_allclose(layer(tf.constant(x), tf.constant(bias)), x + inner @ layer.up.weight.numpy() + layer.up.bias.numpy(), atol=1e-5)


def test_a_prefix_is_pytorchs_past(adapted, model, torch_model):
    found, ids = adapted("prefix"), random_ids(model, 1, 20)
    from transformers import DynamicCache

    past = DynamicCache.from_legacy_cache(tuple(tuple(torch.tensor(part.numpy()) for part in pair) for pair in found.transformer.first_keys()))

    with torch.no_grad():
        theirs = torch_model(torch.tensor(ids).long(), past_key_values=past, position_ids=torch.arange(20)[None]).logits

    np.testing.assert_allclose(found(ids).logits, theirs, atol=FP32)


def test_a_prompt_and_the_prefix_made_of_it_are_one_function(adapted):
    ids = random_ids(adapted("prompt"), 2, 20)

    prefix = surgery.prompt_as_prefix(adapted("prompt"))

    assert prefix.transformer.prompt is None
    np.testing.assert_allclose(prefix(ids).logits, adapted("prompt")(ids).logits, atol=1e-5)


def test_a_window_is_a_banded_mask_in_pytorch(adapted, torch_model):
    ids = random_ids(adapted("window"), 1, 20)
    distance = torch.arange(20)[:, None] - torch.arange(20)[None]
    mask = torch.where((distance >= 0) & (distance < 6), 0.0, float("-inf"))[None, None]

    with torch.no_grad():
        theirs = torch_model(torch.tensor(ids).long(), attention_mask=mask).logits

    np.testing.assert_allclose(adapted("window")(ids).logits, theirs, atol=FP32)


def test_a_window_as_long_as_the_context_changes_nothing(model):
    ids = random_ids(model, 2, model.config.n_positions)

    np.testing.assert_array_equal(surgery.set_window(model, model.config.n_positions)(ids).logits, model(ids).logits)


def test_masked_heads_are_pytorchs_head_mask_and_can_be_switched_on_again(adapted, model, eager_torch_model):
    ids, mask = random_ids(model, 2, 20), torch.ones([2, 4])
    mask[0, 1] = mask[1, 3] = 0.0

    with torch.no_grad():
        theirs = eager_torch_model(torch.tensor(ids).long(), head_mask=mask).logits

    np.testing.assert_allclose(adapted("masked")(ids).logits, theirs, atol=FP32)
    np.testing.assert_array_equal(mask_heads(adapted("masked"), [])(ids).logits, model(ids).logits)


def test_pruned_heads_are_pytorchs_and_its_file_is_a_whole_gpt2(adapted, torch_model, tmp_path):
    found, ids = adapted("pruned"), random_ids(adapted("pruned"), 2, 20)
    found.save_pretrained(tmp_path)
    whole = GPT2LMHeadModel.from_pretrained(tmp_path).eval()  # zeros in their places
    cut = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    cut.transformer._prune_heads({0: [1], 1: [0, 3]})

    assert found.count_params() == sum(weight.numel() for weight in cut.parameters())
    with torch.no_grad():
        for theirs in (whole, cut):
            np.testing.assert_allclose(found(ids).logits, theirs(torch.tensor(ids).long()).logits, atol=FP32)


def test_pruning_equals_masking_and_pruned_heads_are_trained_no_more(adapted, model):
    ids = random_ids(model, 2, 20)

    np.testing.assert_allclose(adapted("pruned")(ids).logits, mask_heads(model, ["0.1", "1.0", "1.3"])(ids).logits, atol=1e-5)
    assert sum(variable.shape.num_elements() for variable in model.weights) - adapted("pruned").count_params() == 3 * (3 * (32 + 1) * 8 + 8 * 32)


def test_importance_is_the_slope_by_a_head_mask_in_pytorch(model, eager_torch_model):
    batch = batch_of(model, rows=3, seed=6)
    expected = np.zeros([2, 4])
    for inputs, labels in zip(batch["input_ids"], batch["labels"]):
        mask = torch.ones([2, 4], requires_grad=True)
        logits = eager_torch_model(torch.tensor(inputs[None]).long(), head_mask=mask).logits[0]
        torch.nn.functional.cross_entropy(logits, torch.tensor(labels).long(), reduction="sum").backward()
        expected += np.abs(mask.grad.numpy())
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)

    found = head_importance(model, [{key: tf.constant(value[part]) for key, value in batch.items()} for part in (slice(0, 2), slice(2, 3))])

    np.testing.assert_allclose([found[f"{block}.{head}"] for block in range(2) for head in range(4)], expected.ravel(), rtol=1e-3)
    assert all(block.attn.gates is None for block in model.transformer.h)


def test_heads_that_do_nothing_matter_least_and_taking_them_away_changes_nothing(model):
    tensors = weights.state(model)
    for block, head in ((0, 2), (1, 1)):
        name = f"transformer.h.{block}.attn.c_proj.weight"
        tensors[name] = tensors[name].copy()
        tensors[name][8 * head : 8 * head + 8] = 0.0
    idle, batch = surgery.changed(model, tensors), {key: tf.constant(value) for key, value in batch_of(model, rows=16, seed=7).items()}

    importance = head_importance(idle, [batch])
    least = least_important(importance, share=0.25)

    assert sorted(least) == ["0.2", "1.1"] and importance["0.2"] == importance["1.1"] == 0.0
    np.testing.assert_allclose(prune_heads(idle, least)(batch["input_ids"]).logits, idle(batch["input_ids"]).logits, atol=1e-5)


def test_importance_is_of_the_model_as_it_is_used_and_of_a_head_that_is_off_nothing(model):
    batch = {key: tf.constant(value) for key, value in batch_of(model, rows=4, seed=7).items()}
    off = mask_heads(model, ["0.0", "0.1"])

    assert head_importance(surgery.set_dropout(model, 0.3), [batch]) == pytest.approx(head_importance(model, [batch]), rel=1e-5)
    found = head_importance(off, [batch])
    assert {head for head, value in found.items() if value == 0.0} == {"0.0", "0.1"} == set(least_important(found, share=0.25))


def test_new_blocks_keep_their_heads_where_a_share_is_pruned(model):
    batch = {key: tf.constant(value) for key, value in batch_of(model, rows=4, seed=7).items()}

    found = adapt(model, AdaptConfig(insert_blocks=(1,), attention=AttentionConfig(prune=0.5)), seed=1, labels={},
                  importance=lambda model: head_importance(model, [batch]))  # fmt: skip

    moved = {f"{0 if head[0] == '0' else 2}{head[1:]}" for head in least_important(head_importance(model, [batch]), share=0.5)}
    assert set(found.adaptation.pruned_heads) == moved


@pytest.mark.parametrize("added", [{"lora": LoraConfig(rank=2)}, {"prefix": PrefixConfig(tokens=2)}, {"bottleneck": BottleneckConfig(width=2)}])
def test_what_is_added_to_some_blocks_is_trained_without_the_frozen_ones(model, added):
    every = adapt(model, AdaptConfig(**added), seed=1, importance=dict, labels={})
    some = adapt(model, AdaptConfig(**added, freeze=("h.1",)), seed=1, importance=dict, labels={})

    assert some.trained_names == [name for name in every.trained_names if not name.startswith("h.1.")] != every.trained_names


def test_a_reinitialized_part_is_new_and_the_rest_is_not(model):
    found = surgery.reinitialize(model, ["h.1.mlp", "ln_f"], seed=9)
    before, after = weights.state(model), weights.state(found)

    assert moved(before, after) == {name for name in before if ".h.1.mlp." in name or ".ln_f." in name}
    assert np.all(after["transformer.ln_f.weight"] == 1.0)
    spread = after["transformer.h.1.mlp.c_fc.weight"].std()
    assert 0.018 < spread < 0.022  # 0.02, of 4,096 draws: a standard error of 0.0002


@pytest.mark.parametrize(("act", "message"), [
    (lambda model: model.train_only(["h.*.attention"]), r"adapt.train: the pattern 'h.\*.attention' matches no weight; there are wte.weight, "),
    (lambda model: model.train_only(["h.0"], ["h.0"]), "adapt.freeze: nothing is left to train"),
    (lambda model: model.train_only(["**"], ["encoder"]), "adapt.freeze: the pattern 'encoder' matches no weight"),
    (lambda model: surgery.reinitialize(model, ["h.7"]), "adapt.reinitialize: the pattern 'h.7' matches no weight"),
    (lambda model: surgery.insert_blocks(model, [3]), "adapt.insert_blocks: there is no block 3; give places from 0 to 2"),
    (lambda model: surgery.add_prefix(surgery.add_prefix(model, PrefixConfig(tokens=3)), PrefixConfig(tokens=5)),
     "adapt.prefix.tokens: 5, and the model has 3 already; leave adapt.prefix out"),
    (lambda model: surgery.add_bottleneck(surgery.add_bottleneck(model, BottleneckConfig(width=4)), BottleneckConfig(width=6)),
     "adapt.bottleneck: 6 wide, and the model has some of 4 already"),
    (lambda model: mask_heads(model, ["2.0"]), "there is no head '2.0'; there are 0.0 to 1.3"),
    (lambda model: prune_heads(model, ["1.0", "1.1", "1.2", "1.3"]), "block 1 would be left without a head"),
])
def test_what_cannot_be_is_refused(model, act, message):
    with pytest.raises(ValueError, match=message):
        act(surgery.changed(model))


def test_a_class_that_knows_nothing_of_an_adaptation_says_so(model, tmp_path):
    """It would load without a word, and be another function."""
    surgery.set_window(model, 5).save_pretrained(tmp_path / "window")
    model.save_pretrained(tmp_path / "plain")

    with pytest.warns(UserWarning, match="leaves it out: this is another function"):
        TFGPT2LMHeadModel.from_pretrained(tmp_path / "window")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        TFGPT2LMHeadModel.from_pretrained(tmp_path / "plain")
        GPTLMHeadModel.from_pretrained(tmp_path / "window")
