"""Pretrained word vectors in a model's embeddings: the row of each token that is a word becomes the image of that word's vector.

The output matrix of a model whose output is tied is the embeddings, so it changes too; that of another stays.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tfgpt.models import weights
from tfgpt.models.causal_lm import GPTLMHeadModel
from tfgpt.models.surgery import changed
from tfgpt.models.word_vector_files import WordVectors
from tfgpt.text.bpe import GPT2TokenizerFast
from tfgpt.text.tokens import token_bytes

NAME = "transformer.wte.weight"
ONE_HOT = "one-hot"


@dataclass(frozen=True)
class Coverage:
    """What of a vocabulary has a vector."""

    dimensions: int
    """Of a vector."""
    tokens: int
    """That have one."""
    vocab: int
    words: int
    """That the tokens stand for; of one word there are several tokens, such as with and without a capital."""
    share_of_text: float | None
    """Of the tokens of a text, those that have one; `None` = no text was given."""
    explained: float | None
    """Share of the variance of the embeddings that were there which the least-squares map explains; `None` = the map is not learned."""

    def __str__(self):
        text = "" if self.share_of_text is None else f", {self.share_of_text:.1%} of the training text"
        fit = "" if self.explained is None else f"; the map explains {self.explained:.1%} of the embeddings' variance"
        return f"vectors of {self.dimensions} dimensions for {self.tokens:,} of {self.vocab:,} tokens ({self.words:,} words){text}{fit}"


def put_word_vectors(model: GPTLMHeadModel, vectors: WordVectors, tokenizer: GPT2TokenizerFast, learned: bool = True, least: int = 0,
                     counts: np.ndarray | None = None, seed: int = 0) -> tuple[GPTLMHeadModel, Coverage]:
    """Return a model in whose embeddings the words' vectors are, and what of the vocabulary has one. Tokens without a vector keep their rows.

    A map learned by least squares fits the rows that the words' tokens have (with a constant beside the vectors), and gives them its images: the vectors
    then stand where the model expects such words. Random rows have nothing to learn from; there the vectors, less their mean, are turned by
    a random rotation into the model's width, which keeps all their angles (of more dimensions than the width, those along which they vary
    most are kept), at the size of the rows that they replace.

    Args:
        model: any.
        vectors: by word.
        tokenizer: the model's; see `words_of_tokens` for which token is which word.
        learned: whether the map is learned; `False` for a model whose embeddings are random.
        least: distinct words that vectors and vocabulary must share for that; 0 = as many as the vectors have dimensions.
        counts: int [vocab], of each token in a text.
        seed: of the rotation.

    Raises:
        ValueError: too few words, or none; vectors that are all the same.
    """
    rows = {token: vectors.rows[word] for token, word in words_of_tokens(tokenizer, vectors.rows).items()}
    dimensions, words = vectors.matrix.shape[1], len(set(rows.values()))
    needed = (least or dimensions) if learned else 2
    if words < needed:
        why = f"to learn the map of {dimensions} dimensions to the model's width" if learned else "to be put in"
        remedy = "; give vectors of more words, or lower adapt.embeddings.vectors_min_shared" if learned else "; give vectors of the language of the data"
        raise ValueError(f"adapt.embeddings.vectors: vocabulary and vectors share {words} words, and {needed} are needed {why}{remedy}")
    state, tokens = weights.state(model), np.array(sorted(rows))
    table, given = state[NAME].copy(), vectors.matrix[[rows[token] for token in tokens]].astype(np.float64)  # [covered, dimensions]
    image, explained = _learned(given, table[tokens]) if learned else (_rotated(given, table[tokens], seed), None)
    table[tokens] = image
    share = None if counts is None else float(counts[tokens].sum() / counts.sum())
    return changed(model, state | {NAME: table}), Coverage(dimensions, len(tokens), len(table), words, share, explained)


def put_one_hot(model: GPTLMHeadModel, seed: int = 0) -> tuple[GPTLMHeadModel, Coverage]:
    """Return a model whose embeddings know nothing of a token but which one it is: the measure for what vectors know.

    Token i has the i-th unit vector of as many dimensions as there are tokens. In a wider model zeros stand behind it; in a narrower one all are
    projected on a random subspace (so is a random matrix with orthonormal columns, whose i-th row the token has). They are as large as the
    embeddings that were there. A map learned by least squares would give back just these, so none is.
    """
    state = weights.state(model)
    vocab, width = state[NAME].shape
    table = np.linalg.qr(np.random.default_rng(seed).standard_normal([vocab, width]))[0] if vocab > width else np.eye(vocab, width)
    state[NAME] = (table * (_size(state[NAME]) / _size(table))).astype(np.float32)
    return changed(model, state), Coverage(vocab, vocab, vocab, vocab, 1.0, None)


def words_of_tokens(tokenizer: GPT2TokenizerFast, known: Mapping[str, object]) -> dict[int, str]:
    """Return the word that each token stands for, of those that are known.

    A token is a word if it begins as one: behind a space, with a capital, or without any letter, as a full stop. Other tokens, such as `ing`, are mostly
    the rest of a word, and have none. A word is looked up as it stands, then in lower case. Special tokens are no words.

    >>> found = words_of_tokens(tokenizer, {"the", "ing", "."})
    >>> sorted(tokenizer.decode(token) for token in found)
    [' The', ' the', '.', 'The']
    """
    special, found = set(tokenizer.added_tokens_decoder), {}
    for token, spelled in token_bytes(tokenizer).items():
        text = spelled.decode(errors="replace")
        if token in special or not (text[:1] == " " or text[:1].isupper() or not any(map(str.isalpha, text))):
            continue
        word = next((form for form in (text.removeprefix(" "), text.removeprefix(" ").lower()) if form in known), None)
        if word is not None:
            found[token] = word
    return found


def _learned(given, rows):
    """Return the images of vectors [tokens, dimensions] by the affine map that comes nearest to some rows [tokens, width], and the variance explained."""
    extended = np.concatenate([given, np.ones([len(given), 1])], axis=1)
    image = extended @ np.linalg.lstsq(extended, rows.astype(np.float64), rcond=None)[0]
    around = ((rows - rows.mean(axis=0)) ** 2).sum()
    return image, float(1.0 - ((rows - image) ** 2).sum() / around) if around else 1.0


def _rotated(given, rows, seed):
    """Return vectors [tokens, dimensions], less their mean, in the width and at the size of some rows [tokens, width]."""
    centered, width = given - given.mean(axis=0), rows.shape[1]
    if given.shape[1] > width:
        centered = centered @ np.linalg.svd(centered, full_matrices=False)[2][:width].T
    turned = centered @ np.linalg.qr(np.random.default_rng(seed).standard_normal([width, centered.shape[1]]))[0].T
    if not (size := _size(turned)):
        raise ValueError("adapt.embeddings.vectors: the vectors of all words that the vocabulary has are the same; give others")
    return turned * (_size(rows) / size)


def _size(table):
    """Return the root mean square."""
    return float(np.sqrt(np.square(table, dtype=np.float64).mean()))
