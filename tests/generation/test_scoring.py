import numpy as np
import pytest
import torch

from tests.small_models import CONTEXT


def pytorch_score(torch_model, ids, end_of_text, stride=(CONTEXT + 1) // 2):
    """Sum of the log-probabilities of ids, read from an end-of-text token on, each with the history that the windows give it."""
    stream = [end_of_text, *ids]
    total, done, start = 0.0, 0, 0
    while done < len(ids):
        end = min(start + CONTEXT, len(ids))
        with torch.no_grad():
            log_probs = torch.log_softmax(torch_model(torch.tensor([stream[start:end]])).logits[0], dim=-1)
        total += sum(log_probs[place - start, ids[place]].item() for place in range(done, end))
        done, start = end, max(end + stride - CONTEXT, 0)
    return total


def exact_score(torch_model, ids, end_of_text):
    """The same sum, each token by itself behind as much of the text as the context holds."""
    stream, total = [end_of_text, *ids], 0.0
    for place, token in enumerate(ids):
        with torch.no_grad():
            history = torch.tensor([stream[max(place + 1 - CONTEXT, 0) : place + 1]])
            total += torch.log_softmax(torch_model(history).logits[0, -1], dim=-1)[token].item()
    return total


def test_scores_equal_the_sum_of_pytorchs_log_softmax(text_model, torch_model, tokenizer, prompts, documents):
    texts = [*prompts, documents[1][:2000]]

    for text, (log_prob, count, perplexity) in zip(texts, text_model.score(texts)):
        ids = tokenizer(text, verbose=False).input_ids
        expected = pytorch_score(torch_model, ids, tokenizer.eos_token_id)
        assert count == len(ids)
        np.testing.assert_allclose(log_prob, expected, atol=1e-3, rtol=1e-6)  # rtol: fp32 sums of several thousand nats
        np.testing.assert_allclose(perplexity, np.exp(-expected / max(len(ids), 1)), rtol=1e-4)


@pytest.mark.parametrize("stride", [7, CONTEXT - 1, CONTEXT])
def test_windows_of_any_stride(text_model, torch_model, tokenizer, documents, stride):
    ids = tokenizer(documents[2][:700], verbose=False).input_ids
    expected = pytorch_score(torch_model, ids, tokenizer.eos_token_id, stride)

    assert text_model.score([documents[2][:700]], stride)[0].log_prob == pytest.approx(expected, rel=1e-6)


def test_a_stride_of_one_is_exact_and_differs_from_half_of_the_context(text_model, torch_model, tokenizer, documents):
    text = documents[2][:500]
    ids = tokenizer(text, verbose=False).input_ids
    assert len(ids) > 3 * CONTEXT

    exact, half = text_model.score([text], stride=1)[0], text_model.score([text])[0]

    assert exact.log_prob == pytest.approx(exact_score(torch_model, ids, tokenizer.eos_token_id), rel=1e-6)
    assert abs(exact.log_prob - half.log_prob) > 1


def test_a_score_does_not_depend_on_the_texts_beside(text_model, documents):
    alone, beside = text_model.score(["short text"])[0], text_model.score([documents[1][:3000], "short text"])[1]

    assert beside.log_prob == pytest.approx(alone.log_prob, abs=1e-3)
    assert text_model.score([documents[1][:3000], "short text"], batch_size=1)[1] == alone
    assert text_model.score([]) == []


def test_what_cannot_be_scored_is_told(text_model):
    with pytest.raises(ValueError, match=f"stride {CONTEXT + 1} is no whole number between 1 and the context of {CONTEXT}"):
        text_model.score(["text"], stride=CONTEXT + 1)
    with pytest.raises(ValueError, match="stride 1.5 is no whole number"):
        text_model.score(["text"], stride=1.5)


ANSWERS = [" with", " statement of the language", ".", " is evaluated once, and its value is kept until the block ends"]


def pytorch_choice(torch_model, tokenizer, prompt, answer):
    """The log-probability of an answer's tokens behind the prompt's, by the rule that the documentation gives."""
    ids, tokens = tokenizer(prompt, verbose=False).input_ids or [tokenizer.eos_token_id], tokenizer(answer).input_ids
    ids = ids[-(CONTEXT + 1 - len(tokens)) :]
    with torch.no_grad():
        log_probs = torch.log_softmax(torch_model(torch.tensor([ids + tokens[:-1]])).logits[0], dim=-1)
    return sum(log_probs[len(ids) - 1 + place, token].item() for place, token in enumerate(tokens))


def test_the_chosen_answer_is_the_likeliest_by_pytorchs_log_softmax(text_model, torch_model, tokenizer, prompts):
    choices = text_model.choose(prompts, ANSWERS)

    for prompt, choice in zip(prompts, choices, strict=True):
        expected = np.array([pytorch_choice(torch_model, tokenizer, prompt, answer) for answer in ANSWERS])
        np.testing.assert_allclose(choice.log_probs, expected, atol=1e-3, rtol=1e-6)
        assert choice.answer == ANSWERS[expected.argmax()]
        assert choice.probability == pytest.approx(np.exp(expected.max()) / np.exp(expected).sum(), rel=1e-3)
    assert len({choice.answer for choice in choices}) > 1
    assert text_model.choose(prompts[3:5], ANSWERS, batch_size=3)[1].answer == choices[4].answer


def test_a_token_is_weighed_as_it_was_written(text_model, tokenizer, prompts):
    written = text_model.generate(prompts, 1)
    whole = [(prompt, row) for prompt, row in zip(prompts, written) if len(tokenizer(row.text).input_ids) == 1 and len(tokenizer(prompt).input_ids) < CONTEXT]

    for prompt, row in whole:
        choice = text_model.choose([prompt], [row.text, " nothing of the kind"])[0]
        assert choice.answer == row.text
        assert choice.log_probs[0] == pytest.approx(row.log_prob, abs=1e-3)
    assert len(whole) > 5


@pytest.mark.parametrize(("answers", "message"), [
    ([" yes"], "1 answers leave no choice"),
    ([" yes", ""], "the answer '' has 0 tokens"),
    ([" yes", "no " * 200], f"give 1 to {CONTEXT}, the context"),
    (" yes", "answers is one text; give a list"),
])  # fmt: skip
def test_answers_that_cannot_be_chosen_from_are_told(text_model, answers, message):
    with pytest.raises(ValueError, match=message):
        text_model.choose(["x"], answers)


@pytest.mark.parametrize("prompt", ["The sky is", "", "The with statement is "])
def test_targets_behind_one_prompt_have_the_likelihood_that_each_has_alone(text_model, torch_model, tokenizer, prompt):
    """Read once for all or with each of them; beside PyTorch's sum over the tokens of each."""
    targets = [" blue", " naïve café", "", " a statement of the language", "x"]

    together, alone = (text_model.score_targets([prompt] * 5, targets, batch_size) for batch_size in (5, 1))

    is_graph = hasattr(text_model.model, "states")  # with LiteRT both are the same way
    assert text_model.reads_once([prompt] * 5, longest=20) == is_graph and not text_model.reads_once([prompt], 20)
    np.testing.assert_allclose([score.log_prob for score in together], [score.log_prob for score in alone], atol=1e-3)  # fp32 sums of terms up to 40
    for target, score in zip(targets, together):
        before, ids = tokenizer(prompt).input_ids or [tokenizer.eos_token_id], tokenizer(target).input_ids
        with torch.no_grad():
            log_probs = torch.log_softmax(torch_model(torch.tensor([before + ids])).logits[0], dim=-1)
        expected = sum(log_probs[len(before) - 1 + place, token].item() for place, token in enumerate(ids))
        assert score.log_prob == pytest.approx(expected, abs=2e-3) and score.token_count == len(ids)


def test_a_shared_prompt_without_room_is_cut_for_each_target_by_itself(text_model):
    prompt, targets = "The with statement is used to wrap it. " * 4, [" blue", " a statement of the language"]

    together, alone = (text_model.score_targets([prompt] * 2, targets, batch_size) for batch_size in (2, 1))

    assert not text_model.reads_once([prompt] * 2, longest=10)
    assert [score.log_prob for score in together] == pytest.approx([score.log_prob for score in alone], abs=1e-3)
