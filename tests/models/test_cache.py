"""Writing into a cache: in a copy or where it lies, the same numbers come to the same slots."""
import numpy as np
import pytest
import tensorflow as tf

from tfgpt.models.cache import OwnCache, StaticCache, own, written_in_a_copy, written_in_place

HEADS, SLOTS, WIDTH = 3, 7, 4


def numbers(seed, *shape, dtype=np.float32):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), dtype)


@pytest.mark.parametrize("writer", [written_in_a_copy, written_in_place])
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_each_query_comes_to_the_slot_of_its_position(writer, batch):
    positions = np.array([[4, 5], [0, 6]])[:batch]
    cached, new = numbers(1, batch, HEADS, SLOTS, WIDTH), numbers(2, batch, HEADS, 2, WIDTH)
    right = cached.numpy().copy()
    for row, places in enumerate(positions):
        right[row][:, places] = new[row].numpy()

    found = tf.function(lambda cached, new, places: writer(cached, places)(tf.raw_ops.DeepCopy(x=cached), new))(cached, new, tf.constant(positions, tf.int32))

    np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("writer", [written_in_a_copy, written_in_place])
def test_one_row_of_positions_may_stand_for_all(writer):
    cached, new = numbers(3, 2, HEADS, SLOTS, WIDTH), numbers(4, 2, HEADS, 2, WIDTH)
    right = cached.numpy().copy()
    right[:, :, [1, 2]] = new.numpy()

    np.testing.assert_array_equal(writer(cached, tf.constant([[1, 2]]))(cached, new), right)


def test_of_some_rows_the_source_comes_along(translator):
    cache = translator.empty_cache(2, 4, translator.encode(tf.constant([[5, 6], [7, 8]]), tf.constant([2, 1])))

    found = translator.own_cache(cache, tf.constant([1, 1, 0]))

    assert isinstance(found, OwnCache)
    for mine, all_ in zip(tf.nest.flatten(found), tf.nest.flatten(cache), strict=True):
        np.testing.assert_array_equal(mine, tf.gather(all_, [1, 1, 0]))


def test_what_accelerators_cannot_write_in_place_is_copied_as_it_is_written():
    layer = numbers(5, 2, HEADS, SLOTS, WIDTH, dtype=tf.bfloat16)
    cache = StaticCache((layer,), (layer,))

    assert own(cache) is cache
    of_rows = own(cache, tf.constant([1]))
    assert type(of_rows) is StaticCache
    np.testing.assert_array_equal(of_rows.values[0], layer[1:])
