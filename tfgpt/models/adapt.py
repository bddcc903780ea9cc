"""The `adapt` section of a recipe, carried out on a model."""
from __future__ import annotations

from collections.abc import Callable, Mapping

from transformers import GPT2Config

from tfgpt.models import surgery
from tfgpt.models.adaptation import matches
from tfgpt.models.causal_lm import GPTLMHeadModel
from tfgpt.models.lora import add_lora, merge_lora
from tfgpt.models.positions import extend_context, set_positions
from tfgpt.models.pruning import block_of, least_important, mask_heads, prune_heads
from tfgpt.models.vocabulary import exchange_vocabulary
from tfgpt.recipe import AdaptConfig, EmbeddingsConfig, RecipeError
from tfgpt.text.bpe import GPT2TokenizerFast
from tfgpt.text.tokens import OldTokenizer


def adapt(model: GPTLMHeadModel, config: AdaptConfig, seed: int, importance: Callable[[GPTLMHeadModel], dict[str, float]],
          labels: Mapping[str, int]) -> GPTLMHeadModel:
    """Return a model with all layers that a recipe asks for, ready to be trained as it asks.

    Args:
        model: the starting model.
        config: of the recipe.
        seed: of what is new.
        importance: tells how much each head of a model matters, by block.head; called if heads are to be pruned.
        labels: that an output head is to find, with how often each occurs in the training part.

    Raises:
        RecipeError: a pattern that matches nothing, a block or a head that there is not.
    """
    attention = config.attention
    try:
        model = with_output(model, config.embeddings)
        if config.insert_blocks:
            model = surgery.insert_blocks(model, config.insert_blocks, seed)
        if config.reinitialize:
            model = surgery.reinitialize(model, config.reinitialize, seed)
        if attention.window:
            model = surgery.set_window(model, attention.window)
        if attention.masked_heads:
            model = mask_heads(model, attention.masked_heads)
        if attention.prune:
            started = set(surgery.moved_blocks(model.config.n_layer - len(config.insert_blocks), config.insert_blocks).values())
            found = {head: value for head, value in importance(model).items() if block_of(head) in started}  # new blocks add nothing yet, and are to learn
            model = prune_heads(model, least_important(found, attention.prune))
        if config.encoder.kind != "none":
            model = surgery.add_encoder(model, config.encoder, seed)
        if config.bottleneck.width:
            model = surgery.add_bottleneck(model, config.bottleneck, seed)
        if config.prefix.tokens:
            model = surgery.add_prefix(model, config.prefix, seed)
        if config.lora.rank:
            model = add_lora(model, config.lora, seed)
        if config.head.kind != "none":
            model = surgery.add_head(model, config.head, labels, seed)
        choose_trained(model, config)
        _check_new_are_trained(model, config)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    return model


def _check_new_are_trained(model, config):
    """Refuse to train beside a new part that, left as it begins, does nothing or nothing of use."""
    asked = {"head": config.head.kind != "none", "lora": config.lora.rank > 0, "bottleneck": config.bottleneck.width > 0, "prefix": config.prefix.tokens > 0}
    patterns = {"head": ("head",), "lora": ("**.lora",), "bottleneck": ("**.bottleneck_*",), "prefix": ("**.prefix", "prompt")}
    for part in (part for part, is_asked in asked.items() if is_asked):
        if not any(matches(pattern, name) for pattern in patterns[part] for name in model.trained_names):
            there = " or ".join(one for one in patterns[part] if any(matches(one, name) for name in model.weight_names))
            raise ValueError(f"adapt.train: {list(config.train)} without {list(config.freeze)} (adapt.freeze) leaves {part} as it begins; add {there}")


def fitted(model: GPTLMHeadModel, config: AdaptConfig, tokenizer: GPT2TokenizerFast, old_tokenizer: Callable[[], OldTokenizer]) -> GPTLMHeadModel:
    """Return a starting model that takes a recipe's data: with its context, positions, dropout and vocabulary.

    Args:
        model: the starting model.
        config: of the recipe.
        tokenizer: of the recipe.
        old_tokenizer: gives the one that the model was trained with; called if the vocabulary is exchanged.

    Raises:
        RecipeError: a vocabulary that cannot be exchanged.
    """
    try:
        if config.context:
            model = extend_context(model, config.context)
        if config.positions != "keep":
            model = set_positions(model, config.positions)
        if config.dropout is not None:
            model = surgery.set_dropout(model, config.dropout)
        if config.embeddings.vocabulary == "tokenizer":
            model = exchange_vocabulary(model, old_tokenizer(), tokenizer, config.embeddings.new_rows)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    return model


def with_output(model: GPTLMHeadModel, config: EmbeddingsConfig) -> GPTLMHeadModel:
    """Return a model whose output matrix is the embeddings or its own, as a recipe says; where it says nothing, as it is."""
    if config.untie:
        return surgery.untie_output(model)
    return surgery.tie_output(model) if config.tie else model


def choose_trained(model: GPTLMHeadModel, config: AdaptConfig) -> None:
    """Choose the weights that a recipe trains; where it says nothing, the model's own choice stands.

    Raises:
        ValueError: a pattern that matches nothing, or nothing is left to train.
    """
    if config.train or config.freeze:
        model.train_only(config.train or model.trained, config.freeze)


def finished(model: GPTLMHeadModel, config: AdaptConfig) -> GPTLMHeadModel:
    """Return a trained model as it is kept: LoRA's changes in its matrices, if the recipe wants that, and a learned prompt as keys and values."""
    if config.lora.rank and config.lora.merge:
        model = merge_lora(model)
    return surgery.prompt_as_prefix(model) if model.transformer.prompt is not None else model


def rehearse(config: GPT2Config, adaptation: AdaptConfig) -> None:
    """Carry the section out on a model as deep as the starting one and as narrow as can be, so that what it cannot do is known before any work.

    Args:
        config: of the starting model.
        adaptation: of the recipe.

    Raises:
        RecipeError: as `adapt`.
    """
    narrow = GPT2Config.from_dict(config.to_dict() | {"n_embd": config.n_head, "n_inner": None, "vocab_size": 2, "bos_token_id": 0, "eos_token_id": 0})
    model = GPTLMHeadModel(narrow)
    model.build_in_name_scope()
    adapt(model, adaptation, seed=0, importance=lambda model: {}, labels={} if adaptation.head.kind == "choice" else {"0": 1, "1": 1})
