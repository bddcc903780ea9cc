"""Verse: from a user's poems to a run's figures, and the choice among lines by hand."""
import json
from types import SimpleNamespace

import pronouncing
import pytest

from tests.commands import called
from tfgpt import pipeline
from tfgpt.data.made_verse import METRES, made_verse
from tfgpt.generation.loading import load_text_model
from tfgpt.generation.results import Classification, Continuation
from tfgpt.recipe import RecipeError, TaskConfig
from tfgpt.recipe_file import load_recipe
from tfgpt.recipe_task import VerseConfig
from tfgpt.tasks.verse import TASK, Heard, Poet
from tfgpt.text.prosody import rhyme_together, scan

RECIPE = """
name: poems
data: {{path: {path}, length: 48, validation: 0.3, bad_records: {bad}}}
tokenizer: {{vocab: 400}}
model: {{layers: 1, width: 32, heads: 2, dropout: 0.0}}
task: {{kind: verse, columns: {{text: poem}}, verse: {{candidates: 3}}}}
adapt: {{head: {{kind: labels, weight: 0.5}}}}
train: {{steps: 4, global_batch_size: 4, evaluate_every: 4, sample_prompts: []}}
evaluate: {{answers: 0, general: ""}}
"""
LABELS = ("beat 1", "beat 2", "beat 3", "beat 4", "rhyme AY T", "rhyme IY", "syllables 3", "syllables 4")


class Ear:
    """A model that draws given lines, and hears in each what the dictionary has."""

    def __init__(self, *drawn):
        self.python_tokenizer = SimpleNamespace(eos_token="<|endoftext|>")
        self.model = SimpleNamespace(encoder=None, adaptation=SimpleNamespace(head=SimpleNamespace(kind="labels", labels=LABELS)))
        self._drawn = drawn

    def generate(self, prompts, most, samples, **controls):
        assert all(prompt.startswith("<|endoftext|>") for prompt in prompts)  # as poems begin in training
        return [Continuation(text, 1, log_prob, "stop") for _ in prompts for text, log_prob in self._drawn[:samples]]

    def classify(self, texts, batch_size):
        return [Classification((), tuple(0.99 if label in _labels(text) else 0.01 for label in LABELS)) for text in texts]


def _labels(text):
    right = scan(text)
    if right is None:
        return set()
    return {f"rhyme {right.rhyme}", f"syllables {len(right.stresses)}", *(f"beat {place}" for place, one in enumerate(right.stresses, 1) if one == "1")}


DRAWN = (("upon the sea", -0.1), ("the flame of light", -0.2), ("the old bright night", -3.0), ("in silent night", -1.0), ("light", -0.1))


def test_the_line_is_taken_that_rhymes_scans_and_is_likely():
    ranked = Poet(Ear(*DRAWN), 5).ranked(["a silent night"], [0])[0]

    assert [line.text for line in ranked][:3] == ["the flame of light", "upon the sea", "light"]   # three syllables too few are worse than no rhyme
    assert {line.text for line in ranked[-2:]} == {"the old bright night", "in silent night"}      # the same word is the worst
    assert ranked[0].rhymes == pytest.approx(0.98, abs=0.01)
    assert ranked[0].scans == pytest.approx(0.98, abs=0.001)
    assert ranked[0].log_prob == -0.2


def test_without_candidates_nothing_is_chosen():
    assert Poet(Ear(*DRAWN), 1).answer("a silent night").text == "upon the sea"


def test_a_couplet_begins_with_a_line_that_has_words():
    assert Poet(Ear(("", -0.1), ("...", -0.2), ("upon the sea", -1.0)), 3).couplets(1)[0][0] == "upon the sea"
    with pytest.raises(ValueError, match="none of 2 lines that were drawn to begin with has words"):
        Poet(Ear(("", -0.1), ("...", -0.2)), 2).couplets(1)
    with pytest.raises(ValueError, match="count: -1 couplets; give 0 or more"):
        Poet(Ear(*DRAWN), 2).couplets(-1)


def test_the_head_tells_what_it_hears():
    assert Poet(Ear()).hear(["a silent night", "upon the sea", "silent sea"]) == [Heard("AY T", "0101"), Heard("IY", "0101"), Heard("IY", "101")]


def test_a_line_without_text_and_a_model_without_ears_are_refused(model, tokenizer):
    with pytest.raises(ValueError, match="a line without text"):
        Poet(Ear(*DRAWN)).answer("  ")
    deaf = SimpleNamespace(model=SimpleNamespace(adaptation=SimpleNamespace(head=SimpleNamespace(kind="none"))))
    with pytest.raises(ValueError, match="head is of kind none, and hears no rhymes; train one with task.kind: verse"):
        Poet(deaf)


def test_made_couplets_rhyme_and_scan_by_the_dictionary_itself():
    def stresses(line):
        return [pronouncing.stresses(pronouncing.phones_for_word(word)[0]) for word in line.lower().strip(",.").split()]

    for row in made_verse()[::50]:
        first, second = row["text"].split("\n")
        ends = [line.strip(",.").split()[-1] for line in (first, second)]
        assert ends[1] in pronouncing.rhymes(ends[0]), row
        for line in (first, second):
            metre = scan(line).stresses
            assert metre in METRES
            longer = [(place, found) for place, found in _placed(stresses(line)) if len(found) > 1]
            assert all(metre[place : place + len(found)] == found.replace("2", "0") for place, found in longer)


def _placed(found):
    place = 0
    for one in found:
        yield place, one
        place += len(one)


def test_the_metrics_are_those_of_the_dictionary():
    couplet = {"before": "The silent river meets the sea,", "line": "And golden morning wakes the tree.", "text": ""}
    single = {"before": "", "line": "A candle burns.", "text": ""}
    heard = {"heard_rhyme": "IY", "heard_stresses": "01010101"}

    def figures(text, **of_single):
        return {name: metric.value for name, metric in TASK.metrics([couplet, single], [{"text": text} | heard, {"text": ""} | heard | of_single]).items()}

    good = figures("And sailors sing of you and me", heard_rhyme="ER N Z", heard_stresses="0101")
    assert good["rhyming couplets"] == 1.0 and good["stress accuracy"] == 6 / 8      # you and me are weak here
    assert good["stresses heard"] == 1.0 and good["rhymes heard"] == 1.0
    bad = figures("The zorblat", heard_rhyme="IY", heard_stresses="0100")
    assert bad["rhyming couplets"] == bad["stress accuracy"] == 0.0
    assert bad["stresses heard"] == 11 / 12 and bad["rhymes heard"] == 0.5


@pytest.fixture(scope="module")
def poems(tmp_path_factory):
    path = tmp_path_factory.mktemp("poems") / "poems.jsonl"
    couplets = [row["text"] for row in made_verse()[:120]]
    rows = [{"poem": "\n\n".join(couplets[start : start + 2])} for start in range(0, 120, 2)]
    path.write_text("\n".join(map(json.dumps, [*rows, {"poem": "Zorblat!\nzzyzx"}, {"poem": ""}])))
    return path


@pytest.mark.slow
def test_a_users_poems_become_a_poet(poems, tmp_path):
    (tmp_path / "poems.yaml").write_text(RECIPE.format(path=poems, bad="skip"))

    done = called("run", tmp_path / "poems.yaml", "--output", tmp_path / "run")

    assert done.returncode == 0, done.stderr
    stats = json.loads((tmp_path / "run" / "records" / "stats.json").read_text())
    assert stats["refused"]["nothing to scan"] == 1 and stats["empty"] == 1
    records = [json.loads(line) for line in (tmp_path / "run" / "records" / "records.jsonl").read_text().splitlines()]
    asked = [record for record in records if record["before"]]
    assert all(rhyme_together(record["before"], record["line"]) and record["text"] == f"{record['before']}\n{record['line']}" for record in asked)
    assert {record["split"] for record in records} == {"train", "validation"} and len(records) >= 2.9 * len(asked)
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())["task"]
    assert set(found["metrics"]) == {"rhyming couplets", "stress accuracy", "rhymes heard", "stresses heard"}
    assert set(found["baselines"]) == {"the same model without the head, its likeliest sample", "the same model without the head, one sample"}
    poet = Poet(load_text_model(tmp_path / "run"), candidates=2)
    assert poet.couplets(2, seed=5) == poet.couplets(2, seed=5) and len(poet.couplets(2)) == 2
    assert "\n" not in poet.answer("The silent river meets the sea,").text


def test_what_cannot_be_scanned_is_an_error_that_names_the_word(poems, tmp_path):
    (tmp_path / "poems.yaml").write_text(RECIPE.format(path=poems, bad="refuse"))

    done = called("run", tmp_path / "poems.yaml", "--output", tmp_path / "run")

    assert done.returncode == 2
    assert "no line can be scanned, since the dictionary has no word 'zorblat'" in done.stderr


@pytest.mark.parametrize(("more", "message"), [
    (["--adapt.head.kind", "classes"], "adapt.head.kind: classes, and verse is learned by a head; set it to labels"),
    (["--adapt.head.kind", "none"], "adapt.head.kind: none, and verse is learned by a head; set it to labels"),
    (["--adapt.head.weight", "1.0"], "adapt.head.weight: 1.0 trains the head alone, and verse (task.kind) asks the language model"),
])
def test_a_head_that_hears_nothing_is_refused_before_any_work(poems, tmp_path, more, message):
    (tmp_path / "poems.yaml").write_text(RECIPE.format(path=poems, bad="skip"))

    done = called("run", tmp_path / "poems.yaml", "--output", tmp_path / "run", *more)

    assert done.returncode == 2 and message in done.stderr
    assert not (tmp_path / "run" / "records").exists()


def test_lines_that_cannot_be_scanned_are_counted(tmp_path):
    poems = [f"The silent river number {word} meets the sea,\nAnd gently runs away from you and me.\nA zorblat sleeps.\n\n{'word ' * 30}"
             for word in ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")]
    (tmp_path / "poems.jsonl").write_text("".join(json.dumps({"poem": poem}) + "\n" for poem in poems))
    (tmp_path / "poems.yaml").write_text(RECIPE.format(path=tmp_path / "poems.jsonl", bad="skip"))

    pipeline.run(load_recipe(tmp_path / "poems.yaml", [])[0], tmp_path / "run", until="data")

    assert json.loads((tmp_path / "run" / "records" / "stats.json").read_text())["parts_left_out"] == {"lines of verse that cannot be scanned": 20}


def test_settings_of_verse_are_checked():
    with pytest.raises(RecipeError, match="task.verse.candidates: 0"):
        VerseConfig(candidates=0)
    with pytest.raises(RecipeError, match="task.verse: given, and task.kind is code"):
        TaskConfig("code", verse=VerseConfig(4))
