"""What the `model` section of a recipe may say: the shape of a new model, by name or by numbers, or the model to start from."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from tfgpt.recipe_checks import check, check_at_least, check_choices


class Size(NamedTuple):
    """A shape by name."""

    layers: int
    width: int
    heads: int
    context: int
    """0 = as long as the data's sequences."""


SIZES = {
    "tiny": Size(2, 128, 4, 0),
    "small": Size(4, 256, 4, 0),
    "base": Size(6, 384, 6, 0),
    "gpt1": Size(12, 768, 12, 512),
    "gpt2": Size(12, 768, 12, 1024),
    "gpt2-medium": Size(24, 1024, 16, 1024),
    "gpt2-large": Size(36, 1280, 20, 1024),
    "gpt2-xl": Size(48, 1600, 25, 1024),
    "gpt3-small": Size(12, 768, 12, 2048),
    "gpt3-medium": Size(24, 1024, 16, 2048),
    "gpt3-large": Size(24, 1536, 16, 2048),
    "gpt3-xl": Size(24, 2048, 16, 2048),
    "gpt3-2.7b": Size(32, 2560, 32, 2048),
    "gpt3-6.7b": Size(32, 4096, 32, 2048),
    "gpt3-13b": Size(40, 5120, 40, 2048),
    "gpt3-175b": Size(96, 12288, 96, 2048),
}
"""Radford et al. 2018 and 2019; Brown et al. 2020, table 2.1. Where that table's heads times head width is not the width, which no GPT-2 can be, the
head width of 128 stands: gpt3-xl has 16 heads and not 24, gpt3-13b a width of 5120 and not 5140. gpt1 is GPT-1's shape in GPT-2's architecture."""


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a new model, or the model to start from."""

    init: str = "random"
    """random, or a folder, or a hub id such as gpt2, or a published model: store://NAME, store://NAME:VERSION, store://NAME@production (see `tfgpt store`). The
    shape below is for random alone."""
    size: Literal["tiny", "small", "base", "gpt1", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "gpt3-small", "gpt3-medium", "gpt3-large", "gpt3-xl",
                  "gpt3-2.7b", "gpt3-6.7b", "gpt3-13b", "gpt3-175b"] = "small"  # fmt: skip
    """A shape by name; the numbers below, where they are given, count instead of its own. The vocabulary is the tokenizer's."""
    layers: int = 0
    """Transformer blocks; 0 = those of model.size (small: 4)."""
    width: int = 0
    """Size of the hidden states, a multiple of heads; 0 = that of model.size (small: 256)."""
    heads: int = 0
    """Attention heads in a block; 0 = by head_width, else those of model.size (small: 4)."""
    head_width: int = 0
    """Width of an attention head; 0 = width / heads."""
    context: int = 0
    """The most tokens the model takes; 0 = that of model.size, for tiny, small and base data.length."""
    positions: Literal["learned", "sinusoidal"] = "learned"
    """How positions are told apart: by learned vectors, or by sines and cosines that are never trained (Vaswani et al. 2017), kept in the same place
    and at the same size as learned ones, so that every GPT-2 reads them."""
    dropout: float = 0.1
    """Share of activations dropped in training, in each part that has no share of its own below; 0 = off."""
    embedding_dropout: float | None = None
    """Share of the embeddings."""
    attention_dropout: float | None = None
    """Share of the attention weights."""
    residual_dropout: float | None = None
    """Share of what attention and MLP add to the residual stream."""

    def __post_init__(self):
        check_choices("model", self)
        for key in ("layers", "width", "heads", "head_width", "context"):
            check_at_least(f"model.{key}", getattr(self, key), 0)
        for key in ("dropout", "embedding_dropout", "attention_dropout", "residual_dropout"):
            rate = getattr(self, key)
            check(rate is None or 0 <= rate < 1, f"model.{key}: {rate} is not in [0, 1); 0 turns it off")
        check(not (self.heads and self.head_width) or self.heads * self.head_width == self.shape.width,
              f"model.head_width: {self.heads} heads of {self.head_width} are not model.width ({self.shape.width}); give one of heads and head_width")
        check(not self.head_width or self.shape.width % self.head_width == 0,
              f"model.head_width: {self.head_width} does not divide model.width ({self.shape.width}); change one of them")
        check(self.shape.width % self.shape.heads == 0, f"model.width: {self.shape.width} is not a multiple of model.heads ({self.shape.heads}); "
              "change one of them")

    @property
    def shape(self) -> Size:
        """The numbers that count."""
        named = SIZES[self.size]
        width = self.width or named.width
        heads = self.heads or (width // self.head_width if self.head_width else named.heads)
        return Size(self.layers or named.layers, width, heads, self.context or named.context)

    def dropout_of(self, part: Literal["embedding", "attention", "residual"]) -> float:
        """Return the share that a part drops."""
        own = getattr(self, f"{part}_dropout")
        return self.dropout if own is None else own
