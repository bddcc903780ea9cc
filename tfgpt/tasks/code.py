"""Code completion: the next line of a program, or what is missing between what stands before and behind it.

Each record of yours is a source file. It is cut into segments at its functions (Python that parses), or at blank lines, and these are read as they are, but for
tabs, which are four spaces, and tabs again where a text that is indented by them is completed; with
`task.code.gaps` a line of a share of them, or the rest of one, is moved to the end behind marks (Bavarian et al. 2022, "Efficient Training of Language Models
to Fill in the Middle"). A text goes on from the token that the cursor stands in, with the likeliest ones that begin with what is there of it, since the tokens
of a line's end and of the next one's indentation are one. Where what follows is known, a model with marks writes the line behind them; one without writes some
lines, each from another beginning, and takes the one with which the whole is likeliest. Of what does not fit the context, what is nearest to the gap is read.
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
from tfgpt.generation.batches import batches
from tfgpt.generation.beginnings import Beginnings, parted
from tfgpt.generation.reading import Reader
from tfgpt.generation.text_model import TextModel
from tfgpt.recipe import TaskConfig
from tfgpt.recipe_task import GAP_MARKS
from tfgpt.tasks.task import Task

PREFIX, SUFFIX, MIDDLE = GAP_MARKS
WAYS = 4
"""Lines among which one is chosen by what follows on it."""
WEIGHED_BEFORE, WEIGHED_AFTER = 64, 32
"""Tokens before and behind a line, at most, by which it is weighed."""
TAB = 4
"""Spaces that a tab is learned as; in completions of a text that is indented by tabs they are tabs again."""
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


class _Begun(NamedTuple):
    """Where a line is written from."""

    ids: Sequence[int]
    """The tokens that are read."""
    text: str
    """What they say of the line behind the cursor."""
    log_prob: float
    """Of the tokens of the line among them, nats."""


def _begun(beginnings: Beginnings, tokenizer, typed: str, behind) -> list[_Begun]:
    """Return the likeliest tokens that begin with what is typed, and with no more line ends; those of that alone where there are none."""
    ways = [_Begun(ids, beginnings.text_behind(typed.encode(), ids), log_prob) for ids, log_prob in beginnings.find(typed.encode(), behind)]
    return [way for way in ways if way.text is not None and "\n" not in way.text] or [_Begun(tokenizer.encode(typed), "", 0.0)]


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
        self._reader, self._beginnings = Reader(text_model.model, self._tokenizer.eos_token_id), Beginnings(text_model.tokenizer.texts.numpy().tolist())
        self._room = max(text_model.model.config.n_positions - LINE_TOKENS - 8, 8)              # 8 for the marks and an end-of-text token
        self._has_marks = PREFIX in self._tokenizer.get_vocab()

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
        asked, tabbed = _with_spaces(asked)
        if self._has_marks:
            begun = [[self._between(before, after)] if after else self._ways(before, 1) for before, after in asked]
        else:
            begun = [self._ways(before, WAYS if after else 1) for before, after in asked]
        return _with_tabs(asked, tabbed, self._chosen(asked, self._written(begun, batch_size), batch_size))

    def complete_both(self, asked: Iterable[tuple[str, str]], batch_size: int = 16) -> tuple[list[Completion], list[Completion]]:
        """Write a line for each pair, without what stands behind it and with it: as `complete_all` does, in less time.

        Args:
            asked: the pairs.
            batch_size: lines that are written together; changes the speed alone.
        """
        asked = list(asked)
        if self._has_marks:
            return self.complete_all([(before, "") for before, _ in asked], batch_size), self.complete_all(asked, batch_size)
        asked, tabbed = _with_spaces(asked)
        lines = self._written([self._ways(before, WAYS if after else 1) for before, after in asked], batch_size)
        return _with_tabs(asked, tabbed, [of_one[0] for of_one in lines]), _with_tabs(asked, tabbed, self._chosen(asked, lines, batch_size))

    def _written(self, begun, batch_size):
        """Return the line that is written from each of some beginnings, for each text."""
        flat = [one for of_text in begun for one in of_text]
        lines: list[Completion] = []
        for some in batches(flat, batch_size):
            longest = max(len(one.ids) for one in some)
            ids = np.array([[*one.ids, *[0] * (longest - len(one.ids))] for one in some])
            mask = np.array([[place < len(one.ids) for place in range(longest)] for one in some])
            rows = self._text_model.generate_from_ids(ids, mask, LINE_TOKENS, stop=["\n"])
            lines += [Completion((one.text + row.text).rstrip(), one.log_prob + row.log_prob) for one, row in zip(some, rows)]
        left = iter(lines)
        return [[next(left) for _ in of_text] for of_text in begun]

    def _chosen(self, asked, lines, batch_size):
        """Return, of the lines written for each pair, the one with which what stands around it is likeliest; the first of those that are alike."""
        kept = [_filling(before, of_pair) for (before, _), of_pair in zip(asked, lines)]
        wholes = [self._wholes(before, of_pair, after) for (before, after), of_pair in zip(asked, kept)]
        flat = list(dict.fromkeys(whole for of_pair in wholes for whole in of_pair))
        likely = dict(zip(flat, self._text_model.score(flat, batch_size=batch_size))) if flat else {}
        return [of_pair[int(np.argmax([likely[whole].log_prob for whole in of_wholes])) if of_wholes else 0]
                for of_pair, of_wholes in zip(kept, wholes)]

    def _wholes(self, before, lines, after):
        """Return the texts by which lines are weighed; none where there is one line, or nothing behind it."""
        if len(lines) == 1 or not after:
            return []
        before, after = self._nearest(before, WEIGHED_BEFORE), self._first(after, WEIGHED_AFTER)
        return [f"{before}{line.text}\n{after}" for line in lines]

    def _between(self, before, after):
        """Return the tokens of the prompt of a line that is filled in behind marks."""
        of_after = min(len(self._tokenizer.encode(after)), self._room // 3)
        kept = self._nearest(before, self._room - of_after)
        return _Begun(self._tokenizer.encode(f"{self._tokenizer.eos_token}{PREFIX}{kept}{SUFFIX}{self._first(after, of_after)}{MIDDLE}"), "", 0.0)

    def _ways(self, before, most):
        """Return the likeliest ways on from where the cursor stands, one at least: the tokens of a text up to there, and the next."""
        ids, typed = parted(before[-self._room * 16 :], self._tokenizer)                        # hardly a token has more than 16 characters
        ids = ids[-self._room :]
        log_probs = self._reader.read(ids)
        ways = _begun(self._beginnings, self._tokenizer, typed, lambda ways: self._reader.ahead(ways) if ways[0] else [log_probs])[:most]
        return [way._replace(ids=[self._tokenizer.eos_token_id, *ids, *way.ids]) for way in ways]

    def _nearest(self, text, most):
        ids = self._tokenizer.encode(text[-most * 16 :])
        return text if len(ids) <= most and len(text) <= most * 16 else self._tokenizer.decode(ids[-most:])

    def _first(self, text, most):
        ids = self._tokenizer.encode(text[: most * 16])
        return text if len(ids) <= most and len(text) <= most * 16 else self._tokenizer.decode(ids[:most])


def _with_spaces(asked: Iterable[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[bool]]:
    """Return pairs as segments are in training, without tabs, and which of them are indented by tabs."""
    asked = list(asked)
    tabbed = [any(line.startswith("\t") for part in pair for line in part.split("\n")) for pair in asked]
    return [tuple(part.expandtabs(TAB) for part in pair) for pair in asked], tabbed


def _with_tabs(asked, tabbed, lines: Sequence[Completion]) -> list[Completion]:
    """Return completions with tabs for their indentation where that of the pair is by tabs."""
    found = []
    for (before, _), by_tabs, line in zip(asked, tabbed, lines):
        rest = line.text.lstrip(" ")
        spaces = len(line.text) - len(rest)
        if by_tabs and not before.rpartition("\n")[2].strip():
            line = line._replace(text="\t" * (spaces // TAB) + " " * (spaces % TAB) + rest)
        found.append(line)
    return found


def _filling(before: str, lines: Sequence[Completion]) -> Sequence[Completion]:
    """Return the lines that hold something, where there are any and nothing stands in the line yet: an empty one is always likely, and fills no gap."""
    if before.rpartition("\n")[2].strip():
        return lines
    return [line for line in lines if line.text.strip()] or lines


def segments(source: str) -> Iterator[str]:
    """Yield the segments of a source file, dedented, in their order: its functions and methods, and what stands between them.

    >>> list(segments("import os\\n\\n\\ndef one():\\n    a = 1\\n    return a\\n"))
    ['import os', 'def one():\\n    a = 1\\n    return a']
    """
    lines = source.expandtabs(TAB).split("\n")
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
        tree = ast.parse(source.expandtabs(TAB))
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
            fields.leave_out("segments of code that are too short to have a line asked for")
            continue
        number = draw.choice(asked)
        before, after = ("".join(f"{line}\n" for line in part) for part in (lines[:number], lines[number + 1 :]))
        text = _with_gap(draw, before, lines[number], after) if draw.random() < config.code.gaps else segment
        made.append({"text": text, "before": before, "line": lines[number], "after": after, "parses": parses(segment)})
    return made


def _with_gap(draw, before, line, after):
    """Return a segment with a gap in it, which begins at a line's beginning or within it."""
    start = draw.choice((0, draw.randrange(len(line))))
    return f"{PREFIX}{before}{line[:start]}{SUFFIX}{after}{MIDDLE}{line[start:]}"


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
    for batch in batches(records, batch_size):
        next_lines, infilled = completer.complete_both([(record["before"], record["after"]) for record in batch], batch_size)
        answers += [{"text": line.text, "infilled": filled.text} for line, filled in zip(next_lines, infilled)]
        advance(len(batch))
    return answers


def _metrics(records: Sequence[dict], answers: Sequence[dict]) -> dict[str, Metric]:
    found = {}
    for prefix, key in (("", "text"), ("infilled_", "infilled")):
        if key in answers[0]:
            written, right = [answer[key] for answer in answers], [record["line"] for record in records]
            whole = [record["before"] + line + "\n" + record["after"] for record, line in zip(records, written)]
            # most code parses with nothing written too, and that completes nothing
            good = [float(record["parses"] and bool(line.strip()) and parses(text)) for record, line, text in zip(records, written, whole)]
            found |= {f"{prefix}exact_match": exact_match(written, right, str.rstrip), f"{prefix}edit_similarity": edit_similarity(written, right),
                      f"{prefix}parses": ratio(good, [float(record["parses"]) for record in records])}
    return found


def _baselines(text_model: TextModel, train: Sequence[dict], held_out: Sequence[dict], config: TaskConfig) -> dict[str, list[dict]]:
    tokenizer, beginnings = text_model.python_tokenizer, Beginnings(text_model.tokenizer.texts.numpy().tolist())
    plain = (record["before"] + record["line"] + "\n" + record["after"] for record in train)
    ngram = NgramModel([tokenizer.encode(text) for text in plain], NGRAM_ORDER, len(tokenizer), tokenizer.eos_token_id)
    lines = [_likeliest_line(ngram, tokenizer, beginnings, record["before"]) for record in held_out]
    return {f"{NGRAM_ORDER}-gram": [{"text": line, "infilled": line} for line in lines]}


def _likeliest_line(ngram, tokenizer, beginnings, before):
    """Return the line that always taking the likeliest token gives, begun as the model's is."""
    history, typed = parted(before, tokenizer)
    begun = _begun(beginnings, tokenizer, typed, lambda ways: [np.log(ngram.next_token([*history, *ids])) for ids in ways])[0]
    written = []
    for _ in range(LINE_TOKENS):
        token = int(np.argmax(ngram.next_token([*history, *begun.ids, *written])))
        if token == tokenizer.eos_token_id:
            break
        written.append(token)
        if "\n" in tokenizer.decode(written):
            break
    return (begun.text + tokenizer.decode(written)).split("\n")[0].rstrip()


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
