"""Stop strings, banned and forced tokens, samples, log-probabilities of tokens, and padded ids as input."""
import numpy as np
import pytest
import tensorflow as tf
import torch

from tests.generation.test_decoding import NEW, prompt_ids, pytorch_greedy
from tfgpt.generation.stops import first_stop
from tfgpt.generation.text_model import TextModel


@pytest.fixture(scope="module")
def some(prompts):
    return [prompt for prompt in prompts if prompt][:8]


@pytest.fixture(scope="module")
def free(text_model, some):
    """What the model writes by itself, with its tokens."""
    return text_model.generate(some, NEW, top_log_probs=0)


def test_a_stop_string_ends_a_text_wherever_its_tokens_end(text_model, tokenizer, prompts):
    ours, many = [], [(prompt, seed) for seed in range(5) for prompt in prompts]
    drawn = text_model.generate([prompt for prompt, _ in many], NEW, temperature=0.7, seed=[seed for _, seed in many], top_log_probs=0)
    for (prompt, seed), row in zip(many, drawn):
        texts = [tokenizer.decode([token.id], skip_special_tokens=True) for token in row.tokens]
        if "\ufffd" in "".join(texts) or len(row.text) < 8:
            continue
        border = len("".join(texts[: len(texts) // 2]))
        stop = row.text[border - 1 : border + 2]  # begins in one token and ends in another
        needed = next(count for count in range(1, len(texts) + 1) if stop in "".join(texts[:count]))
        ours.append((prompt, seed, stop, row.text.split(stop)[0], needed))
    assert len(ours) > 2

    found = text_model.generate([row[0] for row in ours], NEW, temperature=0.7, seed=[row[1] for row in ours], stop=[["not there", row[2]] for row in ours])

    for (_, _, _, text, count), row in zip(ours, found):
        assert (row.text, row.token_count, row.finish_reason) == (text, count, "stop")


def test_one_list_of_stop_strings_holds_for_all_and_rows_go_on_by_themselves(text_model, some, free):
    stop = free[0].text[3:5]

    together = text_model.generate(some, NEW, stop=[stop])

    assert together[0].text == free[0].text.split(stop)[0]
    for prompt, row, whole in zip(some, together, free):
        assert row._replace(log_prob=0) == text_model.generate([prompt], NEW, stop=[stop])[0]._replace(log_prob=0)
        assert row.text == whole.text.split(stop)[0]


def test_the_first_stop_string_in_bytes():
    text = [b"naive caf\xc3\xa9", b"", b"a\0b", b"aaab", b"x" * 40 + b"end"]
    stop = [[b"\xc3\xa9", b"caf"], [b"a", b""], [b"\0", b"b"], [b"aab", b"ab"], [b"end", b"xy"]]

    found = first_stop(tf.constant(text), tf.constant(stop)).numpy().tolist()

    expected = [min((row.find(part) for part in parts if part and part in row), default=-1) for row, parts in zip(text, stop)]
    assert found == expected == [6, -1, 1, 1, 40]


def test_banned_tokens_are_those_that_pytorch_suppresses(text_model, torch_model, tokenizer, some, free):
    banned = [row.tokens[0].id for row in free[:4]]

    ours = text_model.generate(some, NEW, banned_tokens=banned)

    for prompt, row in zip(some, ours):
        theirs = pytorch_greedy(torch_model, tokenizer, prompt, NEW, suppress_tokens=banned)
        assert row.text == tokenizer.decode(theirs, skip_special_tokens=True)
    assert [row.text for row in ours[:4]] != [row.text for row in free[:4]]
    assert text_model.generate(some[:2], NEW, banned_tokens=[[banned[0]], []])[1].text == free[1].text
    assert text_model.generate(some, NEW, banned_tokens=np.array(banned)) == ours


def test_forced_tokens_begin_the_continuation_and_the_model_goes_on_from_them(text_model, torch_model, tokenizer, some):
    forced = tokenizer(" the value").input_ids

    ours = text_model.generate(some[:4], NEW, forced_tokens=" the value", top_log_probs=0)

    for prompt, row in zip(some, ours):
        ids = torch.tensor([prompt_ids(tokenizer, prompt, NEW) + forced])
        theirs = torch_model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW - len(forced), do_sample=False,
                                      pad_token_id=tokenizer.eos_token_id)[0, ids.shape[1] :].tolist()  # fmt: skip
        assert [token.id for token in row.tokens] == forced + theirs
    mixed = text_model.generate(some[:2], NEW, forced_tokens=[" the value", []])
    assert mixed[0].text == ours[0].text and mixed[1].text == text_model.generate(some[1:2], NEW)[0].text


def test_samples_of_a_prompt_have_seeds_that_follow_each_other(text_model, some):
    rows = text_model.generate(some[:2], NEW, samples=3, temperature=1.0, seed=[10, 20])

    apart = text_model.generate([some[0]] * 3 + [some[1]] * 3, NEW, temperature=1.0, seed=[10, 11, 12, 20, 21, 22])
    assert [row.text for row in rows] == [row.text for row in apart]
    assert len({row.text for row in rows[:3]}) == 3


def test_log_probabilities_of_tokens_and_of_the_likeliest_are_pytorchs(text_model, torch_model, tokenizer, some):
    rows = text_model.generate(some, NEW, temperature=1.2, seed=5, repetition_penalty=1.3, top_log_probs=4)

    for prompt, row in zip(some, rows):
        ids, written = prompt_ids(tokenizer, prompt, NEW), [token.id for token in row.tokens]
        with torch.no_grad():
            log_probs = torch.log_softmax(torch_model(torch.tensor([ids + written])).logits[0], dim=-1)
        for place, token in enumerate(row.tokens):
            expected = log_probs[len(ids) - 1 + place]
            values, best = expected.topk(4)
            assert token.log_prob == pytest.approx(expected[token.id].item(), abs=2e-4)  # fp32 logits of up to 50
            assert [number for number, _ in token.top] == best.tolist()
            np.testing.assert_allclose([log_prob for _, log_prob in token.top], values.numpy(), atol=2e-4)
        assert row.log_prob == pytest.approx(sum(token.log_prob for token in row.tokens), abs=1e-4)
        assert len(row.tokens) == row.token_count


@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_padded_ids_give_what_their_texts_give(text_model, tokenizer, some, side):
    rows = [prompt_ids(tokenizer, prompt, NEW) for prompt in some]
    longest = max(map(len, rows)) + 1
    before = {"left": lambda n: longest - n, "right": lambda n: 0, "both": lambda n: (longest - n) // 2}[side]
    ids, mask = np.full([len(rows), longest], 7), np.zeros([len(rows), longest], int)
    for number, row in enumerate(rows):
        start = before(len(row))
        ids[number, start : start + len(row)], mask[number, start : start + len(row)] = row, 1

    ours = text_model.generate_from_ids(ids, mask, NEW)

    assert [row.text for row in ours] == [row.text for row in text_model.generate(some, NEW)]


def test_sixty_four_rows_that_end_at_different_times(text_model, some):
    rows = [(some[number % len(some)], number % (NEW + 1)) for number in range(64)]

    together = text_model.generate([prompt for prompt, _ in rows], [most for _, most in rows])

    whole = {prompt: text_model.generate([prompt], NEW, top_log_probs=0)[0] for prompt in some}
    for (prompt, most), row in zip(rows, together):
        assert row.token_count == min(most, whole[prompt].token_count)
        assert row.log_prob == pytest.approx(sum(token.log_prob for token in whole[prompt].tokens[:most]), abs=1e-3)


def test_guesses_change_no_text_whatever_the_controls(text_model, some):
    copied = [f"{prompt[:40]} {prompt[:40]}" for prompt in some]
    for given in ({}, {"temperature": 1.0, "seed": 3, "top_k": 5}, {"repetition_penalty": 1.2}, {"forced_tokens": " x y z x y z x y"}):
        plain = text_model.generate(copied, NEW, **given)
        guessed = text_model.generate(copied, NEW, prompt_lookup_num_tokens=[0, 1, 2, 5, 10, 10, 10, 64], **given)
        assert [row._replace(log_prob=0) for row in guessed] == [row._replace(log_prob=0) for row in plain]
        np.testing.assert_allclose([row.log_prob for row in guessed], [row.log_prob for row in plain], atol=1e-3)


def test_a_text_that_copies_takes_fewer_rounds(text_model, tokenizer):
    from tests.generation.test_decoding import in_all_rows
    from tfgpt.generation.constraints import constraints_of
    from tfgpt.generation.decoding import Decoder

    phrase = tokenizer(" one two three four").input_ids
    prompts = tf.ragged.constant([phrase, phrase[:-1] + phrase[:2]], tf.int32)
    lists = constraints_of((), (), [phrase * 4, phrase * 4], 2, len(tokenizer), None)  # both copy: the first its prompt, the second from its own text on
    controls = in_all_rows(2, max_new_tokens=16, prompt_lookup_num_tokens=10)
    decoder = Decoder(text_model.model, tokenizer.eos_token_id)

    state = decoder.advance(decoder.begin(prompts, controls), controls, lists, rounds=9)

    assert (state.written.length - state.written.prompt_length).numpy().tolist() == [16, 16]
    assert decoder.finish(state).ids.numpy().tolist() == [(phrase * 4)[:16]] * 2


@pytest.mark.parametrize(("given", "message"), [
    ({"stop": "."}, r"stop: '\.' is one text; give a list"),
    ({"stop": [""]}, r"stop: '' is no text, or an empty one"),
    ({"stop": [["."], [","], ["!"]]}, "stop: 3 lists for 2 prompts"),
    ({"banned_tokens": ["two words"]}, "banned_tokens: 'two words' is .* tokens; only a text that is one token"),
    ({"banned_tokens": [10**6]}, "banned_tokens: 1000000 is no token; give ids from 0 to"),
    ({"forced_tokens": [-5]}, "forced_tokens: -5 is no token"),
    ({"stop": None}, "stop: None is no list; give one, or leave it out"),
    ({"forced_tokens": 7}, "forced_tokens: 7 is no list"),
    ({"stop": [["a"], 5]}, "stop: 5 is no list; give one list for all prompts, or one for each"),
    ({"banned_tokens": [[1], None]}, "banned_tokens: None is no list"),
    ({"stop": ["\udcff"]}, r"stop: '\\udcff' at 0 is half of a surrogate pair"),
    ({"forced_tokens": ["a", "b\udcff"]}, r"forced_tokens: '\\udcff' at 1 is half of a surrogate pair"),
    ({"samples": 0}, "samples 0"),
    ({"samples": 1.5}, "samples 1.5"),
    ({"top_log_probs": -1}, "top_log_probs -1"),
    ({"top_log_probs": True}, "top_log_probs True"),
])  # fmt: skip
def test_constraints_that_cannot_be_are_told(text_model, given, message):
    with pytest.raises(ValueError, match=message):
        text_model.generate(["a", "b"], NEW, **given)


def test_ids_that_cannot_be_are_told(text_model):
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        text_model.generate_from_ids([1, 2])
    with pytest.raises(ValueError, match="100000 is no token"):
        text_model.generate_from_ids([[1, 100_000]])
    with pytest.raises(ValueError, match="input_ids holds float64; give whole numbers"):
        text_model.generate_from_ids([[1.7, 2.0]])
    with pytest.raises(ValueError, match="attention_mask has a gap between tokens of a row"):
        text_model.generate_from_ids([[1, 2, 3]], [[1, 0, 1]])


@pytest.mark.parametrize(("read", "name"), [
    (TextModel.generate, "generate: prompts"),
    (TextModel.search, "search: prompts"),
    (TextModel.score, "score: texts"),
    (TextModel.embed, "embed: texts"),
    (lambda text_model, texts: text_model.choose(texts, [" a", " b"]), "choose: prompts"),
    (lambda text_model, texts: text_model.choose(["x"], texts), "choose: answers"),
    (lambda text_model, texts: text_model.score_targets(texts, ["x"]), "score_targets: sources"),
    (lambda text_model, texts: text_model.score_targets(["x"], texts), "score_targets: targets"),
])  # fmt: skip
def test_texts_that_are_none_are_told(text_model, read, name):
    with pytest.raises(ValueError, match=f"{name} is one text; give a list of texts"):
        read(text_model, "one text")
    with pytest.raises(ValueError, match=rf"{name}\[1\] is 3 and no text"):
        read(text_model, ["one", 3])
    with pytest.raises(ValueError, match=f"{name} is None and no list"):
        read(text_model, None)
