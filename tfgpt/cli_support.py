"""What the commands share: parsing in one line of error, a recipe with overrides, TensorFlow imported quietly."""
from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tfgpt.recipe import Recipe

DONE, FAILED, USAGE = 0, 1, 2


class UsageError(ValueError):
    """A command line that cannot be run; the message is the one line the user sees."""


def parser_of(name: str, description: str):
    """Return the parser of a command."""
    from jsonargparse import ArgumentParser

    return ArgumentParser(prog=f"tfgpt {name}", description=description, exit_on_error=False, allow_abbrev=False)


def parse(parser, arguments: list[str]):
    """Parse, saying what is wrong in one line.

    Raises:
        UsageError: that line.
    """
    from jsonargparse import ArgumentError

    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        message = " ".join(str(error).split())
        if missing := re.search(r"arguments are required: (.*)", message):
            message = ", ".join(_as_written(parser, name) for name in missing[1].split(", ")) + " is missing"
        elif typed := re.search(r'key "(\w+)"(?: element \d+)?: Expected an? <class \'(\w+)\'>. Got value: (.*)', message):
            message = f"--{typed[1].replace('_', '-')}: {typed[3]} is not {'a whole number' if typed[2] == 'int' else 'a number'}"
        raise UsageError(f"{parser.prog}: {message}; see {parser.prog} --help") from error


def _as_written(parser, name):
    """Return how an argument is written on the command line: --name, or the name of what is given by its place."""
    action = next((one for one in parser._actions if one.dest == name.replace("-", "_")), None)
    return f"--{name.replace('_', '-')}" if action is None or action.option_strings else str(action.metavar or name)


def recipe_and_folder(prog: str, description: str, arguments: list[str]) -> tuple[Recipe, Path] | None:
    """Return the recipe that a command is given and the folder of its run; `None` if help was asked for, which is then printed.

    Raises:
        UsageError: no recipe is given.
        RecipeError: anything the recipe may not say.
    """
    from tfgpt.recipe_file import load_recipe, recipe_parser

    if {"-h", "--help"} & set(arguments):
        recipe_parser(prog, description).print_help()
        return None
    if not arguments or arguments[0].startswith("-"):
        raise UsageError(f"{prog}: the recipe is missing; write {prog} RECIPE.yaml [--output DIR] [--key.subkey VALUE ...]")
    return load_recipe(arguments[0], arguments[1:], prog)


def import_tensorflow_quietly(lanes: int = 1) -> None:
    """Import TensorFlow and let it look for devices, without the remarks that its C++ part writes whatever the log level is.

    They are shown after all if that fails. A worker of a cluster does not look for devices yet: TensorFlow wants its cluster before that.

    Args:
        lanes: `train.lanes`, of which TensorFlow must know before it looks.
    """
    kept, is_first = os.dup(2), "tensorflow" not in sys.modules
    with tempfile.TemporaryFile() as remarks:
        os.dup2(remarks.fileno(), 2)
        gc.disable()
        try:
            with _unseen("pandas", "scipy"):  # Keras takes neither tables nor sparse matrices from these commands: half a second and 85 MB for nothing
                import tensorflow as tf
                import tf_keras  # noqa: F401

            if lanes > 1:
                from tfgpt.training.devices import set_threads

                set_threads(lanes)
            if not os.environ.get("TF_CONFIG"):
                tf.config.list_logical_devices()
            if is_first:  # what modules define is no garbage: not looked through again and again, a command begins in three quarters of the time
                gc.freeze()
        except BaseException:
            remarks.seek(0)
            os.write(kept, remarks.read())
            raise
        finally:
            gc.enable()
            os.dup2(kept, 2)
            os.close(kept)


@contextlib.contextmanager
def _unseen(*names: str) -> Iterator[None]:
    """Within it, modules that nobody has imported yet cannot be found."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
