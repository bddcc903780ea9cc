"""Who asks: a browser by its cookie, a program by its key, or nobody that is known; and whether a form is one of our own pages."""
from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.responses import Response

from tfgpt.store.access.keys import caller_of
from tfgpt.store.access.rights import Caller
from tfgpt.store.access.users import SIGNED_IN_SECONDS, TOKEN_BYTES, signed_in
from tfgpt.store.web.guard import address_of
from tfgpt.store.web.visit import Visit

COOKIE = "tfgpt_store"
"""Holds a random token: of who has signed in, or else of the browser, for its sign-in form."""
CSRF_FIELD, CSRF_HEADER = "csrf", "X-CSRF-Token"
MOST_FIELDS, MOST_FIELD_BYTES = 100, 2**20
"""Of a form, beside its files."""


def visit_of(request: Request) -> Visit:
    """Return the store as whoever asks may use it.

    Raises:
        HTTPException: a key that is not known.
    """
    state, origin = request.app.state, {"address": address_of(request.scope)}
    caller = None
    if (authorization := request.headers.get("authorization")) is not None:
        kind, _, key = authorization.partition(" ")
        caller = caller_of(state.store.database, key.strip(), origin) if kind.lower() == "bearer" else None
        if caller is None:
            raise HTTPException(401, "The key is not known, or not valid any more; send Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})
    elif token := request.cookies.get(COOKIE):
        caller = signed_in(state.store.database, token, origin)
    if caller is None:
        caller = Caller("", frozenset(["read"] if state.settings.anonymous_read else []), origin)
    request.state.caller = caller
    return Visit(state.store, caller)


async def own_visit(request: Request) -> Visit:
    """Return the store as whoever asks may change it: what a browser sends must come from one of our pages.

    Raises:
        HTTPException: it does not, or a key that is not known.
    """
    if "authorization" not in request.headers:  # which no browser sends by itself
        if COOKIE not in request.cookies and request.url.path.startswith("/api/"):
            raise HTTPException(401, "Nobody is known to ask; send Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})
        check_same_origin(request)
        token = request.cookies.get(COOKIE, "")
        given = request.headers.get(CSRF_HEADER)
        if given is None:
            given = (await form_of(request)).get(CSRF_FIELD)
        if not token or not isinstance(given, str) or not hmac.compare_digest(given.encode(), csrf_of(token).encode()):
            raise HTTPException(403, "The page is too old, or the form is not from here; load the page again and repeat it")
    return await run_in_threadpool(visit_of, request)


async def uploading_visit(request: Request) -> Visit:
    """Return the store as whoever uploads a model may change it; who may not is told so before a byte of it is read.

    Raises:
        HTTPException: as `own_visit`, or another kind of body.
        ForbiddenError: the caller may not publish.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HTTPException(415, "The body is no multipart/form-data; send the files as a form")
    if "authorization" not in request.headers:
        check_same_origin(request)
    visit = await run_in_threadpool(visit_of, request)
    visit.caller.require("publish")
    return await own_visit(request)


async def form_of(request: Request) -> FormData:
    """Return the form that a request holds, of at most as many files as a model may have."""
    return await request.form(max_files=request.app.state.store.config.max_files, max_fields=MOST_FIELDS, max_part_size=MOST_FIELD_BYTES)


def check_same_origin(request: Request) -> None:
    """Refuse what another site's page has a browser send, before anything of it is read.

    Raises:
        HTTPException: it does.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    own = (None, *(f"{scheme}://{request.headers.get('host')}" for scheme in ("http", "https")))
    if site not in (None, "same-origin", "none") or origin not in own:
        raise HTTPException(403, "The request comes from another site's page; send it from one of the store's own")


def csrf_of(token: str) -> str:
    """Return what the forms of a browser hold, which only we can make of its cookie and no other site can read."""
    return hmac.new(token.encode("utf-8", "replace"), b"tfgpt store form", hashlib.sha256).hexdigest()


def token_of(request: Request) -> tuple[str, bool]:
    """Return the token of a browser, and whether it is a new one, which it is then to be given."""
    token = request.cookies.get(COOKIE, "")
    return (token, False) if token else (secrets.token_urlsafe(TOKEN_BYTES), True)


def give_token(request: Request, response: Response, token: str) -> None:
    """Have a browser keep a token, out of reach of scripts and of other sites."""
    response.set_cookie(COOKIE, token, max_age=SIGNED_IN_SECONDS, httponly=True, samesite="lax", secure=request.scope["scheme"] == "https")


Reading = Annotated[Visit, Depends(visit_of)]
Changing = Annotated[Visit, Depends(own_visit)]
Uploading = Annotated[Visit, Depends(uploading_visit)]
