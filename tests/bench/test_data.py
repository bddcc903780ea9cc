import json

import pytest

from tfgpt.bench.data import run, write_corpus


def test_the_corpus_is_text_of_the_size_that_is_asked_for(tmp_path):
    written = write_corpus(tmp_path / "corpus.jsonl", 300_000)

    texts = [json.loads(line)["text"] for line in (tmp_path / "corpus.jsonl").read_text("utf-8").splitlines()]
    assert written == {"documents": len(texts), "bytes": sum(len(text.encode()) for text in texts)}
    assert 300_000 <= written["bytes"] < 1_000_000
    assert all(text.strip() for text in texts)


@pytest.mark.slow
def test_every_side_is_timed_on_the_same_tokens():
    pytest.importorskip("datasets", reason="pip install 'tfgpt[datasets]'")

    result = run(megabytes=1, rounds=1)

    sides = result["sides"]
    assert sides["tfgpt"]["tokens"] == sides["GPT2TokenizerFast"]["tokens"]  # end-of-text tokens counted
    assert sides["datasets"]["tokens"] == sides["GPT2TokenizerFast"]["tokens"]
    assert all(row["peak_megabytes"] >= row["imported_megabytes"] > 100 for row in sides.values())
    assert result["reading"]["batches_tokens_per_second"] > 0 and result["reading"]["step_tokens_per_second"] > 0
