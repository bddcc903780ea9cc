"""Models that are tried in the store, each by a process of its own: real ones, asked over a socket, left alone, killed, and too many at once."""
import json
import os
import shutil
import signal
import socket
import threading
import time

import httpx
import pytest

from tests.store.web import Site
from tfgpt.models import surgery
from tfgpt.recipe import HeadConfig
from tfgpt.serving.http_server import http_server

PROMPT = "The with statement"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, model, model_folder, tokenizer):
    """Folders of a model that writes and of one that judges, with their tokenizer."""
    folders = {name: tmp_path_factory.mktemp("runs") / name for name in ("writes", "judges")}
    for name, folder in folders.items():
        tokenizer.save_pretrained(folder / "tokenizer")
        if name == "writes":
            shutil.copytree(model_folder, folder / "model")
        else:
            surgery.add_head(model, HeadConfig("classes"), ["ham", "spam"]).save_pretrained(folder / "model")
    return folders


@pytest.fixture
def site(tmp_path, monkeypatch, runs):
    with_models = Site(tmp_path, monkeypatch, try_models=1, try_tokens=40)
    for name, folder in runs.items():
        with_models.store.publish(folder, name, "jane", {"task": "text-classification" if name == "judges" else "text-generation"})
    return with_models


@pytest.fixture
def served(site):
    listener = socket.create_server(("127.0.0.1", 0))
    with http_server(site.app, listener, 5.0):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api/v1/try"


def asking(site, served, scopes=("read", "try"), **asked):
    """Return a stream of lines, each a dict, as they come."""
    key = site.program("rita", scopes).headers["Authorization"]
    body = {"reference": "writes", "prompt": PROMPT, "max_new_tokens": 24} | asked
    return httpx.stream("POST", served, json=body, headers={"Authorization": key}, timeout=120)


def lines_of(answer):
    assert answer.status_code == 200, answer.read()
    return [json.loads(line) for line in answer.iter_lines()]


@pytest.mark.slow
def test_what_a_model_writes_comes_piece_by_piece_and_is_what_it_writes_elsewhere(site, served, text_model):
    for controls in ({}, {"temperature": 0.8, "top_k": 9, "top_p": 0.9, "repetition_penalty": 1.2, "seed": 5}):
        with asking(site, served, **controls) as answer:
            lines = lines_of(answer)
        expected = text_model.generate([PROMPT], 24, **controls)[0]
        assert "".join(line.get("piece", "") for line in lines) == expected.text
        assert lines[0]["reference"] == "store://writes:1" and sum("piece" in line for line in lines) > 3
        assert lines[-1]["done"] == {"token_count": expected.token_count, "finish_reason": expected.finish_reason}

    with asking(site, served, reference="judges:1") as answer:  # for which the other has to make place
        [line] = lines_of(answer)
    scores = line["done"]["scores"]
    assert set(scores) == {"ham", "spam"} and sum(scores.values()) == pytest.approx(1.0, abs=1e-5)
    root = site.browser("root").get("/metrics").text
    assert 'tfgpt_store_tries_total{outcome="done"} 3.0' in root and "tfgpt_store_models_loaded 1.0" in root


@pytest.mark.slow
def test_a_try_that_is_left_or_killed_or_takes_too_long_is_in_nobodys_way(site, served, text_model):
    with asking(site, served, max_new_tokens=40) as answer:
        next(answer.iter_lines())  # and goes
    with asking(site, served) as answer:
        assert "".join(line.get("piece", "") for line in lines_of(answer)) == text_model.generate([PROMPT], 24)[0].text

    [worker] = site.app.state.trier._workers.values()
    with asking(site, served, max_new_tokens=40) as answer:
        lines = answer.iter_lines()
        next(lines)
        os.kill(worker._process.pid, signal.SIGKILL)
        assert "process has ended" in json.loads(list(lines)[-1])["error"]
    with asking(site, served) as answer:
        assert "done" in lines_of(answer)[-1]

    object.__setattr__(site.app.state.settings, "try_seconds", 0.0)
    with asking(site, served) as answer:
        assert "took too long" in lines_of(answer)[-1]["error"]
    assert site.app.state.trier._workers == {} == site.app.state.trier._folders


@pytest.mark.slow
def test_one_who_tries_while_all_are_busy_waits_and_is_told_if_it_takes_too_long(site, served, monkeypatch):
    monkeypatch.setattr("tfgpt.store.web.trying.WAIT_SECONDS", 0.5)
    with asking(site, served, max_new_tokens=40) as answer:
        first = answer.iter_lines()
        next(first)  # it is loaded
        os.kill(next(iter(site.app.state.trier._workers.values()))._process.pid, signal.SIGSTOP)
        with asking(site, served, reference="judges") as busy:
            assert busy.status_code == 429 and "Too many people try models now" in json.loads(busy.read())["error"]
        os.kill(next(iter(site.app.state.trier._workers.values()))._process.pid, signal.SIGCONT)
        assert "done" in json.loads(list(first)[-1])

    monkeypatch.setattr("tfgpt.store.web.trying.WAIT_SECONDS", 60.0)
    done = []

    def ask(reference):
        with asking(site, served, reference=reference) as answer:
            done.append("done" in lines_of(answer)[-1])

    threads = [threading.Thread(target=ask, args=(reference,)) for reference in ("writes", "judges", "writes")]
    for thread in threads:
        thread.start()
        time.sleep(0.05)  # so that their keys have names of their own
    for thread in threads:
        thread.join()
    assert done == [True] * 3


def test_what_is_not_tried(site, served):
    for asked, status, message in (({"max_new_tokens": 41}, 400, "give 1 to 40"), ({"prompt": "x" * 20_000}, 400, "20,000 bytes"),
                                   ({"scopes": ("read",)}, 403, "rita may not have a model write"), ({"reference": "nowhere"}, 404, "there is no model")):
        with asking(site, served, **asked) as answer:
            assert answer.status_code == status and message in json.loads(answer.read())["error"]
    assert site.app.state.trier._workers == {}
