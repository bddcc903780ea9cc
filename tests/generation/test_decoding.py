"""The decoding engine against PyTorch's and TensorFlow's `generate`, and a row's independence of its batch."""
import numpy as np
import pytest
import tensorflow as tf
import torch

from tests.small_models import CONTEXT
from tfgpt.generation.controls import Controls, controls_of
from tfgpt.generation.decoding import decode
from tfgpt.generation.text_model import TextModel

NEW = 12


def in_all_rows(rows, **given):
    return Controls(*(tf.constant(np.broadcast_to(value, [rows])) for value in controls_of(given, rows)))


def prompt_ids(tokenizer, prompt, new):
    """The tokens that are read, by the rule that the documentation gives."""
    ids = tokenizer(prompt, verbose=False).input_ids or [tokenizer.eos_token_id]
    return ids if len(ids) < CONTEXT else ids[-(CONTEXT - min(new, CONTEXT // 2)) :]


def pytorch_greedy(torch_model, tokenizer, prompt, new, **options):
    ids = prompt_ids(tokenizer, prompt, new)
    inputs = torch.tensor([ids])
    written = torch_model.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=min(new, CONTEXT - len(ids)), do_sample=False,
                                   pad_token_id=tokenizer.eos_token_id, **options)  # fmt: skip
    return written[0, len(ids) :].tolist()


@pytest.mark.parametrize(("options", "theirs"), [
    ({}, {}),
    ({"min_new_tokens": 6}, {"min_new_tokens": 6}),
    ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
    ({"no_repeat_ngram_size": 2, "min_new_tokens": 6}, {"no_repeat_ngram_size": 2, "min_new_tokens": 6}),
])  # fmt: skip
def test_greedy_equals_pytorchs_generate_in_a_batch_and_one_by_one(text_model, torch_model, tokenizer, prompts, options, theirs):
    batch = text_model.generate(prompts, max_new_tokens=NEW, **options)
    singles = [text_model.generate([prompt], max_new_tokens=NEW, **options)[0] for prompt in prompts]

    for prompt, together, alone in zip(prompts, batch, singles):
        ids = pytorch_greedy(torch_model, tokenizer, prompt, NEW, **theirs)
        expected = tokenizer.decode(ids, skip_special_tokens=True)
        assert together.text == alone.text == expected, repr(prompt)
        assert together.token_count == alone.token_count == len(ids)
        assert together.finish_reason == ("stop" if ids[-1] == tokenizer.eos_token_id else "length")


def test_greedy_equals_pytorchs_generate_over_200_prompts_in_batches(text_model, torch_model, tokenizer, documents):
    """Theirs are padded on the left, ours on the right; lengths from 1 token to all that leaves room."""
    random = np.random.default_rng(4)
    streams = [tokenizer(document[:4000], verbose=False).input_ids for document in documents[:40]]
    rows = []
    while len(rows) < 200:
        stream, length = streams[random.integers(len(streams))], random.integers(1, CONTEXT - NEW + 1)
        row = stream[(start := random.integers(len(stream) - length)) : start + length]
        if tokenizer(text := tokenizer.decode(row), verbose=False).input_ids == row:  # cut between characters, and where words begin anew
            rows.append((text, row))

    for batch in (rows[start : start + 25] for start in range(0, 200, 25)):
        longest = max(len(row) for _, row in batch)
        ids = torch.tensor([[0] * (longest - len(row)) + row for _, row in batch])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for _, row in batch])
        theirs = torch_model.generate(ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, pad_token_id=tokenizer.eos_token_id)
        ours = text_model.generate([text for text, _ in batch], NEW)

        assert [row.text for row in ours] == tokenizer.batch_decode(theirs[:, longest:], skip_special_tokens=True)


def test_greedy_equals_the_models_own_generate_in_tensorflow(model, text_model, tokenizer, prompts):
    rows = [prompt_ids(tokenizer, prompt, NEW) for prompt in prompts]
    fits = [row for row in rows if len(row) + NEW <= CONTEXT]
    longest = max(map(len, fits))
    ids = np.array([[0] * (longest - len(row)) + row for row in fits], np.int32)  # transformers wants the padding on the left
    mask = np.array([[0] * (longest - len(row)) + [1] * len(row) for row in fits], np.int32)

    theirs = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, pad_token_id=0).numpy()[:, longest:]

    ours = text_model.generate([tokenizer.decode(row) for row in fits], max_new_tokens=NEW)
    assert [row.text for row in ours] == [tokenizer.decode(row, skip_special_tokens=True) for row in theirs]
    assert len(fits) > 8


def test_what_is_written_where_nothing_is_asked_is_what_the_graph_of_every_rule_writes(text_model, prompts):
    asked = {"max_new_tokens": [NEW, 0, 1, 40] * 5, "min_new_tokens": [0, 5, NEW, 0, 0] * 4, "top_log_probs": 3}
    plain = text_model.generate(prompts, **asked)

    every_rule = text_model.generate(prompts, **asked, stop=["\0 in no text"])

    assert [row._replace(log_prob=0.0, tokens=()) for row in plain] == [row._replace(log_prob=0.0, tokens=()) for row in every_rule]
    of_tokens = [[[(token.id, *token.top[0], token.log_prob) for row in rows for token in row.tokens]] for rows in (plain, every_rule)]
    np.testing.assert_allclose(*of_tokens, atol=1e-4)  # fp32 in products that may be fused otherwise


def test_where_nothing_is_asked_no_graph_of_every_rule_is_made(model, tokenizer):
    text_model = TextModel(model, tokenizer)

    text_model.generate(["It was"], 3)
    text_model.generate(["It", "was"], [3, 4], samples=2, top_log_probs=1, temperature=0.0, seed=5, min_new_tokens=[0, 2])
    text_model.generate_from_ids([[5, 6]], max_new_tokens=3)

    assert text_model.plain_graph.experimental_get_tracing_count() == 1
    assert text_model.generate_graph.experimental_get_tracing_count() == 0


def test_sampled_rows_do_not_depend_on_their_batch(text_model, prompts):
    count = len(prompts)
    own = {"seed": range(100, 100 + count), "no_repeat_ngram_size": [n % 4 for n in range(count)], "frequency_penalty": [n % 3 / 2 for n in range(count)],
           "typical_p": [1 - n % 2 / 10 for n in range(count)], "min_p": [n % 5 / 100 for n in range(count)]}

    def text_of(rows, **changed):
        given = {key: [values[n] for n in rows] for key, values in own.items()} | changed
        answers = text_model.generate([prompts[n] for n in rows], max_new_tokens=NEW, temperature=1.0, top_k=60, top_p=0.95, **given)
        return [answer.text for answer in answers]

    whole, order = text_of(range(count)), np.random.default_rng(0).permutation(count)

    assert text_of(order) == [whole[n] for n in order]
    assert text_of([4, 5]) == whole[4:6]
    assert text_of([4], seed=7) != whole[4:5]


def test_controls_are_each_rows_own(text_model, prompts):
    rows = text_model.generate(prompts[:3], max_new_tokens=[1, 0, 9], temperature=[0.0, 1.0, 1.0], seed=[1, 2, 3])

    assert [row.token_count for row in rows] == [1, 0, 9]
    assert rows[1].text == "" and rows[1].log_prob == 0.0
    assert rows[2].text == text_model.generate(prompts[2:3], max_new_tokens=9, temperature=1.0, seed=3)[0].text


def test_log_prob_is_the_models_own_whatever_the_controls(model, torch_model, tokenizer, prompts):
    rows = [prompt_ids(tokenizer, prompt, 8) for prompt in prompts[4:8]]
    controls = in_all_rows(4, max_new_tokens=8, temperature=1.3, top_k=20, top_p=0.9, repetition_penalty=1.2, seed=range(4))

    decoded = decode(model, tf.ragged.constant(rows, tf.int32), controls, tokenizer.eos_token_id)

    for ids, written, count, log_prob in zip(rows, decoded.ids.numpy(), decoded.token_count.numpy(), decoded.log_prob.numpy()):
        written = written[:count].tolist()
        with torch.no_grad():
            log_probs = torch.log_softmax(torch_model(torch.tensor([ids + written])).logits[0], dim=-1)
        expected = sum(log_probs[len(ids) - 1 + place, token].item() for place, token in enumerate(written))
        np.testing.assert_allclose(log_prob, expected, atol=1e-3)  # eight fp32 terms of up to 50 nats


def test_a_row_stops_at_the_end_of_text_and_its_neighbours_go_on(model, tokenizer):
    prompts = tf.ragged.constant([[5, 6, 7], [8]], tf.int32)
    controls = in_all_rows(2, max_new_tokens=10)
    free = decode(model, prompts, controls, end_of_text=tokenizer.eos_token_id).ids.numpy()
    place = next(place for place in range(1, 10) if free[0][place] not in free[0][:place])
    end = int(free[0][place])  # what row 0 writes there, and not before, shall now end a text

    decoded = decode(model, prompts, controls, end_of_text=end)

    assert decoded.ids.numpy()[0].tolist() == [*free[0][: place + 1].tolist(), *[end] * (9 - place)]
    assert decoded.token_count.numpy()[0] == place + 1
    assert decoded.stopped.numpy()[0]
    if end not in free[1]:
        assert decoded.ids.numpy()[1].tolist() == free[1].tolist()
        assert not decoded.stopped.numpy()[1]


def test_a_token_is_written_into_the_cache_without_a_copy_of_it(model, tokenizer):
    """Else its time would grow with the rows and places that the cache has room for."""
    function = TextModel(model, tokenizer).stepper.advance.get_concrete_function()
    operations = [node for part in function.graph.as_graph_def().library.function for node in part.node_def]

    written = [node for node in operations if node.op == "InplaceUpdate"]
    assert len(written) == 2 * model.config.n_layer
    assert not [node for node in operations if node.op == "TensorScatterUpdate" and "attn" in node.name]


def test_an_empty_batch_gives_no_rows(text_model):
    assert text_model.generate([]) == []


def test_one_prompt_can_fill_the_context(text_model, torch_model, tokenizer, prompts):
    row = text_model.generate(["x"], max_new_tokens=10_000)[0]

    assert row.text == tokenizer.decode(pytorch_greedy(torch_model, tokenizer, "x", 10_000), skip_special_tokens=True)
    assert row.token_count == CONTEXT - 1 or row.finish_reason == "stop"
