"""Small trainable layers that a block of GPT-2 can have beside its own: low-rank changes, bottlenecks, learned keys and values."""
from __future__ import annotations

import tensorflow as tf
import tf_keras

from tfgpt.models.dropout import Dropout
from tfgpt.models.products import product
from tfgpt.models.stored import rows_of


class LowRank(tf_keras.layers.Layer):
    """A change of a matrix [nx, nf], as the product of two thin ones (Hu et al. 2021, "LoRA"). Named `lora`.

    Args:
        nx: size of what comes in.
        nf: size of what goes out.
        rank: columns of the first matrix, rows of the second.
        alpha: the change counts alpha / rank times.
        dropout: of what comes in.
    """

    def __init__(self, nx: int, nf: int, rank: int, alpha: float, dropout: Dropout):
        super().__init__(name="lora", autocast=False)  # what comes in has the precision of the products
        self._shapes, self._scale, self._dropout = {"a": [nx, rank], "b": [rank, nf]}, alpha / rank, dropout

    def build(self, input_shape=None):
        """Make `a` [nx, rank] and `b` [rank, nf]; b is 0, so that nothing changes at first."""
        if self.built:
            return
        self.built = True
        self.a = self.add_weight("a", shape=self._shapes["a"])
        self.b = self.add_weight("b", shape=self._shapes["b"], initializer="zeros")

    def call(self, x, training=False):
        """Return what is to be added to the product of `x` [batch, queries, nx] and the matrix, in the dtype of `x`."""
        x = self._dropout(x, training)
        return product(product(x, self.a), self.b) * tf.cast(self._scale, x.dtype)

    def change(self) -> tf.Tensor:
        """Return what is to be added to the matrix, float32 [nx, nf]."""
        return self._scale * tf.matmul(self.a, self.b)

    def rows(self, ids: tf.Tensor) -> tf.Tensor:
        """Return rows of the change, float32 [..., nf]."""
        return self._scale * tf.matmul(rows_of(self.a, ids), self.b)


class LearnedKeys(tf_keras.layers.Layer):
    """Keys and values of one layer that every token sees (Li & Liang 2021, "Prefix-Tuning"). Named `prefix`."""

    def __init__(self, heads: int, tokens: int, head_width: int):
        super().__init__(name="prefix")
        self._shape = [heads, tokens, head_width]

    def build(self, input_shape=None):
        """Make `keys` and `values` [heads, tokens, head width]."""
        if self.built:
            return
        self.built = True
        self.keys = self.add_weight("keys", shape=self._shape)
        self.values = self.add_weight("values", shape=self._shape)

    def call(self, dtype):
        """Return keys and values, [1, heads, tokens, head width]."""
        return tf.cast(self.keys, dtype)[tf.newaxis], tf.cast(self.values, dtype)[tf.newaxis]


class LearnedTokens(tf_keras.layers.Layer):
    """Embeddings of tokens that stand before every text (Lester et al. 2021, "The Power of Scale"). Named `prompt`."""

    def __init__(self, tokens: int, width: int):
        super().__init__(name="prompt")
        self._shape = [tokens, width]

    def build(self, input_shape=None):
        """Make `embeddings` [tokens, width]."""
        if self.built:
            return
        self.built = True
        self.embeddings = self.add_weight("embeddings", shape=self._shape)
