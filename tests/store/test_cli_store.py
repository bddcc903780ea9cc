import json
import subprocess
import sys

import pytest

from tests.store.made import make_run
from tfgpt import cli
from tfgpt.store.store import Store


@pytest.fixture
def run(tmp_path):
    make_run(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("TFGPT_STORE", str(tmp_path / "store"))
    assert cli.main(["store", "init"]) == 0
    return tmp_path / "store"


@pytest.fixture
def tfgpt(capsys):
    """Run a command of the store; return what it prints, which must be JSON."""
    def command(*arguments):
        capsys.readouterr()
        assert cli.main(["store", *map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)
    return command


def test_a_model_is_published_found_promoted_pulled_and_rolled_back_by_commands(store, run, tmp_path, tfgpt):
    make_run(tmp_path / "second", seed=2)
    first = tfgpt("publish", run, "--name", "tickets", "--language", "de", "--tag", "support", "--licence", "mit", "--by", "jane")
    second = tfgpt("publish", tmp_path / "second", "--name", "tickets", "--by", "jane", "--version", 2)
    again = tfgpt("publish", tmp_path / "second", "--name", "tickets", "--by", "jane")
    assert [done["is_new"] for done in (first, second, again)] == [True, True, False]

    promoted = [tfgpt("promote", f"tickets:{number}", "--by", "jane")["reference"] for number in (1, 2)]
    back = tfgpt("rollback", "tickets", "--by", "jane")
    tfgpt("rate", "tickets", "--stars", 5, "--review", "Sorts ours.", "--by", "eve")
    [found] = tfgpt("search", "support", "--language", "de", "--sort", "rating")
    pulled = tfgpt("pull", "tickets@production", tmp_path / "pulled")

    assert promoted == ["store://tickets:1", "store://tickets:2"] and back == {"reference": "store://tickets:1", "instead_of": 2}
    assert (found["reference"], found["stage"], found["rating"]) == ("store://tickets:1", "production", 5.0)
    assert pulled["reference"] == "store://tickets:1"
    assert (tmp_path / "pulled" / "model" / "model.safetensors").read_bytes() == (run / "model" / "model.safetensors").read_bytes()
    assert (tmp_path / "pulled" / "export" / "tickets" / "1" / "saved_model.pb").exists()
    shown = tfgpt("show", "tickets:1")
    assert [event["action"] for event in shown["events"]] == ["rate", "rollback", "promote", "promote", "publish", "publish"]
    assert shown["downloads"] == 1 and shown["reviews"][0]["review"] == "Sorts ours."
    assert [entry["stage"] for entry in tfgpt("list", "tickets")] == ["archived", "production"]


def test_two_versions_are_compared_figure_by_figure(store, run, tmp_path, tfgpt):
    make_run(tmp_path / "second", seed=2)
    evaluation = json.loads((run / "evaluation.json").read_text())
    (tmp_path / "second" / "evaluation.json").write_text(json.dumps(evaluation | {"loss": 1.0, "metrics": {"recall": {"value": 0.7}}}))
    for folder in (run, tmp_path / "second"):
        tfgpt("publish", folder, "--name", "tickets")

    result = tfgpt("compare", "tickets:1", "tickets:2")

    assert result["figures"]["loss"] == {"first": 1.25, "second": 1.0, "difference": -0.25}
    assert result["figures"]["metrics/f1"] == {"first": 0.5, "second": None, "difference": None} and result["figures"]["metrics/recall"]["first"] is None
    assert result["same_data"] and "model/model.safetensors" in result["files"]["changed"] and "model/config.json" in result["files"]["same"]


def test_a_pulled_model_can_be_published_again_with_what_it_came_from(store, run, tmp_path, tfgpt):
    tfgpt("publish", run, "--name", "tickets", "--licence", "mit", "--tag", "support")
    tfgpt("pull", "tickets", tmp_path / "pulled")

    tfgpt("publish", tmp_path / "pulled", "--name", "copy", "--base-model", "store://tickets:1")

    shown = tfgpt("show", "copy")
    assert (shown["base_model"], shown["licence"], shown["tags"], shown["file_count"]) == ("store://tickets:1", "mit", ["support"], 11)


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "nothing is no action; give init or publish"), (["publish"], "is missing"), (["publish", "nowhere", "--name", "x"], "nowhere is no folder"),
    (["publish", "RUN", "--name", "Not Small"], "name: 'Not Small' cannot name a model"), (["show", "nothing"], "there is no model nothing"),
    (["publish", "RUN", "--name", "x", "--version", "7"], "version: 7 of x would leave numbers out; the next is 1"),
    (["publish", "RUN", "--name", "x", "--stage", "live"], "stage"),
    (["publish", "RUN", "--name", "x", "--card", "nowhere.md"], "--card nowhere.md is not there"),
    (["pull", "../x"], "name: '../x' cannot name a model"), (["search", "--limit", "0"], "limit: 0 is no number of rows"),
    (["list", "x", "--limit", "-1"], "limit: -1 is no number of rows"), (["compare", "x:1"], "compare: 1 references (x:1); give two"),
    (["rate", "x", "--stars", "six"], "--stars: six is not a whole number"), (["gc", "--grace-hours", "-1"], "grace_hours: -1.0 is no time"),
    (["list", "--store", "nowhere"], "nowhere: there is no store; tfgpt store init --store nowhere makes one")])  # fmt: skip
def test_what_a_store_refuses_is_one_line_and_exit_code_2(store, run, capsys, arguments, message):
    code = cli.main(["store", *(str(run) if argument == "RUN" else argument for argument in arguments)])

    printed = capsys.readouterr()
    assert code == cli.USAGE and printed.err.count("\n") == 1 and message in printed.err


def test_damage_is_exit_code_1(store, run, tmp_path, capsys):
    assert cli.main(["store", "publish", str(run), "--name", "tickets"]) == 0
    for path in (store / "artifacts" / "blobs").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")

    assert cli.main(["store", "pull", "tickets", str(tmp_path / "pulled")]) == cli.FAILED
    assert "is changed" in capsys.readouterr().err and not (tmp_path / "pulled").exists()


def test_a_store_with_places_of_its_own_is_joined_from_elsewhere(tmp_path, run, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = ["--artifacts", "shared/files", "--database", f"sqlite:///{tmp_path}/catalog.db"]
    assert cli.main(["store", "init", "--store", "one", *places]) == 0
    assert cli.main(["store", "publish", str(run), "--name", "tickets", "--store", "one"]) == 0

    assert cli.main(["store", "init", "--store", "elsewhere/two", *places]) == 0
    assert cli.main(["store", "pull", "tickets", "pulled", "--store", "elsewhere/two"]) == 0

    assert (tmp_path / "shared" / "files" / "blobs").is_dir() and (tmp_path / "pulled" / "model").is_dir()
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "one" / "store.json", tmp_path / "catalog.db")] == [0o600] * 2


def test_what_is_printed_for_people_names_everything(store, run, capsys):
    cli.main(["store", "publish", str(run), "--name", "tickets", "--licence", "mit"])
    capsys.readouterr()

    for arguments, parts in ((["list"], ["tickets", "draft", "1.2500"]),
                             (["show", "tickets"], ["licence       mit", "model/model.safetensors", "publish   version 1"]),
                             (["search", "xylophone"], ["nothing found"]), (["compare", "tickets", "tickets:1"], ["difference", "+0.0000"]),
                             (["gc"], ["removed 0 blobs of 0 bytes"])):  # fmt: skip
        assert cli.main(["store", *arguments]) == 0
        printed = capsys.readouterr().out
        assert all(part in printed for part in parts), printed


def test_the_store_needs_no_tensorflow_and_its_help_no_database(run, store):
    code = (f"import sys; from tfgpt import cli; code = cli.main(['store', 'publish', {str(run)!r}, '--name', 'x']) + cli.main(['store', 'search', 'x']); "
            "print(code, sorted({'tensorflow', 'transformers', 'torch'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"

    code = "import sys\ntry: from tfgpt import cli; cli.main(['store', 'search', '--help'])\nexcept SystemExit: print('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()[-1] == "False"


def test_init_again_keeps_what_is_there(store, run, capsys):
    cli.main(["store", "publish", str(run), "--name", "tickets"])

    assert cli.main(["store", "init"]) == 0

    assert [entry.name for entry in _all(store)] == ["tickets"]


def _all(folder):
    from tfgpt.store.search import Query, search

    return search(Store(folder).database, Query())
