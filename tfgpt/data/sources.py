"""Read a corpus as documents, and hold a part of them out.

The built-in corpora ship with Python: its language reference (`pydoc_data.topics`) and the source of its standard library.
"""
from __future__ import annotations

import glob
import hashlib
import importlib
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tfgpt.files import sha256_of_file, sha256_of_parts
from tfgpt.recipe import BUILT_IN_CORPORA, DataConfig, RecipeError

TEXT_ENDINGS = (".txt", ".text", ".md", ".rst", ".py")
"""Files that a folder contributes; a file named by itself, or by a glob, may have any ending."""

SECTION = re.compile(r"\n(?=[^\n]{3,}\n[*=\-~]{3,}\n)")
"""Where a section of Python's reference begins: before a heading that is underlined."""


@dataclass(frozen=True)
class Document:
    """A text and where it came from."""

    text: str
    source: str


@dataclass
class ReadCounts:
    """What became of the input; goes to stats.json."""

    files: int = 0
    documents: int = 0
    empty_documents: int = 0
    files_with_invalid_utf8: int = 0
    replaced_characters: int = 0
    invalid_files: list[str] = field(default_factory=list)


def read_documents(config: DataConfig, counts: ReadCounts | None = None) -> Iterator[Document]:
    """Yield the documents of `config.path`, those without any text counted and left out.

    Raises:
        RecipeError: no such file, no text file in the folder, bytes that are no UTF-8 where the recipe refuses them, or no text at all.
    """
    counts = ReadCounts() if counts is None else counts
    for text, source in _texts(config, counts):
        for part in _cut(text, config.documents):
            if part.strip():
                counts.documents += 1
                yield Document(part, source)
            else:
                counts.empty_documents += 1
    if counts.documents == 0:
        raise RecipeError(f"data.path: {config.path} holds no text ({counts.files} files, {counts.empty_documents} empty documents); "
                          "give a corpus with text in it")


def split_documents(config: DataConfig, counts: ReadCounts | None = None) -> Iterator[tuple[str, Document]]:
    """Yield ("train" or "validation", document) over the corpus; see `data.split` for how.

    Raises:
        RecipeError: as `read_documents`; or where one of the two parts comes out empty.
    """
    parts = _split_tail(config, counts) if _split_method(config) == "tail" else _split_hash(config, counts)
    seen = {"train": 0, "validation": 0}
    for split, document in parts:
        seen[split] += 1
        yield split, document
    for split, number in seen.items():
        if number == 0:
            raise RecipeError(f"data.validation: a share of {config.validation} leaves no document for {split} out of {sum(seen.values())}; "
                              "set data.split to tail, or data.documents to block or line, or change the share")


def held_out(text: str, share: float) -> bool:
    """Tell whether a document belongs to validation; depends on its text alone.

    >>> sum(held_out(str(n), 0.1) for n in range(10_000))
    1018
    """
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") < share * 2**64


def inputs_sha256(config: DataConfig) -> str:
    """Return one SHA-256 over all of the corpus's bytes, to know whether it has changed."""
    if config.path in BUILT_IN_CORPORA:
        return sha256_of_parts(text.encode("utf-8", "surrogatepass") for text, _ in _texts(config, ReadCounts()))
    return sha256_of_parts(sha256_of_file(path).encode() for path in find_files(config.path))


def find_files(path: str) -> list[Path]:
    """Return the files that `data.path` names, in sorted order.

    Raises:
        RecipeError: none there.
    """
    here = Path(path).expanduser()
    if here.is_dir():
        files = sorted(file for file in here.rglob("*") if file.is_file() and file.suffix.lower() in TEXT_ENDINGS)
        if not files:
            raise RecipeError(f"data.path: folder {path} has no text file ({', '.join(TEXT_ENDINGS)}); give a glob such as {path}/* for others")
        return files
    files = [here] if here.is_file() else sorted(Path(name) for name in glob.glob(str(here), recursive=True) if Path(name).is_file())
    if not files:
        raise RecipeError(f"data.path: no file {path}; give an existing file, folder or glob, or one of {', '.join(BUILT_IN_CORPORA)}")
    return files


def _texts(config, counts) -> Iterator[tuple[str, str]]:
    if config.path == "python-docs":
        yield from _python_reference()
        return
    files = _stdlib_files() if config.path == "python-stdlib" else find_files(config.path)
    for path in files:
        counts.files += 1
        yield _read_text(path, config, counts), str(path)


def _read_text(path, config, counts):
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        if config.invalid_utf8 == "refuse":
            line = content.count(b"\n", 0, error.start) + 1
            raise RecipeError(f"{path}:{line}: byte 0x{content[error.start]:02x} is no UTF-8; convert the file to UTF-8, "
                              "or set data.invalid_utf8 to replace") from error
    text = content.decode("utf-8", "replace")
    counts.files_with_invalid_utf8 += 1
    counts.replaced_characters += text.count("�") - content.count("�".encode())
    counts.invalid_files.append(str(path))
    return text


def _python_reference() -> Iterator[tuple[str, str]]:
    """Yield the sections of Python's reference, each paragraph once.

    Some topics are whole chapters, so a document is a section: a heading with the text below it. Some topics are made of other topics; the
    longest come first, and later ones keep the paragraphs not seen so far, since a text that stands in both parts would be no test of
    what was learned.
    """
    topics = importlib.import_module("pydoc_data.topics").topics
    seen = set()
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        fresh = []
        for paragraph in topics[name].split("\n\n"):
            if paragraph.strip() not in seen:
                fresh.append(paragraph)
            if len(paragraph.strip()) >= 40:  # short ones, such as headings, may recur
                seen.add(paragraph.strip())
        text = "\n\n".join(fresh)
        if len(text) >= 200:  # what is left of a repeated topic is its heading
            for section in SECTION.split(text):
                yield section, f"pydoc_data.topics[{name!r}]"


def _stdlib_files() -> list[Path]:
    root = Path(sysconfig.get_paths()["stdlib"])
    return sorted(path for path in root.rglob("*.py") if not {"site-packages", "test", "tests", "idle_test", "__pycache__"} & set(path.parts))


def _cut(text, unit) -> list[str]:
    if unit == "file":
        return [text]
    return text.splitlines() if unit == "line" else re.split(r"\n[ \t]*(?:\n[ \t]*)+", text)


def _split_method(config):
    if config.split != "auto":
        return config.split
    documents = read_documents(config)
    next(documents)
    return "tail" if next(documents, None) is None else "hash"


def _split_hash(config, counts) -> Iterator[tuple[str, Document]]:
    for document in read_documents(config, counts):
        yield "validation" if held_out(document.text, config.validation) else "train", document


def _split_tail(config, counts) -> Iterator[tuple[str, Document]]:
    total = sum(len(document.text) for document in read_documents(config))
    border = round(total * (1 - config.validation))
    done = 0
    for document in read_documents(config, counts):
        start, done = done, done + len(document.text)
        if done <= border:
            yield "train", document
        elif start >= border:
            yield "validation", document
        else:
            yield from _cut_at_line(document, border - start)


def _cut_at_line(document, at) -> Iterable[tuple[str, Document]]:
    line = document.text.rfind("\n", 0, at) + 1
    at = line if line else at  # a text of one line is cut where it falls
    head, tail = document.text[:at], document.text[at:]
    return [(split, Document(text, document.source)) for split, text in (("train", head), ("validation", tail)) if text.strip()]
