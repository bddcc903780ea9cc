"""Corpora that every machine with Python has, makes, or gets with a package.

They are its language reference (`pydoc_data.topics`), the source of its standard library, that library's docstrings, numbers in words, and what the files
beside this one make; and, with gensim, news.
"""
from __future__ import annotations

import ast
import functools
import importlib
import itertools
import re
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from tfgpt.data.date_words import date_words
from tfgpt.data.made_commands import made_commands
from tfgpt.data.made_dialogues import made_dialogues
from tfgpt.data.made_questions import made_questions
from tfgpt.data.made_reviews import made_reviews
from tfgpt.data.made_verse import made_verse
from tfgpt.data.python_sentences import all_sentences
from tfgpt.data.summaries import function_summaries
from tfgpt.files import file_of_package
from tfgpt.recipe import RecipeError

SECTION = re.compile(r"\n(?=[^\n]{3,}\n[*=\-~]{3,}\n)")
"""Where a section of Python's reference begins: before a heading that is underlined."""


PACKAGES = ("asyncio", "email", "http", "importlib", "logging", "multiprocessing", "unittest", "urllib", "xml")
"""Of the standard library; others have few docstrings, or some systems leave them out."""


def python_reference() -> Iterator[tuple[str, str]]:
    """Yield the sections of Python's reference, each paragraph once, as (text, place).

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


NUMBERS, SMALL, STRIDE = 20_000, 1000, 611_953
"""How many numbers there are, how many of them are the first ones, and how far apart the others are: the stride has no divisor in common with a million."""


@functools.cache
def number_words() -> tuple[dict[str, str], ...]:
    """Return numbers below a million in digits, in English and in German words: all below 1,000, and others from all over, no number twice.

    Raises:
        RecipeError: num2words is not installed.

    >>> number_words()[342]["de"], len({row["digits"] for row in number_words()})
    ('dreihundertzweiundvierzig', 20000)
    """
    try:
        from num2words import num2words
    except ImportError as error:
        raise RecipeError("data.path: number-words needs the package num2words, which is not installed; pip install 'tfgpt[tasks]'") from error
    scattered = (place * STRIDE % 1_000_000 for place in range(1, 1_000_000))
    numbers = [*range(SMALL), *itertools.islice((number for number in scattered if number >= SMALL), NUMBERS - SMALL)]
    return tuple({"digits": str(number), "en": num2words(number), "de": num2words(number, lang="de")} for number in numbers)


def stdlib_files() -> list[Path]:
    """Return the source files of Python's standard library without its tests, in sorted order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    return sorted(path for path in root.rglob("*.py") if not {"site-packages", "test", "tests", "idle_test", "__pycache__"} & set(path.relative_to(root).parts))


@functools.cache
def python_sentences() -> dict[str, str]:
    """Return some 10,000 plain sentences of Python's reference, and of the docstrings and comments of its library, each with its place."""
    return all_sentences(python_reference(), stdlib_files())


def docstrings() -> Iterator[tuple[str, str, str]]:
    """Yield the docstrings of the functions and classes in `PACKAGES`, as (text, package, place): some 2,000 short texts with nine labels."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in stdlib_files():
        package = path.relative_to(root).parts[0]
        if package not in PACKAGES:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                yield text, package, f"{path}:{node.lineno}"


def library_docstrings() -> Iterator[tuple[str, str, str]]:
    """Yield every docstring of the standard library, each text once, as (text, module or package, place): some 8,000 texts, 1.7 MB."""
    root, seen = Path(sysconfig.get_paths()["stdlib"]), set()
    for path in stdlib_files():
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):                                                 # lib2to3 keeps broken sources, to be mended
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)) and text not in seen:
                seen.add(text)
                yield text, path.relative_to(root).parts[0].removesuffix(".py"), f"{path}:{getattr(node, 'lineno', 1)}"


def gensim_news() -> Path:
    """Return a file with a news article in each line: 300 of the Australian Broadcasting Corporation, which gensim ships (Lee et al. 2005).

    Raises:
        RecipeError: gensim is not installed.
    """
    path = file_of_package("gensim", "test/test_data/lee_background.cor")
    if path is None or not path.is_file():
        raise RecipeError("data.path: gensim-news needs the package gensim, which is not installed; pip install 'tfgpt[vectors]'")
    return path


BUILT_IN_RECORDS: dict[str, Callable[[], Iterator[tuple[dict[str, object], str]]]] = {
    "python-docs": lambda: (({"text": text}, place) for text, place in python_reference()),
    "python-docstrings": lambda: (({"text": text, "label": package}, place) for text, package, place in docstrings()),
    "library-docstrings": lambda: (({"text": text, "tags": module}, place) for text, module, place in library_docstrings()),
    "python-sentences": lambda: (({"text": text}, place) for text, place in python_sentences().items()),
    "number-words": lambda: ((row, f"number-words {row['digits']}") for row in number_words()),
    "numbers-and-dates": lambda: ((row, f"numbers-and-dates {row['digits']}") for row in (*number_words(), *date_words())),
    "made-questions": lambda: ((row, f"made-questions {number}") for number, row in enumerate(made_questions(), 1)),
    "python-summaries": lambda: (({"text": source, "summary": summary}, place) for source, summary, place in function_summaries(stdlib_files())),
    "made-dialogues": lambda: (({"messages": turns}, f"made-dialogues {number}") for number, turns in enumerate(made_dialogues(), 1)),
    "made-commands": lambda: ((row, f"made-commands {number}") for number, row in enumerate(made_commands(), 1)),
    "made-reviews": lambda: ((row, f"made-reviews {number}") for number, row in enumerate(made_reviews(), 1)),
    "made-verse": lambda: ((row, f"made-verse {number}") for number, row in enumerate(made_verse(), 1)),
}
"""The corpora that are no files: each yields its records, columns and place."""
