import numpy as np
import tensorflow as tf
import torch

from tests.conftest import CONTEXT


def pytorch_score(torch_model, ids, end_of_text):
    """Sum of the log-probabilities of ids, read from an end-of-text token on, each with the history that the windows give it."""
    stream = [end_of_text, *ids]
    total, done, start = 0.0, 0, 0
    while done < len(ids):
        end = min(start + CONTEXT, len(ids))
        with torch.no_grad():
            log_probs = torch.log_softmax(torch_model(torch.tensor([stream[start:end]])).logits[0], dim=-1)
        total += sum(log_probs[place - start, ids[place]].item() for place in range(done, end))
        done, start = end, max(end + (CONTEXT + 1) // 2 - CONTEXT, 0)
    return total


def test_scores_equal_the_sum_of_pytorchs_log_softmax(text_model, torch_model, tokenizer, prompts, documents):
    texts = [*prompts, documents[1][:2000]]

    scores = text_model.score_graph(tf.constant(texts))

    for text, log_prob, count, perplexity in zip(texts, *(scores[name].numpy() for name in ("log_prob", "token_count", "perplexity"))):
        ids = tokenizer(text, verbose=False).input_ids
        expected = pytorch_score(torch_model, ids, tokenizer.eos_token_id)
        assert count == len(ids)
        np.testing.assert_allclose(log_prob, expected, atol=1e-3, rtol=1e-6)  # rtol: fp32 sums of several thousand nats
        np.testing.assert_allclose(perplexity, np.exp(-expected / max(len(ids), 1)), rtol=1e-4)


def test_a_score_does_not_depend_on_the_other_rows(text_model, documents):
    alone = text_model.score_graph(tf.constant(["short text"]))["log_prob"].numpy()[0]

    beside = text_model.score_graph(tf.constant([documents[1][:3000], "short text"]))["log_prob"].numpy()[1]

    np.testing.assert_allclose(beside, alone, rtol=1e-6)
