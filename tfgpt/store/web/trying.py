"""Models that are tried in the store: each in a process of its own, which is ended when it takes too long or another model is wanted.

A process apart, since TensorFlow never frees what it has traced, and so that a model that takes all memory takes no page with it.
"""
from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tfgpt.store.errors import StoreError
from tfgpt.store.web.guard import TooManyRequests
from tfgpt.store.web.metrics import StoreMetrics
from tfgpt.store.web.settings import WebSettings

WAIT_SECONDS = 20.0
"""How long a try may wait for another of the same model, or for a process to be free."""

MOST_WAITING = 8


class Trier:
    """Has models write.

    Args:
        settings: how many at once, how much and how long.
        metrics: which count.
    """

    def __init__(self, settings: WebSettings, metrics: StoreMetrics):
        self._settings, self._metrics = settings, metrics
        self._free = threading.Condition()
        self._workers: dict[str, _Worker] = {}
        self._folders: dict[str, Path] = {}
        self._waiting = 0

    def check(self, prompt: str, max_new_tokens: int) -> None:
        """Refuse what is not tried.

        Raises:
            StoreError: models cannot be tried here, or it is too much.
        """
        settings, size = self._settings, len(prompt.encode("utf-8", "replace"))
        if not settings.try_models:
            raise StoreError("try: models cannot be tried in this store; pull one, or ask for the store to be started with --try-models")
        if size > settings.try_prompt_bytes:
            raise StoreError(f"prompt: {size:,} bytes; give {settings.try_prompt_bytes:,} at most")
        if max_new_tokens > settings.try_tokens:
            raise StoreError(f"max_new_tokens: {max_new_tokens}; give 1 to {settings.try_tokens}")

    def write(self, name: str, place: Callable[[], Path], asked: dict) -> Iterator[dict]:
        """Have a model answer.

        Args:
            name: of the version, which never changes.
            place: returns the folder of the model and its tokenizer, pulled and compared; called when it is first asked.
            asked: `prompt`, `judges` (whether the model has a head to be asked instead), and if wanted `max_new_tokens` and controls of `TextModel.generate`.

        Yields:
            Dicts with `piece`, a part of the text; at the end one with `done`: `token_count`, `finish_reason`. A model with a head gives `done` alone, with
            `scores`. Or one with `error`, which is the last.

        Raises:
            TooManyRequests: all processes are busy.
        """
        outcome = "left"
        with self._worker(name, place) as worker:
            try:
                for message in worker.ask(asked, time.monotonic() + self._settings.try_seconds):
                    if {"done", "error"} & message.keys():
                        outcome = "failed" if "error" in message else "done"
                    yield message
            finally:
                self._metrics.tries.labels(outcome).inc()

    def close(self) -> None:
        """End all processes."""
        with self._free:
            for worker in self._workers.values():
                worker.end()
            self._workers.clear()

    @contextlib.contextmanager
    def _worker(self, name, place):
        """Give the process of a model, to be used alone; another model's that has been idle longest makes place for a new one."""
        with self._waits():
            folder = self._folders.get(name) or place()  # which takes long where the files are large, and is not to hold up the others
            with self._free:
                self._folders[name] = folder
                if not self._free.wait_for(lambda: self._take(name, folder), WAIT_SECONDS):
                    raise TooManyRequests("people try models now", int(WAIT_SECONDS))
                worker = self._workers[name]
        try:
            yield worker
        finally:
            with self._free:
                worker.busy, worker.used = False, time.monotonic()
                if not worker.is_alive:
                    self._drop(name)
                    self._folders.pop(name, None)  # its files may be the reason: they are compared anew
                self._free.notify_all()

    @contextlib.contextmanager
    def _waits(self):
        """Refuse one too many of those who wait for a model to be pulled or free: each takes a thread, of which the pages need some too."""
        with self._free:
            if self._waiting >= MOST_WAITING:
                raise TooManyRequests("people try models now", int(WAIT_SECONDS))
            self._waiting += 1
        try:
            yield
        finally:
            with self._free:
                self._waiting -= 1

    def _take(self, name, folder):
        """Take the model's process, or start it, if that can be now."""
        there = self._workers.get(name)
        if there is not None and not there.busy and not there.is_alive:
            self._drop(name)
            there = None
        if there is None:
            idle = [other for other, worker in self._workers.items() if not worker.busy]
            if len(self._workers) >= self._settings.try_models:
                if not idle:
                    return False
                self._drop(min(idle, key=lambda other: self._workers[other].used))
            self._workers[name] = there = _Worker(folder)
            self._metrics.trying.set(len(self._workers))
        elif there.busy:
            return False
        there.busy = True
        return True

    def _drop(self, name):
        self._workers.pop(name).end()
        self._metrics.trying.set(len(self._workers))


class _Worker:
    """A process with a model, asked by lines of JSON."""

    def __init__(self, folder):
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        self._process = subprocess.Popen([sys.executable, "-m", "tfgpt.store.web.try_worker", str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         text=True, encoding="utf-8", env=environment)  # fmt: skip
        self.busy, self.used = False, time.monotonic()
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, name="tfgpt-try", daemon=True).start()

    @property
    def is_alive(self):
        return self._process.poll() is None

    def ask(self, asked, deadline):
        """Yield what the model answers until it is done; who leaves before that stops it."""
        done = False
        try:
            self._send(asked)
            while not done:
                message = self._next(deadline)
                done = bool({"done", "error"} & message.keys())
                yield message
        except TimeoutError:
            self.end()
            done = True
            yield {"error": "The model took too long and was stopped; ask for fewer tokens"}
        except (EOFError, BrokenPipeError):
            self.end()
            done = True
            yield {"error": "The model's process has ended: it may need more memory than there is; the server's log has what it said"}
        finally:
            if not done:
                self._stop()

    def end(self):
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()

    def _stop(self):
        """Have the model stop writing, and read what is left of its answer."""
        try:
            self._send({"stop": True})
            deadline = time.monotonic() + WAIT_SECONDS
            while not {"done", "error"} & self._next(deadline).keys():
                pass
        except (TimeoutError, EOFError, OSError):
            self.end()

    def _send(self, message):
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _next(self, deadline):
        try:
            line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
        except queue.Empty as error:
            raise TimeoutError from error
        if line is None:
            raise EOFError
        return json.loads(line)

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)
