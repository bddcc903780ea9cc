"""Many callers' rows in one call: each gets what it gets alone, whatever becomes of the others, and nobody waits for company."""
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from tests.serving.limited import until
from tfgpt.serving.batched import BatchedModel
from tfgpt.serving.errors import CancelledError, DeadlineError, ResourceExhaustedError, UnavailableError
from tfgpt.serving.joining import Joiner, joinable_of
from tfgpt.serving.limits import Limits
from tfgpt.serving.presence import Presence
from tfgpt.serving.saved_model import LoadedModel, read_signatures

SECONDS = 20
MANY = 1000


class Graph:
    """Returns the length of each text, but only when a call may end; "bad" is refused."""

    def __init__(self):
        self.calls, self.may, self.seconds = [], threading.Semaphore(0), 0.0

    def __call__(self, signature, inputs):
        texts = inputs["text"].tolist()
        self.calls.append(texts)
        assert self.may.acquire(timeout=SECONDS)
        time.sleep(self.seconds)
        if b"bad" in texts:
            raise tf.errors.InvalidArgumentError(None, None, "bad")
        return {"length": np.array([len(text) for text in texts])}


@pytest.fixture
def graph():
    return Graph()


@pytest.fixture
def joiner(graph):
    """Joins up to four rows, and six may wait."""
    joiner = Joiner(graph, {"score", "embed"}, max_rows=4, max_waiting=6)
    yield joiner
    graph.may.release(MANY)
    joiner.close(SECONDS)
    assert (joiner.running, joiner.waiting) == (0, 0)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as pool:
        yield pool


def texts_of(*texts):
    return np.array([text.encode() for text in texts], object)


def ask(joiner, pool, *texts, signature="score", **options):
    """Ask in a thread; return when the rows run or wait."""
    before = joiner.running + joiner.waiting
    future = pool.submit(joiner.predict, signature, {"text": texts_of(*texts)}, **options)
    until(lambda: joiner.running + joiner.waiting == before + len(texts))
    return future


def lengths(future):
    return future.result(SECONDS)["length"].tolist()


def test_the_first_runs_at_once_and_those_who_come_meanwhile_run_together(joiner, graph, pool):
    first = ask(joiner, pool, "a")
    others = [ask(joiner, pool, *texts) for texts in (["bb", "ccc"], ["dddd"], ["eeeee"], ["ffffff"])]
    assert (joiner.running, joiner.waiting) == (1, 5)

    graph.may.release(MANY)

    assert [lengths(future) for future in (first, *others)] == [[1], [2, 3], [4], [5], [6]]
    assert graph.calls == [[b"a"], [b"bb", b"ccc", b"dddd", b"eeeee"], [b"ffffff"]]


def test_a_bad_request_fails_alone(joiner, graph, pool):
    futures = [ask(joiner, pool, text) for text in ("a", "bb", "bad", "cccc")]

    graph.may.release(MANY)

    assert [lengths(futures[number]) for number in (0, 1, 3)] == [[1], [2], [4]]
    with pytest.raises(tf.errors.InvalidArgumentError, match="bad"):
        futures[2].result(SECONDS)
    assert graph.calls[1] == [b"bb", b"bad", b"cccc"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="bad"):  # and neither does it stop what comes later
        joiner.predict("score", {"text": texts_of("bad")})
    assert joiner.predict("score", {"text": texts_of("good")})["length"].tolist() == [4]


def test_who_leaves_or_has_no_time_left_is_dropped_and_does_not_wait(joiner, graph, pool):
    first, gone, stays = ask(joiner, pool, "a"), Presence(), Presence()
    left, late = ask(joiner, pool, "left", presence=gone), pool.submit(joiner.predict, "score", {"text": texts_of("late")}, time.monotonic() + 0.01)
    gone.leave()

    with pytest.raises(CancelledError, match="given up"):
        left.result(SECONDS)
    with pytest.raises(DeadlineError, match="time was over"):
        late.result(SECONDS)
    assert joiner.waiting == 0
    kept = ask(joiner, pool, "kept", presence=stays)
    graph.may.release(MANY)
    assert (lengths(first), lengths(kept)) == ([1], [4])
    assert graph.calls == [[b"a"], [b"kept"]]


def test_who_leaves_a_call_that_runs_does_not_wait_for_its_end_and_spoils_it_for_nobody(joiner, graph, pool):
    first, gone = ask(joiner, pool, "a"), Presence()
    stays, left = ask(joiner, pool, "bb"), ask(joiner, pool, "left", presence=gone)
    graph.may.release()
    assert lengths(first) == [1]
    until(lambda: joiner.running == 2)

    gone.leave()

    with pytest.raises(CancelledError, match="given up"):
        left.result(SECONDS)
    assert not stays.done()
    graph.may.release()
    assert lengths(stays) == [2]


def test_more_than_may_wait_is_refused_with_the_time_to_come_again(joiner, graph, pool):
    futures = [ask(joiner, pool, "a"), ask(joiner, pool, "b", "c", "d"), ask(joiner, pool, "e", "f", "g")]

    with pytest.raises(ResourceExhaustedError, match="6 rows wait already, and 6 may") as refused:
        joiner.predict("score", {"text": texts_of("h")})

    assert refused.value.retry_after >= 1
    graph.may.release(MANY)
    assert [lengths(future) for future in futures] == [[1], [1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize(("signature", "texts"), [("embed", ["b"]), ("score", ["x" * 300]), ("score", list("bcdef")), ("other", ["b"])])
def test_what_is_of_another_kind_does_not_wait(joiner, graph, pool, signature, texts):
    """Another signature, a text of another length, more rows than may be joined, a signature that cannot be."""
    futures = [ask(joiner, pool, "a"), ask(joiner, pool, *texts, signature=signature)]

    assert joiner.waiting == 0 and joiner.running == 1 + len(texts)
    graph.may.release(MANY)
    assert lengths(futures[1]) == [len(text) for text in texts]


def test_rows_of_different_widths_are_not_joined(graph, pool):
    graph.may.release(MANY)
    sums = Joiner(lambda signature, inputs: {"sum": inputs["ids"].sum(axis=1)}, {"sum"})

    found = list(pool.map(lambda width: sums.predict("sum", {"ids": np.ones([2, width], np.int32)})["sum"].tolist(), [1, 2, 3] * 20))

    assert found == [[1, 1], [2, 2], [3, 3]] * 20


def test_closing_answers_what_is_there_and_takes_nothing_new(joiner, graph, pool):
    futures = [ask(joiner, pool, text) for text in ("a", "bb")]
    closing = pool.submit(joiner.close, SECONDS)
    graph.may.release(MANY)

    closing.result(SECONDS)

    assert [lengths(future) for future in futures] == [[1], [2]]
    with pytest.raises(UnavailableError, match="unloaded"):
        joiner.predict("score", {"text": texts_of("c")})


def test_closing_waits_no_longer_than_it_is_told(joiner, graph, pool):
    _, waiting = ask(joiner, pool, "a"), ask(joiner, pool, "bb")

    joiner.close(seconds=0.01)

    with pytest.raises(UnavailableError, match="unloaded"):
        waiting.result(SECONDS)
    graph.may.release()  # before the pool ends, which waits for its threads


def test_signatures_whose_outputs_depend_on_the_widest_row_are_not_joined(exported):
    assert joinable_of(read_signatures(exported)) == {"serving_default", "generate", "score", "embed", "detokenize"}  # and not tokenize


def test_of_many_callers_some_of_whom_leave_or_ask_badly_none_is_lost_and_none_answered_wrong(graph, pool):
    graph.seconds = 0.002  # so that others come meanwhile
    graph.may.release(MANY**2)
    joiner = Joiner(graph, {"score"}, max_rows=8, max_waiting=1000)

    def ask_many(seed):
        draw, told = random.Random(seed), 0
        for _ in range(60):
            texts = ["bad" if draw.random() < 0.05 else "x" * draw.randint(0, 400) for _ in range(draw.randint(1, 4))]
            presence, deadline = Presence(), time.monotonic() + draw.choice([0.001, SECONDS, SECONDS])
            if draw.random() < 0.2:
                threading.Timer(0.002 * draw.random(), presence.leave).start()
            try:
                assert joiner.predict("score", {"text": texts_of(*texts)}, deadline, presence)["length"].tolist() == [len(text) for text in texts]
                assert "bad" not in texts
            except tf.errors.InvalidArgumentError:
                assert "bad" in texts
            except (CancelledError, DeadlineError):
                pass
            told += 1
        return told

    assert list(pool.map(ask_many, range(16))) == [60] * 16
    assert max(map(len, graph.calls)) > 4, "nothing was joined"
    assert (joiner.running, joiner.waiting) == (0, 0)


def test_callers_of_an_exported_model_get_what_its_signatures_give(exported, prompts, pool, monkeypatch):
    served, alone, sizes = BatchedModel(exported, Limits(max_rows=8)), LoadedModel(exported), []
    call = served.joiner._call
    monkeypatch.setattr(served.joiner, "_call", lambda signature, inputs: (sizes.append(len(inputs["text"])), call(signature, inputs))[1])
    requests = [(signature, prompts[number : number + 1 + number % 3]) for number in range(18) for signature in ("score", "embed")]

    found = list(pool.map(lambda request: served.predict(request[0], {"text": np.array(request[1], object)}), requests))

    for (signature, texts), outputs in zip(requests, found):
        expected = alone.predict(signature, {"text": np.array(texts, object)})
        assert outputs.keys() == expected.keys()
        for name, value in expected.items():
            assert outputs[name].dtype == value.dtype and outputs[name].shape == value.shape
            np.testing.assert_allclose(outputs[name], value, rtol=1e-4, atol=1e-4)  # sums of 48 terms in another order, in fp32, of logits about 10
    assert len(sizes) < len(requests), "nothing was joined"
    served.close()
