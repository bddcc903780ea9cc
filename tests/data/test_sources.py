import pytest

from tfgpt.data.sources import ReadCounts, inputs_sha256, read_documents, split_documents
from tfgpt.recipe import DataConfig, RecipeError


def split(config):
    parts = {"train": [], "validation": []}
    for name, document in split_documents(config):
        parts[name].append(document.text)
    return parts


def test_a_folder_is_read_in_sorted_order_and_other_endings_are_left_out(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "sub" / "c.md").write_text("third")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "x.bin").write_bytes(b"\xff\xfe")

    assert [document.text for document in read_documents(DataConfig(path=str(tmp_path)))] == ["first", "second", "third"]
    assert [document.text for document in read_documents(DataConfig(path=f"{tmp_path}/*.txt"))] == ["first", "second"]


def test_documents_are_files_blocks_or_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\n  \nthree\n")
    counts = ReadCounts()

    texts = {unit: [document.text for document in read_documents(DataConfig(path=str(path), documents=unit), counts)] for unit in ("file", "block", "line")}

    assert texts == {"file": ["one\ntwo\n\n  \nthree\n"], "block": ["one\ntwo", "three\n"], "line": ["one", "two", "three"]}
    assert (counts.files, counts.documents, counts.empty_documents) == (3, 6, 2)


def test_the_hash_split_moves_no_document_when_others_are_added(tmp_path):
    for number in range(200):
        (tmp_path / f"{number:03}.txt").write_text(f"document {number}")
    before = split(DataConfig(path=str(tmp_path)))
    for number in range(200):
        (tmp_path / f"new-{number:03}.txt").write_text(f"another document {number}")

    after = split(DataConfig(path=str(tmp_path)))

    assert set(before["train"]) < set(after["train"])
    assert set(before["validation"]) < set(after["validation"])
    assert 20 <= len(after["validation"]) <= 60  # a tenth of 400; within 3.3 standard deviations


def test_one_document_is_split_at_its_tail_at_a_line(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("".join(f"line {number}\n" for number in range(1000)))

    parts = split(DataConfig(path=str(path)))

    assert parts["train"][0] + parts["validation"][0] == path.read_text()
    assert parts["train"][0].endswith("\n")
    assert len(parts["validation"][0]) == pytest.approx(0.1 * len(path.read_text()), abs=20)


def test_the_tail_of_many_documents_is_held_out(tmp_path):
    for number in range(100):
        (tmp_path / f"{number:02}.txt").write_text("x" * 100)

    parts = split(DataConfig(path=str(tmp_path), split="tail", validation=0.25))

    assert (len(parts["train"]), len(parts["validation"])) == (75, 25)


def test_invalid_utf8_is_replaced_and_counted_or_refused_with_its_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"good \xef\xbf\xbd\nbad \xff\xfe here\n")
    counts = ReadCounts()

    (document,) = read_documents(DataConfig(path=str(path)), counts)

    assert document.text == "good \ufffd\nbad \ufffd\ufffd here\n"
    assert (counts.files_with_invalid_utf8, counts.replaced_characters) == (1, 2)
    with pytest.raises(RecipeError, match=rf"{path}:2: byte 0xff .* set data.invalid_utf8 to replace"):
        list(read_documents(DataConfig(path=str(path), invalid_utf8="refuse")))


@pytest.mark.parametrize("content", [b"", b" \n\n \t\n", b"\xef\xbb\xbf"])
def test_a_corpus_without_text_is_refused(tmp_path, content):
    path = tmp_path / "a.txt"
    path.write_bytes(content)

    with pytest.raises(RecipeError, match=r"data.path: .*a.txt holds no text \(1 files, 1 empty documents\)"):
        list(split_documents(DataConfig(path=str(path))))


def test_a_missing_file_and_a_folder_without_text_are_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"data.path: no file .*nowhere.txt; give an existing file"):
        list(read_documents(DataConfig(path=str(tmp_path / "nowhere.txt"))))
    with pytest.raises(RecipeError, match=r"data.path: folder .* has no text file \(\.txt"):
        list(read_documents(DataConfig(path=str(tmp_path))))


def test_a_part_that_would_be_empty_is_refused(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")

    with pytest.raises(RecipeError, match="leaves no document for validation out of 3; set data.split to tail"):
        list(split_documents(DataConfig(path=str(tmp_path), validation=0.0001)))


def test_pythons_reference_has_no_long_paragraph_twice_and_both_parts():
    parts = split(DataConfig(path="python-docs"))

    paragraphs = [paragraph.strip() for texts in parts.values() for text in texts for paragraph in text.split("\n\n")]
    long = [paragraph for paragraph in paragraphs if len(paragraph) >= 40]
    assert len(long) == len(set(long)) > 1000
    assert sum(map(len, parts["validation"])) > 10_000


def test_pythons_library_is_read_as_source():
    documents = read_documents(DataConfig(path="python-stdlib"))

    sources = [document.source for document, _ in zip(documents, range(50))]
    assert all(source.endswith(".py") and "site-packages" not in source for source in sources)


def test_the_inputs_hash_changes_with_a_byte(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = inputs_sha256(DataConfig(path=str(path)))
    path.write_text("two")

    assert inputs_sha256(DataConfig(path=str(path))) != before
    assert inputs_sha256(DataConfig(path="python-docs")) == inputs_sha256(DataConfig(path="python-docs"))
