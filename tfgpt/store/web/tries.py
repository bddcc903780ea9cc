"""Trying a model over HTTP: what can be asked, and the answer as lines of JSON while it is written."""
from __future__ import annotations

import itertools
import json

import anyio
from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.responses import StreamingResponse

from tfgpt.store.cache import cached
from tfgpt.store.reference import Reference, parse_reference
from tfgpt.store.web.visit import Visit

JUDGES = "text-classification"
"""The task of models whose head is asked, and which write nothing."""
LINES = "application/x-ndjson"


class TryRequest(BaseModel):
    """What a model is asked. A control that is left out is neutral; temperature 0 writes the likeliest text."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    reference: str = Field(description="store://NAME, NAME:VERSION or NAME@STAGE", max_length=200)
    prompt: str
    max_new_tokens: int = Field(64, ge=1)
    temperature: float = Field(0.0, ge=0)
    top_k: int = Field(0, ge=0, lt=2**31)
    top_p: float = Field(1.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0)
    seed: int = Field(0, ge=-(2**63), lt=2**63)


def answer_try(request: Request, visit: Visit, asked: TryRequest) -> StreamingResponse:
    """Have a model write: lines with `piece`, then one with `done` or `error`.

    Raises:
        ForbiddenError, NotFoundError: the caller may not try it.
        StoreError: something of what is asked is not allowed, or the version has no weights.
        TooManyRequests: the caller tries too often, or all are busy.
    """
    exact = visit.resolve(parse_reference(asked.reference))
    request.app.state.rates.count("tries", visit.caller.name)
    entry = visit.details(exact).entry
    request.app.state.trier.check(asked.prompt, asked.max_new_tokens)
    question = asked.model_dump(exclude={"reference"}) | {"judges": entry.task == JUDGES}
    messages = request.app.state.trier.write(str(exact), lambda: cached(visit.store, exact, "model")[1], question)
    first = next(messages)  # here, so that what cannot be done has a status of its own

    async def lines():
        try:
            async for message in iterate_in_threadpool(itertools.chain([_with(first, exact)], messages)):
                yield json.dumps(message, ensure_ascii=False) + "\n"
        finally:
            with anyio.CancelScope(shield=True):  # the client has gone: the model is to stop too
                await run_in_threadpool(messages.close)

    return StreamingResponse(lines(), media_type=LINES, headers={"X-Accel-Buffering": "no"})


def _with(message: dict, exact: Reference) -> dict:
    """Return a first line with the version that answers."""
    return {"reference": str(exact)} | message
