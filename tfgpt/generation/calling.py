"""Calls of the graphs that read and write texts, made ready by few of TensorFlow's graph optimizations.

Such a graph is thousands of small operations in dozens of functions. All of Grappler's passes over it take longer than many a text, at the first call; what
tells in the time of a token is that products are fused with their bias and activation.
"""
from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
from tensorflow.python.eager import context

PASSES = ("pruning", "function", "remap", "pruning", "common_subgraph_elimination", "arithmetic", "pruning", "remap")
"""Those of Grappler that are run, by its names, in this order and once each.

The first `pruning` leaves of a session's graph what a call wants; without it `function`, which puts functions' bodies in the place of their calls, and all
behind it took up every signature of a version for each of them. The first `remap` fuses products with their bias, which `arithmetic` would take apart, and
the last one with GELU, which it knows only behind all the others: more than TensorFlow's own passes fuse, in their two rounds.
"""


def call(function: Callable, *given):
    """Return what a `tf.function` gives of its arguments; its first call takes less time than by itself.

    In a graph it is called as it stands. TensorFlow's own switch, `tf.config.optimizer.set_experimental_options`, is one for all that a process does, training
    too; this one is for this call, and what the process has set stays so beside it.
    """
    if not tf.executing_eagerly():
        return function(*given)
    process = context.context()
    own = process.function_call_options                                                   # of this thread
    process.function_call_options = _with_few_passes(own.config_proto_serialized, own.executor_type)
    try:
        return function(*given)
    finally:
        process.function_call_options = own


def keep_few_passes(settings: config_pb2.ConfigProto) -> None:
    """Change the settings of a call or a session, so that `PASSES` alone make its graphs ready."""
    settings.graph_options.rewrite_options.optimizers[:] = PASSES
    settings.graph_options.rewrite_options.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE


@functools.lru_cache
def _with_few_passes(serialized, executor_type):
    settings = config_pb2.ConfigProto.FromString(serialized)
    keep_few_passes(settings)
    return context.FunctionCallOptions(executor_type, settings)
