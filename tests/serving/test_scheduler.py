"""Many callers in one batch: each gets the text that it gets alone; those who leave, come late or ask too much harm nobody."""
import threading
import time

import numpy as np
import pytest

from tests.serving.limited import Engine
from tfgpt.serving.batched import BatchedModel, Limits
from tfgpt.serving.errors import BadRequestError, CancelledError, DeadlineError, ResourceExhaustedError, UnavailableError
from tfgpt.serving.scheduler import Prompt, Scheduler


@pytest.fixture(scope="module")
def served(exported):
    """The exported model as a server has it."""
    served = BatchedModel(exported, Limits(max_rows=5, max_batch=8, max_prompt_bytes=2000, max_new_tokens=40))
    yield served
    served.close()


@pytest.fixture
def scheduler(served):
    """Room for two rows in the batch and six in the queue."""
    scheduler = Scheduler(Engine(served.stepper), max_rows=2, max_waiting=6)
    yield scheduler
    scheduler.close(seconds=0)


def long_prompt(text=b"The", tokens=40):
    return Prompt(text, {"max_new_tokens": tokens, "min_new_tokens": tokens})


def asks(prompts):
    """A request each, all unlike."""
    return [{"prompt": [prompt], "max_new_tokens": [3 + 3 * number], "seed": [number], "temperature": [number % 3 * 0.5],
             "repetition_penalty": [1.0 + number % 2], "stop": [["e"]] if number % 4 == 1 else [["", ""]]} for number, prompt in enumerate(prompts[:12])]


def as_arrays(request):
    kinds = {"prompt": object, "stop": object, "temperature": np.float32, "repetition_penalty": np.float32, "seed": np.int64}
    return {name: np.array(value, kinds.get(name, np.int32)) for name, value in request.items()}


def test_callers_who_come_at_different_times_get_what_the_signature_gives(served, prompts):
    requests, found = asks(prompts), {}

    def ask(number):
        time.sleep(0.02 * (number % 5))
        found[number] = served.predict("generate", as_arrays(requests[number]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for number, request in enumerate(requests):
        expected = super(BatchedModel, served).predict("generate", as_arrays(request))
        for name in ("text", "token_count", "finish_reason"):
            assert found[number][name].tolist() == expected[name].tolist(), (number, name)
            assert found[number][name].dtype == expected[name].dtype
        np.testing.assert_allclose(found[number]["log_prob"], expected["log_prob"], rtol=1e-4, atol=1e-4)


def test_one_number_or_list_holds_for_all_rows_of_a_request(served):
    inputs = {"prompt": np.array(["a", "b", "c"], object), "max_new_tokens": np.array([4], np.int32), "stop": np.array([["zz"]], object)}

    assert served.predict("generate", inputs)["token_count"].tolist() == [4, 4, 4]


def test_a_free_place_among_forced_tokens_stays_where_it_is(served):
    inputs = {"prompt": np.array(["a", "b"], object), "max_new_tokens": np.array([4], np.int32),
              "forced_tokens": np.array([[-1, 50, -1, -1], [51, -1, 52, -1]], np.int32)}  # fmt: skip

    found, expected = served.predict("generate", inputs), super(BatchedModel, served).predict("generate", inputs)

    assert found["text"].tolist() == expected["text"].tolist()


def test_tokens_are_told_to_those_who_ask_and_pieces_grow_into_the_text(served, text_model):
    pieces, tickets = [], []
    tickets.append(served.submit([Prompt(b"It was", {"max_new_tokens": 9}, top=2)], notify=lambda: pieces.extend(one.rows[0].text for one in tickets)))
    tickets.append(served.submit([Prompt(b"The", {"max_new_tokens": 9})]))
    row, quiet = (ticket.result()[0] for ticket in tickets)

    expected = text_model.generate(["It was"], 9, top_log_probs=2)[0]
    assert row.text == expected.text and row.ids == [token.id for token in expected.tokens]
    np.testing.assert_allclose(row.token_log_probs, [token.log_prob for token in expected.tokens], atol=1e-4)
    assert [[token for token, _ in top] for top in row.tops] == [[token for token, _ in token.top] for token in expected.tokens]
    assert quiet.ids == quiet.tops == []
    assert all(row.text.startswith(piece) or quiet.text.startswith(piece) for piece in pieces)


def test_a_request_of_many_rows_does_not_keep_a_late_one_waiting(scheduler):
    many = scheduler.submit([long_prompt() for _ in range(4)])
    late = scheduler.submit([long_prompt(b"late", tokens=5)])

    late.result()

    assert not many.ended
    assert sum(row.finish_reason is not None for row in many.rows) < len(many.rows)


def test_more_than_may_wait_is_refused_with_the_time_to_come_again(scheduler):
    tickets = [scheduler.submit([long_prompt()]) for _ in range(2)]
    while scheduler.running < 2:
        time.sleep(0.001)
    tickets.append(scheduler.submit([long_prompt() for _ in range(6)]))

    with pytest.raises(ResourceExhaustedError, match="6 may") as refused:
        scheduler.submit([long_prompt()])

    assert refused.value.retry_after >= 1
    assert all(row.token_count == 40 for ticket in tickets for row in ticket.result())
    assert scheduler.waiting == 0


def test_who_goes_away_leaves_the_batch_and_the_queue(scheduler):
    running, waiting, other = scheduler.submit([long_prompt()]), scheduler.submit([long_prompt() for _ in range(3)]), scheduler.submit([long_prompt()])
    running.cancel()
    waiting.cancel()

    for ticket in (running, waiting):
        with pytest.raises(CancelledError, match="given up"):
            ticket.result()
    assert other.result()[0].token_count == 40
    assert scheduler.waiting == 0


def test_a_request_whose_time_is_over_ends_with_that(scheduler):
    begin = time.monotonic()
    late = scheduler.submit([long_prompt() for _ in range(4)], deadline=begin + 0.001)

    with pytest.raises(DeadlineError, match="time was over"):
        late.result()
    assert scheduler.submit([long_prompt()]).result()[0].token_count == 40


def test_closing_answers_what_has_begun_and_takes_nothing_new(served):
    scheduler = Scheduler(served.stepper, max_rows=2)
    tickets = [scheduler.submit([long_prompt()]) for _ in range(3)]

    scheduler.close(seconds=60)

    assert all(ticket.ended and ticket.result()[0].token_count == 40 for ticket in tickets)
    with pytest.raises(UnavailableError, match="unloaded"):
        scheduler.submit([long_prompt()])


def test_a_batch_that_fails_fails_its_callers_and_not_the_next(served):
    scheduler = Scheduler(Engine(served.stepper, failures=1), max_rows=2)
    with pytest.raises(ResourceExhaustedError, match="too little memory"):
        scheduler.submit([long_prompt(), long_prompt(b"x"), long_prompt(b"y")]).result()
    assert scheduler.submit([long_prompt()]).result()[0].token_count == 40
    scheduler.close()
    assert (scheduler.waiting, scheduler.running) == (0, 0)


@pytest.mark.parametrize(("inputs", "message"), [
    ({"prompt": ["x"] * 9}, "9 rows; give at most 8"),
    ({"prompt": ["x" * 2001]}, "more than 2000 bytes"),
    ({"prompt": ["x"], "max_new_tokens": [41]}, "max_new_tokens: 41 .* at most 40"),
    ({"prompt": ["x"], "forced_tokens": [[10**9]]}, "forced_tokens: 1000000000 is no token"),
    ({"prompt": ["x"], "banned_tokens": [[-2]]}, "banned_tokens: -2 is no token"),
    ({"prompt": ["x", "y", "z"], "stop": [["a"], ["b"]]}, "2 lists for 3 prompts"),
    ({"prompt": ["x"], "temperature": [-1.0]}, "temperature: -1.0 is not between"),
])  # fmt: skip
def test_what_goes_beyond_the_limits_is_refused_with_the_reason(served, inputs, message):
    with pytest.raises((BadRequestError, ValueError), match=message):
        served.predict("generate", as_arrays(inputs))


class Told(Engine):
    """Tells what it is asked to do, and lets a text of one token come while others enter, so often."""

    def __init__(self, stepper, coming):
        super().__init__(stepper, seconds=0.0)
        self.told, self.coming, self.scheduler, self.begin = [], coming, None, self._begin

    def _begin(self, *arguments):
        self.told.append("begin")
        if self.coming:
            self.coming -= 1
            self.scheduler.submit([long_prompt(tokens=1)])
        return self._stepper.begin(*arguments)

    def advance(self, rows, rounds):
        self.told.append("advance")
        return super().advance(rows, rounds)


@pytest.mark.parametrize(("coming", "first"), [(1, ["begin", "advance"] * 2 + ["advance"] * 3), (12, (["begin", "advance"] * 2 + ["advance"]) * 3)])
def test_who_comes_while_others_enter_enters_next_but_keeps_nobody_from_writing(served, coming, first):
    engine = Told(served.stepper, coming)
    engine.scheduler = Scheduler(engine, max_rows=4)

    [row] = engine.scheduler.submit([long_prompt(tokens=40)]).result()
    engine.scheduler.close()

    assert engine.told[: len(first)] == first
    assert row.token_count == 40 and engine.told.count("begin") == coming + 1
