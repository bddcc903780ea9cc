"""One reader for each kind of file: it yields the records of a file, each with its place, and never holds more of it than it must."""
from __future__ import annotations

import contextlib
import csv
import io
import json
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import fsspec

from tfgpt.data.intake import Intake
from tfgpt.recipe import RecipeError, SourceConfig
from tfgpt.text.encode import LONGEST_WORD, border_after

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz"}
PACKED = (".zst", ".zip", ".7z", ".rar", ".tar", ".tgz")
ROWS_AT_ONCE = 1024
SECTION = 1_000_000
"""Characters of a section, in which a file that is one document is read, so that a file of any size takes the memory of two or three."""
END_OF_LINE = re.compile(r"(?<=[A-Za-z0-9.,;:!?)])(?=\n)")
"""Where a section best ends: no token lies across it, and nothing that is written in one line, such as a telephone number."""
LONGEST_LINE = 20_000
"""Characters in which such a place is looked for."""

csv.field_size_limit(2**31 - 1)  # a field may be a whole book; the library's limit of 128 kB is for spreadsheets


class Record(NamedTuple):
    """A record as it was read."""

    fields: Mapping[str, object]
    """Values by column; a text file has one column, which is the one that `columns.text` names."""
    place: str
    """File and line, or file and row."""
    continues: bool = False
    """Whether it goes on with the document of the record before it; of a file that is one document only."""


def read_text(path: str, source: SourceConfig, intake: Intake) -> Iterator[Record]:
    """Yield the documents of a text file: the file, in sections, or its blocks between blank lines, or its lines."""
    with _open_text(path, source, intake) as file:
        if file is None:
            return
        if source.documents == "file":
            for number, (line, text) in enumerate(sections(file)):
                yield _text_record(text, f"{path}:{line}" if number else path, source, intake)._replace(continues=number > 0)
        elif source.documents == "line":
            for number, line in enumerate(file, start=1):
                yield _text_record(line.rstrip("\r\n"), f"{path}:{number}", source, intake)
        else:
            for number, block in _blocks(file):
                yield _text_record(block.rstrip("\r\n"), f"{path}:{number}", source, intake)


def read_jsonl(path: str, source: SourceConfig, intake: Intake) -> Iterator[Record]:
    """Yield the objects of a file that holds one JSON object a line; blank lines between them are passed over."""
    with _open_text(path, source, intake) as file:
        for number, line in enumerate(file or (), start=1):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                value = json.loads(intake.mend(line.rstrip(), place, source.encoding))
            except json.JSONDecodeError as error:
                whole = number == 1 and line.lstrip()[:1] in ("[", "{") and error.pos >= len(line.rstrip())  # goes on in the next line
                remedy = "a file of JSON is read line by line: write each object in one line, without a list around them" if whole else "correct that line"
                intake.refuse("broken JSON", place, f"not JSON ({error.msg}, column {error.colno})", remedy)
            except ValueError as error:  # a number of more digits than Python reads; RecipeError is none of ours to catch
                if isinstance(error, RecipeError):
                    raise
                intake.refuse("broken JSON", place, f"not JSON that Python reads ({_one_line(error)})", "correct that line")
            except RecursionError:
                intake.refuse("broken JSON", place, "JSON nested too deeply to be read", "correct that line")
            else:
                if isinstance(value, dict):
                    yield Record(value, place)
                else:
                    intake.refuse("no object", place, f"holds a JSON {type(value).__name__}, not an object", "write one object a line")


def read_csv(path: str, source: SourceConfig, intake: Intake) -> Iterator[Record]:
    """Yield the rows of a CSV file; every value is text."""
    yield from _read_table(path, source, intake, delimiter=",", strict=True)


def read_tsv(path: str, source: SourceConfig, intake: Intake) -> Iterator[Record]:
    """Yield the rows of a file of tab-separated values, in which quotation marks are characters like any other."""
    yield from _read_table(path, source, intake, delimiter="\t", quoting=csv.QUOTE_NONE)


def read_parquet(path: str, source: SourceConfig, intake: Intake) -> Iterator[Record]:
    """Yield the rows of a Parquet file."""
    from pyarrow import ArrowException, parquet

    with fsspec.open(path, "rb") as file:
        try:
            table = parquet.ParquetFile(file)
            names = table.schema_arrow.names
            wanted = [name for name in names if name in vars(source.columns).values()]
            start = 1
            for batch in table.iter_batches(ROWS_AT_ONCE, columns=wanted or None):
                for number, row in enumerate(_rows(batch), start):
                    place = f"{path}:{number}"
                    values = {name: _decoded(value, place, intake) for name, value in row.items()}
                    yield Record(dict.fromkeys(names) | values, place)  # all names, so that an error can list them
                start += len(batch)
        except (ArrowException, OSError) as error:
            raise RecipeError(f"{path}: not a whole Parquet file ({_one_line(error)}); write it again") from error


def read_tfrecord(path: str, source: SourceConfig, intake: Intake) -> Iterator[Record]:
    """Yield the features of the tf.train.Example records of a TFRecord file; a feature of several values is a list."""
    import tensorflow as tf

    dataset = tf.data.TFRecordDataset(path, compression_type="GZIP" if path.endswith(".gz") else "")
    number = 0
    try:
        for number, raw in enumerate(dataset.as_numpy_iterator(), start=1):
            place = f"{path}:{number}"
            try:
                example = tf.train.Example.FromString(raw)
            except ValueError:  # protobuf's DecodeError is one
                intake.refuse("no tf.train.Example", place, "this record is no tf.train.Example", "write it as one")
                continue
            features = example.features.feature
            used = {name: _feature(features[name], place, intake) for name in sorted(features) if name in vars(source.columns).values()}
            yield Record(used, place)
    except tf.errors.DataLossError as error:
        raise RecipeError(f"{path}: broken after record {number} ({_one_line(error.message)}); copy or write the file again") from error
    except tf.errors.OpError as error:  # such as a file system that TensorFlow does not know
        raise RecipeError(f"{path}: TensorFlow cannot read it ({_one_line(error.message)}); copy the file to a local folder") from error


def read_hf(path: str, source: SourceConfig, intake: Intake) -> Iterator[Record]:
    """Yield the rows of a Hugging Face dataset, streamed; from a name of the hub, a folder of `save_to_disk`, or a folder of data files."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise _missing("hf", "datasets", "datasets") from error
    try:
        rows = _open_hf(datasets, path, source)
        for number, row in enumerate(rows, start=1):
            yield Record(row, f"{path}:{number}")
    except (datasets.exceptions.DatasetsError, KeyError, ValueError, OSError) as error:  # KeyError: no such split
        raise RecipeError(f"data.path: {path} cannot be read as a Hugging Face dataset with data.dataset_split {source.dataset_split} and "
                          f"data.dataset_config {source.dataset_config or 'not given'} ({_one_line(error)}); correct one of them") from error


def read_tfds(path: str, source: SourceConfig, intake: Intake) -> Iterator[Record]:
    """Yield the rows of a TensorFlow dataset; from a name, or the folder of a prepared version."""
    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        raise _missing("tfds", "tensorflow-datasets", "tfds") from error
    try:
        builder = tfds.builder_from_directory(path) if "/" in path else tfds.builder(path)
        rows = tfds.as_numpy(builder.as_dataset(split=source.dataset_split))
        for number, row in enumerate(rows, start=1):
            place = f"{path}:{number}"
            yield Record({key: _decoded(value, place, intake) for key, value in row.items() if key in vars(source.columns).values()}, place)
    except RecipeError:
        raise
    except (tfds.core.DatasetNotFoundError, AssertionError, ValueError, OSError) as error:  # AssertionError: not prepared yet
        raise RecipeError(f"data.path: {path} cannot be read as a TensorFlow dataset with data.dataset_split {source.dataset_split} "
                          f"({_one_line(error)}); give the name or the version's folder of a prepared dataset") from error


READERS = {
    "text": read_text,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
    "tfrecord": read_tfrecord,
    "hf": read_hf,
    "tfds": read_tfds,
}


@contextlib.contextmanager
def _open_text(path, source, intake) -> Iterator[io.TextIOBase | None]:
    """Open a file for reading text, decompressed; give `None` for an empty one. What is wrong with the file as such is told by its name."""
    ending = PurePosixPath(path).suffix.lower()
    if ending in PACKED:
        raise RecipeError(f"{path}: files packed as {ending} are not read; unpack it, or compress it as one of {', '.join(COMPRESSIONS)}")
    utf8 = source.encoding.lower().replace("_", "-") in ("utf-8", "utf8")
    try:
        with fsspec.open(path, "rb", compression=COMPRESSIONS.get(ending)) as raw:
            buffered = io.BufferedReader(raw) if not hasattr(raw, "peek") else raw
            start = buffered.peek(2)[:2]
            if not start:
                intake.account.empty_files += 1
                yield None
            elif utf8 and start in UTF16_MARKS:
                intake.refuse("other encoding", path, "begins as UTF-16 text does", "set data.encoding to utf-16")
                yield None
            else:
                yield io.TextIOWrapper(buffered, "utf-8-sig" if utf8 else source.encoding, errors="surrogateescape", newline="")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is no {source.encoding} ({error.reason}); set data.encoding to what it is") from error
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise RecipeError(f"{path}: compressed, but broken or cut short ({_one_line(error)}); copy it again") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise RecipeError(f"data.path: {path} cannot be read ({error.strerror or _one_line(error)}); give a file that can") from error
        raise RecipeError(f"{path}: cannot be read ({_one_line(error)}); copy it again") from error


def _text_record(text, place, source, intake):
    return Record({source.columns.text: intake.mend(text, place, source.encoding)}, place)


def sections(file: io.TextIOBase) -> Iterator[tuple[int, str]]:
    """Yield a text in sections, each with the number of its first line, and none blank unless the text is; cut where no token is."""
    text, line, more = "", 1, True
    while more:
        more = file.read(SECTION)
        text += more
        while len(text) >= 2 * SECTION + LONGEST_WORD and not text[:SECTION].isspace():
            end_of_line = END_OF_LINE.search(text, SECTION, SECTION + LONGEST_LINE)
            end = end_of_line.start() if end_of_line else border_after(text, SECTION)
            yield line, text[:end]
            line += text.count("\n", 0, end)
            text = text[end:]
    yield line, text


def _blocks(file) -> Iterator[tuple[int, str]]:
    """Yield the runs of lines that are not blank, each with the number of its first line."""
    lines, first = [], 1
    for number, line in enumerate(file, start=1):
        if line.strip():
            first = first if lines else number
            lines.append(line)
        elif lines:
            yield first, "".join(lines)
            lines = []
    if lines:
        yield first, "".join(lines)


def _read_table(path, source, intake, **dialect) -> Iterator[Record]:
    with _open_text(path, source, intake) as file:
        if file is None:
            return
        rows = csv.reader(file, **dialect)
        names = list(source.column_names) or _next_row(rows, path, intake)[0]
        if twice := sorted(name for name, count in Counter(names or ()).items() if name and count > 1):
            raise RecipeError(f"{path}: the column {twice[0]!r} stands there twice; name each column once, in its first row or in data.column_names")
        while True:
            row, first_line = _next_row(rows, path, intake)
            if row is None:
                return
            place = f"{path}:{first_line}"
            if len(row) == len(names):
                yield Record({name: intake.mend(value, place, source.encoding) for name, value in zip(names, row)}, place)
            elif row:  # else a blank line
                intake.refuse("other number of columns", place, f"{len(row)} values for {len(names)} columns ({', '.join(names)[:80]})",
                              "correct that row")


def _next_row(rows, path, intake) -> tuple[list[str] | None, int]:
    """Return the next row and the number of its first line; `None` at the end."""
    while True:
        first_line = rows.line_num + 1
        try:
            return next(rows), first_line
        except StopIteration:
            return None, first_line
        except csv.Error as error:
            lines = f"lines {first_line} to {rows.line_num}" if rows.line_num > first_line else "this line"
            intake.refuse("broken CSV", f"{path}:{first_line}", f"{lines} cannot be read ({error})", "close the quotation mark that is open")


def _feature(feature, place, intake):
    values = list(getattr(feature, feature.WhichOneof("kind")).value) if feature.WhichOneof("kind") else []
    values = [_decoded(value, place, intake) for value in values]
    return values[0] if len(values) == 1 else values


def _decoded(value, place, intake):
    """Return bytes as text, anything else as it is."""
    return intake.mend(value.decode("utf-8", "surrogateescape"), place) if isinstance(value, bytes) else value


def _open_hf(datasets, path, source):
    if (Path(path) / "dataset_dict.json").is_file():
        return datasets.load_from_disk(path)[source.dataset_split]
    if (Path(path) / "state.json").is_file():
        return datasets.load_from_disk(path)
    return datasets.load_dataset(path, source.dataset_config or None, split=source.dataset_split, streaming=True)


def _rows(batch) -> list[dict]:
    """Return the rows of an Arrow batch; texts as bytes where one of them is no UTF-8, which Parquet does not check."""
    import pyarrow as pa

    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        columns = [column.cast(pa.binary()) if pa.types.is_string(column.type) or pa.types.is_large_string(column.type) else column
                   for column in batch.columns]
        return pa.RecordBatch.from_arrays(columns, names=batch.schema.names).to_pylist()


def _missing(kind, package, extra):
    return RecipeError(f"data.kind: {kind} needs the package {package}, which is not installed; pip install 'tfgpt[{extra}]'")


def _one_line(error):
    return " ".join(re.sub(r"{{function_node [^}]*}}|\[Op:\w*\]", "", str(error)).split())[:200]
