"""The store in a run: models to start from that are published in one, and the stage that publishes the trained model."""
from __future__ import annotations

import dataclasses
from pathlib import Path

from tfgpt.files import write_json
from tfgpt.progress import console
from tfgpt.recipe import Recipe, RecipeError
from tfgpt.store.cache import cached
from tfgpt.store.catalog import resolve
from tfgpt.store.errors import StoreError
from tfgpt.store.fields import Description, check_word
from tfgpt.store.place import open_store, user_of
from tfgpt.store.reference import check_name, is_reference, parse_reference

PUBLISHED = "published.json"
"""In a run's folder: which version it was published as."""


def is_published(recipe: Recipe) -> bool:
    """Tell whether the exported model is published."""
    return bool(recipe.publish.name)


def pinned(recipe: Recipe) -> Recipe:
    """Return the recipe with every store:// that it starts from by its number, so that it stays the same when something is promoted.

    Raises:
        RecipeError: no such version, or no store.
    """
    return _with_starts(recipe, lambda store, reference, part: str(resolve(store.database, reference)))


def with_folders(recipe: Recipe) -> Recipe:
    """Return the recipe with folders in place of every store:// that it starts from; what is not here yet is pulled.

    Raises:
        RecipeError: no such version, or no store.
        RuntimeError: what is in the store is damaged, or cannot be reached.
    """
    return _with_starts(recipe, lambda store, reference, part: str(cached(store, reference, "model")[1] / part))


def check_publish(recipe: Recipe) -> None:
    """Refuse what cannot be published before the work is done.

    Raises:
        RecipeError: no store, or a field that is not allowed.
    """
    if not is_published(recipe):
        return
    given = recipe.publish
    try:
        check_name(given.name)
        check_word("owner", user_of(given.by))
        Description(**_said(given))
        open_store(given.store).close()
    except StoreError as error:
        raise RecipeError(f"publish.{error}") from error
    except FileNotFoundError as error:
        raise RecipeError(f"publish.store: {error}") from error
    if given.card and not Path(given.card).is_file():
        raise RecipeError(f"publish.card: {given.card} is not there; give a file in Markdown, or leave it out")


def publish_model(recipe: Recipe, folder: Path) -> None:
    """Publish the run's model; write published.json."""
    given, export = recipe.publish, folder / "export" / recipe.name / str(recipe.export.version)
    card = Path(given.card).read_text("utf-8") if given.card else None
    store = open_store(given.store)
    try:
        done = store.publish(folder, given.name, user_of(given.by), _said(given), export, card, given.version or None, given.stage, given.private)
    except StoreError as error:
        raise RecipeError(f"publish.{error}") from error
    finally:
        store.close()
    write_json(folder / PUBLISHED, {"reference": str(done.reference)})
    console.print(f"publish: {done.reference}" + ("" if done.is_new else ", which has the same content already"))


def _said(given):
    said = {"task": given.task, "licence": given.licence, "languages": given.languages, "tags": given.tags}
    return {key: value for key, value in said.items() if value}


def _with_starts(recipe, replaced):
    """Return the recipe with what a function makes of every store:// in model.init and tokenizer.init."""
    starts = [(section, part) for section, part in (("model", "model"), ("tokenizer", "tokenizer")) if is_reference(getattr(recipe, section).init)]
    if not starts:
        return recipe
    try:
        store = open_store(recipe.publish.store)
    except (FileNotFoundError, StoreError) as error:
        raise RecipeError(f"{starts[0][0]}.init: {error}") from error
    for section, part in starts:
        config = getattr(recipe, section)
        try:
            init = replaced(store, parse_reference(config.init), part)
        except StoreError as error:
            raise RecipeError(f"{section}.init: {error}") from error
        recipe = dataclasses.replace(recipe, **{section: dataclasses.replace(config, init=init)})
    store.close()
    return recipe
