"""A model and its tokenizer as one `tf.Module`: strings in, strings out. Python, the SavedModel and the tasks all use this one."""
from __future__ import annotations

import functools
from collections.abc import Generator, Iterable, Sequence
from numbers import Integral

import numpy as np
import tensorflow as tf
from transformers import GPT2TokenizerFast

from tfgpt.generation.batches import check_characters, checked_texts
from tfgpt.generation.beam import EARLY_STOPPING, search
from tfgpt.generation.bounds import bounded, within
from tfgpt.generation.calling import call
from tfgpt.generation.constraints import constraints_of
from tfgpt.generation.controls import DRAFT_TOKENS, LENGTHS, SEARCH_CONTROLS, Controls, checked_numbers, controls_of
from tfgpt.generation.decoding import Decoder
from tfgpt.generation.results import Continuation, Token
from tfgpt.generation.rows import fit_prompts, unpadded
from tfgpt.generation.sampling import Constraints
from tfgpt.generation.stepping import CONSTRAINT_SPECS, CONTROL_SPECS, TOP_SPEC, Stepper
from tfgpt.generation.stops import first_stop, sure_text
from tfgpt.generation.text_reader import TextReader
from tfgpt.text.graph import as_unicode

PROMPT_SPEC = tf.RaggedTensorSpec([None, None], tf.int32)
SEARCH_SPECS = (
    tf.TensorSpec([], tf.int32, name="beams"),
    tf.TensorSpec([None], tf.float32, name="length_penalty"),
    tf.TensorSpec([None], tf.int32, name="early_stopping"),
)
TOKEN_OUTPUTS = ("ids", "token_log_probs", "top_ids", "top_log_probs")


class TextModel(TextReader):
    """A causal language model that takes and gives text: what it tells of texts is said of `TextReader`, from which it has that.

    Of a model with an encoder the prompts are sources: the encoder reads them, framed as in training (a source longer than the encoder takes keeps its
    first tokens), and a text is written from the end-of-text token on. All else is the same.

    Args:
        model: a `GPTLMHeadModel`, or a `LiteModel` of it.
        tokenizer: the one it was trained with.
        draft: a smaller model with the same vocabulary, which guesses how texts go on: the same texts, faster where it often guesses right.
        draft_tokens: the most tokens that it guesses at once.
        text_device: that the tokenizer's operations are kept on (see `GraphTokenizer`).

    Raises:
        ValueError: a tokenizer with more tokens than the model has, or without a twin in the graph (see `GraphTokenizer`); a draft model with another
            vocabulary or a shorter context, or fewer draft tokens than 1; a context of 1 token, in which nothing can follow.

    >>> text_model = TextModel(model, tokenizer)
    >>> once, again = text_model.generate(["It was", "It was"], temperature=1.0, seed=[1, 1])
    >>> once == again
    True
    """

    def __init__(self, model, tokenizer: GPT2TokenizerFast, draft=None, draft_tokens: int = DRAFT_TOKENS, text_device: str = ""):
        if model.config.n_positions < 2:
            raise ValueError(f"the model's context is {model.config.n_positions} token, in which nothing can follow; give one of 2 or more")
        super().__init__(model, tokenizer, text_device)
        if draft is not None:
            _check_draft(model, draft, draft_tokens)
            self.weights += draft.all_variables
        object.__setattr__(self, "draft", draft)  # not tracked, as the model
        self.draft_tokens = draft_tokens
        object.__setattr__(self, "decoder", Decoder(model, self.tokenizer.end_of_text, self.tokenizer.texts, draft, draft_tokens))

    def generate(self, prompts: list[str], max_new_tokens: int | Iterable[int] = 64, *, samples: int = 1, stop: Sequence = (),
                 banned_tokens: Sequence = (), forced_tokens: str | Sequence = (), top_log_probs: int | None = None,
                 **controls: float | Iterable[float]) -> list[Continuation]:
        """Continue each prompt.

        Args:
            prompts: any text; "" starts a document. One longer than the context keeps its last tokens.
            max_new_tokens: the most tokens to write; capped to what fits the context.
            samples: continuations of each prompt, which then stand one after the other; the seed of each is one more than that of the one before.
            stop: texts; a continuation ends before the first of them, wherever its tokens begin and end.
            banned_tokens: ids, or texts that are one token each, which are never chosen, unless they are forced or no other token is left.
            forced_tokens: ids, or a text, with which the continuation begins.
            top_log_probs: the continuations tell their tokens, and so many of the likeliest ones at each place; `None` = no tokens.
            controls: `temperature`, `top_k`, `top_p`, `min_p`, `typical_p`, `repetition_penalty`, `presence_penalty`, `frequency_penalty`,
                `no_repeat_ngram_size`, `min_new_tokens`, `seed`, `prompt_lookup_num_tokens`; what each does, and its range, stands in
                `tfgpt.generation.controls.CONTROLS`. What is not given is off, and the temperature 0: greedy. Penalties and bans come first, then
                temperature, top-k, top-p, min-p, typical.

            Each control is one number, or a list with one number a prompt; `stop`, `banned_tokens` and `forced_tokens` are one list, or one a prompt.

        Raises:
            ValueError: `prompts` is one text, or holds what is none; a control that there is not, or out of its range; constraints that cannot be.

        >>> TextModel(model, tokenizer).generate(["It was"], forced_tokens=" said: no.", stop=["."])[0].text
        ' said: no'
        """
        prompts = checked_texts("generate: prompts", prompts)
        given = self._settings(len(prompts), {"max_new_tokens": max_new_tokens} | controls, stop, banned_tokens, forced_tokens, samples, top_log_probs)
        prompts = tf.repeat(tf.constant(prompts, tf.string, shape=[len(prompts)]), samples)
        return self._continuations(self._written(call(self.tokenizer.tokenize, prompts), *given), top_log_probs)

    def generate_from_ids(self, input_ids: np.ndarray, attention_mask: np.ndarray | None = None, max_new_tokens: int | Iterable[int] = 64, *,
                          samples: int = 1, stop: Sequence = (), banned_tokens: Sequence = (), forced_tokens: str | Sequence = (),
                          top_log_probs: int | None = None, **controls: float | Iterable[float]) -> list[Continuation]:
        """Continue rows of tokens; all else is as in `generate`.

        Args:
            input_ids: int [batch, length].
            attention_mask: int [batch, length], 0 where a row is padded: on the left, on the right or on both sides. `None` = nowhere.

        Raises:
            ValueError: shapes that differ, a mask with a gap within a row, or what is no token of the model; and as `generate`.
        """
        ids = np.asarray(input_ids)
        mask = np.ones_like(ids) if attention_mask is None else np.asarray(attention_mask)
        if ids.ndim != 2 or ids.shape != mask.shape:
            raise ValueError(f"generate_from_ids: input_ids has the shape {ids.shape} and attention_mask {mask.shape}; give [batch, length] twice")
        if (np.diff((mask != 0).astype(int), axis=1, prepend=0) > 0).sum(axis=1).max(initial=0) > 1:
            raise ValueError("generate_from_ids: attention_mask has a gap between tokens of a row; give 0 for padding alone, which is at its ends")
        if ids.size and ids.dtype.kind not in "iu":
            raise ValueError(f"generate_from_ids: input_ids holds {ids.dtype}; give whole numbers")
        vocab = self.model.config.vocab_size
        if wrong := ids[(mask != 0) & ((ids < 0) | (ids >= vocab))].tolist():
            raise ValueError(f"generate_from_ids: {wrong[0]} is no token; give ids from 0 to {vocab - 1}")
        given = self._settings(len(ids), {"max_new_tokens": max_new_tokens} | controls, stop, banned_tokens, forced_tokens, samples, top_log_probs)
        rows = (tf.repeat(tf.constant(array, tf.int32), samples, axis=0) for array in (ids, mask))
        return self._continuations(self._written(unpadded(*rows), *given), top_log_probs)

    def check(self, options: dict) -> None:
        """Raise the `ValueError` that `generate` would raise for these keywords with one prompt; or `search`, if `beams` are among them."""
        controls = dict(options)
        if "beams" in controls:
            self._search_numbers(1, **{name: controls.pop(name) for name in ("beams", "length_penalty", "early_stopping") if name in controls})
        lists = [controls.pop(name, ()) for name in ("stop", "banned_tokens", "forced_tokens")]
        self._settings(1, controls, *lists, controls.pop("samples", 1), controls.pop("top_log_probs", None))

    def _settings(self, rows, controls, stop, banned_tokens, forced_tokens, samples, top):
        """Return what graphs take beside the prompts, checked, for `samples` rows a prompt: arrays of the controls, constraints, and `top`."""
        if not (_is_whole(samples, 1) and (top is None or _is_whole(top, 0))):
            raise ValueError(f"generate: samples {samples} and top_log_probs {top}; give 1 or more samples, and 0 or more log-probabilities")
        checked = Controls(*(np.repeat(np.broadcast_to(values, [rows]), samples) for values in controls_of(controls, rows)))
        checked = checked._replace(seed=checked.seed + np.tile(np.arange(samples), rows))
        lists = constraints_of(stop, banned_tokens, forced_tokens, rows, self.model.config.vocab_size, self._tokens_of)
        lists = Constraints(*(tf.repeat(table, samples, axis=0) for table in lists))
        return checked, lists, tf.constant(min(top or 0, self.model.config.vocab_size))

    def _tokens_of(self, text):
        return call(self.tokenizer.tokenize, tf.constant([text]))[0].numpy().tolist()

    def _written(self, prompts, controls, constraints, top):
        """Return what the graph gives that does what is asked; int32 [batch, (tokens)] and what `_settings` returned."""
        if controls.change_nothing and not any(table.shape[1] for table in constraints):
            return call(self.plain_graph, prompts, *(tf.constant(getattr(controls, name)) for name in LENGTHS), top)
        return call(self.generate_graph, prompts, Controls(*map(tf.constant, controls)), constraints, top)

    def _continuations(self, outputs, top):
        """Return what the graph gave, with each row's tokens unless `top` is `None`."""
        arrays = {name: value.numpy() for name, value in outputs.items()}
        rows = [Continuation(text.decode(), int(count), float(log_prob), reason.decode())
                for text, count, log_prob, reason in zip(*(arrays[name] for name in ("text", "token_count", "log_prob", "finish_reason")))]
        if top is None:
            return rows
        texts = self.tokenizer.texts.numpy()
        return [row._replace(tokens=tuple(
            Token(int(token), texts[token].decode("utf-8", "replace") if token < len(texts) else "", float(log_prob), tuple(zip(ids.tolist(), tops.tolist())))
            for token, log_prob, ids, tops in zip(*(arrays[name][number][: row.token_count] for name in TOKEN_OUTPUTS))
        )) for number, row in enumerate(rows)]  # fmt: skip

    @tf.function(autograph=False, input_signature=[PROMPT_SPEC, CONTROL_SPECS, CONSTRAINT_SPECS, TOP_SPEC])
    def generate_graph(self, prompts, controls, constraints, top):
        """Continue rows of tokens.

        Args:
            prompts: int32 [batch, (tokens)].
            controls: each [batch], or [1] for all rows alike.
            constraints: each [batch, n], or [1, n] for all rows alike.
            top: int32 [], how many of the likeliest tokens are told at each place.

        Returns:
            `text` string, `token_count` int32, `log_prob` float32, `finish_reason` string, each [batch]; `ids` int32 and `token_log_probs` float32,
            each [batch, steps]; `top_ids` int32 and `top_log_probs` float32, each [batch, steps, top].
        """
        return self._decode(prompts, controls, constraints, top)

    @tf.function(autograph=False, input_signature=[PROMPT_SPEC, *(getattr(CONTROL_SPECS, name) for name in LENGTHS), TOP_SPEC])
    def plain_graph(self, prompts, max_new_tokens, min_new_tokens, top):
        """Continue rows of tokens as `generate_graph` does where nothing is asked but lengths: half of the graph, ready in half of the time."""
        return self._decode(prompts, Controls.plain(max_new_tokens, min_new_tokens), None, top)

    def fitted(self, prompts, controls, constraints):
        """Return prompts that fit the context, controls and constraints of each row, and their sources: the prompts themselves where there is an encoder."""
        controls, constraints = bounded(controls, constraints, self.model.config.vocab_size)
        prompts, sources = self._parted(prompts)
        batch = prompts.nrows(tf.int32)
        if not controls.are_plain:
            constraints = Constraints(*(tf.broadcast_to(table, [batch, tf.shape(table)[1]]) for table in constraints))
        controls = Controls(*(control if control is None else tf.broadcast_to(control, [batch]) for control in controls))
        prompts, most = fit_prompts(prompts, controls.max_new_tokens, self.model.config.n_positions, self.tokenizer.end_of_text)
        return prompts, controls._replace(max_new_tokens=most), constraints, sources

    def _decode(self, prompts, controls, constraints, top):
        prompts, controls, constraints, sources = self.fitted(prompts, controls, constraints)
        state = self.decoder.begin(prompts, controls, top, sources)
        return self.outputs(self.decoder.advance(state, controls, constraints, self.model.config.n_positions), constraints)

    def outputs(self, state, constraints):
        """Return what is written in rows so far: what `generate_graph` gives, and `bytes`, string [batch], which may end inside a character."""
        decoded = self.decoder.finish(state)
        bytes_ = self.tokenizer.joined(decoded.ids) if constraints is None else self._cut(decoded.ids, constraints.stop)
        return {
            "text": as_unicode(bytes_),
            "token_count": decoded.token_count,
            "log_prob": decoded.log_prob,
            "finish_reason": tf.where(decoded.stopped, "stop", "length"),
            "bytes": bytes_,
        } | {name: getattr(decoded, name) for name in TOKEN_OUTPUTS}

    def _cut(self, ids, stop):
        """Return the texts of tokens up to the first stop string, bytes, string [batch]."""
        text = self.tokenizer.joined(ids)
        cut = tf.cond(tf.size(stop) > 0, lambda: first_stop(text, stop), lambda: tf.fill(tf.shape(text), -1))
        return tf.strings.substr(text, tf.zeros_like(cut), tf.where(cut >= 0, cut, tf.strings.length(text)))

    def stream(self, prompt: str, max_new_tokens: int = 64, *, rounds: int = 1, stop: Sequence[str] = (), banned_tokens: Sequence = (),
               forced_tokens: str | Sequence = (), **controls: float) -> Generator[str, None, Continuation]:
        """Continue a prompt piece by piece, as soon as its text is sure; together the pieces are the text that `generate` gives.

        A piece never ends inside a character, nor where a stop string may have begun.

        Args:
            prompt: any text.
            max_new_tokens: as in `generate`, and so are all that follow but `rounds`.
            rounds: tokens between two pieces; each piece costs the time of handing the cache over.

        Yields:
            Pieces of text, none empty. The generator's own value at its end (`StopIteration.value`) is the `Continuation`.

        Raises:
            ValueError: at the first piece, as `generate`; fewer rounds than 1.

        >>> text_model = TextModel(model, tokenizer)
        >>> "".join(text_model.stream("It was")) == text_model.generate(["It was"])[0].text
        True
        """
        if not isinstance(prompt, str):
            raise ValueError(f"stream: the prompt is {type(prompt).__name__}; give one text")
        check_characters("stream: the prompt", prompt)
        if not isinstance(rounds, Integral) or rounds < 1:
            raise ValueError(f"stream: rounds {rounds!r} is no whole number of 1 or more")
        given, lists, top = self._settings(1, {"max_new_tokens": max_new_tokens} | controls, stop, banned_tokens, forced_tokens, samples=1, top=None)
        rows = call(self.stepper.begin, tf.constant([prompt]), list(map(tf.constant, given)), list(lists), top)
        told, more = "", True
        while more:
            rows, outputs = call(self.stepper.advance, rows, tf.constant(rounds))
            more = bool(outputs["going"][0])
            text = outputs["text"].numpy()[0].decode() if not more else sure_text(outputs["bytes"].numpy()[0], stop)
            if len(text) > len(told):
                yield text[len(told) :]
                told = text
        return self._continuations(outputs, top=None)[0]

    @functools.cached_property
    def stepper(self) -> Stepper:
        """Functions that write texts in pieces."""
        return Stepper(self)

    def search(self, prompts: list[str], beams: int = 4, max_new_tokens: int | Iterable[int] = 64, *, length_penalty: float | Iterable[float] = 1.0,
               early_stopping: bool | str = False, stop: Sequence = (), banned_tokens: Sequence = (), forced_tokens: str | Sequence = (),
               **controls: float | Iterable[float]) -> list[Continuation]:
        """Continue each prompt with the best text that a beam search finds, as transformers' `generate(num_beams=...)` does.

        The best has the highest sum of log-probabilities (nats) divided by `token_count ** length_penalty`.

        Args:
            prompts: as in `generate`.
            beams: texts of each prompt that are looked at side by side; each costs as much time and memory as a prompt of its own. 1 = greedy.
            max_new_tokens: the most tokens to write; capped to what fits the context.
            length_penalty: -10 to 10, one number or one a prompt; the higher, the likelier a longer text wins; 0 = the likeliest text wins.
            early_stopping: when to end, once as many texts have ended as there are beams. `True` = at once; `False` = when the best text that goes on is
                worse than all of them; `"never"` = when it will be at any length up to `max_new_tokens`.
            stop: as in `generate`; the token that completes a stop string ends a text as the end-of-text token does.
            banned_tokens: as in `generate`.
            forced_tokens: as in `generate`.
            controls: as in `generate`; penalties, here on log-probabilities, `no_repeat_ngram_size` and `min_new_tokens` count, and the others do nothing.

        Raises:
            ValueError: fewer beams than 1 or more than tokens in the vocabulary; another `early_stopping`, or a `length_penalty` out of its range; and as
                `generate`.

        >>> text_model = TextModel(model, tokenizer)
        >>> found, greedy = text_model.search(["It was"], length_penalty=0.0)[0], text_model.generate(["It was"])[0]
        >>> found.log_prob > greedy.log_prob
        True
        """
        prompts = checked_texts("search: prompts", prompts)
        numbers = self._search_numbers(len(prompts), beams, length_penalty, early_stopping)
        given, lists, _ = self._settings(len(prompts), {"max_new_tokens": max_new_tokens} | controls, stop, banned_tokens, forced_tokens, 1, top=None)
        prompts, given = tf.constant(prompts, tf.string, shape=[len(prompts)]), Controls(*map(tf.constant, given))
        return self._continuations(call(self.search_graph, prompts, given, lists, *numbers), top=None)

    def _search_numbers(self, rows, beams=4, length_penalty=1.0, early_stopping=False):
        """Return what the graph of a search takes of these, checked."""
        vocab = self.model.config.vocab_size
        if not (isinstance(beams, Integral) and 1 <= beams <= vocab):
            raise ValueError(f"search: beams {beams!r} is no whole number from 1 to {vocab}, the tokens of the vocabulary")
        if early_stopping not in EARLY_STOPPING:
            raise ValueError(f"search: early_stopping {early_stopping!r} is not True, False or 'never'")
        penalty = checked_numbers("length_penalty", SEARCH_CONTROLS["length_penalty"], length_penalty, rows)
        return tf.constant(int(beams)), tf.constant(penalty), tf.constant([EARLY_STOPPING.index(early_stopping)])

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string), CONTROL_SPECS, CONSTRAINT_SPECS, *SEARCH_SPECS])
    def search_graph(self, prompt, controls, constraints, beams, length_penalty, early_stopping):
        """Continue prompts by beam search (see `tfgpt.generation.beam.search`).

        Args:
            prompt: string [batch].
            controls: each [batch], or [1] for all rows alike.
            constraints: each [batch, n], or [1, n] for all rows alike.
            beams: int32 [].
            length_penalty: float32 [batch], or [1] for all rows alike.
            early_stopping: int32 [batch], or [1] for all rows alike; a number in `EARLY_STOPPING`.

        Returns:
            `text` string, `token_count` int32, `log_prob` and `score` float32, `finish_reason` string, each [batch]; `ids` int32 [batch, steps].
        """
        prompts, controls, constraints, sources = self.fitted(self.tokenizer.tokenize(prompt), controls, constraints)
        given = zip(SEARCH_CONTROLS.values(), (length_penalty, early_stopping))
        length_penalty, early_stopping = (tf.broadcast_to(within(control, each), tf.shape(prompt)) for control, each in given)
        end, texts = self.tokenizer.end_of_text, self.tokenizer.texts
        found = search(self.model, prompts, controls, constraints, beams, length_penalty, early_stopping, end, sources, texts)
        return {
            "text": as_unicode(self._cut(found.ids, constraints.stop)),
            "token_count": found.token_count,
            "log_prob": found.log_prob,
            "score": found.score,
            "finish_reason": tf.where(found.stopped, "stop", "length"),
            "ids": found.ids,
        }


def _check_draft(model, draft, draft_tokens):
    if draft.encoder is not None and model.encoder is None:
        raise ValueError("draft: it has an encoder and the model has none; give a draft model without one")
    config, draft = model.config, draft.config
    if draft.vocab_size != config.vocab_size or draft.n_positions < config.n_positions:
        raise ValueError(f"draft: its vocabulary of {draft.vocab_size} tokens must be the model's {config.vocab_size}, and its context of "
                         f"{draft.n_positions} no shorter than {config.n_positions}; give a model trained with the same tokenizer")
    if not _is_whole(draft_tokens, 1):
        raise ValueError(f"draft_tokens {draft_tokens}; give a whole number, 1 or more")


def _is_whole(number, least):
    return isinstance(number, Integral) and not isinstance(number, bool) and number >= least
