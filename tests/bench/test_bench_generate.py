import dataclasses
import json
import sys

import numpy as np
import pytest
import tensorflow as tf

from tfgpt import cli
from tfgpt.bench import generate
from tfgpt.bench.decoders import SIDES, WEIGHTS, Settings, convert_weights, prompts_of, write_weights
from tfgpt.bench.turns import figures, take_turns

TINY = Settings(layers=2, width=32, heads=4, vocab=300, context=64, batch=2, prompt=5, new_tokens=9)
SECONDS = {"tokens": 128, "seconds": 0.5, "peak_megabytes": 1234.5}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """With weights in the folder."""
    pytest.importorskip("torch", reason="pip install 'tfgpt[bench]'")
    pytest.importorskip("ctranslate2", reason="pip install 'tfgpt[bench]'")
    given = dataclasses.replace(TINY, folder=str(tmp_path_factory.mktemp("weights")))
    write_weights(given)
    return given


@pytest.fixture(scope="module")
def ids(settings):
    return written(settings, SIDES)


def written(settings, sides):
    """Return what each side writes; that of transformers without its graph, whose tracing takes a quarter of a minute."""
    found = {}
    for side in sides:
        tf.config.run_functions_eagerly(side == "transformers TF graph")
        try:
            found[side] = SIDES[side].make(settings, SIDES[side].weights, *SIDES[side].options)()
        finally:
            tf.config.run_functions_eagerly(False)
    return found


def answered(**ids):
    return {side.replace("_", " "): {"ids": rows} for side, rows in ids.items()}


def test_all_sides_with_float32_weights_write_what_pytorch_does(ids):
    full = [side for side in SIDES if SIDES[side].weights == "float32"]
    assert full == ["tfgpt graph float32", "tfgpt lite float32", "tfgpt lite float32, int8 draft", "transformers TF graph", "PyTorch", "CTranslate2 float32"]
    for side, of in SIDES.items():
        assert ids[side].shape == (2, 9)
        if of.weights == "float32":
            np.testing.assert_array_equal(ids[side], ids["PyTorch"], err_msg=side)


def test_the_rows_differ_and_do_not_repeat_one_token(ids):
    first, second = ids["PyTorch"].tolist()

    assert first != second
    assert len(set(first)) > 2 and len(set(second)) > 2  # else a side that forgets its cache would pass


def test_no_side_ends_where_the_model_would(settings, tmp_path):
    import torch
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(f"{settings.folder}/model")
    with torch.no_grad():  # now end-of-text is the likeliest token everywhere
        model.transformer.ln_f.bias.copy_(10.0 * model.transformer.wte.weight[settings.end_of_text])
    model.save_pretrained(tmp_path / "model")
    ending = dataclasses.replace(settings, folder=str(tmp_path))
    convert_weights(ending)
    logits = model(torch.from_numpy(prompts_of(ending)).long()).logits
    assert (logits.argmax(-1) == ending.end_of_text).all()

    for side, ids in written(ending, [side for side in SIDES if SIDES[side].weights == "float32"]).items():
        assert ids.shape == (2, 9) and ending.end_of_text not in ids, side


def test_a_larger_batch_begins_with_the_rows_of_a_smaller_one():
    one, eight = (prompts_of(dataclasses.replace(TINY, batch=batch)) for batch in (1, 8))

    assert eight.shape == (8, 5) and len(np.unique(eight, axis=0)) == 8
    np.testing.assert_array_equal(eight[:1], one)
    assert eight.max() < TINY.end_of_text


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (answered(tfgpt_graph_float32=[[1, 2, 4]], PyTorch=[[1, 2, 3]]), "graph float32 wrote other tokens than PyTorch: row 0, token 2 is 4 and not 3"),
        (answered(tfgpt_graph_float32=[[1, 2, 3]], CTranslate2_float32=[[5, 2, 3]]), "CTranslate2 float32 wrote other tokens than tfgpt graph float32: row 0"),
        (answered(PyTorch=[[1, 2, 3]], CTranslate2_int8=[[1, 2]]), r"the side CTranslate2 int8 wrote \[2\] tokens instead of 3 in each of 1 rows"),
        (answered(PyTorch=[[1, 2, 3], [1, 2, 3]]), r"the side PyTorch wrote \[3, 3\] tokens instead of 3 in each of 1 rows"),
    ],
)
def test_a_side_that_writes_something_else_is_named(answers, message):
    with pytest.raises(RuntimeError, match=message):
        generate.check_tokens(answers, dataclasses.replace(TINY, batch=1, new_tokens=3))


def test_rounded_weights_may_write_other_tokens():
    generate.check_tokens(answered(PyTorch=[[1, 2, 3]], CTranslate2_int8=[[7, 8, 9]]), dataclasses.replace(TINY, batch=1, new_tokens=3))


def test_weights_that_there_are_not_are_no_float32(settings):
    with pytest.raises(ValueError, match=f"weights: 'float8' is none of {', '.join(WEIGHTS['graph'])}"):
        SIDES["tfgpt graph float32"].make(settings, "float8", "graph")


@pytest.mark.slow
def test_the_sides_take_turns():
    pytest.importorskip("torch", reason="pip install 'tfgpt[bench]'")
    pytest.importorskip("ctranslate2", reason="pip install 'tfgpt[bench]'")

    result = generate.run(TINY, batches=(2,), rounds=1, sides=("tfgpt graph float32", "CTranslate2 float32"))  # and compares them

    assert list(result) == [2] and list(result[2]) == ["tfgpt graph float32", "CTranslate2 float32"]
    assert result[2]["tfgpt graph float32"]["to_first"] == 1.0
    for row in result[2].values():
        assert row["tokens_per_second"] * row["milliseconds"] / 1000 == pytest.approx(2)  # a token in each row
    assert result[2]["tfgpt graph float32"]["first_call_seconds"] > 10 * 9 * result[2]["tfgpt graph float32"]["milliseconds"] / 1000  # traced
    assert result[2]["tfgpt graph float32"]["peak_megabytes"] > 300 > result[2]["CTranslate2 float32"]["peak_megabytes"]  # no framework, nor our memory


def test_a_side_that_ends_is_told():
    with pytest.raises(RuntimeError, match="tfgpt bench generate: the side nobody ended: .*No module named 'nobody'.*pip install 'tfgpt.bench.'"):
        take_turns(generate.BENCH, {"nobody": [sys.executable, "-c", "import nobody"]}, rounds=1, times=1, first_times=1)


def test_the_table_has_a_line_for_each_side_of_each_batch(monkeypatch, capsys):
    rows = figures({"tfgpt graph float32": [SECONDS], "PyTorch": [SECONDS | {"seconds": 0.25}]}, steps=64)
    result = {batch: {side: row | {"first_call_seconds": 3.0} for side, row in rows.items()} for batch in (1, 4)}
    asked = []
    monkeypatch.setattr(generate, "run", lambda *given: asked.append(given) or result)

    assert cli.main(["bench", "generate", "--batch", "1", "4", "--model", "small"]) == cli.DONE
    table = capsys.readouterr().out
    assert cli.main(["bench", "generate", "--json"]) == cli.DONE
    figures_as_json = json.loads(capsys.readouterr().out)

    assert asked == [(generate.MODELS["small"], (1, 4), 5), (generate.MODELS["gpt2"], (1, 8), 5)]
    lines = [line.split() for line in table.splitlines()]
    assert [line for line in lines if line[0] == "batch"] == [["batch", "1"], ["batch", "4"]]
    assert [line for line in lines if line[0] == "PyTorch"] == [["PyTorch", "512", "2.00", "3.9", "3.0", "1,234"]] * 2
    assert figures_as_json["4"]["tfgpt graph float32"]["to_first"] == 1.0


@pytest.mark.parametrize("wrong", [["--batch", "0"], ["--batch", "1", "-3"], ["--rounds", "0"]])
def test_a_number_below_one_is_refused(wrong, capsys):
    assert cli.main(["bench", "generate", *wrong]) == cli.USAGE
    assert f"tfgpt bench generate: {wrong[0]} {wrong[-1]} is too small; give 1 or more" in capsys.readouterr().err
