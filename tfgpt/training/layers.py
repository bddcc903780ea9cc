"""Learning rates by layer: lower ones learn more slowly, or later.

One mechanism serves every optimizer of Keras: while a variable is updated, the optimizer's learning rate is the one of its layer, so that weight
decay, which is in proportion to it, follows.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf
import tf_keras

from tfgpt.models.weights import short_name
from tfgpt.training.optimizer import FusedAdamW

OF_BLOCK = re.compile(r"h\.(\d+)\.")


@dataclass(frozen=True)
class LayerRates:
    """How fast, and from which step on, the layers of a model learn."""

    blocks: int
    """Of the model."""
    encoder_blocks: int = 0
    """Of its encoder, which has its own top."""
    decay: float = 1.0
    """What the learning rate is multiplied by from a layer to the one below (Howard & Ruder 2018, "Universal Language Model Fine-tuning for Text
    Classification", discriminative fine-tuning)."""
    unfreeze_every: int = 0
    """Optimizer steps after which the next layer begins to learn, from the top (in the same paper, gradual unfreezing); 0 = all learn from the first."""

    def depth(self, name: str) -> int:
        """Return how far below the top a weight is.

        0 = heads, last norm, an output matrix of its own and a learned prompt; 1 = the last block; embeddings and positions are below the first block.

        >>> [LayerRates(blocks=12).depth(name) for name in ("head.weight", "ln_f.bias", "h.11.ln_1.weight", "h.0.attn.c_attn.weight", "wte.weight")]
        [0, 0, 1, 12, 13]
        """
        part = name.removeprefix("encoder.")
        blocks = self.blocks if part == name else self.encoder_blocks
        if found := OF_BLOCK.match(part):
            return blocks - int(found[1])
        return blocks + 1 if part.startswith(("wte.", "wpe.")) else 0

    def factors(self, names: Sequence[str]) -> list[tuple[float, int]]:
        """Return of each trained weight what its learning rate is multiplied by, and its first step; the topmost of them learn from step 0."""
        depths = [self.depth(name) for name in names]
        return [(self.decay**depth, (depth - min(depths)) * self.unfreeze_every) for depth in depths]


def by_layer(kind: type[tf_keras.optimizers.Optimizer], rates: LayerRates) -> type[tf_keras.optimizers.Optimizer]:
    """Return an optimizer's class whose learning rate is each layer's own.

    Before its first step a layer stays as it is, bit for bit; what the optimizer keeps of its gradients is gathered meanwhile.

    Args:
        kind: takes its weight decay in proportion to the learning rate, as all of Keras do.
        rates: of the layers.
    """

    class ByLayer(kind):
        _of_layer: tf.Tensor | None = None

        def build(self, var_list):
            """Make the state, and look up the layers of the variables."""
            self._layers = rates.factors([short_name(variable) for variable in var_list])
            super().build(var_list)

        @property
        def learning_rate(self):
            """That of the schedule; within `update_step` that of the variable's layer."""
            return super().learning_rate if self._of_layer is None else super().learning_rate * self._of_layer

        def _apply_weight_decay(self, variables):
            """Do nothing: `update_step` decays."""

        def update_step(self, gradient, variable):
            """Update one variable."""
            factor, first = self._layers[self._index_dict[self._var_key(variable)]]
            self._of_layer = tf.where(self.iterations >= first, factor, 0.0)
            try:
                if not issubclass(kind, FusedAdamW) and self.weight_decay and self._use_weight_decay(variable):
                    variable.assign_sub(variable * tf.cast(self.learning_rate * self.weight_decay, variable.dtype))
                super().update_step(gradient, variable)
            finally:
                self._of_layer = None

    ByLayer.__name__ = kind.__name__
    return ByLayer
