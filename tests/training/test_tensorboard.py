"""What TensorBoard is given, read back by TensorBoard's own readers."""
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from google.protobuf import text_format
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins import projector
from tensorboard.plugins.hparams import plugin_data_pb2

from tfgpt.data.pipeline import pack_texts
from tfgpt.models import build
from tfgpt.recipe import ModelConfig
from tfgpt.training.curves import RunFigures
from tfgpt.training.estimate import peak_flops
from tfgpt.training.tensorboard import Profile, TensorBoard, write_projector
from tfgpt.training.views import draw_views


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tokenizer, documents):
    """Return the folder of the logs of a training of six steps, and the model."""
    logs = tmp_path_factory.mktemp("logs")
    model = build.new_model(ModelConfig(layers=1, width=16, heads=2, dropout=0.0), 32, tokenizer, seed=1)
    model.compile(tf_keras.optimizers.AdamW(1e-3))
    batches = pack_texts(documents[:3], tokenizer, length=32, batch_size=2)
    board = TensorBoard(logs, log_every=2, figures=RunFigures({"train": 4.0, "validation": 2.0}, flops_per_token=10, peak_flops=1e6),
                        draw=lambda: draw_views(model, tokenizer, "The with statement"), hparams={"peak": 0.5, "optimizer": "adamw"})
    model.fit(batches.take(6), validation_data=batches.take(1), verbose=0, callbacks=[board, Profile(logs / "train", 2, 3)])
    return logs, model


def events(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def values(accumulator, name):
    return [float(tf.make_ndarray(event.tensor_proto)) for event in accumulator.Tensors(name)]


def test_figures_follow_from_one_another(trained):
    train, validation = events(trained[0] / "train"), events(trained[0] / "validation")

    for accumulator, bytes_per_token in ((train, 4.0), (validation, 2.0)):
        loss = np.array(values(accumulator, "loss"))
        np.testing.assert_allclose(values(accumulator, "perplexity"), np.exp(loss), rtol=1e-5)
        np.testing.assert_allclose(values(accumulator, "bits_per_byte"), loss / np.log(2) / bytes_per_token, rtol=1e-5)
    np.testing.assert_allclose(values(train, "utilization"), np.array(values(train, "tokens_per_second")) * 10 / 1e6, rtol=1e-5)
    weights = np.concatenate([variable.numpy().ravel() for variable in trained[1].weights])
    assert values(train, "weight_norm")[-1] == pytest.approx(np.linalg.norm(weights), rel=1e-5)


def test_pictures_are_pictures_and_settings_are_settings(trained):
    validation = events(trained[0] / "validation")

    for name in ("attention, layer 1", "next token"):
        width, height, png = tf.make_ndarray(validation.Tensors(name)[0].tensor_proto)[:3]
        picture = tf.io.decode_png(png).numpy()
        assert picture.shape[:2] == (int(height), int(width)) and picture.std() > 5
    content = validation.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert (settings["peak"].number_value, settings["optimizer"].string_value) == (0.5, "adamw")


def test_the_steps_that_were_asked_for_are_profiled(trained):
    (profile,) = (trained[0] / "train").rglob("*.xplane.pb")

    assert profile.stat().st_size > 1000


def test_the_projector_finds_vectors_and_texts(tmp_path):
    write_projector(tmp_path, tf.constant([[0.5, 1.0], [2.0, 3.0]]), ["a\tb", "c\n"])

    config = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), projector.ProjectorConfig())
    np.testing.assert_allclose(np.loadtxt(tmp_path / config.embeddings[0].tensor_path), [[0.5, 1.0], [2.0, 3.0]])
    assert (tmp_path / config.embeddings[0].metadata_path).read_text() == "a\\tb\nc\\n\n"


def test_the_peak_is_that_of_a_machine():
    assert 1e9 < peak_flops("float32", seconds=0.05) < 1e15


def test_a_loss_beyond_all_bounds_is_shown_as_far_as_numbers_go(tmp_path, tokenizer, documents):
    model = build.new_model(ModelConfig(layers=1, width=16, heads=2, dropout=0.0), 32, tokenizer, seed=1)
    model.compile(tf_keras.optimizers.SGD(1e4))

    model.fit(pack_texts(documents[:3], tokenizer, length=32, batch_size=2).take(3), verbose=0, callbacks=[TensorBoard(tmp_path, log_every=1)])

    written = events(tmp_path / "train")
    losses, perplexities = (values(written, name) for name in ("loss", "perplexity"))
    assert max(losses) > 100 and np.isfinite(perplexities).all() and max(perplexities) > 1e38
