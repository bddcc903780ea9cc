"""Fetching from a store that another machine serves (`tfgpt store serve`), with a key."""
from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import quote

import httpx

from tfgpt.files import whole_folder, write_json
from tfgpt.progress import progress_bar
from tfgpt.store.cards import PULLED
from tfgpt.store.errors import DamagedError, ForbiddenError, NotFoundError, StoreError
from tfgpt.store.packages import check_path
from tfgpt.store.reference import Reference
from tfgpt.store.store import place_in_pulled

KEY_VARIABLE = "TFGPT_STORE_KEY"
"""Of the environment: a key among a command's arguments all users of a machine could see."""
SECONDS = 60.0
"""Without a byte, after which a server is given up."""
REFUSALS = {401: ForbiddenError, 403: ForbiddenError, 404: NotFoundError}


def pull(server: str, reference: Reference, target: str | Path) -> Reference:
    """Write a version's files to a folder, as `Store.pull` does: it appears when all of them are there and have the sha256 that the store tells.

    Args:
        server: its address, such as https://models.example.org.
        reference: of the version.
        target: a folder that is not there, or empty.

    Returns:
        The version by its number.

    Raises:
        StoreError: no address, no such version, or one that the key may not read; something is in the folder already; a path that would lead out of it.
        DamagedError: bytes that are not those that were published.
        RuntimeError: the server cannot be reached, or fails.
    """
    target = Path(target)
    if not server.startswith(("http://", "https://")):
        raise StoreError(f"server: {server!r} is no address; give one such as https://models.example.org")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(f"{target}: something is there already; give a folder that is not there")
    headers = {"Authorization": f"Bearer {os.environ[KEY_VARIABLE]}"} if KEY_VARIABLE in os.environ else {}
    try:
        with httpx.Client(base_url=server.rstrip("/") + "/api/v1", headers=headers, timeout=SECONDS) as client, whole_folder(target) as partial:
            return _pull(client, reference, partial)
    except (KeyError, TypeError) as error:
        raise RuntimeError(f"{server}: answers not as a store does ({error!r}); see what is served there") from error
    except httpx.HTTPError as error:
        raise RuntimeError(f"{server}: {error or type(error).__name__}; see whether the store is served there, and try again") from error


def _pull(client, reference, folder):
    found = _told(client.get("/resolve", params={"reference": str(reference)}))
    exact = Reference(found["name"], found["version"])
    place = f"/models/{exact.name}/versions/{exact.version}"
    details = _told(client.get(place))
    with progress_bar("pull", total=sum(file["size_bytes"] for file in details["files"]), unit="bytes") as advance:
        for file in details["files"]:
            check_path(file["path"])
            with client.stream("GET", f"{place}/files/{quote(file['path'])}") as answer:
                _check(answer)
                _write(answer, file, folder / place_in_pulled(file["path"], exact), advance)
    write_json(folder / PULLED, {"reference": str(exact), "content_sha256": details["content_sha256"]})
    return exact


def _write(answer, file, path, advance):
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with open(path, "xb") as written:
        for data in answer.iter_bytes():
            size += len(data)
            if size > file["size_bytes"]:
                break
            digest.update(data)
            written.write(data)
            advance(len(data))
    if digest.hexdigest() != file["sha256"] or size != file["size_bytes"]:
        raise DamagedError(f"{file['path']}: what came is not what was published, with the sha256 {file['sha256']}; pull again, and if it stays so tell who "
                           "keeps the store")


def _told(answer):
    _check(answer)
    return answer.json()


def _check(answer):
    if answer.status_code < 400:
        return
    answer.read()
    try:
        message = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        message = f"answered {answer.status_code}, and not as a store does"
    if answer.status_code >= 500 or answer.status_code == 429:
        raise RuntimeError(f"{answer.request.url.host}: {message}")
    raise REFUSALS.get(answer.status_code, StoreError)(f"{message}{f'; {KEY_VARIABLE} of the environment is the key' if answer.status_code == 401 else ''}")
