"""The same training on one device and on two; two processes of a cluster are tested with the command, in tests/test_cluster.py."""
import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tfgpt.data.pipeline import pack_texts
from tfgpt.models import build
from tfgpt.models.step import StepSettings
from tfgpt.recipe import ModelConfig, RecipeError, ScheduleConfig, TrainConfig
from tfgpt.training.devices import Devices, cluster_workers
from tfgpt.training.fit import train

LENGTH, ROWS = 32, 8
CLUSTER = {"cluster": {"worker": ["localhost:1", "localhost:2"]}, "task": {"type": "worker", "index": 1}}


@pytest.fixture(scope="module")
def packed(documents, tokenizer):
    """Packed reference text with several segments a row, int32 [batches, rows, length] by key."""
    texts = [text[:150] for text in documents]
    stored = [batch for batch in pack_texts(texts, tokenizer, LENGTH, ROWS).as_numpy_iterator() if len(batch["labels"]) == ROWS][:12]
    assert any(batch["segment_ids"].max() > 1 for batch in stored)
    return {key: np.stack([batch[key] for batch in stored]) for key in stored[0]}


def trained(packed, tokenizer, folder, **settings):
    """Train ten steps on a recipe's devices; return the model, and the losses and gradient norms of the curves."""
    config = TrainConfig(**{"steps": 10, "global_batch_size": ROWS, "evaluate_every": 5, "log_every": 1, "schedule": ScheduleConfig(peak=3.0e-3)} | settings)
    devices = Devices(config.strategy)

    def batches(step, worker=0, workers=1):
        mine = slice(worker * ROWS // workers, (worker + 1) * ROWS // workers)
        return tf.data.Dataset.from_tensor_slices(packed).skip(step).map(lambda batch: {key: value[mine] for key, value in batch.items()}).repeat()

    held_out = {key: value.reshape(-1, LENGTH)[-19:] for key, value in packed.items()}  # the last batch of evaluation is smaller, and odd
    validation = tf.data.Dataset.from_tensor_slices(held_out).batch(4)
    with devices.strategy.scope():
        model = build.new_model(ModelConfig(layers=2, width=32, heads=2, dropout=0.1), LENGTH, tokenizer, seed=1)
    model.seed_dropout(5)
    train(model, config, batches, validation, folder / "steps", folder / "logs", devices=devices)
    with open(folder / "logs" / "curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return model, {key: np.array([float(row[key] or 0) for row in rows]) for key in ("step", "loss", "accuracy", "gradient_norm", "padding")}


@pytest.mark.parametrize("settings", [
    {},
    {"optimizer": "sgd", "l2": 0.01, "z_loss": 1e-4},
    *(pytest.param(settings, marks=pytest.mark.slow) for settings in ({"accumulate": 2, "ema": 0.9}, {"optimizer": "muon", "recompute": True})),
])  # fmt: skip
def test_two_devices_have_the_losses_and_weights_of_one(packed, tokenizer, tmp_path, settings):
    one, of_one = trained(packed, tokenizer, tmp_path / "one", **settings)
    two, of_two = trained(packed, tokenizer, tmp_path / "two", strategy="mirrored", **settings)

    assert len(of_one["step"]) == 12
    for key, figures in of_one.items():
        np.testing.assert_allclose(of_two[key], figures, atol=1e-4, err_msg=key)  # in dropout and all: float32 sums in another order
    for mine, other in zip(two.weights, one.weights):
        for replica in mine.values:
            np.testing.assert_allclose(replica, other, atol=2e-4, err_msg=replica.name)


def test_lanes_have_one_thread_within_an_operation_in_a_new_process_and_say_so_where_it_is_none():
    code = ("import logging, tensorflow as tf; from tfgpt.training.devices import Devices; logging.basicConfig(); {}Devices(lanes=2); "
            "print(tf.config.threading.get_intra_op_parallelism_threads())")

    command = "from tfgpt.cli_support import import_tensorflow_quietly; import_tensorflow_quietly(2); "  # which has looked for devices by then
    new, commanded, begun = (subprocess.run([sys.executable, "-c", code.format(before)], capture_output=True, text=True)
                             for before in ("", command, "tf.zeros(1); "))

    for process in (new, commanded):
        assert (process.returncode, process.stdout) == (0, "1\n") and "train.lanes" not in process.stderr
    assert (begun.returncode, begun.stdout) == (0, "0\n") and "train.lanes: TensorFlow has begun" in begun.stderr


@pytest.mark.slow
def test_a_training_goes_on_from_the_checkpoint_of_other_devices(packed, tokenizer, tmp_path):
    constant = {"schedule": ScheduleConfig(kind="constant", peak=3.0e-3)}
    _, undisturbed = trained(packed, tokenizer, tmp_path / "undisturbed", **constant)
    trained(packed, tokenizer, tmp_path / "run", steps=5, **constant)

    _, resumed = trained(packed, tokenizer, tmp_path / "run", strategy="mirrored", **constant)

    np.testing.assert_allclose(resumed["loss"], undisturbed["loss"], atol=1e-4)


def test_float16_skips_the_same_steps_on_both_replicas(packed, tokenizer, tmp_path):
    model, _ = trained(packed, tokenizer, tmp_path, strategy="mirrored", precision="float16")

    scale = model.guard.variables["loss_scale"]
    assert len({float(value) for value in scale.values}) == 1
    for variable in model.trainable_variables:
        first, second = variable.values
        np.testing.assert_array_equal(first, second, err_msg=variable.name)


def test_keras_alone_under_a_strategys_scope_takes_plain_batches(packed, tokenizer):
    def losses(strategy):
        with strategy.scope():
            model = build.new_model(ModelConfig(layers=1, width=16, heads=2, dropout=0.1), LENGTH, tokenizer, seed=1)
            model.compile(tf_keras.optimizers.SGD(0.1), settings=StepSettings(clip_norm=1.0))
        return model.fit(tf.data.Dataset.from_tensor_slices(packed), epochs=3, verbose=0).history["loss"]

    both = losses(Devices("mirrored").strategy)

    np.testing.assert_allclose(both, losses(tf.distribute.get_strategy()), atol=1e-4)
    assert both[-1] < both[0]


def test_a_batch_that_cannot_be_dealt_is_refused():
    devices = Devices("mirrored")

    with pytest.raises(RecipeError, match=r"train.global_batch_size: 6 sequences cannot be dealt to 2 devices in 2 micro steps each \(train.accumulate\); "
                                          "set it to a multiple of 4"):
        devices.check_batch(TrainConfig(global_batch_size=6, accumulate=2))


@pytest.mark.parametrize(("kind", "config", "message"), [
    ("multi_worker", None, "train.strategy: multi_worker needs the environment variable TF_CONFIG"),
    ("tpu", None, "train.strategy: tpu finds no TPU"),
    ("mirrored", CLUSTER, "train.strategy: mirrored takes one process, and TF_CONFIG names 2"),
    ("auto", "{not JSON", "TF_CONFIG: {not JSON is not a cluster and a task such as"),
    ("auto", {"cluster": {"worker": ["a:1"]}}, "is not a cluster and a task such as"),
    ("auto", CLUSTER | {"task": {"type": "worker", "index": 2}}, "TF_CONFIG: task worker 2 is none of its cluster's 2 workers; correct its index, from 0"),
    ("auto", CLUSTER | {"task": {"type": "evaluator", "index": 0}}, "TF_CONFIG: task evaluator 0 is none of its cluster's 2 workers"),
])  # fmt: skip
def test_devices_that_are_not_there_are_told(monkeypatch, kind, config, message):
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config if isinstance(config, str) else json.dumps(config))

    with pytest.raises(RecipeError) as error:
        Devices(kind)

    assert message in str(error.value)


def test_the_chief_is_the_first_of_the_workers(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": ["b:1", "c:1"], "chief": ["a:1"]}, "task": {"type": "worker", "index": 0}}))

    assert cluster_workers() == [("chief", 0), ("worker", 0), ("worker", 1)]
