"""How a continuation is chosen: every control with its type, its neutral value and its range. Needs no TensorFlow, so a client may read it too."""
from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np


@dataclass(frozen=True)
class Control:
    """One setting of a continuation."""

    kind: type
    """Of numpy; what the graph takes."""
    neutral: float
    """Changes nothing."""
    lowest: float
    highest: float
    help: str

    @property
    def is_whole(self) -> bool:
        """Whether it takes whole numbers alone."""
        return np.issubdtype(self.kind, np.integer)


DRAFT_TOKENS = 5
"""The most tokens that a draft model guesses at once, where nothing is said."""
LARGEST = 1e6
"""What changes logits is no larger: an infinite number would make of those at 0, and of what is banned, none at all (NaN)."""
CONTROLS = {
    "max_new_tokens": Control(np.int32, 64, 0, 2**31 - 1, "The most tokens to write; capped to what fits the context."),
    "temperature": Control(np.float32, 0.0, 0.0, LARGEST, "Logits are divided by it before a token is drawn; 0 = greedy."),
    "top_k": Control(np.int32, 0, 0, 2**31 - 1, "Draw among that many likeliest tokens; 0 = off."),
    "top_p": Control(np.float32, 1.0, 0.0, 1.0, "Draw from the fewest tokens with this probability together; 1 = off."),
    "repetition_penalty": Control(np.float32, 1.0, 0.0, LARGEST, "Above 1 makes tokens already there less likely; 1 = off, and so is 0."),
    "seed": Control(np.int64, 0, -(2**63), 2**63 - 1, "The same seed, prompt and controls give the same text."),
    "min_p": Control(np.float32, 0.0, 0.0, 1.0, "Draw from tokens at least this share as likely as the likeliest; 0 = off."),
    "typical_p": Control(np.float32, 1.0, 0.0, 1.0, "Draw from the most typical tokens with this probability together; 1 = off."),
    "presence_penalty": Control(np.float32, 0.0, -LARGEST, LARGEST, "Taken from the logits of tokens already written behind the prompt; 0 = off."),
    "frequency_penalty": Control(np.float32, 0.0, -LARGEST, LARGEST, "Taken from a token's logit for each time it was written behind the prompt; 0 = off."),
    "no_repeat_ngram_size": Control(np.int32, 0, 0, 2**31 - 1, "No run of that many tokens comes twice, the prompt's among them; 0 = off."),
    "min_new_tokens": Control(np.int32, 0, 0, 2**31 - 1, "No end-of-text token before so many tokens; a stop string ends a text all the same."),
    "prompt_lookup_num_tokens": Control(np.int32, 0, 0, 64, "Guess up to that many tokens at once from an earlier run of the same text; faster where a text "
                                                            "copies from its prompt, and the same text in the end; 0 = off."),
}
"""In the order in which the graph takes them."""
LENGTHS = ("max_new_tokens", "min_new_tokens")
"""Those that plain controls hold (see `Controls`)."""
SEARCHED = ("max_new_tokens", "min_new_tokens", "no_repeat_ngram_size", "repetition_penalty", "presence_penalty", "frequency_penalty")
"""Those that count in a beam search; the others do nothing there."""
SEARCH_CONTROLS = {
    "length_penalty": Control(np.float32, 1.0, -10.0, 10.0, "The sum of a text's log-probabilities is divided by its length to this power."),
    "early_stopping": Control(np.int32, 0, 0, 2, "A search ends when 0 = nothing better goes on, 1 = enough has ended, 2 = nothing better can come."),
}
"""Those that a beam search alone has, as its graph takes them (see `tfgpt.generation.beam.EARLY_STOPPING`)."""


class Controls(namedtuple("Controls", CONTROLS)):
    """The controls of a batch: one tensor [batch] each, of the kind that `CONTROLS` says.

    Plain ones are of texts of which nothing is asked but their lengths, and hold nothing else: what would do the rest stands in no graph then.
    """

    __slots__ = ()

    @classmethod
    def plain(cls, max_new_tokens, min_new_tokens) -> Controls:
        """Return plain controls: greedy, with every rule off."""
        lengths = dict(zip(LENGTHS, (max_new_tokens, min_new_tokens)))
        return cls(**dict.fromkeys(cls._fields) | lengths)

    @property
    def are_plain(self) -> bool:
        """Whether they are plain."""
        return self.temperature is None

    @property
    def change_nothing(self) -> bool:
        """Whether plain ones of the same lengths would give the same texts; of arrays."""
        return all(np.all(getattr(self, name) == control.neutral) for name, control in CONTROLS.items() if name not in (*LENGTHS, "seed"))


def controls_of(given: dict[str, float | Iterable[float]], rows: int) -> Controls:
    """Return the controls of a batch as arrays [1] or [rows]; what is not given is neutral.

    Args:
        given: for each control one number, or one for each row.
        rows: of the batch.

    Raises:
        ValueError: no such control, a number outside of its range or of the wrong kind, or not as many as there are rows.

    >>> controls_of({"top_p": [0.5, 0.9]}, rows=2).top_p
    array([0.5, 0.9], dtype=float32)
    """
    if unknown := sorted(given.keys() - CONTROLS.keys()):
        raise ValueError(f"{', '.join(unknown)}: no such control; there are {', '.join(CONTROLS)}")
    return Controls(*(checked_numbers(name, control, given.get(name, control.neutral), rows) for name, control in CONTROLS.items()))


def checked_numbers(name: str, control: Control, value: float | Iterable[float], rows: int) -> np.ndarray:
    """Return a control's number, or one for each row, as an array [1] or [rows]; raises as `controls_of`."""
    numbers = np.asarray(value, dtype=object).reshape(-1).tolist()  # of objects, since a number may be too large for any other kind
    if not all(isinstance(number, Integral if control.is_whole else Real) and not isinstance(number, bool) for number in numbers):
        raise ValueError(f"{name}: {value!r} is no {'whole ' if control.is_whole else ''}number; {control.help}")
    if len(numbers) not in (1, rows):
        raise ValueError(f"{name}: {len(numbers)} values for {rows} prompts; give one for all, or one for each")
    if wrong := [number for number in numbers if not control.lowest <= number <= control.highest]:
        raise ValueError(f"{name}: {wrong[0]} is not between {control.lowest:g} and {control.highest:g}; {control.help}")
    return np.array(numbers, control.kind)
