"""Speech: lists of any recogniser rescored, weights tuned, intents read; and real lists of spoken text."""
import dataclasses
import importlib.util
import json
import random
import shutil
import subprocess
import sys
import wave

import jiwer
import numpy as np
import pytest

from tests.commands import called
from tfgpt import pipeline
from tfgpt.data import spoken
from tfgpt.data.made_commands import TEMPLATES, made_commands
from tfgpt.data.mishearings import misheard
from tfgpt.data.spoken import RATE, hypotheses_of, read_wav
from tfgpt.generation.loading import load_text_model
from tfgpt.generation.results import Score
from tfgpt.recipe import RecipeError, TaskConfig
from tfgpt.recipe_file import load_recipe
from tfgpt.recipe_task import SpeechConfig
from tfgpt.tasks.speech import TASK, Hypothesis, Rescorer, Weights, as_spoken, hypotheses_from, measure_lists, recognise, tune, tuned_weights

RECIPE = """
name: heard
data: {{path: {path}, length: 32, validation: 0.25, bad_records: {bad}}}
tokenizer: {{vocab: 300}}
model: {{layers: 1, width: 32, heads: 2, dropout: 0.0}}
adapt: {{head: {{kind: classes, weight: 0.5}}}}
task: {{kind: speech, columns: {{text: said}}, speech: {{kept: 0.2}}}}
train: {{steps: 60, global_batch_size: 4, evaluate_every: 60, schedule: {{peak: 1.0e-2, warmup_steps: 5}}, sample_prompts: []}}
evaluate: {{answers: 0}}
"""
SAID = ["call the office", "play their new song", "wake me up at two"]
speaks = pytest.mark.skipif(shutil.which("espeak-ng") is None or importlib.util.find_spec("pocketsphinx") is None,
                            reason="espeak-ng or pocketsphinx is absent; apt-get install espeak-ng, pip install 'tfgpt[speech]'")


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Reader:
    """A language model that gives each known word 2 nats and any other 5."""

    def __init__(self, words):
        self.words, self.read = set(words.split()), []

    def score(self, texts, batch_size):
        self.read += texts
        return [Score(-sum(2.0 if word in self.words else 5.0 for word in text.split()), 1, 1.0) for text in texts]


def test_features_worked_by_hand_and_each_text_read_once():
    reader = Reader("turn on the light")

    found = measure_lists(reader, [[Hypothesis("Turn on the Light!"), Hypothesis("turn on delight")], [Hypothesis("turn on the light", -7.5)]])

    np.testing.assert_allclose(found[0].features, [[0.0, -8.0, 4], [-np.log(2), -9.0, 3]])
    np.testing.assert_allclose(found[1].features, [[-7.5, -8.0, 4]])
    assert found[0].texts[0] == "Turn on the Light!" and sorted(reader.read) == ["turn on delight", "turn on the light"]


def test_tuned_weights_beat_the_recogniser_where_its_errors_are_words_that_nobody_says():
    draw, words = random.Random(1), ["turn", "on", "the", "light", "in", "my", "room", "for", "four", "minutes"]
    said = [" ".join(draw.choices(words, k=5)) for _ in range(60)]
    lists = [[Hypothesis(" ".join(["delight", *text.split()[1:]]), -1.0), Hypothesis(text, -1.5 - draw.random())] for text in said[:40]]
    lists += [[Hypothesis(text, -1.0), Hypothesis(text.split(" ", 1)[1], -4.0)] for text in said[40:]]  # a shorter one, which a language model prefers
    measured = measure_lists(Reader(" ".join(words)), lists)

    weights = tune(measured[::2], said[::2])

    best = [one.texts[int(np.argmax(one.features @ [weights.recogniser, weights.language, weights.words]))] for one in measured[1::2]]
    assert jiwer.wer(said[1::2], [one[0].text for one in lists[1::2]]) > 0.1 and best == said[1::2]
    alone = [one.texts[int(np.argmax(one.features[:, 1]))] for one in measured[1::2]]
    assert jiwer.wer(said[1::2], alone) > 0.05  # the likeliest text alone is not what was said


def test_a_language_model_that_knows_nothing_is_not_leant_on():
    lists = [[Hypothesis("one two"), Hypothesis("two one")], [Hypothesis("two three"), Hypothesis("one three")]]

    assert tune(measure_lists(Reader(""), lists), ["one two", "two three"]) == Weights(1.0, 0.0, 0.0)
    assert tune([], []) == Weights()


def test_the_rank_is_the_sum_and_equal_ones_keep_the_recognisers_order(text_model):
    lists = [["It was", "The first one", "it WAS."], [{"text": "is a", "score": -3.0}, {"text": "is the", "score": 2.5}]]

    first, second = Rescorer(text_model, Weights(2.0, 0.5, 3.0)).rescore(lists)
    alone = Rescorer(text_model, Weights(0.0, 1.0)).rescore(lists[:1])[0]

    for heard, one in ((first, lists[0]), (second, lists[1])):
        scores = {}
        for place, entry in enumerate(one, 1):
            text, of_recogniser = (entry, -np.log(place)) if isinstance(entry, str) else (entry["text"], entry["score"])
            scores[text] = 2.0 * of_recogniser + 0.5 * text_model.score([as_spoken(text)])[0].log_prob + 3.0 * len(text.split())
        assert [row.text for row in heard.ranked] == sorted(scores, key=scores.get, reverse=True) and heard.text == heard.ranked[0].text
        np.testing.assert_allclose([row.score for row in heard.ranked], sorted(scores.values(), reverse=True), rtol=1e-5)  # float32 in another batch
    assert [row.text for row in alone.ranked if row.text != "The first one"] == ["It was", "it WAS."] and alone.intent is None


def test_a_hypothesis_longer_than_the_context_is_read_in_windows(text_model):
    text = "the first of the names is " * 30

    heard = Rescorer(text_model).rescore([[text]])[0]

    assert heard.text == text and heard.ranked[0].log_prob == pytest.approx(text_model.score([text.strip()])[0].log_prob, rel=1e-5)


@pytest.mark.parametrize(("value", "found"), [
    (["a", ""], [("a", None), ("", None)]),
    ([{"text": "a", "score": -1}, {"text": "b", "score": -2.5, "time": 3}], [("a", -1), ("b", -2.5)]),
    ('["a b"]', [("a b", None)]),
    ((Hypothesis("a", 1.0),), [("a", 1.0)]),
])
def test_lists_of_both_forms(value, found):
    assert hypotheses_from(value) == found


@pytest.mark.parametrize(("value", "message"), [
    ([], r'the list is empty; write \[""\] where nothing was heard'),
    ("turn on", "'turn on' is no list in JSON; write"),
    ({"text": "a"}, "a dict is no list"),
    (None, "a NoneType is no list"),
    ([3], r"\[0\] is a int, and no text"),
    ([{"transcript": "a", "confidence": 1}], r"\[0\] is an object with transcript, confidence, and no text or object with a text; write"),
    (["a", {"text": "b", "score": -1}], "some have a score and others none"),
    ([{"text": "a", "score": float("nan")}], r"\[0\] has the score nan, which is no finite number"),
    ([{"text": "a", "score": 10**400}], r"\[0\] has the score 1000000000"),
    ([{"text": "a", "score": "high"}], r"has the score 'high'"),
    ([{"text": "a", "score": True}], r"has the score True"),
])
def test_lists_of_anything_else_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        hypotheses_from(value)


def test_figures_are_jiwers_and_worked_by_hand():
    records = [{"text": "write to them", "label": "message", "hypotheses": ["right two them", "write two them"]},
               {"text": "play it", "label": "music", "hypotheses": [{"text": "play it now", "score": 0.0}]}]
    answers = [{"text": "Write two them.", "intent": "message", "probability": 0.75, "intent of the first": "route", "ranked": []},
               {"text": "play it now", "intent": "news", "probability": 0.75, "intent of the first": "music", "ranked": []}]

    found = {name: metric.value for name, metric in TASK.metrics(records, answers).items()}

    assert found["word error rate"] == pytest.approx(jiwer.wer(["write to them", "play it"], ["write two them", "play it now"])) == pytest.approx(2 / 5)
    assert found["word error rate, oracle"] == pytest.approx(2 / 5) and found["exact_match"] == 0.0
    assert found["intent accuracy"] == 0.5 == found["intent accuracy, first"] and found["intent calibration error"] == pytest.approx(0.25)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rows = []
    for number in range(240):
        thing, intent = (("light", "lamp"), ("song", "music"))[number % 2]
        text, wrong = f"the {thing} number {number}", f"thee {thing[1:]} number {number}"
        rows.append({"said": text.capitalize() + ".", "intent": intent, "hypotheses": [wrong, text] if number % 3 else [text, wrong]})
        if number % 4 == 3:
            del rows[-1]["hypotheses"]
    bad = [{"said": "?!", "intent": "lamp"}, {"said": "the end", "intent": "lamp", "hypotheses": []}, {"said": "the light", "intent": ["lamp", "music"]},
           {"said": "the light", "intent": "lamp", "hypotheses": [{"utterance": "a"}]}, {"said": 3, "intent": "lamp"}, {"said": "no intent"}]
    return write(tmp_path_factory.mktemp("table") / "calls.jsonl", [*rows, *bad])


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "heard.yaml").write_text(RECIPE.format(path=table, bad="skip"))
    done = called("run", folder / "heard.yaml", "--output", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run", done


def test_a_run_rescores_lists_of_ones_own_and_stands_beside_the_recogniser(finished):
    folder, done = finished
    records, answers = lines_of(folder / "records" / "records.jsonl"), lines_of(folder / "answers.jsonl")
    held_out = [record for record in records if record["split"] == "validation"]

    evaluation = json.loads((folder / "evaluation.json").read_text())

    assert [row["record"] for row in answers] == held_out and all("hypotheses" in record for record in held_out)
    said, firsts = [record["text"] for record in held_out], [record["hypotheses"][0] for record in held_out]
    values = {name: of["value"] for name, of in evaluation["metrics"].items()}
    baseline = evaluation["task"]["baselines"]["the recogniser's first, TF-IDF"]["metrics"]
    assert values["word error rate"] == pytest.approx(jiwer.wer(said, [row["answer"]["text"] for row in answers]))
    assert baseline["word error rate"]["value"] == pytest.approx(jiwer.wer(said, firsts)) and values["word error rate, oracle"] == 0.0
    assert values["word error rate"] < baseline["word error rate"]["value"] / 2
    assert values["intent accuracy"] == np.mean([row["answer"]["intent"] == row["record"]["label"] for row in answers]) and values["intent accuracy"] > 0.9
    assert "the recogniser's first" in done.stdout and "perplexity" in evaluation


def test_what_has_no_list_is_trained_on_and_what_is_kept_tunes_alone(finished):
    folder, _ = finished
    records, kept = lines_of(folder / "records" / "records.jsonl"), lines_of(folder / "records" / "calibration.jsonl")
    stats = json.loads((folder / "records" / "stats.json").read_text())

    copies = [record for record in records if "misheard" in record]
    without = [record for record in records if "hypotheses" not in record and "misheard" not in record]
    of_group = {record["group"]: record for record in records if "misheard" not in record}
    assert len(copies) > 100 and all(record["split"] == "train" and of_group[record["group"]]["split"] == "train" for record in copies)
    assert all(record["text"] == misheard(record["group"], 0.3) != record["group"] for record in copies)
    assert len(without) == 60 and {record["split"] for record in without} == {"train"}
    assert all("hypotheses" in record for record in kept) and not {row["text"] for row in kept} & {row["text"] for row in records}
    assert stats["records"] == {split: sum(row["split"] == split for row in records + kept) for split in ("train", "validation", "calibration")}
    reasons = {"no hypotheses": 2, "several intents": 1, "no text": 1, "missing column": 1}
    assert (stats["read"], stats["empty"], stats["refused"]) == (246, 1, reasons)
    lists = [hypotheses_from(row["hypotheses"]) for row in kept]
    measured = measure_lists(load_text_model(folder), lists)
    again = tune(measured, [row["text"] for row in kept])
    assert dataclasses.astuple(tuned_weights(folder)) == pytest.approx(dataclasses.astuple(again), rel=1e-5)  # read in batches of another size


def test_a_rescorer_of_the_run_answers_as_the_run_did(finished):
    folder, _ = finished
    rows = lines_of(folder / "answers.jsonl")[:6]

    found = Rescorer(load_text_model(folder), tuned_weights(folder)).rescore([row["record"]["hypotheses"] for row in rows])

    assert [(heard.text, heard.intent) for heard in found] == [(row["answer"]["text"], row["answer"]["intent"]) for row in rows]
    assert [heard.probability for heard in found] == pytest.approx([row["answer"]["probability"] for row in rows], rel=1e-4)


@pytest.mark.parametrize(("more", "message"), [
    ([], "calls.jsonl:242: column 'hypotheses': hypotheses: the list is empty; write [\"\"] where nothing was heard"),
    (["--task.columns.text", "gesagt"], "no column 'gesagt' (columns: said, intent, hypotheses); set task.columns.text to one of them"),
    (["--adapt.head.kind", "none"], "adapt.head.kind: none, and speech is learned by a head; set it to classes or labels"),
    (["--adapt.head.weight", "1.0"], "adapt.head.weight: 1.0 trains the head alone, and speech (task.kind) asks the language model"),
    (["--task.speech.kept", "1"], "task.speech.kept: 1.0 is not in [0, 1)"),
    (["--task.speech.misheard", "1"], "task.speech.misheard: 1.0 is not in [0, 1)"),
    (["--task.speech.spoken", "-1"], "task.speech.spoken: -1 is negative"),
    (["--data.bad_records", "skip", "--task.columns.hypotheses", "nbest"], "task.columns.hypotheses: no record has a column 'nbest' (columns: "
     "hypotheses, intent, said); set it to one of them"),
    (["--task.template", "{text}"], "task.template: '{text}', and speech has no prompt that a template makes"),
])
def test_what_cannot_be_is_refused_before_any_training(table, tmp_path, more, message):
    (tmp_path / "heard.yaml").write_text(RECIPE.format(path=table, bad="refuse"))

    done = called("run", tmp_path / "heard.yaml", "--output", tmp_path / "run", *more)

    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "model").exists()


def test_texts_without_any_list_are_refused_before_any_training(tmp_path):
    rows = [{"said": f"the light {number}", "intent": ("on", "off")[number % 2]} for number in range(60)]
    (tmp_path / "heard.yaml").write_text(RECIPE.format(path=write(tmp_path / "rows.jsonl", rows), bad="skip"))

    with pytest.raises(RecipeError, match=r"task.columns.hypotheses: no record that is held out has a list of hypotheses \(column 'hypotheses'\)"):
        pipeline.run(load_recipe(tmp_path / "heard.yaml", [])[0], tmp_path / "run")

    assert not (tmp_path / "run" / "model").exists()


def test_lists_alone_are_rescored_without_any_intent(tmp_path):
    rows = [{"text": f"the light {number}", "hypotheses": json.dumps([f"delight {number}", f"the light {number}"])} for number in range(60)]
    (tmp_path / "heard.yaml").write_text(RECIPE.format(path=write(tmp_path / "rows.jsonl", rows), bad="refuse"))
    given = ["--task.columns", "{}", "--adapt.head.kind", "none", "--adapt.head.weight", "1.0", "--task.speech.intents", "false"]

    pipeline.run(load_recipe(tmp_path / "heard.yaml", given)[0], tmp_path / "run", until="evaluate")

    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    theirs = evaluation["task"]["baselines"]["the recogniser's first"]["metrics"]["word error rate"]["value"]
    assert theirs == pytest.approx(2 / 3) and evaluation["metrics"]["word error rate"]["value"] < theirs
    assert not {name for name in evaluation["metrics"] if "intent" in name}


def test_settings_of_another_task_are_refused():
    with pytest.raises(RecipeError, match="task.speech: given, and task.kind is spelling; leave it out"):
        TaskConfig("spelling", speech=SpeechConfig(spoken=3))


def test_made_commands_are_the_same_everywhere_and_in_words():
    rows = made_commands()

    assert {row["intent"] for row in rows} == set(TEMPLATES) and all(as_spoken(row["text"]) == row["text"] for row in rows)
    shares = [sum(row["intent"] == intent for row in rows) / len(rows) for intent in TEMPLATES]
    assert min(shares) > 0.04 and max(shares) < 0.12


def test_words_of_every_script_are_heard_with_their_marks():
    assert as_spoken("Cafe\u0301, SVP!") == as_spoken("café svp") == "café svp"
    assert as_spoken("हिन्दी में बोलो।") == "हिन्दी में बोलो"


def test_as_many_words_are_misheard_as_is_asked_for():
    words = [f"word{number}" for number in range(4000)]

    heard = misheard(" ".join(words), 0.3).split()

    kept = len(set(words) & set(heard)) / len(words)
    assert abs(kept - 0.7) < 0.03  # 4,000 draws spread by 0.007
    assert misheard("a", 1.0) != "a" and misheard("", 0.5) == ""


@pytest.mark.parametrize(("hidden", "message"), [
    ("espeak-ng", "task.speech.spoken: needs the program espeak-ng, which is not installed; apt-get install espeak-ng"),
    ("pocketsphinx", r"task.speech.spoken: needs the package pocketsphinx, which is not installed; pip install 'tfgpt\[speech\]'"),
])
def test_what_is_missing_to_speak_is_named(monkeypatch, hidden, message):
    monkeypatch.setattr(spoken.shutil, "which", lambda name: None if name == hidden else name)
    monkeypatch.setattr(spoken.importlib.util, "find_spec", lambda name: None if name == hidden else name)

    with pytest.raises(RecipeError, match=message):
        hypotheses_of(["a"], "task.speech.spoken")


@speaks
def test_a_recording_is_recognised_alike_whatever_came_before():
    sounds = [spoken.spoken(text) for text in SAID]
    one, other = spoken.Recogniser(), spoken.Recogniser()

    found = [one.hypotheses(sound) for sound in sounds]
    again = [other.hypotheses(sound) for sound in sounds[::-1]][::-1]

    assert found == again == [one.hypotheses(sound) for sound in sounds]


@speaks
def test_each_text_that_is_spoken_has_the_list_of_what_was_heard_of_it():
    found = hypotheses_of(SAID, "test")
    again = hypotheses_of(SAID[::-1], "test")[::-1]

    assert all(1 < len(set(one)) == len(one) <= spoken.MOST for one in found)
    assert jiwer.wer(SAID, [one[0] for one in found]) < 0.6
    assert jiwer.wer(SAID, [min(one, key=lambda text, said=said: jiwer.wer(said, text)) for one, said in zip(found, SAID)]) < 0.3
    words = [[set(" ".join(one).split()) for one in lists] for lists in (found, again)]
    # not their lists: one sample that differs changes them, and espeak-ng promises no samples
    assert [max(range(3), key=lambda place, heard=heard: len(heard & words[1][place]) / len(heard | words[1][place])) for heard in words[0]] == [0, 1, 2]


@speaks
def test_a_text_that_nothing_can_answer_for_is_named(monkeypatch):
    monkeypatch.setattr(spoken.sys, "executable", shutil.which("false"))

    with pytest.raises(RuntimeError, match="test: 'call the office' could not be spoken or recognised"):
        hypotheses_of(["call the office"], "test")


@speaks
def test_texts_are_spoken_where_no_record_has_a_list(tmp_path):
    rows = [{"said": row["text"], "intent": row["intent"]} for row in made_commands()[:120]]
    (tmp_path / "heard.yaml").write_text(RECIPE.format(path=write(tmp_path / "rows.jsonl", rows), bad="skip"))

    recipe = load_recipe(tmp_path / "heard.yaml", ["--task.speech.spoken", "6", "--data.validation", "0.1", "--task.speech.kept", "0.1",
                                                      "--task.speech.misheard", "0"])[0]
    pipeline.run(recipe, tmp_path / "run", until="data")

    records, kept = lines_of(tmp_path / "run" / "records" / "records.jsonl"), lines_of(tmp_path / "run" / "records" / "calibration.jsonl")
    spoken_ones = [record for record in records + kept if "hypotheses" in record]
    assert len(spoken_ones) == 6 and {record["split"] for record in spoken_ones} == {"validation", "calibration"}
    assert len(records) + len(kept) == len(rows) and all(record["split"] == "train" for record in records if "hypotheses" not in record)


def write_wav(path, samples, rate=RATE, channels=1, width=2):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return path


def test_recordings_are_read_at_the_recognisers_rate(tmp_path):
    seconds = np.arange(44_100) / 44_100
    tone = (8000 * np.sin(2 * np.pi * 440 * seconds)).astype("<i2")

    found = read_wav(write_wav(tmp_path / "a.wav", np.stack([tone, np.zeros_like(tone)], axis=1), 44_100, channels=2))

    wanted = 4000 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(found[500:-500], wanted[500:-500], atol=40)  # a hundredth: the filter's ripple; its ends hear the silence around
    assert len(found) == RATE


@pytest.mark.parametrize(("write_it", "message"), [
    (lambda path: path.write_text("no sound"), "is no wav file of 16-bit samples .*; make one of it, as by: ffmpeg"),
    (lambda path: write_wav(path, np.zeros(100, np.uint8), width=1), r"is no wav file of 16-bit samples \(8 bits\)"),
    (lambda path: write_wav(path, np.zeros(0, np.int16)), "lasts 0.0 seconds; give one utterance, of 60 seconds at most"),
    (lambda path: write_wav(path, np.zeros(61 * 8000, np.int16), rate=8000), "lasts 61.0 seconds"),
])
def test_what_is_no_recording_of_an_utterance_is_refused(tmp_path, write_it, message):
    write_it(tmp_path / "a.wav")

    with pytest.raises(ValueError, match=message):
        read_wav(tmp_path / "a.wav")


@speaks
def test_a_recording_is_recognised(tmp_path):
    found = recognise(write_wav(tmp_path / "a.wav", spoken.spoken("call the office")))

    assert found == hypotheses_of(["call the office"], "test")[0]
    with pytest.raises(FileNotFoundError):
        recognise(tmp_path / "none.wav")


def test_speaking_needs_no_tensorflow():
    code = "import sys, tfgpt.data.spoken; print('tensorflow' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
