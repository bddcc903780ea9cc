import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tfgpt.recipe import ScheduleConfig, TrainConfig
from tfgpt.training.optimizer import FusedAdamW, Schedule, make_optimizer


def test_the_learning_rate_rises_linearly_and_falls_along_a_cosine():
    schedule = Schedule(ScheduleConfig(peak=1.0, warmup_steps=4, floor=0.2), steps=24)

    rates = [float(schedule(step)) for step in range(30)]

    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    for step in range(4, 24):
        assert rates[step] == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * (step - 4) / 20)), abs=1e-6)
    assert rates[24:] == pytest.approx([0.2] * 6)


def test_without_warm_up_the_first_step_has_the_peak():
    assert float(Schedule(ScheduleConfig(peak=0.5, warmup_steps=0, floor=0.0), steps=10)(0)) == 0.5


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "adafactor", "lion", "muon"])
def test_only_matrices_decay(model, name):
    config = TrainConfig(optimizer=name, weight_decay=0.5, clip_norm=0.0, schedule=ScheduleConfig(peak=0.1, warmup_steps=0, floor=0.1))
    optimizer = make_optimizer(config)
    variables = [tf.Variable(variable, name=variable.name.removesuffix(":0")) for variable in model.weights]
    before = [variable.numpy() for variable in variables]

    optimizer.apply_gradients([(tf.zeros_like(variable), variable) for variable in variables])

    for variable, old in zip(variables, before):
        kept = any(part in variable.name for part in ("bias", "gamma", "beta"))
        np.testing.assert_allclose(variable, old if kept else old * 0.95, rtol=1e-6, err_msg=variable.name)


@pytest.mark.parametrize(("kind", "settings", "expected"), [
    ("linear", {}, {3: 1.0, 4: 1.0, 14: 0.6, 24: 0.2, 30: 0.2}),
    ("constant", {}, {0: 0.25, 4: 1.0, 24: 1.0}),
    ("inverse_sqrt", {}, {3: 1.0, 15: 0.5, 35: 1 / 3, 399: 0.2}),  # 4 / 16, 4 / 36; not below the floor
    ("wsd", {"decay_steps": 10}, {4: 1.0, 14: 1.0, 19: 0.6, 24: 0.2}),
    ("wsd", {}, {20: 1.0, 22: 0.6, 24: 0.2}),  # a fifth of 24 steps
])  # fmt: skip
def test_the_other_schedules(kind, settings, expected):
    schedule = Schedule(ScheduleConfig(kind=kind, peak=1.0, warmup_steps=4, floor=0.2, **settings), steps=24)

    assert {step: float(schedule(step)) for step in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", [(5, 4), (600, 500)], ids=["by TensorFlow's kernel", "by XLA's"])
def test_the_fused_update_is_adamws(shape):
    rng = np.random.default_rng(2)
    start, gradients = rng.normal(size=shape).astype(np.float32), rng.normal(size=[3, *shape]).astype(np.float32)
    results = []
    for kind in (FusedAdamW, tf_keras.optimizers.AdamW):
        optimizer, variable = kind(0.1, weight_decay=0.3, beta_2=0.99), tf.Variable(start)
        for gradient in gradients:
            optimizer.apply_gradients([(tf.constant(gradient), variable)])
        results.append(variable.numpy())

    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_gradients_may_be_scaled_as_they_are_read(name):
    start, gradient = np.random.default_rng(3).normal(size=[2, 6, 5]).astype(np.float32)
    results = []
    for factor in (0.25, 1.0):
        optimizer, variable = make_optimizer(TrainConfig(optimizer=name)), tf.Variable(start, name="c_attn/weight")
        with optimizer.scaling(tf.constant(factor)):
            optimizer.apply_gradients([(tf.constant(gradient / factor), variable)])
        optimizer.apply_gradients([(tf.constant(gradient), variable)])  # behind it nothing is scaled
        results.append(variable.numpy())

    np.testing.assert_allclose(*results, rtol=1e-6)


def test_every_optimizer_learns_and_moves_against_the_gradient():
    for name in ("adamw", "adam", "sgd", "adafactor", "lion", "muon"):
        optimizer = make_optimizer(TrainConfig(optimizer=name, weight_decay=0.0, schedule=ScheduleConfig(peak=0.1, warmup_steps=0)))
        target, variable = tf.random.stateless_normal([6, 4], seed=[1, 2]), tf.Variable(tf.ones([6, 4]), name="c_attn/weight")
        first = float(tf.reduce_sum(tf.square(variable - target)))
        for _ in range(60):
            optimizer.apply_gradients([(variable - target, variable)])

        assert float(tf.reduce_sum(tf.square(variable - target))) < 0.5 * first, name
