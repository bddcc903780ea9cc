"""Read a recipe file with overrides from the command line, and write the resolved one.

jsonargparse turns YAML into the dataclasses of `recipe.py`; what it refuses is said again here in one line that names key, value and remedy.
"""
from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
import typing
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from tfgpt.recipe import Recipe, RecipeError

KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
VERSIONS_OF = ("tfgpt", "tensorflow", "tf-keras", "transformers", "tokenizers", "numpy")


@functools.cache  # to make one takes a quarter of a second
def recipe_parser(prog: str, description: str = "Run a recipe: from a corpus to an exported model.") -> ArgumentParser:
    """Return the parser of a command that takes a recipe file, `--output`, and every key of a recipe as an option."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)  # the texts below the fields become the help
    parser = ArgumentParser(prog=prog, exit_on_error=False, allow_abbrev=False, description=description,
                            usage=f"{prog} RECIPE.yaml [--output DIR] [--key.subkey VALUE ...]")
    parser.add_argument("--recipe", action="config", metavar="RECIPE.yaml", help="The recipe; its place is first, without --recipe.")
    parser.add_argument("--output", type=str, default=None, metavar="DIR", help="The run's folder; runs/NAME when not given.")
    parser.add_class_arguments(Recipe, None)
    return parser


def load_recipe(path: str | Path, overrides: list[str] = (), prog: str = "tfgpt run") -> tuple[Recipe, Path]:
    """Return the recipe of a file with overrides such as `["--train.steps", "100"]`, and the folder of its run.

    Raises:
        FileNotFoundError: no such file.
        RecipeError: anything the recipe may not say.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such recipe; give the path of a YAML file, such as pipelines/quickstart.yaml")
    _check_keys(_read_yaml(path), Recipe, "")
    try:
        parser = recipe_parser(prog)
        parsed = parser.instantiate(parser.parse_args(["--recipe", str(path), *overrides]))
    except ArgumentError as error:
        raise RecipeError(_explain(str(error))) from error
    recipe = Recipe(**{field.name: parsed[field.name] for field in dataclasses.fields(Recipe)})
    return recipe, Path(parsed.output or f"runs/{recipe.name}")


def resolved_yaml(recipe: Recipe) -> str:
    """Return a recipe with every default, and the versions it runs under as comments; itself a recipe again."""
    versions = "".join(f"# {name} {metadata.version(name)}\n" for name in VERSIONS_OF)
    plain = json.loads(json.dumps(dataclasses.asdict(recipe)))  # YAML has no tuples
    return f"# The resolved recipe of this run, which ran under\n{versions}" + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


class _OneKeyLoader(yaml.SafeLoader):
    """YAML in which a key may stand once; the library lets the last one win in silence."""

    def construct_mapping(self, node, deep=False):
        """Return a mapping as a dict."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read_yaml(path):
    try:
        content = yaml.load(Path(path).read_text("utf-8"), _OneKeyLoader)
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: byte {error.start} is no UTF-8; save the recipe as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}" if mark else ""
        raise RecipeError(f"{path}{place}: not YAML ({getattr(error, 'problem', None) or 'cannot be read'}); correct that line") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: holds {_shown(content)}, not keys and values; a recipe begins with a line such as 'name: my-model'")
    return content


def _check_keys(content: dict, section: type, prefix: str) -> None:
    """Refuse keys that a section does not have, and values where a section should be."""
    sections, lists = dict(_sections(section)), dict(_lists(section))
    allowed = [field.name for field in dataclasses.fields(section)]
    for key, value in content.items():
        if key not in allowed:
            close = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else "remove it."
            raise RecipeError(f"{prefix}{key}: no such key ({_shown(value)}); {hint} Allowed here: {', '.join(allowed)}")
        if key in sections:
            if not isinstance(value, dict):
                raise RecipeError(f"{prefix}{key}: {_shown(value)} is not a section; write its keys below it, such as "
                                  f"{prefix}{key}.{dataclasses.fields(sections[key])[0].name}")
            _check_keys(value, sections[key], f"{prefix}{key}.")
        for number, item in enumerate(value if key in lists and isinstance(value, list) else ()):
            if not isinstance(item, dict):
                first = dataclasses.fields(lists[key])[0].name
                raise RecipeError(f"{prefix}{key}[{number}]: {_shown(item)} is not a section; write its keys below it, such as {first}")
            _check_keys(item, lists[key], f"{prefix}{key}[{number}].")


def _sections(section: type) -> Iterator[tuple[str, type]]:
    """Yield name and dataclass of the sections below a section."""
    for name, kind in typing.get_type_hints(section).items():
        if dataclasses.is_dataclass(kind):
            yield name, kind


def _lists(section: type) -> Iterator[tuple[str, type]]:
    """Yield name and item's dataclass of the keys of a section that hold lists of sections."""
    for name, kind in typing.get_type_hints(section).items():
        item = (*typing.get_args(kind), None)[0]
        if dataclasses.is_dataclass(item):
            yield name, item


def _types(section: type = Recipe, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Yield every key of a recipe, in full, with its type."""
    sections = dict(_sections(section))
    for name, kind in typing.get_type_hints(section).items():
        if name in sections:
            yield from _types(sections[name], f"{prefix}{name}.")
        else:
            yield prefix + name, kind


def _explain(message: str) -> str:
    """Put a complaint of jsonargparse into one line with key, value and what is allowed."""
    types = dict(_types())
    typed = re.search(r'[Pp]arser key "([^"]+)"', message)
    if typed and typed[1] in types:
        value = re.search(r"(?:[Gg]ot value|value): (.*)", message)
        return f"{typed[1]}: {value[1].strip() if value else 'its value'} is not {_kind_name(types[typed[1]])}; correct it"
    unknown = re.search(r"unrecognized arguments: --([^\s=]+)[\s=]?(.*)", message)
    if unknown:
        close = difflib.get_close_matches(unknown[1], types, n=1)
        hint = f"did you mean --{close[0]}?" if close else "see --help for all keys"
        return f"--{unknown[1]}: no such key ({unknown[2] or 'without a value'}); {hint}"
    return " ".join(message.split())


def _kind_name(kind):
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        if dataclasses.is_dataclass(item):
            return "a list of sections, [{key: value, ...}, ...], with no other keys than " + ", ".join(field.name for field in dataclasses.fields(item))
        return "a list of whole numbers" if item is int else "a list of texts"
    return KINDS.get(kind, str(kind))


def _shown(value):
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
