"""What a recipe may say: one frozen dataclass a section, each default written once, checked before any work starts.

Imports nothing of the package and no TensorFlow, so that `--help` and a refused recipe answer at once.
"""
from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from tfgpt.recipe_adapt import (
    AdaptConfig,
    AttentionConfig,
    BottleneckConfig,
    EmbeddingsConfig,
    EncoderConfig,
    HeadConfig,
    HeadKind,
    LoraConfig,
    PrefixConfig,
    PretrainConfig,
)
from tfgpt.recipe_checks import RecipeError, check, check_at_least, check_choices
from tfgpt.recipe_data import BUILT_IN_CORPORA, JUDGED, PERSONAL_DATA, CleanConfig, ColumnsConfig, DataConfig, SourceConfig
from tfgpt.recipe_export import ExportConfig, ExportDevice, Weights
from tfgpt.recipe_model import ModelConfig
from tfgpt.recipe_publish import PublishConfig
from tfgpt.recipe_task import GAP_MARKS, TaskConfig
from tfgpt.recipe_train import ScheduleConfig, TrainConfig

__all__ = ["BUILT_IN_CORPORA", "JUDGED", "PERSONAL_DATA", "AdaptConfig", "AttentionConfig", "BottleneckConfig", "CleanConfig", "ColumnsConfig", "DataConfig",
           "EmbeddingsConfig", "EncoderConfig", "Engine", "EvaluateConfig", "ExportConfig", "ExportDevice", "HeadConfig", "HeadKind", "LoraConfig",
           "ModelConfig", "PrefixConfig", "PretrainConfig", "PublishConfig", "Recipe", "RecipeError", "ScheduleConfig", "SourceConfig", "TaskConfig",
           "TokenizerConfig", "TrainConfig", "Weights"]


Engine = Literal["graph", "lite"]
"""What computes with a model that is not trained: TensorFlow, or LiteRT."""


@dataclass(frozen=True)
class TokenizerConfig:
    """A byte-level BPE as GPT-2's, or one of characters: trained on the training part, or loaded."""

    init: str = "train"
    """train, or a folder with vocab.json and merges.txt (or tokenizer.json), or a hub id such as gpt2, or a published model's, store://NAME."""
    vocab: int = 4096
    """Tokens in a trained vocabulary: 256 bytes, end-of-text and the merges. Not used with a loaded tokenizer, or with characters."""
    kind: Literal["bpe", "char"] = "bpe"
    """What is trained: bpe, or char = a token for each character of the training part, and bytes for any other."""
    special_tokens: tuple[str, ...] = ()
    """Texts that become one token each, whole, wherever they stand, and are left out when decoding; added to a loaded tokenizer too."""

    def __post_init__(self):
        check_choices("tokenizer", self)
        least = 257 + len(self.special_tokens)
        check_at_least("tokenizer.vocab", self.vocab, least, " (256 bytes, the end-of-text token and the special tokens)")
        check(all(self.special_tokens) and len(set(self.special_tokens)) == len(self.special_tokens),
              f"tokenizer.special_tokens: {list(self.special_tokens)} has an empty text or one twice; give each once")


@dataclass(frozen=True)
class EvaluateConfig:
    """The figures of evaluation.json, over every token of the validation part."""

    batch_size: int = 16
    """Sequences in a batch; changes the speed alone."""
    ngram_order: int = 5
    """Order of the n-gram model that the figures stand beside: 5 = four tokens of history."""
    ngram_tokens: int = 5_000_000
    """Tokens that it is trained on at most, the first ones of the training part; 0 = all. It takes some 150 bytes of memory for each."""
    general: str = "python-docs"
    """After a fine-tune: general text, as data.path, on whose held-out part the model is measured before and after, so that it is known what was forgotten;
    empty = it is not. Of a corpus that is also trained on (data.sources, adapt.pretrain), what is held out there."""
    general_tokens: int = 10_000
    """Tokens of that text, the first ones, four characters counted as one: some vocabularies have more in them."""
    prompts: tuple[str, ...] = ()
    """Prompts whose continuations the exported model writes at the end of a run."""
    max_new_tokens: int = 48
    """Tokens in such a continuation."""
    temperature: float = 0.7
    """Sampling temperature of such a continuation; 0 = greedy."""
    answers: int = 500
    """With a task: held-out records that are answered for its metrics, evenly from all; 0 = all."""

    def __post_init__(self):
        check_at_least("evaluate.answers", self.answers, 0, " (0 = all)")
        for key in ("batch_size", "max_new_tokens", "general_tokens"):
            check_at_least(f"evaluate.{key}", getattr(self, key), 1)
        check_at_least("evaluate.ngram_order", self.ngram_order, 2)
        check_at_least("evaluate.ngram_tokens", self.ngram_tokens, 0, " (0 = all)")
        check_at_least("evaluate.temperature", self.temperature, 0)


@dataclass(frozen=True)
class Recipe:
    """One run, from a corpus to a served model."""

    data: DataConfig
    name: str = "model"
    """Names the run's folder (runs/NAME) and the exported model."""
    seed: int = 1
    """Of the weights, the order of the data, dropout and the samples."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    publish: PublishConfig = field(default_factory=PublishConfig)

    def __post_init__(self):
        check(re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.name) is not None,
              f"name: {self.name!r} cannot name a folder and a model; use letters, digits, '-', '_' and '.'")
        check(0 <= self.seed < 2**31, f"seed: {self.seed} is not between 0 and 2**31 - 1")
        micro = self.train.accumulate
        check(self.train.global_batch_size % micro == 0, f"train.accumulate: {self.train.global_batch_size} sequences (train.global_batch_size) cannot be "
              f"cut into {micro} micro steps; set train.global_batch_size to a multiple of {micro}")
        check(self.model.init != "random" or self.adapt.embeddings.vocabulary == "keep", "adapt.embeddings.vocabulary: tokenizer exchanges that of a starting "
              "model, and model.init is random; leave it out")
        gaps = self.task.code.gaps
        wrong = [mark for mark in GAP_MARKS if (mark in self.tokenizer.special_tokens) != (gaps > 0) and self.task.kind == "code"]
        check(not wrong, f"task.code.gaps: {gaps}, and tokenizer.special_tokens {'lacks' if gaps else 'holds'} {', '.join(wrong)}; give all of "
              f"{', '.join(GAP_MARKS)} with a share above 0, and none of them with 0")
        context = self.adapt.context or self.model.shape.context
        if self.model.init == "random" and context:
            check(self.data.length <= context, f"data.length: {self.data.length} tokens is longer than the model's context of "
                  f"{context}; set it to {context} or less, or raise model.context")
