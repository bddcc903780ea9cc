"""Decoding in pieces: rows that are begun, written on a few tokens at a time, joined with others and left out, each a function of the graph.

A server batches with these while texts are being written (iteration-level scheduling: Yu et al. 2022, "Orca: A Distributed Serving System for
Transformer-Based Generative Models"). They work on flat lists of tensors with the batch first, so that a SavedModel holds them as they are.
"""
from __future__ import annotations

import functools
from typing import NamedTuple

import tensorflow as tf

from tfgpt.generation.constraints import NO_TOKEN
from tfgpt.generation.controls import CONTROLS, Controls
from tfgpt.generation.decoding import State, bucketed, running
from tfgpt.generation.sampling import Constraints

CONTROL_SPECS = Controls(*(tf.TensorSpec([None], control.kind, name=name) for name, control in CONTROLS.items()))
CONSTRAINT_SPECS = Constraints(*(
    tf.TensorSpec([None, None], kind, name=name) for name, kind in zip(Constraints._fields, (tf.string, tf.int32, tf.int32))
))  # fmt: skip
TOP_SPEC = tf.TensorSpec([], tf.int32, name="top")


class Rows(NamedTuple):
    """A batch in the middle of its decoding, with what its callers asked for."""

    state: State
    controls: Controls
    """Each [batch], as they fit the context."""
    constraints: Constraints
    """Each [batch, n]."""
    prompt_tokens: tf.Tensor
    """int32 [batch]; read of the prompt, or of the source where there is an encoder."""


class Stepper(tf.Module):
    """Writes the texts of a `TextModel` in pieces: the same texts that its `generate` gives, whatever rows come and go beside a row.

    Rows are lists of tensors [batch, ...] here, to be handed from one function to the next and not to be looked into; what a caller may know of them
    is what `advance` tells.

    Args:
        text_model: a `TextModel`.

    >>> from tfgpt.generation.controls import controls_of
    >>> from tfgpt.generation.text_model import TextModel
    >>> stepper = TextModel(model, tokenizer).stepper
    >>> five = [tf.constant(values) for values in controls_of({"max_new_tokens": 5}, rows=1)]
    >>> one, other = (stepper.begin(tf.constant([prompt]), five, list(Constraints.none(1)), tf.constant(0)) for prompt in ("It was", "The"))
    >>> one, _ = stepper.advance(one, tf.constant(2))
    >>> both, told = stepper.advance(stepper.join(one, other), tf.constant(2))
    >>> told["token_count"].numpy().tolist()
    [4, 2]
    """

    def __init__(self, text_model):
        super().__init__(name="stepper")
        object.__setattr__(self, "_text_model", text_model)  # not tracked, or saving would trace every function of its own
        object.__setattr__(self, "_specs", None)
        specs = [tf.TensorSpec([None], tf.string, name="prompt"), list(CONTROL_SPECS), list(CONSTRAINT_SPECS), TOP_SPEC]
        self.begin = tf.function(self._begin, autograph=False, input_signature=specs)
        """Takes prompts, string [batch], controls (a list of [batch] or [1] each), constraints (a list of [batch, n] or [1, n] each) and how many of the
        likeliest tokens are told at each place, int32 []; gives rows of which nothing is read yet."""
        self.describe = tf.function(self._describe, autograph=False, input_signature=[])
        """Takes nothing; gives the bytes of each token, string [vocab], `texts`; and int32 [] `vocab` and `context`."""

    @functools.cached_property
    def advance(self) -> tf.types.experimental.PolymorphicFunction:
        """Takes rows and how many tokens each may get, int32 []; gives the rows, and what is known of them.

        That is what `TextModel.outputs` tells, `going`, bool [batch], and `prompt_tokens`, int32 [batch]: how many were read of the prompt, or of the source.
        """
        return tf.function(self._advance, autograph=False, input_signature=[self._row_specs(), tf.TensorSpec([], tf.int32, name="rounds")])

    @functools.cached_property
    def join(self) -> tf.types.experimental.PolymorphicFunction:
        """Takes rows and other rows; gives both in one batch, in this order."""
        return tf.function(self._join, autograph=False, input_signature=[self._row_specs()] * 2)

    @functools.cached_property
    def keep(self) -> tf.types.experimental.PolymorphicFunction:
        """Takes rows, which of them are kept, int32 [kept], and how many likeliest tokens any of these still wants; gives them without room for the others."""
        specs = [self._row_specs(), tf.TensorSpec([None], tf.int32, name="which"), TOP_SPEC]
        return tf.function(self._keep, autograph=False, input_signature=specs)

    def _row_specs(self):
        if self._specs is None:
            self.begin.get_concrete_function()  # which tells what rows are
        return tf.nest.flatten(self._specs)

    def _describe(self):
        config = self._text_model.model.config
        return {"texts": self._text_model.tokenizer.texts, "vocab": tf.constant(config.vocab_size), "context": tf.constant(config.n_positions)}

    def _begin(self, prompt, controls, constraints, top):
        text_model = self._text_model
        controls, constraints = Controls(*controls), Constraints(*constraints)
        prompts, controls, constraints, sources = text_model.fitted(text_model.tokenizer.tokenize(prompt), controls, constraints)
        read = tf.cast((prompts if sources is None else sources).row_lengths(), tf.int32)
        rows = Rows(text_model.decoder.begin(prompts, controls, top, sources), controls, constraints, read)
        object.__setattr__(self, "_specs", tf.nest.map_structure(lambda tensor: tf.TensorSpec([None] * tensor.shape.rank, tensor.dtype), rows))
        return tf.nest.flatten(rows)

    def _packed(self, rows) -> Rows:
        return tf.nest.pack_sequence_as(self._specs, rows)

    def _advance(self, rows, rounds):
        rows = self._packed(rows)
        state = self._text_model.decoder.advance(rows.state, rows.controls, rows.constraints, rounds)
        told = self._text_model.outputs(state, rows.constraints) | {
            "going": running(state, rows.controls),
            "prompt_tokens": rows.prompt_tokens,
        }
        return tf.nest.flatten(rows._replace(state=state)), told

    def _join(self, rows, others):
        fillers = tf.nest.map_structure(lambda spec: "" if spec.dtype == tf.string else spec.dtype.as_numpy_dtype(0), self._specs)
        fillers = tf.nest.flatten(fillers._replace(constraints=Constraints("", NO_TOKEN, NO_TOKEN)))
        sides = (tf.nest.flatten(_without_spare_rows(self._packed(side))) for side in (rows, others))
        joined = self._packed([_joined(*given) for given in zip(*sides, fillers)])
        return tf.nest.flatten(joined._replace(state=self._with_fitting_caches(joined.state)))

    def _keep(self, rows, which, top):
        rows = self._packed([tf.gather(tensor, which) for tensor in rows])
        state, written = rows.state, rows.state.written
        steps = _largest(rows.controls.max_new_tokens)
        places = tf.minimum(bucketed(_largest(written.prompt_length + rows.controls.max_new_tokens)), tf.shape(written.tokens)[1])
        return tf.nest.flatten(rows._replace(state=self._with_fitting_caches(state._replace(
            written=written._replace(tokens=written.tokens[:, :places]),
            token_log_probs=state.token_log_probs[:, :steps],
            top_ids=state.top_ids[:, :steps, :top],
            top_log_probs=state.top_log_probs[:, :steps, :top],
        ))))  # fmt: skip

    def _with_fitting_caches(self, state):
        """Return the state with caches as large as the models want them for its rows and places."""
        decoder, places = self._text_model.decoder, tf.shape(state.written.tokens)[1]
        draft = state.draft and state.draft._replace(cache=decoder.draft.fit_cache(state.draft.cache, places))
        return state._replace(cache=decoder.model.fit_cache(state.cache, places), draft=draft)


def _without_spare_rows(rows):
    """Return rows with caches of no more rows than these, which may be padded."""
    state, batch = rows.state, tf.size(rows.state.stopped)
    cache, draft = tf.nest.map_structure(lambda tensor: tensor[:batch], (state.cache, state.draft))
    return rows._replace(state=state._replace(cache=cache, draft=draft))


def _joined(one, other, filler):
    """Return two tensors [batch, ...] one behind the other, with room in the other dimensions for as much as either has."""
    if one.shape.rank == 1:
        return tf.concat([one, other], axis=0)
    sizes, behind = [tf.shape(tensor) for tensor in (one, other)], [0] + [1] * (one.shape.rank - 1)
    size = tf.maximum(*sizes)
    missing = (tf.stack([[0] * one.shape.rank, (size - own) * behind], axis=1) for own in sizes)  # [rank, 2]; of nothing there is no copy
    return tf.concat([tf.pad(tensor, padding, constant_values=filler) for tensor, padding in zip((one, other), missing)], axis=0)


def _largest(numbers):
    return tf.reduce_max(tf.concat([numbers, [1]], axis=0))
