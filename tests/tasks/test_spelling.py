"""Spelling: from a user's file to a run's figures, and corrections worked by hand."""
import itertools
import json

import pytest

from tests.commands import called
from tfgpt.data.misspellings import WORD, confused_with, is_held_out, misspellings, with_errors
from tfgpt.generation.loading import load_text_model
from tfgpt.generation.results import Score
from tfgpt.recipe import RecipeError
from tfgpt.tasks.spelling import SENTENCE, TASK, Correction, Costs, SpellingCorrector, learned_words

RECIPE = """
name: right
data: {{path: {path}, length: 48, validation: 0.3, bad_records: {bad}}}
tokenizer: {{vocab: 300}}
model: {{layers: 1, width: 32, heads: 2, dropout: 0.0}}
task: {{kind: spelling, columns: {{text: good}}}}
train: {{steps: 3, global_batch_size: 4, evaluate_every: 3, sample_prompts: []}}
"""
PHRASES = ("The children went to their school", "She comes from the village and then goes home", "A list of people is on the table",
           "It is hard to receive letters")


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class Reader:
    """A language model that knows some pairs of words by heart: each costs 1 nat, any other pair 9."""

    def __init__(self, *texts):
        self.pairs, self.calls = {pair for text in texts for pair in _pairs(text)}, 0

    def score(self, texts, batch_size):
        self.calls += 1
        return [Score(-sum(1.0 if pair in self.pairs else 9.0 for pair in _pairs(text)), 1, 1.0) for text in texts]


def _pairs(text):
    words = ["", *WORD.findall(text.lower()), ""]
    return list(itertools.pairwise(words))


@pytest.fixture(scope="module")
def reader():
    return Reader("the cat sat on the mat", "it comes from the form then", "the list is longer than that", "their cat is there")


@pytest.fixture(scope="module")
def corrector(reader):
    return SpellingCorrector(reader, {"zorblat": 3})


@pytest.mark.parametrize(("written", "meant"), [
    ("The cat szt on the mat.", "The cat sat on the mat."),                   # by edits
    ("teh cat sat", "the cat sat"),                                           # by the list
    ("Teh cat sat on THE MAST", "The cat sat on THE MAST"),                   # capitals stay, and so does a word that is one
    ("it comes form the form than", "it comes from the form then"),           # right words that were not meant, each beside the others
    ("there cat is their", "their cat is there"),
    ("zorblat sat", "zorblat sat"),                                           # learned from the training text
    ("", ""),
    ("teh 1st, 2nd and 3rd cat szt on teh mat", "the 1st, 2nd and 3rd cat sat on the mat"),                 # what is no word is left alone
    ("teh file at https://exmaple.com/teh/szt, bob.szt@gmial.com, np.szt my_fucntion szt()",
     "the file at https://exmaple.com/teh/szt, bob.szt@gmial.com, np.szt my_fucntion szt()"),
    ("“Teh” (teh) teh/teh teh-teh", "“The” (the) the/the the-the"),           # but for marks around it, hyphens, and one slash
    ("Teh cat SZT Szt on Teh mat", "The cat SZT Szt on The mat"),                     # a capital within a sentence: a name, unless it is listed
    ("12 + 3 = 15\n\n\ttabs   stay", "12 + 3 = 15\n\n\ttabs   stay"),
])
def test_corrections_worked_by_hand(corrector, written, meant):
    found = corrector.correct(written)

    assert found.text == meant
    rebuilt = written
    for change in reversed(found.changes):
        assert written[change.start :].startswith(change.before)
        rebuilt = rebuilt[: change.start] + change.after + rebuilt[change.start + len(change.before) :]
    assert rebuilt == meant


def test_a_name_stays_where_nothing_near_it_is_likelier_by_more_than_its_cost(reader):
    cautious = SpellingCorrector(reader, costs=Costs(unknown=0.0, edit=50.0))

    assert cautious.correct("the cta sat") == Correction("the cta sat", ())
    assert SpellingCorrector(reader, costs=Costs(unknown=50.0)).correct("the cta sat").text == "the cat sat"


def test_what_is_known_by_heart_can_be_chosen(reader):
    assert SpellingCorrector(reader, typos={"sat": ["mat"]}, costs=Costs(listed=0.0, unknown=90.0)).correct("the sat").text == "the mat"


def test_a_sentence_of_hundreds_of_words_is_weighed_in_parts(corrector, reader, monkeypatch):
    text, lengths = "\n".join(["teh cat sat on the mat , the cat szt on teh mat"] * 60), []
    monkeypatch.setattr(reader, "score", lambda texts, batch_size: lengths.extend(map(len, texts)) or Reader.score(reader, texts, batch_size))

    found = corrector.correct(text)

    assert found.text == "\n".join(["the cat sat on the mat , the cat sat on the mat"] * 60) and len(found.changes) == 180
    assert max(lengths) < len(text) / 10


def test_a_name_at_the_border_of_two_parts_is_no_beginning_of_a_sentence(corrector):
    words = (["the", "cat", "sat", "on", "Szt"] * 10)[:48]
    assert words[24] == "Szt"                                                            # with which the second part begins

    assert [word for word in corrector.correct(" ".join(words)).text.split() if word[0] == "S"] == ["Szt"] * 9


def test_many_texts_are_weighed_in_two_passes_and_each_as_if_alone(corrector, reader):
    texts = ["there cat is their. it comes form the mat", "teh cat", "on the mat"]
    alone = [corrector.correct(text) for text in texts]

    before = reader.calls
    together = corrector.correct_all(texts)

    assert together == alone and reader.calls - before <= 2


def test_no_error_is_put_into_what_is_no_word():
    text = "See their_list, from.their, 2their and x@their.org; their/from, their. "

    pairs = zip(text.split(), with_errors(text * 30, errors=1.0).split()[:-1])
    assert {right for right, wrong in pairs if right != wrong} <= {"See", "and", "their/from,", "their."}


def test_errors_are_put_in_word_for_word_and_always_the_same():
    text = "The children went to their school, and then they received a list of the people from there. " * 4

    damaged = with_errors(text, errors=0.5)

    pairs = [(right, wrong) for right, wrong in zip(WORD.findall(text), WORD.findall(damaged), strict=True) if right != wrong]
    assert damaged == with_errors(text, errors=0.5) != with_errors(text, seed=2, errors=0.5) and len(pairs) > 8
    for right, wrong in pairs:
        listed = right.lower() in misspellings().get(wrong.lower(), ()) and is_held_out(wrong.lower())
        assert listed or wrong.lower() in confused_with()[right.lower()]
    assert with_errors(text, errors=0.0) == text
    assert 0.45 < sum(map(is_held_out, misspellings())) / len(misspellings()) < 0.55


def test_sentences_end_at_stops_and_blank_lines():
    assert SENTENCE.findall("One here. Two\nthere is! Three\n\nfour 3.4 x") == ["One here.", "Two\nthere is!", "Three", "four 3.4 x"]


def test_figures_worked_by_hand():
    records = [{"text": "the cat sat on a mat", "written": "teh cat szt on a mat"}, {"text": "go home now", "written": "go home now"}]
    answers = [{"text": "the cat sit on a mat"}, {"text": "go come now"}]  # one of two errors right, one wrong otherwise, one new

    found = {name: metric.value for name, metric in TASK.metrics(records, answers).items()}

    assert found["corrected"] == 1 / 2 and found["broken"] == 1 / 7 and found["exact_match"] == 0.0
    precision, recall = 1 / 3, 1 / 2
    assert found["f0.5"] == pytest.approx(1.25 * precision * recall / (0.25 * precision + recall))


def test_the_baseline_takes_the_nearest_word_and_leaves_known_ones():
    train = [{"text": "the cat sat on the zorblat"}]
    held_out = [{"text": "the cat sat", "written": "Thhe cat sat their zorblat"}]

    assert TASK.baselines(None, train, held_out, None) == {"symspellpy alone": [{"text": "The cat sat their zorblat"}]}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "texts.jsonl"
    rows = [{"good": f"{PHRASES[number % 4]}, and {PHRASES[number % 3].lower()} at {number} past. Then comes {number}."} for number in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"good": " "}, {"good": "two words here", "written": "twowords here"}]))
    return path


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "right.yaml").write_text(RECIPE.format(path=table, bad="skip"))
    done = called("run", folder / "right.yaml", "--output", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


def test_a_run_corrects_what_it_holds_out_and_stands_beside_symspellpy(finished, table):
    folder, printed = finished
    records, answers = lines_of(folder / "records" / "records.jsonl"), lines_of(folder / "answers.jsonl")
    train, held_out = ([record for record in records if record["split"] == split] for split in ("train", "validation"))

    evaluation, stats = (json.loads((folder / name).read_text()) for name in ("evaluation.json", "records/stats.json"))

    assert [row["record"] for row in answers] == held_out and set(evaluation["metrics"]) >= {"f0.5", "corrected", "broken", "exact_match"}
    assert {record["group"] for record in train}.isdisjoint(record["group"] for record in held_out)  # the sentences of a text stay together
    assert any(record["written"] != record["text"] for record in held_out)
    assert (stats["read"], stats["empty"], stats["refused"]) == (42, 1, {"other number of words": 1}) and f"{table}:42" in stats["refused_places"][0]
    words = learned_words(folder)
    assert words["then"] == sum(WORD.findall(record["text"].lower()).count("then") for record in train)
    assert "symspellpy alone" in printed and evaluation["perplexity"] > 1
    correction = SpellingCorrector(load_text_model(folder), words).correct("The childern went home.")
    assert correction.text == "The children went home." and correction.changes[0].start == 4


@pytest.mark.parametrize(("more", "message"), [
    ([], "texts.jsonl:42: 3 words in column 'good' and 2 in 'written'; write each word in its place"),
    (["--task.columns.text", "gut"], "no column 'gut' (columns: good); set task.columns.text to one of them"),
    (["--task.template", "{text}"], "task.template: '{text}', and spelling has no prompt that a template makes"),
])
def test_what_cannot_be_is_refused_before_any_training(table, tmp_path, more, message):
    (tmp_path / "right.yaml").write_text(RECIPE.format(path=table, bad="refuse"))

    done = called("run", tmp_path / "right.yaml", "--output", tmp_path / "run", *more)

    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "model").exists()


def test_a_missing_list_is_named_with_its_extra(monkeypatch):
    misspellings.cache_clear()
    monkeypatch.setattr("tfgpt.data.misspellings.file_of_package", lambda package, path: None)

    with pytest.raises(RecipeError, match=r"spelling needs the package codespell, which is not installed; pip install 'tfgpt\[tasks\]'"):
        misspellings()


def test_words_of_other_letters_stay_as_they_are(text_model):
    texts = ["The café served a naïve crème brûlée to Müller and Zoë.", "I can’t, it’s O’Brien’s.", "हिन्दी Straße"]

    assert [found.text for found in SpellingCorrector(text_model).correct_all(texts)] == texts


def test_errors_in_capitals_leave_as_many_words():
    text = "YOUR FRIEND AND THEIR SISTER WERE HERE."

    for seed in range(20):
        assert len(WORD.findall(with_errors(text, seed, errors=1.0))) == len(WORD.findall(text))
