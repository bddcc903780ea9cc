"""`tfgpt data prepare` and `tfgpt data inspect`, as a user calls them."""
import json

import pytest

from tests.commands import called

RECIPE = """
name: tiny
data: {path: rows.jsonl, examples: pairs, length: 64, clean: {deduplicate: exact}}
tokenizer: {vocab: 300}
model: {layers: 1, width: 16, heads: 2}
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli_data")
    rows = [{"prompt": f"What is {n} and one?", "target": f" It is {n + 1}."} for n in range(200)] + [{"prompt": "x", "target": ""}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture
def folder(written, monkeypatch):
    """A folder with a recipe, in which the command is called."""
    monkeypatch.chdir(written)
    return written


def test_prepare_writes_the_data_alone_and_says_what_became_of_it(folder):
    done = called("data", "prepare", "recipe.yaml", "--output", "prepared")

    assert done.returncode == 0, done.stderr
    assert {"read", "202", "empty", "left out: exact duplicate"} <= {part.strip() for line in done.stdout.splitlines() for part in line.split("│")}
    assert sorted(path.name for path in (folder / "prepared").iterdir()) == ["data", "recipe.yaml", "stages.json", "tokenizer"]


def test_prepare_with_beam_writes_the_same(folder):
    pytest.importorskip("apache_beam", reason="pip install 'tfgpt[beam]'")
    assert called("data", "prepare", "recipe.yaml", "--output", "prepared").returncode == 0

    done = called("data", "prepare", "recipe.yaml", "--output", "beamed", "--beam", "--", "--runner", "DirectRunner")

    assert done.returncode == 0, done.stderr
    files = {name: {path.name: path.read_bytes() for path in (folder / name / "data").iterdir()} for name in ("prepared", "beamed")}
    stats = [json.loads(of.pop("stats.json")) for of in files.values()]
    assert files["prepared"] == files["beamed"]
    assert stats[0] == stats[1]


def test_a_shard_changed_in_place_is_told(folder):
    assert called("data", "prepare", "recipe.yaml", "--output", "changed").returncode == 0
    shard = next((folder / "changed" / "data").glob("train-*"))
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 255
    shard.write_bytes(raw)

    done = called("data", "prepare", "recipe.yaml", "--output", "changed")

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: changed/data/{shard.name}: its SHA-256 is not the one in index.json")


def test_inspect_answers_and_shows_what_is_trained_on(folder):
    pytest.importorskip("py3langid", reason="pip install 'tfgpt[inspect]'")

    shown = called("data", "inspect", "recipe.yaml", "--output", "inspected")
    as_json = called("data", "inspect", "recipe.yaml", "--output", "inspected", "--json")

    assert shown.returncode == as_json.returncode == 0, shown.stderr + as_json.stderr
    for part in ("Is it enough? Not in all:", "Is it clean? Yes.", "Is it relevant?", "«trained on»", "┃", "« It is "):
        assert part in shown.stdout
    found = json.loads(as_json.stdout)
    assert found["quality"]["documents"] == found["stats"]["splits"]["train"]["documents"]
    assert {judgement["question"] for judgement in found["judgements"]} == {"enough", "clean", "relevant"}
    assert (folder / "inspected" / "inspection.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data"], "tfgpt data: nothing is no action; give prepare or inspect"),
        (["data", "prepare"], "tfgpt data prepare: the recipe is missing"),
        (["data", "prepare", "recipe.yaml", "--data.columns.prompt", "ask"], "no column 'ask' (columns: prompt, target); set data.columns.prompt"),
        (["data", "prepare", "recipe.yaml", "--data.kind", "parquet"], "rows.jsonl: not a whole Parquet file"),
        (["data", "prepare", "recipe.yaml", "--data.clean.mask", "[name]"], "data.clean.mask: name is no kind of personal data; choose from email"),
        (["data", "prepare", "recipe.yaml", "--", "--runner", "FlinkRunner"], "--runner after -- is for Beam's runner; give --beam too"),
        (["run", "recipe.yaml", "--data.examples", "labels"], "data.examples: labels is for a head"),
    ],
)
def test_a_wrong_call_ends_with_code_2_and_one_line(folder, arguments, message):
    done = called(*arguments)

    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
