"""A model and its tokenizer as one `tf.Module`: strings in, strings out. Python, the SavedModel and the tasks all use this one."""
from __future__ import annotations

import functools
from collections.abc import Generator, Iterable, Sequence
from numbers import Integral

import numpy as np
import tensorflow as tf
from transformers import GPT2TokenizerFast

from tfgpt.generation.beam import EARLY_STOPPING, search
from tfgpt.generation.constraints import constraints_of
from tfgpt.generation.controls import Controls, controls_of
from tfgpt.generation.decoding import Decoder
from tfgpt.generation.embedding import embed
from tfgpt.generation.judging import TextJudge, check_texts
from tfgpt.generation.results import Choice, Classification, Continuation, Score, Token
from tfgpt.generation.rows import fit_prompts, framed_sources, unpadded
from tfgpt.generation.sampling import Constraints
from tfgpt.generation.scoring import score, score_candidates, score_continuations
from tfgpt.generation.stepping import CONSTRAINT_SPECS, CONTROL_SPECS, TOP_SPEC, Stepper
from tfgpt.generation.stops import first_stop, sure_text
from tfgpt.text.graph import GraphTokenizer, as_unicode

SEARCH_SPECS = (
    tf.TensorSpec([], tf.int32, name="beams"),
    tf.TensorSpec([None], tf.float32, name="length_penalty"),
    tf.TensorSpec([None], tf.int32, name="early_stopping"),
)
TOKEN_OUTPUTS = ("ids", "token_log_probs", "top_ids", "top_log_probs")


class TextModel(tf.Module):
    """A causal language model that takes and gives text.

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
            vocabulary or a shorter context, or fewer draft tokens than 1.

    >>> text_model = TextModel(model, tokenizer)
    >>> once, again = text_model.generate(["It was", "It was"], temperature=1.0, seed=[1, 1])
    >>> once == again
    True
    """

    # No graph here needs AutoGraph, whose reading of all the Python code on the way took 8 of the 12 seconds of a first call.

    def __init__(self, model, tokenizer: GPT2TokenizerFast, draft=None, draft_tokens: int = 5, text_device: str = ""):
        super().__init__(name="text_model")
        if len(tokenizer) > model.config.vocab_size:
            raise ValueError(f"the tokenizer has {len(tokenizer)} tokens and the model only {model.config.vocab_size}; load the two from one run")
        if draft is not None:
            _check_draft(model, draft, draft_tokens)
        self.tokenizer = GraphTokenizer(tokenizer, text_device)
        self.weights = [variable for part in (model, draft) if part is not None for variable in part.all_variables]
        # Not tracked, or saving would trace every Keras layer by itself; the graph needs the weights alone.
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "draft", draft)
        self.draft_tokens, self.python_tokenizer = draft_tokens, tokenizer
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
            banned_tokens: ids, or texts that are one token each, which are never chosen.
            forced_tokens: ids, or a text, with which the continuation begins.
            top_log_probs: the continuations tell their tokens, and so many of the likeliest ones at each place; `None` = no tokens.
            controls: `temperature`, `top_k`, `top_p`, `min_p`, `typical_p`, `repetition_penalty`, `presence_penalty`, `frequency_penalty`,
                `no_repeat_ngram_size`, `min_new_tokens`, `seed`, `prompt_lookup_num_tokens`; what each does, and its range, stands in
                `tfgpt.generation.controls.CONTROLS`. What is not given is off, and the temperature 0: greedy. Penalties and bans come first, then
                temperature, top-k, top-p, min-p, typical.

            Each control is one number, or a list with one number a prompt; `stop`, `banned_tokens` and `forced_tokens` are one list, or one a prompt.

        Raises:
            ValueError: `prompts` is one text and not a list; a control that there is not, or out of its range; constraints that cannot be.

        >>> TextModel(model, tokenizer).generate(["It was"], forced_tokens=" said: no.", stop=["."])[0].text
        ' said: no'
        """
        if isinstance(prompts, str):
            raise ValueError("generate: prompts is one text; give a list of prompts, such as [text]")
        given = self._settings(len(prompts), {"max_new_tokens": max_new_tokens} | controls, stop, banned_tokens, forced_tokens, samples, top_log_probs)
        return self._continuations(self.generate_graph(tf.repeat(tf.constant(prompts, tf.string, shape=[len(prompts)]), samples), *given), top_log_probs)

    def generate_from_ids(self, input_ids: np.ndarray, attention_mask: np.ndarray | None = None, max_new_tokens: int | Iterable[int] = 64, *,
                          samples: int = 1, stop: Sequence = (), banned_tokens: Sequence = (), forced_tokens: str | Sequence = (),
                          top_log_probs: int | None = None, **controls: float | Iterable[float]) -> list[Continuation]:
        """Continue rows of tokens; all else is as in `generate`.

        Args:
            input_ids: int [batch, length].
            attention_mask: int [batch, length], 0 where a row is padded: on the left, on the right or on both sides. `None` = nowhere.

        Raises:
            ValueError: shapes that differ, or a token that the model does not have; and as `generate`.
        """
        ids = np.asarray(input_ids)
        mask = np.ones_like(ids) if attention_mask is None else np.asarray(attention_mask)
        if ids.ndim != 2 or ids.shape != mask.shape:
            raise ValueError(f"generate_from_ids: input_ids has the shape {ids.shape} and attention_mask {mask.shape}; give [batch, length] twice")
        vocab = self.model.config.vocab_size
        if wrong := ids[(mask != 0) & ((ids < 0) | (ids >= vocab))].tolist():
            raise ValueError(f"generate_from_ids: {wrong[0]} is no token; give ids from 0 to {vocab - 1}")
        given = self._settings(len(ids), {"max_new_tokens": max_new_tokens} | controls, stop, banned_tokens, forced_tokens, samples, top_log_probs)
        rows = (tf.repeat(tf.constant(array, tf.int32), samples, axis=0) for array in (ids, mask))
        return self._continuations(self.generate_from_ids_graph(*rows, *given), top_log_probs)

    def check(self, options: dict) -> None:
        """Raise the `ValueError` that `generate` would raise for these keywords with one prompt; or `search`, if `beams` are among them."""
        controls = dict(options)
        if "beams" in controls:
            self._search_numbers(1, **{name: controls.pop(name) for name in ("beams", "length_penalty", "early_stopping") if name in controls})
        lists = [controls.pop(name, ()) for name in ("stop", "banned_tokens", "forced_tokens")]
        self._settings(1, controls, *lists, controls.pop("samples", 1), controls.pop("top_log_probs", None))

    def _settings(self, rows, controls, stop, banned_tokens, forced_tokens, samples, top):
        """Return what the graph takes beside the prompts, checked, for `samples` rows a prompt."""
        if not (isinstance(samples, Integral) and samples >= 1 and isinstance(top or 0, Integral) and (top or 0) >= 0):
            raise ValueError(f"generate: samples {samples} and top_log_probs {top}; give 1 or more samples, and 0 or more log-probabilities")
        checked = Controls(*(np.repeat(np.broadcast_to(values, [rows]), samples) for values in controls_of(controls, rows)))
        checked = checked._replace(seed=checked.seed + np.tile(np.arange(samples), rows))
        lists = constraints_of(stop, banned_tokens, forced_tokens, rows, self.model.config.vocab_size, self._tokens_of)
        lists = Constraints(*(tf.repeat(table, samples, axis=0) for table in lists))
        return Controls(*map(tf.constant, checked)), lists, tf.constant(min(top or 0, self.model.config.vocab_size))

    def _tokens_of(self, text):
        return self.tokenizer.tokenize(tf.constant([text]))[0].numpy().tolist()

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

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string), CONTROL_SPECS, CONSTRAINT_SPECS, TOP_SPEC])
    def generate_graph(self, prompt, controls, constraints, top):
        """Continue prompts, string [batch].

        Args:
            prompt: string [batch].
            controls: each [batch], or [1] for all rows alike.
            constraints: each [batch, n], or [1, n] for all rows alike.
            top: int32 [], how many of the likeliest tokens are told at each place.

        Returns:
            `text` string, `token_count` int32, `log_prob` float32, `finish_reason` string, each [batch]; `ids` int32 and `token_log_probs` float32,
            each [batch, steps]; `top_ids` int32 and `top_log_probs` float32, each [batch, steps, top].
        """
        return self._decode(self.tokenizer.tokenize(prompt), controls, constraints, top)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None], tf.int32)] * 2 + [CONTROL_SPECS, CONSTRAINT_SPECS, TOP_SPEC])
    def generate_from_ids_graph(self, input_ids, attention_mask, controls, constraints, top):
        """Continue rows of tokens, as `generate_graph` does; both int32 [batch, length]."""
        return self._decode(unpadded(input_ids, attention_mask), controls, constraints, top)

    def fitted(self, prompts, controls, constraints):
        """Return prompts that fit the context, controls and constraints of each row, and their sources: the prompts themselves where there is an encoder."""
        prompts, sources = self._parted(prompts)
        batch = prompts.nrows(tf.int32)
        controls = Controls(*(tf.broadcast_to(control, [batch]) for control in controls))
        constraints = Constraints(*(tf.broadcast_to(table, [batch, tf.shape(table)[1]]) for table in constraints))
        prompts, most = fit_prompts(prompts, controls.max_new_tokens, self.model.config.n_positions, self.tokenizer.end_of_text)
        return prompts, controls._replace(max_new_tokens=most), constraints, sources

    def _parted(self, prompts):
        """Return what the decoder begins with and what the encoder reads, int32 [batch, (tokens)] each; `None` for the latter without one."""
        if self.model.encoder is None:
            return prompts, None
        nothing = tf.RaggedTensor.from_row_lengths(tf.zeros([0], tf.int32), tf.zeros_like(prompts.row_lengths()))
        return nothing, framed_sources(prompts, self.model.encoder.context, self.tokenizer.end_of_text)

    def _decode(self, prompts, controls, constraints, top):
        prompts, controls, constraints, sources = self.fitted(prompts, controls, constraints)
        state = self.decoder.begin(prompts, controls, top, sources)
        return self.outputs(self.decoder.advance(state, controls, constraints, self.model.config.n_positions), constraints)

    def outputs(self, state, constraints):
        """Return what is written in rows so far: what `generate_graph` gives, and `bytes`, string [batch], which may end inside a character."""
        decoded = self.decoder.finish(state)
        bytes_ = self._cut(decoded.ids, constraints.stop)
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
        if rounds < 1:
            raise ValueError(f"stream: rounds {rounds}; give 1 or more")
        given, lists, top = self._settings(1, {"max_new_tokens": max_new_tokens} | controls, stop, banned_tokens, forced_tokens, samples=1, top=None)
        rows = self.stepper.begin(tf.constant([prompt]), list(given), list(lists), top)
        told, more = "", True
        while more:
            rows, outputs = self.stepper.advance(rows, tf.constant(rounds))
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
        if isinstance(prompts, str):
            raise ValueError("search: prompts is one text and not a list; give a list of prompts, such as [text]")
        numbers = self._search_numbers(len(prompts), beams, length_penalty, early_stopping)
        given = self._settings(len(prompts), {"max_new_tokens": max_new_tokens} | controls, stop, banned_tokens, forced_tokens, samples=1, top=None)
        return self._continuations(self.search_graph(tf.constant(prompts, tf.string, shape=[len(prompts)]), *given[:2], *numbers), top=None)

    def _search_numbers(self, rows, beams=4, length_penalty=1.0, early_stopping=False):
        """Return what the graph of a search takes of these, checked."""
        vocab, penalty = self.model.config.vocab_size, np.asarray(length_penalty, np.float32).reshape(-1)
        if not (isinstance(beams, Integral) and 1 <= beams <= vocab):
            raise ValueError(f"search: beams {beams!r} is no whole number from 1 to {vocab}, the tokens of the vocabulary")
        if early_stopping not in EARLY_STOPPING:
            raise ValueError(f"search: early_stopping {early_stopping!r} is not True, False or 'never'")
        if len(penalty) not in (1, rows) or not np.all(np.abs(penalty) <= 10.0):
            raise ValueError(f"search: length_penalty {length_penalty!r} is not a number from -10 to 10, or one for each of {rows} prompts")
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
        length_penalty, early_stopping = (tf.broadcast_to(each, tf.shape(prompt)) for each in (length_penalty, early_stopping))
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

    def score(self, texts: list[str], stride: int = 0, batch_size: int = 8) -> list[Score]:
        """Tell how likely each text is.

        Args:
            texts: any text, of any length.
            stride: of the windows in which a text longer than the context is read: the fewer tokens, the more of the context stands before each
                (`context - stride` at least), and the more windows there are. 1 is exact; 0 = half of the context.
            batch_size: texts that are scored together; their logits, of the context's length, are in memory at once.

        Raises:
            ValueError: `texts` is one text and not a list; a stride that is negative or longer than the context; a model with an encoder, whose texts
                have a likelihood with a source alone (see `score_targets`).
        """
        context = self.model.config.n_positions
        if self.model.encoder is not None:
            raise ValueError("score: this model has an encoder, so a text has a likelihood beside its source alone; call score_targets(sources, texts)")
        if isinstance(texts, str):
            raise ValueError("score: texts is one text; give a list of texts, such as [text]")
        if not 0 <= stride <= context:
            raise ValueError(f"score: stride {stride} is not between 1 and the context of {context} tokens; 0 = half of it")
        batches = [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]
        columns = [self.score_graph(tf.constant(batch), tf.constant(stride)) for batch in batches]
        return [Score(*row) for of_batch in columns for row in zip(*(of_batch[name].numpy().tolist() for name in Score._fields))]

    def score_targets(self, sources: list[str], targets: list[str], batch_size: int = 8) -> list[Score]:
        """Tell how likely each target is beside its source, for a model with an encoder, or behind its prompt, for one without.

        Args:
            sources: sources or prompts, any text, read as `generate` reads them; a prompt that leaves too little room for its target keeps its last tokens.
            targets: one for each. With an encoder a target is whole: its end-of-text token counts, so `token_count` is one more than its own tokens. Without
                one it is tokenized apart from the prompt, so if it begins a word it wants its space (" yes"), and ends where it ends.
            batch_size: targets that are scored together; a prompt that all of them share is read once.

        Raises:
            ValueError: one text and not a list, or not as many of one as of the other; a target longer than the context.

        >>> text_model = TextModel(model, tokenizer)
        >>> text_model.score_targets(["The sky is"], [" blue"])[0].log_prob == text_model.choose(["The sky is"], [" blue", " red"])[0].log_probs[0]
        True
        """
        if isinstance(sources, str) or isinstance(targets, str) or len(sources) != len(targets):
            raise ValueError(f"score_targets: {len(sources)} sources and {len(targets)} targets; give two lists, with one target for each source")
        counts = self._checked_lengths("score_targets: the target", targets, least=0)
        scores = []
        for start in range(0, len(targets), batch_size):
            rows = slice(start, start + batch_size)
            weigh = self.weigh_behind_one_graph if self.reads_once(sources[rows], max(counts[rows])) else self.weigh_graph
            of_batch = weigh(tf.constant(sources[rows]), tf.constant(targets[rows])).numpy().tolist()
            scores += [Score(log_prob, count, float(np.exp(-log_prob / max(count, 1)))) for log_prob, count in zip(of_batch, counts[rows])]
        return scores

    def reads_once(self, prompts: list[str], longest: int) -> bool:
        """Tell whether prompts of several targets are one and the same, which is then read once for all: if it leaves room for the longest, in tokens."""
        return (len(prompts) > 1 and len(set(prompts)) == 1 and self.model.encoder is None and hasattr(self.model, "states")  # which LiteRT does not tell
                and len(self.python_tokenizer(prompts[0], verbose=False).input_ids) + longest <= self.model.config.n_positions)

    def _checked_lengths(self, what, texts, least):
        """Return how many tokens each text has to the model, the end of a whole target among them; one that does not fit the context is refused."""
        ends = int(self.model.encoder is not None)
        most = self.model.config.n_positions - ends
        lengths = self.tokenizer.tokenize(tf.constant(texts, tf.string, shape=[len(texts)])).row_lengths().numpy()
        for text, length in zip(texts, lengths):
            if not least <= length <= most:
                raise ValueError(f"{what} {text[:40]!r} has {length} tokens; give {least} to {most}, the context{' without its end' if ends else ''}")
        return [int(length) + ends for length in lengths]

    def choose(self, prompts: list[str], answers: list[str], batch_size: int = 8) -> list[Choice]:
        """Choose the likeliest of given answers to each prompt: the one that a search over all their tokens would find.

        Args:
            prompts: any text; one that leaves too little room for an answer keeps its last tokens.
            answers: two or more; they are tokenized apart from the prompt, so one that begins a word wants its space: " yes". With an encoder they are
                whole targets, which begin where a text begins, and whose end-of-text token counts.
            batch_size: answers that are weighed together.

        Raises:
            ValueError: `prompts` is one text and not a list; fewer than two answers; one that is empty or longer than the context.

        >>> TextModel(model, tokenizer).choose(["The sky is"], [" blue", " green"])[0].answer in (" blue", " green")
        True
        """
        if isinstance(prompts, str) or isinstance(answers, str):
            raise ValueError("choose: prompts and answers are lists; give [text]")
        if len(answers) < 2:
            raise ValueError(f"choose: {len(answers)} answers leave no choice; give 2 or more")
        self._checked_lengths("choose: the answer", answers, least=1)
        rows = [(prompt, answer) for prompt in prompts for answer in answers]
        batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        log_probs = [number for batch in batches for number in self.weigh_graph(*map(tf.constant, zip(*batch))).numpy().tolist()]
        choices = []
        for start in range(0, len(log_probs), len(answers)):
            of_prompt = log_probs[start : start + len(answers)]
            best = int(np.argmax(of_prompt))
            choices.append(Choice(answers[best], 1.0 / sum(np.exp(number - of_prompt[best]) for number in of_prompt), tuple(of_prompt)))
        return choices

    def embed(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        """Return a vector for each text, float32 [texts, width] (see `tfgpt.generation.embedding.embed` for what is averaged).

        Args:
            texts: any text; "" has a vector too. One longer than the context keeps its last tokens; with an encoder the first that this takes.
            batch_size: texts that are read together.

        Raises:
            ValueError: `texts` is one text and not a list; a model behind LiteRT.

        >>> TextModel(model, tokenizer).embed(["It was", ""]).shape
        (2, 32)
        """
        if isinstance(texts, str):
            raise ValueError("embed: texts is one text; give a list of texts, such as [text]")
        if not hasattr(self.model, "states"):
            raise ValueError("embed: with engine lite a model tells its logits alone; load it with engine graph")
        batches = [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]
        return np.concatenate([np.zeros([0, self.model.config.n_embd], np.float32), *(self.embed_graph(tf.constant(batch)) for batch in batches)])

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string)])
    def embed_graph(self, text):
        """Return the embeddings of texts, string [batch], float32 [batch, width]."""
        return embed(self.model, self.tokenizer.tokenize(text), self.tokenizer.end_of_text)

    @functools.cached_property
    def judge(self) -> TextJudge:
        """The model's head with the tokenizer."""
        return TextJudge(self.model, self.tokenizer)

    def classify(self, texts: Sequence, threshold: float = 0.5, batch_size: int = 32) -> list[Classification]:
        """Tell what the model's head finds of each text (see `tfgpt.models.surgery.add_head`).

        Args:
            texts: any text; one longer than the context keeps its last tokens. For a head of kind tags a text, whose words white space is between, or a
                list of words; words before the last tokens that the context takes have the tag "". For choice pairs of a prompt and its choices.
            threshold: probability above which a text has a label, for a head of kind labels.
            batch_size: texts that are read together.

        Raises:
            ValueError: a model without a head, or behind LiteRT; `texts` is one text and not a list, or what the head cannot judge.

        >>> from tfgpt.models.surgery import add_head
        >>> from tfgpt.recipe import HeadConfig
        >>> judge = TextModel(add_head(model, HeadConfig("classes"), ["ham", "spam"]), tokenizer)
        >>> found = judge.classify(["Call now!"])[0]
        >>> found.label in ("ham", "spam"), round(sum(found.scores), 5)
        (True, 1.0)
        """
        if self.model.head is None:
            raise ValueError("classify: the model has no head (or engine lite, which runs none); train one with adapt.head.kind, and load it with engine graph")
        check_texts(self.model.adaptation.head.kind, texts)
        return list(self.judge.classify(texts, threshold, batch_size))

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string)] * 2)
    def weigh_graph(self, prompt, answer):
        """Return the log-probability (nats) of each answer behind its prompt, float32 [batch]; both string [batch].

        With an encoder the prompts are sources, and the answers are scored with the end-of-text token behind them.
        """
        end = self.tokenizer.end_of_text
        (prompts, sources), answers = self._parted(self.tokenizer.tokenize(prompt)), self.tokenizer.tokenize(answer)
        if sources is not None:
            answers = tf.concat([answers, tf.fill([answers.nrows(tf.int32), 1], end)], axis=1)
        return score_continuations(self.model, prompts, answers, end, sources)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string)] * 2)
    def weigh_behind_one_graph(self, prompt, answer):
        """Return what `weigh_graph` does where all prompts are the same, and fit the context with their answers, without an encoder."""
        return score_candidates(self.model, self.tokenizer.tokenize(prompt[:1]), self.tokenizer.tokenize(answer), self.tokenizer.end_of_text)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([], tf.int32)])
    def score_graph(self, text, stride):
        """Score texts, string [batch], with windows of `stride`, int32 [] (see `tfgpt.generation.scoring.score`).

        Returns:
            `log_prob` float32 [batch], the sum over all tokens of the text, which is read from an end-of-text token on; `token_count` int32
            [batch], how many they are; `perplexity` float32 [batch], 1 for an empty text.
        """
        rows = self.tokenizer.tokenize(text)
        log_prob = score(self.model, rows, self.tokenizer.end_of_text, stride)
        token_count = tf.cast(rows.row_lengths(), tf.int32)
        per_token = tf.math.divide_no_nan(log_prob, tf.cast(token_count, tf.float32))
        return {"log_prob": log_prob, "token_count": token_count, "perplexity": tf.exp(-per_token)}


def _check_draft(model, draft, draft_tokens):
    if draft.encoder is not None and model.encoder is None:
        raise ValueError("draft: it has an encoder and the model has none; give a draft model without one")
    config, draft = model.config, draft.config
    if draft.vocab_size != config.vocab_size or draft.n_positions < config.n_positions:
        raise ValueError(f"draft: its vocabulary of {draft.vocab_size} tokens must be the model's {config.vocab_size}, and its context of "
                         f"{draft.n_positions} no shorter than {config.n_positions}; give a model trained with the same tokenizer")
    if draft_tokens < 1:
        raise ValueError(f"draft_tokens {draft_tokens}; give 1 or more")
