"""Where the records of a corpus come from: its files, in an order that never changes, and what reads each."""
from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from fsspec.core import url_to_fs

from tfgpt.data.builtin import BUILT_IN_RECORDS, gensim_news, number_words, stdlib_files
from tfgpt.data.date_words import date_words
from tfgpt.data.intake import Intake
from tfgpt.data.readers import COMPRESSIONS, READERS, Record
from tfgpt.files import sha256_of_file, sha256_of_parts
from tfgpt.recipe import BUILT_IN_CORPORA, DataConfig, RecipeError, SourceConfig

ENDINGS = {
    ".txt": "text", ".text": "text", ".md": "text", ".rst": "text", ".py": "text",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".tfrecord": "tfrecord", ".tfrecords": "tfrecord",
}  # fmt: skip
"""Files that a folder contributes; a file named by itself, or by a glob, may have any ending, and is text if it is none of these."""

NEEDS_PACKAGE = {"number-words": number_words, "numbers-and-dates": date_words}
"""Built-in corpora that are made with a package, and what raises an error without it."""


@dataclass(frozen=True)
class InputFile:
    """A file, or another thing that is read from its beginning to its end."""

    path: str
    kind: str
    source_number: int
    source: SourceConfig

    def read(self, intake: Intake) -> Iterator[Record]:
        """Yield its records.

        Raises:
            RecipeError: what cannot be read, and is not to be skipped.
        """
        intake.account.files += 1
        if self.kind in BUILT_IN_RECORDS:
            for fields, place in BUILT_IN_RECORDS[self.kind]():
                yield Record({self.source.columns.text: fields["text"]} if set(fields) == {"text"} else fields, place)
        else:
            yield from READERS[self.kind](self.path, self.source, intake)


def input_files(config: DataConfig) -> list[InputFile]:
    """Return what a recipe's sources consist of: source by source, each in sorted order.

    Raises:
        RecipeError: a source without any file.
    """
    return [file for number, source in enumerate(config.all_sources()) for file in _files_of(source, number, _key_of(config, number))[0]]


def passed_over(config: DataConfig) -> list[str]:
    """Return the files of a recipe's folders that are not read, since their ending is not one that is wanted."""
    return [path for number, source in enumerate(config.all_sources()) for path in _files_of(source, number, _key_of(config, number))[1]]


def inputs_sha256(config: DataConfig) -> str:
    """Return one SHA-256 over all of the corpus's bytes, to know whether it has changed.

    Of what is not a local file it is that of the address, with what its file system says of its version.
    """
    parts = []
    for file in input_files(config):
        if file.kind in BUILT_IN_RECORDS:
            parts += [" ".join(map(str, fields.values())).encode("utf-8", "surrogatepass") for fields, _ in BUILT_IN_RECORDS[file.kind]()]
        elif "://" in file.path:
            system, root = url_to_fs(file.path)
            parts.append(f"{file.path} {system.ukey(root)}".encode())
        elif Path(file.path).exists():
            paths = sorted(path for path in Path(file.path).rglob("*") if path.is_file()) or [Path(file.path)]
            parts += [f"{file.kind} {sha256_of_file(path)}".encode() for path in paths]
        else:
            parts.append(f"{file.kind} {file.path}".encode())
    return sha256_of_parts(parts)


def _key_of(config, number):
    return f"data.sources[{number}].path" if config.sources else "data.path"


def _files_of(source, number, key) -> tuple[list[InputFile], list[str]]:
    """Return the files of a source that are read, and those of its folder that are not."""
    kind = source.kind if source.path not in BUILT_IN_CORPORA else source.path
    if kind == "python-stdlib":
        return [InputFile(str(path), "text", number, source) for path in stdlib_files()], []
    if kind == "gensim-news":
        return [InputFile(str(gensim_news()), "text", number, replace(source, documents="line"))], []
    if kind in NEEDS_PACKAGE:
        NEEDS_PACKAGE[kind]()  # what it lacks is told before any work
    if kind in (*BUILT_IN_RECORDS, "hf", "tfds"):
        return [InputFile(source.path, kind, number, source)], []
    if kind == "auto" and any((Path(source.path) / name).is_file() for name in ("dataset_dict.json", "state.json")):
        raise RecipeError(f"{key}: {source.path} is a dataset that Hugging Face's save_to_disk wrote; set data.kind to hf")
    paths, is_folder = _find_url(source.path, key) if "://" in source.path else _find_local(source.path)
    usable = _usable(paths, source, key) if is_folder else paths
    if not usable:
        unreachable = ", or its server does not answer" if "://" in source.path else ""
        raise RecipeError(f"{key}: no file {source.path}{unreachable}; give an existing file, folder, glob or URL, or one of {', '.join(BUILT_IN_CORPORA)}")
    files = [InputFile(path, _kind_by_ending(path) or "text" if kind == "auto" else kind, number, source) for path in usable]
    return files, sorted(set(paths) - set(usable))


def _find_local(path) -> tuple[list[str], bool]:
    here = Path(path).expanduser()
    if here.is_dir():
        return sorted(_walk(here), key=lambda name: Path(name).parts), True
    if here.is_file():
        return [str(here)], False
    return sorted(name for name in glob.glob(str(here), recursive=True) if Path(name).is_file()), False


def _walk(folder) -> Iterator[str]:
    """Yield the files below a folder, without those of hidden folders, and of runs, whose own texts would be read back."""
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and not (Path(here) / name / "stages.json").is_file()]
        yield from (str(Path(here) / name) for name in files if not name.startswith("."))


def _find_url(url, key) -> tuple[list[str], bool]:
    if "::" in url:
        raise RecipeError(f"{key}: {url} is a chain of addresses, which is not read; unpack the inner one, and give the address of a file")
    try:
        system, root = url_to_fs(url)
        if "*" in root:
            found, is_folder = system.glob(root), False
        elif url.endswith("/") or (not url.startswith("http") and system.isdir(root)):
            found, is_folder = system.find(root), True
        else:
            found, is_folder = ([root] if system.exists(root) else []), False
    except (ImportError, ValueError, OSError) as error:  # ImportError: fsspec's answer where a protocol needs another package
        raise RecipeError(f"{key}: {url} cannot be reached ({' '.join(str(error).split())}); correct it, or install what it needs") from error
    return [system.unstrip_protocol(name) for name in sorted(found)], is_folder


def _usable(paths, source, key) -> list[str]:
    """Return the files of a folder that are of the endings or the kind wanted, which must be one kind."""
    kind, folder, kinds = source.kind, source.path, {}
    for path in paths:
        found = _kind_by_ending(path)
        if source.endings:
            found = (found or "text") if _ending(path) in map(str.lower, source.endings) else None
        if found and (kind in ("auto", found) or source.endings):
            kinds.setdefault(found if kind == "auto" else kind, []).append(path)
    if len(kinds) > 1:
        examples = ", ".join(f"{name} ({PurePosixPath(files[0]).name})" for name, files in sorted(kinds.items()))
        raise RecipeError(f"{key}: folder {folder} holds files of several kinds: {examples}; set data.kind to one of them, or data.endings, or give a glob")
    if not kinds:
        wanted = source.endings or [ending for ending, of in ENDINGS.items() if kind in ("auto", of)]
        there = sorted({PurePosixPath(path).suffix or "none" for path in paths})
        raise RecipeError(f"{key}: folder {folder} has no {'' if kind == 'auto' else kind + ' '}file, with an ending {' or '.join(wanted)} (endings there: "
                          f"{', '.join(there)[:200] or 'no file'}); name others in data.endings, or give a glob such as {folder}/*")
    return next(iter(kinds.values()))


def _kind_by_ending(path) -> str | None:
    return ENDINGS.get(_ending(path))


def _ending(path) -> str:
    """Return the ending of a file's name, in lower case, without that of its compression."""
    pure = PurePosixPath(path)
    if pure.suffix.lower() in COMPRESSIONS:
        pure = pure.with_suffix("")
    return pure.suffix.lower()
