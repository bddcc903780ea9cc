"""Text generation: records with and without tags, likelihoods by the chain rule, a run on a user's file, and the call."""
import json
import math

import numpy as np
import pytest

from tests.commands import called
from tfgpt import cli
from tfgpt.data.examples import Fields
from tfgpt.data.intake import Intake
from tfgpt.data.readers import Record
from tfgpt.evaluation.ngram import NgramModel
from tfgpt.generation.loading import load_text_model
from tfgpt.recipe import TaskConfig
from tfgpt.recipe_data import ColumnsConfig, DataConfig
from tfgpt.tasks import generation
from tfgpt.tasks.generation import TASK, Writer

TAGGED = {"rain": "It rained on the {0} for {1} days.", "sun": "The sun shone over the {0} for {1} days."}
RECIPE = """
name: weather
data: {{path: {path}, length: 48, validation: 0.3}}
tokenizer: {{vocab: 300}}
model: {{layers: 1, width: 32, heads: 2, dropout: 0.0}}
task: {{kind: generation, columns: {{text: story, tags: mood}}}}
train: {{steps: 3, global_batch_size: 4, evaluate_every: 3, sample_prompts: []}}
evaluate: {{answers: 12, batch_size: 4}}
"""


def records_of(**fields):
    columns = ColumnsConfig()
    for name in ("tags",):
        object.__setattr__(columns, name, name)
    return list(TASK.records(Fields(Record(fields, "x:1"), columns, Intake(DataConfig(path="x")), "task.columns"), TaskConfig("generation")))


@pytest.mark.parametrize("tags", [["sad", "poem"], "poem sad", " poem | sad|", np.array(["poem", "sad", "sad"], object)])
def test_tags_of_any_form_and_order_give_one_prompt(tags):
    [record] = records_of(text="A text.\n", tags=tags)

    assert (record["prompt"], record["target"], record["tags"]) == ("[poem] [sad]\n", "A text.", ["poem", "sad"])


def test_tags_may_have_spaces_and_are_no_single_text(text_model):
    assert [record["tags"] for tags in ("short story | sad", ["short story", "sad"]) for record in records_of(text="A text.", tags=tags)] == [
        ["sad", "short story"]] * 2
    with pytest.raises(ValueError, match=r"tags: 'http' is one text; give a list, such as \['http'\]"):
        Writer(text_model).write("It", tags="http")


def test_a_text_without_tags_is_a_document_as_it_stands():
    assert records_of(text="A text.")[0]["prompt"] == records_of(text="A text.", tags=None)[0]["prompt"] == ""
    assert records_of(text=" \n") == []


def test_the_likelihood_of_a_text_behind_its_tags_is_that_of_its_tokens(text_model, tokenizer):
    text = "The form is deprecated."
    [(log_prob, tokens)] = generation._scores(text_model, ["[a]\n"], [text])

    [weighed] = text_model.score_targets(["[a]\n"], [text])

    # Behind an end-of-text token, which a text is scored from and a prompt is not: the same place in the context would give the same figure, so only near it.
    assert tokens == len(tokenizer.encode(text)) and log_prob == pytest.approx(weighed.log_prob, rel=0.35)
    [whole], [before] = text_model.score(["[a]\n" + text]), text_model.score(["[a]\n"])
    assert log_prob == pytest.approx(whole.log_prob - before.log_prob)


def test_metrics_by_hand():
    records = [{"text": "one two", "tags": ["a"]}, {"text": "three", "tags": ["b"]}]
    answers = [{"text": "x y x y", "log_prob": -2.0, "tokens": 2, "tag": "a"}, {"text": "x z", "log_prob": -4.0, "tokens": 1, "tag": "a"}]

    found = {name: metric.value for name, metric in TASK.metrics(records, answers).items()}

    assert found["perplexity"] == pytest.approx(math.exp(6 / 3)) and found["bits_per_byte"] == pytest.approx(6 / math.log(2) / 12)
    assert (found["distinct_1"], found["tag_accuracy"]) == (3 / 6, 0.5)


def test_the_baseline_draws_from_its_own_distribution(tokenizer):
    ngram = NgramModel([tokenizer.encode("a b c d e f")] * 5, 5, len(tokenizer), tokenizer.eos_token_id)

    assert generation._drawn(ngram, tokenizer, tokenizer.encode("a b"), np.random.default_rng(1)) == " c d e f"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stories")
    rows = [{"story": text.format(place, days), "mood": tag} for tag, text in TAGGED.items() for place in ("hill", "sea", "town") for days in range(2, 14)]
    (folder / "stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "weather.yaml").write_text(RECIPE.format(path=folder / "stories.jsonl"))
    done = called("run", folder / "weather.yaml", "--output", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


def test_a_run_measures_the_texts_it_holds_out_beside_an_ngram_and_the_texts_themselves(finished):
    folder, printed = finished

    task = json.loads((folder / "evaluation.json").read_text())["task"]
    assert set(task["metrics"]) == {"perplexity", "bits_per_byte", "distinct_1", "distinct_2", "repetition_4", "tag_accuracy"}
    assert set(task["baselines"]["5-gram, and the most frequent tag"]["metrics"]) == set(task["metrics"])
    assert set(task["baselines"]["the texts themselves"]["metrics"]) == {"distinct_1", "distinct_2", "repetition_4"}
    assert "the texts themselves" in printed


def test_the_same_seed_writes_the_same_text_and_another_one_another(finished):
    text_model = load_text_model(finished[0])
    writer = Writer(text_model)

    once, again, other = (writer.write("It rained", ["rain"], max_new_tokens=20, seed=seed) for seed in (1, 1, 2))

    assert once == again != other and once.text.startswith("It rained")
    [row] = text_model.generate(["<|endoftext|>[rain]\nIt rained"], 20, seed=1, temperature=0.8, top_p=0.95)  # begins as it did in training
    assert once.text == "It rained" + row.text


def test_a_text_longer_than_a_sequence_is_trained_on_whole(tmp_path):
    rows = [{"story": " ".join(f"word{number}" for number in range(start, start + 60)), "mood": "x"} for start in range(0, 3000, 60)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "weather.yaml").write_text(RECIPE.format(path=tmp_path / "long.jsonl"))

    assert cli.main(["data", "prepare", str(tmp_path / "weather.yaml"), "--output", str(tmp_path / "run"), "--tokenizer.kind", "char"]) == 0

    train = json.loads((tmp_path / "run" / "data" / "stats.json").read_text())["splits"]["train"]
    texts = [json.loads(line)["text"] for line in (tmp_path / "run" / "records" / "records.jsonl").read_text().splitlines() if '"train"' in line]
    assert train["tokens"] == sum(len(text) + 1 for text in texts) and train["too_long"] == 0
