"""Learning rates by layer, of every optimizer: exact factors, layers that stay as they are bit for bit, trainings that go on in the middle."""
import numpy as np
import pytest
import tensorflow as tf

from tests.training.test_fit import Do, KilledError, assert_same_weights, kill, run  # noqa: F401 - run is a fixture
from tfgpt.models import build, surgery
from tfgpt.models.weights import short_name
from tfgpt.recipe import EncoderConfig, ModelConfig, RecipeError, ScheduleConfig, TrainConfig
from tfgpt.training.layers import LayerRates
from tfgpt.training.optimizer import make_optimizer

OPTIMIZERS = ["adamw", "adam", "sgd", "adafactor", "lion", "muon"]
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


@pytest.fixture
def small(tokenizer):
    return build.new_model(ModelConfig(layers=3, width=16, heads=2), 16, tokenizer, seed=1)


def gradients_of(model, step):
    return [tf.random.stateless_normal(variable.shape, [step, number]) for number, variable in enumerate(model.weights)]


def steps_of(model, count, **settings):
    """Take steps by made-up gradients; return the weights by name after each, those of the start first."""
    schedule = ScheduleConfig(kind="constant", peak=settings.pop("peak", 0.01), warmup_steps=0, floor=0.0)
    optimizer = make_optimizer(TrainConfig(schedule=schedule, **settings), blocks=3)
    seen = [{short_name(variable): variable.numpy() for variable in model.weights}]
    for step in range(count):
        optimizer.apply_gradients(list(zip(gradients_of(model, step), model.weights)))
        seen.append({short_name(variable): variable.numpy() for variable in model.weights})
    return seen


def test_the_layers_of_a_model_and_of_its_encoder_are_counted_from_their_tops(small):
    model = surgery.add_encoder(small, EncoderConfig(kind="new", layers=2))
    rates = LayerRates(blocks=3, encoder_blocks=2)

    depths = {name: rates.depth(name) for name in model.weight_names}

    expected = {"ln_f.": 0, "h.2.": 1, "h.1.": 2, "h.0.": 3, "wte.": 4, "wpe.": 4,
                "encoder.ln_f.": 0, "encoder.h.1.": 1, "encoder.h.0.": 2, "encoder.wpe.": 3}
    for name, depth in depths.items():
        (prefix,) = [one for one in expected if name.startswith(one)]
        assert depth == expected[prefix], name


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_each_layer_takes_the_step_of_sgd_at_its_own_rate(small, weight_decay):
    before, after = steps_of(small, 1, optimizer="sgd", layer_decay=0.7, weight_decay=weight_decay)

    for variable, gradient in zip(small.weights, gradients_of(small, 0)):
        name, rate = short_name(variable), np.float32(0.01 * 0.7 ** LayerRates(blocks=3).depth(short_name(variable)))
        decay = 0.0 if name.endswith(".bias") or ".ln_" in name or name.startswith("ln_f") else weight_decay
        expected = before[name] * (1 - rate * decay) - rate * gradient.numpy()
        np.testing.assert_allclose(after[name], expected, rtol=1e-6, atol=4e-9, err_msg=name)  # float32 roundings of terms of size 0.03


@every_optimizer
def test_a_first_step_is_in_proportion_to_the_layers_factor(small, name, tokenizer):
    other = build.new_model(ModelConfig(layers=3, width=16, heads=2), 16, tokenizer, seed=1)
    before, decayed = steps_of(small, 1, optimizer=name, layer_decay=0.5)
    _, plain = steps_of(other, 1, optimizer=name)

    for weight, start in before.items():
        ratio = 0.5 ** LayerRates(blocks=3).depth(weight)
        size = np.abs(plain[weight] - start).max()
        assert size > 0
        np.testing.assert_allclose(decayed[weight] - start, ratio * (plain[weight] - start), atol=5e-3 * ratio * size + 3e-7, err_msg=weight)
        # what a weight of size 1 keeps of a step is 1e-7; where weights decay too, step and decay are taken one after the other


@every_optimizer
def test_a_frozen_layer_does_not_move_or_decay_by_a_bit_until_its_turn_comes(small, name):
    seen = steps_of(small, 9, optimizer=name, unfreeze_every=2, weight_decay=0.5)

    for weight in seen[0]:
        first = 2 * LayerRates(blocks=3).depth(weight)
        moved = [seen[step][weight].tobytes() != seen[step + 1][weight].tobytes() for step in range(9)]
        assert moved == [False] * first + [True] * (9 - first), weight


def test_the_topmost_of_what_is_trained_learns_from_the_first_step():
    rates = LayerRates(blocks=12, decay=0.5, unfreeze_every=10)

    factors = rates.factors(["h.3.attn.c_attn.lora.a", "h.1.attn.c_attn.lora.a"])

    assert factors == [(0.5**9, 0), (0.5**11, 20)]


@every_optimizer
def test_without_factors_the_optimizer_is_the_plain_one_and_with_factors_of_one_it_takes_the_same_steps(small, name, tokenizer):
    other = build.new_model(ModelConfig(layers=3, width=16, heads=2), 16, tokenizer, seed=1)
    assert type(make_optimizer(TrainConfig(optimizer=name))).__qualname__.count("by_layer") == 0

    nearly = steps_of(small, 4, optimizer=name, layer_decay=1 - 1e-12)[-1]
    plain = steps_of(other, 4, optimizer=name)[-1]

    for weight in plain:
        np.testing.assert_allclose(nearly[weight], plain[weight], rtol=1e-5, atol=1e-7, err_msg=weight)  # decay and step round in another order


@pytest.mark.parametrize("settings", [
    {"ema": 0.8, "optimizer": "muon"}, *(pytest.param(settings, marks=pytest.mark.slow) for settings in ({}, {"optimizer": "sgd"})),
])  # fmt: skip
def test_a_training_killed_between_two_layers_turns_ends_with_the_weights_of_an_undisturbed_one(run, settings):  # noqa: F811
    settings = settings | {"unfreeze_every": 4, "layer_decay": 0.8, "checkpoint_every": 3}
    undisturbed = run("undisturbed", **settings)
    with pytest.raises(KilledError):
        run("killed", [Do(7, kill)], **settings)

    assert_same_weights(undisturbed, run("killed", **settings))


@pytest.mark.slow
def test_two_devices_have_the_rates_of_one(documents, tokenizer, tmp_path):
    from tests.training.test_devices import LENGTH, ROWS, trained
    from tfgpt.data.pipeline import pack_texts

    stored = [batch for batch in pack_texts([text[:150] for text in documents], tokenizer, LENGTH, ROWS).as_numpy_iterator() if len(batch["labels"]) == ROWS]
    packed = {key: np.stack([batch[key] for batch in stored[:12]]) for key in stored[0]}
    for name in ("adamw", "sgd"):
        settings = {"optimizer": name, "unfreeze_every": 3, "layer_decay": 0.5, "l2_start": 0.1}
        one, of_one = trained(packed, tokenizer, tmp_path / f"{name} one", **settings)
        two, of_two = trained(packed, tokenizer, tmp_path / f"{name} two", strategy="mirrored", **settings)

        np.testing.assert_allclose(of_two["loss"], of_one["loss"], atol=1e-4)  # float32 sums in another order
        for mine, other in zip(two.weights, one.weights):
            np.testing.assert_allclose(mine, other, atol=2e-4, err_msg=mine.name)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(RecipeError, match=r"train.layer_decay: 0 is not in \(0, 1\]"):
        TrainConfig(layer_decay=0)
    with pytest.raises(RecipeError, match="train.layer_decay: 1.1"):
        TrainConfig(layer_decay=1.1)
    with pytest.raises(RecipeError, match="train.unfreeze_every: -1 is too small"):
        TrainConfig(unfreeze_every=-1)
