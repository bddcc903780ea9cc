"""Calls by few of TensorFlow's graph optimizations: the same numbers, the same kernels, and no trace of them afterwards."""
import collections
import threading

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from tfgpt.generation.calling import PASSES, call, keep_few_passes


def reader(model):
    """A new graph that reads two rows of tokens."""
    ids = tf.constant([[5, 6, 7, 8], [9, 5, 6, 7]])
    positions, last = tf.zeros_like(ids) + tf.range(4), tf.constant([[3], [3]])
    return tf.function(lambda: model.read(ids, positions, last, model.empty_cache(2, 4))[0], autograph=False)


@pytest.fixture
def read(model):
    return reader(model)


def kinds_of_operations(called):
    """How many of each kind a first call runs, after TensorFlow's optimization."""
    context.context().enable_run_metadata()
    called()
    run = context.context().export_run_metadata()
    context.context().disable_run_metadata()
    return collections.Counter(node.op for part in run.partition_graphs for node in part.node)


def test_the_numbers_are_those_of_a_call_by_itself(read):
    np.testing.assert_allclose(call(read), read(), rtol=1e-5, atol=1e-5)                  # products are fused otherwise


def test_what_all_of_tensorflows_passes_fuse_is_fused(model):
    few, alone = kinds_of_operations(lambda: call(reader(model))), kinds_of_operations(reader(model))
    fused = [sum(number for kind, number in kinds.items() if "Fused" in kind) for kinds in (few, alone)]
    assert fused[0] >= fused[1] > 0
    assert few["Tanh"] == alone["Tanh"] == 0                                              # GELU's, which is done in the product before it


def test_the_passes_are_of_the_call_alone():
    def options():
        return context.context().function_call_options.config_proto_serialized

    before, seen = options(), []
    tracing = tf.function(lambda: seen.append(options()) or tf.constant(1), autograph=False)
    call(tracing)
    assert options() == before and seen != [before]

    beside = []
    other = threading.Thread(target=lambda: beside.append(options()))

    def fails():
        other.start()
        other.join()
        raise ValueError("as it may")

    with pytest.raises(ValueError, match="as it may"):
        call(fails)
    assert options() == before and all(name.encode() not in beside[0] for name in PASSES)


def test_what_the_process_has_set_stays_so():
    was = tf.config.get_soft_device_placement()
    tf.config.set_soft_device_placement(not was)
    try:
        settings, seen = context.context().config, []
        keep_few_passes(settings)
        call(lambda: seen.append(context.context().function_call_options.config_proto_serialized))
        assert seen == [settings.SerializeToString(deterministic=True)]
    finally:
        tf.config.set_soft_device_placement(was)


def test_in_a_graph_it_is_the_function_as_it_stands(read):
    outer = tf.function(lambda: call(read), autograph=False)
    of_call, = [node for node in outer.get_concrete_function().graph.as_graph_def().node if "PartitionedCall" in node.op]
    assert all(name.encode() not in of_call.attr["config_proto"].s for name in PASSES)
