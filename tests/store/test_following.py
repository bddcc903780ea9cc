import logging

import pytest

from tests.store.made import make_run
from tfgpt.serving.manifest import verify_manifest
from tfgpt.store import lifecycle
from tfgpt.store.cache import cached, exported
from tfgpt.store.errors import DamagedError, StoreError
from tfgpt.store.following import Follower, following
from tfgpt.store.reference import Reference, parse_reference
from tfgpt.store.store import Store


@pytest.fixture
def store(tmp_path):
    """A store with three versions, of which the second is in production."""
    store = Store.create(tmp_path / "store")
    for number in (1, 2, 3):
        export = make_run(tmp_path / f"run{number}", seed=number)
        store.publish(tmp_path / f"run{number}", "tickets", "jane", export=export, stage="production" if number == 2 else "draft")
    yield store
    store.close()


def weights(folder):
    return (folder / "variables" / "variables.data-00000-of-00001").read_bytes()


def test_a_base_path_follows_promotions_and_roll_backs(store, tmp_path):
    follower = Follower(store, parse_reference("store://tickets@production"), tmp_path / "base")
    seen = []
    for change in (lambda: None, lambda: lifecycle.promote(store.database, Reference("tickets", 3), "jane"),
                   lambda: lifecycle.promote(store.database, Reference("tickets", 1), "jane"), lambda: lifecycle.roll_back(store.database, "tickets", "jane")):
        change()
        follower.look()
        [version] = (tmp_path / "base").iterdir()
        verify_manifest(version)
        seen.append((version.name, weights(version)))

    expected = [("2", tmp_path / "run2"), ("3", tmp_path / "run3"), ("1", tmp_path / "run1"), ("3", tmp_path / "run3")]
    assert seen == [(name, weights(run / "export" / "tickets" / "1")) for name, run in expected]


def test_a_look_that_changes_nothing_reads_no_files(store, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("tfgpt.store.following.cached", lambda *arguments: asked.append(arguments) or cached(*arguments))
    follower = Follower(store, Reference("tickets", stage="production"), tmp_path / "base")

    for _ in range(3):
        follower.look()

    assert len(asked) == 1


def test_a_reference_with_a_number_stays_where_it_is(store, tmp_path):
    follower = Follower(store, Reference("tickets", 1), tmp_path / "base")
    follower.look()
    lifecycle.promote(store.database, Reference("tickets", 3), "jane")
    follower.look()

    assert follower.is_fixed and [path.name for path in (tmp_path / "base").iterdir()] == ["1"]


def test_what_cannot_be_pulled_is_told_once_and_what_is_there_stays(store, tmp_path, caplog):
    follower = Follower(store, Reference("tickets", stage="production"), tmp_path / "base")
    follower.look()
    blob = next(path for path in (store.folder / "artifacts" / "blobs").rglob("*") if path.is_file()
                and path.read_bytes() == weights(tmp_path / "run3" / "export" / "tickets" / "1"))
    blob.write_bytes(b"x" * 500)
    lifecycle.promote(store.database, Reference("tickets", 3), "jane")

    with caplog.at_level(logging.ERROR):
        follower.try_to_look()
        follower.try_to_look()

    assert [path.name for path in (tmp_path / "base").iterdir()] == ["2"] and len(caplog.records) == 1
    assert f"what is served stays: {store.artifacts.place}: {blob.name} is changed" in caplog.text


def test_the_thread_looks_again_and_again(store, tmp_path):
    import time

    follower = Follower(store, Reference("tickets", stage="production"), tmp_path / "base")
    follower.look()
    with following([follower], 0.01):
        lifecycle.promote(store.database, Reference("tickets", 3), "jane")
        limit = time.monotonic() + 20
        while [path.name for path in (tmp_path / "base").iterdir()] != ["3"]:
            assert time.monotonic() < limit


def test_the_cache_pulls_once_and_again_what_was_changed(store, tmp_path, caplog):
    exact, folder = cached(store, Reference("tickets"), "model")
    (folder / "model" / "model.safetensors").write_bytes(b"changed by somebody")

    with caplog.at_level(logging.WARNING):
        again = cached(store, Reference("tickets"), "model")
        third = cached(store, Reference("tickets"), "model")

    assert again == third == (exact, folder) and exact == Reference("tickets", 2)
    assert (folder / "model" / "model.safetensors").read_bytes() == (tmp_path / "run2" / "model" / "model.safetensors").read_bytes()
    assert "model/model.safetensors is not as it was published; it is pulled again" in caplog.text and len(caplog.records) == 1
    assert not (folder / "export").exists()


def test_a_version_without_what_is_wanted_is_refused(store, tmp_path):
    store.publish(tmp_path / "run1", "weights", "jane")

    with pytest.raises(StoreError, match="store://weights:1: was published without a SavedModel"):
        cached(store, Reference("weights"), "export")


def test_a_damaged_store_gives_nothing_to_the_cache(store):
    for path in (store.folder / "artifacts" / "blobs").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1] + b"!")

    with pytest.raises(DamagedError, match="is changed"):
        cached(store, Reference("tickets"), "export")

    assert not exported(store.folder / "cache" / "tickets" / "2-export", Reference("tickets", 2)).exists()
