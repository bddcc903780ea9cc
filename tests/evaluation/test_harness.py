"""Likelihoods of choices and of texts, against PyTorch's model on the same weights."""
import json

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from tfgpt.evaluation.harness import Question, baselines_of, choose, metrics_of, read_questions
from tfgpt.evaluation.texts import metrics_of as text_metrics_of
from tfgpt.evaluation.texts import read_texts, score_texts
from tfgpt.recipe import ColumnsConfig, DataConfig, RecipeError

QUESTIONS = [
    Question("The statement", (" is executed.", " are", " raises an exception if it is not found"), 1),
    Question("", ("import", "class definition"), 0),
    Question("A list of names which is much longer than the context of the model, " * 6, (" ends", " goes on"), 1),
    Question("x", ("y",) * 5, 3),
]


@pytest.fixture(scope="module")
def torch_model(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("torch")
    model.save_pretrained(folder)
    return GPT2LMHeadModel.from_pretrained(folder).eval()


def log_prob(torch_model, tokenizer, prompt, answer):
    """The sum of an answer's log-probabilities behind its prompt, both tokenized by themselves, the prompt cut to fit."""
    prompt, answer = tokenizer.encode(prompt) or [tokenizer.eos_token_id], tokenizer.encode(answer)
    prompt = prompt[-(torch_model.config.n_positions + 1 - len(answer)) :]
    with torch.no_grad():
        logits = torch_model(torch.tensor([(prompt + answer)[:-1]])).logits[0, len(prompt) - 1 :].log_softmax(-1)
    return logits[range(len(answer)), answer].sum().item()


def test_the_likelihood_of_each_choice_is_pytorchs(text_model, torch_model, tokenizer):
    found = list(choose(text_model, QUESTIONS, batch_size=4))

    assert [one.question for one in found] == QUESTIONS
    for one in found:
        theirs = [log_prob(torch_model, tokenizer, one.question.prompt, choice) for choice in one.question.choices]
        np.testing.assert_allclose(one.log_probs, theirs, atol=2e-3)  # sums of some ten terms of size 10 in float32, of two libraries
        assert one.likeliest == int(np.argmax(theirs))
        assert one.likeliest_by_byte == int(np.argmax([value / len(choice) for value, choice in zip(theirs, one.question.choices)]))


def test_accuracies_and_baselines_by_hand(text_model):
    found = list(choose(text_model, QUESTIONS))

    right = [one.likeliest == one.question.answer for one in found]
    baselines = baselines_of(QUESTIONS)
    assert metrics_of(found)["accuracy"].value == sum(right) / 4
    assert baselines["any choice"].value == pytest.approx((1 / 3 + 1 / 2 + 1 / 2 + 1 / 5) / 4)
    assert baselines["the longest choice"].value == 1 / 4
    assert baselines["the place most often right"].value == 2 / 4


def test_questions_are_read_with_columns_of_any_name_and_refused_with_their_place(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps({"q": "x", "options": [" a", " b"], "right": right}) + "\n" for right in (0, 1, 2)))
    columns = ColumnsConfig(prompt="q", choices="options", answer="right")

    assert [question.answer for question in read_questions(str(path), columns, most=1)] == [0]
    with pytest.raises(RecipeError, match="questions.jsonl:3: column 'right' holds 2, and there are 2 choices"):
        read_questions(str(path), columns)


def test_texts_are_scored_in_the_order_given_as_pytorch_does(text_model, torch_model, tokenizer):
    texts = ["A long one, which is read last but stands first", "It", "The form is deprecated."]

    scores = score_texts(text_model, texts, stride=1, batch_size=2)

    theirs = [log_prob(torch_model, tokenizer, "", text) for text in texts]
    bits = -sum(theirs) / np.log(2) / sum(len(text.encode()) for text in texts)
    np.testing.assert_allclose([score.log_prob for score in scores], theirs, rtol=1e-4)  # float32 sums of some 30 terms
    assert text_metrics_of(scores, texts)["bits_per_byte"].value == pytest.approx(bits, rel=1e-4)


def test_the_texts_of_a_corpus_are_read_whatever_part_they_would_belong_to(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("one\n\ntwo\nthree\n")

    assert read_texts(DataConfig(path=str(path), documents="line")) == ["one", "two", "three"]
    assert read_texts(DataConfig(path=str(path), documents="line"), most=2) == ["one", "two"]
