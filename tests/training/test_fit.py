"""Trainings that are stopped, resumed, damaged and ended early, on a model of one layer."""
import json
import os
import shutil
import signal

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tfgpt.interrupts import TerminatedError
from tfgpt.models import build
from tfgpt.recipe import ModelConfig, ScheduleConfig, TrainConfig
from tfgpt.training.checkpoints import MANIFEST, Checkpoints, Standing
from tfgpt.training.fit import train
from tfgpt.training.optimizer import make_optimizer

LENGTH = 16


@pytest.fixture
def run(tmp_path, tokenizer):
    """Return a function that trains in a folder, from a new model, and gives the model back."""

    def ids_of(step):
        return np.random.default_rng(step).integers(0, 512, [4, LENGTH + 1]).astype(np.int32)

    def batches(first_step):
        def endless():
            step = first_step
            while True:
                ids = ids_of(step % 7)
                yield {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}
                step += 1

        return tf.data.Dataset.from_generator(endless, output_signature={key: tf.TensorSpec([4, LENGTH], tf.int32) for key in ("input_ids", "labels")})

    held_out = ids_of(99)
    validation = tf.data.Dataset.from_tensors({"input_ids": held_out[:, :-1], "labels": held_out[:, 1:]})

    def train_in(name, callbacks=(), **settings):
        model = build.new_model(ModelConfig(layers=1, width=16, heads=2, dropout=0.1), LENGTH, tokenizer, seed=1)
        schedule = settings.pop("schedule", ScheduleConfig(peak=3.0e-3, warmup_steps=2))
        config = TrainConfig(**{"steps": 12, "global_batch_size": 4, "evaluate_every": 4, "log_every": 2, "schedule": schedule} | settings)
        folder = tmp_path / name
        train(model, config, batches, validation, folder / "steps", folder / "logs", callbacks=list(callbacks))
        return model

    train_in.folder = tmp_path
    return train_in


class Do(tf_keras.callbacks.Callback):
    """Do something after so many steps of this process."""

    def __init__(self, after, action):
        super().__init__()
        self._after, self._action = after, action

    def on_train_batch_begin(self, batch, logs=None):
        self._after -= 1
        if self._after < 0:
            self._action(self.model)


class KilledError(Exception):
    """Stands for a kill: what follows a step is not done."""


def kill(_):
    raise KilledError


def terminate(_):
    os.kill(os.getpid(), signal.SIGTERM)


def assert_same_weights(first, second):
    for one, other in zip(first.weights, second.weights):
        np.testing.assert_array_equal(one, other, err_msg=one.name)


@pytest.mark.parametrize(("after", "settings"), [
    (6, {"checkpoint_every": 3}),  # goes on from step 6, between two evaluations
    (9, {}),                       # from step 8, at one
    pytest.param(6, {"checkpoint_every": 5, "accumulate": 2}, marks=pytest.mark.slow),  # from step 5
    pytest.param(6, {"checkpoint_every": 5, "ema": 0.8}, marks=pytest.mark.slow),
    (9, {"optimizer": "muon", "precision": "float16"}),
])  # fmt: skip
def test_a_killed_training_ends_with_the_weights_of_an_undisturbed_one(run, after, settings):
    undisturbed = run("undisturbed", **settings)
    with pytest.raises(KilledError):
        run("killed", [Do(after, kill)], **settings)

    resumed = run("killed", **settings)

    curves = [(run.folder / name / "logs" / "curves.csv").read_text().splitlines() for name in ("undisturbed", "killed")]
    validation = [[row.split(",")[:4] for row in rows if ",validation," in row] for rows in curves]
    assert validation[0] == validation[1]
    assert [row[0] for row in validation[0]] == ["4", "8", "12"]
    assert_same_weights(undisturbed, resumed)


def test_a_training_killed_before_an_evaluation_makes_up_for_it(run):
    undisturbed = run("undisturbed", checkpoint_every=2)
    with pytest.raises(KilledError):
        run("killed", [tf_keras.callbacks.LambdaCallback(on_test_begin=kill)], checkpoint_every=2)
    assert not (run.folder / "killed" / "steps" / "step-000000004").exists()

    assert_same_weights(undisturbed, run("killed", checkpoint_every=2))
    validation = [[row for row in (run.folder / name / "logs" / "curves.csv").read_text().splitlines() if ",validation," in row]
                  for name in ("undisturbed", "killed")]
    assert [row.split(",")[:4] for row in validation[0]] == [row.split(",")[:4] for row in validation[1]]


def test_sigterm_saves_the_step_and_the_next_start_goes_on_from_it(run):
    undisturbed = run("undisturbed")
    with pytest.raises(TerminatedError, match="stopped by SIGTERM after step 6, which is saved"):
        run("stopped", [Do(5, terminate)])

    assert (run.folder / "stopped" / "steps" / "step-000000006").is_dir()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert_same_weights(undisturbed, run("stopped"))


def test_a_damaged_checkpoint_is_named_and_passed_over(run, caplog):
    undisturbed = run("undisturbed")
    with pytest.raises(KilledError):
        run("killed", [Do(9, kill)])
    newest = run.folder / "killed" / "steps" / "step-000000008"
    data = next(newest.glob("*.data-*"))
    data.write_bytes(data.read_bytes()[:-1])

    resumed = run("killed")

    assert f"{data}: cut short, changed or gone, by its SHA-256; going on from an earlier checkpoint; that folder is now " in caplog.text
    assert (newest.parent / "damaged-step-000000008").is_dir()
    assert_same_weights(undisturbed, resumed)


def test_a_damaged_checkpoint_does_not_push_out_those_that_follow(run):
    with pytest.raises(KilledError):
        run("torn", [Do(9, kill)], keep_checkpoints=1)
    folder = run.folder / "torn" / "steps"
    shutil.copytree(folder / "step-000000008", folder / "step-000000020")  # a later one, as after a long run
    (folder / "step-000000020" / MANIFEST).write_text("{")

    with pytest.raises(TerminatedError, match="after step 10, which is saved"):
        run("torn", [Do(1, terminate)], keep_checkpoints=1)

    assert (folder / "step-000000010").is_dir() and (folder / "damaged-step-000000020").is_dir()


def test_where_no_checkpoint_is_whole_nothing_is_begun_anew_in_silence(run):
    run("damaged", steps=4)
    for path in (run.folder / "damaged" / "steps").glob(f"*/{MANIFEST}"):
        path.write_text("{")

    with pytest.raises(RuntimeError, match="none of its 1 checkpoints is whole; remove that folder to begin anew"):
        run("damaged")


def test_the_best_evaluation_is_kept_and_ends_a_training_that_gets_no_better(run):
    rates = {"schedule": ScheduleConfig(kind="constant", peak=0.3, warmup_steps=0, floor=0.0)}  # so high that it only gets worse

    model = run("worse", steps=40, early_stopping=3, keep_checkpoints=1, **rates)

    steps = sorted(path.name for path in (run.folder / "worse" / "steps").iterdir())
    standing = json.loads((run.folder / "worse" / "steps" / steps[-1] / MANIFEST).read_text())["standing"]
    assert standing["since_best"] == 3
    assert steps == [f"step-{standing['best_step']:09}", f"step-{standing['best_step'] + 12:09}"]
    assert_same_weights(model, run("again", steps=standing["best_step"], **rates))
    assert_same_weights(model, run("worse", steps=40, early_stopping=3, keep_checkpoints=1, **rates))  # ended is ended


def test_averages_are_what_is_evaluated_and_kept(run):
    seen = []
    keep = tf_keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(keep.model.get_weights()))
    start = run("start", steps=1, keep_best=False, schedule=ScheduleConfig(peak=1e-12, floor=0.0, warmup_steps=0)).get_weights()

    model = run("averaged", [keep], ema=0.6, keep_best=False)

    for number, weight in enumerate(model.get_weights()):
        average = start[number]
        for weights in seen:
            average = 0.6 * average + 0.4 * weights[number]
        np.testing.assert_allclose(weight, average, atol=1e-6)


def test_a_training_that_is_never_finite_ends_with_the_last_good_weights(run):
    def poison(model):
        bias = model.transformer.ln_f.beta
        bias.assign(bias + np.nan)

    with pytest.raises(FloatingPointError, match="max_skipped: the gradients of 9 steps in a row, up to step 14.*checkpoint is that of step 4: remove those"):
        run("stuck", [Do(5, poison)], max_skipped=9, steps=40, evaluate_every=4, log_every=1, keep_checkpoints=1, keep_best=False)

    assert sorted(path.name for path in (run.folder / "stuck" / "steps").iterdir()) == ["step-000000004", "step-000000012"]


def test_standing_takes_the_lowest_loss():
    standing = Standing()
    for step, loss in enumerate([3.0, 2.0, 2.0, 2.5], start=1):
        standing.add(step, loss)

    assert (standing.best_loss, standing.best_step, standing.since_best) == (2.0, 2, 2)


def test_a_checkpoint_of_another_model_is_refused(run, tmp_path, tokenizer):
    run("small", steps=4)
    other = build.new_model(ModelConfig(layers=2, width=16, heads=2), LENGTH, tokenizer, seed=1)

    with pytest.raises((AssertionError, ValueError)):
        Checkpoints(run.folder / "small" / "steps", other, make_optimizer(TrainConfig()), keep=1).restore_newest()
