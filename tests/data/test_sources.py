import gzip

import pytest

from tfgpt.data.builtin import python_reference
from tfgpt.data.corpus import read_corpus
from tfgpt.data.sources import input_files, inputs_sha256, passed_over
from tfgpt.recipe import ColumnsConfig, DataConfig, RecipeError, SourceConfig


def names(path, **settings):
    return [file.path for file in input_files(DataConfig(path=str(path), **settings))]


def test_a_folder_is_read_in_sorted_order_and_other_endings_are_left_out(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "sub/c.md", "a.TXT", "x.bin"):
        (tmp_path / name).write_text("text")

    assert names(tmp_path) == [f"{tmp_path}/{name}" for name in ("a.TXT", "b.txt", "sub/c.md")]
    assert names(f"{tmp_path}/*.txt") == [f"{tmp_path}/b.txt"]
    assert names(f"{tmp_path}/x.bin") == [f"{tmp_path}/x.bin"]


def test_a_folder_with_files_of_several_kinds_wants_to_be_told_which(tmp_path):
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}')

    with pytest.raises(RecipeError, match=r"holds files of several kinds: jsonl \(rows.jsonl\), text \(README.md\); set data.kind to one of them"):
        names(tmp_path)
    assert names(tmp_path, kind="jsonl") == [f"{tmp_path}/rows.jsonl"]


def test_the_endings_that_are_asked_for_are_those_that_are_read(tmp_path):
    for name in ("README.md", "a.py", "b.JS", "b.js.gz", "rows.jsonl"):
        (tmp_path / name).write_bytes(gzip.compress(b"let a") if name.endswith("gz") else b"text")

    assert names(tmp_path, endings=(".py",)) == [f"{tmp_path}/a.py"]
    assert names(tmp_path, endings=(".js", ".py")) == [f"{tmp_path}/{name}" for name in ("a.py", "b.JS", "b.js.gz")]
    assert names(tmp_path, endings=(".jsonl",), kind="text") == names(tmp_path, endings=(".jsonl",)) == [f"{tmp_path}/rows.jsonl"]
    assert passed_over(DataConfig(path=str(tmp_path), endings=(".py",))) == [f"{tmp_path}/{name}" for name in ("README.md", "b.JS", "b.js.gz", "rows.jsonl")]
    with pytest.raises(RecipeError, match=r"has no file, with an ending \.rb \(endings there: .*\); name others in data.endings"):
        names(tmp_path, endings=(".rb",))
    with pytest.raises(RecipeError, match="data.endings: 'py' is no ending of a file's name; write it with its point"):
        DataConfig(path="x", endings=("py",))


def test_what_is_missing_is_named_by_its_key(tmp_path):
    with pytest.raises(RecipeError, match=r"data.path: no file .*nowhere.txt; give an existing file"):
        names(tmp_path / "nowhere.txt")
    with pytest.raises(RecipeError, match=r"data.path: folder .* has no file, with an ending \.txt or .*endings there: "):
        names(tmp_path)
    with pytest.raises(RecipeError, match=r"data.sources\[1\].path: no file .*nowhere.txt"):
        input_files(DataConfig(sources=(SourceConfig(path="python-docs"), SourceConfig(path=str(tmp_path / "nowhere.txt")))))


def test_a_source_takes_what_it_does_not_say_from_the_data_section(tmp_path):
    (tmp_path / "a.csv").write_text("text\none\n")
    path = f"{tmp_path}/a.csv"
    config = DataConfig(sources=(SourceConfig(path=path), SourceConfig(path=path, kind="text", documents="line")), encoding="latin-1")

    first, second = input_files(config)

    assert (first.kind, first.source.documents, first.source.encoding, first.source_number) == ("csv", "file", "latin-1", 0)
    assert (second.kind, second.source.documents, second.source.encoding, second.source_number) == ("text", "line", "latin-1", 1)


def test_pythons_reference_has_no_long_paragraph_twice():
    paragraphs = [paragraph.strip() for text, _ in python_reference() for paragraph in text.split("\n\n")]

    long = [paragraph for paragraph in paragraphs if len(paragraph) >= 40]
    assert len(long) == len(set(long)) > 1000


def test_pythons_library_is_read_as_source():
    paths = names("python-stdlib")

    assert len(paths) > 500
    assert all(path.endswith(".py") and "site-packages" not in path for path in paths)


def test_the_inputs_hash_changes_with_a_byte(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = inputs_sha256(DataConfig(path=str(path)))
    path.write_text("two")

    assert inputs_sha256(DataConfig(path=str(path))) != before
    assert inputs_sha256(DataConfig(path="python-docs")) == inputs_sha256(DataConfig(path="python-docs"))


def test_the_inputs_hash_of_a_datasets_folder_changes_with_its_files(tmp_path):
    (tmp_path / "data.arrow").write_text("one")
    before = inputs_sha256(DataConfig(path=str(tmp_path), kind="hf"))
    (tmp_path / "data.arrow").write_text("two")

    assert inputs_sha256(DataConfig(path=str(tmp_path), kind="hf")) != before


def test_the_inputs_hash_of_a_url_changes_with_its_content():
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/hashed/a.txt", b"one")
    before = inputs_sha256(DataConfig(path="memory://hashed/a.txt"))
    memory.pipe("/hashed/a.txt", b"another")

    assert inputs_sha256(DataConfig(path="memory://hashed/a.txt")) != before


def test_runs_and_hidden_folders_inside_a_corpus_are_no_corpus(tmp_path):
    for name in ("a.txt", "run/tokenizer/merges.txt", ".git/b.txt", "sub/.c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "run" / "stages.json").write_text("{}")

    assert names(tmp_path) == [f"{tmp_path}/a.txt"]


def test_files_of_a_folder_that_are_not_read_are_named(tmp_path):
    for name in ("a.txt", "b.pdf", "c"):
        (tmp_path / name).write_text("text")

    assert passed_over(DataConfig(path=str(tmp_path))) == [f"{tmp_path}/b.pdf", f"{tmp_path}/c"]
    assert passed_over(DataConfig(path=str(tmp_path / "*"))) == []
    with pytest.raises(RecipeError, match=r"has no jsonl file, with an ending .jsonl or .ndjson or .json \(endings there: .pdf, .txt, none\)"):
        input_files(DataConfig(path=str(tmp_path), kind="jsonl"))


def test_a_built_in_corpus_is_no_kind_of_file():
    with pytest.raises(RecipeError, match="data.kind: python-docs is a corpus of its own, not how x.txt is read"):
        DataConfig(path="x.txt", kind="python-docs")


def test_a_dataset_saved_to_disk_is_not_read_as_json(tmp_path):
    (tmp_path / "dataset_dict.json").write_text("{}")

    with pytest.raises(RecipeError, match="save_to_disk wrote; set data.kind to hf"):
        input_files(DataConfig(path=str(tmp_path)))


def test_a_text_beside_a_table_has_the_column_that_is_asked_for(tmp_path):
    (tmp_path / "rows.csv").write_text("message\nof a table\n")
    (tmp_path / "one.txt").write_text("of a file")
    sources = tuple(SourceConfig(path=str(path)) for path in (tmp_path / "rows.csv", tmp_path / "one.txt", "python-docs"))

    texts = [example.text for example in read_corpus(DataConfig(sources=sources, columns=ColumnsConfig(text="message")))]

    assert {"of a table", "of a file"} <= set(texts) and len(texts) > 10
