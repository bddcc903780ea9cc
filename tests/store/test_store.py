import hashlib
import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time

import pytest
import yaml

from tests.store.made import make_run, sha256
from tfgpt.store import artifacts, catalog
from tfgpt.store import store as store_module
from tfgpt.store.errors import DamagedError, StoreError
from tfgpt.store.fields import Description
from tfgpt.store.reference import Reference
from tfgpt.store.search import Query, search
from tfgpt.store.store import Store, StoreConfig


@pytest.fixture
def run(tmp_path):
    make_run(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(params=["folder", "bucket"])
def store(request, tmp_path):
    """A store with its artifacts in a folder, and one with them where there are no folders, as in a bucket."""
    place = "artifacts" if request.param == "folder" else f"memory://{tmp_path.name}"
    store = Store.create(tmp_path / "store", StoreConfig(artifacts=place))
    yield store
    store.close()


@pytest.fixture
def shelf(tmp_path):
    """A store in a folder."""
    store = Store.create(tmp_path / "store")
    yield store
    store.close()


def publish(store, run, **options):
    return store.publish(run, "tickets", "jane", export=run / "export" / "tickets" / "1", **options)


def blobs_of(store):
    """Return the stored bytes by name, read without the store's own code."""
    return {path.name: path.read_bytes() for path in (store.folder / "artifacts" / "blobs").rglob("*") if path.is_file()}


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_pulled_is_what_was_published(store, run, tmp_path):
    published = publish(store, run, said={"licence": "mit", "languages": ("de",)})

    exact = store.pull(Reference("tickets"), tmp_path / "other machine")

    pulled, original = files_of(tmp_path / "other machine"), files_of(run)
    assert exact == published.reference == Reference("tickets", 1)
    assert {name: data for name, data in pulled.items() if name not in ("README.md", "pulled.json")} == {
        name: data for name, data in original.items() if name != "data/stats.json"}
    assert json.loads(pulled["pulled.json"])["reference"] == "store://tickets:1"
    assert catalog.details_of(store.database, exact).entry.downloads == 1


def test_everything_a_run_knows_is_in_the_catalog(shelf, run):
    publish(shelf, run, said={"licence": "apache-2.0", "languages": ("en", "de"), "tags": ("support",)})

    details = catalog.details_of(shelf.database, Reference("tickets"))

    entry = details.entry
    assert (entry.task, entry.licence, entry.languages, entry.tags) == ("text-classification", "apache-2.0", ["en", "de"], ["support"])
    assert entry.base_model == "random"
    assert details.data_sha256 == sha256("corpus")
    assert details.recipe_sha256 == hashlib.sha256((run / "recipe.yaml").read_bytes()).hexdigest()
    assert details.figures == {"loss": 1.25, "perplexity": 3.49, "bits_per_byte": 0.6, "tokens": 100, "metrics/f1": 0.5, "baseline/loss": 2.0,
                               "baseline/perplexity": 7.39, "baseline/bits_per_byte": 0.9}
    assert entry.size_bytes == sum(file.size_bytes for file in details.files) and entry.file_count == len(details.files) == 11
    head = yaml.safe_load(details.card.split("---\n")[1])
    assert (head["license"], head["language"], head["pipeline_tag"], head["library_name"]) == ("apache-2.0", ["en", "de"], "text-classification", "tfgpt")
    assert {"type": "f1", "name": "metrics/f1", "value": 0.5} in head["model-index"][0]["results"][0]["metrics"]


def test_the_hubs_own_parser_reads_the_card(shelf, run):
    from huggingface_hub import ModelCard

    publish(shelf, run, said={"licence": "mit", "tags": ("support",)})

    card = ModelCard(catalog.details_of(shelf.database, Reference("tickets")).card)

    assert (card.data.license, card.data.tags, card.data.model_name) == ("mit", ["support"], "tickets")
    assert {result.metric_name: result.metric_value for result in card.data.eval_results}["metrics/f1"] == 0.5


def test_a_readme_of_ones_own_is_the_card_and_its_head_fills_the_fields(shelf, run):
    (run / "README.md").write_text("---\nlicense: mit\nlanguage: [fr]\ntags: [Low Rank, Support]\npipeline_tag: text-generation\n---\n# Mine\n\nBy `<hand>`.\n")

    publish(shelf, run, said={"languages": ("de",)})

    details = catalog.details_of(shelf.database, Reference("tickets"))
    assert (details.entry.licence, details.entry.languages, details.entry.tags) == ("mit", ["de"], ["low-rank", "support"])
    assert "# Mine\n\nBy `<hand>`." in details.card and "language:\n- de" in details.card


def test_bytes_are_stored_under_their_sha256_and_equal_ones_once(shelf, run, tmp_path):
    publish(shelf, run)
    before = blobs_of(shelf)
    make_run(tmp_path / "second", seed=2)
    publish(shelf, tmp_path / "second")

    after = blobs_of(shelf)

    assert all(hashlib.sha256(data).hexdigest() == name for name, data in after.items())
    assert hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest() in before
    assert len(after) - len(before) == 3  # weights, variables, and the manifest that lists them; all else is the same
    assert not list((shelf.folder / "artifacts" / "uploads").iterdir())


def test_large_files_are_stored_in_pieces_and_an_interrupted_upload_goes_on(store, run, tmp_path, monkeypatch):
    for module in (artifacts, store_module):
        monkeypatch.setattr(module, "PIECE_BYTES", 100)
    written, write = [], store.artifacts._write

    def fails_at_the_sixth(path, data):
        if len(written) == 5:
            raise OSError("the network is down")
        written.append(len(data))
        write(path, data)

    monkeypatch.setattr(store.artifacts, "_write", fails_at_the_sixth)
    with pytest.raises(OSError, match="network is down"):
        publish(store, run)
    monkeypatch.setattr(store.artifacts, "_write", lambda path, data: (written.append(len(data)), write(path, data)))
    publish(store, run)

    pieces = {sha256 for file in catalog.details_of(store.database, Reference("tickets")).files for sha256 in file.pieces}
    assert len(written) == len(pieces) > 25  # none twice, though the upload was begun twice
    store.pull(Reference("tickets"), tmp_path / "pulled")
    assert (tmp_path / "pulled" / "model" / "model.safetensors").read_bytes() == (run / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("change", ["byte", "cut", "gone"])
def test_a_changed_byte_is_refused_at_pull_and_nothing_is_left(shelf, run, tmp_path, change):
    publish(shelf, run)
    weights = (run / "model" / "model.safetensors").read_bytes()
    path = next((shelf.folder / "artifacts").rglob(hashlib.sha256(weights).hexdigest()))
    path.unlink() if change == "gone" else path.write_bytes(weights[:-1] + (b"" if change == "cut" else bytes([weights[-1] ^ 1])))

    with pytest.raises(DamagedError, match=f"{path.name} is (changed|missing)"):
        shelf.pull(Reference("tickets"), tmp_path / "pulled")

    assert not (tmp_path / "pulled").exists() and not list(tmp_path.glob(".partial-*"))
    assert catalog.details_of(shelf.database, Reference("tickets")).entry.downloads == 0


def test_bytes_that_were_lost_are_stored_anew_by_publishing_again(shelf, run, tmp_path):
    publish(shelf, run)
    next((shelf.folder / "artifacts").rglob(hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest())).unlink()

    assert not publish(shelf, run).is_new
    shelf.pull(Reference("tickets"), tmp_path / "pulled")


def test_a_pull_takes_no_place_of_anything(shelf, run, tmp_path):
    publish(shelf, run)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")

    with pytest.raises(StoreError, match="something is there already"):
        shelf.pull(Reference("tickets"), tmp_path / "mine")

    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("path", ["../../escaped", "/tmp/escaped", "a/../../escaped", "a\\..\\escaped", "./x", "a//b", "C:/x", "a\0b", ""])
def test_a_path_that_leads_out_is_refused_at_pull_too(shelf, run, tmp_path, path):
    publish(shelf, run)
    raw = sqlite3.connect(shelf.folder / "catalog.db")  # a database that somebody else writes to
    raw.execute("DROP TRIGGER files_fixed")
    raw.execute("UPDATE files SET path = ? WHERE path = 'README.md'", [path])
    raw.commit()

    with pytest.raises(StoreError, match="is no plain relative path"):
        shelf.pull(Reference("tickets"), tmp_path / "deep" / "pulled")

    assert not list(tmp_path.rglob("escaped"))


def test_pickles_are_refused_under_any_name(shelf, run):
    evil = pickle.dumps({"weights": [1.0]}, protocol=4)
    for name, data in (("pytorch_model.bin", b"x"), ("x.pt", b"x"), ("x.pkl", b"x"), ("x.ckpt", b"x"), ("x.npy", b"x"), ("model.h5", b"x"),
                       ("model-2.safetensors", evil), ("variables.data-00000-of-00001", evil), ("notes.txt", evil), ("weights.index", evil),
                       ("weights.pb", b"PK\x03\x04 PyTorch's archive"), ("a.txt", b"\x93NUMPY"), ("b.index", b"\x1f\x8bgz")):  # fmt: skip
        (run / "model" / name).write_bytes(data)
        with pytest.raises(StoreError, match="pickle"):
            publish(shelf, run)
        (run / "model" / name).unlink()
    assert not blobs_of(shelf) and search(shelf.database, Query()) == []


@pytest.mark.parametrize(("name", "data", "message"), [
    ("run.sh", b"#!/bin/sh", "of no kind that is published"), ("code.py", b"print()", "of no kind"), ("lib.so", b"\x7fELF", "of no kind"),
    ("noextension", b"x", "of no kind"), ("half.safetensors", b"\x10\0\0\0\0\0\0\0{}", "is no safetensors file"), ("config2.json", b"{", "is no JSON"),
    ("deep.json", b"[" * 100_000, "is no JSON"), ("latin.txt", "ü".encode("latin-1"), "is no UTF-8")])  # fmt: skip
def test_what_is_not_what_its_name_says_is_refused(shelf, run, name, data, message):
    (run / "model" / name).write_bytes(data)

    with pytest.raises(StoreError, match=message):
        publish(shelf, run)


def test_links_that_lead_out_of_the_folder_are_refused_and_others_are_files(shelf, run, tmp_path):
    (tmp_path / "secret.txt").write_text("key")
    for name, target in (("model/a.txt", "/etc/passwd"), ("model/b.txt", "../../secret.txt"), ("tokenizer/c", "/etc"), ("evaluation.json", "/etc/passwd")):
        kept = (run / name).read_bytes() if (run / name).exists() else None
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(target)
        with pytest.raises(StoreError, match="out of the folder"):
            publish(shelf, run)
        (run / name).unlink()
        if kept is not None:
            (run / name).write_bytes(kept)
    os.mkfifo(run / "model" / "pipe.txt")
    with pytest.raises(StoreError, match="is no file"):
        publish(shelf, run)
    (run / "model" / "pipe.txt").unlink()
    (run / "model" / "same.json").symlink_to("config.json")

    publish(shelf, run)

    assert "model/same.json" in {file.path for file in catalog.details_of(shelf.database, Reference("tickets")).files}


@pytest.mark.parametrize(("limits", "message"), [({"max_file_bytes": 1000}, "bytes are more than a file may have here"),
                                                 ({"max_model_bytes": 2000}, "bytes are more than a model may have here"),
                                                 ({"max_files": 5}, "more than a model may have here")])  # fmt: skip
def test_what_is_too_large_is_refused_before_anything_is_stored(tmp_path, run, limits, message):
    store = Store.create(tmp_path / "store", StoreConfig(**limits))

    with pytest.raises(StoreError, match=message):
        publish(store, run)

    assert not blobs_of(store)


def test_a_card_that_is_too_long_is_refused(shelf, run):
    (run / "README.md").write_text("x" * 300_000)

    with pytest.raises(StoreError, match="longer than a card may be"):
        publish(shelf, run)


def test_an_export_that_is_not_as_its_manifest_says_is_refused(shelf, run):
    (run / "export" / "tickets" / "1" / "saved_model.pb").write_bytes(b"another")

    with pytest.raises(StoreError, match="export: .*saved_model.pb is changed"):
        publish(shelf, run)


HOSTILE = ["<script>alert(1)</script>", "'; DROP TABLE models; --", "\" OR 1=1 --", "a\0b", "../../etc", "x" * 10_000, "", " ", "a\nb", None, 7]


@pytest.mark.parametrize("value", HOSTILE)
def test_html_sql_and_more_are_refused_in_every_field(shelf, run, value):
    for key in ("task", "licence", "base_model", "data_sha256", "recipe_sha256"):
        if value == "" and key not in ("task", "base_model"):
            continue  # which may be empty
        with pytest.raises(StoreError, match=key):
            publish(shelf, run, said={key: value})
    for key in ("languages", "tags"):
        with pytest.raises(StoreError, match=key):
            publish(shelf, run, said={key: (value,)})
    for name, actor, key in (("tickets", value, "owner"), (value, "jane", "name")):
        with pytest.raises(StoreError, match=key):
            shelf.publish(run, name, actor)
    assert search(shelf.database, Query()) == []


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "Hi <img src=x onerror=alert(1)>", "[click](javascript:alert(1))", "[x](data:text/html,x)",
                                  "<!-- c -->", "</p>", "&#60;script&#62;", "[x]( JaVaScRiPt:x)", "a\x1b[31mb", "`unclosed <b>"])  # fmt: skip
def test_html_and_scripts_are_refused_in_cards_and_reviews(shelf, run, text):
    from tfgpt.store import ratings

    with pytest.raises(StoreError, match="card:"):
        publish(shelf, run, card=f"# Card\n\n{text}\n")
    publish(shelf, run)
    with pytest.raises(StoreError, match="review:1"):
        ratings.rate(shelf.database, Reference("tickets"), "eve", 3, text)


def test_sql_in_free_text_is_text(shelf, run):
    from tfgpt.store import ratings

    sql = "Robert'); DROP TABLE models; -- a < b & [link](https://example.org) <https://example.org> `<b>` ```"
    publish(shelf, run, card=sql)
    ratings.rate(shelf.database, Reference("tickets"), "eve", 3, sql)

    details = catalog.details_of(shelf.database, Reference("tickets"))
    assert sql in details.card and details.reviews[0]["review"] == sql
    assert [entry.name for entry in search(shelf.database, Query("robert drop table"))] == ["tickets"]


@pytest.mark.parametrize("stars", [0, 6, -1, 4.5, "5", None, True])
def test_what_is_no_rating_is_refused(shelf, run, stars):
    from tfgpt.store import ratings

    publish(shelf, run)
    with pytest.raises(StoreError, match="stars"):
        ratings.rate(shelf.database, Reference("tickets"), "eve", stars)


@pytest.mark.parametrize("content", ['{"loss": "<b>"}', '{"loss": Infinity}', '{"loss": NaN}', '{"metrics": {"<script>": {"value": 1.0}}}', "[1]",
                                     '{"metrics": 1}', '{"loss": true}', '{"metrics": {"f1": {}}}'])  # fmt: skip
def test_figures_that_are_none_are_refused(shelf, run, content):
    (run / "evaluation.json").write_text(content)

    with pytest.raises(StoreError, match="evaluation.json"):
        publish(shelf, run)


def test_gc_removes_what_no_version_needs_once_its_time_of_grace_is_over(store, run, tmp_path):
    publish(store, run)
    needed = {sha256 for sha256, *_ in store.artifacts.stored()}
    unneeded = store.artifacts.store(b"of a publish that was killed before it told the catalog")
    store_module.blobs.touch(store.database, {store.artifacts.store(b"of one that had told it of its bytes"): 36})

    early = store.collect(grace_hours=24)
    late = store.collect(grace_hours=0)

    assert (early.blobs, early.bytes) == (0, 0) and (late.blobs, late.bytes) == (2, 36 + 55)
    assert {sha256 for sha256, *_ in store.artifacts.stored()} == needed and unneeded not in needed
    store.pull(Reference("tickets"), tmp_path / "pulled")


def test_gc_in_the_middle_of_a_publish_takes_nothing_from_it(shelf, run, tmp_path, monkeypatch):
    write = shelf.artifacts._write
    monkeypatch.setattr(shelf.artifacts, "_write", lambda path, data: (write(path, data), shelf.collect(grace_hours=0.01)))

    publish(shelf, run)

    shelf.pull(Reference("tickets"), tmp_path / "pulled")


def test_gc_without_grace_in_the_middle_of_a_publish_makes_it_fail_and_not_the_model(shelf, run, monkeypatch):
    write = shelf.artifacts._write
    monkeypatch.setattr(shelf.artifacts, "_write", lambda path, data: (write(path, data), shelf.collect(grace_hours=0)))

    with pytest.raises(RuntimeError, match="was removed by gc while this was published"):
        publish(shelf, run)

    assert search(shelf.database, Query()) == []


KILLED = textwrap.dedent("""
    import sys, time
    from tfgpt.store import artifacts, catalog, store
    place, run, at = sys.argv[1:]
    here = store.Store(place)
    def stop(*_, **__):
        print("here", flush=True)
        time.sleep(60)
    replaced, written = artifacts.os.replace, []
    def replace(*paths):
        if at == "write" and len(written) == 4:
            stop()
        written.append(paths)
        replaced(*paths)
    artifacts.os.replace = replace
    if at == "transaction":
        catalog.show_one = stop
    if at == "stored":
        catalog.publish = stop
    here.publish(run, "tickets", "jane", export=run + "/export/tickets/1")
    stop()
""")


@pytest.mark.parametrize(("at", "versions"), [("write", 0), ("stored", 0), ("transaction", 0), ("end", 1)])
def test_a_publish_that_is_killed_leaves_all_consistent_and_gc_cleans_up(shelf, run, tmp_path, at, versions):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(shelf.folder), str(run), at], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    raw = sqlite3.connect(shelf.folder / "catalog.db")
    counts = [raw.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("versions", "models")]
    assert counts == [versions, versions] and raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
    left = len(blobs_of(shelf))
    assert left == (4 if at == "write" else 11)
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in blobs_of(shelf).items())

    time.sleep(0.05)
    collected = shelf.collect(grace_hours=0)

    assert (collected.blobs, collected.uploads) == ((11, 1) if at == "write" else (0 if versions else 11, 0))
    assert len(blobs_of(shelf)) == (11 if versions else 0)
    assert publish(shelf, run).is_new is not bool(versions)
    shelf.pull(Reference("tickets", 1), tmp_path / "pulled")


PUBLISHER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from tests.store.made import make_run
    from tfgpt.store.store import Store
    place, work, own = sys.argv[1:]
    run = Path(work) / own
    make_run(run, seed=int(own))
    sys.stdin.read()
    Store(place).publish(run, "tickets", "jane", export=run / "export" / "tickets" / "1")
""")


def test_twenty_publishers_at_once_lose_nothing_while_gc_runs(shelf, tmp_path):
    processes = [subprocess.Popen([sys.executable, "-c", PUBLISHER, str(shelf.folder), str(tmp_path), str(own)], stdin=subprocess.PIPE) for own in range(20)]
    for process in processes:
        process.stdin.close()
    while any(process.poll() is None for process in processes):
        shelf.collect(grace_hours=0.1)
    assert [process.wait() for process in processes] == [0] * 20

    entries = catalog.versions_of(shelf.database, "tickets")
    assert sorted(entry.version for entry in entries) == list(range(1, 21))
    weights = set()
    for entry in entries:
        shelf.pull(entry.reference, tmp_path / f"pulled{entry.version}")
        weights.add((tmp_path / f"pulled{entry.version}" / "model" / "model.safetensors").read_bytes())
    assert weights == {(tmp_path / str(own) / "model" / "model.safetensors").read_bytes() for own in range(20)}


def test_a_store_is_made_once_and_joined_by_its_places(tmp_path, run):
    places = StoreConfig(artifacts=str(tmp_path / "shared" / "artifacts"), database=f"sqlite:///{tmp_path}/shared/catalog.db")
    (tmp_path / "shared").mkdir()
    here = Store.create(tmp_path / "here", places)
    publish(here, run)

    there = Store.create(tmp_path / "there", places)

    there.pull(Reference("tickets", 1), tmp_path / "pulled")
    with pytest.raises(StoreError, match="is asked for; change it by hand"):
        Store.create(tmp_path / "here", StoreConfig(max_files=3))
    with pytest.raises(FileNotFoundError, match="there is no store; tfgpt store init --store"):
        Store(tmp_path / "nowhere")
    (tmp_path / "here" / "store.json").write_text('{"artefacts": "x"}')
    with pytest.raises(StoreError, match=r"store.json: is not understood .*; it holds artifacts, database"):
        Store(tmp_path / "here")


@pytest.mark.parametrize("place", ["nonsense://x", "gs://bucket/x"])
def test_artifacts_that_cannot_be_opened_are_refused(tmp_path, place):
    with pytest.raises(StoreError, match=f"artifacts: {place} cannot be opened"):
        Store.create(tmp_path / "store", StoreConfig(artifacts=place))


def test_a_description_says_what_it_refuses():
    with pytest.raises(StoreError, match="tags: 'Not small' is not allowed; give 1 to 50 small letters"):
        Description(tags=("Not small",))
    with pytest.raises(StoreError, match=r"tags: \('a', 'a'\) has one twice"):
        Description(tags=("a", "a"))
