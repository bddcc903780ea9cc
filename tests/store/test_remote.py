"""Pulling from a store that is served, over a socket: the same files, and nothing of what is not as it was published."""
import contextlib
import socket

import pytest
from fastapi import FastAPI

from tests.store.web import Site
from tfgpt import cli
from tfgpt.serving.http_server import http_server
from tfgpt.store import catalog, remote
from tfgpt.store.errors import DamagedError, ForbiddenError, NotFoundError, StoreError
from tfgpt.store.reference import Reference


@pytest.fixture
def site(tmp_path, monkeypatch):
    site = Site(tmp_path, monkeypatch)
    site.publish(private=True)
    site.publish(seed=2)
    monkeypatch.setenv("TFGPT_STORE_KEY", site.program("jane", ["read"]).headers["Authorization"].removeprefix("Bearer "))
    return site


@pytest.fixture
def served(site):
    with listening_with(site.app) as address:
        yield address


@contextlib.contextmanager
def listening_with(app):
    listener = socket.create_server(("127.0.0.1", 0))
    with http_server(app, listener, 5.0):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def content_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_pulled_from_a_server_is_what_is_pulled_from_the_store(site, served, tmp_path, capsys):
    site.store.pull(Reference("tickets", 1), tmp_path / "here")
    assert cli.main(["store", "pull", "tickets:1", str(tmp_path / "there"), "--server", served]) == 0

    assert capsys.readouterr().out == "store://tickets:1\n" and content_of(tmp_path / "there") == content_of(tmp_path / "here")
    assert remote.pull(served + "/", Reference("tickets"), tmp_path / "newest") == Reference("tickets", 2)


def test_what_cannot_be_pulled(site, served, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for server, reference, target, kind, message in (
            (served, Reference("none"), "new", NotFoundError, "there is no model none"), (served, Reference("tickets"), "full", StoreError, "is there already"),
            ("ftp://x", Reference("tickets"), "new", StoreError, "no address"),
            (served + "/x", Reference("tickets"), "new", NotFoundError, "not as a store|Not Found"),
            ("http://127.0.0.1:1", Reference("tickets"), "new", RuntimeError, "see whether the store is served there")):  # fmt: skip
        with pytest.raises(kind, match=message):
            remote.pull(server, reference, tmp_path / target)
    monkeypatch.setenv("TFGPT_STORE_KEY", "wrong")
    with pytest.raises(ForbiddenError, match="TFGPT_STORE_KEY of the environment is the key"):
        remote.pull(served, Reference("tickets"), tmp_path / "new")
    monkeypatch.setenv("TFGPT_STORE_KEY", site.program("bob", ["read"]).headers["Authorization"].removeprefix("Bearer "))
    with pytest.raises(NotFoundError, match="there is no model tickets"):
        remote.pull(served, Reference("tickets"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_bytes_that_are_not_those_that_were_published_leave_nothing(site, served, tmp_path):
    weights = catalog.details_of(site.store.database, Reference("tickets", 1)).files[-1]
    stored = next((tmp_path / "store" / "artifacts").rglob(weights.sha256))
    stored.write_bytes(bytes(stored.stat().st_size))

    with pytest.raises((DamagedError, RuntimeError)):  # the server breaks off, as soon as it knows
        remote.pull(served, Reference("tickets", 1), tmp_path / "new")
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".partial-*"))


@pytest.mark.parametrize(("file", "kind"), [
    ({"path": "../evil", "sha256": "x", "size_bytes": 4}, StoreError), ({"path": "/tmp/evil", "sha256": "x", "size_bytes": 4}, StoreError),
    ({"path": "model/x.json", "sha256": "0" * 64, "size_bytes": 4}, DamagedError),
    ({"path": "model/x.json", "sha256": "0" * 64, "size_bytes": 2}, DamagedError),
    ({"path": "model/x.json"}, RuntimeError), ("x", RuntimeError)])  # fmt: skip
def test_a_server_that_means_harm_writes_nothing(tmp_path, file, kind):
    app = FastAPI()

    @app.get("/api/v1/resolve")
    def resolve(reference: str) -> dict:
        return {"name": "tickets", "version": 1}

    @app.get("/api/v1/models/tickets/versions/1")
    def describe() -> dict:
        return {"files": [file], "content_sha256": ""}

    @app.get("/api/v1/models/tickets/versions/1/files/{path:path}")
    def fetch(path: str) -> dict:
        return {}

    with listening_with(app) as address, pytest.raises(kind):
        remote.pull(address, Reference("tickets"), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
