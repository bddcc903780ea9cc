"""What every section of a recipe checks itself with."""
from __future__ import annotations

import functools
import math
import typing


class RecipeError(ValueError):
    """A recipe, or the data it names, that cannot be run; the message names the key, the value and the remedy."""


def check(holds: bool, message: str) -> None:
    """Raise a `RecipeError` unless `holds`."""
    if not holds:
        raise RecipeError(message)


def check_at_least(key: str, value: float, least: float, remedy: str = "") -> None:
    """Raise a `RecipeError` when `value` is under `least`, or no finite number."""
    check(value >= least, f"{key}: {value} is too small; set it to {least} or more{remedy}")
    check(math.isfinite(value), f"{key}: {value} is no number to work with; set it to {least} or more{remedy}")


def check_choices(section: str, config) -> None:
    """Raise a `RecipeError` when a setting that takes one of a few values has another: what Python's callers give was not compared with them before.

    Args:
        section: of the recipe, such as `train.schedule`.
        config: its dataclass.
    """
    for name, choices in _choices(type(config)).items():
        value = getattr(config, name)
        check(value in choices, f"{section}.{name}: {value!r} is not one of {', '.join(map(str, choices))}; choose one of these")


@functools.cache
def _choices(kind):
    """Return the values that the settings of a dataclass may have, by name, where they are told one by one."""
    found = {}
    for name, hint in typing.get_type_hints(kind).items():
        parts = (hint, *typing.get_args(hint))                                            # of `Literal[...] | None` too
        told = [choice for part in parts if typing.get_origin(part) is typing.Literal for choice in typing.get_args(part)]
        if told:
            found[name] = told + [None] * (type(None) in parts)
    return found
