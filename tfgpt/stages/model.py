"""The stages that make the model that is trained: the start, and its changes."""
from __future__ import annotations

from pathlib import Path

from tfgpt.data.counts import token_counts
from tfgpt.data.labels import count_labels
from tfgpt.data.pipeline import training_batches
from tfgpt.data.shards import ShardedData
from tfgpt.files import whole_folder, write_json
from tfgpt.models import build
from tfgpt.models.adapt import adapt, fitted, with_output
from tfgpt.models.adaptation import Head
from tfgpt.models.causal_lm import GPTLMHeadModel
from tfgpt.models.checkpoint import check_weights
from tfgpt.models.heads import for_head, for_language
from tfgpt.models.pruning import head_importance
from tfgpt.models.word_vector_files import load_word_vectors
from tfgpt.models.word_vectors import ONE_HOT, put_one_hot, put_word_vectors
from tfgpt.progress import console, progress_bar
from tfgpt.recipe import Recipe, RecipeError
from tfgpt.stages.plan import adapt_config, check_start, has_head, is_pretrained, old_tokenizer, start_of
from tfgpt.text.bpe import load_tokenizer

IMPORTANCE_SEQUENCES = 512
"""Of the training part, on which it is measured how much each attention head matters."""


def load_made(folder: Path, part: str, weights: str = "float32") -> GPTLMHeadModel:
    """Load a model that an earlier stage has written to a part of the run's folder.

    Raises:
        RecipeError: its files are damaged.
    """
    try:
        check_weights(folder / part)
    except ValueError as error:
        raise RecipeError(f"{error}, or remove {folder / part}, and the run makes it again") from error
    return build.load_model(folder / part, weights)


def make_model(recipe: Recipe, folder: Path) -> None:
    """Write the model that the run starts from to checkpoints/start; it takes the data, so its vocabulary, context and positions are already changed."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    if recipe.model.init == "random":
        model = build.new_model(recipe.model, recipe.model.shape.context or recipe.data.length, tokenizer, recipe.seed)
    else:
        check_start(recipe, len(tokenizer))
        model = build.load_model(recipe.model.init)
    model = fitted(model, recipe.adapt, tokenizer, lambda: old_tokenizer(recipe))
    save_whole(model, folder / "checkpoints" / "start")
    config = model.config
    console.print(f"model: {model.count_params():,} weights in {config.n_layer} layers of width {config.n_embd}, "
                  f"vocabulary {config.vocab_size:,}, context {config.n_positions}")


def adapt_model(recipe: Recipe, folder: Path) -> None:
    """Write the model with all its layers to checkpoints/initial."""
    def importance(model):
        data, most = ShardedData(folder / "data"), IMPORTANCE_SEQUENCES // recipe.train.global_batch_size
        batches = training_batches(data, recipe.train.global_batch_size, recipe.seed).take(max(most, 1)).map(_without_sources)
        if has_head(recipe):
            batches = batches.map(lambda batch: for_language(for_head(batch), Head(recipe.adapt.head.kind), model.config.eos_token_id))
        with progress_bar("adapt: which heads matter"):
            found = head_importance(model, batches)
        write_json(folder / "checkpoints" / "head-importance.json", found)
        return found

    labels = count_labels(folder / "data") if has_head(recipe) else {}
    model = load_made(folder, start_of("adapt", recipe))
    if recipe.adapt.embeddings.vectors:
        model = _with_vectors(model, recipe, folder)
    model = adapt(model, adapt_config(recipe), recipe.seed, importance, labels)
    save_whole(model, folder / "checkpoints" / "initial")
    trained = sum(variable.shape.num_elements() for variable in model.trainable_variables)
    console.print(f"adapt: {trained:,} of {model.count_params():,} weights are trained")


def _with_vectors(model, recipe, folder):
    """Return a model with the recipe's word vectors in its embeddings; an output matrix of its own keeps what they were."""
    config, random = recipe.adapt.embeddings, recipe.model.init == "random" and not is_pretrained(recipe)
    model = with_output(model, config)
    if config.vectors == ONE_HOT:
        model, coverage = put_one_hot(model, recipe.seed)
    else:
        tokenizer, counts = load_tokenizer(folder / "tokenizer"), token_counts(ShardedData(folder / "data"), model.config.vocab_size)
        try:
            vectors = load_word_vectors(config.vectors)
            model, coverage = put_word_vectors(model, vectors, tokenizer, not random, config.vectors_min_shared, counts, recipe.seed)
        except ValueError as error:
            raise RecipeError(str(error)) from error
    console.print(f"adapt: {coverage}")
    return model


def _without_sources(batch):
    """Return a batch as a model has it before it gets an encoder."""
    return {key: value for key, value in batch.items() if not key.startswith("encoder_")}


def save_whole(model, folder: Path) -> None:
    """Write a model to a folder, which is there whole or not at all."""
    with whole_folder(folder) as partial:
        model.save_pretrained(partial)
