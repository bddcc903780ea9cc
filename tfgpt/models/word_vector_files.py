"""Files of word vectors: GloVe's and word2vec's text, word2vec's .bin, fastText's .vec and .bin, each also .gz; read by gensim.

The form is told from the first bytes and not from the ending. What gensim itself saves is pickled, and refused.
"""
from __future__ import annotations

import contextlib
import gzip
import shutil
import struct
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfgpt.files import file_of_package

BUILT_IN = {"gensim-glove": "test/test_data/test_glove.txt", "gensim-fasttext": "test/test_data/lee_fasttext.vec"}
"""Small vectors that gensim ships: of 76 words in 50 dimensions by GloVe; of the 1,762 words of its news corpus in 10 by fastText."""
FASTTEXT = struct.pack("<i", 793712314)
"""How a .bin of fastText begins; before its version 1 it began with the number of dimensions."""
MOST_DIMENSIONS = 10_000
HEAD = 1 << 20
"""Bytes at most that a line is looked for in."""


@dataclass(frozen=True)
class WordVectors:
    """Vectors by word."""

    rows: dict[str, int]
    """The row of each word."""
    matrix: np.ndarray
    """float32 [words, dimensions]."""


def load_word_vectors(source: str | Path) -> WordVectors:
    """Read word vectors.

    Words that fastText's .bin makes up from their parts are not asked for: a word is one that stands in the file.

    Args:
        source: file, or a name in `BUILT_IN`.

    Raises:
        FileNotFoundError: no such file.
        RuntimeError: gensim is not installed.
        ValueError: a file of another form, a pickled or a damaged one, vectors that differ in length, numbers that are none.
    """
    path, form = _known(source)
    from gensim.models import KeyedVectors
    from gensim.models.fasttext import load_facebook_vectors

    try:
        if form == "fasttext":
            with _unpacked(path) as plain:
                vectors = load_facebook_vectors(str(plain))
        else:
            vectors = KeyedVectors.load_word2vec_format(str(path), binary=form == "binary", no_header=form == "glove", unicode_errors="replace")
    # What gensim raises for damaged files of the three forms: it checks some of them with assert, and refuses some of fastText's as not implemented.
    except (ValueError, EOFError, OSError, NotImplementedError, AssertionError, struct.error, zlib.error) as error:
        raise ValueError(f"adapt.embeddings.vectors: {path} cannot be read ({' '.join(str(error).split()) or type(error).__name__}); get it again, or give "
                         "another") from error
    matrix = np.asarray(vectors.vectors[: len(vectors.index_to_key)], np.float32)  # fastText's n-grams come behind the words
    if not np.isfinite(matrix).all():
        row = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
        raise ValueError(f"adapt.embeddings.vectors: {path} has a number that is none in the vector of {vectors.index_to_key[row]!r}; get it again")
    return WordVectors(dict(vectors.key_to_index), matrix)


@contextlib.contextmanager
def _unpacked(path):
    """Give a file without gzip around it: gensim reads one past its end, since numpy takes a packed file for a plain one."""
    if path.suffix != ".gz":
        yield path
        return
    with tempfile.NamedTemporaryFile(prefix="tfgpt-vectors-") as plain, gzip.open(path) as packed:
        shutil.copyfileobj(packed, plain)
        plain.flush()
        yield plain.name


def check_word_vectors(source: str | Path) -> None:
    """Check what can be known of a file without reading it all; raises as `load_word_vectors`."""
    _known(source)


def _known(source):
    """Return the path of a file, and its form."""
    if file_of_package("gensim", "__init__.py") is None:
        raise RuntimeError("adapt.embeddings.vectors: needs the package gensim, which is not installed; pip install 'tfgpt[vectors]'")
    path = file_of_package("gensim", BUILT_IN[source]) if source in BUILT_IN else Path(source).expanduser()
    if path is None or not path.is_file():
        raise FileNotFoundError(f"adapt.embeddings.vectors: no file {source}; give a file of GloVe, word2vec or fastText, one of {', '.join(BUILT_IN)}, "
                                "or one-hot")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            start = file.read(4)
            file.seek(0)
            return path, _form(path, start, file.readline(HEAD), file.readline(HEAD))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"adapt.embeddings.vectors: {path} is no gzip file, or a damaged one ({error}); get it again") from error


def _form(path, start, first, second):
    """Return the form of a file by its first four bytes and two lines: fasttext, binary (word2vec's), text or glove."""
    if first[:1] == b"\x80" or b"cgensim" in first or first.startswith((b"ccopy_reg", b"\x93NUMPY")):
        raise ValueError(f"adapt.embeddings.vectors: {path} is what gensim or numpy saved, which may be pickled and is not loaded, since it could run any "
                         "code; write the vectors by gensim's save_word2vec_format")
    if start == FASTTEXT or (b"\0" in start and 0 < int.from_bytes(start, "little") <= MOST_DIMENSIONS):
        return "fasttext"
    if len(header := first.split()) == 2 and all(part.isdigit() for part in header):
        return "text" if _is_vector(second, int(header[1])) else "binary"
    if _is_vector(first) and (not second or _is_vector(second, len(first.rstrip().split(b" ")) - 1)):
        return "glove"
    raise ValueError(f"adapt.embeddings.vectors: {path} begins with {first[:40]!r}, and is none of GloVe's text, word2vec's text and .bin, fastText's .vec and "
                     ".bin (packed files other than .gz are to be unpacked)")


def _is_vector(line, dimensions=0):
    """Tell whether a line is a word and numbers, so many if it is said how many."""
    _, *numbers = line.rstrip().split(b" ")
    if len(numbers) < 2 or len(numbers) != (dimensions or len(numbers)):
        return False
    try:
        return bool([float(number) for number in numbers])
    except ValueError:
        return False
