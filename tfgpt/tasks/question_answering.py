"""Question answering: from a passage, or from what the model knows by heart; "unknown" where it is not sure.

Each record of yours has a question and its answer, and a passage, unless the model is to know it. A passage that is too long loses its beginning, since a
prompt keeps its last tokens and the question stands at its end. What no passage answers has the answer "unknown" in the data.
"""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tfgpt.data.examples import Fields, UnusableError
from tfgpt.data.made_questions import UNKNOWN
from tfgpt.evaluation.metrics import Metric
from tfgpt.evaluation.text_metrics import calibration_error, exact_match, normalized, word_f1
from tfgpt.generation.batches import batches, checked_texts
from tfgpt.generation.text_model import TextModel
from tfgpt.recipe import TaskConfig
from tfgpt.tasks.task import Task, as_in_training, prompt_of, task_of

TEMPLATE = "{passage}\nQuestion: {question}\nAnswer:"
MOST_TOKENS = 64
"""Of an answer."""
LEAST_CONFIDENCE = 0.5
"""Below which an answer is `UNKNOWN`."""


class Answer(NamedTuple):
    """An answer to a question."""

    text: str
    """`unknown` where the model was not confident enough, or says so itself."""
    confidence: float
    """The probability that the model gives the text that it would answer, 0 to 1."""
    guess: str
    """That text, whether it was confident or not."""
    finished: bool
    """Whether the model ended it, and not the limit of tokens."""
    cut: bool
    """Whether the passage was too long, and its beginning was not read."""


class QuestionAnswerer:
    """Answers questions with a model that was trained for it.

    Args:
        text_model: the model, as of `tfgpt.load_text_model("runs/question_answering")`.
        least_confidence: below which the answer is `unknown`, 0 to 1; 0 = whatever the model guesses.
        template: of the prompt, if it was trained with another than `TEMPLATE`.
        max_new_tokens: of an answer; one that is cut there says so.

    Raises:
        ValueError: a confidence outside of 0 to 1, or fewer tokens than 1.

    >>> answer = QuestionAnswerer(TextModel(model, tokenizer), least_confidence=1.0).answer("Where does Ada live?", "Ada lives in Oslo.")
    >>> answer.text, 0 <= answer.confidence < 1
    ('unknown', True)
    """

    def __init__(self, text_model: TextModel, least_confidence: float = LEAST_CONFIDENCE, template: str = "", max_new_tokens: int = MOST_TOKENS):
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: {max_new_tokens} for an answer; give 1 or more")
        self._most_tokens = max_new_tokens
        if not 0 <= least_confidence <= 1:
            raise ValueError(f"least_confidence: {least_confidence} is no probability; give 0 to 1")
        self._text_model, self._least, self._config = text_model, least_confidence, TaskConfig("question_answering", template=template)
        task_of(self._config)

    def answer(self, question: str, passage: str = "") -> Answer:
        """Answer a question.

        Args:
            question: any text.
            passage: that the answer is looked for in; empty = the model is to know it. Its beginning is not read where it is too long.
        """
        return self.answer_all([(question, passage)])[0]

    def answer_all(self, asked: Iterable[tuple[str, str]], batch_size: int = 32, advance=lambda count: None) -> list[Answer]:
        """Answer pairs of a question and its passage, so many together.

        Args:
            asked: the pairs.
            batch_size: how many are answered together; changes the speed alone.
            advance: called with how many were answered.

        Raises:
            ValueError: something that is no pair; a batch size below 1.
        """
        asked = list(asked)
        if wrong := [one for one in asked if isinstance(one, str) or len(one) != 2]:
            raise ValueError(f"answer_all: {wrong[0]!r} is no pair of a question and its passage; give (question, \"\") without one")
        for number, one in enumerate(asked):
            checked_texts(f"answer_all: asked[{number}]", one, of=(str,))
        prompts = [as_in_training(self._text_model, _prompt(self._config, question, passage)) for question, passage in asked]
        answers = []
        for batch in batches(prompts, batch_size):
            of_batch = self._text_model.generate(batch, self._most_tokens, stop=["\n"])
            answers += [self._judged(row, self._is_cut(prompt)) for row, prompt in zip(of_batch, batch)]
            advance(len(of_batch))
        return answers

    def _judged(self, row, cut):
        guess, confidence = row.text.strip(), math.exp(row.log_prob)
        return Answer(guess if confidence >= self._least else UNKNOWN, confidence, guess, row.finish_reason == "stop", cut)

    def _is_cut(self, prompt):
        return len(self._text_model.python_tokenizer(prompt, verbose=False).input_ids) >= self._text_model.model.config.n_positions


def _prompt(config, question, passage):
    return prompt_of(config, TASK, question=question, passage=passage).lstrip("\n")


def _records(fields: Fields, config: TaskConfig) -> Iterable[dict]:
    question, answer = fields.text("question").strip(), " ".join(fields.text("answer").split())  # of one line, since its end is an answer's
    passage = fields.text("passage").strip() if fields.has("passage") else ""
    if not question:
        raise UnusableError("no question", f"column {fields.name('question')!r} is empty", "write the question")
    if not answer:
        raise UnusableError("no answer", f"column {fields.name('answer')!r} is empty", f"write the answer, or {UNKNOWN} where there is none")
    prompt = _prompt(config, question, passage)
    # Questions of one passage stay together, or a passage that was trained on would be asked about; without one each is by itself.
    return [{"prompt": prompt, "target": f" {answer}", "question": question, "passage": passage, "answer": answer, "group": passage or question}]


def _answers(text_model: TextModel, records: Sequence[dict], config: TaskConfig, batch_size: int, advance) -> list[dict]:
    answerer = QuestionAnswerer(text_model, template=config.template)
    answers = answerer.answer_all([(record["question"], record["passage"]) for record in records], batch_size, advance)
    return [answer._asdict() for answer in answers]


def _metrics(records: Sequence[dict], answers: Sequence[dict]) -> dict[str, Metric]:
    texts, right = [answer["text"] for answer in answers], [record["answer"] for record in records]
    found = {"exact_match": exact_match(texts, right, normalized), "f1": word_f1(texts, right)}
    if "confidence" in answers[0]:
        hits = [normalized(answer["guess"]) == normalized(one) for answer, one in zip(answers, right)]
        found["calibration_error"] = calibration_error(np.clip([answer["confidence"] for answer in answers], 0, 1), hits)
    return found


def _baselines(text_model: TextModel, train: Sequence[dict], held_out: Sequence[dict], config: TaskConfig) -> dict[str, list[dict]]:
    most = Counter(record["answer"] for record in train).most_common(1)[0][0]
    return {"the most frequent answer": [{"text": most}] * len(held_out)}


TASK = Task(
    columns={"question": "the question", "answer": f"its answer; {UNKNOWN} where the passage has none",
             "passage": "where the answer is looked for; may be left out"},
    examples="pairs",
    records=_records,
    answers=_answers,
    metrics=_metrics,
    baselines=_baselines,
    shown="f1",
    default_template=TEMPLATE,
)
