"""Matrix products in the precision of what they multiply, on processors that have it and on those that do not."""
from __future__ import annotations

import functools
from pathlib import Path

import tensorflow as tf

BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""What Linux calls the instructions of x86 and Arm processors that multiply bfloat16."""
INT8 = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})
"""And those that multiply int8 and add the products without cutting them off at 16 bits."""
WIDENED = 4096
"""Rows of a matrix that are made float32 at once."""


def product(a: tf.Tensor, b: tf.Tensor, *, transpose_a: bool = False, transpose_b: bool = False, dtype: tf.DType | None = None) -> tf.Tensor:
    """Return `tf.matmul` of both in `dtype`; `None` = that of `a`.

    Where bfloat16 is multiplied as float32, so that nothing takes longer than in float32, a float32 `b` is not rounded first: the result is as exact as
    bfloat16's own or more so. TensorFlow's kernels took 2.3 to 4.3 times as long for attention's in bfloat16 on two cores with AVX2, 1.0 to 2.3 for large ones.
    """
    work = computed_in(a.dtype)
    return tf.cast(tf.matmul(tf.cast(a, work), tf.cast(b, work), transpose_a=transpose_a, transpose_b=transpose_b), dtype or a.dtype)


def product_with_rows(x: tf.Tensor, matrix: tf.Tensor | tf.Variable, *, dtype: tf.DType | None = None) -> tf.Tensor:
    """Return `x` [rows, in] times each row of a matrix [out, in], [rows, out], in the precision of `x`; and as `dtype`, `None` = that.

    In float32 by way of [out, rows]: of a transposed right side TensorFlow's kernels make a copy at each call, on two cores with AVX2 for GPT-2's 50,257 rows
    of 768 in 174 instead of 24 ms with 2 rows of `x`, 49 instead of 24 with 8, 502 instead of 216 with 256.
    """
    if computed_in(x.dtype) != tf.float32:
        return product(x, matrix, transpose_b=True, dtype=dtype)
    work, matrix = tf.cast(x, tf.float32), tf.convert_to_tensor(matrix)
    found = tf.matmul(matrix, work, transpose_b=True) if matrix.dtype == tf.float32 else _widened_product(matrix, work)
    return tf.cast(tf.transpose(found), dtype or x.dtype)


def _widened_product(matrix, x):
    """Return a matrix [out, in] of another dtype times `x` [rows, in], float32 [out, rows], of which no more than `WIDENED` rows are ever float32.

    A part waits for the one before it, and the first for `x`: TensorFlow would widen all the matrices of a model at once, before the first of them is wanted.
    """
    found = [x]
    for start in range(0, matrix.shape[0], WIDENED):
        part = matrix[start : start + WIDENED]
        with tf.control_dependencies(found[-1:]):
            wide = tf.cast(part, tf.float32)
        found.append(tf.matmul(wide, x, transpose_b=True))
    return found[-1] if len(found) == 2 else tf.concat(found[1:], axis=0)


def rows_of_last(x: tf.Tensor) -> tf.Tensor:
    """Return `x` [..., in] as [rows, in]: one large product is faster than many small ones."""
    return x if x.shape.rank == 2 else tf.reshape(x, [-1, x.shape[-1]])


def shaped_as(x: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Return what a product found of the rows of `x` [..., in], [rows, out], as [..., out]."""
    return rows if x.shape.rank == 2 else tf.reshape(rows, tf.concat([tf.shape(x)[:-1], tf.shape(rows)[1:]], axis=0))


def computed_in(dtype: tf.DType) -> tf.DType:
    """Return the precision in which products of this dtype are fast: its own, but for bfloat16 where the processor does not multiply it."""
    return tf.float32 if dtype == tf.bfloat16 and not has_bfloat16() else dtype


@functools.cache
def has_bfloat16() -> bool:
    """Tell whether what computes here multiplies bfloat16: an accelerator, or a processor by what Linux says of it (elsewhere it is taken to do so)."""
    return any(device.device_type != "CPU" for device in tf.config.list_physical_devices()) or _processor_has(BFLOAT16)


@functools.cache
def has_int8() -> bool:
    """Tell whether the processor adds products of int8 exactly (see `INT8`), as `has_bfloat16` does."""
    return _processor_has(INT8)


def names_one_of(cpuinfo: str, instructions: frozenset[str]) -> bool:
    """Tell whether Linux names one of these instructions, or none at all.

    >>> names_one_of("flags : fpu avx2 fma", BFLOAT16), names_one_of("flags : fpu avx2 avx512_bf16", BFLOAT16), names_one_of("Features : bf16", BFLOAT16)
    (False, True, True)
    """
    named = {word for line in cpuinfo.splitlines() if line.startswith(("flags", "Features")) for word in line.split()}
    return not named or bool(named & instructions)


def _processor_has(instructions):
    try:
        return names_one_of(Path("/proc/cpuinfo").read_text("utf-8"), instructions)
    except FileNotFoundError:
        return True
