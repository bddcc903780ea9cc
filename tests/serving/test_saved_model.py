"""A version that is loaded and closed: what it gives while it is there, and that nothing of it is left behind."""
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tfgpt.serving.batched import BatchedModel
from tfgpt.serving.saved_model import LoadedModel, read_graph, read_signatures

SWAPS = """
import json, sys
from pathlib import Path
import numpy as np
from tfgpt.serving.batched import BatchedModel
from tfgpt.serving.server import spare_collector

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

spare_collector()  # as the server does before it loads anything
before, loaded, closed = resident(), [], []
for _ in range(7):
    version = BatchedModel(Path(sys.argv[1]))
    for signature, name in (("generate", "prompt"), ("score", "text")):
        version.predict(signature, {name: np.array(["def f(x):", "It was"], object)})
    loaded.append(resident())
    version.close()
    closed.append(resident())
json.dump([before, loaded, closed], sys.stdout)
"""


class Foreign(tf.Module):
    """Signatures as another program may write them: a number without dimensions, two names for one tensor."""

    def __init__(self):
        super().__init__()
        self.weight = tf.Variable(3.0)

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="x"), tf.TensorSpec([], tf.string, name="text")])
    def one(self, x, text):
        product = self.weight * x
        return {"product": product, "same": product, "text": tf.strings.join([text, text])}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign") / "1"
    module = Foreign()
    tf.saved_model.save(module, str(folder), {"serving_default": module.one})
    return folder


@pytest.mark.slow
def test_versions_that_are_swapped_leave_nothing_behind(exported):
    done = subprocess.run([sys.executable, "-c", SWAPS, str(exported)], capture_output=True, text=True, check=True)

    before, loaded, closed = json.loads(done.stdout)
    assert closed[-1] - closed[2] < 0.25 * (loaded[0] - before)  # four swaps; each left most of a load when functions were added to the process


def test_a_version_that_another_program_wrote_is_asked_signature_by_signature(foreign):
    version = BatchedModel(foreign)

    found = version.predict("serving_default", {"x": 2.0, "text": "ab"})

    assert not version.writes and version.stepper is None
    assert {name: (value.dtype.kind, value.shape, value.item()) for name, value in found.items()} == {
        "product": ("f", (), 6.0), "same": ("f", (), 6.0), "text": ("O", (), b"abab")}  # fmt: skip
    version.close()
    version.close()


@pytest.mark.parametrize(("inputs", "message"), [
    ({"x": [2.0], "text": "a"}, r"x: has 1 dimensions, expected 0"),
    ({"x": "2", "text": "a"}, "Cannot convert"),
])
def test_inputs_of_another_form_are_refused(foreign, inputs, message):
    version = LoadedModel(foreign)

    with pytest.raises((ValueError, TypeError), match=message):
        version.predict("serving_default", inputs)


def test_an_export_without_the_functions_for_pieces_writes_one_by_one(exported, tmp_path, caplog, monkeypatch):
    """As an earlier tfgpt wrote it: nothing hidden among its signatures."""
    ours, hidden = LoadedModel(exported), [name for name in read_graph(exported).signature_def if name.startswith("__stepper_")]
    graph = read_graph(exported)
    for name in hidden:
        del graph.signature_def[name]
    monkeypatch.setattr("tfgpt.serving.saved_model.read_graph", lambda folder: graph)

    earlier = BatchedModel(exported)

    inputs = {"prompt": np.array(["It was", "x"], object)}
    assert len(hidden) == 5 and not earlier.writes and "was exported by an earlier tfgpt" in caplog.text
    assert earlier.predict("generate", inputs)["text"].tolist() == ours.predict("generate", inputs)["text"].tolist()


def test_the_functions_for_pieces_are_not_told_of(exported):
    assert not [name for name in (*read_signatures(exported), *LoadedModel(exported).signatures) if name.startswith("_")]
