"""What is refused before any stage is begun."""
from __future__ import annotations

from pathlib import Path

from tfgpt.data.cleaning import Cleaner
from tfgpt.data.intake import Account
from tfgpt.data.sources import input_files
from tfgpt.data.unlabelled import check_unlabelled
from tfgpt.evaluation.general import general_texts
from tfgpt.evaluation.text_metrics import check_packages
from tfgpt.generation.loading import part_of
from tfgpt.models import build
from tfgpt.models.adapt import rehearse
from tfgpt.models.adaptation import matches
from tfgpt.models.word_vector_files import check_word_vectors, load_word_vectors
from tfgpt.models.word_vectors import ONE_HOT
from tfgpt.recipe import JUDGED, Recipe, RecipeError
from tfgpt.recipe_checks import check
from tfgpt.stages.plan import (
    adapt_config,
    check_start,
    encoder_of,
    is_adapted,
    is_language_model,
    is_pretrained,
    measures_loss_of_knowledge,
    source_length,
    starts_with_encoder,
    tokenizer_of,
)
from tfgpt.stages.records import has_records, with_records
from tfgpt.tasks.task import task_of

LANGUAGE_MODELLING = ("text", "pairs", "chat", "translation")
"""What data.examples may be where a language model is trained."""

EXAMPLES_OF = {"classes": "labels", "labels": "labels", "number": "numbers", "tags": "tags", "choice": "choice"}
"""What data.examples must be for a head."""


def check_before_work(recipe: Recipe, training: bool = True, folder: Path = Path()) -> None:
    """Refuse what can be known to fail before anything is written.

    Args:
        recipe: of the run.
        training: whether a model is to be trained, and not data prepared alone.
        folder: of the run.

    Raises:
        RecipeError: a corpus, tokenizer or starting model that is not there, or one that does not fit the rest; a package that is missing.
    """
    input_files(recipe.data)
    recipe = with_records(recipe, folder)  # which are not there yet
    if has_records(recipe):
        check_packages(task_of(recipe.task).packages, f"task.kind: {recipe.task.kind}")
    Cleaner(recipe.data.clean, Account())
    vocab = None if recipe.tokenizer.init == "train" else len(tokenizer_of(recipe.tokenizer.init))
    if not training:
        return
    if has_records(recipe):
        _check_head_of_task(recipe, task_of(recipe.task))
    _check_examples(recipe.data.examples, recipe.adapt.head.kind)
    if recipe.model.init != "random":
        check_start(recipe, recipe.tokenizer.vocab if vocab is None else vocab)
    context = recipe.adapt.context or build.start_config(recipe.model, recipe.data.length).n_positions
    recipe.export.lengths(context)
    _check_draft(recipe.export.draft, context)
    _check_encoder(recipe)
    if is_adapted(recipe):
        rehearse(build.start_config(recipe.model, recipe.data.length), adapt_config(recipe))
    check(not recipe.train.l2_start or recipe.model.init != "random" or is_pretrained(recipe), f"train.l2_start: {recipe.train.l2_start} would hold a new "
          "model near its random weights; set it to 0, or give a model.init or adapt.pretrain.steps")
    if measures_loss_of_knowledge(recipe):
        next(general_texts(recipe))  # what cannot be measured on is known at once
    if is_pretrained(recipe):
        check_unlabelled(recipe.data, recipe.adapt.pretrain)
        check(not starts_with_encoder(recipe), f"adapt.pretrain.steps: {recipe.adapt.pretrain.steps}, and {recipe.model.init} (model.init) has an encoder, "
              "for which text without labels has nothing to read; set it to 0")
    if recipe.adapt.embeddings.vectors:
        _check_vectors(recipe)


def _check_draft(draft, context):
    """Refuse a draft model that is not there, or too short; its vocabulary is compared with the model's when there is one."""
    if not draft:
        return
    try:
        found = build.config_of(part_of(draft, "model")).n_positions
    except (FileNotFoundError, ValueError) as error:
        raise RecipeError(f"export.draft: {error}; give a folder with a model, a hub id, or leave it out") from error
    check(found >= context, f"export.draft: {draft} has a context of {found} tokens, shorter than the model's {context}; give another, or leave it out")


def _check_vectors(recipe):
    source, begun_anew = recipe.adapt.embeddings.vectors, [one for one in recipe.adapt.reinitialize if matches(one, "wte.weight")]
    check(not begun_anew, f"adapt.embeddings.vectors: {source} with adapt.reinitialize {begun_anew}, which would undo it; leave one of them out")
    try:
        if source != ONE_HOT:
            # Where a training comes before they are put in, the whole file is read once more, so that a fault in its midst is known before that.
            (load_word_vectors if is_pretrained(recipe) else check_word_vectors)(source)
    except (FileNotFoundError, RuntimeError, ValueError) as error:
        raise RecipeError(str(error)) from error


def _check_head_of_task(recipe, task):
    """Refuse a head that the task does not learn by."""
    head, heads = recipe.adapt.head, task.heads or tuple(kind for kind, wanted in EXAMPLES_OF.items() if wanted == recipe.data.examples)
    check(recipe.data.examples not in JUDGED or head.kind in heads, f"adapt.head.kind: {head.kind}, and {recipe.task.kind} is learned by a head; set it to "
          + " or ".join(heads))
    check(not task.reads_likelihood or is_language_model(recipe), f"adapt.head.weight: {head.weight} trains the head alone, and {recipe.task.kind} (task.kind) "
          "asks the language model; set it below 1, such as 0.5")


def _check_examples(examples, head):
    if head != "none":
        check(examples == EXAMPLES_OF[head], f"data.examples: {examples} is not what adapt.head.kind {head} is trained on; set it to {EXAMPLES_OF[head]}")
        return
    heads = " or ".join(kind for kind, wanted in EXAMPLES_OF.items() if wanted == examples)
    check(examples not in JUDGED, f"data.examples: {examples} is for a head, and adapt.head.kind is none; set it to {heads}, or prepare the data alone "
          "with tfgpt data prepare")
    check(examples in LANGUAGE_MODELLING, f"data.examples: {examples} is not what a language model is trained on; set it to one of "
          f"{', '.join(LANGUAGE_MODELLING)}, or prepare the data alone with tfgpt data prepare")


def _check_encoder(recipe):
    """Refuse sources that nothing would read, and an encoder that nothing is given."""
    data, encoder, has_one = recipe.data, encoder_of(recipe), starts_with_encoder(recipe)
    named = "model.init: its model" if has_one else f"adapt.encoder.kind: {encoder.kind}"
    if encoder.kind == "none":
        check(data.examples != "translation", "data.examples: translation needs a model with an encoder; set adapt.encoder.kind to new or copy, or prepare "
              "the data alone with tfgpt data prepare")
        return
    check(data.examples == "translation", f"{named} reads sources, which data.examples: {data.examples} has not; set data.examples to translation")
    check(source_length(data) <= encoder.context, f"data.source_length: {source_length(data)} tokens is longer than the {encoder.context} that the encoder "
          f"takes; set it to {encoder.context} or less" + ("" if has_one else ", or raise adapt.encoder.context"))
