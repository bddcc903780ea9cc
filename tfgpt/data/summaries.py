"""Functions and what they do: the source of the standard library's functions without their docstrings, and the first sentence of each docstring."""
from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

FEWEST_WORDS = 3
"""Of a sentence that says something."""
SIGNATURE = re.compile(r"\S*\(.*\)\s*(->|:|$)|>>>")
"""Begins docstrings that show how a function is called, and do not say what it does."""
SENTENCE = re.compile(r".+?[.!?](?=\s|$)")


def function_summaries(files: list[Path]) -> Iterator[tuple[str, str, str]]:
    """Yield functions as (source without its docstring, first sentence of that, place), each pair once.

    Args:
        files: of Python.
    """
    seen = set()
    for path in files:
        lines = (text := path.read_text("utf-8")).splitlines(keepends=True)
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or len(node.body) < 2 or not (summary := first_sentence(ast.get_docstring(node))):
                continue
            said = node.body[0]                                                          # the docstring, on lines of its own or it is left there
            source = textwrap.dedent("".join([*lines[node.lineno - 1 : said.lineno - 1], *lines[said.end_lineno : node.end_lineno]])).strip()
            if said.lineno > node.lineno and node.body[1].lineno > said.end_lineno and (source, summary) not in seen:
                seen.add((source, summary))
                yield source, summary, f"{path}:{node.lineno}"


def first_sentence(docstring: str | None) -> str:
    """Return the sentence that a docstring begins with in one line, empty where it has none.

    >>> first_sentence("Return the name.  It is\\n    never empty.")
    'Return the name.'
    >>> first_sentence("split(text) -> words")
    ''
    """
    paragraph = " ".join((docstring or "").strip().split("\n\n")[0].split())
    match = SENTENCE.match(paragraph)
    sentence = match[0] if match else paragraph
    return "" if SIGNATURE.match(sentence) or len(sentence.split()) < FEWEST_WORDS else sentence
