"""What a model has beside GPT-2's own layers. It stands in `config.json` under `adaptation`, and says which layers the model is built of.

What is trained stands nowhere: it is a matter of the training, not of the model.
"""
from __future__ import annotations

import copy
import dataclasses
import typing
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from transformers import GPT2Config

from tfgpt.recipe import BottleneckConfig, EncoderConfig, HeadKind, LoraConfig, PrefixConfig

VERSION = 1
"""Of the form; a folder with a newer one is refused."""


@dataclass(frozen=True)
class Head:
    """An output layer beside the language model's; see `tfgpt.models.heads`."""

    kind: HeadKind = "none"
    labels: tuple[str, ...] = ()
    """Names of what it tells apart, in the order of its outputs."""
    weight: float = 1.0
    """Share of its loss in what is trained; the language model's loss has the rest."""
    dropout: float = 0.0
    """Share of its input dropped in training."""
    center: float = 0.0
    """Of numbers, the mean of those trained on."""
    spread: float = 1.0
    """Of numbers, their standard deviation."""
    temperature: float = 1.0
    """What the outputs are divided by before they are made probabilities: it tells how sure classes and labels are, and never which (see
    `tfgpt.evaluation.calibration`). Training does without."""

    @property
    def outputs(self) -> int:
        """How many numbers it gives for a token."""
        return 1 if self.kind in ("number", "choice") else len(self.labels)


@dataclass(frozen=True)
class Adaptation:
    """The layers of a model beside GPT-2's own."""

    lora: LoraConfig = field(default_factory=LoraConfig)
    bottleneck: BottleneckConfig = field(default_factory=BottleneckConfig)
    prefix: PrefixConfig = field(default_factory=PrefixConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """With the numbers of its layers and of the tokens it takes."""
    head: Head = field(default_factory=Head)
    window: int = 0
    """Tokens that a token sees, itself among them; 0 = all before it."""
    masked_heads: tuple[str, ...] = ()
    """Heads that are switched off, as block.head."""
    pruned_heads: tuple[str, ...] = ()
    """Heads that are not there, as block.head in the numbers of a block with all its heads."""

    @classmethod
    def of(cls, config: GPT2Config) -> Adaptation:
        """Read a model's configuration.

        Raises:
            ValueError: a version or a part that this version of tfgpt does not know.
        """
        content = dict(getattr(config, "adaptation", None) or {})
        version = content.pop("version", VERSION)
        if version != VERSION:
            raise ValueError(f"config.json: adaptation.version is {version}, and this tfgpt knows {VERSION} alone; load the model with a newer tfgpt")
        return _from_plain(cls, content, "adaptation")

    def in_config(self, config: GPT2Config, **changes: object) -> GPT2Config:
        """Return a copy of a configuration with this adaptation, and with other `changes`."""
        changed = copy.deepcopy(config)
        content = {key: value for key, value in _plain(self).items() if value != _plain(Adaptation())[key]}
        if content:
            changed.adaptation = {"version": VERSION} | content
        elif hasattr(changed, "adaptation"):
            del changed.adaptation
        for key, value in changes.items():
            setattr(changed, key, value)
        return changed

    def heads_of(self, block: int, heads: int) -> list[int]:
        """Return the numbers of the heads, of so many, that a block has."""
        gone = {int(number) for number in _of_block(self.pruned_heads, block)}
        return [head for head in range(heads) if head not in gone]

    def gates_of(self, block: int, heads: int) -> list[float] | None:
        """Return what each head that a block has is multiplied by, 0 or 1; `None` if all by 1."""
        masked = {int(number) for number in _of_block(self.masked_heads, block)}
        gates = [0.0 if head in masked else 1.0 for head in self.heads_of(block, heads)]
        return gates if 0.0 in gates else None

    def rank_of(self, matrix: str) -> int:
        """Return the rank of the change that LoRA makes to a matrix such as `h.0.attn.c_attn`; 0 = none."""
        return self.lora.rank if any(matches(pattern, matrix) for pattern in self.lora.matrices) else 0

    @property
    def trains_additions(self) -> bool:
        """Whether what is new is trained instead of GPT-2's weights, unless it is said otherwise."""
        return bool(self.lora.rank or self.bottleneck.width or self.prefix.tokens)


def matches(pattern: str, name: str) -> bool:
    """Tell whether a pattern names a weight, or a part that the weight is in.

    `*` stands for anything between two dots, `**` for any number of parts.

    >>> matches("h.*.attn", "h.3.attn.c_attn.weight"), matches("h.*.attn", "h.3.mlp.c_fc.weight"), matches("h.[0-2]", "h.3.mlp.c_fc.weight")
    (True, False, False)
    >>> matches("**.bias", "h.3.mlp.c_fc.bias"), matches("**.bias", "h.3.mlp.c_fc.weight")
    (True, False)
    """
    return _matches(pattern.split("."), name.split("."))


def _matches(pattern, name):
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_matches(pattern[1:], name[skipped:]) for skipped in range(len(name) + 1))
    return bool(name) and fnmatchcase(name[0], pattern[0]) and _matches(pattern[1:], name[1:])


def _of_block(heads, block):
    return [head.split(".")[1] for head in heads if head.split(".")[0] == str(block)]


def _plain(settings):
    """Return a dataclass as JSON has it."""
    return {key: list(value) if isinstance(value, tuple) else _plain(getattr(settings, key)) if isinstance(value, dict) else value
            for key, value in dataclasses.asdict(settings).items()}


def _from_plain(section, content, name):
    """Return a dataclass of what JSON has."""
    types = typing.get_type_hints(section)
    if unknown := sorted(content.keys() - types.keys()):
        raise ValueError(f"config.json: {name}.{unknown[0]} is not known to this tfgpt (known: {', '.join(types)}); load the model with a newer one")
    values = {key: _from_plain(types[key], value, f"{name}.{key}") if dataclasses.is_dataclass(types[key])
              else tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    return section(**values)
