"""What `tfgpt bench complete` counts; how fast a machine is, no test says."""
import json

import pytest

from tfgpt import cli
from tfgpt.bench import complete
from tfgpt.bench.served import Settings


def test_each_keystroke_is_timed_and_the_first_ones_do_not_count():
    found = complete.run(None, 30, Settings(layers=1, width=32, heads=2, vocab=300, context=64))

    assert found["keystrokes"] == 30 and 0 < found["p50_milliseconds"] <= found["p95_milliseconds"] <= found["most_milliseconds"]
    assert found["parameters"] < 50_000


def test_the_command_prints_the_figures(monkeypatch, capsys):
    figures = {"keystrokes": 2000, "p50_milliseconds": 4.04, "p95_milliseconds": 9.96, "most_milliseconds": 31.0, "parameters": 5_000_000}
    monkeypatch.setattr(complete, "run", lambda source, characters: figures | {"keystrokes": characters})

    assert cli.main(["bench", "complete", "--characters", "70"]) == 0
    assert capsys.readouterr().out == "70 keystrokes, model of 5,000,000 weights: p50 4.0 ms, p95 10.0 ms, the longest 31.0 ms\n"
    assert cli.main(["bench", "complete", "--json"]) == 0 and json.loads(capsys.readouterr().out) == figures


@pytest.mark.parametrize("arguments", [["--characters", "0"]])
def test_too_little_is_refused(arguments, capsys):
    assert cli.main(["bench", "complete", *arguments]) == 2
    assert "--characters 0 is too small; give 1 or more" in capsys.readouterr().err
