"""A text that grows is read as if at once, and ways on from it leave no trace."""
import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfgpt.generation.reading import ROOM, Reader


@pytest.fixture(scope="module")
def ids(tokenizer, documents):
    return tokenizer(documents[0][:400]).input_ids[:40]


def directly(model, end, ids):
    """Return the log-probabilities behind a text by the model's own call, without a cache."""
    return tf.nn.log_softmax(model(tf.constant([[end, *ids]])).logits[0, -1]).numpy()


def test_each_beginning_has_the_log_probabilities_of_the_model_itself(model, tokenizer, ids):
    reader, end = Reader(model, tokenizer.eos_token_id), tokenizer.eos_token_id

    for size in (0, 1, 2, 9, 10, 25):  # ever more, one or several at a time
        np.testing.assert_allclose(reader.read(ids[:size]), directly(model, end, ids[:size]), atol=2e-4)  # sums of float32 in another order
    for text in (ids[:24], [*ids[:10], 5, 6], [7], []):  # taken back, gone on otherwise, begun anew
        np.testing.assert_allclose(reader.read(text), directly(model, end, text), atol=2e-4)


def test_ways_on_are_read_each_by_itself_and_change_nothing(model, tokenizer, ids):
    reader, end = Reader(model, tokenizer.eos_token_id), tokenizer.eos_token_id
    before = reader.read(ids[:12]).copy()
    paths = [[3], [4, 5, 6], list(range(10, 10 + ROOM))]

    found = reader.ahead(paths)

    for path, row in zip(paths, found):
        np.testing.assert_allclose(row, directly(model, end, [*ids[:12], *path]), atol=2e-4)
    np.testing.assert_array_equal(reader.read(ids[:12]), before)
    np.testing.assert_allclose(reader.read(ids[:13]), directly(model, end, ids[:13]), atol=2e-4)


def test_what_is_written_on_is_the_likeliest_token_after_token(model, tokenizer, ids):
    reader, end = Reader(model, tokenizer.eos_token_id), tokenizer.eos_token_id
    reader.read(ids[:6])

    written, log_probs = reader.written([[8], [9, 7]], steps=5)

    for path, row, of_row in zip(([8], [9, 7]), written.tolist(), log_probs):
        text = [*ids[:6], *path]
        for token, log_prob in zip(row, of_row):
            row_of_model = directly(model, end, text)
            assert token == row_of_model.argmax() and log_prob == pytest.approx(row_of_model.max(), abs=2e-4)
            text.append(token)


def test_what_is_written_ends_where_all_of_it_is_less_likely_than_asked(model, tokenizer, ids):
    reader = Reader(model, tokenizer.eos_token_id)
    reader.read(ids[:6])
    paths = [[7], [9, 8]]

    whole, of_whole = reader.written(paths, 5)

    for length in range(1, 6):
        least = float(np.exp(of_whole[:, :length].sum(axis=1).max())) * 1.001                       # behind so many tokens all are below it, and not before
        found, of_found = reader.written(paths, 5, least)
        assert found.tolist() == whole[:, :length].tolist()
        np.testing.assert_allclose(of_found, of_whole[:, :length], atol=1e-5)                        # the same steps, in another graph call


@pytest.mark.slow
def test_of_a_text_longer_than_the_context_the_last_tokens_are_read(model, tokenizer, ids):
    reader, end = Reader(model, tokenizer.eos_token_id), tokenizer.eos_token_id
    long = ids * 4
    read = []

    for size in range(len(long) - 20, len(long)):
        found = reader.read(long[:size])
        kept = next(count for count in range(1, reader.most + 1) if np.allclose(found, directly_without_end(model, long[size - count : size]), atol=2e-4))
        read.append(kept)

    assert min(read) >= reader.most * 3 // 4 - 1 and max(read) <= reader.most
    assert sum(late < early for early, late in itertools.pairwise(read)) <= 3  # read anew a few times, and not at each token
    np.testing.assert_allclose(reader.read(ids[:3]), directly(model, end, ids[:3]), atol=2e-4)


def directly_without_end(model, ids):
    return tf.nn.log_softmax(model(tf.constant([ids])).logits[0, -1]).numpy()


def test_a_model_with_an_encoder_is_refused(translator, tokenizer):
    with pytest.raises(ValueError, match="reader: a model with an encoder"):
        Reader(translator, tokenizer.eos_token_id)
