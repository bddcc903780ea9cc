"""What a training takes, before it begins: weights, floating-point operations, memory."""
from __future__ import annotations

import math
import time
from dataclasses import dataclass

import tensorflow as tf

from tfgpt.models import kernels, products
from tfgpt.models.attention import QUERIES_OF_BLOCK
from tfgpt.models.loss import tokens_at_once, tokens_of_group
from tfgpt.models.step import PRECISIONS
from tfgpt.recipe import TrainConfig
from tfgpt.recipe_model import Size

SLOTS = {"adamw": 2, "adam": 2, "muon": 2, "sgd": 1, "lion": 1, "adafactor": 0}
"""Numbers that an optimizer keeps for each weight; Adafactor's rows and columns are next to nothing."""


@dataclass(frozen=True)
class Estimate:
    """Of one replica; memory is what tensors take, without TensorFlow and this program (about 1 GB)."""

    shape: Size
    parameters: int
    tokens_per_step: int
    """Over all replicas."""
    flops_per_token: int
    """Floating-point operations of a training step: products alone, forward and twice that backward, as is usual for utilisation."""
    weights_bytes: int
    """With gradients, the optimizer's numbers, and running averages."""
    activations_bytes: int
    logits_bytes: int
    """Of the part that is looked at, and their gradients of its group."""

    @property
    def memory_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.activations_bytes + self.logits_bytes


def estimate(shape: Size, vocab: int, length: int, config: TrainConfig, parameters: int, replicas: int = 1) -> Estimate:
    """Return what a training takes.

    Args:
        shape: of the model.
        vocab: tokens in the vocabulary.
        length: tokens in a sequence.
        config: batch, precision, optimizer and the rest.
        parameters: weights of the model.
        replicas: devices that share a batch.
    """
    tokens = config.global_batch_size * length
    at_once = tokens // (replicas * config.accumulate)
    product = 4 if config.precision == "float32" else 2  # bytes of a number that goes into a product
    kept = parameters * 4 * (1 + SLOTS[config.optimizer] + bool(config.ema) + bool(config.l2_start))
    table = vocab * shape.width                          # whose gradient is float32; that of another matrix is as narrow as its products
    gradients = 4 * table + product * (parameters - table) + (4 * parameters if config.accumulate > 1 else 0)
    logits = 8 * min(tokens_at_once(vocab), at_once) + 2 * product * min(tokens_of_group(vocab, PRECISIONS[config.precision] or tf.float32), at_once)
    of_block = _bytes_of_block(shape, length, product, at_once // config.lanes, in_xla=config.jit_compile)
    stored = at_once * shape.layers * of_block
    if config.recompute:
        stored = at_once * (shape.layers * 4 * shape.width + of_block)
    return Estimate(
        shape=shape,
        parameters=parameters,
        tokens_per_step=tokens,
        flops_per_token=3 * forward_flops(shape, vocab, length),
        weights_bytes=kept + gradients,
        activations_bytes=stored,
        logits_bytes=logits * vocab,
    )


def forward_flops(shape: Size, vocab: int, length: int) -> int:
    """Return the floating-point operations of a forward pass for one token: two for each weight of a matrix, and the two products of attention.

    Attention is counted over the whole length, as is usual, though keys that no query of a block sees are not looked at.

    >>> forward_flops(Size(layers=12, width=768, heads=12, context=1024), vocab=50_257, length=1024) // 10**6
    284
    """
    matrices = shape.layers * 12 * shape.width**2 + vocab * shape.width
    return 2 * matrices + 4 * shape.layers * length * shape.width


def peak_flops(precision: str, seconds: float = 0.3) -> float:
    """Measure the floating-point operations a second of a large matrix product on one device, the best of some.

    Args:
        precision: of the product, as `train.precision`.
        seconds: to spend on it.
    """
    size = 8192 if tf.config.list_logical_devices("GPU") else 2048
    matrix = tf.ones([size, size], PRECISIONS[precision] or tf.float32)
    multiply = tf.function(lambda: tf.reduce_sum(products.product(matrix, matrix)[0]), autograph=False)  # a number, so that fetching it costs nothing
    multiply().numpy()
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        multiply().numpy()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _bytes_of_block(shape, length, product, tokens, in_xla) -> int:
    """Return what a block keeps for the way back, for one of the tokens that are looked at together."""
    def if_small(numbers):
        """Return the numbers of a token that are made anew where they are many."""
        return numbers if tokens * numbers < kernels.WORTH_REMAKING else 0

    stream = 2 * 4 * shape.width                                              # the residual stream, before attention and before the MLP
    attention = (3 + 1) * product * shape.width                               # queries, keys, values; what comes out
    inner = 4 * product * shape.width                                         # before the activation
    normed_and_joined = product * (3 * if_small(shape.width) + if_small(4 * shape.width))  # both norms, the heads side by side, behind the activation
    weights = shape.heads * length                                            # of attention
    return stream + attention + inner + normed_and_joined + product * (weights if in_xla else if_small(weights) * (length <= QUERIES_OF_BLOCK))
