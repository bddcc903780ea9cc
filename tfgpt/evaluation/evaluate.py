"""The figures of evaluation.json: loss, perplexity and bits per byte over every token of a split."""
from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from tfgpt.models.step import summed_over_lanes


def figures(loss_sum: float, tokens: int, text_bytes: int) -> dict[str, float]:
    """Return `loss` (nats a token), `perplexity` and `bits_per_byte` of a text.

    Args:
        loss_sum: negative log-likelihood of the whole text, in nats.
        tokens: how many tokens it was summed over.
        text_bytes: bytes of the text in UTF-8, so that models with different vocabularies compare.

    >>> {name: round(value, 6) for name, value in figures(math.log(2) * 24, tokens=8, text_bytes=24).items()}
    {'loss': 2.079442, 'perplexity': 8.0, 'bits_per_byte': 1.0}
    """
    loss = loss_sum / tokens
    return {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": loss_sum / math.log(2) / text_bytes}


def summed_loss(model, batches: tf.data.Dataset, advance: Callable[[], None] = lambda: None, lanes: int = 1) -> tuple[float, int, int]:
    """Return the summed loss in nats, the number of tokens, and how many the model predicts rightly, over all batches.

    Args:
        model: a `GPTLMHeadModel`.
        batches: of packed sequences.
        advance: called after each batch.
        lanes: see `tfgpt.models.step.StepSettings`.
    """
    def terms(batch):
        return summed_over_lanes(lambda rows, _: model.loss_terms(rows), batch, lanes)

    terms = tf.function(terms, input_signature=[batches.element_spec], autograph=False)  # traced once, whatever the last batch's size
    loss_sum, token_count, correct_count = 0.0, 0, 0
    for batch in batches:
        _, loss, tokens, correct = terms(batch)
        loss_sum += float(loss)
        token_count += int(tokens)
        correct_count += int(correct)
        advance()
    return loss_sum, token_count, correct_count
