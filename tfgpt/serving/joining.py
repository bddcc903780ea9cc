"""Calls of a signature by several callers joined into one: a graph reads sixteen texts sooner together than one after another.

Nobody waits for company. A call that finds none of its kind running runs at once; those who come meanwhile make the next one together, and the first of
them runs it in its own thread. Needs nothing of the model but a function to call.
"""
from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from tfgpt.serving.errors import CancelledError, DeadlineError, ResourceExhaustedError, ServingError, UnavailableError
from tfgpt.serving.presence import Presence

SHORT_BYTES = 255
"""Texts up to here count as of one length."""
LOG = logging.getLogger(__name__)
Arrays = dict[str, np.ndarray]
REFUSALS = (tf.errors.OpError, ValueError, TypeError, KeyError, MemoryError)


@dataclass(eq=False)
class _Call:
    """One caller's inputs, and what becomes of them. What changes in it is changed with the joiner's lock held."""

    inputs: Arrays
    rows: int
    deadline: float
    presence: Presence
    batch: list[_Call] | None = None
    """The calls that this one's thread is to run, itself among them."""
    outputs: Arrays | None = None
    by_itself: bool = False
    """Whether the joined call failed, so that this one's thread is to run it alone."""
    woken: threading.Event = field(default_factory=threading.Event)

    @property
    def is_settled(self) -> bool:
        return self.batch is not None or self.outputs is not None or self.by_itself

    def reason_to_end(self) -> ServingError | None:
        """Return why nobody waits for it any more; `None` = somebody does."""
        if self.presence.left:
            return CancelledError("The request was given up")
        if time.monotonic() > self.deadline:
            return DeadlineError("The request's time was over before its turn came")
        return None


class Joiner:
    """Runs a model's signatures for many threads at once. Thread-safe.

    What is joined has one signature, inputs of one shape but for the batch, and texts of about one length (up to `SHORT_BYTES`, or within a factor
    of two): a batch is padded to its longest text, which would make a short text pay for a stranger's long one. Kinds run beside each other, so that
    neither waits for the other.

    Args:
        call: returns the outputs of a signature, given its name and all of its inputs.
        joinable: the signatures that may be joined (see `joinable_of`); others run at once, each by itself.
        max_rows: rows of a joined call; a request of more runs by itself.
        max_waiting: rows that may wait before a request is refused.
    """

    def __init__(self, call: Callable[[str, Arrays], Arrays], joinable: Collection[str], max_rows: int = 16, max_waiting: int = 256):
        self._call, self._joinable = call, frozenset(joinable)
        self._max_rows, self._max_waiting = max_rows, max_waiting
        self._changed = threading.Condition()
        self._queues: dict[tuple, deque[_Call]] = {}
        """Who waits, by kind. A kind is here for as long as one of its calls runs."""
        self._waiting = self._running = 0
        self._closing = False
        self._row_seconds = 0.01

    @property
    def waiting(self) -> int:
        """Rows that wait."""
        return self._waiting

    @property
    def running(self) -> int:
        """Rows in calls that run."""
        return self._running

    def predict(self, signature: str, inputs: Arrays, deadline: float = float("inf"), presence: Presence | None = None) -> Arrays:
        """Return the outputs of a signature, of this caller's rows alone.

        Args:
            signature: its name.
            inputs: all of them, by name.
            deadline: of `time.monotonic()`; what has begun is not ended by it.
            presence: of whoever waits for it.

        Raises:
            ResourceExhaustedError: too many rows wait.
            DeadlineError: the time was over before.
            CancelledError: whoever waited for it has left.
            UnavailableError: after `close`.
            tf.errors.OpError: the graph refuses the values; those of others are nobody's concern.
        """
        kind, rows = self._kind_of(signature, inputs)
        mine = _Call(inputs, rows, deadline, presence or Presence())
        with self._changed:
            if self._closing:
                raise UnavailableError("The model is being unloaded; ask again")
            if kind is None:
                mine.by_itself = True
            elif kind not in self._queues:
                self._queues[kind], mine.batch = deque(), [mine]
            else:
                self._enqueue(kind, mine)
        self._wait(kind, mine)
        if mine.batch is not None:
            self._lead(signature, kind, mine.batch)
        return self._counted(rows, signature, inputs) if mine.by_itself else mine.outputs

    def close(self, seconds: float = 30.0) -> None:
        """Take no more calls, and wait so long for those that are there; who waits then ends with an `UnavailableError`."""
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: not (self._queues or self._running), seconds)
            for call in [call for queue in self._queues.values() for call in queue]:
                call.woken.set()

    def _kind_of(self, signature, inputs):
        """Return what calls must have in common to be joined, `None` if this one cannot be, and its rows."""
        sizes = {array.shape[0] if array.ndim else 1 for array in inputs.values()}
        rows = max(sizes, default=1)
        if signature not in self._joinable or len(sizes) != 1 or not 0 < rows <= self._max_rows:
            return None, rows
        longest = max((len(text) for array in inputs.values() if array.dtype == object for text in array.reshape(-1)), default=0)
        return (signature, *sorted((name, *array.shape[1:]) for name, array in inputs.items()), max(longest, SHORT_BYTES).bit_length()), rows

    def _enqueue(self, kind, call):
        if self._waiting and self._waiting + call.rows > self._max_waiting:
            seconds = max(1, round(self._row_seconds * self._waiting))
            raise ResourceExhaustedError(f"{self._waiting} rows wait already, and {self._max_waiting} may; ask again in {seconds} s", seconds)
        self._queues[kind].append(call)
        self._waiting += call.rows
        call.presence.on_leaving(call.woken.set)

    def _wait(self, kind, call):
        """Wait until a call is answered or is to be run by this thread.

        Raises:
            ServingError: nobody waits for the answer any more.
        """
        if call.is_settled:
            return
        call.woken.wait(min(call.deadline - time.monotonic(), threading.TIMEOUT_MAX))
        with self._changed:
            if call.is_settled:
                return
            if call in self._queues.get(kind, ()):  # else it runs with others, who go on without it
                self._queues[kind].remove(call)
                self._waiting -= call.rows
        raise call.reason_to_end() or UnavailableError("The model is being unloaded; ask again")

    def _lead(self, signature, kind, batch):
        """Run some calls, and let those that came meanwhile go on."""
        try:
            if len(batch) == 1:
                batch[0].outputs = self._counted(batch[0].rows, signature, batch[0].inputs)
            else:
                self._run_joined(signature, batch)
        finally:
            with self._changed:
                self._hand_over(kind)

    def _run_joined(self, signature, batch):
        outputs = None
        try:
            inputs = {name: np.concatenate([call.inputs[name] for call in batch]) for name in batch[0].inputs}
            outputs = self._counted(sum(call.rows for call in batch), signature, inputs)
        except REFUSALS as error:  # whoever's fault it is: each runs by itself, in its own thread, and gets its own answer or error
            LOG.debug("%s for %d requests failed (%s); they run one by one", signature, len(batch), type(error).__name__)
        finally:
            self._share_out(batch, outputs)

    def _share_out(self, batch, outputs):
        """Give each call its rows of the outputs; without any it is to run by itself."""
        first = 0
        with self._changed:
            for call in batch:
                if outputs is None:
                    call.by_itself = True
                else:
                    call.outputs = {name: array[first : first + call.rows] for name, array in outputs.items()}
                first += call.rows
                call.woken.set()

    def _hand_over(self, kind):
        """Give the oldest calls that wait, as many as may be joined, to the thread of the first of them; without any the kind is idle."""
        queue, batch, rows = self._queues[kind], [], 0
        while queue and rows + queue[0].rows <= self._max_rows:
            call = queue.popleft()
            self._waiting -= call.rows
            if call.reason_to_end() is None:
                batch.append(call)
                rows += call.rows
            else:
                call.woken.set()
        if batch:
            batch[0].batch = batch
            batch[0].woken.set()
        else:
            del self._queues[kind]
            self._changed.notify_all()

    def _counted(self, rows, signature, inputs):
        """Call the signature; its rows are told as running meanwhile."""
        begin = time.monotonic()
        with self._changed:
            self._running += rows
        try:
            return self._call(signature, inputs)
        finally:
            with self._changed:
                self._running -= rows
                self._row_seconds += 0.1 * ((time.monotonic() - begin) / max(rows, 1) - self._row_seconds)
                self._changed.notify_all()


def joinable_of(signatures: Mapping[str, meta_graph_pb2.SignatureDef]) -> set[str]:
    """Return the signatures whose calls can be joined along the batch and taken apart again with the same outputs.

    All inputs and outputs have a first dimension of unknown size, which is the batch. No other dimension of an output may be unknown: it would be as wide
    as the widest row of the batch makes it, such as the padded ids of `tokenize`, so that a caller's answer would depend on strangers. Of inputs it may: only
    calls of one width are joined.
    """
    return {
        name
        for name, signature in signatures.items()
        if all(_is_batched(info) for info in (*signature.inputs.values(), *signature.outputs.values()))
        and all(dim.size >= 0 for info in signature.outputs.values() for dim in info.tensor_shape.dim[1:])
    }


def _is_batched(info):
    dims = info.tensor_shape.dim
    return not info.tensor_shape.unknown_rank and len(dims) > 0 and dims[0].size < 0
