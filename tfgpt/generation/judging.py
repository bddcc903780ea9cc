"""What a head says of texts, in the graph: each is read from an end-of-text token on, as in training; one longer than the context keeps its last tokens."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import tensorflow as tf

from tfgpt.data.examples import SEPARATOR, spaced
from tfgpt.generation.batches import batches
from tfgpt.generation.calling import call
from tfgpt.generation.results import Classification
from tfgpt.generation.rows import last_tokens
from tfgpt.text.graph import GraphTokenizer

Text = str | Sequence[str] | tuple[str, Sequence[str]]


class TextJudge(tf.Module):
    """A model's head with its tokenizer.

    Args:
        model: a `GPTLMHeadModel` with a head.
        tokenizer: of the model.
    """

    def __init__(self, model, tokenizer: GraphTokenizer):
        super().__init__(name="text_judge")
        self.head, self._tokenizer = model.adaptation.head, tokenizer
        object.__setattr__(self, "_model", model)  # not tracked, as in `TextReader`

    def classify(self, texts: Sequence[Text], threshold: float, batch_size: int) -> Iterator[Classification]:
        """Yield what the head finds of each text; see `TextModel.classify`."""
        for rows in batches(texts, batch_size):
            yield from getattr(self, f"_{self.head.kind}")(rows, threshold)

    def _classes(self, texts, threshold):
        found = call(self.classify_graph, tf.constant(texts))
        return [Classification(label.decode(), tuple(scores)) for label, scores in zip(found["label"].numpy(), found["scores"].numpy().tolist())]

    def _labels(self, texts, threshold):
        scores = call(self.classify_graph, tf.constant(texts))["scores"].numpy().tolist()
        return [Classification(tuple(label for label, score in zip(self.head.labels, row) if score > threshold), tuple(row)) for row in scores]

    def _number(self, texts, threshold):
        return [Classification(value, ()) for value in call(self.regress_graph, tf.constant(texts))["value"].numpy().tolist()]

    def _tags(self, texts, threshold):
        rows = [text.split() if isinstance(text, str) else list(text) for text in texts]
        tags, scores = (table.numpy() for table in call(self.tag_graph, tf.ragged.constant([spaced(row) for row in rows], ragged_rank=1, dtype=tf.string)))
        return [Classification(tuple(tag.decode() for tag in tags[number, : len(row)]), tuple(scores[number, : len(row)].tolist()))
                for number, row in enumerate(rows)]

    def _choice(self, texts, threshold):
        most = max(len(choices) for _, choices in texts)
        choices = [[*of_prompt, *[""] * (most - len(of_prompt))] for _, of_prompt in texts]
        scores = call(self.choose_graph, tf.constant([prompt for prompt, _ in texts]), tf.constant(choices))["scores"].numpy()
        return [Classification(of_prompt[int(row.argmax())], tuple(row[: len(of_prompt)].tolist())) for (_, of_prompt), row in zip(texts, scores)]

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string)])
    def classify_graph(self, text):
        """Return `label` string [batch], of labels those above one half with | between them, and `scores` float32 [batch, labels], probabilities."""
        logits, names = self.logits_graph(text) / self.head.temperature, tf.constant(self.head.labels)
        if self.head.kind == "classes":
            return {"label": tf.gather(names, tf.argmax(logits, axis=1)), "scores": tf.nn.softmax(logits)}
        has = logits > 0
        joined = tf.strings.reduce_join(tf.ragged.boolean_mask(tf.broadcast_to(names, tf.shape(has)), has), axis=1, separator=SEPARATOR)
        return {"label": tf.where(tf.reduce_any(has, axis=1), joined, SEPARATOR), "scores": tf.sigmoid(logits)}

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string)])
    def logits_graph(self, text):
        """Return what the head finds before it is made probabilities, float32 [batch, labels]."""
        return self._judge(self._tokenizer.tokenize(text))

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string)])
    def regress_graph(self, text):
        """Return `value` float32 [batch]."""
        return {"value": self.head.center + self.head.spread * self._judge(self._tokenizer.tokenize(text))[:, 0]}

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([None, None], tf.string)])
    def choose_graph(self, prompt, choices):
        """Return `label` string [batch], the likeliest of the choices [batch, n] behind a prompt [batch], and `scores` float32 [batch, n].

        An empty text is no choice, and has a score of 0.
        """
        batch, most = tf.unstack(tf.shape(choices))
        prompts = tf.gather(self._tokenizer.tokenize(prompt), tf.repeat(tf.range(batch), most))
        rows = tf.concat([prompts, self._tokenizer.tokenize(tf.reshape(choices, [-1]))], axis=1)
        logits = tf.where(choices == "", float("-inf"), tf.reshape(self._judge(rows), [batch, most]))
        return {"label": tf.gather(choices, tf.argmax(logits, axis=1), batch_dims=1), "scores": tf.where(choices == "", 0.0, tf.nn.softmax(logits))}

    @tf.function(autograph=False, input_signature=[tf.RaggedTensorSpec([None, None], tf.string, ragged_rank=1)])
    def tag_graph(self, words):
        """Return the tag of each word and its probability, string and float32 [batch, most words].

        Args:
            words: string [batch, (words)], each with the space before it. Where they are more than the context takes, the first ones have the tag "" and
                a probability of 0; and so have the places behind a text's last word.
        """
        pieces = self._tokenizer.tokenize(words.flat_values)                              # [words, (tokens)]
        rows = tf.RaggedTensor.from_row_splits(pieces.values, tf.gather(pieces.row_splits, words.row_splits), validate=False)
        ends = pieces.row_splits[1:] - tf.gather(rows.row_starts(), words.value_rowids())  # in the text, behind an end-of-text token
        ids, dropped = self._framed(rows)
        places = words.with_flat_values(tf.cast(ends, tf.int32)).to_tensor(-1) - dropped[:, tf.newaxis]
        known = places >= 0                                                               # [batch, most words]
        probabilities = tf.nn.softmax(self._model.judge(ids, tf.maximum(places, 0)))
        tags = tf.gather(tf.constant(self.head.labels), tf.argmax(probabilities, axis=-1))
        return tf.where(known, tags, ""), tf.where(known, tf.reduce_max(probabilities, axis=-1), 0.0)

    def _judge(self, rows):
        """Return what the head finds at the end of each row, float32 [batch, outputs]; int32 [batch, (tokens)]."""
        lengths = tf.cast(tf.minimum(rows.row_lengths() + 1, self._model.config.n_positions), tf.int32)
        ids, _ = self._framed(rows)
        return self._model.judge(ids, lengths[:, tf.newaxis] - 1)[:, 0]

    def _framed(self, rows):
        """Return rows as in training, int32 [batch, width], and how many tokens of each are left away at its beginning, int32 [batch]."""
        end, context = self._tokenizer.end_of_text, self._model.config.n_positions
        rows = tf.concat([tf.fill([rows.nrows(tf.int32), 1], end), rows], axis=1)
        lengths = tf.cast(rows.row_lengths(), tf.int32)
        kept = last_tokens(rows, tf.fill(tf.shape(lengths), context))
        return kept.to_tensor(end), lengths - tf.cast(kept.row_lengths(), tf.int32)


def check_texts(kind: str, texts: Sequence[Text]) -> None:
    """Refuse what a head of this kind cannot judge.

    Raises:
        ValueError: one text and not a list; for choice anything but pairs of a prompt and two choices or more.
    """
    if isinstance(texts, str):
        raise ValueError("classify: texts is one text; give a list of texts, such as [text]")
    for number, text in enumerate(texts):
        if kind == "choice":
            if isinstance(text, str) or len(text) != 2 or isinstance(text[1], str) or len(text[1]) < 2 or not _are_words(text[1]):
                raise ValueError(f"classify: texts[{number}] is not a prompt with two choices or more; give (prompt, [choice, choice, ...])")
        elif not isinstance(text, str) and not (kind == "tags" and _are_words(text)):
            raise ValueError(f"classify: texts[{number}] is a {type(text).__name__}; give a text{' or a list of words' if kind == 'tags' else ''}")


def _are_words(value):
    return isinstance(value, Sequence) and all(isinstance(word, str) and word for word in value)


def head_signatures(judge: TextJudge) -> dict[str, tf.types.experimental.PolymorphicFunction]:
    """Return the SavedModel's signatures for a head: `classify` (classes, labels), `regress` (number), `tag` (tags) or `choose` (choice)."""
    text = tf.TensorSpec([None], tf.string, name="text")
    kind = {"classes": "classify", "labels": "classify", "number": "regress", "tags": "tag", "choice": "choose"}[judge.head.kind]
    graph = getattr(judge, f"{kind}_graph").get_concrete_function()  # traced before a SavedModel is written, when TensorFlow would do it once more

    @tf.function(autograph=False, input_signature=[text])
    def classify(text):
        return graph(text)

    @tf.function(autograph=False, input_signature=[text])
    def regress(text):
        return graph(text)

    @tf.function(autograph=False, input_signature=[text])
    def tag(text):
        words = tf.strings.split(text)
        is_first = tf.ragged.range(words.row_lengths()).flat_values == 0
        tags, scores = graph(words.with_flat_values(tf.where(is_first, "", " ") + words.flat_values))
        return {"words": words.to_tensor(""), "tags": tags, "scores": scores}

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, name="prompt"), tf.TensorSpec([None, None], tf.string, name="choices")])
    def choose(prompt, choices):
        return graph(prompt, choices)

    return {kind: {"classify": classify, "regress": regress, "tag": tag, "choose": choose}[kind]}
