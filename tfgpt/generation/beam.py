"""Beam search: of the texts that a prompt may go on with, the one with the best score, found by keeping the best few at every length.

Scores and ends are those of transformers' `generate(num_beams=...)`. A prompt is read once and its cache then shared out to its beams; all
rows write their tokens of one number together, and a row that has ended goes along without effect, so no row's result depends on the others.
"""
from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfgpt.generation.controls import Controls
from tfgpt.generation.decoding import bucketed, first_cache, placed
from tfgpt.generation.looping import loop
from tfgpt.generation.sampling import Constraints, changed, forced_at
from tfgpt.generation.stops import ends_in_stop
from tfgpt.models.cache import StaticCache

EARLY_STOPPING = (False, True, "never")
"""What a caller may say; the graph takes the number in this list.

A row may end once it has as many finished texts as beams: `True` = it does so at once; `False` = when the best beam, as it is now, scores less than
all of these; `"never"` = when it could not score more at any length up to `max_new_tokens`."""


class Hypotheses(NamedTuple):
    """Some continuations of each prompt, the best first."""

    ids: tf.Tensor
    """int32 [batch, beams, steps]; the end-of-text token behind the end."""
    length: tf.Tensor
    """int32 [batch, beams]; tokens, an end-of-text token among them."""
    score: tf.Tensor
    """float32 [batch, beams]; -inf = there are not so many continuations."""
    log_prob: tf.Tensor
    """float32 [batch, beams]; sum of the model's own log-probabilities (nats), whatever the controls."""

    @classmethod
    def none(cls, batch: tf.Tensor, beams: tf.Tensor, steps: tf.Tensor, end_of_text: int) -> Hypotheses:
        """Return places for so many, with nothing in them."""
        shape = tf.stack([batch, beams])
        return cls(tf.fill([batch, beams, steps], end_of_text), tf.zeros(shape, tf.int32), tf.fill(shape, float("-inf")), tf.zeros(shape))

    def at(self, numbers: tf.Tensor) -> Hypotheses:
        """Return those of the given numbers, int32 [batch, n]."""
        return Hypotheses(*(tf.gather(field, numbers, batch_dims=1) for field in self))

    def best(self, count: tf.Tensor) -> Hypotheses:
        """Return the `count` with the highest scores; of equal ones the first."""
        return self.at(tf.math.top_k(self.score, count)[1])

    def joined(self, others: Hypotheses) -> Hypotheses:
        """Return these and the others."""
        return Hypotheses(*(tf.concat(fields, axis=1) for fields in zip(self, others)))


class Searched(NamedTuple):
    """The best continuation of each prompt of a batch."""

    ids: tf.Tensor
    """int32 [batch, steps]; the end-of-text token after a row's end."""
    token_count: tf.Tensor
    """int32 [batch]; tokens generated, the one that ended a row among them."""
    score: tf.Tensor
    """float32 [batch]; what was searched for: the sum of the log-probabilities under penalties and bans, divided by
    `token_count ** length_penalty`; 0 without tokens."""
    log_prob: tf.Tensor
    """float32 [batch]; sum over the tokens of the model's own log-probability (nats), whatever the controls."""
    stopped: tf.Tensor
    """bool [batch]; the row ended with the end-of-text token or a stop string."""
    hypotheses: Hypotheses
    """All finished continuations, the best first, of which the others here are the first."""


class State(NamedTuple):
    """A batch in the middle of its search."""

    live: Hypotheses
    """The beams: all of one length, none ended; their score is not yet divided by anything."""
    finished: Hypotheses
    """The best that have ended."""
    done: tf.Tensor
    """bool [batch]; nothing is added to `finished` any more."""
    origin: tf.Tensor
    """int32 [batch * beams]; the row of `cache` that each beam goes on from."""
    cache: StaticCache
    """Of the prompts at first, then of the beams before their last token was chosen."""


def search(model, prompts: tf.RaggedTensor, controls: Controls, constraints: Constraints, beams: tf.Tensor, length_penalty: tf.Tensor,
           early_stopping: tf.Tensor, end_of_text: int, sources: tf.RaggedTensor | None = None, texts: tf.Tensor | None = None) -> Searched:
    """Find the best continuation of each prompt, as far as so many beams reach.

    With one beam it is the greedy one, whatever the length penalty and the early stopping.

    Args:
        model: a `GPTLMHeadModel`.
        prompts: int32 [batch, (tokens)], 1 token at least; with its `max_new_tokens` each fits the context (see `fit_prompts`).
        controls: of each row; `max_new_tokens`, `min_new_tokens`, `no_repeat_ngram_size` and the penalties alone count. The penalties change
            log-probabilities here, and not logits.
        constraints: of each row. A forced token's score is its log-probability without penalties. A stop string ends a text as the end-of-text token
            does, with the token that completes it.
        beams: int32 [], 1 to the size of the vocabulary.
        length_penalty: float32 [batch]; the higher, the likelier a longer text wins; 0 = the likeliest text wins.
        early_stopping: int32 [] or [batch], a number in `EARLY_STOPPING`.
        end_of_text: id of the token that ends a text.
        sources: int32 [batch, (tokens)], for a model with an encoder (see `framed_sources`).
        texts: string [vocab], the bytes of each token, for stop strings; `None` = they do not count.

    Source: transformers 4.57, `GenerationMixin._beam_search`; for the penalty Wu et al. 2016, "Google's Neural Machine Translation System", section 7.
    """
    written = placed(prompts, controls.max_new_tokens, model.config.n_positions, end_of_text)
    batch = tf.size(written.length)
    steps = tf.reduce_max(tf.concat([controls.max_new_tokens, [0]], axis=0))
    none = Hypotheses.none(batch, beams, steps, end_of_text)
    start = State(
        live=none._replace(score=tf.where(tf.range(beams) == 0, 0.0, none.score)),        # all alike as yet: one goes on
        finished=none,
        done=controls.max_new_tokens <= 0,
        origin=tf.repeat(tf.range(batch), beams),
        cache=_read(model, written.tokens, written.length, sources),
    )
    of_beams = tf.nest.map_structure(lambda of_rows: tf.repeat(of_rows, beams, axis=0), (written, controls, constraints))
    ends = _Ends(controls.max_new_tokens, length_penalty, early_stopping, end_of_text, texts, constraints.stop)

    def step(number, state):
        candidates, parents, state = _continued(model, state, number, *of_beams, end_of_text)
        return number + 1, _sorted_out(state, candidates, parents, ends)

    _, state = loop(lambda _, state: ~tf.reduce_all(state.done), step, [tf.constant(0), start])
    best = Hypotheses(*(field[:, 0] for field in state.finished))
    stopped = ends.in_text(Hypotheses(*(field[:, :1] for field in state.finished)))[:, 0] & (best.length > 0)
    return Searched(best.ids, best.length, tf.where(best.length > 0, best.score, 0.0), best.log_prob, stopped, state.finished)


class _Ends(NamedTuple):
    """What decides where texts end; the arguments of `search`."""

    most: tf.Tensor
    """int32 [batch]; `max_new_tokens`."""
    length_penalty: tf.Tensor
    early_stopping: tf.Tensor
    end_of_text: int
    texts: tf.Tensor | None
    stop: tf.Tensor
    """string [batch, stops]."""

    def in_text(self, found):
        """Tell which of these `Hypotheses` end with the end-of-text token or a stop string, bool [batch, n]."""
        ids = tf.pad(found.ids, [[0, 0], [0, 0], [0, 1]], constant_values=self.end_of_text)  # one place at least, also where nothing may be written
        batch, number, places = tf.unstack(tf.shape(ids))
        last = tf.gather(ids, tf.maximum(found.length[:, :, tf.newaxis] - 1, 0), batch_dims=2)[:, :, 0]
        ended = last == self.end_of_text
        if self.texts is None:
            return ended
        rows, length = tf.reshape(ids, [batch * number, places]), tf.reshape(found.length, [-1])
        stopped = ends_in_stop(self.texts, rows, tf.zeros_like(length), length, tf.repeat(self.stop, number, axis=0))
        return ended | tf.reshape(stopped, [batch, number])

    def score(self, log_prob, length):
        """Return what texts of a length, int32 [batch], score, float32 [batch, n]."""
        return log_prob / tf.pow(tf.cast(length, tf.float32), self.length_penalty)[:, tf.newaxis]


def _read(model, ids, length, sources):
    """Return the cache of prompts, int32 [batch, places], of so many tokens, int32 [batch], and of their sources."""
    batch, places = tf.shape(ids)[0], tf.shape(ids)[1]
    width = tf.minimum(bucketed(tf.reduce_max(tf.concat([length, [1]], axis=0))), places)
    positions = tf.broadcast_to(tf.range(width), [batch, width])
    cache = model.own_cache(first_cache(model, batch, places, sources))
    return model.read(ids[:, :width], positions, tf.fill([batch, 1], width - 1), cache)[1]


def _continued(model, state, number, prompts, controls, constraints, end_of_text):
    """Read the last token of each beam; return each row's best continuations by one token, twice as many as beams, and the beam each comes from.

    `number` tokens stand behind the prompts; these, controls and constraints are of each beam, [batch * beams, ...].
    """
    live = state.live
    batch, beams, steps = tf.unstack(tf.shape(live.ids))
    written = _behind(prompts, tf.reshape(live.ids, [batch * beams, steps]), number)
    place = written.length[:, tf.newaxis] - 1                                             # [batch * beams, 1]
    last = tf.gather(written.tokens, place, batch_dims=1)                                 # [batch * beams, 1]
    logits, cache = model.read(last, place, tf.zeros_like(last), model.own_cache(state.cache, state.origin))
    own = tf.nn.log_softmax(logits[:, 0])                                                 # [batch * beams, vocab]
    log_probs = _forced(changed(own, written, controls, constraints, end_of_text), own, constraints, number)

    vocab = tf.shape(own)[1]
    sums = live.score[:, :, tf.newaxis] + tf.reshape(log_probs, [batch, beams, vocab])
    # Of a beam's continuations one ends with the end-of-text token; so of twice as many as beams, enough go on.
    score, chosen = tf.math.top_k(tf.reshape(sums, [batch, beams * vocab]), 2 * beams)    # [batch, 2 * beams]
    parents, tokens = chosen // vocab, chosen % vocab
    of_parents = live.at(parents)
    return Hypotheses(
        ids=tf.where(tf.range(steps) == number, tokens[:, :, tf.newaxis], of_parents.ids),
        length=of_parents.length + 1,
        score=score,
        log_prob=of_parents.log_prob + tf.gather(tf.reshape(own, [batch, beams * vocab]), chosen, batch_dims=1),
    ), parents, state._replace(cache=cache)


def _sorted_out(state, candidates, parents, ends):
    """Take the best candidates that have not ended as beams, and those among the first of all that have ended as finished texts."""
    batch, beams = tf.unstack(tf.shape(state.live.score))
    length = candidates.length[:, 0]                                                      # [batch]; alike in all
    ended = ends.in_text(candidates) | (length >= ends.most)[:, tf.newaxis]               # [batch, 2 * beams]

    going, numbers = tf.math.top_k(tf.where(ended, float("-inf"), candidates.score), beams)
    live = candidates.at(numbers)._replace(score=going)
    counts = ended & (tf.range(2 * beams) < beams) & ~state.done[:, tf.newaxis]           # the others are there to take an ended one's place
    scored = candidates._replace(score=tf.where(counts, ends.score(candidates.score, length), float("-inf")))
    finished = state.finished.joined(scored).best(beams)

    worst = finished.score[:, -1]                                                         # [batch]; -inf while there is room
    at_once = (ends.early_stopping == EARLY_STOPPING.index(True)) | (beams == 1)
    patient = (ends.early_stopping == EARLY_STOPPING.index("never")) & (ends.length_penalty > 0.0)
    hoped = ends.score(going, tf.where(patient, ends.most, length))[:, 0]                 # [batch]
    done = state.done | (hoped <= worst) | (at_once & (worst > float("-inf"))) | (length >= ends.most)
    origin = tf.range(batch)[:, tf.newaxis] * beams + tf.gather(parents, numbers, batch_dims=1)
    return state._replace(live=live, finished=finished, done=done, origin=tf.reshape(origin, [-1]))


def _behind(prompts, ids, number):
    """Return what stands in each row when the first `number` of the ids, int32 [rows, steps], stand behind its prompt."""
    places = tf.shape(prompts.tokens)[1]
    place = tf.range(places) - prompts.length[:, tf.newaxis]                              # [rows, places]; negative in the prompt
    behind = tf.gather(ids, tf.clip_by_value(place, 0, tf.shape(ids)[1] - 1), batch_dims=1)
    length = tf.minimum(prompts.length + number, places)                                  # a row that has ended may go past the last place
    return prompts._replace(tokens=tf.where(place < 0, prompts.tokens, behind), length=length)


def _forced(log_probs, own, constraints, number):
    """Return log-probabilities [rows, vocab] with -inf for all but the token that is forced at a place; it gets the model's own."""
    token = forced_at(constraints, tf.fill([tf.shape(own)[0]], number))[:, tf.newaxis]     # [rows, 1]

    def force():
        alone = tf.where(tf.range(tf.shape(own)[1]) == token, own, float("-inf"))
        return tf.where(token >= 0, alone, log_probs)

    return tf.cond(tf.reduce_any(token >= 0), force, lambda: log_probs)
