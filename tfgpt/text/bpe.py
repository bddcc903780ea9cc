"""Byte-level BPE as GPT-2's, in Python: trained on a stream of text, saved and loaded in the form that `GPT2TokenizerFast` reads."""
from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2TokenizerFast, PreTrainedTokenizerFast
from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

from tfgpt.text.encode import cut_text

SPACE = bytes_to_unicode()[ord(" ")]
"""How a byte-level vocabulary writes the space."""
END_OF_TEXT = "<|endoftext|>"
"""GPT-2's one special token: what a document starts from and what ends it."""


def train_tokenizer(texts: Iterable[str], vocab: int, special_tokens: Sequence[str] = ()) -> GPT2TokenizerFast:
    """Train a byte-level BPE.

    Args:
        texts: the training part alone, taken as a stream; held-out text must not shape the vocabulary.
        vocab: tokens in all: end-of-text (id 0), special tokens, 256 bytes, and merges for the rest. A small corpus may give fewer.
        special_tokens: further texts that are one token each.

    Returns:
        A tokenizer that encodes any text and decodes it back unchanged.

    Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units", over bytes as in GPT-2.

    >>> tokenizer = train_tokenizer(["the cat and the dog and the bird"] * 4, vocab=262)
    >>> tokenizer.tokenize("the band")
    ['the', 'Ġ', 'b', 'an', 'd']
    """
    tokenizer = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_TEXT, *special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces = (piece for text in texts for piece in cut_text(text))  # a long text whole would take over a hundred bytes a character
    tokenizer.train_from_iterator(pieces, trainer)
    return _as_gpt2(tokenizer, special_tokens)


def char_tokenizer(texts: Iterable[str], special_tokens: Sequence[str] = ()) -> GPT2TokenizerFast:
    """Return a tokenizer with one token for each character of some texts; any other character is spelled in bytes.

    It is a byte-level BPE whose merges never leave a character, so that it loads, exports and decodes like any other. The vocabulary is that
    of nanoGPT's character-level experiments, and the bytes not among them.

    >>> char_tokenizer(["naïve"]).tokenize("näive")
    ['n', 'Ã', '¤', 'i', 'v', 'e']
    """
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    letters = bytes_to_unicode()
    ids = {token: number for number, token in enumerate([END_OF_TEXT, *special_tokens, *(letters[byte] for byte in range(256))])}
    merges = []
    for character in sorted(characters):
        spelled = [letters[byte] for byte in character.encode()]
        for end in range(2, len(spelled) + 1):
            left, right = "".join(spelled[: end - 1]), spelled[end - 1]
            if left + right not in ids:
                ids[left + right] = len(ids)
                merges.append((left, right))
    return _as_gpt2(_byte_level(models.BPE(vocab=ids, merges=merges)), special_tokens)


def with_special_tokens(tokenizer: GPT2TokenizerFast, special_tokens: Sequence[str]) -> GPT2TokenizerFast:
    """Return the tokenizer with further special tokens at the end of its vocabulary; those it has already stay as they are."""
    tokenizer.add_special_tokens({"additional_special_tokens": list(special_tokens)}, replace_additional_special_tokens=False)
    return tokenizer


def _byte_level(model) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _as_gpt2(tokenizer, special_tokens) -> GPT2TokenizerFast:
    tokenizer.add_special_tokens([END_OF_TEXT, *special_tokens])
    return GPT2TokenizerFast(tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, unk_token=END_OF_TEXT,
                             additional_special_tokens=list(special_tokens))


def with_bpe_dropout(tokenizer: GPT2TokenizerFast, share: float) -> GPT2TokenizerFast:
    """Return a tokenizer that leaves out merges at random, so that a word comes in ever other pieces; for training text alone.

    The draws are the tokenizers library's own, which takes no seed.

    Args:
        tokenizer: unchanged.
        share: of the merges that are left out each time, in [0, 1); 0 = the same tokens always.

    Source: Provilkov et al. 2020, "BPE-Dropout: Simple and Effective Subword Regularization".
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["dropout"] = share or None
    return GPT2TokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **tokenizer.special_tokens_map)


def load_tokenizer(source: str | Path) -> GPT2TokenizerFast:
    """Load a GPT-2-style tokenizer from a folder or a hub id.

    Raises:
        FileNotFoundError: neither a folder with tokenizer files nor a hub id that can be had.
        ValueError: a tokenizer that is not byte-level, such as GPT-1's.
    """
    try:
        tokenizer = GPT2TokenizerFast.from_pretrained(str(source))
    except (OSError, TypeError) as error:  # TypeError: transformers' answer to a folder without vocab.json
        raise FileNotFoundError(f"{source} is neither a folder with vocab.json and merges.txt (or tokenizer.json) "
                                f"nor a model of the hub that can be reached") from error
    if not is_byte_level(tokenizer):
        raise ValueError(f"{source}: its tokenizer is no byte-level BPE as GPT-2's, and GPT-1's (openai-gpt) is none; set tokenizer.init to train or gpt2, "
                         "and adapt.embeddings.vocabulary to tokenizer")
    return tokenizer


def is_byte_level(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Tell whether a tokenizer spells texts in bytes, the space among them."""
    return tokenizer.backend_tokenizer.token_to_id(SPACE) is not None
