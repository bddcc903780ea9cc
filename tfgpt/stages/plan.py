"""What follows from a recipe: which stages a run has, what each starts from, and what the training takes."""
from __future__ import annotations

import dataclasses

from tfgpt.models import build
from tfgpt.models.adaptation import Adaptation
from tfgpt.models.encoder import added_parameters
from tfgpt.recipe import AdaptConfig, DataConfig, EncoderConfig, ModelConfig, PretrainConfig, Recipe, RecipeError, TrainConfig
from tfgpt.recipe_checks import check
from tfgpt.recipe_model import Size
from tfgpt.text.bpe import PreTrainedTokenizerFast, load_tokenizer
from tfgpt.text.tokens import load_old_tokenizer
from tfgpt.training.estimate import Estimate, estimate


def adapt_config(recipe: Recipe) -> AdaptConfig:
    """Return how the model is changed; an encoder takes sources as long as the data's, unless it is said otherwise."""
    encoder = recipe.adapt.encoder
    if encoder.kind == "none":
        return recipe.adapt
    return dataclasses.replace(recipe.adapt, encoder=dataclasses.replace(encoder, context=encoder.context or source_length(recipe.data)))


def encoder_of(recipe: Recipe) -> EncoderConfig:
    """Return the encoder of the starting model, or else the one that it gets."""
    there = Adaptation.of(build.start_config(recipe.model, recipe.data.length)).encoder
    return there if there.kind != "none" else adapt_config(recipe).encoder


def starts_with_encoder(recipe: Recipe) -> bool:
    """Tell whether the starting model has an encoder already."""
    return Adaptation.of(build.start_config(recipe.model, recipe.data.length)).encoder.kind != "none"


def source_length(data: DataConfig) -> int:
    """Return the most tokens of a source that an encoder reads."""
    return data.source_length or data.length


def has_head(recipe: Recipe) -> bool:
    """Tell whether a head is trained, perhaps beside the language model."""
    return recipe.adapt.head.kind != "none"


def is_language_model(recipe: Recipe) -> bool:
    """Tell whether a language model is trained, perhaps beside a head."""
    return not has_head(recipe) or recipe.adapt.head.weight < 1


def is_adapted(recipe: Recipe) -> bool:
    """Tell whether the model is changed between its start, or its training on text without labels, and its training."""
    return dataclasses.replace(recipe.adapt, pretrain=PretrainConfig()) != AdaptConfig()


def is_pretrained(recipe: Recipe) -> bool:
    """Tell whether the model is first trained on text without labels."""
    return recipe.adapt.pretrain.steps > 0


def start_of(stage: str, recipe: Recipe) -> str:
    """Return the folder, in the run's, of the model that a stage starts from: what the last stage before it wrote that the recipe has.

    >>> start_of("train", Recipe(DataConfig(path="text.txt")))
    'checkpoints/start'
    """
    written = {"model": "start", "pretrain": "pretrained", "adapt": "initial"}
    wanted = {"model": True, "pretrain": is_pretrained(recipe), "adapt": is_adapted(recipe)}
    before = list(written)[: list(written).index(stage)] if stage in written else written
    return "checkpoints/" + written[[one for one in before if wanted[one]][-1]]


def pretrain_config(recipe: Recipe) -> TrainConfig:
    """Return how a model is trained on text without labels: as the recipe trains, but for steps, peak of the learning rate, and what is the fine-tune's."""
    own, schedule = recipe.adapt.pretrain, recipe.train.schedule
    schedule = dataclasses.replace(schedule, peak=own.peak, floor=min(schedule.floor, own.peak), decay_steps=min(schedule.decay_steps, own.steps))
    return dataclasses.replace(recipe.train, steps=own.steps, schedule=schedule, profile=(), l2_start=0.0, layer_decay=1.0, unfreeze_every=0)


def measures_loss_of_knowledge(recipe: Recipe) -> bool:
    """Tell whether it is asked what a fine-tune has forgotten: where there was something to forget."""
    return bool(recipe.evaluate.general) and (recipe.model.init != "random" or is_pretrained(recipe))


def tokenizer_of(init: str) -> PreTrainedTokenizerFast:
    """Return the tokenizer that tokenizer.init names."""
    try:
        return load_tokenizer(init)
    except FileNotFoundError as error:
        raise RecipeError(f"tokenizer.init: {error}; give train, such a folder or a hub id") from error
    except ValueError as error:
        raise RecipeError(f"tokenizer.init: {error}") from error


def old_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Return the tokenizer of the starting model."""
    try:
        return load_old_tokenizer(recipe.model.init)
    except (FileNotFoundError, OSError) as error:
        raise RecipeError(f"adapt.embeddings.vocabulary: tokenizer needs the one that model.init ({recipe.model.init}) was trained with ({error}); put it "
                          "beside the model") from error


def vocabulary_of(recipe: Recipe) -> int:
    """Return the tokens of a recipe's vocabulary as far as they are known before anything is done."""
    return recipe.tokenizer.vocab if recipe.tokenizer.init == "train" else len(tokenizer_of(recipe.tokenizer.init))


def check_start(recipe: Recipe, vocab: int) -> None:
    """Refuse a starting model that does not take the data, or the vocabulary of so many tokens."""
    exchanged = recipe.adapt.embeddings.vocabulary == "tokenizer"
    build.check_start(recipe.model.init, recipe.data.length, None if exchanged else vocab, recipe.adapt.context)
    check(exchanged or recipe.tokenizer.init != "train", f"tokenizer.init: train makes new tokens, and the rows of {recipe.model.init} (model.init) stand for "
          "others; set it to that model's tokenizer, or adapt.embeddings.vocabulary to tokenizer, which exchanges the rows")
    if exchanged:
        old_tokenizer(recipe)


def training_estimate(recipe: Recipe, vocab: int, replicas: int = 1) -> Estimate:
    """Return what the training of a recipe takes with a vocabulary of so many tokens; memory is that of one of the replicas."""
    if recipe.model.init == "random":
        shape = recipe.model.shape
        parameters = build.parameter_count(recipe.model, shape.context or recipe.data.length, vocab)
    else:
        config = build.config_of(recipe.model.init)
        shape = Size(config.n_layer, config.n_embd, config.n_head, recipe.adapt.context or config.n_positions)
        vocab = config.vocab_size if recipe.adapt.embeddings.vocabulary == "keep" else vocab
        parameters = build.parameter_count(ModelConfig(layers=shape.layers, width=shape.width, heads=shape.heads), shape.context, vocab)
    if (encoder := encoder_of(recipe)).kind == "none":
        return estimate(shape, vocab, recipe.data.length, recipe.train, parameters, replicas)
    layers = encoder.layers or shape.layers
    parameters += added_parameters(shape.layers, shape.width, layers, encoder.context)
    as_many = round(shape.layers * 4 / 3 + layers * source_length(recipe.data) / recipe.data.length)  # cross-attention is a third of a block
    needed = estimate(shape._replace(layers=as_many), vocab, recipe.data.length, recipe.train, parameters, replicas)
    return dataclasses.replace(needed, shape=shape)
