"""What an export may hold beside the rest: a beam search, and a draft model that `generate` guesses with."""
import numpy as np
import pytest
import tensorflow as tf

from tests.small_models import CONTEXT
from tfgpt import cli
from tfgpt.models import build
from tfgpt.models.weights import pytorch_name
from tfgpt.recipe import ModelConfig
from tfgpt.serving.batched import BatchedModel
from tfgpt.serving.errors import BadRequestError
from tfgpt.serving.limits import Limits
from tfgpt.serving.saved_model import LoadedModel

NEW = 9


@pytest.fixture(scope="module")
def folders(model, tokenizer, tmp_path_factory):
    """A run, and that of a model of its first layer alone, which guesses often right and often not."""
    small = build.new_model(ModelConfig(layers=1, width=32, heads=4, dropout=0.0), CONTEXT, tokenizer, seed=3)
    of_model = {pytorch_name(variable): variable for variable in model.weights}
    for variable in small.weights:
        variable.assign(of_model[pytorch_name(variable)])
    found = {name: tmp_path_factory.mktemp("runs") / name for name in ("large", "small")}
    for name, each in (("large", model), ("small", small)):
        each.save_pretrained(found[name] / "model")
        tokenizer.save_pretrained(found[name] / "tokenizer")
    return found


@pytest.fixture(scope="module")
def version(folders):
    arguments = ["--beams", "3", "--draft", str(folders["small"]), "--draft-tokens", "3", "--max-new-tokens", str(NEW)]
    assert cli.main(["export", str(folders["large"]), *arguments, "--batch-sizes", "2", "--length-buckets", "8"]) == cli.DONE
    return folders["large"] / "export" / "large" / "1"


@pytest.fixture(scope="module")
def loaded(version):
    return LoadedModel(version)


def texts_of(outputs):
    return [text.decode() for text in outputs["text"]]


def test_the_signature_searches_as_the_model_does(loaded, text_model, prompts):
    given = {"length_penalty": [0.0, 1.0, 2.0, -0.5] * 5, "max_new_tokens": [NEW, 3, 0, 5] * 5, "no_repeat_ngram_size": [2]}

    outputs = loaded.predict("search", {"prompt": np.array(prompts, object)} | {name: np.array(value) for name, value in given.items()})

    expected = text_model.search(prompts, 3, given["max_new_tokens"], length_penalty=given["length_penalty"], no_repeat_ngram_size=2)
    assert texts_of(outputs) == [row.text for row in expected]
    np.testing.assert_allclose(outputs["log_prob"], [row.log_prob for row in expected], atol=1e-3)  # sums of fp32 in another graph
    assert outputs["finish_reason"].tolist() == [row.finish_reason.encode() for row in expected]


def test_each_row_has_its_own_end(loaded, text_model, prompts):
    """Rows of both ways to end early share a batch."""
    some, ends = prompts[:6], (False, True, "never")

    outputs = loaded.predict("search", {"prompt": np.array(some, object), "early_stopping": np.array([0, 1, 2] * 2), "length_penalty": np.array([0.0])})

    assert texts_of(outputs) == [text_model.search([prompt], 3, NEW, early_stopping=ends[number % 3], length_penalty=0.0)[0].text
                                 for number, prompt in enumerate(some)]


def test_numbers_that_no_client_of_ours_may_send_are_brought_into_range(loaded, prompts):
    def ask(**numbers):
        return texts_of(loaded.predict("search", {"prompt": np.array(prompts[:4], object)} | {name: np.array([value]) for name, value in numbers.items()}))

    assert ask(length_penalty=np.nan, early_stopping=9) == ask(length_penalty=1.0, early_stopping=2)
    assert ask(length_penalty=-np.inf, early_stopping=-3) == ask(length_penalty=-10.0, early_stopping=0)


def test_the_prompt_alone_is_enough_and_stops_are_taken(loaded, text_model, prompts):
    stop = np.array([["t", "e"]] * len(prompts), object)

    assert texts_of(loaded.predict("search", {"prompt": np.array(prompts, object)})) == [row.text for row in text_model.search(prompts, 3, NEW)]
    stopped = loaded.predict("search", {"prompt": np.array(prompts, object), "stop": stop})
    assert texts_of(stopped) == [row.text for row in text_model.search(prompts, 3, NEW, stop=["t", "e"])]
    assert {b"stop", b"length"} == set(stopped["finish_reason"].tolist())


@pytest.mark.parametrize("given", [{}, {"temperature": [0.9], "seed": list(range(20))}])
def test_a_draft_model_changes_no_text(loaded, exported, prompts, given):
    inputs = {"prompt": np.array(prompts, object), "max_new_tokens": np.array([NEW])} | {name: np.array(value) for name, value in given.items()}

    assert texts_of(loaded.predict("generate", inputs)) == texts_of(LoadedModel(exported).predict("generate", inputs))


def test_a_draft_model_is_in_the_version(version, exported):
    """Its weights are variables of the graph that is served."""
    def count(folder):
        return sum(np.prod(shape) for _, shape in tf.train.list_variables(str(folder / "variables" / "variables")))

    assert count(version) > 1.5 * count(exported)


def test_the_servers_batch_writes_and_searches_the_same_texts(version, text_model, prompts):
    served = BatchedModel(version)
    try:
        written = served.predict("generate", {"prompt": np.array(prompts[:4], object), "max_new_tokens": np.array([NEW], np.int32)})
        searched = served.predict("search", {"prompt": np.array(prompts[:4], object)})
    finally:
        served.close()

    assert texts_of(written) == [row.text for row in text_model.generate(prompts[:4], NEW)]
    assert texts_of(searched) == [row.text for row in text_model.search(prompts[:4], 3, NEW)]


@pytest.fixture(scope="module")
def limited(version):
    served = BatchedModel(version, Limits(max_new_tokens=5, max_stops=2))
    yield served
    served.close()


@pytest.mark.parametrize(("given", "message"), [
    ({"max_new_tokens": [6]}, "max_new_tokens: 6 is more than this server writes; give at most 5"),
    ({"max_new_tokens": [-6]}, "max_new_tokens: -6 is not between 0 and"),
    ({"min_new_tokens": [-1]}, "min_new_tokens: -1 is not between 0 and"),
    ({"repetition_penalty": [-2.0]}, "repetition_penalty: -2.0 is not between 0 and"),
    ({"presence_penalty": [np.inf]}, "presence_penalty: inf is not between"),
    ({"length_penalty": [99.0]}, "length_penalty: 99.0 is not between -10 and 10"),
    ({"length_penalty": [np.nan]}, "length_penalty: nan is not between"),
    ({"early_stopping": [3]}, "early_stopping: 3 is not between 0 and 2"),
    ({"early_stopping": [0, 1, 2]}, "early_stopping: 3 values for 2 prompts"),
    ({"banned_tokens": [[99999]]}, "banned_tokens: 99999 is no token; give ids from 0 to 511"),
    ({"forced_tokens": [[-2]]}, "forced_tokens: -2 is no token"),
    ({"stop": [["a", "b", "c"]]}, "stop: 3 in a row; give at most 2"),
    ({"forced_tokens": [[1] * 300]}, "forced_tokens: 300 in a row"),
])  # fmt: skip
def test_what_a_search_cannot_be_asked_for_is_refused_as_in_generate(limited, given, message):
    with pytest.raises((BadRequestError, ValueError), match=message):
        limited.predict("search", {"prompt": np.array(["one", "two"], object)} | {name: np.array(value) for name, value in given.items()})


def test_a_search_writes_no_more_than_the_server_does_where_nothing_is_asked(limited, text_model):
    found = limited.predict("search", {"prompt": np.array(["It was"], object), "min_new_tokens": np.array([5])})

    assert found["token_count"].tolist() == [5] and texts_of(found) == [text_model.search(["It was"], 3, 5, min_new_tokens=5)[0].text]


@pytest.mark.slow
def test_the_check_compares_the_search_too(version, folders, capsys):
    assert cli.main(["export", "--check", str(version), "--model", str(folders["large"])]) == cli.DONE

    assert "model search" in capsys.readouterr().out


def test_without_beams_there_is_no_search(exported):
    assert "search" not in LoadedModel(exported).signatures


def test_a_draft_of_another_vocabulary_is_refused(folders, tokenizer, tmp_path, capsys):
    other = build.new_model(ModelConfig(layers=1, width=8, heads=2), CONTEXT - 1, tokenizer, seed=1)
    other.save_pretrained(tmp_path)

    assert cli.main(["export", str(folders["large"]), "--draft", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "draft: its vocabulary of 512 tokens must be the model's 512, and its context of 47 no shorter than 48" in capsys.readouterr().err
