"""Every kind of file, good and broken: what is read, and what is said of what cannot be."""
import bz2
import gzip
import json
import lzma

import pyarrow
import pytest
import tensorflow as tf
from pyarrow import parquet

from tfgpt.data.corpus import read_corpus
from tfgpt.data.intake import Intake
from tfgpt.data.sources import input_files
from tfgpt.recipe import DataConfig, RecipeError

ROWS = [{"text": "one\nline", "label": "a"}, {"text": 'quotes " and, commas', "label": "b"}, {"text": "日本語", "label": "a"}]


def read(path, intake=None, **settings):
    """Return the records of a source, and the intake that read them."""
    config = DataConfig(path=str(path), **settings)
    intake = Intake(config) if intake is None else intake
    return [record for file in input_files(config) for record in file.read(intake)], intake


def texts(path, **settings):
    return [record.fields["text"] for record in read(path, **settings)[0]]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_documents_are_files_blocks_or_lines_each_with_its_place(tmp_path):
    path = write(tmp_path / "a.txt", "\none\ntwo\r\n\n  \nthree\n")

    found = {unit: [(record.fields["text"], record.place) for record in read(path, documents=unit)[0]] for unit in ("file", "block", "line")}

    assert found == {
        "file": [("\none\ntwo\r\n\n  \nthree\n", f"{path}")],
        "block": [("one\ntwo", f"{path}:2"), ("three", f"{path}:6")],
        "line": [(text, f"{path}:{number}") for number, text in enumerate(["", "one", "two", "", "  ", "three"], start=1)],
    }


def test_a_line_ends_where_lines_end_and_nowhere_else(tmp_path):
    path = write(tmp_path / "a.txt", "one\u2028two\x0bthree\x85four\nfive")

    assert texts(path, documents="line") == ["one\u2028two\x0bthree\x85four", "five"]


@pytest.mark.parametrize(("ending", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_compressed_files_are_read_as_what_they_hold(tmp_path, ending, compress):
    write(tmp_path / f"a.jsonl.{ending}", compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))

    assert [record.fields for record in read(tmp_path)[0]] == ROWS


def test_a_compressed_file_cut_short_is_named(tmp_path):
    path = write(tmp_path / "a.txt.gz", gzip.compress(b"some text " * 500)[:-30])

    with pytest.raises(RecipeError, match=rf"{path}: compressed, but broken or cut short .*; copy it again"):
        read(path)


def test_jsonl_gives_objects_with_their_lines(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "one"}\n\n{"text": "tw\\u00f6"}\r\n')

    assert [(record.fields, record.place) for record in read(path)[0]] == [({"text": "one"}, f"{path}:1"), ({"text": "twö"}, f"{path}:3")]


@pytest.mark.parametrize(
    ("line", "problem", "reason"),
    [
        ('{"text": "one"', r"not JSON \(Expecting ',' delimiter, column 15\)", "broken JSON"),
        ("[1, 2]", "holds a JSON list, not an object", "no object"),
        ("[" * 100_000, "JSON nested too deeply", "broken JSON"),
        ('{"text": "x", "n": ' + "1" * 5000 + "}", "not JSON that Python reads", "broken JSON"),
    ],
)
def test_a_broken_line_is_refused_with_its_number_or_skipped_and_counted(tmp_path, line, problem, reason):
    path = write(tmp_path / "a.jsonl", f'{{"text": "good"}}\n{line}\n{{"text": "good too"}}\n')

    with pytest.raises(RecipeError, match=rf"{path}:2: {problem}.*, or set data.bad_records to skip"):
        read(path)
    records, intake = read(path, bad_records="skip")

    assert len(records) == 2
    assert intake.account.refused == {reason: 1}
    assert intake.account.refused_places[0].startswith(f"{path}:2: ")


def test_csv_gives_rows_with_the_lines_they_begin_at(tmp_path):
    path = write(tmp_path / "a.csv", 'text,label\n"one\nline",a\n"quotes "" and, commas",b\n\n日本語,a\n')

    records, _ = read(path)

    assert [record.fields for record in records] == ROWS
    assert [record.place for record in records] == [f"{path}:2", f"{path}:4", f"{path}:6"]


def test_numbers_in_csv_stay_the_text_they_were(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\n007,1e3\nNA,\n")

    assert [record.fields for record in read(path)[0]] == [{"text": "007", "label": "1e3"}, {"text": "NA", "label": ""}]


def test_tsv_takes_quotation_marks_as_they_are_and_names_for_its_columns(tmp_path):
    path = write(tmp_path / "a.tsv", 'ham\t"never closed\nspam\tsay "yes"\n')

    records, _ = read(path, column_names=("label", "text"))

    assert [record.fields for record in records] == [{"label": "ham", "text": '"never closed'}, {"label": "spam", "text": 'say "yes"'}]


def test_a_row_with_another_number_of_columns_is_refused_or_skipped(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\na,b\none,two,three\nc,d\n")

    with pytest.raises(RecipeError, match=rf"{path}:3: 3 values for 2 columns \(text, label\); correct that row, or set data.bad_records to skip"):
        read(path)
    records, intake = read(path, bad_records="skip")

    assert [record.fields["text"] for record in records] == ["a", "c"]
    assert intake.account.refused == {"other number of columns": 1}


def test_a_quotation_mark_that_is_never_closed_is_told_with_the_line_it_opened_in(tmp_path):
    path = write(tmp_path / "a.csv", 'text\nfine\n"never closed\nand more\n')

    with pytest.raises(RecipeError, match=rf"{path}:3: lines 3 to 4 cannot be read .*; close the quotation mark that is open"):
        read(path)


def test_a_column_that_a_table_names_twice_is_refused_but_for_those_without_a_name(tmp_path):
    with pytest.raises(RecipeError, match=r"twice.csv: the column 'text' stands there twice; name each column once"):
        read(write(tmp_path / "twice.csv", "text,label,text\nfirst,a,second\n"))
    assert texts(write(tmp_path / "sheet.csv", "text,label,,\nfirst,a,,\n")) == ["first"]


def test_a_csv_field_may_be_a_whole_book(tmp_path):
    path = write(tmp_path / "a.csv", "text\n" + "x" * 3_000_000 + "\n")

    assert len(texts(path)[0]) == 3_000_000


def test_parquet_gives_its_rows(tmp_path):
    parquet.write_table(pyarrow.Table.from_pylist([row | {"other": 1} for row in ROWS]), tmp_path / "a.parquet", row_group_size=2)

    records, _ = read(tmp_path)

    assert [record.fields for record in records] == [row | {"other": None} for row in ROWS]  # named for messages, but not read
    assert records[2].place == f"{tmp_path}/a.parquet:3"


def test_text_of_parquet_that_is_no_utf8_is_mended_and_counted_or_refused(tmp_path):
    column = pyarrow.array([b"fine", b"caf\xe9", None], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")

    records, intake = read(tmp_path / "a.parquet")

    assert [record.fields["text"] for record in records] == ["fine", "caf\ufffd", None]
    assert intake.account.replaced_characters == 1
    with pytest.raises(RecipeError, match="a.parquet:2: byte 0xe9 is no UTF-8"):
        read(tmp_path / "a.parquet", invalid_utf8="refuse")


def test_a_column_that_parquet_does_not_have_is_told_beside_those_it_has(tmp_path):
    parquet.write_table(pyarrow.table({"question": ["a"], "prompt": ["b"]}), tmp_path / "a.parquet")

    with pytest.raises(RecipeError, match=r"a.parquet:1: no column 'target' \(columns: question, prompt\)"):
        list(read_corpus(DataConfig(path=str(tmp_path / "a.parquet"), examples="pairs")))


def test_a_parquet_file_cut_short_is_named(tmp_path):
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    path = write(tmp_path / "b.parquet", (tmp_path / "a.parquet").read_bytes()[:-8])

    with pytest.raises(RecipeError, match=rf"{path}: not a whole Parquet file"):
        read(path)


def write_tfrecord(path, rows, compression=""):
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for row in rows:
            features = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()])) for key, value in row.items()}
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return path


@pytest.mark.parametrize(("name", "compression"), [("a.tfrecord", ""), ("a.tfrecord.gz", "GZIP")])
def test_tfrecord_gives_the_features_of_its_examples(tmp_path, name, compression):
    write_tfrecord(tmp_path / name, ROWS, compression)

    assert [record.fields for record in read(tmp_path)[0]] == ROWS


def test_bytes_of_columns_that_nobody_reads_are_left_alone(tmp_path):
    features = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for name, value in (("text", b"one"), ("image", b"\xff\xd8"))}
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())

    assert [record.fields for record in read(tmp_path, invalid_utf8="refuse")[0]] == [{"text": "one"}]


def test_a_tfrecord_file_cut_short_is_named_with_the_record(tmp_path):
    whole = write_tfrecord(tmp_path / "a.tfrecord", ROWS).read_bytes()
    path = write(tmp_path / "b.tfrecord", whole[:-5])

    with pytest.raises(RecipeError, match=rf"{path}: broken after record 2"):
        read(path)


def test_a_tfrecord_file_where_tensorflow_cannot_read_is_told():
    import fsspec

    fsspec.filesystem("memory").pipe("/records/a.tfrecord", b"x")

    with pytest.raises(RecipeError, match=r"memory://.*a.tfrecord: TensorFlow cannot read it .*; copy the file to a local folder"):
        read("memory://records/a.tfrecord")


@pytest.mark.parametrize("name", ["a.zip", "a.txt.zst", "a.jsonl.ZIP"])
def test_what_is_packed_in_another_way_is_refused(tmp_path, name):
    with pytest.raises(RecipeError, match=r"are not read; unpack it, or compress it as one of \.gz, \.bz2, \.xz"):
        read(write(tmp_path / name, b"x"))


def test_a_hugging_face_dataset_is_read_from_a_folder(tmp_path):
    datasets = pytest.importorskip("datasets", reason="pip install 'tfgpt[datasets]'")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "splits")
    (tmp_path / "files").mkdir()
    write(tmp_path / "files" / "train.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS))

    for name in ("saved", "splits", "files"):
        assert [dict(record.fields) for record in read(tmp_path / name, kind="hf")[0]] == ROWS
    for name in ("splits", "files"):
        with pytest.raises(RecipeError, match="data.dataset_split nothing"):
            read(tmp_path / name, kind="hf", dataset_split="nothing")


def test_a_tensorflow_dataset_is_read_from_the_folder_it_was_prepared_in(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets", reason="pip install 'tfgpt[tfds]'")
    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny", version="1.0.0", data_dir=tmp_path, split_datasets={"train": tf.data.Dataset.from_tensor_slices({"text": ["one", "zwölf"]})},
        features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
    )  # fmt: skip

    assert sorted(texts(builder.data_path, kind="tfds")) == ["one", "zwölf"]
    with pytest.raises(RecipeError, match="data.dataset_split nothing"):
        read(builder.data_path, kind="tfds", dataset_split="nothing")


def test_invalid_utf8_is_replaced_and_counted_or_refused_with_its_line(tmp_path):
    path = write(tmp_path / "a.txt", b"good \xef\xbf\xbd\nbad \xff\xfe here, and \xe6\x97\n")

    for unit in ("file", "line"):
        records, intake = read(path, documents=unit)
        assert "".join(record.fields["text"] for record in records).replace("\n", "") == "good \ufffdbad \ufffd\ufffd here, and \ufffd"
        assert (intake.account.files_with_invalid_utf8, intake.account.replaced_characters, intake.account.invalid_files) == (1, 3, [str(path)])
        with pytest.raises(RecipeError, match=rf"{path}:2: byte 0xff is no UTF-8; .* set data.invalid_utf8 to replace"):
            read(path, documents=unit, invalid_utf8="refuse")


def test_a_file_in_another_encoding_is_read_when_it_is_named(tmp_path):
    path = write(tmp_path / "a.txt", "naïve\nzwölf\n".encode("latin-1"))

    assert texts(path, documents="line", encoding="latin-1") == ["naïve", "zwölf"]
    write(path, "naïve\n日本\n".encode("utf-16"))
    assert texts(path, documents="line", encoding="utf-16") == ["naïve", "日本"]
    with pytest.raises(RecipeError, match=rf"{path}: begins as UTF-16 text does; set data.encoding to utf-16"):
        read(path)


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert texts(write(tmp_path / "a.txt", b"\xef\xbb\xbfone")) == ["one"]
    assert texts(write(tmp_path / "a.csv", b"\xef\xbb\xbftext\none\n")) == ["one"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.tsv", "a.txt.gz"])
def test_an_empty_file_is_counted(tmp_path, name):
    path = write(tmp_path / name, gzip.compress(b"") if name.endswith("gz") else b"")

    records, intake = read(path)

    assert (records, intake.account.files, intake.account.empty_files) == ([], 1, 1)


def test_a_url_is_read_through_its_file_system(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for number in range(2):
        memory.pipe(f"/corpus/{number}.txt", f"text {number}".encode())

    assert texts("memory://corpus/1.txt") == ["text 1"]
    assert texts("memory://corpus") == texts("memory://corpus/*.txt") == ["text 0", "text 1"]
    write(tmp_path / "a.txt", "local")
    assert texts(f"file://{tmp_path}/a.txt") == ["local"]
    with pytest.raises(RecipeError, match="data.path: no file memory://corpus/9.txt"):
        read("memory://corpus/9.txt")
    with pytest.raises(RecipeError, match="data.path: nonsense://x cannot be reached .*Protocol not known"):
        read("nonsense://x")


def test_a_list_of_objects_is_told_to_be_written_line_by_line(tmp_path):
    write(tmp_path / "a.json", b'[\n  {"text": "one"},\n  {"text": "two"}\n]\n')

    with pytest.raises(RecipeError, match="a.json:1: not JSON .*; a file of JSON is read line by line"):
        read(tmp_path / "a.json")
