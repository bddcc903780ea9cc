"""The functions of a `Stepper` as signatures of a SavedModel, and as functions again when it is loaded.

A session knows no functions, only tensors by name. So each function of the stepper is a signature whose name begins with `__`, which servers of ours do
not tell of; what goes in and out of it is flat and numbered. Needs nothing of the model's Python code.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

PREFIX = "__stepper_"
FUNCTIONS = ("begin", "advance", "join", "keep", "describe")
"""Of `tfgpt.generation.stepping.Stepper`."""
SIGNATURES = tuple(PREFIX + name for name in FUNCTIONS)


def stepper_signatures(stepper: tf.Module) -> dict[str, tf.types.experimental.PolymorphicFunction]:
    """Return the functions of a `Stepper` as signatures by name."""
    return {PREFIX + name: _flat(getattr(stepper, name)) for name in FUNCTIONS}


class SavedStepper:
    """What `Stepper` is, in a version that was exported with its signatures; of arrays, not tensors.

    Args:
        run: takes a signature's name and all its inputs by name, gives its outputs by name.
    """

    def __init__(self, run: Callable[[str, Mapping[str, np.ndarray]], dict[str, np.ndarray]]):
        self._run = run

    def begin(self, prompt: np.ndarray, controls: Sequence, constraints: Sequence, top: np.ndarray) -> list[np.ndarray]:
        """See `Stepper.begin`."""
        return self._call("begin", [prompt, *controls, *constraints, top])[0]

    def advance(self, rows: Sequence[np.ndarray], rounds: np.ndarray) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """See `Stepper.advance`."""
        return self._call("advance", [*rows, rounds])

    def join(self, rows: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See `Stepper.join`."""
        return self._call("join", [*rows, *others])[0]

    def keep(self, rows: Sequence[np.ndarray], which: np.ndarray, top: np.ndarray) -> list[np.ndarray]:
        """See `Stepper.keep`."""
        return self._call("keep", [*rows, which, top])[0]

    def describe(self) -> dict[str, np.ndarray]:
        """See `Stepper.describe`."""
        return self._call("describe", [])[1]

    def _call(self, name, values):
        """Return the rows that a function gives, and by name what it tells."""
        told = self._run(PREFIX + name, {_input(number): value for number, value in enumerate(values)})
        rows = []
        while (row := _row(len(rows))) in told:
            rows.append(told.pop(row))
        return rows, told


def _input(number):
    return f"input_{number}"


def _row(number):
    return f"row_{number}"


def _flat(function):
    """Return a function of numbered tensors that gives numbered rows, and by name what it tells."""
    signature, graph = function.input_signature, function.get_concrete_function()         # traced here, if it was not: see `signatures_of`
    specs = [tf.TensorSpec(spec.shape, spec.dtype, name=_input(number)) for number, spec in enumerate(tf.nest.flatten(signature))]

    @tf.function(autograph=False, input_signature=specs)
    def flat(*inputs):
        given = graph(*tf.nest.pack_sequence_as(signature, inputs))
        if isinstance(given, dict):
            return given
        rows, told = given if isinstance(given, tuple) else (given, {})
        return {_row(number): row for number, row in enumerate(rows)} | told

    return flat
