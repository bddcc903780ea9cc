"""The decoding engine: tokens are read over a cache of fixed size and one is chosen behind each row, all inside the graph.

Rows are padded on the right; a token's cache slot is its position in its row (see `StaticCache`), so rows of different lengths share a
batch without a mask of their own and no row's result depends on the others. One piece of graph reads the prompts in its first round, then a
token a round, or several where they could be guessed.
"""
from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfgpt.generation.controls import DRAFT_TOKENS, Controls
from tfgpt.generation.draft import Draft, drafted
from tfgpt.generation.lookup import Lookup, guess, learned
from tfgpt.generation.looping import loop
from tfgpt.generation.sampling import Constraints, Written, choose, uniform_numbers
from tfgpt.generation.stops import ends_in_stop
from tfgpt.models.cache import StaticCache
from tfgpt.models.cross_attention import Encoded

BUCKET = 16
"""Prompts are read in multiples of that many tokens, so that few shapes are ever made ready for."""


class Decoded(NamedTuple):
    """Continuations of a batch of prompts."""

    ids: tf.Tensor
    """int32 [batch, steps]; the end-of-text token after a row's end."""
    token_count: tf.Tensor
    """int32 [batch]; tokens generated, those that ended a row among them."""
    log_prob: tf.Tensor
    """float32 [batch]; sum over these tokens of the model's own log-probability (nats), whatever the controls."""
    stopped: tf.Tensor
    """bool [batch]; the row ended with the end-of-text token or a stop string."""
    token_log_probs: tf.Tensor
    """float32 [batch, steps]; what `log_prob` is the sum of; 0 after a row's end."""
    top_ids: tf.Tensor
    """int32 [batch, steps, top]; the likeliest tokens at each place under the model itself, the likeliest first."""
    top_log_probs: tf.Tensor
    """float32 [batch, steps, top]; of these."""


class State(NamedTuple):
    """A batch in the middle of its decoding."""

    written: Written
    stopped: tf.Tensor
    """bool [batch]."""
    read: tf.Tensor
    """int32 [batch]; tokens of the row that are in the cache."""
    token_log_probs: tf.Tensor
    top_ids: tf.Tensor
    top_log_probs: tf.Tensor
    uniform: tf.Tensor
    """float32 [batch, context]; for the draw of each token; [batch, 0] under plain controls."""
    lookup: Lookup
    cache: StaticCache
    draft: Draft | tuple
    """`()` without a draft model."""


class Decoder:
    """Decodes with one model.

    Args:
        model: a `GPTLMHeadModel`.
        end_of_text: id of the token that ends a row.
        texts: string [vocab], the bytes of each token, for stop strings; `None` = rows have no stop strings.
        draft: a smaller model with the same vocabulary that guesses how rows go on; `None` = none.
        draft_tokens: the most tokens that it guesses at once.
    """

    def __init__(self, model, end_of_text: int, texts: tf.Tensor | None = None, draft=None, draft_tokens: int = DRAFT_TOKENS):
        self.model, self.end_of_text, self.texts = model, end_of_text, texts
        self.draft, self.draft_tokens = draft, draft_tokens if draft is not None else 0

    def begin(self, prompts: tf.RaggedTensor, controls: Controls, top: int | tf.Tensor = 0, sources: tf.RaggedTensor | None = None) -> State:
        """Return the state before anything is read.

        Args:
            prompts: int32 [batch, (tokens)], 1 token at least; with its `max_new_tokens` each fits the context (see `fit_prompts`).
            controls: of each row.
            top: int32 []; how many of the likeliest tokens are noted at each place.
            sources: int32 [batch, (tokens)], for a model with an encoder (see `framed_sources`).
        """
        written = placed(prompts, controls.max_new_tokens, self.model.config.n_positions, self.end_of_text)
        batch, places = tf.unstack(tf.shape(written.tokens))
        steps = tf.reduce_max(tf.concat([controls.max_new_tokens, [0]], axis=0))
        return State(
            written=written,
            stopped=tf.zeros([batch], tf.bool),
            read=tf.zeros([batch], tf.int32),
            token_log_probs=tf.zeros([batch, steps]),
            top_ids=tf.zeros([batch, steps, top], tf.int32),
            top_log_probs=tf.zeros([batch, steps, top]),
            uniform=self._uniform(controls),
            lookup=Lookup.at_first(self._most_guessed(controls)),
            cache=first_cache(self.model, batch, places, sources),
            draft=Draft(first_cache(self.draft, batch, places, sources), tf.zeros([batch], tf.int32)) if self.draft is not None else (),
        )

    def _uniform(self, controls):
        rows, context = tf.size(controls.max_new_tokens), self.model.config.n_positions
        if controls.are_plain:
            return tf.zeros([rows, 0])
        sampled = tf.reduce_any(controls.temperature > 0.0)
        return tf.cond(sampled, lambda: uniform_numbers(controls.seed, context), lambda: tf.zeros([rows, context]))

    def advance(self, state: State, controls: Controls, constraints: Constraints, rounds: int | tf.Tensor) -> State:
        """Write on: `rounds` times each row that has not ended gets a token, or more where they could be guessed.

        Under plain controls the constraints are not looked at.
        """
        draft = state.draft and state.draft._replace(cache=self.draft.own_cache(state.draft.cache))
        state = state._replace(cache=self.model.own_cache(state.cache), draft=draft)

        def more(done, state):
            return (done < rounds) & tf.reduce_any(running(state, controls))

        return loop(more, lambda done, state: (done + 1, self._round(state, controls, constraints)), [tf.constant(0), state])[1]

    def finish(self, state: State) -> Decoded:
        """Return what the rows have now."""
        written = state.written
        count, steps = written.length - written.prompt_length, tf.shape(state.token_log_probs)[1]
        place = tf.range(steps)[tf.newaxis]                                               # [1, steps]
        where = tf.minimum(written.prompt_length[:, tf.newaxis] + place, tf.shape(written.tokens)[1] - 1)
        ids = tf.where(place < count[:, tf.newaxis], tf.gather(written.tokens, where, batch_dims=1), self.end_of_text)
        return Decoded(ids, count, tf.reduce_sum(state.token_log_probs, axis=1), state.stopped, state.token_log_probs, state.top_ids, state.top_log_probs)

    def _round(self, state, controls, constraints):
        """Read what is unread and what is guessed behind it; take the guesses that the model would have chosen, and one token more."""
        places = tf.shape(state.written.tokens)[1]
        going = running(state, controls)
        tokens, guessed, draft = self._guessed(state, controls, tf.where(going, controls.max_new_tokens - _count(state) - 1, 0))
        ahead = tf.reduce_max(tf.concat([guessed, [0]], axis=0))
        unread = state.written.length - state.read                                        # [batch]
        width = tf.minimum(bucketed(tf.reduce_max(tf.concat([unread, [1]], axis=0))) + ahead, places)
        positions = tf.minimum(state.read[:, tf.newaxis] + tf.range(width), places - 1)   # [batch, width]
        unseen = tf.gather(tokens, positions, batch_dims=1)
        last = tf.minimum(unread[:, tf.newaxis] - 1 + tf.range(ahead + 1), width - 1)     # [batch, ahead + 1]
        logits, cache = self.model.read(unseen, positions, last, state.cache)             # [batch, ahead + 1, vocab]
        before = state.written.length

        def take(number, going, state):
            """Choose behind the guess `number`; a row goes on while what it chose is what it had guessed."""
            at = state.written.length
            state, chosen = self._written(state, logits[:, number], going, controls, constraints)
            right = chosen == tf.gather(tokens, tf.minimum(at, places - 1), batch_dims=1)
            return number + 1, going & right & (number < guessed) & running(state, controls), state

        start = [tf.constant(0), going, state._replace(cache=cache)]
        if self._guesses(controls):
            _, _, state = loop(lambda number, going, _: (number <= ahead) & tf.reduce_any(going), take, start)
        else:
            _, _, state = take(*start)
        right, read = state.written.length - before - 1, state.written.length - 1
        lookup = learned(state.lookup, guessed, right, self._most_guessed(controls))
        if self.draft is not None:
            draft = draft._replace(read=tf.minimum(draft.read, read))                     # and what it read of wrong guesses is read over
        return state._replace(read=read, lookup=lookup, draft=draft)

    def _guesses(self, controls):
        """Tell whether a round may read more than one token behind a prompt; known when the graph is made."""
        return not controls.are_plain or self.draft is not None

    def _most_guessed(self, controls):
        if controls.are_plain:
            return tf.fill(tf.shape(controls.max_new_tokens), self.draft_tokens)
        return tf.maximum(controls.prompt_lookup_num_tokens, self.draft_tokens)

    def _guessed(self, state, controls, most):
        """Return the rows with up to so many guesses behind them, int32 [batch]; how many these are; and what the draft model has read then."""
        tokens, found = state.written.tokens, tf.zeros_like(most)
        if not controls.are_plain:
            tokens, found = guess(state.written, state.lookup, tf.minimum(most, controls.prompt_lookup_num_tokens))
        if self.draft is None:
            return tokens, found, state.draft
        wanted = tf.where((found > 0) | (state.lookup.rest > 0), 0, tf.minimum(tf.minimum(most, self.draft_tokens), state.lookup.trust))
        written = state.written._replace(tokens=tokens)
        with_draft, draft = tf.cond(tf.reduce_any(wanted > 0), lambda: drafted(self.draft, written, state.draft, wanted), lambda: (tokens, state.draft))
        return with_draft, found + wanted, draft

    def _written(self, state, logits, going, controls, constraints):
        """Choose a token behind each row, from logits [batch, vocab], and write it in the rows that go on; return it too, int32 [batch]."""
        written, number = state.written, _count(state)
        uniform = None if controls.are_plain else tf.gather(state.uniform, tf.minimum(number, tf.shape(state.uniform)[1] - 1), batch_dims=1)
        chosen = choose(logits, written, controls, constraints, uniform, self.end_of_text)
        log_sum, top = tf.reduce_logsumexp(logits, axis=-1), tf.shape(state.top_ids)[2]     # a log-softmax of it all took twice as long

        def noted():
            likeliest, ids = tf.math.top_k(logits, top)
            return _put(state.top_ids, number, ids, going), _put(state.top_log_probs, number, likeliest - log_sum[:, tf.newaxis], going)

        top_ids, top_log_probs = tf.cond(top > 0, noted, lambda: (state.top_ids, state.top_log_probs))
        written = written._replace(tokens=_put(written.tokens, written.length, chosen, going), length=written.length + tf.cast(going, tf.int32))
        return state._replace(
            written=written,
            stopped=state.stopped | (going & self._ended(written, chosen, controls, constraints)),
            token_log_probs=_put(state.token_log_probs, number, tf.gather(logits, chosen, batch_dims=1) - log_sum, going),
            top_ids=top_ids,
            top_log_probs=top_log_probs,
        ), chosen

    def _ended(self, written, chosen, controls, constraints):
        """Tell which rows end with the token that was just written, bool [batch]."""
        ended = chosen == self.end_of_text
        if controls.are_plain or self.texts is None:
            return ended
        return ended | ends_in_stop(self.texts, written.tokens, written.prompt_length, written.length, constraints.stop)


def decode(model, prompts: tf.RaggedTensor, controls: Controls, end_of_text: int, draft=None, draft_tokens: int = DRAFT_TOKENS) -> Decoded:
    """Continue each prompt until its end-of-text token or its `max_new_tokens`; the arguments are those of `Decoder`."""
    decoder = Decoder(model, end_of_text, draft=draft, draft_tokens=draft_tokens)
    state = decoder.begin(prompts, controls)
    return decoder.finish(decoder.advance(state, controls, Constraints.none(prompts.nrows()), model.config.n_positions))


def _count(state):
    """Return how many tokens each row has got, int32 [batch]."""
    return state.written.length - state.written.prompt_length


def running(state: State, controls: Controls) -> tf.Tensor:
    """Tell which rows go on, bool [batch]."""
    return ~state.stopped & (_count(state) < controls.max_new_tokens)


def first_cache(model, batch: tf.Tensor, places: tf.Tensor, sources: tf.RaggedTensor | None) -> StaticCache:
    """Return a model's cache before anything is written; where it has an encoder, that has read the sources, int32 [batch, (tokens)]."""
    if model.encoder is None:
        return model.empty_cache(batch, places)
    return model.empty_cache(batch, places, encoded(model, sources))


def encoded(model, sources: tf.RaggedTensor) -> Encoded:
    """Return what a model's encoder makes of sources, int32 [batch, (tokens)] (see `framed_sources`)."""
    lengths = tf.cast(sources.row_lengths(), tf.int32)
    places = tf.minimum(bucketed(tf.reduce_max(tf.concat([lengths, [1]], axis=0))), model.encoder.context)
    ids = sources.to_tensor(0)                                                            # [batch, longest]
    return model.encode(tf.pad(ids, [[0, 0], [0, places - tf.shape(ids)[1]]]), lengths)


def placed(prompts: tf.RaggedTensor, max_new_tokens: tf.Tensor, context: int, filler: int) -> Written:
    """Return prompts, int32 [batch, (tokens)], with room behind them for so many tokens, int32 [batch]."""
    length = tf.cast(prompts.row_lengths(), tf.int32)
    places = tf.minimum(bucketed(tf.reduce_max(tf.concat([length + max_new_tokens, [1]], axis=0))), context)
    ids = prompts.to_tensor(filler)                                                       # [batch, longest]
    return Written(tf.pad(ids, [[0, 0], [0, places - tf.shape(ids)[1]]], constant_values=filler), length=length, prompt_length=length)


def bucketed(length):
    """Return the next multiple of `BUCKET`, or the length itself if it is 1."""
    return tf.where(length > 1, (length + BUCKET - 1) // BUCKET * BUCKET, length)


def _put(rows, place, values, wanted):
    """Return the rows [batch, places, ...] with values [batch, ...] at one place each, int32 [batch], where wanted, bool [batch]."""
    here = (tf.range(tf.shape(rows)[1]) == place[:, tf.newaxis]) & wanted[:, tf.newaxis]  # [batch, places]
    here = tf.reshape(here, tf.concat([tf.shape(here), [1] * (rows.shape.rank - 2)], axis=0))
    return tf.where(here, values[:, tf.newaxis], rows)
