"""Classification: from a user's file to calibrated probabilities, by a head and by the words of a language model."""
import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from tests.commands import called
from tfgpt import pipeline
from tfgpt.data.made_reviews import made_reviews
from tfgpt.evaluation.calibration import fit_temperature
from tfgpt.evaluation.text_metrics import calibration_error
from tfgpt.generation.loading import load_text_model
from tfgpt.recipe import RecipeError, TaskConfig
from tfgpt.recipe_file import load_recipe
from tfgpt.recipe_task import ClassificationConfig
from tfgpt.serving.saved_model import LoadedModel
from tfgpt.tasks.classification import TASK, Classifier

WORDS = ("sun", "rain", "snow", "wind")
RECIPE = """
name: weather
data: {{path: {path}, length: 48, validation: 0.25, bad_records: {bad}}}
tokenizer: {{vocab: 300}}
model: {{layers: 1, width: 32, heads: 2, dropout: 0.0}}
adapt: {{head: {{kind: {kind}}}}}
task: {{kind: classification, columns: {{label: sky}}, classification: {{calibration: 0.2}}}}
train: {{steps: {steps}, global_batch_size: 4, evaluate_every: {steps}, schedule: {{peak: 1.0e-2, warmup_steps: 5}}, sample_prompts: []}}
evaluate: {{answers: 0}}
"""


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rows = [{"text": f"{n} there is {WORDS[n % 4]} today", "sky": WORDS[n % 4 if n % 5 else (n + 1) % 4]} for n in range(240)]  # a fifth is wrong
    rows += [{"text": " ", "sky": "sun"}, {"text": "never seen 7", "sky": "hail"}]
    return write(tmp_path_factory.mktemp("table") / "skies.jsonl", rows)


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    hail = next(row for row in (f"never seen {n}" for n in range(99)) if _is_held_out(row))
    rows = lines_of(table)
    write(table, [*rows[:-1], {"text": hail, "sky": "hail"}])
    (folder / "skies.yaml").write_text(RECIPE.format(path=table, bad="skip", kind="classes", steps=80))
    done = called("run", folder / "skies.yaml", "--output", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run", done


def _is_held_out(text):
    from tfgpt.data.split import split_of

    return split_of(text, 0.25) == "validation"


def test_a_run_classifies_what_it_holds_out_and_stands_beside_the_baselines(finished):
    folder, done = finished
    records, answers = lines_of(folder / "records" / "records.jsonl"), lines_of(folder / "answers.jsonl")
    train, held_out = ([record for record in records if record["split"] == split] for split in ("train", "validation"))

    evaluation = json.loads((folder / "evaluation.json").read_text())

    assert [row["record"] for row in answers] == held_out
    right, found = [record["label"] for record in held_out], [row["answer"]["text"] for row in answers]
    values = {name: of["value"] for name, of in evaluation["metrics"].items()}
    assert values["accuracy"] == pytest.approx(metrics.accuracy_score(right, found)) and values["accuracy"] > 0.6
    assert values["macro F1"] == pytest.approx(metrics.f1_score(right, found, average="macro"))
    confidences = [max(row["answer"]["scores"].values()) for row in answers]
    assert values["calibration error"] == pytest.approx(calibration_error(confidences, np.equal(right, found)).value)
    assert sum(row["count"] for row in evaluation["task"]["reliability"]) == len(held_out)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    linear = LogisticRegression(C=10.0, max_iter=1000).fit(vectorizer.fit_transform([record["text"] for record in train]), [row["label"] for row in train])
    theirs = evaluation["task"]["baselines"]["TF-IDF and logistic regression"]
    share = linear.score(vectorizer.transform([record["text"] for record in held_out]), right)
    assert theirs["metrics"]["accuracy"]["value"] == pytest.approx(share) and theirs["compared"]["accuracy"]["p"] <= 1
    assert evaluation["head"]["metrics"]["accuracy"]["value"] == pytest.approx(values["accuracy"])  # on packed sequences, the same texts
    assert "TF-IDF and logistic regression" in done.stdout and (folder / "report.html").exists()


def test_what_is_kept_for_calibration_is_neither_trained_nor_measured_on(finished):
    folder, done = finished
    records, kept = lines_of(folder / "records" / "records.jsonl"), lines_of(folder / "records" / "calibration.jsonl")
    stats = json.loads((folder / "records" / "stats.json").read_text())
    packed = json.loads((folder / "data" / "stats.json").read_text())["splits"]

    assert {row["split"] for row in kept} == {"calibration"} and {row["split"] for row in records} == {"train", "validation"}
    assert not {row["text"] for row in kept} & {row["text"] for row in records} and 20 < len(kept) < 60
    assert stats["records"]["calibration"] == len(kept) and packed["train"]["documents"] == stats["records"]["train"]
    assert f"by {len(kept)} records that were not trained on" in done.stderr


def test_an_empty_text_and_a_label_never_seen_in_training_are_counted(finished, table):
    stats = json.loads((finished[0] / "records" / "stats.json").read_text())

    assert (stats["read"], stats["empty"], stats["refused"]) == (242, 1, {"label never seen in training": 1})
    assert f"{table}:242: no record for training has the label 'hail'" in stats["refused_places"][0]
    assert "hail" not in (finished[0] / "data" / "labels.txt").read_text()


def test_the_temperature_is_in_the_model_the_export_and_the_answers(finished):
    folder, _ = finished
    kept = lines_of(folder / "records" / "calibration.jsonl")
    text_model = load_text_model(folder)
    head = text_model.model.adaptation.head
    logits = text_model.judge.logits_graph(np.array([row["text"] for row in kept], object)).numpy().astype(float)
    places = [head.labels.index(row["label"]) for row in kept]

    def loss(temperature):
        scaled = logits / temperature
        return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(places)), places]))

    assert head.temperature > 1.05  # a fifth of the labels is noise, part of which was learned by heart
    assert loss(head.temperature) < min(loss(head.temperature * 1.05), loss(head.temperature / 1.05), loss(1.0))
    scaled = np.exp(logits / head.temperature)
    exported = LoadedModel(folder / "export" / "weather" / "1").predict("classify", {"text": np.array([row["text"] for row in kept], object)})
    for scores in (exported["scores"], [row.scores for row in text_model.classify([row["text"] for row in kept])]):
        np.testing.assert_allclose(scores, scaled / scaled.sum(axis=1, keepdims=True), atol=1e-5)  # float32 beside float64
    before = Classifier(text_model).classify([kept[0]["text"]])[0].before
    np.testing.assert_allclose(list(before.values()), np.exp(logits[0]) / np.exp(logits[0]).sum(), atol=1e-5)


@pytest.mark.parametrize(("more", "message"), [
    ([], "skies.jsonl:242: no record for training has the label 'hail'; give more records of it, or correct it, or set data.bad_records to skip"),
    (["--task.columns.label", "klasse"], "no column 'klasse' (columns: text, sky); set task.columns.label to one of them"),
    (["--adapt.head.kind", "none"], "adapt.head.kind: none, and classification is learned by a head; set it to classes or labels"),
    (["--task.template", "{text}:"], "task.template: '{text}:', and a head reads the text alone"),
    (["--task.classification.by", "words"], "task.classification.words: 0 labels leave no choice"),
    (["--task.classification.calibration", "1"], "task.classification.calibration: 1.0 is not in [0, 1)"),
    (["--task.long_text", "refuse"], "task.long_text: refuse is nothing that classification can do; set it to auto or cut"),
])
def test_what_cannot_be_is_refused_before_any_training(finished, table, tmp_path, more, message):
    (tmp_path / "skies.yaml").write_text(RECIPE.format(path=table, bad="refuse", kind="classes", steps=2))

    done = called("run", tmp_path / "skies.yaml", "--output", tmp_path / "run", *more)

    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "model").exists()


def test_any_number_of_labels_is_learned_calibrated_and_measured(tmp_path):
    rows = [{"text": f"{n} {'sun ' * (n % 2)}{'rain ' * (n % 3 == 0)}today", "sky": ["sun"] * (n % 2) + ["rain"] * (n % 3 == 0)} for n in range(120)]
    (tmp_path / "skies.yaml").write_text(RECIPE.format(path=write(tmp_path / "rows.jsonl", rows), bad="refuse", kind="labels", steps=60))

    pipeline.run(load_recipe(tmp_path / "skies.yaml")[0], tmp_path / "run", until="evaluate")

    answers, evaluation = lines_of(tmp_path / "run" / "answers.jsonl"), json.loads((tmp_path / "run" / "evaluation.json").read_text())
    exact = np.mean([row["record"]["label"] == row["answer"]["text"] for row in answers])
    assert evaluation["metrics"]["accuracy"]["value"] == pytest.approx(exact) and exact > 0.9
    assert sum(row["count"] for row in evaluation["task"]["reliability"]) == 2 * len(answers)  # each label is a decision
    assert set(evaluation["task"]["baselines"]["TF-IDF and logistic regression"]["compared"]) >= {"accuracy", "macro F1", "calibration error"}


def test_words_are_compared_without_a_label_in_training(tmp_path):
    rows = [{"text": f"{n} there is {WORDS[n % 2]}.", "sky": WORDS[n % 2]} for n in range(60)]
    path = write(tmp_path / "rows.jsonl", [*rows, {"text": "odd", "sky": "fog"}])
    (tmp_path / "skies.yaml").write_text(RECIPE.format(path=path, bad="skip", kind="none", steps=2))
    words = "{by: words, words: {sun: ' bright', rain: ' wet'}}"
    given = ["--task.classification", words, "--task.template", "{text} So it is"]

    pipeline.run(load_recipe(tmp_path / "skies.yaml", given)[0], tmp_path / "run", until="evaluate")

    answers, evaluation = lines_of(tmp_path / "run" / "answers.jsonl"), json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert {"perplexity", "task"} <= set(evaluation) and {"accuracy", "accuracy before", "calibration error"} <= set(evaluation["metrics"])
    assert json.loads((tmp_path / "run" / "records" / "stats.json").read_text())["refused"] == {"label without a word": 1}
    assert not (tmp_path / "run" / "records" / "calibration.jsonl").exists()
    text_model = load_text_model(tmp_path / "run")
    prompts = [f"{answers[0]['record']['text']} So it is", "So it is", "N/A So it is", "... So it is"]
    likely = np.exp([[text_model.choose(["<|endoftext|>" + prompt], [" bright", " wet"])[0].log_probs] for prompt in prompts])[:, 0]
    shares = likely / likely.sum(axis=1, keepdims=True)
    corrected = shares[0] / shares[1:].mean(axis=0)
    np.testing.assert_allclose(list(answers[0]["answer"]["scores"].values()), corrected / corrected.sum(), rtol=1e-4)  # the batch has other shapes
    np.testing.assert_allclose(list(answers[0]["answer"]["before"].values()), shares[0], rtol=1e-4)


def test_a_correction_takes_out_what_the_words_are_by_themselves(text_model):
    words = {"yes": " the", "no": " a"}
    of_texts = ("The first.", "Another one.")

    plain = Classifier(text_model, words, neutral=()).classify(of_texts)
    corrected = Classifier(text_model, words, neutral=of_texts[:1]).classify(of_texts)

    assert plain[0].scores == plain[0].before
    np.testing.assert_allclose(list(corrected[0].scores.values()), 0.5, atol=1e-6)  # beside itself nothing is told
    odds = [row.scores["yes"] / row.scores["no"] for row in (plain[1], plain[0], corrected[1])]
    assert odds[2] == pytest.approx(odds[0] / odds[1], rel=1e-4)


def test_a_model_without_a_head_or_words_is_refused(text_model):
    with pytest.raises(ValueError, match="the model's head is of kind none, and not classes or labels; give words"):
        Classifier(text_model)
    with pytest.raises(ValueError, match="1 words leave no choice"):
        Classifier(text_model, {"yes": " yes"})
    with pytest.raises(ValueError, match="texts is one text"):
        Classifier(text_model, {"yes": " yes", "no": " no"}).classify("text")


def test_temperatures_worked_by_hand():
    three_of_four = np.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])

    assert fit_temperature(three_of_four, np.array([0, 0, 0, 1])) == pytest.approx(2.0 / np.log(3.0), rel=1e-6)  # odds of 3 to 1
    assert fit_temperature(three_of_four, np.array([0, 0, 0, 0])) == pytest.approx(0.25)  # the least, where it would be 0
    assert fit_temperature(three_of_four, np.array([0, 1, 0, 1])) == pytest.approx(16.0)  # the most, where it would be infinite
    labels = np.array([[True, False]] * 3 + [[False, True]])
    assert fit_temperature(np.array([[2.0, -2.0]] * 4), labels) == pytest.approx(2.0 / np.log(3.0), rel=1e-6)


def test_several_labels_are_decisions_of_their_own():
    records = [{"label": "a|b"}, {"label": "|"}]
    answers = [{"text": "a", "scores": {"a": 0.75, "b": 0.25}, "several": True}, {"text": "|", "scores": {"a": 0.25, "b": 0.25}, "several": True}]

    found = TASK.metrics(records, answers)

    assert found["accuracy"].value == 0.5 and found["macro F1"].value == pytest.approx((1.0 + 0.0) / 2)
    assert found["calibration error"].diagram == ({"confidence": 0.75, "accuracy": 0.75, "count": 4},)
    assert found["calibration error"].value == 0.0 and found["calibration error"].texts == 2  # 0.75 said, three of four right


def test_settings_of_another_task_are_refused():
    with pytest.raises(RecipeError, match="task.classification: given, and task.kind is question_answering"):
        TaskConfig("question_answering", classification=ClassificationConfig(calibration=0.2))


def test_what_is_made_is_what_it_says():
    rows = made_reviews()

    with_verdict = [row for row in rows if "All in all" in row["text"]]
    said = {"good": "positive", "bad": "negative", "ordinary": "neutral"}
    wrong = np.mean([said[row["text"].split()[-1].rstrip(".")] != row["label"] for row in with_verdict])
    assert 0.13 < len(with_verdict) / len(rows) < 0.17 and 0.035 < wrong < 0.065  # 1,500 draws of 0.05 spread by 0.0056
    code = "from tfgpt.data.made_reviews import made_reviews; print(made_reviews()[4321]['text'])"
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert elsewhere.strip() == rows[4321]["text"]
