"""How well models predict texts that nobody trained them on: each document scored whole, so that two models can be compared document by document."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tfgpt.data.corpus import all_examples
from tfgpt.data.intake import Account
from tfgpt.evaluation.metrics import Metric, ratio
from tfgpt.generation.batches import batches
from tfgpt.generation.results import Score
from tfgpt.generation.text_model import TextModel
from tfgpt.recipe import DataConfig


def read_texts(config: DataConfig, most: int = 0) -> list[str]:
    """Return the documents of a corpus, none of them blank, whatever part they would belong to.

    Args:
        config: of the data; its examples are texts.
        most: the first ones; 0 = all.

    Raises:
        RecipeError: no file, or no text in it.
    """
    texts: list[str] = []
    for example in all_examples(config, Account()):
        texts.append(example.text)
        if len(texts) == most:
            break
    return texts


def score_texts(text_model: TextModel, texts: Iterable[str], stride: int = 0, batch_size: int = 8, advance: Callable[[int], None] = lambda count: None
                ) -> list[Score]:
    """Return how likely each text is to a model (see `TextModel.score`), in the order given; texts alike in length are read together.

    Args:
        text_model: without an encoder.
        texts: of any length.
        stride: of the windows in which a text longer than the context is read; 1 is exact, 0 = half of the context.
        batch_size: texts that are scored together.
        advance: called with how many texts were scored.
    """
    texts = list(texts)
    order = np.argsort([len(text) for text in texts], kind="stable")
    scores: list[Score | None] = [None] * len(texts)
    for places in batches(order, batch_size):
        for place, score in zip(places, text_model.score([texts[place] for place in places], stride, batch_size)):
            scores[place] = score
        advance(len(places))
    return scores


def metrics_of(scores: Sequence[Score], texts: Sequence[str]) -> dict[str, Metric]:
    """Return `bits_per_byte`, which compares models of any vocabulary, `loss` (nats a token) and `perplexity`; of all three lower is better.

    The end of a text is not counted, as `TextModel.score` does not.

    >>> found = metrics_of([Score(log_prob=-8 * math.log(2), token_count=4, perplexity=4.0)], ["01234567"])
    >>> round(found["bits_per_byte"].value, 6), round(found["perplexity"].value, 6)
    (1.0, 4.0)
    """
    nats, tokens = np.array([-score.log_prob for score in scores]), np.array([score.token_count for score in scores])
    loss = ratio(nats, tokens, lower_is_better=True)
    perplexity = Metric(lambda counts: math.exp(min(loss.value_of(counts), 700.0)), len(scores), lower_is_better=True)
    return {"bits_per_byte": ratio(nats / math.log(2), [len(text.encode()) for text in texts], lower_is_better=True), "loss": loss, "perplexity": perplexity}
