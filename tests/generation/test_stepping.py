"""Rows that come and go between tokens: each gets the text that it gets alone."""
import random

import numpy as np
import tensorflow as tf

from tests.generation.test_decoding import NEW
from tfgpt.generation.constraints import constraints_of
from tfgpt.generation.controls import controls_of
from tfgpt.generation.text_model import TextModel
from tfgpt.models.compiled import CompiledModel


def begun(text_model, prompt, controls, stop, top):
    lists = constraints_of(stop, (), (), 1, text_model.model.config.vocab_size, None)
    return text_model.stepper.begin(tf.constant([prompt]), [tf.constant(value) for value in controls_of(controls, 1)], list(lists), tf.constant(top))


def mixed(prompts):
    """A request each: lengths, sampling, penalties, guesses, stop strings and log-probabilities all differ."""
    every = [{}, {"temperature": 1.0}, {"repetition_penalty": 1.3}, {"prompt_lookup_num_tokens": 4}, {"top_k": 3, "temperature": 0.7}]
    return [(prompt, every[n % 5] | {"seed": n, "max_new_tokens": 1 + 5 * n % NEW}, ["e", "the"] if n % 4 == 1 else [], 2 if n % 3 == 0 else None)
            for n, prompt in enumerate(prompts)]  # fmt: skip


def test_a_row_gets_its_own_text_whoever_joins_and_leaves(text_model, prompts):
    check_rows_that_come_and_go(text_model, prompts)


def test_rows_with_sources_too(translator, tokenizer, prompts):
    check_rows_that_come_and_go(TextModel(translator, tokenizer), prompts)


def test_rows_that_xla_pads_too(model, tokenizer, prompts):
    """Its caches have more rows than the batch."""
    check_rows_that_come_and_go(TextModel(CompiledModel(model, batch_sizes=(6, 12), lengths=(16,)), tokenizer), prompts[:12])


def test_rows_that_are_written_on_are_still_what_they_were(text_model, prompts):
    """Though the tokens' keys and values are written where the cache lies, it is the caller's that lies elsewhere."""
    rows = begun(text_model, prompts[5], {"max_new_tokens": 12}, [], 0)
    rows, _ = text_model.stepper.advance(rows, tf.constant(3))
    before = [tensor.numpy() for tensor in rows]

    (first, told), (again, told_again) = (text_model.stepper.advance(rows, tf.constant(4)) for _ in range(2))

    assert told["text"].numpy().tolist() == told_again["text"].numpy().tolist()
    for given, old in zip(rows, before, strict=True):
        np.testing.assert_array_equal(given.numpy(), old)
    for mine, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(mine.numpy(), other.numpy())


def check_rows_that_come_and_go(text_model, prompts):
    stepper, draw = text_model.stepper, random.Random(5)
    wanted = mixed(prompts)
    waiting, running, rows, seen = list(enumerate(wanted)), [], None, {}
    while waiting or running:
        for number, given in [waiting.pop(0) for _ in range(min(draw.choice([0, 1, 3]), len(waiting)))]:
            new = begun(text_model, given[0], given[1], given[2], given[3] or 0)
            rows, running = stepper.join(rows, new) if running else new, [*running, number]
        if running:
            rows, told = stepper.advance(rows, tf.constant(draw.choice([1, 2, 5])))
            going = told["going"].numpy()
            for place, number in enumerate(running):
                if not going[place]:
                    seen[number] = {name: value.numpy()[place] for name, value in told.items()}
            kept = np.flatnonzero(going)
            running = [running[place] for place in kept]
            top = max([wanted[number][3] or 0 for number in running], default=0)
            rows = stepper.keep(rows, kept.astype(np.int32), tf.constant(top)) if running else None

    for number, (prompt, controls, stop, top) in enumerate(wanted):
        expected, found = text_model.generate([prompt], stop=stop, top_log_probs=top, **controls)[0], seen[number]
        assert (found["text"].decode(), found["token_count"]) == (expected.text, expected.token_count), repr(prompt)
        assert found["finish_reason"].decode() == expected.finish_reason
        np.testing.assert_allclose(found["log_prob"], expected.log_prob, rtol=1e-4, atol=1e-4)  # products of other widths sum in another order
        if top:
            assert found["ids"][: expected.token_count].tolist() == [token.id for token in expected.tokens]
            assert [pair[0] for token in expected.tokens for pair in token.top] == found["top_ids"][: expected.token_count, :top].reshape(-1).tolist()
