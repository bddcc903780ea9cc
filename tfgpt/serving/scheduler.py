"""Many callers' texts written in one batch, which a row joins and leaves between tokens, so that none waits for another's end.

Source: Yu et al. 2022, "Orca: A Distributed Serving System for Transformer-Based Generative Models" (iteration-level scheduling).
"""
from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import tensorflow as tf

from tfgpt.generation.constraints import NO_TOKEN
from tfgpt.generation.controls import CONTROLS
from tfgpt.generation.stops import sure_text
from tfgpt.serving.errors import CancelledError, DeadlineError, ResourceExhaustedError, ServingError, UnavailableError
from tfgpt.serving.presence import Presence

CHUNK_SECONDS = 0.025
"""About how long the engine writes before it looks who comes and goes: less costs speed, more makes newcomers wait."""
MOST_ROUNDS = 16
"""The most tokens of a row between two looks."""


@dataclass(frozen=True)
class Prompt:
    """What one row is to continue, and how."""

    text: bytes
    controls: dict[str, float] = field(default_factory=dict)
    """Some of `tfgpt.generation.controls.CONTROLS`, within their ranges; the others are neutral."""
    stop: tuple[bytes, ...] = ()
    banned_tokens: tuple[int, ...] = ()
    forced_tokens: tuple[int, ...] = ()
    top: int | None = None
    """How many of the likeliest tokens are told at each place; `None` = no tokens are told at all."""


@dataclass
class Writing:
    """What is written of a row so far."""

    text: str = ""
    """What stays as it is whatever follows: whole characters, and nothing that a stop string may begin with; at the end all of it."""
    prompt_tokens: int = 0
    """Tokens of the prompt that were read."""
    token_count: int = 0
    log_prob: float = 0.0
    """Sum, nats."""
    finish_reason: str | None = None
    """stop or length; `None` = it goes on."""
    ids: list[int] = field(default_factory=list)
    """As the two that follow, only if the prompt asked for tokens."""
    token_log_probs: list[float] = field(default_factory=list)
    tops: list[list[tuple[int, float]]] = field(default_factory=list)
    """At each place the likeliest tokens with their log-probabilities, the likeliest first."""


    def copy(self) -> Writing:
        """Return what is written now, which stays as it is."""
        return replace(self, ids=list(self.ids), token_log_probs=list(self.token_log_probs), tops=list(self.tops))


class Ticket:
    """A request on its way.

    Args:
        prompts: its rows.
        deadline: of `time.monotonic()`; `None` = any time.
        notify: called after each change, by the engine's thread; it must not wait for anything.
    """

    def __init__(self, prompts: Sequence[Prompt], deadline: float | None, notify: Callable[[], None]):
        self.prompts, self.deadline, self.notify = prompts, deadline, notify
        self.rows = [Writing() for _ in prompts]
        self.begun = 0
        """Rows that have left the queue."""
        self.error: Exception | None = None
        self.presence = Presence()
        """Of whoever waits for it."""
        self._ended = threading.Event()

    @property
    def ended(self) -> bool:
        """Whether nothing changes any more."""
        return self._ended.is_set()

    def cancel(self) -> None:
        """Give the request up; its rows leave the batch at the next token."""
        self.presence.leave()

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.presence.left or (self.deadline is not None and time.monotonic() > self.deadline)

    @property
    def reason(self) -> Exception:
        """Why it ended before its texts were written."""
        if self.presence.left:
            return CancelledError("The request was given up")
        return DeadlineError("The request's time was over before its texts were written")

    def result(self) -> list[Writing]:
        """Wait for the end and return the rows.

        Raises:
            DeadlineError: the time was over before.
            CancelledError: it was given up, or the model was unloaded before.
            ServingError: the engine could not do it.
        """
        self._ended.wait()
        if self.error is not None:
            raise self.error
        return self.rows

    def end(self, error: Exception | None = None) -> None:
        """Tell whoever waits that this is all, the first time; for the engine."""
        if self.ended:
            return
        self.error = error
        self._ended.set()
        self.notify()


@dataclass(frozen=True)
class _Running:
    ticket: Ticket
    number: int

    @property
    def prompt(self):
        return self.ticket.prompts[self.number]

    @property
    def writing(self):
        return self.ticket.rows[self.number]


class Scheduler:
    """The batch of one model, and the thread that writes it on.

    Rows are taken in turns from all requests that wait, so one of many rows does not keep others waiting.

    Args:
        stepper: of a loaded version (see `tfgpt.serving.pieces.SavedStepper`).
        max_rows: rows that are written side by side; each has a key/value cache of its own.
        max_waiting: rows that may wait before a request is refused.
        name: of the thread.
    """

    def __init__(self, stepper, max_rows: int = 16, max_waiting: int = 256, name: str = "model"):
        self._stepper, self.max_rows, self.max_waiting = stepper, max_rows, max_waiting
        self._changed = threading.Condition()
        self._queue: deque[Ticket] = deque()
        self._waiting = 0
        self._running: list[_Running] = []
        self._entering: list[_Running] = []
        self._rows = None
        self._closing = self._deferred = False
        self._row_seconds = 1.0
        self._step_seconds: dict[int, float] = {}
        """Of a token of every row, by how many binary digits the number of rows has: 16 rows take twice as long as one."""
        self._thread = threading.Thread(target=self._run, name=f"scheduler-{name}", daemon=True)
        self._thread.start()

    def submit(self, prompts: Sequence[Prompt], deadline: float | None = None, notify: Callable[[], None] = lambda: None) -> Ticket:
        """Hand in a request; see `Ticket` for the arguments.

        Raises:
            ResourceExhaustedError: too many rows wait.
            UnavailableError: after `close`.
        """
        ticket = Ticket(prompts, deadline, notify)
        with self._changed:
            if self._closing:
                raise UnavailableError("The model is being unloaded; ask again")
            if self._waiting and self._waiting + len(prompts) > self.max_waiting:
                seconds = max(1, round(self._row_seconds * self._waiting / self.max_rows))
                raise ResourceExhaustedError(f"{self._waiting} texts wait already, and {self.max_waiting} may; ask again in {seconds} s", seconds)
            if not prompts:
                ticket.end()
                return ticket
            self._queue.append(ticket)
            self._waiting += len(prompts)
            self._changed.notify()
        return ticket

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return self._waiting

    @property
    def running(self) -> int:
        """Rows in the batch, or on their way into it."""
        return len(self._running) + len(self._entering)

    def close(self, seconds: float = 30.0) -> None:
        """Take no more requests, and wait so long for the end of those that are there; what is left then ends with a `CancelledError`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)
        if self._thread.is_alive():
            with self._changed:
                for ticket in self._tickets():
                    ticket.cancel()
            self._thread.join()

    def _run(self):
        try:
            self._work()
        finally:  # were it to end by a fault of ours, nobody should wait for it for ever
            with self._changed:
                self._closing = True
                left = self._tickets()
            for ticket in left:
                ticket.end(UnavailableError("The engine of this model has ended"))

    def _work(self):
        while True:
            with self._changed:
                while not (self._queue or self._running or self._closing):
                    self._changed.wait()
                if self._closing and not (self._queue or self._running):
                    return
                over = {ticket for ticket in self._tickets() if ticket.is_over}
                self._unqueue(over)
                self._entering = self._next_rows()
            try:
                self._keep([row.ticket not in over for row in self._running])
                entered = len(self._entering)
                if entered:
                    self._enter()
                if self._running and not self._lets_in_more(entered):
                    self._write()
            except (tf.errors.OpError, ValueError, MemoryError) as error:  # such as too little memory: these requests fail, and the server lives
                logging.getLogger(__name__).exception("a batch of %d rows failed", len(self._running) + len(self._entering))
                with self._changed:
                    failed = {row.ticket for row in (*self._running, *self._entering)} - over
                    self._running, self._entering, self._rows = [], [], None
                    self._unqueue(failed)
                full = isinstance(error, (tf.errors.ResourceExhaustedError, MemoryError))
                for ticket in failed:
                    ticket.end(ResourceExhaustedError("There is too little memory for these texts") if full else ServingError("The engine failed"))
            finally:
                for ticket in over:  # which are in no list any more, so that nobody else would end them
                    ticket.end(ticket.reason)

    def _tickets(self):
        return {*self._queue, *(row.ticket for row in (*self._running, *self._entering))}

    def _unqueue(self, tickets):
        """Take requests out of the queue; what of them is in the batch stays there."""
        for ticket in [ticket for ticket in self._queue if ticket in tickets]:
            self._queue.remove(ticket)
            self._waiting -= len(ticket.prompts) - ticket.begun

    def _next_rows(self):
        """Return the rows that there is room for, one of each request in turn."""
        rows = []
        while self._queue and len(self._running) + len(rows) < self.max_rows:
            ticket = self._queue.popleft()
            rows.append(_Running(ticket, ticket.begun))
            ticket.begun += 1
            self._waiting -= 1
            if ticket.begun < len(ticket.prompts):
                self._queue.append(ticket)
        return rows

    def _enter(self):
        """Read the prompts of new rows, which gives each its first token, and put those that go on into the batch."""
        entered = self._stepper.begin(*_arguments([row.prompt for row in self._entering]))
        entered, told = self._stepper.advance(entered, np.int32(1))
        going = _note(self._entering, told)
        stays = [row for row, goes in zip(self._entering, going) if goes]
        if stays:
            if len(stays) < len(going):
                entered = self._stepper.keep(entered, _places(going), _most_told(stays))
            self._rows = self._stepper.join(self._rows, entered) if self._running else entered
        self._running, self._entering = [*self._running, *stays], []

    def _lets_in_more(self, entered):
        """Return whether those who came while others entered enter before anything is written, so that they do not wait for a chunk beside; once."""
        self._deferred = entered > 0 and not self._deferred and bool(self._queue) and len(self._running) < self.max_rows
        return self._deferred

    def _write(self):
        """Write all rows on for about `CHUNK_SECONDS`."""
        size = len(self._running).bit_length()
        step = self._step_seconds.get(size, CHUNK_SECONDS)
        rounds = int(np.clip(CHUNK_SECONDS / step, 1, MOST_ROUNDS))
        begin = time.monotonic()
        self._rows, told = self._stepper.advance(self._rows, np.int32(rounds))
        going = _note(self._running, told)
        step += 0.2 * ((time.monotonic() - begin) / rounds - step)
        self._step_seconds[size] = step
        ended = [row.writing.token_count for row, goes in zip(self._running, going) if not goes]
        for count in ended:
            self._row_seconds += 0.1 * (count * step - self._row_seconds)
        self._keep(going)

    def _keep(self, going):
        """Keep the rows that go on, bool [batch], alone."""
        stays = [row for row, goes in zip(self._running, going) if goes]
        if len(stays) == len(self._running):
            return
        self._rows = self._stepper.keep(self._rows, _places(going), _most_told(stays)) if stays else None
        self._running = stays


def _places(wanted):
    return np.flatnonzero(wanted).astype(np.int32)


def _most_told(rows):
    return np.int32(max(row.prompt.top or 0 for row in rows))


def _arguments(prompts):
    """Return what `Stepper.begin` takes."""
    controls = [np.array([prompt.controls.get(name, control.neutral) for prompt in prompts], control.kind) for name, control in CONTROLS.items()]
    constraints = [_table([prompt.stop for prompt in prompts], b"", object),
                   _table([prompt.banned_tokens for prompt in prompts], NO_TOKEN, np.int32),
                   _table([prompt.forced_tokens for prompt in prompts], NO_TOKEN, np.int32)]
    return np.array([prompt.text for prompt in prompts], object), controls, constraints, np.int32(max(prompt.top or 0 for prompt in prompts))


def _table(rows, filler, dtype):
    width = max(map(len, rows))
    return np.array([[*row, *[filler] * (width - len(row))] for row in rows], dtype).reshape(len(rows), width)


def _note(rows, told):
    """Put what the engine tells into the rows' writings and return which rows go on."""
    going, counts, reasons, sums, read = (told[name] for name in ("going", "token_count", "finish_reason", "log_prob", "prompt_tokens"))
    so_far, texts = told["bytes"], told["text"]
    wanting = any(row.prompt.top is not None for row in rows)
    tokens = {name: told[name] for name in ("ids", "token_log_probs", "top_ids", "top_log_probs")} if wanting else {}
    for number, row in enumerate(rows):
        writing, count = row.writing, int(counts[number])
        if (top := row.prompt.top) is not None:
            new = slice(writing.token_count, count)
            writing.ids += tokens["ids"][number, new].tolist()
            writing.token_log_probs += tokens["token_log_probs"][number, new].tolist()
            pairs = zip(tokens["top_ids"][number, new, :top].tolist(), tokens["top_log_probs"][number, new, :top].tolist())
            writing.tops += [list(zip(*pair)) for pair in pairs]
        writing.token_count, writing.log_prob, writing.prompt_tokens = count, float(sums[number]), int(read[number])
        if going[number]:
            writing.text = sure_text(so_far[number], [stop.decode("utf-8", "replace") for stop in row.prompt.stop])
        else:
            writing.text, writing.finish_reason = texts[number].decode("utf-8", "replace"), reasons[number].decode()
    for ticket in {row.ticket for row in rows}:
        if all(writing.finish_reason for writing in ticket.rows):
            ticket.end()
        else:
            ticket.notify()
    return going
