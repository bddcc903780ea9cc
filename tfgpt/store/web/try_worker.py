"""The process of a model that is tried: reads a request a line of standard input, and writes its answer piece by piece, each a line of JSON."""
from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from pathlib import Path

ROUNDS = 4
"""Tokens between two pieces."""


def main(folder: Path) -> None:
    """Answer until the input ends."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:  # where there is such a file: rather this process than the pages
        score.write("1000")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to the log
    asked: queue.Queue[dict | None] = queue.Queue()
    stop = threading.Event()
    threading.Thread(target=_read, args=(asked, stop), daemon=True).start()
    text_model = None
    while (request := asked.get()) is not None:
        try:
            text_model = text_model or _load(folder)
            for message in _answers(text_model, request, stop):
                print(json.dumps(message), file=answers, flush=True)
        except (ValueError, RuntimeError, OSError) as error:
            print(json.dumps({"error": str(error)}), file=answers, flush=True)


def _load(folder):
    from tfgpt.cli_support import import_tensorflow_quietly

    import_tensorflow_quietly()
    from tfgpt.generation.loading import load_text_model

    return load_text_model(str(folder))


def _answers(text_model, request, stop):
    """Yield pieces and the end of an answer; a model that judges texts gives its scores."""
    stop.clear()  # it may have come when the last answer was done already
    prompt, judges = request.pop("prompt"), request.pop("judges")
    if judges:
        labels = text_model.model.adaptation.head.labels if text_model.model.head is not None else ()
        yield {"done": {"scores": dict(zip(labels, map(float, text_model.classify([prompt])[0].scores)))}}
        return
    stream = text_model.stream(prompt, rounds=ROUNDS, **request)
    while not stop.is_set():
        try:
            yield {"piece": next(stream)}
        except StopIteration as ended:
            yield {"done": {"token_count": ended.value.token_count, "finish_reason": ended.value.finish_reason}}
            return
    yield {"done": {}}


def _read(asked, stop):
    for line in sys.stdin:
        message = json.loads(line)
        if "prompt" not in message:  # the server asks for an end
            stop.set()
        else:
            asked.put(message)
    asked.put(None)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
