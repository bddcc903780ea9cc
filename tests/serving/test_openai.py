"""OpenAI's protocol, asked over a socket by OpenAI's own Python client and by plain HTTP."""
import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import openai
import pytest

from tests.serving.served import serving
from tfgpt.serving.client import Client, ServerError
from tfgpt.serving.openai_routes import _Stream
from tfgpt.serving.scheduler import Prompt, Ticket
from tfgpt.text.chat import chat_prompt

TURNS = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "What is a tuple?"}]


@pytest.fixture(scope="module")
def url(exported):
    with serving("--model", f"tiny={exported.parent}") as server:
        yield server.rest


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


def test_the_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny"]


@pytest.mark.parametrize("given", [
    {"temperature": 0},
    {"temperature": 0.9, "seed": 5, "top_p": 0.8, "presence_penalty": 0.5, "frequency_penalty": 0.3},
    {"temperature": 0, "stop": ["e", "the"]},
    {"temperature": 1, "seed": -3, "extra_body": {"top_k": 5, "repetition_penalty": 1.2, "no_repeat_ngram_size": 3}},
])  # fmt: skip
def test_a_completion_is_what_the_model_writes(client, text_model, tokenizer, prompts, given):
    """Several prompts of all kinds in one request; what is told of each is what `generate` gives."""
    fitting = [prompt for prompt in prompts if prompt][:6]
    answer = client.completions.create(model="tiny", prompt=fitting, max_tokens=9, **given)

    controls = {key: value for key, value in given.items() if key != "extra_body"} | given.get("extra_body", {})
    stop = controls.pop("stop", ())
    expected = text_model.generate(fitting, 9, stop=stop, **controls)
    assert [choice.text for choice in answer.choices] == [row.text for row in expected]
    assert [choice.finish_reason for choice in answer.choices] == [row.finish_reason for row in expected]
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert answer.usage.completion_tokens == sum(row.token_count for row in expected)
    read = [len(tokenizer(prompt, verbose=False).input_ids) for prompt in fitting]
    assert answer.usage.prompt_tokens <= sum(read) and answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    one = client.completions.create(model="tiny:3", prompt=fitting[0], max_tokens=9, **given)
    assert (one.choices[0].text, one.usage.prompt_tokens) == (expected[0].text, read[0])


def test_choices_of_a_prompt_differ_by_their_seeds_and_stand_together(client, text_model):
    answer = client.completions.create(model="tiny", prompt=["It was", "The"], n=3, seed=4, temperature=1.2, max_tokens=6)

    expected = text_model.generate(["It was", "The"], 6, samples=3, seed=4, temperature=1.2)
    assert [choice.text for choice in answer.choices] == [row.text for row in expected]
    assert len({choice.text for choice in answer.choices}) > 3


def test_a_prompt_may_be_tokens_and_may_be_echoed(client, tokenizer):
    ids = tokenizer("with open").input_ids
    texts = client.completions.create(model="tiny", prompt="with open", temperature=0, max_tokens=5, echo=True).choices[0].text

    assert texts == "with open" + client.completions.create(model="tiny", prompt="with open", temperature=0, max_tokens=5).choices[0].text
    assert client.completions.create(model="tiny", prompt=ids, temperature=0, max_tokens=5, echo=True).choices[0].text == texts
    assert client.completions.create(model="tiny", prompt=[ids], temperature=0, max_tokens=5).choices[0].text == texts[9:]


def test_tokens_are_read_as_they_are_or_refused(client, tokenizer, text_model):
    ids = [tokenizer.eos_token_id, *tokenizer("with open").input_ids, tokenizer.eos_token_id, *tokenizer("It was").input_ids]
    answer = client.completions.create(model="tiny", prompt=ids, temperature=0, max_tokens=5, logprobs=0)
    expected = text_model.generate_from_ids([ids], max_new_tokens=5)[0]

    assert (answer.choices[0].text, answer.usage.prompt_tokens) == (expected.text, len(ids))
    assert sum(answer.choices[0].logprobs.token_logprobs) == pytest.approx(expected.log_prob, abs=1e-3)
    letters = tokenizer.convert_tokens_to_ids(list("with"))
    with pytest.raises(openai.BadRequestError, match="not those that their text is read as"):
        client.completions.create(model="tiny", prompt=[ids, letters], max_tokens=5)


def test_without_a_seed_every_row_has_draws_of_its_own(client):
    rows = client.completions.create(model="tiny", prompt=["It was"] * 4, n=2, temperature=1.5, max_tokens=12).choices

    assert len({choice.text for choice in rows}) == 8


@pytest.mark.parametrize("seed", range(4))
def test_an_offset_is_the_place_in_the_text(client, seed):
    asked = {"model": "tiny", "prompt": "é", "max_tokens": 24, "temperature": 1.5, "seed": seed, "logprobs": 0, "stop": ["zz zz", "q", "the zzz"]}
    choice = client.completions.create(**asked).choices[0]
    pieces = [event.choices[0].logprobs for event in client.completions.create(**asked, stream=True) if event.choices[0].logprobs]

    told = choice.logprobs
    assert "\ufffd" in choice.text and all(choice.text[place:].startswith(token) for place, token in zip(told.text_offset, told.tokens)
                                           if "\ufffd" not in token and place + len(token) <= len(choice.text))  # fmt: skip
    assert [place for piece in pieces for place in piece.text_offset] == told.text_offset


def test_log_probabilities_are_the_models(client, text_model):
    told = client.completions.create(model="tiny", prompt="It was", temperature=0, max_tokens=6, logprobs=2).choices[0].logprobs
    tokens = text_model.generate(["It was"], 6, top_log_probs=2)[0].tokens

    assert told.tokens == [token.text for token in tokens]
    np.testing.assert_allclose(told.token_logprobs, [token.log_prob for token in tokens], atol=1e-4)
    assert told.text_offset == [sum(len(token.text) for token in tokens[:number]) for number in range(len(tokens))]
    for found, token in zip(told.top_logprobs, tokens):
        np.testing.assert_allclose(sorted(found.values(), reverse=True), [log_prob for _, log_prob in token.top], atol=1e-4)


def test_a_banned_token_is_never_written(client, text_model):
    first = text_model.generate(["It was"], 1, top_log_probs=0)[0].tokens[0].id

    with_ban = client.completions.create(model="tiny", prompt="It was", temperature=0, max_tokens=5, logit_bias={str(first): -100})

    assert with_ban.choices[0].text == text_model.generate(["It was"], 5, banned_tokens=[first])[0].text


@pytest.mark.parametrize("given", [{"n": 2, "temperature": 1.1, "seed": 2}, {"temperature": 0, "stop": ["e"]}, {"temperature": 0, "logprobs": 1}])
def test_a_stream_is_the_whole_answer_in_pieces(client, given):
    asked = {"model": "tiny", "prompt": ["It was", "naïve 日本"], "max_tokens": 20} | given
    whole = client.completions.create(**asked)
    texts, reasons, tokens, usage = {}, {}, {}, None
    for event in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = event.usage or usage
        for choice in event.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
            tokens.setdefault(choice.index, []).extend(choice.logprobs.tokens if choice.logprobs else [])

    assert [texts[choice.index] for choice in whole.choices] == [choice.text for choice in whole.choices]
    assert [reasons[choice.index] for choice in whole.choices] == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage
    if "logprobs" in given:
        assert [tokens[choice.index] for choice in whole.choices] == [choice.logprobs.tokens for choice in whole.choices]


def test_a_chat_goes_on_where_the_template_ends(client, text_model):
    expected = text_model.generate([chat_prompt(TURNS)], 8, temperature=0.7, seed=6, top_log_probs=1)[0]

    answer = client.chat.completions.create(model="tiny", messages=TURNS, max_completion_tokens=8, temperature=0.7, seed=6, logprobs=True, top_logprobs=1)
    pieces = client.chat.completions.create(model="tiny", messages=TURNS, max_tokens=8, temperature=0.7, seed=6, stream=True)

    told = answer.choices[0]
    assert (told.message.role, told.message.content, told.finish_reason) == ("assistant", expected.text.lstrip(), expected.finish_reason)
    assert [token.token for token in told.logprobs.content] == [token.text for token in expected.tokens]
    assert bytes(told.logprobs.content[0].bytes).decode("utf-8", "replace") == expected.tokens[0].text
    assert "".join(event.choices[0].delta.content or "" for event in pieces) == expected.text.lstrip()


def test_a_chats_content_may_be_in_parts_and_it_ends_where_the_context_does(client):
    parts = [{"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "a tuple?"}]}]
    whole = [{"role": "user", "content": "What is a tuple?"}]

    answers = [client.chat.completions.create(model="tiny", messages=turns, temperature=0) for turns in (parts, whole)]

    assert answers[0].choices == answers[1].choices
    assert answers[0].choices[0].finish_reason == "stop" or answers[0].usage.total_tokens == 48  # the context of the model


@pytest.mark.parametrize(("headers", "sent"), [
    ({"Content-Type": "application/x-www-form-urlencoded"}, "application/x-www-form-urlencoded"), ({}, "nothing said of what it is")])
def test_a_body_that_is_not_called_json_is_refused_with_the_header_that_is_missing(url, headers, sent):
    """As curl -d sends it."""
    answer = httpx.post(f"{url}/v1/chat/completions", content=json.dumps({"model": "tiny", "messages": TURNS}).encode(), headers=headers)

    message = f"body: sent as {sent}; send JSON, with the header Content-Type: application/json"
    assert answer.status_code == 400 and answer.json()["error"]["message"] == message


def test_a_chat_that_is_too_long_loses_whole_turns_and_says_how_many(client, text_model, tokenizer):
    said = [{"role": ("user", "assistant")[number % 2], "content": f"It was {number}."} for number in range(2001)]
    kept = [{"role": "system", "content": "Be short."}, *said[1998:]]
    prompt = chat_prompt(kept)
    while len(tokenizer(prompt).input_ids) > 48 - 12:  # a quarter of the context is left for the reply
        kept = [kept[0], *kept[3:]]
        prompt = chat_prompt(kept)
    asked = {"model": "tiny", "messages": [kept[0], *said], "temperature": 0}

    answer, pieces = client.chat.completions.create(**asked), list(client.chat.completions.create(**asked, stream=True))

    assert answer.choices[0].message.content == text_model.generate([prompt], 48)[0].text.lstrip()
    assert answer.left_out == pieces[0].left_out == 2001 - (len(kept) - 1)
    assert client.chat.completions.create(**asked | {"messages": TURNS}).left_out == 0
    with pytest.raises(openai.BadRequestError, match="messages: the system text and the last turn .'Who are you, Who are you, Who are you, W'. are longer"):
        client.chat.completions.create(**asked | {"messages": [{"role": "user", "content": "Who are you, " * 30}]})


@pytest.mark.parametrize(("body", "error", "message"), [
    ({"model": "other"}, openai.NotFoundError, "Servable not found for request: Latest.other."),
    ({"model": "tiny:9"}, openai.NotFoundError, "Specific.tiny, 9."),
    ({"model": "tiny:stable"}, openai.BadRequestError, "label: stable"),
    ({"temperature": -1}, openai.BadRequestError, "temperature: "),
    ({"max_tokens": -1}, openai.BadRequestError, "max_tokens: "),
    ({"n": 0}, openai.BadRequestError, "n: "),
    ({"prompt": []}, openai.BadRequestError, "prompt: an empty list"),
    ({"prompt": [10**6]}, openai.BadRequestError, "prompt: 1000000 is no token"),
    ({"logit_bias": {"5": 3}}, openai.BadRequestError, "logit_bias: 3 for token 5"),
    ({"logit_bias": {"x": -100}}, openai.BadRequestError, "logit_bias: 'x' is no token"),
    ({"stop": ["a", ""]}, openai.BadRequestError, "stop: an empty text"),
    ({"suffix": "end"}, openai.BadRequestError, "suffix: "),
    ({"best_of": 3}, openai.BadRequestError, "best_of: 3"),
    ({"echo": True, "logprobs": 1}, openai.BadRequestError, "echo with logprobs"),
    ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "temprature: "),
])  # fmt: skip
def test_what_cannot_be_done_is_refused_with_the_key(client, body, error, message):
    with pytest.raises(error, match=message) as refused:
        client.completions.create(**{"model": "tiny", "prompt": "x"} | body)
    assert refused.value.type == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"5", b"\xff", b'{"model": "tiny", "prompt": {}}', b'{"model": 5, "prompt": "x"}', b"[" * 100_000])
def test_what_is_no_request_is_a_clear_error(url, body):
    for path in ("completions", "chat/completions"):
        answer = httpx.post(f"{url}/v1/{path}", content=body, headers={"Content-Type": "application/json"}, timeout=60)
        assert answer.status_code == 400, (body[:20], answer.text)
        assert answer.json()["error"]["message"]


def test_where_json_breaks_off_is_told(url):
    answer = httpx.post(f"{url}/v1/completions", content=b'{"model": "tiny", ', headers={"Content-Type": "application/json"}, timeout=60)

    error = answer.json()["error"]
    assert error["message"].startswith("body: no JSON at character ") and error["param"] is None


def test_who_leaves_a_stream_gives_its_place_away(url):
    """Sixteen rows fill the batch; when all their readers leave, a late one is answered at once, and the server has nothing left to do."""
    body = {"model": "tiny", "prompt": "x", "max_tokens": 40, "min_new_tokens": 40, "n": 16, "stream": True}

    def leave():
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as answer:
            next(answer.iter_lines())

    threads = [threading.Thread(target=leave) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    begin = time.monotonic()
    late = httpx.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": "x", "max_tokens": 2}, timeout=60)

    assert late.status_code == 200 and time.monotonic() - begin < 30


def test_events_are_server_sent_events(url):
    answer = httpx.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": "x", "max_tokens": 3, "stream": True}, timeout=60)

    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert {json.loads(event.removeprefix("data: "))["object"] for event in events[:-2]} == {"text_completion"}


def test_our_client_streams_what_generate_gives(url, text_model):
    client, pieces = Client(f"{url}/v1/models/tiny/versions/3"), []
    generator = client.stream("It was", max_new_tokens=12, temperature=0.8, seed=3, stop=["zz"])
    while True:
        try:
            pieces.append(next(generator))
        except StopIteration as end:
            whole = end.value
            break

    expected = text_model.generate(["It was"], 12, temperature=0.8, seed=3, stop=["zz"])[0]
    assert "".join(pieces) == whole["text"] == expected.text and len(pieces) > 1
    assert (whole["token_count"], whole["finish_reason"]) == (expected.token_count, expected.finish_reason)


@pytest.mark.parametrize(("path", "controls", "message"), [
    ("/v1/models/other", {}, "404: Servable not found"),
    ("/v1/models/tiny", {"temperature": -1}, "400: temperature: "),
    ("/v1/models/tiny", {"temperature": float("inf")}, "cannot be sent as JSON"),
    ("/tiny", {}, "is no address of a model"),
])  # fmt: skip
def test_a_stream_that_cannot_be_had_is_a_clear_error(url, path, controls, message):
    with pytest.raises(ServerError, match=message):
        next(Client(f"{url}{path}").stream("x", **controls))
    with pytest.raises(ServerError, match="over HTTP alone"):
        next(Client("grpc://127.0.0.1:1/tiny").stream("x"))


def test_a_client_takes_no_text_for_a_list_and_no_list_for_a_text(url):
    client = Client(f"{url}/v1/models/tiny")
    for ask in (client.generate, client.score, client.classify):
        with pytest.raises(ServerError, match="is one text; give a list of texts"):
            ask("It was")
    with pytest.raises(ServerError, match="stream: the prompt is list; give one text"):
        next(client.stream(["It was"]))


def test_the_command_prints_a_stream(url, text_model):
    command = [sys.executable, "-m", "tfgpt", "client", "generate", "--url", f"{url}/v1/models/tiny", "--prompt", "It was", "--max-new-tokens", "9", "--stream"]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout == text_model.generate(["It was"], 9)[0].text + "\n"


def test_a_stream_that_nobody_reads_lets_go_of_its_model_after_a_while():
    ticket, held, ended = Ticket([Prompt(b"x")], None, lambda: None), contextlib.ExitStack(), []
    held.callback(ended.append, True)

    async def events():
        yield "data: 1\n\n"

    async def full(message):  # the connection's buffers are, and stay so
        await asyncio.Event().wait()

    async def silent():
        await asyncio.Event().wait()

    stream = _Stream(events(), ticket, held, seconds=0.05)
    asyncio.run(asyncio.wait_for(stream({"type": "http", "asgi": {"spec_version": "2.3"}}, silent, full), 10))

    assert ended == [True] and ticket.is_over
