"""Models that are uploaded: the files of a form, put into a folder as they lie in a run's, and published from there."""
from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from tfgpt.store.catalog import Published
from tfgpt.store.errors import StoreError
from tfgpt.store.packages import check_path
from tfgpt.store.web.doors import CSRF_FIELD, form_of, visit_of
from tfgpt.store.web.visit import Visit

FILES = "files"
FIELDS = ("name", "version", "stage", "task", "licence", "base_model", "languages", "tags", "card", "private")
"""Of a form, beside the files; languages and tags with white space or commas between them."""
PRIVATE = {"on": True, "true": True, "yes": True, "1": True, "off": False, "false": False, "no": False, "0": False}
"""What a form may say of that, in any case; a browser sends `on` or nothing."""
FOLDERS = ("model/", "tokenizer/", "export/")
"""Of a run, whose files are published."""
BESIDE = ("recipe.yaml", "evaluation.json", "README.md", "data/stats.json")
"""Files of a run that say what it is."""


async def publish_form(request: Request, visit: Visit, name: str | None = None) -> Published:
    """Publish what a form holds: `files`, each with its path in the run's folder as its name, and `FIELDS`.

    Args:
        request: with the form.
        visit: of who publishes.
        name: of the model; `None` = the form says it.

    Raises:
        StoreError: anything that is refused.
        ForbiddenError: the caller may not publish under that name.
        TooManyRequests: the caller publishes too often.
    """
    request.app.state.rates.count("publishes", visit.caller.name)
    form = await form_of(request)
    visit = await run_in_threadpool(visit_of, request)  # again: an upload takes long, and a key may have been revoked meanwhile
    visit.caller.require("publish")
    published = await run_in_threadpool(_publish, form, visit, name)
    if published.is_new:
        request.app.state.metrics.published.inc()
    return published


def _publish(form: FormData, visit, name):
    files = [item for item in form.getlist(FILES) if isinstance(item, UploadFile) and item.filename]
    if unknown := sorted(form.keys() - {*FIELDS, FILES, CSRF_FIELD}):
        raise StoreError(f"{unknown[0][:40]}: a form has no such field; give {FILES} and of {', '.join(FIELDS)} what is to be said")
    given = {key: value.strip() for key in FIELDS if isinstance(value := form.get(key), str)}
    if not files:
        raise StoreError(f"{FILES}: there are none; give those of a run's folder, each with its path, such as model/config.json, as its name")
    name = name or given.get("name")
    if not name:
        raise StoreError("name: there is none; give the model's")
    said = {key: given[key] for key in ("task", "licence", "base_model") if given.get(key)}
    said |= {key: tuple(given[key].replace(",", " ").split()) for key in ("languages", "tags") if given.get(key)}
    version = given.get("version") or None
    if version is not None and not (version.isascii() and version.isdecimal() and len(version) < 11):
        raise StoreError(f"version: {version[:20]!r} is no number; give the next one, or none")
    private = given.get("private", "off").lower()
    if private not in PRIVATE:
        raise StoreError(f"private: {private[:20]!r} is none of {', '.join(PRIVATE)}")
    with tempfile.TemporaryDirectory(prefix="tfgpt-upload-") as scratch:
        folder = _unpacked(files, Path(scratch))
        try:
            return visit.publish(folder, name, said, given.get("card") or None, version and int(version), given.get("stage") or "draft",
                                 PRIVATE[private])
        except (StoreError, FileNotFoundError) as error:  # of whose message the folder here is no part
            raise type(error)(str(error).replace(f"{folder}/", "").replace(str(folder), FILES)) from error


def _unpacked(files: Sequence[UploadFile], folder: Path) -> Path:
    """Write files where their names say, without the folder that all of them stand in; what no version has is left out."""
    names = [file.filename.replace("\\", "/") for file in files]
    for name in names:
        check_path(name)
    tops = {name.split("/")[0] for name in names}
    inner = len(tops) == 1 and all("/" in name for name in names) and not (tops & {"model", "tokenizer", "export"})
    for name, file in zip(names, files):
        name = name.split("/", 1)[1] if inner else name
        if "/" in name and not name.startswith(FOLDERS) and name not in BESIDE:
            continue
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "xb") as written:
                shutil.copyfileobj(file.file, written)
        except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
            raise StoreError(f"{FILES}: {name} stands there twice, or as a file and a folder; give each once") from error
    return folder
