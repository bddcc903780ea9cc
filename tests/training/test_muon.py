import numpy as np
import tensorflow as tf
import tf_keras

from tfgpt.training.muon import Muon, orthogonalize


def test_singular_vectors_are_kept_and_singular_values_come_near_one():
    rng = np.random.default_rng(0)
    for shape in ((16, 48), (48, 16), (32, 32)):
        matrix = rng.normal(size=shape).astype(np.float32)

        left, values, right = np.linalg.svd(orthogonalize(tf.constant(matrix)).numpy(), full_matrices=False)

        assert values.min() > 0.3 and values.max() < 1.3  # the smallest of a square Gaussian matrix starts near 0 and is not there yet
        polar_left, _, polar_right = np.linalg.svd(matrix, full_matrices=False)
        assert np.sum((left @ right) * (polar_left @ polar_right)) > 0.95 * min(shape)


def test_matrices_take_muons_step_and_the_rest_adamws():
    names = {"h_._0/attn/c_attn/weight": [4, 6], "wte/embeddings": [5, 4], "h_._0/attn/c_attn/bias": [1, 6], "ln_f/gamma": [4]}
    rng = np.random.default_rng(1)
    start = {name: rng.normal(size=shape).astype(np.float32) for name, shape in names.items()}
    gradients = {name: rng.normal(size=shape).astype(np.float32) for name, shape in names.items()}

    def after_a_step(optimizer):
        variables = {name: tf.Variable(value, name=name) for name, value in start.items()}
        optimizer.apply_gradients([(tf.constant(gradients[name]), variable) for name, variable in variables.items()])
        return {name: variable.numpy() for name, variable in variables.items()}

    muon, adamw = after_a_step(Muon(0.1, weight_decay=0.5)), after_a_step(tf_keras.optimizers.AdamW(0.1, weight_decay=0.5))

    matrix, *rest = names
    for name in rest:
        np.testing.assert_allclose(muon[name], adamw[name], atol=2e-6)  # another order of the same fp32 operations
    direction = orthogonalize(tf.constant(1.95 * gradients[matrix]))  # momentum g, and Nesterov's g + 0.95 g
    expected = start[matrix] * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 6**0.5 * direction.numpy()
    np.testing.assert_allclose(muon[matrix], expected, atol=1e-5)
