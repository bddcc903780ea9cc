"""What keeps a fine-tune near its start: the distance to the starting weights in the loss, and dropout of another strength."""
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.training.test_fit import Do, KilledError, assert_same_weights, kill, run  # noqa: F401 - run is a fixture
from tfgpt.generation.text_model import TextModel
from tfgpt.models import build, surgery
from tfgpt.models.adapt import adapt, fitted
from tfgpt.models.adaptation import matches
from tfgpt.models.lora import add_lora
from tfgpt.models.regularization import new_weights
from tfgpt.models.step import StepSettings
from tfgpt.models.weights import short_name
from tfgpt.recipe import (
    AdaptConfig,
    AttentionConfig,
    BottleneckConfig,
    DataConfig,
    EncoderConfig,
    HeadConfig,
    LoraConfig,
    ModelConfig,
    PrefixConfig,
    Recipe,
    RecipeError,
    ScheduleConfig,
    TrainConfig,
)
from tfgpt.serving.export import export
from tfgpt.stages.checks import check_before_work

LENGTH, RATE = 16, 0.5


def new_model(tokenizer, dropout=0.0):
    model = build.new_model(ModelConfig(layers=2, width=32, heads=2, dropout=dropout), LENGTH, tokenizer, seed=1)
    for variable in model.trainable_variables:
        variable.assign(variable + tf.random.stateless_normal(variable.shape, [5, 6], stddev=0.1))
    return model


def batch(seed=7):
    ids = np.random.default_rng(seed).integers(0, 512, [8, LENGTH + 1]).astype(np.int32)
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}


def weights_of(model):
    return {short_name(variable): variable.numpy() for variable in model.weights}


def two_steps(model, **settings):
    """Take two steps of SGD and return the weights before, between and after them."""
    model.compile(tf_keras.optimizers.SGD(RATE), settings=StepSettings(**settings))
    seen = [weights_of(model)]
    for number in range(2):
        model.train_on_batch(batch(number))
        seen.append(weights_of(model))
    return seen


@pytest.mark.parametrize("settings", [{}, {"accumulate": 4}, {"precision": "float16"}, {"l2": 0.01, "new": ("h.0", "ln_f")}])
def test_the_second_step_is_drawn_back_by_the_weight_times_the_distance_to_the_start(tokenizer, settings):
    strength = 0.3
    first, middle, after = two_steps(new_model(tokenizer), l2_start=strength, **settings)
    plain = new_model(tokenizer)
    _, plain_middle, _ = two_steps(plain, **settings)
    for name in first:  # the start is no force: the first step is that without it
        np.testing.assert_array_equal(plain_middle[name], middle[name])
    for variable in plain.weights:
        variable.assign(middle[short_name(variable)])
    plain.train_on_batch(batch(1))
    without = weights_of(plain)

    for name in first:
        free = any(matches(pattern, name) for pattern in settings.get("new", ()))
        drawn = 0.0 if free else RATE * strength * (middle[name] - first[name])
        moved = np.abs(middle[name] - first[name]).max()
        assert moved > 0
        np.testing.assert_allclose(after[name], without[name] - drawn, rtol=1e-5, atol=2e-3 * moved if "precision" in settings else 1e-6, err_msg=name)
        # float32: sums in another order; float16 in products rounds gradients to 1e-3


def test_the_distance_counts_in_the_norm_by_which_gradients_are_clipped(tokenizer):
    model, free = new_model(tokenizer), new_model(tokenizer)
    model.compile(tf_keras.optimizers.SGD(0.0), settings=StepSettings(l2_start=2.0))
    free.compile(tf_keras.optimizers.SGD(0.0), settings=StepSettings())
    for one in (model, free):
        for variable in one.weights:
            variable.assign(variable + 0.05)

    norm, without = (float(one.train_on_batch(batch(), return_dict=True)["gradient_norm"]) for one in (model, free))

    drawn = 2.0 * 0.05 * np.sqrt(model.count_params())
    assert abs(norm**2 - without**2 - drawn**2) <= 2 * without * drawn and norm != pytest.approx(without, rel=0.01)  # by the triangle inequality


@pytest.mark.parametrize("settings", [pytest.param({}, marks=pytest.mark.slow), {"optimizer": "sgd", "accumulate": 2}])
def test_a_resumed_training_is_drawn_to_the_start_and_not_to_where_it_goes_on(run, settings):  # noqa: F811
    settings = settings | {"l2_start": 50.0, "weight_decay": 0.0, "checkpoint_every": 3}
    undisturbed, free = run("undisturbed", **settings), run("free", **settings | {"l2_start": 0.0})
    with pytest.raises(KilledError):
        run("killed", [Do(7, kill)], **settings)

    assert_same_weights(undisturbed, run("killed", **settings))
    start = run("start", steps=1, schedule=ScheduleConfig(peak=1e-12, floor=0.0)).get_weights()
    far, near = (np.sqrt(sum(np.square(a - b).sum() for a, b in zip(one.get_weights(), start))) for one in (free, undisturbed))
    assert near < 0.8 * far


def test_without_a_starting_model_there_is_nothing_to_stay_near():
    recipe = Recipe(DataConfig(path="python-docs"), train=TrainConfig(l2_start=0.1))

    with pytest.raises(RecipeError, match="train.l2_start: 0.1 would hold a new model near its random weights; set it to 0, or give a model.init"):
        check_before_work(recipe)


CHANGES = {
    "lora": (AdaptConfig(lora=LoraConfig(rank=2)), "**.lora"),
    "bottleneck": (AdaptConfig(bottleneck=BottleneckConfig(width=3)), "**.bottleneck_*"),
    "prefix": (AdaptConfig(prefix=PrefixConfig(tokens=3)), "**.prefix"),
    "prompt": (AdaptConfig(prefix=PrefixConfig(tokens=3, kind="prompt")), "prompt"),
    "head": (AdaptConfig(head=HeadConfig(kind="classes")), "head"),
    "encoder": (AdaptConfig(encoder=EncoderConfig(kind="new")), "encoder"),
    "block": (AdaptConfig(insert_blocks=(1,)), "h.1"),
    "reinitialized": (AdaptConfig(reinitialize=("h.1.mlp",)), "h.1.mlp"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_new_in_an_adapted_model_is_free_and_all_else_as_it_was(change, tokenizer):
    config, example = CHANGES[change]
    model = new_model(tokenizer)

    adapted = weights_of(adapt(model, config, seed=2, importance=lambda _: {}, labels={"a": 1, "b": 2}))

    free = {name for name in adapted if any(matches(pattern, name) for pattern in new_weights(config, layers=2))}
    assert any(matches(example, name) for name in free)
    old = list(weights_of(model).values())
    for name in adapted.keys() - free:  # it is one of the starting model's, under this name or another block's
        assert any(array.shape == adapted[name].shape and np.array_equal(array, adapted[name]) for array in old), name
    assert not {name for name in free if "bias" not in name and ".ln_" not in name and adapted[name].any()
                and any(array.shape == adapted[name].shape and np.array_equal(array, adapted[name]) for array in old)}
    assert new_weights(AdaptConfig(attention=AttentionConfig(window=3), dropout=0.2), layers=2) == ()


def test_another_dropout_changes_training_alone_and_is_kept(tokenizer, tmp_path):
    model = new_model(tokenizer, dropout=0.1)

    changed = fitted(model, AdaptConfig(dropout=0.4), tokenizer, old_tokenizer=None)

    ids = batch()["input_ids"]
    np.testing.assert_array_equal(changed(ids).logits, model(ids).logits)  # it is off
    changed.save_pretrained(tmp_path / "model")
    loaded = build.load_model(tmp_path / "model")
    assert [loaded.config.resid_pdrop, loaded.config.embd_pdrop, loaded.config.attn_pdrop] == [0.4] * 3
    np.testing.assert_array_equal(loaded(ids).logits, changed(ids).logits)
    assert model.config.resid_pdrop == 0.1
    exported = export(TextModel(loaded, tokenizer), tmp_path / "export")
    assert (exported / "saved_model.pb").is_file()


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_the_share_that_is_dropped_is_the_one_given(share, tokenizer):
    model = surgery.set_dropout(new_model(tokenizer, dropout=0.2), share)
    model.compile(tf_keras.optimizers.SGD(0.0))

    embedded = model.transformer.drop(tf.ones([16, LENGTH, 32]), training=True)
    losses = [float(model.loss_terms(batch(), training=training).loss) for training in (True, False)]

    assert np.mean(embedded.numpy() == 0) == pytest.approx(share, abs=0.03)  # 8,192 draws: a standard deviation of 0.0054
    assert (losses[0] == pytest.approx(losses[1], rel=1e-5)) == (share == 0.0)


def test_dropout_takes_part_in_lora_alone_where_a_lora_says_so(tokenizer):
    model = surgery.set_dropout(add_lora(new_model(tokenizer), LoraConfig(rank=2, dropout=0.3)), 0.5)

    assert model.adaptation.lora.dropout == 0.3 and model.config.attn_pdrop == 0.5
    assert surgery.changed(model).config.attn_pdrop == 0.5
