"""Text generation: stories, copy, any text continued in its style, steered by control tags that stand before it.

Each record of yours has a text, and tags, if it is to be steered by some: a genre, a topic, a mood, one or several. A text longer than a sequence is not cut:
it goes on in the next ones, without its tags. Nothing is left out.
"""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tfgpt.data.examples import SEPARATOR, Fields
from tfgpt.evaluation.metrics import Metric, mean, ratio
from tfgpt.evaluation.ngram import NgramModel
from tfgpt.evaluation.text_metrics import distinct, perplexity, repetition
from tfgpt.generation.text_model import TextModel
from tfgpt.recipe import TaskConfig
from tfgpt.tasks.task import Task, as_in_training, prompt_of, task_of

TEMPLATE = "{tags}\n"
OPENING_WORDS = 8
"""Of a held-out text, which the model is given to go on with."""
WRITTEN_TOKENS = 60
TEMPERATURE, TOP_P = 0.8, 0.95
MOST_TAGS = 10
"""The most frequent ones, among which a text's own is looked for."""
NGRAM_ORDER = 5


class Written(NamedTuple):
    """A text that a model wrote."""

    text: str
    """The opening and what follows on it."""
    finished: bool
    """Whether the model ended it, and not the limit of tokens."""


class Writer:
    """Writes texts with a model that was trained for it.

    Args:
        text_model: the model, as of `tfgpt.load_text_model("runs/generation")`.
        template: of what stands before a text with tags, if it was trained with another than `TEMPLATE`.

    >>> once, again = (Writer(TextModel(model, tokenizer)).write("It was", tags=["story"], seed=4) for _ in range(2))
    >>> once == again and once.text.startswith("It was")
    True
    """

    def __init__(self, text_model: TextModel, template: str = ""):
        self._text_model, self._config = text_model, TaskConfig("generation", template=template)
        task_of(self._config)

    def write(self, opening: str = "", tags: Sequence[str] = (), max_new_tokens: int = 200, seed: int = 0, temperature: float = TEMPERATURE,
              top_p: float = TOP_P) -> Written:
        """Write a text.

        Args:
            opening: that it begins with; empty = the model begins.
            tags: as in training, in any order.
            max_new_tokens: the most tokens to write.
            seed: of the draws; another seed gives another text.
            temperature: 0 = always the likeliest token.
            top_p: of the likeliest tokens, which so much of the probability is with; 1 = all.

        Raises:
            ValueError: tags that are one text, or a control out of its range.
        """
        if isinstance(tags, str):
            raise ValueError(f"tags: {tags!r} is one text; give a list, such as [{tags!r}]")
        prompt = as_in_training(self._text_model, prefix_of(self._config, tags) + opening)
        [found] = self._text_model.generate([prompt], max_new_tokens, seed=seed, temperature=temperature, top_p=top_p)
        return Written(opening + found.text, found.finish_reason == "stop")


def prefix_of(config: TaskConfig, tags: Iterable[str]) -> str:
    """Return what stands before a text with these tags; nothing without any.

    >>> prefix_of(TaskConfig("generation"), ["sad", "poem"])
    '[poem] [sad]\\n'
    """
    tags = sorted(set(tags))
    return prompt_of(config, TASK, tags=" ".join(f"[{tag}]" for tag in tags)) if tags else ""


def _records(fields: Fields, config: TaskConfig) -> Iterable[dict]:
    text = fields.text("text").strip("\n")
    tags = sorted(set(_tags_of(fields))) if fields.has("tags") else []
    if not text.strip():
        return []
    return [{"prompt": prefix_of(config, tags), "target": text, "text": text, "tags": tags, "group": text}]


def _tags_of(fields):
    """Return a record's tags: a list of them, a text of words, or one of tags with spaces in them, between which | stands."""
    value = fields.value("tags")
    if isinstance(value, str) and SEPARATOR in value:
        return [tag.strip() for tag in fields.text("tags").split(SEPARATOR) if tag.strip()]
    return fields.words("tags")


def _answers(text_model: TextModel, records: Sequence[dict], config: TaskConfig, batch_size: int, advance: Callable[[int], None]) -> list[dict]:
    candidates = _frequent_tags(records)
    answers = []
    for start in range(0, len(records), batch_size):
        batch = records[start : start + batch_size]
        openings = [_opening(record["text"]) for record in batch]
        written = text_model.generate([as_in_training(text_model, record["prompt"] + opening) for record, opening in zip(batch, openings)], WRITTEN_TOKENS,
                                      temperature=TEMPERATURE, top_p=TOP_P, seed=list(range(start, start + len(batch))))
        scores = _scores(text_model, [record["prompt"] for record in batch], [record["text"] for record in batch])
        tags = _likeliest_tags(text_model, batch, candidates, config)
        answers += [{"text": opening + row.text, "log_prob": log_prob, "tokens": tokens, "tag": tag}
                    for opening, row, (log_prob, tokens), tag in zip(openings, written, scores, tags)]
        advance(len(batch))
    return answers


def _opening(text):
    """Return the first words of a text, at most half of it."""
    words = text.split(" ")
    return " ".join(words[: min(OPENING_WORDS, len(words) // 2)])


def _scores(text_model, prompts, texts):
    """Return of each text its log-probability behind its prompt, nats, and its tokens: by the chain rule, so that it may be longer than the context."""
    whole = text_model.score([prompt + text for prompt, text in zip(prompts, texts)])
    before = text_model.score(prompts)
    return [(both.log_prob - first.log_prob, both.token_count - first.token_count) for both, first in zip(whole, before)]


def _frequent_tags(records):
    return [tag for tag, _ in Counter(tag for record in records for tag in record["tags"][:1]).most_common(MOST_TAGS)]


def _likeliest_tags(text_model, records, candidates, config):
    """Return the tag by which the model finds each text likeliest, of texts that have one of the candidates; `None` for the others."""
    asked = [len(candidates) > 1 and len(record["tags"]) == 1 and record["tags"][0] in candidates for record in records]
    rows = [(prefix_of(config, [tag]), record["text"]) for record, is_asked in zip(records, asked) if is_asked for tag in candidates]
    log_probs = np.array([log_prob for log_prob, _ in _scores(text_model, *map(list, zip(*rows)))]) if rows else np.zeros(0)
    found = iter(log_probs.reshape(-1, max(len(candidates), 1)).argmax(axis=1))
    return [candidates[next(found)] if is_asked else None for is_asked in asked]


def _metrics(records: Sequence[dict], answers: Sequence[dict]) -> dict[str, Metric]:
    texts = [answer["text"] for answer in answers]
    found = {"distinct_1": distinct(texts, 1), "distinct_2": distinct(texts, 2), "repetition_4": repetition(texts, 4)}
    if "log_prob" in answers[0]:
        log_probs = [answer["log_prob"] for answer in answers]
        found = {"perplexity": perplexity(log_probs, [answer["tokens"] for answer in answers]),
                 "bits_per_byte": ratio(np.divide(log_probs, -math.log(2)), [len(record["text"].encode()) for record in records], lower_is_better=True)} | found
    asked = [(record, answer) for record, answer in zip(records, answers) if answer.get("tag") is not None]
    if len(asked) > 1:
        found["tag_accuracy"] = mean([float(answer["tag"] in record["tags"]) for record, answer in asked])
    return found


def _baselines(text_model: TextModel, train: Sequence[dict], held_out: Sequence[dict], config: TaskConfig) -> dict[str, list[dict]]:
    tokenizer = text_model.python_tokenizer
    ngram = NgramModel([tokenizer.encode(record["prompt"] + record["text"]) for record in train], NGRAM_ORDER, len(tokenizer), tokenizer.eos_token_id)
    rng = np.random.default_rng(1)
    answers, human = [], []
    for record in held_out:
        before, ids = tokenizer.encode(record["prompt"]), tokenizer.encode(record["text"])
        loss, tokens = ngram.summed_loss([before + ids], [[False] * len(before) + [True] * len(ids) + [False]])
        opening = _opening(record["text"])
        answers.append({"text": opening + _drawn(ngram, tokenizer, before + tokenizer.encode(opening), rng), "log_prob": -loss, "tokens": tokens})
        human.append({"text": tokenizer.decode(ids[: len(tokenizer.encode(opening)) + WRITTEN_TOKENS])})
    most = Counter(tag for record in train for tag in record["tags"][:1]).most_common(1)
    if most:
        candidates = _frequent_tags(held_out)
        for record, answer in zip(held_out, answers):
            answer["tag"] = most[0][0] if len(candidates) > 1 and len(record["tags"]) == 1 and record["tags"][0] in candidates else None
    return {f"{NGRAM_ORDER}-gram, and the most frequent tag" if most else f"{NGRAM_ORDER}-gram": answers, "the texts themselves": human}


def _drawn(ngram, tokenizer, history, rng):
    """Draw a continuation as the model's is drawn."""
    ids = list(history)
    for _ in range(WRITTEN_TOKENS):
        sharpened = ngram.next_token(ids) ** (1 / TEMPERATURE)
        order = np.argsort(-sharpened)
        shares = sharpened[order] / sharpened.sum()
        kept = order[: int(np.searchsorted(np.cumsum(shares), TOP_P)) + 1]
        token = int(rng.choice(kept, p=sharpened[kept] / sharpened[kept].sum()))
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    return tokenizer.decode(ids[len(history) :])


TASK = Task(
    columns={"text": "a text, as one would be written",
             "tags": "what it is steered by: a list, or a text of words, or of tags with | between them; may be left out"},
    examples="pairs",
    records=_records,
    answers=_answers,
    metrics=_metrics,
    baselines=_baselines,
    shown="perplexity",
    long_text=("window",),
    long_pairs={"window": "pieces"},
    default_template=TEMPLATE,
)
