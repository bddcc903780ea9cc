"""The whole preparation, from files to shards and their account."""
import json
import random
from pathlib import Path

import numpy as np
import pytest

from tfgpt.data import prepare as prepared
from tfgpt.data.pipeline import evaluation_batches
from tfgpt.data.prepare import prepare, tokenized_documents
from tfgpt.data.shards import ShardedData
from tfgpt.recipe import CleanConfig, DataConfig, RecipeError, SourceConfig

LENGTH = 32
SMS = Path(__file__).parents[3] / "shared" / "data" / "sms_spam.tsv"


def rows_of(folder, split="train"):
    batches = evaluation_batches(ShardedData(folder), split, 50)
    return {key: np.concatenate(rows) for key, rows in zip(("input_ids", "labels", "segment_ids"), zip(*(
        [batch[key].numpy() for key in ("input_ids", "labels", "segment_ids")] for batch in batches)))}  # fmt: skip


def texts_of(rows, tokenizer):
    """Decode every segment's inputs."""
    return [tokenizer.decode(ids[segments == number], skip_special_tokens=True)
            for ids, segments in zip(rows["input_ids"], rows["segment_ids"]) for number in range(1, segments.max() + 1)]  # fmt: skip


def test_every_document_comes_back_out_of_the_shards(tmp_path, documents, tokenizer, monkeypatch):
    monkeypatch.setattr(prepared, "WINDOW", 20_000)
    stats = prepare(DataConfig(path="python-docs", length=LENGTH, test=0.1), tokenizer, tmp_path / "data")

    for split, of_split in stats["splits"].items():
        labels = rows_of(tmp_path / "data", split)["labels"]
        wanted = [ids for ids, _ in tokenized_documents(DataConfig(path="python-docs", length=LENGTH, test=0.1), tokenizer, split)]
        assert sorted(labels[labels >= 0]) == sorted([*np.concatenate(wanted), *[tokenizer.eos_token_id] * len(wanted)])
        assert of_split["tokens"] == np.count_nonzero(labels >= 0)
    assert len(list((tmp_path / "data").glob("train-*"))) > 5
    assert stats["documents"] == len(documents)


def test_the_result_does_not_depend_on_how_many_windows_are_in_work(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(prepared, "WINDOW", 20_000)
    for name, at_once in (("one", 1), ("four", 4)):
        monkeypatch.setattr(prepared, "WINDOWS_AT_ONCE", at_once)
        prepare(DataConfig(path="python-docs", length=LENGTH), tokenizer, tmp_path / name)

    files = {name: {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "four")}
    assert files["one"] == files["four"]


def test_texts_and_records_of_python_are_prepared_too(tmp_path, documents, tokenizer):
    stats = prepare(DataConfig(path="-", length=LENGTH), tokenizer, tmp_path / "texts", documents[:30])
    pairs = [{"prompt": f"Question {n}?", "target": f" Answer {n}."} for n in range(60)]
    of_pairs = prepare(DataConfig(path="-", length=LENGTH, examples="pairs"), tokenizer, tmp_path / "pairs", pairs)

    assert (stats["documents"], of_pairs["documents"]) == (30, 60)
    labels = rows_of(tmp_path / "pairs")["labels"]
    answers = tokenizer.decode(labels[labels >= 0], skip_special_tokens=True)
    assert answers.count("Answer") == of_pairs["splits"]["train"]["documents"]
    assert "Question" not in answers


def test_tokenizations_store_other_pieces_of_the_same_text(tmp_path, documents, tokenizer):
    config = DataConfig(path="-", length=LENGTH, bpe_dropout=0.3, tokenizations=3)

    stats = prepare(config, tokenizer, tmp_path / "data", documents[:20])

    train = stats["splits"]["train"]
    assert train["documents"] + stats["splits"]["validation"]["documents"] == 20
    assert train["bytes"] < 1.1 * sum(len(text.encode()) for text in documents[:20])
    rows = rows_of(tmp_path / "data")
    assert "".join(texts_of(rows, tokenizer)).count(documents[0][:20]) in (0, 3)


def test_labels_are_listed_and_numbers_sorted_as_numbers(tmp_path, tokenizer):
    rows = [{"text": f"text number {n}", "label": n % 12} for n in range(120)]

    prepare(DataConfig(path="-", length=LENGTH, examples="labels"), tokenizer, tmp_path / "data", rows)

    assert (tmp_path / "data" / "labels.txt").read_text().split() == [str(n) for n in range(12)]
    found = rows_of(tmp_path / "data")
    ends = np.argwhere(found["labels"] >= 0)
    for row, place in ends[:20]:
        segment = found["segment_ids"][row] == found["segment_ids"][row, place]
        text = tokenizer.decode(found["input_ids"][row][segment], skip_special_tokens=True)
        assert int(text.split()[-1]) % 12 == found["labels"][row, place]


def test_a_corpus_under_one_sequence_is_refused_and_leaves_nothing(tmp_path, tokenizer):
    with pytest.raises(RecipeError, match=r"data.path: .* tokens to train on, less than one sequence of data.length \(32\)"):
        prepare(DataConfig(path="-", length=LENGTH, validation=0.5), tokenizer, tmp_path / "data", ["a", "b", "c", "d", "e"])
    assert list(tmp_path.iterdir()) == []


def test_a_weighed_source_that_gives_nothing_is_refused(tmp_path, tokenizer):
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n')
    sources = (SourceConfig(path="python-docs", weight=1.0), SourceConfig(path=str(tmp_path / "empty.jsonl"), weight=1.0))

    with pytest.raises(RecipeError, match=r"data.sources\[1\].weight: 1.0, but .*empty.jsonl gives nothing to train on"):
        prepare(DataConfig(sources=sources, length=LENGTH), tokenizer, tmp_path / "data")


def test_stats_are_json_and_account_for_every_document(tmp_path, documents, tokenizer):
    rows = [{"text": text} for text in documents] + [{"text": documents[0]}, {"text": ""}, {"no": 1}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(path=str(path), length=LENGTH, bad_records="skip", clean=CleanConfig(deduplicate="exact"))

    prepare(config, tokenizer, tmp_path / "data")

    stats = json.loads((tmp_path / "data" / "stats.json").read_text())
    assert stats["documents_read"] == len(rows)
    assert stats["empty"] + sum(stats["refused"].values()) + sum(stats["filtered"].values()) + sum(stats["used"].values()) == len(rows)
    assert stats["refused_places"] == [f"{path}:{len(rows)}: no column 'text' (columns: no)"]
    assert stats["cut"] > 0 and stats["documents"] == len(documents)


def test_a_long_document_without_a_space_is_prepared_and_counted(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("tfgpt.text.encode.LONGEST_WORD", 20_000)
    path = tmp_path / "long.txt"
    path.write_text("".join(random.Random(1).choices("abcdefgh", k=1000)) * 1000 + "\nand a last line\n")

    stats = prepare(DataConfig(path=str(path), length=1024, documents="file"), tokenizer, tmp_path / "data")

    assert stats["documents_read"] == 1
    assert sum(split["words_cut"] for split in stats["splits"].values()) == 13  # of 1,000,000 characters 70,000 at a time
    assert sum(split["bytes"] for split in stats["splits"].values()) == path.stat().st_size


@pytest.mark.skipif(not SMS.exists(), reason="needs the SMS spam collection at ../shared/data/sms_spam.tsv")
def test_short_messages_fill_97_of_100_places(tmp_path, gpt2_tokenizer):
    stats = prepare(DataConfig(path=str(SMS), column_names=("label", "text")), gpt2_tokenizer, tmp_path / "data")

    assert stats["documents"] == 5574
    assert all(split["fill_rate"] > 0.97 for split in stats["splits"].values())


def test_short_lines_fill_97_of_100_places(tmp_path, documents, gpt2_tokenizer):
    lines = [line for text in documents for line in text.splitlines() if line.strip()]

    stats = prepare(DataConfig(path="-", length=256), gpt2_tokenizer, tmp_path / "data", lines)

    assert stats["splits"]["train"]["fill_rate"] > 0.97
