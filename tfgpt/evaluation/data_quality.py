"""Whether a corpus is enough, clean and of use, in words: the judgement on what `data.quality` measures, and on a model's loss on it."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tfgpt.data.corpus import read_corpus
from tfgpt.data.examples import Example
from tfgpt.data.pipeline import pack_texts
from tfgpt.data.quality import Quality
from tfgpt.evaluation.evaluate import figures, summed_loss
from tfgpt.models import build
from tfgpt.recipe import DataConfig, Recipe
from tfgpt.text.bpe import GPT2TokenizerFast

TOKENS_PER_PARAMETER = 20
"""What a model from random weights needs to be worth its size (Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models")."""
PASSES = 4
"""Over the same text, from which more passes bring little (Muennighoff et al. 2023, "Scaling Data-Constrained Language Models")."""
LOSS_CHARACTERS = 60_000
"""Of each text, on which a starting model's loss is measured."""


@dataclass(frozen=True)
class Judgement:
    """One answer."""

    question: Literal["enough", "clean", "relevant"]
    good: bool
    text: str


@dataclass(frozen=True)
class Plan:
    """What the corpus is to be used for."""

    parameters: int
    """Weights of the model."""
    from_random: bool
    """Whether they are random at first."""
    train_tokens: int
    """Different tokens that are trained on."""
    passes: float
    """Times that the recipe's steps see each sequence."""
    bits_per_byte: float | None = None
    """Of the starting model on the corpus; None = it has random weights."""
    general_bits_per_byte: float | None = None
    """Of the starting model on Python's reference, as a general English text."""


def plan_of(recipe: Recipe, tokenizer: GPT2TokenizerFast, train: dict, examples: Iterable[Example]) -> Plan:
    """Return what a recipe is to do with a corpus, with the starting model's loss on it.

    Args:
        recipe: whose model and steps count.
        tokenizer: of the run.
        train: what stats.json says of the training part.
        examples: a sample, on which the loss is measured.

    Raises:
        RecipeError: the starting model takes no such tokens, or no such length.
    """
    train_tokens = train["tokens"] // recipe.data.tokenizations
    passes = recipe.train.steps * recipe.train.global_batch_size * recipe.data.tokenizations / max(train["sequences"], 1)
    if recipe.model.init == "random":
        context = recipe.model.shape.context or recipe.data.length
        return Plan(build.parameter_count(recipe.model, context, len(tokenizer)), True, train_tokens, passes)
    build.check_start(recipe.model.init, recipe.data.length, len(tokenizer))
    model = build.load_model(recipe.model.init)
    mine, general = (
        _bits_per_byte(model, tokenizer, recipe.data.length, texts)
        for texts in ((example.text for example in examples), (example.text for example in read_corpus(DataConfig(path="python-docs"))))
    )
    return Plan(model.count_params(), False, train_tokens, passes, mine, general)


def judge(quality: Quality, plan: Plan) -> list[Judgement]:
    """Say whether the corpus is enough, clean and relevant."""
    return [*_enough(quality, plan), *_clean(quality), *_relevant(quality, plan)]


def draw_lengths(quality: Quality, length: int, path: Path) -> None:
    """Draw how long the documents are, in tokens, beside the length of a packed sequence."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    longest = max(int(quality.lengths.max(initial=2)), length)
    axes.hist(quality.lengths, bins=[2 ** (n / 2) for n in range(2 * longest.bit_length() + 1)], color="#4878a8")
    axes.axvline(length, color="#c44e52", label=f"data.length = {length}")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("tokens of a document")
    axes.set_ylabel("documents")
    axes.legend()
    figure.savefig(path, dpi=120)


def _enough(quality, plan):
    ratio = plan.train_tokens / plan.parameters
    sizes = f"{plan.train_tokens:,} tokens to train on for {plan.parameters:,} weights, {ratio:.2g} each"
    if not plan.from_random:
        yield Judgement("enough", quality.documents >= 100, f"{sizes}; a pretrained model can be fine-tuned on a few hundred good documents")
    elif ratio >= TOKENS_PER_PARAMETER:
        yield Judgement("enough", True, f"{sizes}; about {TOKENS_PER_PARAMETER} make the best of a model's size")
    else:
        yield Judgement("enough", False, f"{sizes}; {TOKENS_PER_PARAMETER} would make the best of that size: "
                        "use a smaller model, more text, or a pretrained model (model.init), and watch the validation loss")
    advice = "more than that brings little: set fewer train.steps, or add text" if plan.passes > PASSES else f"up to {PASSES} are nearly as good as new text"
    yield Judgement("enough", plan.passes <= PASSES, f"train.steps sees each sequence {plan.passes:.2g} times; {advice}")


def _clean(quality):
    documents = max(quality.documents, 1)
    for number, what, key in ((quality.exact_duplicates, "were there before", "exact"), (quality.near_duplicates, "are nearly like one before", "near")):
        advice = f"; set data.clean.deduplicate to {key}" if number else ""
        yield Judgement("clean", number <= 0.01 * documents, f"{number:,} of {documents:,} documents ({number / documents:.1%}) {what}{advice}")
    where = f": {', '.join(quality.garbled_places[:3])}; look at them, and at data.encoding" if quality.garbled else ""
    yield Judgement("clean", not quality.garbled, f"{quality.garbled:,} documents are garbled{where}")
    found = ", ".join(f"{kind} in {number:,}" for kind, number in quality.personal.most_common())
    kinds = ", ".join(quality.personal)
    yield Judgement("clean", not found, f"personal data: {found}; set data.clean.mask to [{kinds}]" if found else "no personal data was found")


def _relevant(quality, plan):
    known = quality.languages.total()
    if known:
        shares = ", ".join(f"{language} {number / known:.0%}" for language, number in quality.languages.most_common(4))
        yield Judgement("relevant", quality.languages.most_common(1)[0][1] >= 0.9 * known, f"languages: {shares}"
                        + ("" if quality.languages.most_common(1)[0][1] >= 0.9 * known else "; is that as it should be?"))
    used = quality.vocabulary_used / quality.vocabulary
    fits = quality.bytes_per_token >= 2.5
    advice = "" if fits else "; the vocabulary was not made for such text: train one (tokenizer.init: train)"
    yield Judgement("relevant", fits, f"{quality.bytes_per_token:.2f} bytes a token, and {used:.0%} of the vocabulary occurs{advice}")
    if plan.bits_per_byte is not None:
        gap = plan.bits_per_byte - plan.general_bits_per_byte
        news = "it has much to learn here" if gap > 0.3 else "it knows such text about as well as general text, and will gain little but style"
        yield Judgement("relevant", gap > 0.3, f"the starting model needs {plan.bits_per_byte:.2f} bits a byte for it, and {plan.general_bits_per_byte:.2f} "
                        f"for Python's reference: {news}")


def _bits_per_byte(model, tokenizer, length, texts: Iterable[str]):
    sample, characters = [], 0
    for text in texts:
        sample.append(text[: LOSS_CHARACTERS - characters])
        characters += len(sample[-1])
        if characters >= LOSS_CHARACTERS:
            break
    loss_sum, tokens, _ = summed_loss(model, pack_texts(sample, tokenizer, length, batch_size=8))
    return figures(loss_sum, tokens, sum(len(text.encode()) for text in sample))["bits_per_byte"]
