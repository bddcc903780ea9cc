import json
import os
import subprocess
import sys

import pytest

from tests.store.hub_stand_in import hub
from tests.store.made import make_run
from tfgpt.store import catalog
from tfgpt.store.errors import StoreError
from tfgpt.store.hub import check_repository
from tfgpt.store.packages import MODEL_FILES
from tfgpt.store.reference import Reference
from tfgpt.store.store import Store


@pytest.fixture
def store(tmp_path):
    store = Store.create(tmp_path / "store")
    yield store
    store.close()


def tfgpt(store, url, *arguments):
    """Run a command in a process whose huggingface_hub may ask the stand-in; the tests' own is offline."""
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": url, "HF_TOKEN": "hf_secret", "HF_HOME": str(store.folder / "hf"),
                                "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.run([sys.executable, "-m", "tfgpt", "store", *map(str, arguments), "--store", str(store.folder)], capture_output=True, text=True,
                          check=False, env=environment)


def test_a_version_goes_to_a_hub_and_comes_back_the_same(store, tmp_path):
    make_run(tmp_path / "run")
    store.publish(tmp_path / "run", "tickets", "jane", {"licence": "mit", "languages": ("de",), "tags": ("support",)})
    repositories = {}

    with hub(repositories) as (url, asked):
        exported = tfgpt(store, url, "export", "tickets", "jane/tickets")
        imported = tfgpt(store, url, "import", "jane/tickets", "--name", "again", "--by", "eve")

    assert exported.returncode == imported.returncode == 0, exported.stderr + imported.stderr
    assert exported.stdout.strip() == f"{url}/jane/tickets/commit/{'a' * 40}" and imported.stdout.strip() == "store://again:1"
    assert ("POST", "/api/repos/create", "Bearer hf_secret") in asked.asked
    files = repositories["jane/tickets"]
    assert set(files) == {"config.json", "model.safetensors", "vocab.json", "merges.txt", "README.md", "recipe.yaml", "evaluation.json"}
    assert files["model.safetensors"] == (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    first, second = (catalog.details_of(store.database, Reference(name)) for name in ("tickets", "again"))
    same = {file.path: file.sha256 for file in first.files if file.path != "README.md"}
    assert {file.path: file.sha256 for file in second.files if file.path != "README.md"} == same
    assert (second.entry.licence, second.entry.languages, second.entry.tags, second.figures) == ("mit", ["de"], ["support"], first.figures)
    assert (second.entry.base_model, second.entry.owner) == ("jane/tickets", "eve")


def test_pickles_on_a_hub_are_not_even_downloaded(store, tmp_path):
    make_run(tmp_path / "run")
    files = {path.name: path.read_bytes() for part in ("model", "tokenizer") for path in (tmp_path / "run" / part).iterdir()}
    evil = {"pytorch_model.bin": b"\x80\x04x.", "flax_model.msgpack": b"x", "code.py": b"x", "onnx/model.onnx": b"x", "sub/model.safetensors": b"x"}

    with hub({"a/model": files | evil, "a/pickled": evil | {"config.json": b"{}"}}) as (url, asked):
        done = tfgpt(store, url, "import", "a/model", "--name", "model")
        pickled = tfgpt(store, url, "import", "a/pickled", "--name", "pickled")

    assert done.returncode == 0, done.stderr
    assert not [path for _, path, _ in asked.asked if any(path.endswith(name) for name in evil)]
    assert {file.path for file in catalog.details_of(store.database, Reference("model")).files} == {
        "model/config.json", "model/model.safetensors", "tokenizer/vocab.json", "tokenizer/merges.txt", "README.md"}
    assert pickled.returncode == 2 and "has no safetensors; weights of another kind, such as pytorch_model.bin, are not published" in pickled.stderr


def test_what_a_hub_has_not_and_a_card_with_html_are_refused_in_one_line(store, tmp_path):
    make_run(tmp_path / "run")
    files = {name: (tmp_path / "run" / "model" / name).read_bytes() for name in MODEL_FILES if (tmp_path / "run" / "model" / name).exists()}
    card = b"---\nlicense: mit\ntags: [Text Generation, en]\n---\n# GPT\n\n<script>alert(1)</script>\n"
    (tmp_path / "mine.md").write_text("# My words for it\n")

    with hub({"a/html": files | {"README.md": card}}) as (url, _):
        missing = tfgpt(store, url, "import", "a/nothing", "--name", "x")
        html = tfgpt(store, url, "import", "a/html", "--name", "x")
        mine = tfgpt(store, url, "import", "a/html", "--name", "x", "--card", tmp_path / "mine.md")
    away = tfgpt(store, url, "export", "x", "a/x")

    assert missing.returncode == 2 and missing.stderr == "error: repository: the hub has no a/nothing, or you may not read it\n"
    assert html.returncode == 2 and "'<script>alert(1)</sc' is HTML or no plain link" in html.stderr and html.stderr.count("\n") == 1
    assert mine.returncode == 0 and away.returncode == 1 and away.stderr.startswith("error: a/x cannot be written on the hub: ")
    assert json.loads(tfgpt(store, url, "show", "x", "--json").stdout)["card"].endswith("# My words for it\n")


@pytest.mark.parametrize("repository", ["", "../x", "a/b/c", "a/../b", "https://hub/a/b", "a/b?x", "a b", "-a/b", "a/<b>"])
def test_what_names_no_repository_is_refused(repository):
    with pytest.raises(StoreError, match="names none of a hub; give OWNER/NAME"):
        check_repository(repository)
