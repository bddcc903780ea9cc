import json

import pytest

from tfgpt import cli


def test_searches_are_timed_and_find_something(capsys):
    assert cli.main(["bench", "store", "--models", "20", "--searches", "40", "--json"]) == 0

    result = json.loads(capsys.readouterr().out)

    assert (result["database"], result["models"], result["searches"]) == ("SQLite", 20, 40)
    assert result["found"] > 0 and 0 < result["p50_milliseconds"] <= result["p95_milliseconds"] <= result["most_milliseconds"]


@pytest.mark.parametrize("key", ["models", "searches"])
def test_no_models_and_no_searches_are_refused(capsys, key):
    assert cli.main(["bench", "store", f"--{key}", "0"]) == cli.USAGE
    assert f"--{key} 0 is too small; give 1 or more" in capsys.readouterr().err
