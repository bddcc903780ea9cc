"""Products of bfloat16 on a processor without it, beside numpy's of the same numbers."""
import numpy as np
import pytest
import tensorflow as tf

from tfgpt.models import products
from tfgpt.models.loss import projected_loss

ROUNDED = 2.0**-8
"""Of a number, by which bfloat16 may be off; some kernels round sums of parts too."""


@pytest.fixture(params=[True, False], ids=["with bfloat16", "without"])
def processor(request, monkeypatch):
    """As if this one had bfloat16, or had not."""
    monkeypatch.setattr(products, "has_bfloat16", lambda: request.param)
    return request.param


def _narrow(rng, *shape):
    return tf.constant(rng.normal(size=shape), tf.bfloat16)


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_a_product_is_that_of_the_rounded_numbers(processor, transpose_a, transpose_b):
    rng = np.random.default_rng(1)
    a, b = _narrow(rng, 2, 40, 40), _narrow(rng, 2, 40, 40)
    found = products.product(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
    wide_a, wide_b = (x.numpy().astype(np.float64) for x in (a, b))
    right = (wide_a.swapaxes(1, 2) if transpose_a else wide_a) @ (wide_b.swapaxes(1, 2) if transpose_b else wide_b)
    assert found.dtype == tf.bfloat16
    np.testing.assert_allclose(found.numpy().astype(np.float64), right, rtol=2 * ROUNDED, atol=40 * 2.0**-20)


def test_a_wide_matrix_takes_the_precision_of_the_left_side(processor):
    rng = np.random.default_rng(2)
    a, b = _narrow(rng, 8, 32), tf.constant(rng.normal(size=[32, 16]), tf.float32)
    found = products.product(a, b, dtype=tf.float32)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, a.numpy().astype(np.float64) @ b.numpy(), atol=32 * ROUNDED)


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16], ids=lambda dtype: dtype.name)
def test_a_product_with_rows_is_one_with_the_transposed_matrix(processor, dtype, rows):
    rng = np.random.default_rng(4)
    x, matrix = tf.cast(_narrow(rng, rows, 40), dtype), tf.cast(_narrow(rng, 30, 40), dtype)
    found = products.product_with_rows(x, matrix, dtype=tf.float32)
    assert found.dtype == tf.float32 and products.product_with_rows(x, matrix).dtype == dtype
    right = x.numpy().astype(np.float64) @ matrix.numpy().astype(np.float64).T
    np.testing.assert_allclose(found, right, rtol=2 * ROUNDED if dtype == tf.bfloat16 else 1e-5, atol=40 * 2.0**-20)


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.int8], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("widened", [7, 10, 40])
def test_of_a_narrow_matrix_few_rows_are_ever_wide_and_none_before_they_are_wanted(monkeypatch, dtype, widened):
    monkeypatch.setattr(products, "WIDENED", widened)
    rng = np.random.default_rng(5)
    x, matrix = tf.constant(rng.normal(size=[3, 40]), tf.float32), tf.Variable(tf.cast(tf.constant(rng.integers(-127, 128, [30, 40])), dtype))
    graph = tf.function(lambda x: products.product_with_rows(x, matrix), autograph=False).get_concrete_function(tf.TensorSpec([None, 40]))
    np.testing.assert_allclose(graph(x), x.numpy().astype(np.float64) @ matrix.numpy().astype(np.float64).T, rtol=1e-5, atol=1e-3)
    casts = [operation for operation in graph.graph.get_operations() if operation.type == "Cast"]
    assert sum(cast.outputs[0].shape[0] for cast in casts) == 30 and all(cast.outputs[0].shape[0] <= widened for cast in casts)
    assert all(cast.control_inputs for cast in casts)


@pytest.mark.parametrize("vocab", [50, 5000], ids=["as it is", "aligned"])
def test_the_loss_and_its_gradients_are_those_of_float32_but_for_rounding(processor, vocab):
    rng = np.random.default_rng(3)
    table = tf.constant(rng.normal(size=[vocab, 16]), tf.float32)
    hidden, labels = _narrow(rng, 2, 20, 16), tf.constant(rng.integers(0, vocab, [2, 20]), tf.int32)

    @tf.function
    def found(rows, table):
        with tf.GradientTape() as tape:
            tape.watch([rows, table])
            terms = projected_loss(rows, table, labels)
        return terms.loss, terms.tokens, *tape.gradient(terms.objective, [rows, table])

    loss, tokens, of_rows, of_table = found(hidden, table)
    right, right_tokens, right_of_rows, right_of_table = found(tf.cast(hidden, tf.float32), table)
    assert tokens == right_tokens and of_rows.dtype == tf.bfloat16
    np.testing.assert_allclose(loss, right, rtol=ROUNDED)
    for one, other in ((tf.cast(of_rows, tf.float32), right_of_rows), (of_table, right_of_table)):
        assert tf.norm(one - other) < 4 * ROUNDED * tf.norm(other)


@pytest.mark.parametrize(("text", "has"), [
    ("processor : 0\nflags\t\t: fpu sse avx avx2 fma\n", (False, False)),
    ("flags\t\t: fpu avx512f avx512_vnni\n", (False, True)),
    ("flags\t\t: fpu avx512f avx512_bf16 avx512_vnni\n", (True, True)),
    ("flags\t\t: fpu amx_bf16 amx_tile amx_int8\n", (True, True)),
    ("Features\t: fp asimd asimddp i8mm bf16\n", (True, True)),
    ("Features\t: fp asimd\n", (False, False)),
    ("processor : 0\nmodel name : bf16\ncpu : POWER9\n", (True, True)),
])  # fmt: skip
def test_what_linux_says_of_a_processor(text, has):
    assert tuple(products.names_one_of(text, instructions) for instructions in (products.BFLOAT16, products.INT8)) == has


def test_an_accelerator_multiplies_what_it_is_given(monkeypatch):
    kinds = [tf.config.PhysicalDevice("cpu", "CPU"), tf.config.PhysicalDevice("gpu", "GPU")]
    monkeypatch.setattr(products, "names_one_of", lambda text, instructions: False)
    for devices, has in ((kinds, True), (kinds[:1], False)):
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None, devices=devices: devices)
        assert products.has_bfloat16.__wrapped__() is has
