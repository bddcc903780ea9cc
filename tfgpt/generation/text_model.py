"""A model and its tokenizer as one `tf.Module`: strings in, strings out. Python, the SavedModel and the tasks all use this one."""
from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from transformers import GPT2TokenizerFast

from tfgpt.generation.controls import CONTROLS, Controls, controls_of
from tfgpt.generation.decoding import decode, fit_prompts
from tfgpt.generation.scoring import score, score_continuations
from tfgpt.text.graph import GraphTokenizer

CONTROL_SPECS = Controls(*(tf.TensorSpec([None], control.kind, name=name) for name, control in CONTROLS.items()))


class Continuation(NamedTuple):
    """What was written after a prompt."""

    text: str
    """The continuation alone."""
    token_count: int
    """Tokens generated, the end-of-text token among them where there is one."""
    log_prob: float
    """Sum of their log-probabilities, in nats, under the model itself (temperature 1, no filter)."""
    finish_reason: str
    """`stop` = the model ended the text; `length` = `max_new_tokens` or the context was reached."""


class Score(NamedTuple):
    """How likely a text is."""

    log_prob: float
    """Sum over its tokens, in nats; the text is read from an end-of-text token on, so the first one counts."""
    token_count: int
    perplexity: float
    """1 for an empty text."""


class Choice(NamedTuple):
    """The likeliest of given answers to a prompt."""

    answer: str
    probability: float
    """Of this answer, if it must be one of those given."""
    log_probs: tuple[float, ...]
    """Of every answer given, in nats, under the model itself."""


class TextModel(tf.Module):
    """A causal language model that takes and gives text.

    Args:
        model: a `GPTLMHeadModel`.
        tokenizer: the one it was trained with.

    Raises:
        ValueError: a tokenizer with more tokens than the model has, or without a twin in the graph (see `GraphTokenizer`).

    >>> text_model = TextModel(model, tokenizer)
    >>> once, again = text_model.generate(["It was", "It was"], temperature=1.0, seed=[1, 1])
    >>> once == again
    True
    """

    def __init__(self, model, tokenizer: GPT2TokenizerFast):
        super().__init__(name="text_model")
        if len(tokenizer) > model.config.vocab_size:
            raise ValueError(f"the tokenizer has {len(tokenizer)} tokens and the model only {model.config.vocab_size}; load the two from one run")
        self.tokenizer = GraphTokenizer(tokenizer)
        self.weights = list(model.weights)
        # Not tracked, or saving would trace every Keras layer by itself; the graph needs the weights alone.
        object.__setattr__(self, "model", model)

    def generate(self, prompts: list[str], max_new_tokens: int | Iterable[int] = 64, **controls: float | Iterable[float]) -> list[Continuation]:
        """Continue each prompt.

        Args:
            prompts: any text; "" starts a document. One longer than the context keeps its last tokens.
            max_new_tokens: the most tokens to write; capped to what fits the context.
            controls: `temperature`, `top_k`, `top_p`, `min_p`, `typical_p`, `repetition_penalty`, `presence_penalty`, `frequency_penalty`,
                `no_repeat_ngram_size`, `min_new_tokens`, `seed`; what each does, and its range, stands in `tfgpt.generation.controls.CONTROLS`. What
                is not given is off, and the temperature 0: greedy. Penalties and bans come first, then temperature, top-k, top-p, min-p, typical.

            Each control is one number, or a list with one number a prompt.

        Raises:
            ValueError: `prompts` is one text and not a list; a control that there is not, or out of its range.
        """
        if isinstance(prompts, str):
            raise ValueError("generate: prompts is one text; give a list of prompts, such as [text]")
        checked = controls_of({"max_new_tokens": max_new_tokens} | controls, len(prompts))
        outputs = self.generate_graph(tf.constant(prompts, tf.string, shape=[len(prompts)]), Controls(*map(tf.constant, checked)))
        columns = [outputs[name].numpy() for name in Continuation._fields]
        return [Continuation(text.decode(), int(count), float(log_prob), reason.decode()) for text, count, log_prob, reason in zip(*columns)]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string), CONTROL_SPECS])
    def generate_graph(self, prompt, controls):
        """Continue prompts, string [batch]; each of the `Controls` is [batch], or [1] for all rows alike.

        Returns:
            `text` string, `token_count` int32, `log_prob` float32, `finish_reason` string; each [batch].
        """
        controls = Controls(*(tf.broadcast_to(control, tf.shape(prompt)) for control in controls))
        end_of_text = self.tokenizer.end_of_text
        prompts, most = fit_prompts(self.tokenizer.tokenize(prompt), controls.max_new_tokens, self.model.config.n_positions, end_of_text)
        decoded = decode(self.model, prompts, controls._replace(max_new_tokens=most), end_of_text)
        return {
            "text": self.tokenizer.detokenize(decoded.ids),
            "token_count": decoded.token_count,
            "log_prob": decoded.log_prob,
            "finish_reason": tf.where(decoded.stopped, "stop", "length"),
        }

    def score(self, texts: list[str], stride: int = 0, batch_size: int = 8) -> list[Score]:
        """Tell how likely each text is.

        Args:
            texts: any text, of any length.
            stride: of the windows in which a text longer than the context is read: the fewer tokens, the more of the context stands before each
                (`context - stride` at least), and the more windows there are. 1 is exact; 0 = half of the context.
            batch_size: texts that are scored together; their logits, of the context's length, are in memory at once.

        Raises:
            ValueError: `texts` is one text and not a list; a stride that is negative or longer than the context.
        """
        context = self.model.config.n_positions
        if isinstance(texts, str):
            raise ValueError("score: texts is one text; give a list of texts, such as [text]")
        if not 0 <= stride <= context:
            raise ValueError(f"score: stride {stride} is not between 1 and the context of {context} tokens; 0 = half of it")
        batches = [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]
        columns = [self.score_graph(tf.constant(batch), tf.constant(stride)) for batch in batches]
        return [Score(*row) for of_batch in columns for row in zip(*(of_batch[name].numpy().tolist() for name in Score._fields))]

    def choose(self, prompts: list[str], answers: list[str], batch_size: int = 8) -> list[Choice]:
        """Choose the likeliest of given answers to each prompt: the one that a search over all their tokens would find.

        Args:
            prompts: any text; one that leaves too little room for an answer keeps its last tokens.
            answers: two or more; they are tokenized apart from the prompt, so one that begins a word wants its space: " yes".
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
        context = self.model.config.n_positions
        for answer, length in zip(answers, self.tokenizer.tokenize(tf.constant(answers)).row_lengths().numpy()):
            if not 0 < length <= context:
                raise ValueError(f"choose: the answer {answer[:40]!r} has {length} tokens; give 1 to {context}, the context")
        rows = [(prompt, answer) for prompt in prompts for answer in answers]
        batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        log_probs = [number for batch in batches for number in self.weigh_graph(*map(tf.constant, zip(*batch))).numpy().tolist()]
        choices = []
        for start in range(0, len(rows), len(answers)):
            of_prompt = log_probs[start : start + len(answers)]
            best = int(np.argmax(of_prompt))
            choices.append(Choice(answers[best], 1.0 / sum(np.exp(number - of_prompt[best]) for number in of_prompt), tuple(of_prompt)))
        return choices

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)] * 2)
    def weigh_graph(self, prompt, answer):
        """Return the log-probability (nats) of each answer behind its prompt, float32 [batch]; both string [batch]."""
        tokenize = self.tokenizer.tokenize
        return score_continuations(self.model, tokenize(prompt), tokenize(answer), self.tokenizer.end_of_text)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([], tf.int32)])
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
