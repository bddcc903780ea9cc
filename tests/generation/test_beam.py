"""Beam search against PyTorch's `generate`, by hand where it has no counterpart, and a row's independence of its batch."""
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
import torch

from tests.generation.test_decoding import in_all_rows, prompt_ids
from tests.small_models import CONTEXT
from tfgpt.generation.beam import EARLY_STOPPING, search
from tfgpt.generation.controls import CONTROLS, Controls
from tfgpt.generation.sampling import Constraints

NEW = 12


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """PyTorch's threads would fight TensorFlow's for the cores: ten times as slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rows(tokenizer, documents):
    """Two hundred prompts of 1 token to all that leaves room, mixed; of one length are every 25th from the first on, from the second on, and so on."""
    random = np.random.default_rng(4)
    streams = [tokenizer(document[:4000], verbose=False).input_ids for document in documents[:40]]
    cuts = []
    while len(cuts) < 200:
        stream, length = streams[random.integers(len(streams))], 1 + 5 * (len(cuts) % 25) % (CONTEXT - NEW)
        start = random.integers(len(stream) - length)
        cuts.append(stream[start : start + length])
    return cuts


@pytest.fixture(scope="module")
def end(torch_model, tokenizer, rows):
    """The token that most of the prompts' greedy texts hold, so that as the end of a text it ends many, early and late."""
    inputs, mask = padded(rows)
    greedy = torch_model.generate(inputs, attention_mask=mask, max_new_tokens=NEW, do_sample=False, pad_token_id=0, eos_token_id=tokenizer.eos_token_id)
    return Counter(token for row in greedy[:, inputs.shape[1] :].tolist() for token in set(row)).most_common(1)[0][0]


@pytest.fixture(scope="module")
def found(model, end):
    """`search` as one graph for all calls: rows of ids and settings in, arrays out."""
    specs = [tf.RaggedTensorSpec([None, None], tf.int32), Controls(*(tf.TensorSpec([None], control.kind) for control in CONTROLS.values())),
             Constraints(*(tf.TensorSpec([None, None], kind) for kind in (tf.string, tf.int32, tf.int32))),
             tf.TensorSpec([], tf.int32), tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.int32)]  # fmt: skip
    graph = tf.function(lambda *given: search(model, *given, end_of_text=end), input_signature=specs)

    def run(rows, beams, length_penalty=1.0, early_stopping=False, forced=(), **given):
        constraints = Constraints.none(len(rows))._replace(forced_tokens=tf.constant([forced] * len(rows), tf.int32, shape=[len(rows), len(forced)]))
        controls = in_all_rows(len(rows), **{"max_new_tokens": NEW} | given)
        penalties = np.broadcast_to(np.float32(length_penalty), [len(rows)])
        outputs = graph(tf.ragged.constant(rows, tf.int32, ragged_rank=1), controls, constraints, tf.constant(beams), tf.constant(penalties),
                        tf.constant(EARLY_STOPPING.index(early_stopping)))  # fmt: skip
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), outputs)

    return run


def padded(rows):
    """Return ids and mask of rows padded on the left, as transformers wants them."""
    longest = max(map(len, rows))
    ids = [[0] * (longest - len(row)) + row for row in rows]
    return torch.tensor(ids), torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])


def pytorchs(torch_model, rows, beams, end, **options):
    """Return PyTorch's continuations, [rows, NEW] with the end behind the end, and their scores, [rows]; `None` for one beam, which has none."""
    ids, mask = padded(rows)
    theirs = torch_model.generate(ids, attention_mask=mask, max_new_tokens=NEW, num_beams=beams, do_sample=False, pad_token_id=end, eos_token_id=end,
                                  return_dict_in_generate=True, output_scores=True, **options)  # fmt: skip
    written = theirs.sequences[:, ids.shape[1] :].numpy()
    written = np.pad(written, [[0, 0], [0, NEW - written.shape[1]]], constant_values=end)
    return written, theirs.sequences_scores.numpy() if beams > 1 else None


def assert_same(ours, written, scores):
    assert ours.ids.tolist() == written.tolist()
    if scores is not None:
        np.testing.assert_allclose(ours.score, scores, rtol=1e-5, atol=1e-4)  # sums of up to twelve fp32 terms of up to 50 nats


def own_log_probs(torch_model, row, written):
    """The model's log-probabilities, in nats, of tokens behind a row."""
    with torch.no_grad():
        log_probs = torch.log_softmax(torch_model(torch.tensor([row + written])).logits[0], dim=-1)
    return [log_probs[len(row) - 1 + place, token].item() for place, token in enumerate(written)]


@pytest.mark.parametrize(("beams", "length_penalty", "early_stopping", "count"), [
    (4, 1.0, False, 200),
    (2, 0.0, "never", 200),
    (4, -0.5, True, 200),
    (1, 1.0, False, 50),
    (3, 2.0, False, 50),
    (2, 1.0, True, 50),
    (4, 0.0, False, 50),
    (4, 0.0, True, 50),
    (4, -0.5, "never", 50),
    (4, 2.0, "never", 50),
    (4, 0.5, "never", 50),
])  # fmt: skip
def test_texts_and_scores_are_pytorchs_over_200_prompts_in_batches(found, torch_model, rows, end, beams, length_penalty, early_stopping, count):
    """Theirs are padded on the left, ours on the right."""
    lengths = Counter()
    for batch in (rows[start : start + 25] for start in range(0, count, 25)):
        ours = found(batch, beams, length_penalty, early_stopping)

        assert_same(ours, *pytorchs(torch_model, batch, beams, end, length_penalty=length_penalty, early_stopping=early_stopping))
        assert ours.stopped.tolist() == [end in row[:length] for row, length in zip(ours.ids.tolist(), ours.token_count)]
        lengths.update(ours.token_count.tolist())
    assert len(lengths) > 3 or length_penalty == 2.0  # else nothing was seen of how texts end; so high a penalty wants them all long


@pytest.mark.parametrize("given", [
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 2, "min_new_tokens": 6},
])  # fmt: skip
def test_penalties_and_bans_change_log_probabilities_as_in_pytorch(found, torch_model, rows, end, given):
    """Rows of one length at a time, since PyTorch takes padding for text here."""
    some = rows[:75]
    ours = found(some, 4, 1.5, **given)

    free = found(some, 4, 1.5)
    for first in range(1, 25, 2):
        of_length = slice(first, None, 25)
        written, scores = pytorchs(torch_model, some[of_length], 4, end, length_penalty=1.5, **given)
        assert_same(tf.nest.map_structure(lambda array, of_length=of_length: array[of_length], ours), written, scores)
    assert np.mean(np.any(ours.ids != free.ids, axis=1)) > 0.3
    for row, written, count, log_prob in list(zip(some, ours.ids.tolist(), ours.token_count, ours.log_prob))[:8]:
        np.testing.assert_allclose(log_prob, sum(own_log_probs(torch_model, row, written[:count])), atol=1e-3)  # as above, in another order


def test_forced_tokens_are_those_that_pytorch_may_choose_alone(found, torch_model, rows, end):
    forced, batch = [7, 9, 11], rows[:25]

    ours = found(batch, 4, forced=forced)

    longest = max(map(len, batch))
    allowed = lambda _, ids: [forced[len(ids) - longest]] if len(ids) - longest < len(forced) else list(range(512))  # noqa: E731
    assert_same(ours, *pytorchs(torch_model, batch, 4, end, prefix_allowed_tokens_fn=allowed))
    assert (ours.ids[:, :3] == forced).all()


def test_a_forced_end_is_the_only_text(found, torch_model, end):
    ours = found([[5, 6]], 3, 1.0, "never", forced=[7, end])

    assert ours.ids.tolist() == [[7, *[end] * (NEW - 1)]]
    assert (ours.token_count.tolist(), ours.stopped.tolist()) == ([2], [True])
    np.testing.assert_allclose(ours.score, sum(own_log_probs(torch_model, [5, 6], [7, end])) / 2, rtol=1e-5)  # two fp32 terms
    assert np.isneginf(ours.hypotheses.score[:, 1:]).all()


def test_as_many_beams_as_tokens_find_the_best_of_all_pairs(found, torch_model, end):
    row = [3, 50, 4]
    with torch.no_grad():
        first = torch.log_softmax(torch_model(torch.tensor([row])).logits[0, -1], dim=-1)
        second = torch.log_softmax(torch_model(torch.tensor([[*row, token] for token in range(512)])).logits[:, -1], dim=-1)
    sums = (first[:, None] + second).numpy()
    sums[end] = -np.inf
    sums[end, end] = first[end]  # a text that ends at once has no second token

    ours = found([row], 512, 0.0, "never", max_new_tokens=2)

    order = np.argsort(-sums, axis=None)[:512]
    np.testing.assert_allclose(ours.hypotheses.score[0], sums.reshape(-1)[order], rtol=1e-4)  # two fp32 terms of up to 50 nats
    assert ours.ids[0].tolist() == [order[0] // 512, order[0] % 512]


def test_one_beam_is_greedy_whatever_the_length_penalty(found, rows):
    greedy = found(rows[:25], 1, 0.0, True)

    for length_penalty, early_stopping in ((2.0, False), (2.0, "never"), (-1.0, False)):
        assert found(rows[:25], 1, length_penalty, early_stopping).ids.tolist() == greedy.ids.tolist()


def test_a_rows_text_does_not_depend_on_its_neighbours(found, rows):
    penalties, most = np.resize([0.0, 1.0, -0.5, 2.0, 0.7], 40), np.resize([NEW, 5, 9, 0, 1, 11, 7], 40)

    def texts(chosen):
        ours = found([rows[n] for n in chosen], 3, penalties[chosen], max_new_tokens=most[chosen], no_repeat_ngram_size=np.asarray(chosen) % 3)
        return [tuple(ids[:count]) for ids, count in zip(ours.ids.tolist(), ours.token_count)]

    whole, order = texts(np.arange(40)), np.random.default_rng(0).permutation(40)

    assert texts(order) == [whole[n] for n in order]
    assert texts([17, 18]) == whole[17:19]
    assert [texts([n])[0] for n in range(8)] == whole[:8]
    assert all(len(text) <= limit for text, limit in zip(whole, most))


def test_a_row_without_new_tokens_scores_nothing(found, rows, end):
    ours = found(rows[:2], 2, max_new_tokens=[0, 3])
    nothing = found(rows[:2], 2, max_new_tokens=0)

    assert ours.ids[0].tolist() == [end] * 3 and nothing.ids.shape == (2, 0)
    assert (ours.token_count[0], ours.score[0], ours.log_prob[0], ours.stopped[0]) == (0, 0.0, 0.0, False)


def test_search_of_texts_is_pytorchs(text_model, torch_model, tokenizer, prompts):
    batch = text_model.search(prompts, 4, NEW, length_penalty=0.5, early_stopping="never", no_repeat_ngram_size=2)

    for prompt, ours in zip(prompts, batch):
        ids = prompt_ids(tokenizer, prompt, NEW)
        written = torch_model.generate(torch.tensor([ids]), attention_mask=torch.ones([1, len(ids)], dtype=torch.int64), num_beams=4, do_sample=False,
                                       max_new_tokens=min(NEW, CONTEXT - len(ids)), length_penalty=0.5, early_stopping="never", no_repeat_ngram_size=2,
                                       pad_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id)[0, len(ids) :].tolist()  # fmt: skip
        assert ours.text == tokenizer.decode(written, skip_special_tokens=True), repr(prompt)
        assert ours.token_count == len(written)
        assert ours.finish_reason == ("stop" if written[-1] == tokenizer.eos_token_id else "length")
        np.testing.assert_allclose(ours.log_prob, sum(own_log_probs(torch_model, ids, written)), atol=1e-3)  # twelve fp32 terms of up to 50 nats


def test_search_takes_settings_of_each_prompt(text_model):
    rows = text_model.search(["It was", "It was", "It was"], 2, [3, 5, 0], length_penalty=[0.0, 2.0, 1.0], forced_tokens=[[], [7, 9], []],
                             banned_tokens=[[], [], [3]])  # fmt: skip

    assert [row.token_count for row in rows[1:]] == [5, 0]
    assert rows[1].text.startswith(text_model.tokenizer.detokenize(tf.constant([[7, 9]]))[0].numpy().decode())
    alone = text_model.search(["It was"], 2, 3, length_penalty=0.0)[0]
    assert rows[0] == alone._replace(log_prob=pytest.approx(alone.log_prob, abs=1e-5))  # sums of fp32 in another batch
    assert text_model.search([]) == []


@pytest.mark.parametrize(("given", "message"), [
    ({"beams": 0}, "beams 0 is no whole number from 1 to 512"),
    ({"beams": 513}, "beams 513"),
    ({"beams": 2.5}, "beams 2.5"),
    ({"early_stopping": "always"}, "early_stopping 'always' is not True, False or 'never'"),
    ({"length_penalty": 11.0}, "length_penalty: 11.0 is not between -10 and 10"),
    ({"length_penalty": float("nan")}, "length_penalty: nan is not between"),
    ({"length_penalty": [1.0, 2.0, 3.0]}, "length_penalty: 3 values for 2 prompts"),
    ({"beam": 3}, "beam: no such control"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(text_model, given, message):
    with pytest.raises(ValueError, match=message):
        text_model.search(["one", "two"], **given)


@pytest.mark.parametrize("stop", [["t"], ["on", "e\n", " ="]])
def test_stop_strings_end_texts_as_in_pytorch(text_model, torch_model, tokenizer, prompts, stop):
    counts = set()
    end = tokenizer.eos_token_id
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt", verbose=False)
        if not 0 < ids.input_ids.shape[1] <= CONTEXT - NEW:
            continue  # PyTorch takes neither
        theirs = torch_model.generate(**ids, num_beams=3, stop_strings=stop, tokenizer=tokenizer, max_new_tokens=NEW, do_sample=False, length_penalty=0.5,
                                      pad_token_id=end, eos_token_id=end)[0, ids.input_ids.shape[1] :].tolist()  # fmt: skip

        ours = text_model.search([prompt], 3, NEW, stop=stop, length_penalty=0.5)[0]

        text = tokenizer.decode(theirs, skip_special_tokens=True)
        assert ours.text == text[: min((place for each in stop if (place := text.find(each)) >= 0), default=len(text))]
        assert ours.token_count == len(theirs)
        counts.add(ours.token_count)
    assert len(counts) > 1 and min(counts) < NEW


def test_one_beam_stops_where_greedy_does(text_model, prompts):
    stop = ["t", "o"]

    searched, greedy = text_model.search(prompts, 1, NEW, stop=stop), text_model.generate(prompts, NEW, stop=stop)

    assert [(row.text, row.token_count, row.finish_reason) for row in searched] == [(row.text, row.token_count, row.finish_reason) for row in greedy]
    assert {row.finish_reason for row in greedy} == {"stop", "length"}
