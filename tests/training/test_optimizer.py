import math

import numpy as np
import pytest
import tensorflow as tf

from tfgpt.recipe import ScheduleConfig, TrainConfig
from tfgpt.training.optimizer import WarmupCosine, make_optimizer


def test_the_learning_rate_rises_linearly_and_falls_along_a_cosine():
    schedule = WarmupCosine(ScheduleConfig(peak=1.0, warmup_steps=4, floor=0.2), steps=24)

    rates = [float(schedule(step)) for step in range(30)]

    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    for step in range(4, 24):
        assert rates[step] == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * (step - 4) / 20)), abs=1e-6)
    assert rates[24:] == pytest.approx([0.2] * 6)


def test_without_warm_up_the_first_step_has_the_peak():
    assert float(WarmupCosine(ScheduleConfig(peak=0.5, warmup_steps=0, floor=0.0), steps=10)(0)) == 0.5


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_only_matrices_decay(model, name):
    config = TrainConfig(optimizer=name, weight_decay=0.5, clip_norm=0.0, schedule=ScheduleConfig(peak=0.1, warmup_steps=0, floor=0.1))
    optimizer = make_optimizer(config)
    variables = [tf.Variable(variable, name=variable.name.removesuffix(":0")) for variable in model.weights]
    before = [variable.numpy() for variable in variables]

    optimizer.apply_gradients([(tf.zeros_like(variable), variable) for variable in variables])

    for variable, old in zip(variables, before):
        kept = any(part in variable.name for part in ("bias", "gamma", "beta"))
        np.testing.assert_allclose(variable, old if kept else old * 0.95, rtol=1e-6, err_msg=variable.name)


def test_gradients_are_clipped_by_their_global_norm():
    optimizer = make_optimizer(TrainConfig(clip_norm=2.0))

    assert optimizer.global_clipnorm == 2.0
    assert make_optimizer(TrainConfig(clip_norm=0.0)).global_clipnorm is None
