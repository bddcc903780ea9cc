"""What a graph makes of controls and ids that no caller of this package may give: a SavedModel gets requests that nobody has checked.

No row is refused there, since that would refuse the whole batch, of which the others' rows may be another client's.
"""
from __future__ import annotations

import tensorflow as tf

from tfgpt.generation.constraints import NO_TOKEN
from tfgpt.generation.controls import CONTROLS, Control, Controls
from tfgpt.generation.sampling import Constraints


def within(control: Control, numbers: tf.Tensor) -> tf.Tensor:
    """Return a control's numbers, [batch], each the nearest one that is in its range; what is no number (NaN) is neutral.

    >>> within(CONTROLS["presence_penalty"], tf.constant([0.5, float("inf"), float("nan")])).numpy()
    array([5.e-01, 1.e+06, 0.e+00], dtype=float32)
    """
    if numbers.dtype.is_floating:
        numbers = tf.where(tf.math.is_nan(numbers), tf.constant(control.neutral, numbers.dtype), numbers)
    return tf.clip_by_value(numbers, tf.constant(control.lowest, numbers.dtype), tf.constant(control.highest, numbers.dtype))


def bounded(controls: Controls, constraints: Constraints | None, vocab: int) -> tuple[Controls, Constraints | None]:
    """Return controls within their ranges, and constraints without the ids that no token has; plain controls and no constraints as they are.

    Args:
        controls: each [batch].
        constraints: each [batch, n].
        vocab: how many tokens there are.
    """
    if controls.are_plain:
        return controls, constraints
    banned, forced = (tf.where((ids >= 0) & (ids < vocab), ids, NO_TOKEN) for ids in (constraints.banned_tokens, constraints.forced_tokens))
    kept = Controls(*(within(control, numbers) for control, numbers in zip(CONTROLS.values(), controls)))
    return kept, constraints._replace(banned_tokens=banned, forced_tokens=forced)
