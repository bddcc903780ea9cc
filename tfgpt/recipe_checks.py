"""What every section of a recipe checks itself with."""
from __future__ import annotations

import math


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
