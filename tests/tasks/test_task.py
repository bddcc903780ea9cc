"""What holds for every task: it is known by name, has a recipe of its own, and refuses what it does not have."""
import json
from pathlib import Path
from typing import get_args

import pytest

from tfgpt import pipeline
from tfgpt.recipe import ColumnsConfig, DataConfig, Recipe, RecipeError, TaskConfig
from tfgpt.recipe_file import load_recipe
from tfgpt.recipe_task import TaskKind
from tfgpt.stages.records import with_records
from tfgpt.tasks.classification import Classifier
from tfgpt.tasks.generation import Writer
from tfgpt.tasks.question_answering import QuestionAnswerer
from tfgpt.tasks.spelling import SpellingCorrector
from tfgpt.tasks.summarisation import Summarizer
from tfgpt.tasks.task import task_of
from tfgpt.tasks.translation import Translator

KINDS = [kind for kind in get_args(TaskKind) if kind != "none"]
PIPELINES = Path(__file__).parent.parent.parent / "pipelines"


def test_each_task_is_complete():
    for task in map(task_of, map(TaskConfig, KINDS)):
        assert task.columns and task.long_text


def test_each_task_has_a_recipe():
    assert set(KINDS) <= {load_recipe(path)[0].task.kind for path in PIPELINES.glob("*.yaml")}


@pytest.mark.parametrize(("config", "message"), [
    (TaskConfig("question_answering", columns={"frage": "q"}), r"task.columns: frage \(q\) is none that question_answering has; it has question, answer,"),
    (TaskConfig("question_answering", long_text="window"), "task.long_text: window is nothing that question_answering can do"),
    (TaskConfig("question_answering", template="{questoin}"), r"task.template: \{questoin\} is nothing that a prompt of question_answering holds"),
    (TaskConfig("question_answering", template="Answer:"), r"task.template: 'Answer:' holds \{question\} 0 times"),
    (TaskConfig("question_answering", template="{question"), "task.template: .* is no template"),
])
def test_what_a_task_does_not_have_is_refused(config, message):
    with pytest.raises(RecipeError, match=message):
        task_of(config)


def test_settings_without_a_task_are_refused():
    with pytest.raises(RecipeError, match="task.kind: none, with other settings"):
        TaskConfig(template="{question}")


@pytest.mark.parametrize(("data", "message"), [
    (DataConfig(path="x", examples="chat"), "data.examples: chat, and what an example is follows from task.kind"),
    (DataConfig(path="x", columns=ColumnsConfig(text="t")), "data.columns: .* name columns in task.columns"),
    (DataConfig(path="x", split="tail"), "data.split: tail cuts a running text"),
])
def test_what_follows_from_the_task_is_not_said_twice(data, message):
    with pytest.raises(RecipeError, match=message):
        with_records(Recipe(data, task=TaskConfig("question_answering")), Path("run"))


def test_what_is_wrong_with_files_stands_in_the_account_of_the_records(tmp_path, capsys):
    """Bytes of another encoding, and files with other endings."""
    (tmp_path / "texts").mkdir()
    rows = [f"Caf\xe9 number {number} is there.\n\n" for number in range(30)]
    (tmp_path / "texts" / "one.txt").write_bytes("".join(rows).encode("latin-1"))
    (tmp_path / "texts" / "other.bin").write_bytes(b"")
    (tmp_path / "right.yaml").write_text(f"data: {{path: {tmp_path}/texts, documents: block, length: 16, validation: 0.3}}\ntask: {{kind: spelling}}\n")

    pipeline.run(load_recipe(tmp_path / "right.yaml", [])[0], tmp_path / "run", until="data")

    stats, printed = json.loads((tmp_path / "run" / "records" / "stats.json").read_text()), capsys.readouterr().err
    assert (stats["replaced_characters"], stats["files_with_invalid_utf8"], stats["invalid_files"]) == (30, 1, [f"{tmp_path}/texts/one.txt"])
    assert (stats["files_passed_over"], stats["passed_over"]) == (1, [f"{tmp_path}/texts/other.bin"])
    assert "30 bytes that are no text in their file's encoding were replaced" in printed and "1 files with other endings are passed over" in printed
    with pytest.raises(RecipeError, match=r"one.txt:1: byte 0xe9 is no UTF-8"):
        pipeline.run(load_recipe(tmp_path / "right.yaml", ["--data.invalid_utf8", "refuse"])[0], tmp_path / "other", until="data")


@pytest.mark.parametrize("make", [QuestionAnswerer, Translator, Summarizer, Writer, lambda model, template: Classifier(model, {"a": "b", "c": "d"}, template)])
def test_a_template_is_checked_in_python_as_in_a_recipe(text_model, make):
    with pytest.raises(ValueError, match="would be alike"):
        make(text_model, template="the same for all")
    with pytest.raises(ValueError, match="{quest} is nothing that a prompt of"):
        make(text_model, template="Q: {quest}")


@pytest.mark.parametrize("ask", [
    lambda model, texts: Translator(model).translate_all(texts), lambda model, texts: Summarizer(model).summarize_all(texts),
    lambda model, texts: SpellingCorrector(model).correct_all(texts),
])  # fmt: skip
def test_one_text_is_not_taken_letter_by_letter(text_model, ask):
    with pytest.raises(ValueError, match="texts is one text; give a list"):
        ask(text_model, "one text")
    with pytest.raises(ValueError, match=r"texts\[1\] is None and no text"):
        ask(text_model, ["one", None])
    with pytest.raises(ValueError, match=r"texts\[0\]: '\\ud800' at 0 is half of a surrogate pair"):
        ask(text_model, ["\ud800"])
