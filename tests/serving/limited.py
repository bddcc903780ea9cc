"""A server's limits, its engine made slow, and patience: what tests of the server share beside its fixtures."""
import time

import numpy as np
import tensorflow as tf

from tfgpt.serving.limits import Limits

LIMITS = Limits(max_rows=4, max_batch=6, max_prompt_bytes=500, max_new_tokens=12, request_seconds=20.0, max_body_bytes=20_000, max_json_depth=16)


class Engine:
    """The exported engine, but so slow that what happens between tokens can be seen; it fails once when it is told to."""

    def __init__(self, stepper, seconds=0.01, failures=0):
        self._stepper, self._seconds, self._failures = stepper, seconds, failures
        self.begin, self.join, self.keep = stepper.begin, stepper.join, stepper.keep

    def advance(self, rows, rounds):
        if self._failures:
            self._failures -= 1
            raise tf.errors.ResourceExhaustedError(None, None, "no memory for 2 rows")
        time.sleep(self._seconds)
        return self._stepper.advance(rows, np.int32(1))


def until(holds, seconds=20.0):
    """Wait until something holds."""
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.001)
