"""Weights in fewer bits, for a model that only reads: bfloat16, and int8 with a scale for each row.

A matrix is stored by its outputs, [out, in], as the embedding table is: one matrix serves for looking rows up and for the product.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import kernels
from tensorflow.python.framework.op_def_library import apply_op

from tfgpt.models.products import has_int8, product_with_rows, rows_of_last, shaped_as

if TYPE_CHECKING:
    from tfgpt.models.checkpoint import OnDisk

PART = 2**20
"""Numbers of a matrix that are made smaller at once; what that takes beside the two is a few copies of them."""
INT8_PRODUCT = "_QuantizedMatMul"
"""TensorFlow's product of int8 matrices (oneDNN), which its Python interface leaves out; part of TensorFlow and TensorFlow Serving for x86 CPUs."""
SMALLEST = np.float32(1e-30)
"""What the largest number of a row is taken for where all are 0."""


def rows_of(table: tf.Variable | tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """Return the rows of a table, [rows, ...], of these numbers, int [...].

    Of the table as it is read, and not of the variable: one whose rows were looked up is copied whatever reads it afterwards, which at each token of
    GPT-2 124M were the 154 MB of its output matrix.
    """
    return tf.gather(tf.convert_to_tensor(table), numbers)


def for_two_uses(table: tf.Tensor, in_xla: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
    """Return a table twice: once for looking up its rows, once for products, whose gradient takes up that of the rows in place.

    Left to the tape, the rows' gradient becomes a table of its own, mostly zeros, and both are added into a third; GPT-2's are 154 MB each. Both must be
    used: of a second that is not, the gradient would be a constant of the graph, which nothing may be added to in place.

    Args:
        table: float [rows, width].
        in_xla: whether the graph is compiled, which has the same by another operation.
    """
    @tf.custom_gradient
    def twice(table):
        def gradient(of_rows, of_table):
            if not isinstance(of_rows, tf.IndexedSlices):
                return of_rows + of_table
            if in_xla:
                return tf.tensor_scatter_nd_add(of_table, of_rows.indices[:, tf.newaxis], of_rows.values)
            return tf.raw_ops.InplaceAdd(x=of_table, i=tf.cast(of_rows.indices, tf.int32), v=of_rows.values)  # no one else reads it; `tensor_scatter` copies

        return (tf.identity(table), tf.identity(table)), gradient

    return twice(table)


def parts_of(values: np.ndarray | OnDisk) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the rows of a matrix, `PART` numbers or so at once: which they are, and they themselves, [rows, in]."""
    count = max(PART // values.shape[1], 1)
    for start in range(0, len(values), count):
        rows = slice(start, start + count)
        yield rows, np.asarray(values[rows])


def int8_rows(values: np.ndarray | OnDisk) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 [out, in] and the scales, float32 [out], of a matrix, float32 [out, in]: each row's largest number is 127 times its scale."""
    whole, scale = np.empty(tuple(values.shape), np.int8), np.empty(len(values), np.float32)
    for rows, part in parts_of(values):
        scale[rows] = np.maximum(np.abs(part).max(axis=1), SMALLEST) / np.float32(127.0)
        whole[rows] = np.rint(part / scale[rows, np.newaxis])
    return whole, scale


class Bfloat16Matrix(tf.Module):
    """A matrix in bfloat16; products are computed in it, with sums in float32.

    Args:
        values: float [out, in].
    """

    def __init__(self, values: np.ndarray | OnDisk | tf.Tensor):
        super().__init__()
        whole = np.empty(tuple(values.shape), tf.bfloat16.as_numpy_dtype)
        for rows, part in parts_of(values):
            whole[rows] = part
        self._values = tf.Variable(whole, trainable=False)

    def product(self, x: tf.Tensor) -> tf.Tensor:
        """Return float32 [..., out] of float [..., in]."""
        rows = tf.cast(rows_of_last(x), tf.bfloat16)
        return shaped_as(x, product_with_rows(rows, self._values, dtype=tf.float32))

    def rows(self, numbers: tf.Tensor) -> tf.Tensor:
        """Return float32 [..., in], the rows of these numbers."""
        return tf.cast(rows_of(self._values, numbers), tf.float32)


class Int8Matrix(tf.Module):
    """A matrix in int8, each row scaled to its largest number; in a product each row of the other side is scaled by its own largest too.

    So a row of a batch depends on none of its neighbours; on how many they are as far as sums in float32 do, whose last bits may tip what is rounded.
    A graph made on a processor with products of int8 gives wrong numbers on one without (x86 before VNNI), one made there right ones on both.
    (Dettmers et al. 2022, "LLM.int8()", section 2.1, vector-wise quantization.)

    Args:
        values: float [out, in].

    Raises:
        ValueError: this TensorFlow has no product of int8 matrices.
    """

    def __init__(self, values: np.ndarray | OnDisk | tf.Tensor):
        super().__init__()
        if not kernels.get_registered_kernels_for_op(INT8_PRODUCT).kernel:
            raise ValueError("weights int8: this TensorFlow has no int8 product, which those for x86 CPUs have; give bfloat16 or float32")
        whole, scale = int8_rows(values)
        self._values = tf.Variable(whole, trainable=False)
        self._largest = tf.Variable(scale * np.float32(127.0), trainable=False)           # [out]

    def product(self, x: tf.Tensor) -> tf.Tensor:
        """Return float32 [..., out] of float [..., in].

        Raises:
            RuntimeError: functions run eagerly, so that there is no graph.
        """
        if tf.executing_eagerly():
            if tf.config.functions_run_eagerly():
                raise RuntimeError("weights int8: their product is computed in graphs alone; call tf.config.run_functions_eagerly(False)")
            return tf.function(self.product, autograph=False)(x)
        rows = rows_of_last(x)
        largest = tf.maximum(tf.reduce_max(tf.abs(rows), axis=1), SMALLEST)               # [rows]
        whole, *_ = tf.raw_ops.QuantizeV2(input=rows, min_range=-largest, max_range=largest, T=tf.qint8, mode="SCALED", narrow_range=True, axis=0,
                                          round_mode="HALF_TO_EVEN")
        wide = tf.convert_to_tensor(self._largest)
        if not has_int8():  # oneDNN adds pairs of products in 16 bits there, and cuts off what is more: whole numbers as float32 are exact, if slower
            found = product_with_rows(tf.cast(tf.bitcast(whole, tf.int8), tf.float32), self._values)
            return shaped_as(x, found / (127.0**2 / (largest[:, tf.newaxis] * wide)))  # as products TensorFlow would order these by the rows
        # The bounds of the left side are 1: its scales are multiplied to the rows of the product. The weights are reordered once, and kept.
        outputs, _ = apply_op(
            INT8_PRODUCT, name="int8_product",
            device_inputs=[whole, tf.bitcast(self._values, tf.qint8), tf.zeros_like(wide)],
            host_inputs=[tf.constant(-1.0), tf.constant(1.0), -wide, wide],
            Tdevice_outputs=[tf.float32], Thost_outputs=[], T1=tf.qint8, T2=tf.qint8, Tbias=tf.float32, U=tf.float32, Tout=tf.float32,
            transpose_a=False, transpose_b=True, is_weight_const=True, is_bias_const=True, leakyrelu_alpha=0.0,
            fused_ops=["BiasAdd", "Dequantize"], input_quant_mode="SCALED", output_quant_mode="SCALED",
        )  # fmt: skip
        return shaped_as(x, outputs[0] * largest[:, tf.newaxis])

    def rows(self, numbers: tf.Tensor) -> tf.Tensor:
        """Return float32 [..., in], the rows of these numbers."""
        scale = rows_of(self._largest, numbers) / 127.0
        return tf.cast(rows_of(self._values, numbers), tf.float32) * scale[..., tf.newaxis]


KINDS = {"bfloat16": Bfloat16Matrix, "int8": Int8Matrix}
