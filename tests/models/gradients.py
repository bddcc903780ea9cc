"""A function's gradients, and how near they are to a formula's in float64."""
import numpy as np
import tensorflow as tf

ERRORS = {tf.float32: 1e-5, tf.bfloat16: 2e-2, tf.float16: 3e-3}
"""Of the largest number: a few roundings of the dtype in which it goes in and comes out."""


def results(function, inputs, upstream):
    """Return what a function gives, and the gradients of its inputs."""
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        output = function(*inputs)
    return [output, *tape.gradient(output, inputs, output_gradients=tf.cast(upstream, output.dtype))]


def assert_near(found, expected, error):
    for one, other in zip(found, expected):
        one, other = tf.cast(one, tf.float64).numpy(), other.numpy()
        np.testing.assert_allclose(one, other, atol=error * np.abs(other).max())
