"""Dialogue: turns of a user and an assistant, with a system text that says who answers and how, and a memory that fits the model's context.

Each record of yours is a chat (`messages`, a list of turns with role and content), or one exchange (`user`, `reply` and, if there is one, `system`). The model
is trained on every reply of the assistant. A dialogue that is too long for its context loses its oldest turns, whole; the system text and the last turn stay,
and the answer tells how many turns are left out. In training one longer than data.length is read in pieces, one after the other.
"""
from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tfgpt.data.examples import Fields, UnusableError
from tfgpt.evaluation.metrics import Metric
from tfgpt.evaluation.text_metrics import perplexity, recall_at, word_f1
from tfgpt.generation.batches import checked_texts
from tfgpt.generation.results import Continuation
from tfgpt.generation.text_model import TextModel
from tfgpt.recipe import TaskConfig
from tfgpt.tasks.task import Task
from tfgpt.text.chat import DEFAULT_TEMPLATE, Memory, TooLongError, chat_parts, remembered, room_for_reply

MOST_TOKENS = 64
"""Of a reply."""
CANDIDATES = 100
"""Among which the true reply is looked for; itself, and those of other records."""
RECENT = 4
"""Turns of a dialogue that the baseline goes by; those before them tell it of something else."""

ASKED = ({"role": "user", "content": "?"},)
"""Before a reply by itself: many templates refuse an assistant that begins."""

Turns = Sequence[Mapping[str, str]]


class Reply(NamedTuple):
    """What the assistant says to a dialogue."""

    text: str
    left_out: int
    """How many turns of the dialogue, the oldest ones, the model's context had no room for."""
    written: Continuation
    """The text as the model wrote it, with its log-probability and why it ended."""


class Dialogue:
    """Talks with a model that was trained on chats, and remembers what was said as far as its context goes.

    Args:
        text_model: the model, as of `tfgpt.load_text_model("runs/dialogue")`.
        system: who the assistant is, or how it is to speak; it is never forgotten. "" = none is given.
        template: Jinja, by which turns become text; "" = the tokenizer's own.

    Raises:
        ValueError: a system text that is no text.

    >>> dialogue = Dialogue(TextModel(model, tokenizer), system="Be brief.")
    >>> [dialogue.say("I live in a town called Oslo.", max_new_tokens=4).left_out for _ in range(3)]
    [0, 2, 4]
    >>> len(dialogue.turns)
    3
    """

    def __init__(self, text_model: TextModel, system: str = "", template: str = ""):
        checked_texts("system", [system], of=(str,))
        self.text_model, self._template = text_model, template or template_of(text_model)
        self.turns: list[Mapping[str, str]] = [{"role": "system", "content": system}] if system else []
        """What is remembered, the last reply too."""
        self.left_out = 0
        """How many turns, the oldest ones, are not."""

    def say(self, text: str, max_new_tokens: int = MOST_TOKENS, **options) -> Reply:
        """Say something, and return what the assistant replies; both are remembered.

        Args:
            text: of this turn.
            max_new_tokens: the most tokens of the reply. The memory leaves room for them, but for no more than a quarter of the context; a reply may then be
                as long as what is left.
            options: as `TextModel.generate` takes them, but `samples`, since one reply is remembered.

        Raises:
            ValueError: the turn is too long beside the system text (it is then as if it had not been said), or an option cannot be.
        """
        if options.get("samples", 1) != 1:
            raise ValueError(f"samples: {options['samples']}, and one reply is remembered; leave it out, or call TextModel.generate with chat_prompt(turns)")
        checked_texts("say", [text], of=(str,))
        turns = [*self.turns, {"role": "user", "content": text}]
        memory = remembered(turns, _fits(self.text_model, _room(self.text_model, max_new_tokens)), self._template)
        [written] = self.text_model.generate([memory.prompt], max_new_tokens, **options)
        self.left_out += memory.left_out
        reply = Reply(written.text.strip(), self.left_out, written)
        self.turns = [*memory.turns, {"role": "assistant", "content": reply.text}]
        return reply


def template_of(text_model: TextModel) -> str:
    """Return the template by which a model's chats become text."""
    return text_model.python_tokenizer.chat_template or DEFAULT_TEMPLATE


def _room(text_model, max_new_tokens):
    return room_for_reply(max_new_tokens, text_model.model.config.n_positions)


def _fits(text_model, room):
    """Return what tells whether a prompt leaves room for so many tokens."""
    most, tokenizer = text_model.model.config.n_positions - room, text_model.python_tokenizer
    return lambda prompt: len(tokenizer(prompt, verbose=False).input_ids) <= most


def _records(fields: Fields, config: TaskConfig) -> Iterable[dict]:
    turns = _chat_of(fields) if fields.has("messages") or not fields.has("user") else _exchange_of(fields)
    turns = [{"role": turn["role"], "content": fields.mend(turn["content"])} for turn in turns]
    if not any(turn["role"] == "assistant" for turn in turns):
        raise UnusableError("no reply", "no turn is the assistant's", "give it one at least, of role assistant")
    for place, turn in enumerate(turns):
        if turn["role"] == "assistant" and not turn["content"].strip():
            raise UnusableError("empty reply", f"turn {place} is the assistant's and empty", "write what it says, or leave the turn out")
    while turns[-1]["role"] != "assistant":
        turns.pop()
        fields.leave_out("last turns that nothing answers")
    return [{"messages": turns}]


def _chat_of(fields):
    try:
        turns = fields.value("messages")
    except UnusableError as error:
        raise UnusableError(error.reason, error.problem, "set task.columns.messages to the column of the turns, or task.columns.user and task.columns.reply to "
                            "those of an exchange") from error
    turns = turns.tolist() if hasattr(turns, "tolist") else turns
    if not isinstance(turns, list | tuple) or not turns:
        raise UnusableError("no chat", f"column {fields.name('messages')!r} holds no list of turns",
                            'write [{"role": "user", "content": "..."}, ...], or give the columns user and reply')
    for place, turn in enumerate(turns):
        if not (isinstance(turn, Mapping) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)):
            raise UnusableError("no chat", f"turn {place} of column {fields.name('messages')!r} has no role and content", "write both, as texts")
    return list(turns)


def _exchange_of(fields):
    user, reply = fields.text("user").strip(), fields.text("reply").strip()
    if not user or not reply:
        raise UnusableError("no exchange", f"column {fields.name('reply' if user else 'user')!r} is empty", "write what is said")
    system = [{"role": "system", "content": fields.text("system").strip()}] if fields.has("system") else []
    return [*system, {"role": "user", "content": user}, {"role": "assistant", "content": reply}]


def _answers(text_model: TextModel, records: Sequence[dict], config: TaskConfig, batch_size: int, advance) -> list[dict]:
    scorer, candidates, answers = _Scorer(text_model, batch_size), candidates_of(records), []
    for start in range(0, len(records), batch_size):
        some = records[start : start + batch_size]
        asked = [scorer.memory(record["messages"][:-1], _room(text_model, MOST_TOKENS)) for record in some]
        written = text_model.generate([memory.prompt for memory in asked], MOST_TOKENS)
        for record, memory, reply, others in zip(some, asked, written, candidates[start : start + batch_size]):
            answers.append({"text": reply.text.strip(), "left_out": memory.left_out, "rank": scorer.rank(record["messages"], others),
                            "candidates": len(others)} | scorer.likelihood(record["messages"]))
        advance(len(some))
    return answers


class _Scorer:
    """Tells how likely replies are, each behind as much of its dialogue as the context holds.

    Of a reply longer than half of the context the first tokens are weighed, as many as that half: the dialogue has the other one.
    """

    def __init__(self, text_model, batch_size):
        self._text_model, self._template, self._batch_size = text_model, template_of(text_model), batch_size
        self._most = text_model.model.config.n_positions // 2
        self._targets: dict[str, tuple[str, int, bool]] = {}

    def memory(self, turns: Turns, room: int) -> Memory:
        """Return what is read of a dialogue, where the reply is to have so many tokens; of a last turn that is itself too long the last tokens are."""
        try:
            return remembered(turns, _fits(self._text_model, room), self._template)
        except TooLongError as error:
            return Memory((), error.prompt, len(turns))

    def likelihood(self, messages: Turns) -> dict:
        """Return `log_prob` of all replies of a dialogue together, `token_count` of them, and `cut`: how many, or the turns before them, were too long."""
        prompts, targets, cut = [], [], 0
        for place, turn in enumerate(messages):
            if turn["role"] == "assistant":
                target, count, is_cut = self._target(turn["content"])
                memory = self.memory(messages[:place], count)
                cut += is_cut or not memory.turns
                prompts.append(memory.prompt)
                targets.append(target)
        scores = self._text_model.score_targets(prompts, targets, self._batch_size)
        return {"log_prob": sum(score.log_prob for score in scores), "token_count": sum(score.token_count for score in scores), "cut": cut}

    def rank(self, messages: Turns, candidates: Sequence[str]) -> int:
        """Return the rank of the first of some replies to a dialogue among all."""
        targets = [self._target(reply) for reply in candidates]
        prompt = self.memory(messages[:-1], max(count for _, count, _ in targets)).prompt
        scores = self._text_model.score_targets([prompt] * len(targets), [target for target, _, _ in targets], self._batch_size)
        return rank_of_first([score.log_prob / score.token_count for score in scores])

    def _target(self, reply):
        """Return a reply as the model is to write it, how many tokens it has, and whether it is cut."""
        if reply not in self._targets:
            rendered = [text for text, trained in chat_parts([*ASKED, {"role": "assistant", "content": reply}], self._template) if trained][-1]
            ids = self._text_model.python_tokenizer(rendered, verbose=False).input_ids
            is_cut = len(ids) > self._most
            text = self._text_model.python_tokenizer.decode(ids[: self._most], clean_up_tokenization_spaces=False) if is_cut else rendered
            self._targets[reply] = text, min(len(ids), self._most), is_cut
        return self._targets[reply]


def rank_of_first(scores: Sequence[float]) -> int:
    """Return the rank of the first of some scores among all, the highest = 1; of equal ones half stand before it.

    >>> rank_of_first([0.5, 0.9, 0.5, 0.5, 0.1])
    3
    """
    scores = np.asarray(scores)
    return 1 + int(np.sum(scores > scores[0])) + int(np.sum(scores[1:] == scores[0])) // 2


def candidates_of(records: Sequence[dict]) -> list[list[str]]:
    """Return for each record its last reply, and behind it those of 99 others, each a text of its own: the same ones for every model.

    >>> records = [{"messages": [{"role": "assistant", "content": text}]} for text in ("yes", "no", "yes", "maybe")]
    >>> sorted(candidates_of(records)[2])
    ['maybe', 'no', 'yes']
    """
    replies = [record["messages"][-1]["content"] for record in records]
    distinct = sorted(set(replies))
    candidates = []
    for place, reply in enumerate(replies):
        others = [other for other in distinct if other != reply]
        candidates.append([reply, *random.Random(place).sample(others, min(CANDIDATES - 1, len(others)))])
    return candidates


def _metrics(records: Sequence[dict], answers: Sequence[dict]) -> dict[str, Metric]:
    ranks = [answer["rank"] for answer in answers]
    few = len({record["messages"][-1]["content"] for record in records}) <= 10             # among which the true one always is
    found = {} if few else {"recall_at_10": recall_at(ranks, 10)}
    found |= {"recall_at_1": recall_at(ranks, 1),
              "f1": word_f1([answer["text"] for answer in answers], [record["messages"][-1]["content"] for record in records])}
    if "log_prob" in answers[0]:
        found["perplexity"] = perplexity([answer["log_prob"] for answer in answers], [answer["token_count"] for answer in answers])
    return found


def _baselines(text_model: TextModel, train: Sequence[dict], held_out: Sequence[dict], config: TaskConfig) -> dict[str, list[dict]]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    contexts, replies = [_recent(record) for record in train], [record["messages"][-1]["content"] for record in train]
    vectors = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b").fit([*contexts, *replies])
    known, asked = vectors.transform(contexts), vectors.transform(_recent(record) for record in held_out)
    similar, retrieved = [], []
    for place, candidates in enumerate(candidates_of(held_out)):
        of_candidates = vectors.transform(candidates)
        likeness = (of_candidates @ asked[place].T).toarray()[:, 0]
        similar.append({"text": candidates[len(likeness) - 1 - int(likeness[::-1].argmax())], "rank": rank_of_first(likeness)})
        nearest = replies[int((known @ asked[place].T).toarray().argmax())]
        retrieved.append({"text": nearest, "rank": rank_of_first((of_candidates @ vectors.transform([nearest]).T).toarray()[:, 0])})
    return {"TF-IDF retrieval among the candidates": similar, "TF-IDF retrieval from the training part": retrieved}


def _recent(record):
    """Return the last turns before a record's last reply as one text."""
    return "\n".join(turn["content"] for turn in record["messages"][:-1][-RECENT:])


TASK = Task(
    columns={"messages": "the turns, a list of {role, content} with roles system, user and assistant; or else the next two or three:",
             "user": "what a user says", "reply": "what the assistant replies", "system": "who the assistant is and how it speaks; may be left out"},
    examples="chat",
    records=_records,
    answers=_answers,
    metrics=_metrics,
    baselines=_baselines,
    shown="f1",
    long_text=("window", "refuse"),
)
