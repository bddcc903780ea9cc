import contextlib
import dataclasses
import json
import shutil

import pytest

from tfgpt import cli
from tfgpt.bench import serve
from tfgpt.bench.load import run_clients
from tfgpt.bench.served import Server, served
from tfgpt.bench.soak import KINDS, Soak, cases_of, kinds_of, malformed, unknown


@pytest.fixture(scope="module")
def base(exported, tmp_path_factory):
    """Where the tiny model is served as version 1."""
    base = tmp_path_factory.mktemp("served") / "tiny"
    shutil.copytree(exported, base / "1")
    return base


@pytest.fixture(scope="module")
def server(base):
    with served(base) as server:
        yield server


@pytest.fixture(scope="module")
def cases(exported, documents):
    return cases_of([exported], documents, count=6)


@pytest.mark.slow
def test_the_command_times_both_protocols_and_finds_every_answer_right(exported, capsys):
    arguments = ["--export", str(exported.parent), "--clients", "1", "3", "--rounds", "1", "--new-tokens", "5", "--requests", "48", "--swaps", "1"]

    assert cli.main(["bench", "serve", *arguments, "--json"]) == cli.DONE
    result = json.loads(capsys.readouterr().out)

    assert list(result["protocols"]) == ["openai", "rest"]
    for protocol, rows in result["protocols"].items():
        assert list(rows) == ["1", "3"] and rows["1"]["to_first"] == 1.0
        assert rows["3"]["to_first"] == pytest.approx(rows["3"]["tokens_per_second"] / rows["1"]["tokens_per_second"])  # of one round
        for row in rows.values():
            if protocol == "rest":
                assert row["p99_to_p50"] is None
            else:
                assert 0 < row["first_token_p50_seconds"] <= row["first_token_p99_seconds"] == pytest.approx(
                    row["first_token_p50_seconds"] * row["p99_to_p50"])  # fmt: skip
    soak = result["soak"]
    assert (soak["requests"], soak["lost"], soak["wrong"], soak["told"], soak["swaps"]) == (48, 0, 0, [], 1)
    assert soak["kinds"] == {kind: 2 * times for kind, times in KINDS.items()}  # 24 requests have all of them once
    memory = soak["memory_megabytes"]
    assert memory["warm-up"] > 300  # a process with TensorFlow in it
    assert soak["steady_growth"] == pytest.approx(memory["steady"] / memory["warm-up"] - 1)
    assert soak["swaps_growth"] == pytest.approx(memory["swaps"] / memory["steady"] - 1)


def test_a_wrong_text_a_wrong_score_and_a_wrong_beginning_are_seen(server, base, cases, documents):
    other = [dataclasses.replace(case, texts=(f"~{case.texts[0]}",), log_probs=(case.log_probs[0] - 1.0,)) for case in cases]

    result = Soak([base / "1"], documents, 48, swaps=0, cases=other).run(server, base)

    refused = result["kinds"]["malformed"] + result["kinds"]["unknown"]
    assert (result["lost"], result["wrong"]) == (0, 48 - refused)
    assert len(result["told"]) == 5 and all(": wrong: " in told for told in result["told"])


def test_texts_of_two_models_in_one_answer_are_wrong(server, base, cases, documents):
    mixed = [dataclasses.replace(case, texts=(case.texts[0], "~") if number % 2 else ("~", case.texts[0]), log_probs=case.log_probs * 2)
             for number, case in enumerate(cases)]

    result = Soak([base / "1"], documents, 48, swaps=0, cases=mixed).run(server, base)

    asked = [number for number, kind in enumerate(kinds_of(48)) if kind in ("rows", "columns")]
    assert result["wrong"] == sum(number % 3 > 0 for number in asked) > 0  # those with more rows than one, whose cases stand side by side


def test_a_model_that_is_not_there_loses_every_good_request(server, base, cases, documents):
    absent = Server(server.url, "absent", server.pid)

    result = Soak([base / "1"], documents, 24, swaps=0, cases=cases).run(absent, base)

    assert result["lost"] > 24 - KINDS["malformed"] - KINDS["unknown"] - 1  # of the malformed ones those whose model is looked up first are lost too
    assert result["wrong"] == 0


def test_a_server_that_is_gone_loses_every_request(base, cases, documents):
    with contextlib.ExitStack() as running:
        server = running.enter_context(served(base))
        calls = [Soak([base / "1"], documents, 0, swaps=0, cases=cases)._call(server, kind, 1) for kind in KINDS]
    outcomes = run_clients(server.url, 2, calls)

    assert sorted(outcome.kind for outcome in outcomes) == sorted(KINDS)
    assert {outcome.verdict for outcome in outcomes} == {"lost"}
    with pytest.raises(RuntimeError, match="the server has ended by itself"):
        server.resident_megabytes()


def test_what_must_be_refused_is_all_sent(server):
    assert len(malformed("tiny")) == len(set(malformed("tiny"))) > 20 and len(unknown("tiny")) == len(set(unknown("tiny")))


def test_a_text_of_another_length_is_told(server, documents):
    load = serve.Load(clients=(1,), rounds=1, new_tokens=100)  # the model has room for 48 tokens

    with pytest.raises(RuntimeError, match=r"the server wrote \[.*\] tokens instead of 100; give --new-tokens"):
        serve._in_turns(server, load, documents)


def test_a_failed_server_is_told(tmp_path):
    with pytest.raises(RuntimeError, match="tfgpt bench serve: the server ended: .*holds no version"), served(tmp_path / "nothing"):
        pass


def test_lost_requests_fail_the_command_and_are_printed(monkeypatch, capsys):
    rows = {1: serve.figures([100.0], [100.0], [0.02]), 16: serve.figures([500.0], [100.0], [0.03, 0.05])}
    soak = {"requests": 24, "seconds": 3.0, "lost": 1, "wrong": 0, "kinds": {"rows": 24}, "told": ["rows: lost: 503 x"], "swaps": 2,
            "memory_megabytes": {"warm-up": 1000.0, "steady": 1010.0, "swaps": 1212.0}, "steady_growth": 0.01, "swaps_growth": 0.2}
    asked = []
    monkeypatch.setattr(serve, "run", lambda *given: asked.append(given) or {"protocols": {"openai": rows}, "soak": soak})

    assert cli.main(["bench", "serve", "--requests", "24", "--swaps", "2"]) == cli.FAILED
    table = capsys.readouterr().out

    assert asked == [(serve.Load((1, 16), 5, 64, 24, 2), None)]
    assert ["16", "500", "5.00", "40", "50", "1.25"] in [line.split() for line in table.splitlines()]
    assert "24 mixed requests in 3 s (24 rows): 1 lost, 0 wrong\n  rows: lost: 503 x\n" in table
    assert "1,000 MB after the warm-up, 1,010 MB then (+1.0%), 1,212 MB after 2 swaps of versions (+20.0%)" in table


@pytest.mark.parametrize(("wrong", "least"), [(["--clients", "1", "0"], 1), (["--rounds", "0"], 1), (["--new-tokens", "0"], 1), (["--requests", "-1"], 0),
                                              (["--swaps", "-2"], 0)])  # fmt: skip
def test_a_number_that_is_too_small_is_refused(wrong, least, capsys):
    assert cli.main(["bench", "serve", *wrong]) == cli.USAGE
    assert f"tfgpt bench serve: {wrong[0]} {wrong[-1]} is too small; give {least} or more" in capsys.readouterr().err
