import math

import pytest

from tfgpt.data.pipeline import pack_texts
from tfgpt.evaluation.evaluate import figures, summed_loss


def test_figures_follow_from_sums():
    found = figures(loss_sum=100.0, tokens=40, text_bytes=80)

    assert found == {"loss": 2.5, "perplexity": math.exp(2.5), "bits_per_byte": 100.0 / math.log(2) / 80}


def test_the_sum_does_not_depend_on_the_batch_size(model, tokenizer, documents):
    results = [summed_loss(model, pack_texts(documents[:2], tokenizer, length=48, batch_size=size)) for size in (1, 7, 64)]

    tokens = sum(len(ids) + 1 for ids in tokenizer(documents[:2], verbose=False).input_ids)
    for loss, count, correct in results:
        assert count == tokens
        assert loss == pytest.approx(results[0][0], rel=1e-6)
        assert correct == results[0][2] <= count
