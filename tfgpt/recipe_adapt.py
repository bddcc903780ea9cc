"""What the `adapt` section of a recipe may say: how the model to start from is changed before it is trained, and what of it is trained."""
from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from tfgpt.recipe_checks import check, check_at_least, check_choices
from tfgpt.recipe_data import SourceConfig, Unit

HeadKind = Literal["none", "classes", "labels", "number", "tags", "choice"]


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank changes of matrices, trained instead of them (Hu et al. 2021, "LoRA")."""

    rank: int = 0
    """Rank of a change; 0 = no LoRA."""
    alpha: float = 16.0
    """A change counts alpha / rank times."""
    dropout: float = 0.0
    """Share of a change's input dropped in training."""
    matrices: tuple[str, ...] = ("h.*.attn.c_attn",)
    """Patterns of the matrices that are changed: h.*.attn.c_attn, h.*.attn.c_proj, h.*.mlp.c_fc, h.*.mlp.c_proj, and wte."""
    merge: bool = True
    """Add the changes to the matrices when training ends, so that model/ is a plain GPT-2; they also lie in adapter/, by themselves."""

    def __post_init__(self):
        check_at_least("adapt.lora.rank", self.rank, 0)
        check(0 < self.alpha < math.inf, f"adapt.lora.alpha: {self.alpha} is no number above 0; twice the rank is usual")
        check(0 <= self.dropout < 1, f"adapt.lora.dropout: {self.dropout} is not in [0, 1); 0 turns it off")
        check(bool(self.matrices), "adapt.lora.matrices: empty; give patterns such as h.*.attn.c_attn")


@dataclass(frozen=True)
class BottleneckConfig:
    """Small layers behind attention and MLP, trained instead of them (Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP")."""

    width: int = 0
    """Of the bottleneck; 0 = none."""
    places: tuple[str, ...] = ("attn", "mlp")
    """Behind which of attn and mlp of every block."""

    def __post_init__(self):
        check_at_least("adapt.bottleneck.width", self.width, 0)
        wrong = [place for place in self.places if place not in ("attn", "mlp")]
        check(not wrong and bool(self.places), f"adapt.bottleneck.places: {list(self.places)}; give one or both of attn and mlp")


@dataclass(frozen=True)
class PrefixConfig:
    """Learned tokens before every text, trained instead of the model's weights."""

    tokens: int = 0
    """How many; 0 = none."""
    kind: Literal["prefix", "prompt"] = "prefix"
    """prefix = keys and values of every layer (Li & Liang 2021, "Prefix-Tuning"); prompt = embeddings, of which the model itself makes keys and values
    (Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning")."""

    def __post_init__(self):
        check_choices("adapt.prefix", self)
        check_at_least("adapt.prefix.tokens", self.tokens, 0)


@dataclass(frozen=True)
class AttentionConfig:
    """Changes of attention."""

    window: int = 0
    """Tokens that a token sees, itself among them; 0 = as many as in the starting model, which is all before it unless
    that has a window; as many as the context takes a window off (Beltagy et al. 2020, "Longformer": sliding window)."""
    prune: float = 0.0
    """Share of the starting model's heads that are removed: those that matter least to the loss on the training part (Michel et al. 2019, "Are Sixteen
    Heads Really Better than One?"). A block keeps one head at least; those of adapt.insert_blocks keep all."""
    masked_heads: tuple[str, ...] = ()
    """Heads that are switched off, as block.head from 0, such as "3.11"; in quotes, or YAML makes numbers of them."""

    def __post_init__(self):
        check_at_least("adapt.attention.window", self.window, 0)
        check(0 <= self.prune < 1, f"adapt.attention.prune: {self.prune} is not in [0, 1); give a share such as 0.2, or 0 for none")
        for head in self.masked_heads:
            parts = head.split(".")
            check(len(parts) == 2 and all(part.isdecimal() for part in parts), f"adapt.attention.masked_heads: {head!r} is no block.head, such as 3.11")


@dataclass(frozen=True)
class EmbeddingsConfig:
    """Changes of the token embeddings."""

    vocabulary: Literal["keep", "tokenizer"] = "keep"
    """keep = that of the starting model; tokenizer = one row for each token of the recipe's tokenizer: rows of tokens that both know stay, by their text."""
    new_rows: Literal["pieces", "mean"] = "pieces"
    """How a new token's row begins: as the mean of the pieces into which the old tokenizer splits it, or as the mean of all old rows."""
    vectors: str = ""
    """File of word vectors (GloVe's or word2vec's text, word2vec's .bin, fastText's .vec or .bin; also .gz), or one-hot; empty = none. gensim-glove and
    gensim-fasttext are small ones that gensim ships. Needs tfgpt[vectors]. With untie the output matrix keeps what the embeddings were."""
    vectors_min_shared: int = 0
    """Words that vectors and vocabulary must share for their map to the model's width to be learned; 0 = as many as the vectors have dimensions. Where the
    embeddings are random (model.init, without pretrain) no map is learned: the vectors are turned into the width at random, which keeps their angles."""
    untie: bool = False
    """Give the output a matrix of its own, which begins as a copy of the embeddings."""
    tie: bool = False
    """Let the embeddings be the output matrix, whatever the starting model has."""

    def __post_init__(self):
        check_choices("adapt.embeddings", self)
        check(not (self.tie and self.untie), "adapt.embeddings.tie: true with adapt.embeddings.untie true; set one of them")
        check_at_least("adapt.embeddings.vectors_min_shared", self.vectors_min_shared, 0)


@dataclass(frozen=True)
class HeadConfig:
    """An output layer beside the language model's."""

    kind: HeadKind = "none"
    """classes = one class a text; labels = any number of labels a text; number = a number a text; tags = a class a token; choice = the right one of
    several continuations. The head takes the last token of what it judges."""
    weight: float = 1.0
    """Share of the head's loss in what is trained; below 1 the language model's loss has the rest (an auxiliary head)."""
    dropout: float = 0.1
    """Share of the head's input dropped in training."""

    def __post_init__(self):
        check_choices("adapt.head", self)
        check(0 < self.weight <= 1, f"adapt.head.weight: {self.weight} is not in (0, 1]; 1 trains the head alone")
        check(0 <= self.dropout < 1, f"adapt.head.dropout: {self.dropout} is not in [0, 1); 0 turns it off")


@dataclass(frozen=True)
class EncoderConfig:
    """An encoder whose states every block attends to, for examples with a source (data.examples: translation)."""

    kind: Literal["none", "new", "copy"] = "none"
    """new = random weights; copy = the starting model's own blocks, without their causal mask (Rothe et al. 2020, "Leveraging Pre-trained
    Checkpoints for Sequence Generation Tasks"). Token embeddings are the model's in both; positions, blocks and last norm its own."""
    layers: int = 0
    """Blocks of the encoder; 0 = as many as the model has. Fewer of copy are chosen evenly, the first and the last among them."""
    context: int = 0
    """The most tokens of a source, its end-of-text token among them; a longer one keeps its first. 0 = data.source_length, or else data.length."""

    def __post_init__(self):
        check_choices("adapt.encoder", self)
        check_at_least("adapt.encoder.layers", self.layers, 0)
        check_at_least("adapt.encoder.context", self.context, 0)


@dataclass(frozen=True)
class PretrainConfig:
    """Language modelling on the task's own text between the starting model and the fine-tune (Gururangan et al. 2020, "Don't Stop Pretraining")."""

    steps: int = 0
    """Optimizer steps; 0 = no such stage."""
    path: str = ""
    """Text without labels, as data.path, its kind by its ending; empty = all texts of the training part, without their labels."""
    sources: tuple[SourceConfig, ...] = ()
    """Several such sources, or one that is read in another way, instead of adapt.pretrain.path; as data.sources. What a source does not give is not taken from
    data, but for columns and encoding. How text is cleaned, split, cut and packed is as in data."""
    documents: Unit = "line"
    """As data.documents, of adapt.pretrain.path and adapt.pretrain.sources."""
    peak: float = 1.0e-3
    """Highest learning rate; all else is as in train, but for l2_start, layer_decay and unfreeze_every, which are the fine-tune's alone."""

    def __post_init__(self):
        check_choices("adapt.pretrain", self)
        check_at_least("adapt.pretrain.steps", self.steps, 0)
        check(not (self.path and self.sources), f"adapt.pretrain.path: {self.path} and {len(self.sources)} adapt.pretrain.sources; give one of the two")
        for number, source in enumerate(self.sources):
            check_choices(f"adapt.pretrain.sources[{number}]", source)
            check(source.examples in (None, "text") and not source.replay, f"adapt.pretrain.sources[{number}]: all of it is text that is trained on; leave "
                  "examples and replay out")
        check(0 < self.peak < math.inf, f"adapt.pretrain.peak: {self.peak} is no number above 0")


@dataclass(frozen=True)
class AdaptConfig:
    """What is changed in the starting model, and what of it is trained."""

    train: tuple[str, ...] = ()
    """Patterns of the weights that are trained, such as h.*.attn or h.[6-9]; a pattern names a weight or all below a part. Empty = all; or, where there
    is lora, bottleneck or prefix, these and what else is new."""
    freeze: tuple[str, ...] = ()
    """Patterns of the weights among them that are not."""
    reinitialize: tuple[str, ...] = ()
    """Patterns of the weights that begin at random, such as h.11."""
    insert_blocks: tuple[int, ...] = ()
    """Behind which blocks, counted from 1, a new one is put, which changes nothing at first; 0 = before all of them."""
    context: int = 0
    """The most tokens the model takes from now on; learned positions are interpolated, position m of the new is m * old / new of the old. 0 = as it is."""
    positions: Literal["keep", "learned", "sinusoidal"] = "keep"
    """How positions are told apart from now on: learned = from what they are, trained; sinusoidal = by sines and cosines, never trained."""
    dropout: float | None = None
    """Share of activations dropped in training, in all parts; not given = as the starting model has it."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    bottleneck: BottleneckConfig = field(default_factory=BottleneckConfig)
    prefix: PrefixConfig = field(default_factory=PrefixConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    embeddings: EmbeddingsConfig = field(default_factory=EmbeddingsConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)

    def __post_init__(self):
        check_choices("adapt", self)
        check_at_least("adapt.context", self.context, 0)
        check(all(place >= 0 for place in self.insert_blocks), f"adapt.insert_blocks: {list(self.insert_blocks)} has a negative place; give 0 or more")
        check(self.dropout is None or 0 <= self.dropout < 1, f"adapt.dropout: {self.dropout} is not in [0, 1); 0 turns it off")
