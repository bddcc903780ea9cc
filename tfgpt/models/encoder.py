"""The encoder of a model that writes from a source: the blocks of the decoder, each place seeing all of its own source.

It looks tokens up in the decoder's embeddings; blocks, positions and last norm are its own. What an adaptation says of prefixes, bottlenecks,
windows and heads holds for the decoder alone; LoRA changes the matrices whose names its patterns match (`encoder.h.*.attn.c_attn`).
"""
from __future__ import annotations

import copy

import tensorflow as tf
import tf_keras
from transformers import GPT2Config

from tfgpt.models.adaptation import Adaptation
from tfgpt.models.attention import Mask
from tfgpt.models.block import GPTBlock, Projection, Shared
from tfgpt.models.compute import Compute
from tfgpt.models.dropout import DropoutClock


def added_parameters(layers: int, width: int, encoder_layers: int, context: int) -> int:
    """Return how many weights an encoder adds to a model, those of cross-attention among them.

    Args:
        layers: blocks of the decoder.
        width: of both.
        encoder_layers: blocks of the encoder.
        context: the most tokens of a source.

    >>> added_parameters(layers=2, width=128, encoder_layers=2, context=64)
    537600
    """
    block, across = 12 * width * width + 13 * width, 4 * width * width + 6 * width
    return encoder_layers * block + layers * across + (context + 2) * width


class Encoder(tf_keras.layers.Layer):
    """Reads sources. Named `encoder`.

    Args:
        config: of the model.
        compute: of the model.
        clock: of the model's dropouts.
    """

    def __init__(self, config: GPT2Config, compute: Compute, clock: DropoutClock):
        super().__init__(name="encoder")
        adaptation = Adaptation.of(config)
        self.context, layers = adaptation.encoder.context, adaptation.encoder.layers
        of_blocks = copy.copy(config)
        of_blocks.add_cross_attention = False
        shared = Shared(of_blocks, Adaptation(lora=adaptation.lora), compute, clock)
        self._compute, self._clock, self._epsilon, self._width = compute, clock, config.layer_norm_epsilon, config.n_embd
        self._dropout = shared.dropout(config.embd_pdrop, "encoder")
        self.wpe = tf_keras.layers.Embedding(self.context, config.n_embd, name="wpe")
        # Behind the decoder's in number, so that their dropouts are told apart from those.
        self.h = [GPTBlock(shared, config.n_layer + number, f"encoder.h.{number}", name=f"h_._{number}") for number in range(layers)]
        self.ln_f = tf_keras.layers.LayerNormalization(epsilon=config.layer_norm_epsilon, name="ln_f")

    def build(self, input_shape=None):
        """Make the weights."""
        if self.built:
            return
        self.built = True
        for layer, shape in ((self.wpe, None), (self.ln_f, [None, None, self._width]), *((block, None) for block in self.h)):
            with tf.name_scope(layer.name):
                layer.build(shape)

    @property
    def projections(self) -> list[Projection]:
        """Its dense layers."""
        return [layer for block in self.h for layer in block.projections]

    def call(self, embeddings, position_ids, segment_ids, training=False, in_blocks=False):
        """Return the states of sources, float [batch, places, width].

        Args:
            embeddings: float [batch, places, width], of the tokens.
            position_ids: int32 [batch or 1, places], of each token in its source, below the encoder's context.
            segment_ids: int32 [batch, places], which source of the row each token belongs to, 0 = padding; a place sees its own source alone.
            training: whether dropout is on.
            in_blocks: as for `tfgpt.models.transformer.GPTTransformer.call`.
        """
        same = segment_ids[:, :, tf.newaxis] == segment_ids[:, tf.newaxis, :]            # [batch, places, places]
        additive = tf.where(same, 0.0, float("-inf"))[:, tf.newaxis]
        mask = Mask.in_blocks(additive, segment_ids.shape[1]) if in_blocks else Mask(additive)
        hidden = self._dropout(embeddings + self.wpe(position_ids), training)
        for block in self.h:
            if training and self._compute.recompute:
                run = self._clock.keeping_place(lambda x, block=block: block(x, None, mask, training=True)[0])
                hidden = tf.recompute_grad(run)(hidden)
            else:
                hidden = block(hidden, None, mask, training=training)[0]
        norm = self._compute.elementwise(training)["norm"]
        return norm(hidden, self.ln_f.gamma, self.ln_f.beta, epsilon=self._epsilon, dtype=hidden.dtype)
