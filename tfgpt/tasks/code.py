"""Code completion: the next line of a program, or what is missing between what stands before and behind it.

Each record of yours is a source file. It is cut into segments at its functions (Python that parses), or at blank lines. A third of them are read as they are;
of the others a line, or the rest of one, is moved to the end behind marks, with what follows on it before them or without, so that the model learns to write it
from both sides or from one (Bavarian et al. 2022, "Efficient Training of Language Models to Fill in the Middle"). The marks are also why a line may begin
with any white space: without them the tokens of a line's end and of the next one's indentation are one. Of what does not fit the context, what is nearest to
the gap is read.
"""
from __future__ import annotations

import ast
import hashlib
import random
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tfgpt.data.examples import Fields
from tfgpt.evaluation.metrics import Metric, ratio
from tfgpt.evaluation.ngram import NgramModel
from tfgpt.evaluation.text_metrics import edit_similarity, exact_match
from tfgpt.generation.text_model import TextModel
from tfgpt.recipe import TaskConfig
from tfgpt.tasks.task import Task

PREFIX, SUFFIX, MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
"""The marks: give them to tokenizer.special_tokens, and each is one token."""
MOST_LINES = 48
"""Of a segment; a longer function is cut."""
LEAST_LINES = 3
LINE_TOKENS = 48
"""The most tokens of a line that is written."""
NGRAM_ORDER = 5


class Completion(NamedTuple):
    """A line that was written."""

    text: str
    """Without its end; what its indentation still lacks stands at its beginning."""
    log_prob: float
    """Of its tokens, nats."""


class CodeCompleter:
    """Completes code with a model that was trained for it.

    Args:
        text_model: the model, as of `tfgpt.load_text_model("runs/code")`.

    >>> line = CodeCompleter(TextModel(model, tokenizer)).complete("def area(width, height):\\n    return ")
    >>> "\\n" in line.text, line.log_prob < 0
    (False, True)
    """

    def __init__(self, text_model: TextModel):
        self._text_model, self._tokenizer = text_model, text_model.python_tokenizer

    def complete(self, before: str, after: str = "") -> Completion:
        """Write the rest of a line.

        Args:
            before: the code up to the cursor; it may end within a line.
            after: the code from the next line on, by which the line is filled in; empty = the model knows what stands before alone.
        """
        return self.complete_all([(before, after)])[0]

    def complete_all(self, asked: Iterable[tuple[str, str]], batch_size: int = 16) -> list[Completion]:
        """Write a line for each pair of what stands before and behind it.

        Args:
            asked: the pairs.
            batch_size: lines that are written together; changes the speed alone.
        """
        prompts = [self._prompt(before, after) for before, after in asked]
        lines: list[Completion] = []
        for start in range(0, len(prompts), batch_size):
            for row in self._text_model.generate(prompts[start : start + batch_size], LINE_TOKENS, stop=["\n"]):
                lines.append(Completion(row.text.rstrip(), row.log_prob))
        return lines

    def _prompt(self, before, after):
        room = max(self._text_model.model.config.n_positions - LINE_TOKENS - 8, 8)             # 8 for the marks and an end-of-text token
        of_after = min(len(self._tokenizer.encode(after)), room // 3)
        kept = self._nearest(before, room - of_after)
        return f"{PREFIX}{kept}{SUFFIX}{self._first(after, of_after)}{MIDDLE}"

    def _nearest(self, text, most):
        ids = self._tokenizer.encode(text[-most * 16 :])                                        # hardly a token has more than 16 characters
        return text if len(ids) <= most and len(text) <= most * 16 else self._tokenizer.decode(ids[-most:])

    def _first(self, text, most):
        ids = self._tokenizer.encode(text[: most * 16])
        return text if len(ids) <= most and len(text) <= most * 16 else self._tokenizer.decode(ids[:most])


def segments(source: str) -> Iterator[str]:
    """Yield the segments of a source file, dedented, in their order: its functions and methods, and what stands between them.

    >>> list(segments("import os\\n\\n\\ndef one():\\n    a = 1\\n    return a\\n"))
    ['import os', 'def one():\\n    a = 1\\n    return a']
    """
    lines = source.expandtabs(4).split("\n")
    borders = _function_borders(source, lines)
    start = 0
    for end in (*borders, len(lines)):
        for first in range(start, end, MOST_LINES):
            segment = textwrap.dedent("\n".join(lines[first : min(first + MOST_LINES, end)])).strip("\n")
            if segment.strip():
                yield segment
        start = end


def _function_borders(source, lines):
    """Return the lines at which segments end, in order: where a function begins or ends, or at blank lines where the source is no Python."""
    try:
        tree = ast.parse(source.expandtabs(4))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [number for number in range(1, len(lines)) if not lines[number - 1].strip() and lines[number][:1].strip()]
    borders, reached = set(), 0
    for node in sorted((node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)), key=lambda node: node.lineno):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
        if first >= reached:                                                                # a function within another belongs to that
            borders |= {first, node.end_lineno}
            reached = node.end_lineno
    return sorted(borders)


def _records(fields: Fields, config: TaskConfig) -> Iterable[dict]:
    made = []
    for segment in segments(fields.text("text").replace("\r\n", "\n")):
        lines = segment.split("\n")
        # By the segment's own hash, so that the same text gives the same records whatever stands around it.
        draw = random.Random(hashlib.sha256(segment.encode("utf-8", "surrogatepass")).digest())
        asked = [number for number in range(LEAST_LINES - 1, len(lines)) if len(lines[number].strip()) > 3]
        if not asked:
            continue
        number = draw.choice(asked)
        before, after = ("".join(f"{line}\n" for line in part) for part in (lines[:number], lines[number + 1 :]))
        made.append({"text": _trained_on(draw, segment, before, lines[number], after), "before": before, "line": lines[number], "after": after,
                     "parses": parses(segment)})
    return made


def _trained_on(draw, segment, before, line, after):
    """Return a segment as it is, or with a gap in it, which begins at a line's beginning or within it."""
    kind = draw.choice(("whole", "between", "next"))
    if kind == "whole":
        return segment
    start = draw.choice((0, draw.randrange(len(line))))
    return f"{PREFIX}{before}{line[:start]}{SUFFIX}{after if kind == 'between' else ''}{MIDDLE}{line[start:]}"


def parses(source: str) -> bool:
    """Tell whether a text is Python.

    >>> parses("x = 1"), parses("x = ")
    (True, False)
    """
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _answers(text_model: TextModel, records: Sequence[dict], config: TaskConfig, batch_size: int, advance: Callable[[int], None]) -> list[dict]:
    completer, answers = CodeCompleter(text_model), []
    for start in range(0, len(records), batch_size):
        batch = records[start : start + batch_size]
        next_lines = completer.complete_all([(record["before"], "") for record in batch], batch_size)
        infilled = completer.complete_all([(record["before"], record["after"]) for record in batch], batch_size)
        answers += [{"text": line.text, "infilled": filled.text} for line, filled in zip(next_lines, infilled)]
        advance(len(batch))
    return answers


def _metrics(records: Sequence[dict], answers: Sequence[dict]) -> dict[str, Metric]:
    found = {}
    for prefix, key in (("", "text"), ("infilled_", "infilled")):
        if key in answers[0]:
            written, right = [answer[key] for answer in answers], [record["line"] for record in records]
            whole = [record["before"] + line + "\n" + record["after"] for record, line in zip(records, written)]
            good = [float(record["parses"] and parses(text)) for record, text in zip(records, whole)]
            found |= {f"{prefix}exact_match": exact_match(written, right), f"{prefix}edit_similarity": edit_similarity(written, right),
                      f"{prefix}parses": ratio(good, [float(record["parses"]) for record in records])}
    return found


def _baselines(text_model: TextModel, train: Sequence[dict], held_out: Sequence[dict], config: TaskConfig) -> dict[str, list[dict]]:
    tokenizer = text_model.python_tokenizer
    plain = (record["before"] + record["line"] + "\n" + record["after"] for record in train)
    ngram = NgramModel([tokenizer.encode(text) for text in plain], NGRAM_ORDER, len(tokenizer), tokenizer.eos_token_id)
    lines = [_likeliest_line(ngram, tokenizer, record["before"]) for record in held_out]
    return {f"{NGRAM_ORDER}-gram": [{"text": line, "infilled": line} for line in lines]}


def _likeliest_line(ngram, tokenizer, before):
    """Return the line that always taking the likeliest token gives, as the model's is written; the end of the line before is part of its tokens."""
    history = tokenizer.encode(before.removesuffix("\n"))
    written: list[int] = []
    for _ in range(LINE_TOKENS):
        token = int(np.argmax(ngram.next_token(history + written)))
        if token == tokenizer.eos_token_id:
            break
        written.append(token)
        if tokenizer.decode(written).count("\n") > 1:
            break
    return [*tokenizer.decode(written).split("\n"), ""][1].rstrip()


TASK = Task(
    columns={"text": "a source file"},
    examples="text",
    records=_records,
    answers=_answers,
    metrics=_metrics,
    baselines=_baselines,
    shown="edit_similarity",
    packages=("rapidfuzz",),
)
