"""`tfgpt store user`, `group`, `key`, `access`, `audit` and `serve`: what they print and what they refuse."""
import io
import json
import signal
import subprocess
import sys

import httpx
import pytest

from tests.store.made import make_run
from tfgpt import cli

PASSWORD = "correct horse battery"


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run `tfgpt store ...` on a store of the test; return the exit code, what is printed and what is said."""
    monkeypatch.setenv("TFGPT_STORE", str(tmp_path / "store"))

    def run(*arguments, typed=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        capsys.readouterr()
        code = cli.main(["store", *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err
    run("init")
    return run


def test_people_and_rights_are_set_up_by_commands(command, tmp_path):
    make_run(tmp_path / "run")
    assert command("user", "add", "jane", "--role", "publisher", "--by", "root", typed=PASSWORD)[:2] == (0, "jane is a publisher\n")
    command("user", "add", "rita", typed=PASSWORD)
    command("publish", tmp_path / "run", "--name", "tickets", "--by", "jane", "--private")
    assert command("access", "tickets", "--by", "jane")[1] == "tickets is private, granted to no group\n"
    assert command("group", "add", "team", "--user", "rita")[1] == "team has rita\n"
    assert command("access", "tickets", "--by", "jane", "--grant", "team:publish")[1] == "tickets is private, granted to team (publish)\n"
    assert command("access", "tickets", "--by", "jane", "--public", "--take-back", "team")[1] == "tickets is public, granted to no group\n"

    key = command("key", "add", "jane", "--name", "ci", "--scope", "read", "--days", 7)[1].strip()
    [info] = json.loads(command("key", "list", "jane", "--json")[1])
    assert key.startswith("tfgpt_") and (info["name"], info["scopes"], info["state"]) == ("ci", ["read"], "valid")
    assert command("key", "revoke", "jane", "--name", "ci")[1] == "the key ci is revoked\n"
    assert command("user", "change", "rita", "--role", "admin", "--disable")[1] == "rita is changed\n"
    rows = json.loads(command("user", "list", "--json")[1])
    assert [(row["name"], row["role"], row["disabled"], row["groups"]) for row in rows] == [("jane", "publisher", False, []), ("rita", "admin", True, ["team"])]
    log = command("audit", "--limit", 3)[1]
    assert [line.split()[2:4] for line in log.splitlines()[1:]] == [["change", "user"], ["revoke", "key"], ["make", "key"]]
    assert PASSWORD not in log and key not in log


@pytest.mark.parametrize(("arguments", "typed", "message"), [
    (["user", "add"], PASSWORD, "NAME is missing"), (["user", "add", "jane"], "short\n", "password: 5 characters; give 10 to 256"),
    (["user", "add", "jane", "--role", "king"], PASSWORD, "king"), (["user", "change", "jane"], "", "give one or more of --role"),
    (["user", "change", "nobody", "--role", "admin"], "", "user: there is no 'nobody'"), (["group", "remove", "none"], "", "group: there is no 'none'"),
    (["key", "add", "nobody", "--name", "x", "--scope", "read"], "", "user: there is no 'nobody'"),
    (["access", "none", "--private"], "", "there is no model none"), (["access", "x", "--private", "--public"], "", "exclude each other"),
    (["audit", "--limit", 0], "", "limit, before: 0"), (["serve", "--port", 70000], "", "--port 70000"),
    (["serve", "--try-seconds", "nan"], "", "--try-seconds: nan"), (["serve", "--requests-per-minute", 0], "", "--requests-per-minute: 0 is too small"),
    (["serve", "--tls-key", "x"], "", "go together"), (["serve", "--host", "203.0.113.1"], "", "cannot listen on --host 203.0.113.1")])  # fmt: skip
def test_what_they_refuse_in_one_line(command, arguments, typed, message):
    code, printed, said = command(*arguments, typed=typed)
    assert code == cli.USAGE and printed == "" and message in said and said.count("\n") == 1


@pytest.mark.slow
def test_a_store_that_is_served_ends_on_sigterm_and_answers_what_has_begun(command, tmp_path):
    make_run(tmp_path / "run")
    command("publish", tmp_path / "run", "--name", "tickets", "--by", "jane")
    process = subprocess.Popen([sys.executable, "-m", "tfgpt", "store", "serve", "--port", "0", "--anonymous-read"], stderr=subprocess.PIPE, text=True)
    address = process.stderr.readline().split()[1]
    with httpx.Client(base_url=address) as client:
        assert "tickets" in client.get("/").text and client.get("/health").text == "ok\n"
        assert client.get("/api/v1/models").json()[0]["reference"] == "store://tickets:1"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0 and process.stderr.read() == ""
