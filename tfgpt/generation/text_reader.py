"""What a model tells of texts with its tokenizer: how likely they are, which of them is, vectors, and what its head finds."""
from __future__ import annotations

import functools
from collections.abc import Sequence
from numbers import Integral

import numpy as np
import tensorflow as tf
from transformers import GPT2TokenizerFast

from tfgpt.generation.batches import batches, checked_texts
from tfgpt.generation.calling import call
from tfgpt.generation.embedding import embed
from tfgpt.generation.judging import TextJudge, check_texts
from tfgpt.generation.results import Choice, Classification, Score
from tfgpt.generation.rows import framed_sources
from tfgpt.generation.scoring import score, score_candidates, score_continuations
from tfgpt.text.graph import GraphTokenizer


class TextReader(tf.Module):
    """A model that reads texts; see `TextModel`, which writes them too.

    Args:
        model: a `GPTLMHeadModel`, or a `LiteModel` of it.
        tokenizer: the one it was trained with.
        text_device: that the tokenizer's operations are kept on (see `GraphTokenizer`).

    Raises:
        ValueError: a tokenizer with more tokens than the model has, or without a twin in the graph (see `GraphTokenizer`).
    """

    # No graph here needs AutoGraph, whose reading of all the Python code on the way took 8 of the 12 seconds of a first call.

    def __init__(self, model, tokenizer: GPT2TokenizerFast, text_device: str = ""):
        super().__init__(name="text_model")
        if len(tokenizer) > model.config.vocab_size:
            raise ValueError(f"the tokenizer has {len(tokenizer)} tokens and the model only {model.config.vocab_size}; load the two from one run")
        self.tokenizer, self.python_tokenizer = GraphTokenizer(tokenizer, text_device), tokenizer
        self.weights = list(model.all_variables)
        # Not tracked, or saving would trace every Keras layer by itself; the graph needs the weights alone.
        object.__setattr__(self, "model", model)

    def score(self, texts: list[str], stride: int = 0, batch_size: int = 8) -> list[Score]:
        """Tell how likely each text is.

        Args:
            texts: any text, of any length.
            stride: of the windows in which a text longer than the context is read: the fewer tokens, the more of the context stands before each
                (`context - stride` at least), and the more windows there are. 1 is exact; 0 = half of the context.
            batch_size: texts that are scored together; their logits, of the context's length, are in memory at once.

        Raises:
            ValueError: `texts` is one text, or holds what is none; a stride that is negative or longer than the context; a model with an encoder, whose texts
                have a likelihood with a source alone (see `score_targets`).
        """
        context = self.model.config.n_positions
        if self.model.encoder is not None:
            raise ValueError("score: this model has an encoder, so a text has a likelihood beside its source alone; call score_targets(sources, texts)")
        texts = checked_texts("score: texts", texts)
        if not isinstance(stride, Integral) or not 0 <= stride <= context:
            raise ValueError(f"score: stride {stride!r} is no whole number between 1 and the context of {context} tokens; 0 = half of it")
        columns = [call(self.score_graph, tf.constant(batch), tf.constant(stride)) for batch in batches(texts, batch_size)]
        return [Score(*row) for of_batch in columns for row in zip(*(of_batch[name].numpy().tolist() for name in Score._fields))]

    def score_targets(self, sources: list[str], targets: list[str], batch_size: int = 8) -> list[Score]:
        """Tell how likely each target is beside its source, for a model with an encoder, or behind its prompt, for one without.

        Args:
            sources: sources or prompts, any text, read as `generate` reads them; a prompt that leaves too little room for its target keeps its last tokens.
            targets: one for each. With an encoder a target is whole: its end-of-text token counts, so `token_count` is one more than its own tokens. Without
                one it is tokenized apart from the prompt, so if it begins a word it wants its space (" yes"), and ends where it ends.
            batch_size: targets that are scored together; a prompt that all of them share is read once.

        Raises:
            ValueError: one text, or a list that holds what is none; not as many of one as of the other; a target longer than the context.

        >>> reader = TextReader(model, tokenizer)
        >>> alone, beside = reader.score_targets(["The sky is"], [" blue"])[0], reader.choose(["The sky is"], [" blue", " red"])[0]
        >>> abs(alone.log_prob - beside.log_probs[0]) < 1e-3
        True
        """
        sources, targets = checked_texts("score_targets: sources", sources), checked_texts("score_targets: targets", targets)
        if len(sources) != len(targets):
            raise ValueError(f"score_targets: {len(sources)} sources and {len(targets)} targets; give two lists, with one target for each source")
        counts = self._checked_lengths("score_targets: the target", targets, least=0)
        scores = []
        for rows in batches(list(zip(sources, targets, counts)), batch_size):
            of_sources, of_targets, of_counts = zip(*rows)
            weigh = self.weigh_behind_one_graph if self.reads_once(of_sources, max(of_counts)) else self.weigh_graph
            of_batch = call(weigh, tf.constant(of_sources), tf.constant(of_targets)).numpy().tolist()
            scores += [Score(log_prob, count, float(np.exp(-log_prob / max(count, 1)))) for log_prob, count in zip(of_batch, of_counts)]
        return scores

    def reads_once(self, prompts: Sequence[str], longest: int) -> bool:
        """Tell whether prompts of several targets are one and the same, which is then read once for all: if it leaves room for the longest, in tokens."""
        return (len(prompts) > 1 and len(set(prompts)) == 1 and self.model.encoder is None and hasattr(self.model, "states")  # which LiteRT does not tell
                and len(self.python_tokenizer(prompts[0], verbose=False).input_ids) + longest <= self.model.config.n_positions)

    def _checked_lengths(self, what, texts, least):
        """Return how many tokens each text has to the model, the end of a whole target among them; one that does not fit the context is refused."""
        ends = int(self.model.encoder is not None)
        most = self.model.config.n_positions - ends
        lengths = call(self.tokenizer.tokenize, tf.constant(texts, tf.string, shape=[len(texts)])).row_lengths().numpy()
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
            ValueError: `prompts` or `answers` is one text, or holds what is none; fewer than two answers; one that is empty or longer than the context.

        >>> TextReader(model, tokenizer).choose(["The sky is"], [" blue", " green"])[0].answer in (" blue", " green")
        True
        """
        prompts, answers = checked_texts("choose: prompts", prompts), checked_texts("choose: answers", answers)
        if len(answers) < 2:
            raise ValueError(f"choose: {len(answers)} answers leave no choice; give 2 or more")
        self._checked_lengths("choose: the answer", answers, least=1)
        rows = [(prompt, answer) for prompt in prompts for answer in answers]
        log_probs = [number for batch in batches(rows, batch_size) for number in call(self.weigh_graph, *map(tf.constant, zip(*batch))).numpy().tolist()]
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
            ValueError: `texts` is one text, or holds what is none; a model behind LiteRT.

        >>> TextReader(model, tokenizer).embed(["It was", ""]).shape
        (2, 32)
        """
        texts = checked_texts("embed: texts", texts)
        if not hasattr(self.model, "states"):
            raise ValueError("embed: with engine lite a model tells its logits alone; load it with engine graph")
        found = [call(self.embed_graph, tf.constant(batch)) for batch in batches(texts, batch_size)]
        return np.concatenate([np.zeros([0, self.model.config.n_embd], np.float32), *found])

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
        >>> judge = TextReader(add_head(model, HeadConfig("classes"), ["ham", "spam"]), tokenizer)
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

    def _parted(self, prompts):
        """Return what the decoder begins with and what the encoder reads, int32 [batch, (tokens)] each; `None` for the latter without one."""
        if self.model.encoder is None:
            return prompts, None
        nothing = tf.RaggedTensor.from_row_lengths(tf.zeros([0], tf.int32), tf.zeros_like(prompts.row_lengths()), validate=False)
        return nothing, framed_sources(prompts, self.model.encoder.context, self.tokenizer.end_of_text)
