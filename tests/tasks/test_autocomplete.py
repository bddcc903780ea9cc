"""Auto-complete: words and phrases while a text is typed, by hand and from a user's file to a run's figures."""
import itertools
import json

import numpy as np
import pytest
import tensorflow as tf

from tests.commands import called
from tfgpt.evaluation.word_ngram import WordNgram
from tfgpt.generation.completing import LETTER, SPACE, WordCompleter, kind_of
from tfgpt.generation.loading import load_text_model
from tfgpt.generation.reading import Reader
from tfgpt.tasks.autocomplete import TASK, AutoCompleter, keystrokes

RECIPE = """
name: typed
data: {{path: {path}, length: 48, validation: 0.3, bad_records: {bad}}}
tokenizer: {{vocab: 300}}
model: {{layers: 1, width: 32, heads: 2, dropout: 0.0}}
task: {{kind: autocomplete, columns: {{text: said}}}}
train: {{steps: 60, global_batch_size: 4, evaluate_every: 60, schedule: {{peak: 1.0e-2, warmup_steps: 5}}, sample_prompts: []}}
"""


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def completer(model, tokenizer, text_model):
    texts = text_model.tokenizer.texts.numpy().tolist()
    return WordCompleter(Reader(model, tokenizer.eos_token_id), tokenizer, texts)


def probability(model, tokenizer, committed, ids):
    """Return how likely tokens are behind others, by the model's own call."""
    row = [tokenizer.eos_token_id, *committed, *ids]
    log_probs = tf.nn.log_softmax(model(tf.constant([row])).logits[0]).numpy().astype(float)
    start = 1 + len(committed)
    return float(np.exp(sum(log_probs[start + place - 1, token] for place, token in enumerate(ids)))), np.exp(log_probs[-1])


@pytest.mark.parametrize(("text", "committed", "partial"), [
    ("", "", ""), ("The", "", "The"), ("The ", "The", " "), ("The with st", "The with", " st"), ("a  ", "a ", " "), ("one\n", "one\n", ""),
    ("it's", "it", "'s"), ("x = 12", "x =", " 12"), ("naïve caf", "naïve", " caf"),
])
def test_a_text_is_parted_where_no_token_can_reach_across(completer, tokenizer, text, committed, partial):
    ids, rest = completer.parted(text)

    assert (tokenizer.decode(list(ids)), rest) == (committed, partial)
    for further in ("x", "e word", " and", "\n", "'s"):  # whatever is typed next, these tokens stay
        if not (rest == "" and further == "\n") and not (rest == " " and further[0].isspace()):
            assert tokenizer(text + further).input_ids[: len(ids)] == list(ids)


@pytest.mark.parametrize("text", ["The with stat", "It is ", "obj", "the def"])
def test_words_begin_with_what_is_typed_and_have_the_probability_of_their_tokens(completer, model, tokenizer, text_model, text):
    committed, partial = completer.parted(text)

    typed, words = completer.words(text, 4)

    assert typed == partial and words and [word.probability for word in words] == sorted((word.probability for word in words), reverse=True)
    texts = text_model.tokenizer.texts.numpy().tolist()
    inside = np.array([kind_of(one.decode("utf-8", "replace")[:1]) for one in texts])
    whole = []
    for word in words:
        assert word.text.startswith(partial) and b"".join(texts[number] for number in word.ids).decode() == word.text
        of_tokens, behind = probability(model, tokenizer, committed, word.ids)
        whole.append(of_tokens * (1.0 - behind[: len(inside)][inside == kind_of(word.text[-1])].sum()))
    for (one, other), (first, second) in zip(itertools.pairwise(whole), itertools.pairwise(words)):
        assert second.probability / first.probability == pytest.approx(other / one, rel=1e-2)  # one minus a sum near one, in float32


def test_the_likeliest_first_tokens_that_fit_are_all_looked_at(completer, model, tokenizer):
    """Also those that are a part of what is typed: no token of so small a vocabulary begins with all of it."""
    text = "The zqx"
    _, partial = completer.parted(text)
    assert not [token for token in tokenizer.get_vocab() if token.startswith("Ġzqx")]

    _, words = completer.words(text, 3)

    assert words and all(word.text.startswith(" zqx") and len(word.ids) > 1 for word in words)
    ids = tokenizer(partial).input_ids
    assert any(list(word.ids[: len(ids) - 1]) == ids[:-1] for word in words)


def test_a_session_is_the_same_however_its_text_came_about(text_model):
    completer = AutoCompleter(text_model)
    session, text = completer.session(), "The with statement is"

    for letter in text:
        session.type(letter)
    at_once, pasted = completer.session(text), completer.session().type(text)
    session.type(" zzz")
    erased = session.erase(4)

    assert session.text == text
    for found, near in ((pasted, 1e-5), (erased, 1e-3)):  # both are read in other pieces, the latter letter by letter
        assert [one.text for one in found] == [one.text for one in at_once.suggestions]
        np.testing.assert_allclose([one.probability for one in found], [one.probability for one in at_once.suggestions], rtol=near)


def test_sessions_know_nothing_of_each_other_and_share_what_is_traced(text_model):
    completer, texts = AutoCompleter(text_model), ("The with statement is", "It was in 1999 that the")
    alone = []
    for text in texts:
        session = completer.session()
        alone.append([session.type(letter) for letter in text])

    traced = completer._completer.reader._read_graph.experimental_get_tracing_count()
    one, other = completer.session(), completer.session()
    together = [(one.type(first), other.type(second)) for first, second in zip(*texts)]

    assert together == list(zip(*alone)) and completer._completer.reader._read_graph.experimental_get_tracing_count() == traced == 1


def test_a_suggestion_is_accepted_with_a_space(text_model):
    session = AutoCompleter(text_model, most=2).session("The wi")
    first, second = session.suggestions

    session.accept(1)

    assert session.text == f"The wi{second.rest} " and second.text == "wi" + second.rest and first.probability >= second.probability
    session.accept(session.suggestions[0])
    assert session.text.endswith(" ")
    with pytest.raises(ValueError, match="accept: there is no suggestion 7, and 2 are made; give 0 to 1"):
        session.accept(7)
    with pytest.raises(ValueError, match="most: 0 suggestions"):
        AutoCompleter(text_model, most=0)


def test_a_text_longer_than_the_context_goes_on(text_model, documents):
    session = AutoCompleter(text_model).session(documents[2][:2000])

    assert session.suggestions and len(session.type(" the")) == len(session.suggestions)


def test_keystrokes_are_counted_as_somebody_types():
    offered = {"": ["Hello"], "Hello ": ["world", "worlds apart"], "Hello worlds apart": []}

    assert keystrokes("Hello worlds apart.", lambda typed: offered.get(typed, [])) == 3  # a word, a phrase, a stop
    assert keystrokes("Hello world", lambda typed: offered.get(typed, [])) == 2
    assert keystrokes("Help", lambda typed: offered.get(typed, [])) == 4
    assert keystrokes("ab cd", lambda typed: ["b"] if typed == "a" else []) == 5  # a letter alone is typed as fast


def test_figures_worked_by_hand():
    records = [{"text": "ten letter"}, {"text": "five "}]
    answers = [{"keystrokes": 4, "ranks": [1, 0]}, {"keystrokes": 5, "ranks": [2]}]

    found = {name: metric.value for name, metric in TASK.metrics(records, answers).items()}

    assert found == pytest.approx({"keystrokes_saved": 6 / 15, "mean_reciprocal_rank": (1 + 0 + 0.5) / 3})


def test_the_baseline_backs_off_from_the_longest_history():
    ngram = WordNgram(["the cat sat down", "a cat ran up", "the dog ran up", "the cow ran up"], order=3)

    assert ngram.words("the cat", "", 2) == ["sat", "ran"]  # two words of history, then one
    assert ngram.words("no such dog", "", 1) == ["ran"] and ngram.words("never", "d", 9) == ["dog", "down"] and ngram.words("x", "q", 3) == []


def test_kinds_of_characters():
    assert [kind_of(one) for one in ("a", "é", "\ufffd", " ", "")] == [LETTER] * 3 + [SPACE] * 2


@pytest.mark.parametrize("text", ["The ", "The with stat", "The wit", "th"])
def test_the_likeliest_words_are_suggested_and_before_all_those_that_lack_more_than_a_letter(text_model, text):
    session = AutoCompleter(text_model).session(text)

    typed, found = session._found(10)
    rests = [one.text[len(typed) :] for one in found]
    lacking_more = [rest for rest in rests if len(rest) > 1][:3]
    shown = [one.rest for one in session.suggestions]
    assert [rest for rest in shown if len(rest) > 1] == lacking_more and len(shown) == min(len(rests), 3)
    assert session.phrase is None or (session.phrase.text.startswith(found[0].text.strip()) and len(session.phrase.text) > len(found[0].text.strip()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    rows = [{"said": f"Please send number {number % 7} to the office."} for number in range(7)] * 3
    rows += [{"said": f"The {colour} train is late {when}."} for colour in ("red", "blue", "green", "white") for when in ("today", "again", "tonight")]
    (folder / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"said": " "}, {"said": 5}]))
    (folder / "typed.yaml").write_text(RECIPE.format(path=folder / "said.jsonl", bad="skip"))
    done = called("run", folder / "typed.yaml", "--output", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


def test_a_run_completes_what_it_holds_out_and_stands_beside_the_ngram(finished):
    folder, printed = finished
    records, answers = lines_of(folder / "records" / "records.jsonl"), lines_of(folder / "answers.jsonl")
    train, held_out = ([record for record in records if record["split"] == split] for split in ("train", "validation"))

    evaluation, stats = (json.loads((folder / name).read_text()) for name in ("evaluation.json", "records/stats.json"))

    assert [row["record"] for row in answers] == held_out and (stats["empty"], stats["refused"]) == (1, {"no text": 1})
    saved = 1 - sum(row["answer"]["keystrokes"] for row in answers) / sum(len(record["text"]) for record in held_out)
    assert evaluation["metrics"]["keystrokes_saved"]["value"] == pytest.approx(saved) and 0.3 < saved < 0.9
    theirs = evaluation["task"]["baselines"]["4-gram of words with back-off"]["metrics"]
    assert set(theirs) == {"keystrokes_saved", "mean_reciprocal_rank"} and "back-off" in printed
    assert len(answers[0]["answer"]["ranks"]) == sum(word[0].isalnum() for word in held_out[0]["text"].split())
    session = AutoCompleter(load_text_model(folder)).session("Please send num")
    assert session.suggestions[0].text == "number" and session.suggestions[0].rest == "ber"
    assert session.phrase is None or session.phrase.text.startswith("number ")
    assert WordNgram([record["text"] for record in train]).words("Please send", "num", 3) == ["number"]


@pytest.mark.parametrize(("more", "message"), [
    ([], "said.jsonl:35: column 'said' holds a whole number, not text; write it as text, or set data.bad_records to skip"),
    (["--task.columns.text", "gesagt"], "no column 'gesagt' (columns: said); set task.columns.text to one of them"),
])
def test_what_cannot_be_is_refused_before_any_training(finished, tmp_path, more, message):
    (tmp_path / "typed.yaml").write_text(RECIPE.format(path=finished[0].parent / "said.jsonl", bad="refuse"))

    done = called("run", tmp_path / "typed.yaml", "--output", tmp_path / "run", *more)

    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "model").exists()
