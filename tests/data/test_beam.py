"""The Beam pipeline gives what one process gives, byte for byte."""
import json

import pytest

from tfgpt.data import prepare as local
from tfgpt.data.prepare import prepare
from tfgpt.recipe import CleanConfig, DataConfig, RecipeError, SourceConfig

pytest.importorskip("apache_beam", reason="pip install 'tfgpt[beam]'")

from tfgpt.data import beam

LENGTH = 32


def write_corpus(folder, documents):
    """Files of real text: with duplicates within and across files, near duplicates, empty and broken records."""
    folder.mkdir()
    for number in range(4):
        mine = documents[number * 12 : number * 12 + 20]
        rows = [{"text": text[:800], "label": str(len(text) % 3)} for text in mine] + [{"text": mine[0][:800].upper(), "label": "1"}]
        rows += [{"text": ""}, {"text": mine[1][:700].replace("the", "teh", 1) + " x", "label": "2"}, {"txt": "x"}, {"text": "short", "label": "0"}]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "stats.json"}


@pytest.mark.parametrize(
    "settings",
    [
        {"clean": CleanConfig(deduplicate="exact", min_chars=10, mask=("email",)), "test": 0.2},
        {"clean": CleanConfig(deduplicate="near")},
        {"examples": "labels"},
    ],
    ids=["exact", "near", "labels"],
)
def test_the_same_shards_and_the_same_account(tmp_path, documents, tokenizer, monkeypatch, settings):
    monkeypatch.setattr(local, "WINDOW", 5000)
    write_corpus(tmp_path / "corpus", documents)
    config = DataConfig(path=str(tmp_path / "corpus"), bad_records="skip", length=LENGTH, **settings)

    mine = prepare(config, tokenizer, tmp_path / "local")
    theirs = beam.prepare_with_beam(config, tokenizer, tmp_path / "beam")

    assert theirs == mine
    assert contents(tmp_path / "beam") == contents(tmp_path / "local")
    assert len(contents(tmp_path / "local")) > 6  # several windows
    if settings.get("clean"):
        assert mine["filtered"]["exact duplicate"] > 4
    if settings.get("clean") == CleanConfig(deduplicate="near"):
        assert mine["filtered"]["near duplicate"] > 2


@pytest.mark.parametrize("settings", [{}, {"replay": True}])
def test_a_mixture_with_weights_keeps_its_sources_apart(tmp_path, documents, tokenizer, settings):
    write_corpus(tmp_path / "corpus", documents)
    sources = (SourceConfig(path=str(tmp_path / "corpus"), weight=1.0), SourceConfig(path="python-docs", weight=2.0, **settings))
    config = DataConfig(sources=sources, bad_records="skip", length=LENGTH)

    mine = prepare(config, tokenizer, tmp_path / "local")
    theirs = beam.prepare_with_beam(config, tokenizer, tmp_path / "beam")

    assert theirs == mine
    assert contents(tmp_path / "beam") == contents(tmp_path / "local")


def test_a_bad_record_is_told_in_one_line_and_nothing_is_left(tmp_path, documents, tokenizer):
    write_corpus(tmp_path / "corpus", documents)

    refused = r"jsonl:\d+: no column 'text' \(columns: txt\); set data.columns.text to one of them, or set data.bad_records to skip$"
    with pytest.raises(RecipeError, match=refused):
        beam.prepare_with_beam(DataConfig(path=str(tmp_path / "corpus"), length=LENGTH), tokenizer, tmp_path / "beam")
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_a_running_text_is_refused(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("one\n" * 500)

    with pytest.raises(RecipeError, match="data.split: a running text is cut at its tail by one process"):
        beam.prepare_with_beam(DataConfig(path=str(tmp_path / "a.txt"), length=LENGTH), tokenizer, tmp_path / "beam")


@pytest.mark.parametrize(("flags", "message"), [
    (["--runner", "FooRunner"], "--beam: Unexpected pipeline runner: FooRunner"),
    (["--runnner", "FlinkRunner"], "has no flag that Beam knows as runnner"),
])  # fmt: skip
def test_flags_that_beam_does_not_take_are_told(tmp_path, tokenizer, flags, message):
    (tmp_path / "a.txt").write_text("one\n\ntwo")

    with pytest.raises(RecipeError, match=message):
        beam.prepare_with_beam(DataConfig(path=str(tmp_path / "a.txt"), documents="block"), tokenizer, tmp_path / "data", flags=flags)
