"""What a recipe says of the model that it exports."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tfgpt.recipe_checks import check, check_at_least, check_choices

Weights = Literal["float32", "bfloat16", "int8"]
"""How the matrices of a model that is not trained may be kept."""
ExportDevice = Literal["any", "gpu"]
"""What an exported model is laid out for."""


@dataclass(frozen=True)
class ExportConfig:
    """The SavedModel for TensorFlow Serving."""

    version: int = 1
    """Version folder; TensorFlow Serving serves the highest."""
    max_new_tokens: int = 64
    """Default of the control of that name: tokens a request gets when it does not say."""
    weights: Weights = "float32"
    """How the matrices are kept. Fewer bits are smaller and faster and cost some exactness: the perplexity of each is measured on the validation part and
    written to assets.extra/weights.json. int8 is for x86 CPUs, bfloat16 for any device."""
    jit: bool = False
    """Let XLA compile the model's reading; tokenizer and sampler stay as they are. TensorFlow Serving then wants --xla_cpu_compilation_enabled or
    --xla_gpu_compilation_enabled. Batches are padded to batch_sizes, texts to length_buckets, so that few shapes are ever compiled."""
    device: ExportDevice = "any"
    """any = nothing is placed by hand, and the server chooses; gpu = the tokenizer's small operations are kept on the host, beside its strings, where the
    server would spread them over both. Either loads on a machine without a GPU."""
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8)
    """Rows of the batches that a server with batching runs, rising; the last is the most. They stand in batching_parameters.txt, and the server is warmed
    up with each."""
    length_buckets: tuple[int, ...] = ()
    """Lengths of texts, in tokens, that the server is warmed up with, rising; empty = 16 and half of the model's context."""

    beams: int = 0
    """Beams of the signature search, which gives the best text that a beam search finds; 0 = no such signature, a smaller version that is loaded sooner."""
    draft: str = ""
    """A smaller model with the same tokenizer, whose guesses make generate faster where they are often right, and its texts no others: a run's folder, one
    that holds a model, or a hub id; empty = none."""
    draft_tokens: int = 5
    """The most tokens that it guesses at once."""

    def __post_init__(self):
        check_choices("export", self)
        check_at_least("export.beams", self.beams, 0)
        check(not (self.jit and self.beams), f"export.beams: {self.beams} with export.jit: true; a search is not compiled, so give 0, or leave jit out")
        for key in ("version", "max_new_tokens", "draft_tokens"):
            check_at_least(f"export.{key}", getattr(self, key), 1)
        for key in ("batch_sizes", "length_buckets"):
            sizes = list(getattr(self, key))
            check(all(size >= 1 for size in sizes) and sizes == sorted(set(sizes)),
                  f"export.{key}: {sizes} is no list of rising whole numbers from 1 on, such as {[1, 2, 4, 8] if key == 'batch_sizes' else [16, 256]}")
        check(bool(self.batch_sizes), "export.batch_sizes: empty; give at least the most rows of a batch, such as [8]")
        check(not (self.jit and self.weights == "int8"),
              "export.jit: true with export.weights int8, for which XLA has no product; take float32 or bfloat16, or leave jit out")

    def lengths(self, context: int) -> tuple[int, ...]:
        """Return the lengths of texts that a model with this context is warmed up with.

        Raises:
            RecipeError: one that leaves no room for a token to write.

        >>> ExportConfig().lengths(1024)
        (16, 512)
        """
        if not self.length_buckets:
            return tuple(sorted({min(16, context // 2), context // 2}))
        check(self.length_buckets[-1] < context, f"export.length_buckets: {self.length_buckets[-1]} tokens leave no room to write in the model's context of "
              f"{context}; give less")
        return tuple(self.length_buckets)
