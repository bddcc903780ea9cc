"""Models to and from a Hugging Face hub: a repository's safetensors, tokenizer and card.

A hub's files lie in one folder, a version's in model/ and tokenizer/; nothing that may hold a pickle is downloaded.
Which hub it is and who asks, huggingface_hub knows: by HF_ENDPOINT, and `hf auth login` or HF_TOKEN.
"""
from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from tfgpt.store.errors import StoreError
from tfgpt.store.packages import LOOSE, MODEL_FILES, TOKENIZER_FILES
from tfgpt.store.reference import Reference
from tfgpt.store.store import Published, Store

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
WANTED = ("*.safetensors", *MODEL_FILES, *TOKENIZER_FILES, "README.md", *LOOSE)


def check_repository(repository: str) -> None:
    """Refuse what cannot name a repository of a hub.

    Raises:
        StoreError: anything but OWNER/NAME, or NAME.
    """
    if not REPOSITORY.fullmatch(repository) or ".." in repository or "--" in repository:
        raise StoreError(f"repository: {repository!r} names none of a hub; give OWNER/NAME, such as openai-community/gpt2")


def import_model(store: Store, repository: str, name: str, actor: str, said: dict | None = None, revision: str | None = None,
                 card: str | None = None) -> Published:
    """Publish what a repository of a hub holds.

    Args:
        store: where to.
        repository: OWNER/NAME.
        name: of the model here.
        actor: who publishes.
        said: fields that count before those of the repository's card.
        revision: a branch, tag or commit; `None` = the newest of main.
        card: Markdown in place of the repository's card, such as where that has HTML; `None` = the repository's.

    Raises:
        StoreError: no such repository, no safetensors in it, or anything that a publish refuses.
        RuntimeError: the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
    from requests import RequestException

    check_repository(repository)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "repository"
        try:
            snapshot_download(repository, revision=revision, allow_patterns=list(WANTED), ignore_patterns=["*/*"], local_dir=folder)
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise StoreError(f"repository: the hub has no {repository}" + (f" of {revision}" if revision else "") + ", or you may not read it") from error
        except (HfHubHTTPError, LocalEntryNotFoundError, RequestException) as error:
            raise RuntimeError(f"{repository} cannot be had from the hub: {' '.join(str(error).split())[:300]}") from error
        return store.publish(folder, name, actor, {"base_model": repository} | (said or {}), None, card)


def export_model(store: Store, reference: Reference, repository: str, private: bool = True) -> str:
    """Put a version's weights, tokenizer, card, recipe and figures into a repository of a hub, which is made if there is none; return the commit's address.

    Args:
        store: where from.
        reference: of the version.
        repository: OWNER/NAME.
        private: whether a new repository is.

    Raises:
        StoreError: no such version, or one without weights.
        DamagedError: bytes that are not those that were published.
        RuntimeError: the hub refuses it, or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
    from requests import RequestException

    check_repository(repository)
    with tempfile.TemporaryDirectory() as scratch:
        pulled, flat = Path(scratch) / "pulled", Path(scratch) / "flat"
        exact = store.pull(reference, pulled, lambda path: not path.startswith("export/"))
        if not (pulled / "model").is_dir():
            raise StoreError(f"{exact}: was published without weights; there is nothing for a hub")
        flat.mkdir()
        for folder in (pulled / "model", pulled / "tokenizer", pulled):
            for path in sorted(folder.glob("*")):
                if path.is_file() and path.name != "pulled.json":
                    shutil.copy(path, flat / path.name)
        api = HfApi()
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            done = api.upload_folder(repo_id=repository, folder_path=flat, commit_message=f"{exact} of a tfgpt store")
        except (HfHubHTTPError, LocalTokenNotFoundError, RequestException) as error:
            raise RuntimeError(f"{repository} cannot be written on the hub: {' '.join(str(error).split())[:300]}") from error
    return str(done.commit_url)
