"""What is forgotten: figures against PyTorch's, general text that is never trained on, and a whole fine-tune with its report."""
import dataclasses
import json
import math

import pytest

from tests.commands import called
from tests.data.test_unlabelled import texts_of
from tfgpt.data.corpus import read_corpus
from tfgpt.data.unlabelled import prepare_unlabelled
from tfgpt.evaluation.general import CHARACTERS, general_data, general_figures, general_texts, in_words
from tfgpt.models import build, surgery
from tfgpt.recipe import (
    AdaptConfig,
    DataConfig,
    EncoderConfig,
    EvaluateConfig,
    HeadConfig,
    ModelConfig,
    PretrainConfig,
    Recipe,
    RecipeError,
    SourceConfig,
    TokenizerConfig,
)
from tfgpt.stages.checks import check_before_work
from tfgpt.text.bpe import load_tokenizer


def recipe_of(data, general="python-docs", tokens=10_000, **adapt):
    return Recipe(data, model=ModelConfig(init="somewhere"), adapt=AdaptConfig(**adapt), evaluate=EvaluateConfig(general=general, general_tokens=tokens))


def lines(path, what, count):
    path.write_text("".join(f"{what} text number {n} end.\n" for n in range(count)))
    return str(path)


@pytest.fixture(scope="module")
def figures_of(tokenizer):
    return lambda model, texts, batch_size=3: general_figures(model, tokenizer, texts, 48, batch_size)


def test_the_figures_are_pytorchs(model, torch_model, tokenizer, documents, figures_of):
    import torch

    texts = [text[:70] for text in documents[:7]]

    found = figures_of(model, texts)

    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text).input_ids, tokenizer.eos_token_id]])
        assert ids.shape[1] <= 49  # each fits into a window
        with torch.no_grad():
            total += float(torch_model(ids[:, :-1]).logits.log_softmax(-1).gather(2, ids[:, 1:, None]).sum())
        count += ids.shape[1] - 1
    assert found["tokens"] == count
    assert found["loss"] == pytest.approx(-total / count, rel=1e-5)  # float32 sums in another order
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["bits_per_byte"] == pytest.approx(found["loss"] * count / math.log(2) / sum(len(text.encode()) for text in texts))


def test_neither_the_batch_nor_a_head_nor_an_encoder_that_adds_nothing_changes_them(model, documents, figures_of):
    texts = [text[:700] for text in documents[:5]]  # longer than a window
    expected = figures_of(model, texts)["loss"]

    assert figures_of(model, texts, batch_size=7)["loss"] == pytest.approx(expected, rel=1e-6)
    assert figures_of(surgery.add_head(model, HeadConfig(kind="classes"), {"a": 1, "b": 1}), texts)["loss"] == pytest.approx(expected, rel=1e-6)
    encoder = EncoderConfig(kind="copy")  # cross-attention is 0 at first
    assert figures_of(surgery.add_encoder(model, encoder), texts)["loss"] == pytest.approx(expected, rel=1e-5)


def test_as_much_text_is_taken_as_is_asked_for():
    texts = list(general_texts(recipe_of(DataConfig(path="x"), tokens=500)))

    held_out = [example.text for example in read_corpus(DataConfig(path="python-docs")) if example.split == "validation"]
    assert "".join(texts) == "".join(held_out)[: 500 * CHARACTERS]


def test_of_replayed_text_what_is_measured_on_is_not_trained_on(tmp_path):
    task, general = lines(tmp_path / "task.txt", "Task", 40), lines(tmp_path / "general.txt", "General", 200)
    data = DataConfig(sources=(SourceConfig(path=task), SourceConfig(path=general, replay=True)), documents="line", validation=0.3)

    measured = set(general_texts(recipe_of(data, general)))

    trained = {example.text for example in read_corpus(data) if example.split == "train"}
    assert len(measured) > 30 and not measured & trained
    assert general_data(recipe_of(data, general)).documents == "line"


@pytest.mark.parametrize("unit", ["line", "file"])
def test_of_text_for_pre_training_what_is_measured_on_is_not_trained_on(tmp_path, tokenizer, unit):
    data = DataConfig(path=lines(tmp_path / "task.txt", "Task", 40), documents="line", validation=0.2, length=32)
    general = lines(tmp_path / "general.txt", "General", 200)
    recipe = recipe_of(data, general, pretrain=PretrainConfig(steps=1, path=general, documents=unit))

    measured = " ".join(general_texts(recipe))

    prepare_unlabelled(data, recipe.adapt.pretrain, tokenizer, tmp_path / "data")
    trained = " ".join(texts_of(tmp_path / "data", tokenizer, "train"))
    found = [{f"number {n} end." for n in range(200) if f"number {n} end." in text} for text in (measured, trained)]
    assert len(found[0]) > 25 and len(found[1]) > 100 and not found[0] & found[1]


@pytest.mark.parametrize(("general", "message"), [
    ("/nowhere", "^evaluate.general: /nowhere cannot be measured on: no file /nowhere; .*; or leave evaluate.general empty"),
    ("empty.txt", "^evaluate.general: .*empty.txt cannot be measured on: .*holds no text to use"),
])  # fmt: skip
def test_text_that_cannot_be_measured_on_is_refused_before_any_work(tmp_path, model_folder, tokenizer, monkeypatch, general, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    recipe = Recipe(DataConfig(path=lines(tmp_path / "task.txt", "Task", 40), documents="line", length=32), model=ModelConfig(init=str(model_folder)),
                    tokenizer=TokenizerConfig(init=str(tmp_path / "tokenizer")), evaluate=EvaluateConfig(general=general))

    with pytest.raises(RecipeError, match=message):
        check_before_work(recipe)
    check_before_work(dataclasses.replace(recipe, evaluate=EvaluateConfig(general="")))
    check_before_work(dataclasses.replace(recipe, model=ModelConfig(size="tiny")))  # a new model has nothing to forget


def test_a_change_of_the_vocabulary_is_said_and_bits_per_byte_compared():
    general = {"path": "x", "tokens": 1000, "same_vocabulary": False, "before": {"bits_per_byte": 2.0}, "after": {"bits_per_byte": 1.5}}

    assert in_words(general) == ("On general text (held out of x, 1,000 tokens) the loss in bits per byte, which other vocabularies do not change, was 2.0000 "
                                 "before the fine-tune and is 1.5000 after it: 25.0 % lower.")


RECIPE = """
name: small
data: {{path: {task}, documents: line, length: 48}}
tokenizer: {{init: {tokenizer}}}
model: {{init: {model}}}
train: {{steps: 30, global_batch_size: 4, evaluate_every: 10, sample_prompts: [], weight_decay: 0.0, schedule: {{peak: 3.0e-3, warmup_steps: 5}}}}
evaluate: {{general_tokens: 1500}}
"""


@pytest.mark.slow
def test_a_fine_tune_tells_what_was_lost_and_another_vocabulary_is_measured_with_its_own_tokens(tmp_path, model_folder, tokenizer):
    model, run, other = tmp_path / "start" / "model", tmp_path / "run", tmp_path / "other"
    build.load_model(model_folder).save_pretrained(model)
    tokenizer.save_pretrained(tmp_path / "start" / "tokenizer")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(task=lines(tmp_path / "task.txt", "Task", 60), tokenizer=tmp_path / "start" / "tokenizer", model=model))

    done = called("run", recipe, "--output", run)

    assert done.returncode == 0, done.stderr
    general = json.loads((run / "evaluation.json").read_text())["general"]
    assert set(general) == {"path", "tokens", "start", "same_vocabulary", "before", "after"} and general["same_vocabulary"]
    assert general["path"] == "python-docs" and general["start"] == "checkpoints/start" and general["tokens"] == general["before"]["tokens"] > 1000
    texts = list(general_texts(recipe_of(DataConfig(path="x"), tokens=1500)))
    for name, folder in (("before", model), ("after", run / "model")):
        expected = general_figures(build.load_model(folder), tokenizer, texts, 48, batch_size=16)
        assert general[name] == pytest.approx(expected, rel=1e-6)
    assert in_words(general) in done.stdout
    report = (run / "report.html").read_text()
    assert in_words(general) in report and f"{general['before']['bits_per_byte']:.4f}" in report

    exchanged = called("run", recipe, "--output", other, "--tokenizer.init", "train", "--tokenizer.vocab", "300", "--adapt.embeddings.vocabulary", "tokenizer")

    assert exchanged.returncode == 0, exchanged.stderr
    found = json.loads((other / "evaluation.json").read_text())["general"]
    assert found["before"] == general["before"] and found["start"] == str(model)
    assert not found["same_vocabulary"] and found["tokens"] == found["after"]["tokens"] > found["before"]["tokens"]
    assert len(load_tokenizer(other / "tokenizer")) == 300 and "bits per byte, which other vocabularies do not change" in exchanged.stdout
