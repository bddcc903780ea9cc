"""OpenAI's protocol over a catalog: completions and chats, whole or as a stream of server-sent events, and the list of models."""
from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from tfgpt.serving.access import caller_of
from tfgpt.serving.batched import BatchedModel, check_new_tokens, check_rows
from tfgpt.serving.catalog import Catalog
from tfgpt.serving.errors import BadRequestError, PreconditionError, ServingError
from tfgpt.serving.http_errors import EVENT_STREAM, error_event, event, json_response, refusal
from tfgpt.serving.metrics import Metrics
from tfgpt.serving.openai_protocol import DEFAULT_TOKENS, ChatRequest, CompletionRequest, chat_logprobs, completion_logprobs
from tfgpt.serving.openapi import OPENAI_ERROR, errors_of
from tfgpt.serving.scheduler import Ticket, Writing
from tfgpt.text.chat import DEFAULT_TEMPLATE, TooLongError, remembered, room_for_reply

LOG = logging.getLogger(__name__)
LOOK_SECONDS = 0.25
"""Between two looks whether the client is still there."""
MOST_TOKENS = 2**31 - 1
END_OF_TEXT = b"<|endoftext|>"
"""What the special token is written as that GPT-2's prompts may hold."""


def add_openai(app: FastAPI, catalog: Catalog, metrics: Metrics) -> None:
    """Add the routes of OpenAI's protocol to `app`."""

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        caller = caller_of(request.scope)
        names = [name for name in catalog.names() if caller is None or caller.knows(name)]
        return json_response({"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "tfgpt"} for name in names]})

    @app.post("/v1/completions", responses=errors_of(OPENAI_ERROR))
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await _answered(request, body, catalog, metrics, Completion)

    @app.post("/v1/chat/completions", responses=errors_of(OPENAI_ERROR))
    async def chat(body: ChatRequest, request: Request) -> Response:
        return await _answered(request, body, catalog, metrics, Chat)


async def _answered(request, body, catalog, metrics, kind):
    """Return the answer to a request, or OpenAI's body for what went wrong before anything of it was sent."""
    try:
        with contextlib.ExitStack() as held:  # inside of the `try`, so that the metrics learn of the error
            name, version, label = _named(body.model)
            if (caller := caller_of(request.scope)) is not None:
                caller.check_model(name)
            held.enter_context(metrics.request(name, kind.api, "REST"))
            # In a thread, since a gateway asks another server; entered there, so that nothing that ends this one meanwhile loses it.
            served = await run_in_threadpool(held.enter_context, catalog.lease(name, version, label))
            if not served.loaded.writes:
                raise PreconditionError(f"model {body.model} has no signature that writes texts in pieces; export it again with this version of tfgpt")
            body.check()
            waiter = _Waiter(asyncio.get_running_loop())
            answer = kind(body, served.loaded)
            ticket = served.loaded.submit(await run_in_threadpool(answer.prompts), notify=waiter.wake)
            if body.stream:
                limits = served.loaded.limits
                return _Stream(answer.events(ticket, waiter), ticket, held.pop_all(), limits.request_seconds + limits.body_seconds)
            held.callback(ticket.cancel)  # whatever ends this before its end, the server's own included
            async for _ in waiter.changes(ticket, request):
                pass
            return json_response(answer.whole(ticket.result()))
    except ServingError as error:
        return refusal(request.url.path, error)


def _named(model):
    """Return the name of a model, its version and its label: NAME, NAME:3 or NAME:stable."""
    name, _, which = model.partition(":")
    if which.isascii() and which.isdecimal():
        return name, min(int(which[:20]), 2**63 - 1), None  # Python refuses to read thousands of digits
    return name, None, which or None


class _Waiter:
    """Wakes a coroutine from the engine's thread."""

    def __init__(self, loop):
        self._loop, self._changed = loop, asyncio.Event()

    def wake(self):
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            self._loop.call_soon_threadsafe(self._changed.set)

    async def changes(self, ticket: Ticket, request: Request | None = None) -> AsyncIterator[None]:
        """Yield at each change until the ticket has ended; a client that is gone gives it up."""
        while not ticket.ended:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LOOK_SECONDS)
            self._changed.clear()
            if request is not None and await request.is_disconnected():
                ticket.cancel()
            yield


class _Stream(StreamingResponse):
    """Server-sent events that hold a model until they end, and give its work up when the client goes away before, or does not read them for so long."""

    def __init__(self, events, ticket, held, seconds):
        super().__init__(events, media_type=EVENT_STREAM, headers={"Cache-Control": "no-cache"})
        self._ticket, self._held, self._seconds = ticket, held, seconds

    async def __call__(self, scope, receive, send) -> None:
        """Send the events."""
        try:
            async with asyncio.timeout(self._seconds):
                await super().__call__(scope, receive, send)
        except TimeoutError:  # the connection ends with this, since the answer is not whole
            LOG.warning("a client did not read its stream within %g s, and was cut off", self._seconds)
        finally:
            self._ticket.cancel()
            error = self._ticket.error if self._ticket.ended else self._ticket.reason
            self._held.__exit__(error and type(error), error, None)  # as if the error had ended the block, so that the metrics count it


@dataclass
class _Sent:
    """What of a choice was sent."""

    characters: int = 0
    tokens: int = 0
    ended: bool = False


class Answer:
    """A request's rows, and what is told of them.

    Args:
        body: the request.
        loaded: the model.
    """

    api = object_name = chunk_name = id_prefix = ""

    def __init__(self, body: CompletionRequest | ChatRequest, loaded: BatchedModel):
        self.body, self.loaded = body, loaded
        self._head = {"id": f"{self.id_prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model}

    def _most(self, default, *names):
        """Return how many tokens are asked for: by the first of these keys that is sent, or the default as far as the server writes so many."""
        limits = self.loaded.limits
        for name in names:
            if (asked := getattr(self.body, name)) is not None:
                check_new_tokens(asked, limits, name)
                return asked
        return min(default, limits.max_new_tokens or default)

    def whole(self, rows: list[Writing]) -> dict:
        """Return the answer at the end."""
        choices = [self._choice(number, row) for number, row in enumerate(rows)]
        return self._head | {"object": self.object_name, "choices": choices, "usage": self._usage(rows)}

    async def events(self, ticket: Ticket, waiter: _Waiter) -> AsyncIterator[str]:
        """Yield the answer piece by piece as server-sent events."""
        sent = [_Sent() for _ in ticket.rows]
        with_usage = self.body.stream_options is not None and self.body.stream_options.include_usage
        usage = {"usage": None} if with_usage else {}
        head = self._head | {"object": self.chunk_name}
        for choice in self._opening(len(sent)):
            yield event(head | {"choices": [choice]} | usage)
        async for _ in waiter.changes(ticket):
            for choice in self._news(ticket.rows, sent):
                yield event(head | {"choices": [choice]} | usage)
        if ticket.error is not None:
            yield error_event(str(ticket.error))
            return
        for choice in self._news(ticket.rows, sent):
            yield event(head | {"choices": [choice]} | usage)
        if with_usage:
            yield event(head | {"choices": [], "usage": self._usage(ticket.rows)})
        yield "data: [DONE]\n\n"

    def _news(self, rows, sent) -> Iterator[dict]:
        """Yield for each row what was not sent yet."""
        for number, (row, before) in enumerate(zip(rows, sent)):
            row = row.copy()  # the engine writes on meanwhile
            if before.ended or (len(row.text) <= before.characters and row.finish_reason is None):
                continue
            yield self._piece(number, row, before)
            before.characters, before.tokens, before.ended = len(row.text), row.token_count, row.finish_reason is not None

    def _opening(self, choices: int) -> list[dict]:
        """Return what is sent before anything is written."""
        return []

    def _usage(self, rows):
        by_prompt = [row.prompt_tokens for row in rows[: len(rows) // (self.body.n or 1)]]
        read, written = sum(by_prompt), sum(row.token_count for row in rows)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


class Completion(Answer):
    """The answer of /v1/completions."""

    api, object_name, chunk_name, id_prefix = "Completions", "text_completion", "text_completion", "cmpl"

    def prompts(self) -> list:
        """Return the rows: a choice of each prompt, then the next of each.

        Raises:
            BadRequestError: a prompt of tokens that there are not, or more rows than a request may have.
        """
        given = self.body.prompt
        given = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
        if not given:
            raise BadRequestError("prompt: an empty list; give a text")
        check_rows(len(given) * (self.body.n or 1), self.loaded.limits, "prompt")  # before they are made
        self._texts = [self._text_of(prompt) for prompt in given]
        most = self._most(DEFAULT_TOKENS, "max_tokens")
        return self.body.prompts(self._texts, most, self.body.logprobs)

    def _text_of(self, prompt):
        if isinstance(prompt, str):
            return prompt.encode("utf-8", "replace")
        texts = self.loaded.token_texts
        if not texts:
            raise BadRequestError("prompt: the tokens of this model are not known here; give a text")
        if wrong := [token for token in prompt if not 0 <= token < len(texts)]:
            raise BadRequestError(f"prompt: {wrong[0]} is no token; give numbers from 0 to {len(texts) - 1}")
        text = b"".join(texts[token] or END_OF_TEXT for token in prompt)                  # a special token has no text of its own
        read = self.loaded.predict("tokenize", {"text": np.array([text], object)})
        if read["ids"][0, : read["length"][0]].tolist() != prompt:
            raise BadRequestError("prompt: these tokens are not those that their text is read as, and the engine reads text; give the text")
        return text

    def _place(self, number):
        """Return the number of the choice in the answer, where all of a prompt stand together."""
        prompt, choice = number % len(self._texts), number // len(self._texts)
        return prompt * (self.body.n or 1) + choice

    def _echo(self, number):
        return self._texts[number % len(self._texts)].decode("utf-8", "replace") if self.body.echo else ""

    def _choice(self, number, row):
        logprobs = None if self.body.logprobs is None else completion_logprobs(row, self.loaded.token_texts, 0)
        return {"text": self._echo(number) + row.text, "index": self._place(number), "logprobs": logprobs, "finish_reason": row.finish_reason}

    def whole(self, rows: list[Writing]) -> dict:
        """Return the answer at the end, its choices in order."""
        answer = super().whole(rows)
        answer["choices"].sort(key=lambda choice: choice["index"])
        return answer

    def _opening(self, choices):
        return [{"text": self._echo(number), "index": self._place(number), "logprobs": None, "finish_reason": None}
                for number in range(choices) if self.body.echo]

    def _piece(self, number, row, sent):
        logprobs = None
        if self.body.logprobs is not None:
            logprobs = completion_logprobs(row, self.loaded.token_texts, sent.tokens)
        return {"text": row.text[sent.characters :], "index": self._place(number), "logprobs": logprobs, "finish_reason": row.finish_reason}


class Chat(Answer):
    """The answer of /v1/chat/completions."""

    api, object_name, chunk_name, id_prefix = "ChatCompletions", "chat.completion", "chat.completion.chunk", "chatcmpl"

    def prompts(self) -> list:
        """Return the rows: the turns as the model's template writes them, which the assistant's next turn continues.

        A chat that is too long loses its oldest turns, whole, and the answer says how many in `left_out`.

        Raises:
            BadRequestError: turns that the template refuses, or a system text and a last turn that are too long together.
        """
        most = self._most(MOST_TOKENS, "max_completion_tokens", "max_tokens")
        memory = self._remembered(most)
        self._head["left_out"] = memory.left_out
        top = (self.body.top_logprobs or 0) if self.body.logprobs else None
        return self.body.prompts([memory.prompt.encode("utf-8", "replace")], most, top)

    def _remembered(self, most):
        """Return what is read of the chat: with room for the reply, or with any where the last turn has no room beside that."""
        turns, template = [message.turn() for message in self.body.messages], self.loaded.chat_template or DEFAULT_TEMPLATE
        try:
            with contextlib.suppress(TooLongError):
                return remembered(turns, self._fits(room_for_reply(most, self.loaded.context)), template)
            return remembered(turns, self._fits(1), template)
        except TooLongError as error:
            size, most_bytes = len(error.prompt.encode("utf-8", "replace")), self.loaded.limits.max_prompt_bytes
            beyond = f"the system text and the last turn have {size} bytes; give at most {most_bytes}"
            raise BadRequestError(f"messages: {beyond if size > most_bytes else error}") from error
        except ValueError as error:
            raise BadRequestError(f"messages: {error}") from error

    def _fits(self, room):
        """Return what tells whether a prompt leaves so much room."""
        if not self.loaded.context:
            return lambda prompt: True
        longest = self.loaded.context - room

        def fits(prompt):
            text = prompt.encode("utf-8", "replace")
            if len(text) > self.loaded.limits.max_prompt_bytes:
                return False
            return self.loaded.predict("tokenize", {"text": np.array([text], object)})["length"][0] <= longest

        return fits

    def _choice(self, number, row):
        logprobs = chat_logprobs(row, self.loaded.token_texts, 0) if self.body.logprobs else None
        message = {"role": "assistant", "content": row.text.lstrip(), "refusal": None}
        return {"index": number, "message": message, "logprobs": logprobs, "finish_reason": row.finish_reason}

    def _opening(self, choices):
        return [{"index": number, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None} for number in range(choices)]

    def _piece(self, number, row, sent):
        text = row.text[sent.characters :] if row.text[: sent.characters].strip() else row.text.lstrip()
        logprobs = chat_logprobs(row, self.loaded.token_texts, sent.tokens) if self.body.logprobs else None
        return {"index": number, "delta": {"content": text} if text else {}, "logprobs": logprobs, "finish_reason": row.finish_reason}
