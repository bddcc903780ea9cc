"""Sentences of plain English that every Python ships: of its language reference, and of the docstrings and comments of its library.

A text is cut at blank lines and at the ends of sentences. What holds code, names, numbers or lists is left out, and so is what is said twice.
"""
from __future__ import annotations

import ast
import io
import re
import sysconfig
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

END = re.compile(r"(?<=[a-z)][.!?])\s+(?=[A-Z])")
PLAIN = re.compile(r"[A-Z][A-Za-z]*(?:[,;:]? (?:\()?[A-Za-z]+(?:['-][A-Za-z]+)*(?:\))?){4,}[.!?]")
"""Of words alone, five or more, with a capital and a stop."""
LONGEST = 300
"""Characters of a sentence."""
NAME = re.compile(r"[a-z][A-Z]|[A-Z]{2}[a-z]")
"""Of a name that a program gave."""


def all_sentences(texts: Iterable[tuple[str, str]], files: Iterable[Path]) -> dict[str, str]:
    """Return the sentences of texts, and of the docstrings and comments of source files, each once, with the place that each comes from.

    Args:
        texts: (text, place) each.
        files: of Python's library.
    """
    found, root = {}, Path(sysconfig.get_paths()["stdlib"])
    for text, place in texts:
        for sentence in sentences_of(text):
            found.setdefault(sentence, place)
    for path in files:
        source = path.read_text("utf-8")
        for text in (*_docstrings(source), *_comments(source)):
            for sentence in sentences_of(text):
                found.setdefault(sentence, str(path.relative_to(root)))
    return found


def sentences_of(text: str) -> Iterator[str]:
    """Yield the plain sentences of a text whose paragraphs blank lines are between.

    >>> list(sentences_of("Return the name of it\\n  as it is. Call f(x) then. See there.\\n\\nNothing else is ever done here."))
    ['Return the name of it as it is.', 'Nothing else is ever done here.']
    """
    for paragraph in re.split(r"\n\s*\n", text):
        for sentence in END.split(" ".join(paragraph.split())):
            if len(sentence) <= LONGEST and PLAIN.fullmatch(sentence) and not NAME.search(sentence):
                yield sentence


def _docstrings(source):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in the library's own strings
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
            yield text


def _comments(source):
    """Yield the comments that stand alone on their lines, those of lines that follow on each other together."""
    lines, last = [], -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#"):
            if token.start[0] != last + 1 and lines:
                yield "\n".join(lines)
                lines = []
            lines.append(token.string.lstrip("#").strip())
            last = token.start[0]
    if lines:
        yield "\n".join(lines)
