"""What stands before the store's application: too many requests, too large or too slow bodies, and the headers that make a browser careful. Pure ASGI."""
from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections.abc import Callable

from fastapi import HTTPException
from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from tfgpt.store.web.settings import WebSettings

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; "
                               "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}  # fmt: skip
KEPT = {"Cache-Control": "max-age=600"}
"""Of what is everybody's: a telephone fetches the style once, and not with every page."""
HSTS = "max-age=31536000"
"""Only where the request came encrypted."""


NAME_FACTOR = 10
"""How many more attempts to sign in there may be with a name than from an address: fewer, and one address could lock everybody out."""


class TooManyRequests(HTTPException):
    """Somebody asks more often than they may.

    Args:
        what: of what there were too many.
        seconds: when there is room again.
    """

    def __init__(self, what: str, seconds: int):
        super().__init__(429, f"Too many {what}; try again in {seconds} s", {"Retry-After": str(seconds)})


class Rates:
    """How often each address and user may do what. Kept in this process.

    Args:
        settings: with the rates.
    """

    def __init__(self, settings: WebSettings):
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._limits: dict[str, RateLimitItem] = {
            "requests": RateLimitItemPerMinute(settings.requests_per_minute), "attempts to sign in": RateLimitItemPerMinute(settings.sign_ins_per_minute),
            "attempts to sign in with this name": RateLimitItemPerMinute(NAME_FACTOR * settings.sign_ins_per_minute),
            "tries": RateLimitItemPerMinute(settings.tries_per_minute), "publishes": RateLimitItemPerHour(settings.publishes_per_hour),
        }  # fmt: skip

    def count(self, what: str, who: str) -> None:
        """Count what somebody does.

        Raises:
            TooManyRequests: more than they may.
        """
        limit = self._limits[what]
        if not self._limiter.hit(limit, what, who):
            again = self._limiter.get_window_stats(limit, what, who).reset_time
            raise TooManyRequests(what, max(1, math.ceil(again - time.time())))


def address_of(scope: Scope) -> str:
    """Return the address that a request came from; one of IPv4 as such, also where it came to a socket of IPv6."""
    host = (scope.get("client") or ("unknown", 0))[0]
    try:
        return str(getattr(ipaddress.ip_address(host), "ipv4_mapped", None) or host)
    except ValueError:  # of a socket without addresses
        return host


def counted_as(address: str) -> str:
    """Return whom an address's requests are counted for: of IPv6 the network of 64 bits, which one has to oneself.

    >>> counted_as("2001:db8::ffff:2"), counted_as("203.0.113.7")
    ('2001:db8::/64', '203.0.113.7')
    """
    return str(ipaddress.ip_network((address, 64), strict=False)) if ":" in address else address


class RateGuard:
    """Refuses an address that asks too often.

    Args:
        app: what answers otherwise.
        rates: which count.
        refuse: returns what answers instead, given the scope and why.
    """

    def __init__(self, app: ASGIApp, rates: Rates, refuse: Callable[[Scope, TooManyRequests], ASGIApp]):
        self._app, self._rates, self._refuse = app, rates, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        answer = self._app
        if scope["type"] == "http":
            try:
                self._rates.count("requests", counted_as(address_of(scope)))
            except TooManyRequests as error:
                answer = self._refuse(scope, error)
        await answer(scope, receive, send)


class CarefulHeaders:
    """Puts `HEADERS` on every answer; a handler may set its own, such as for files that can be kept.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in (HEADERS | (KEPT if scope["path"].startswith("/static/") else {})).items():
                    headers.setdefault(name, value)
                if scope["scheme"] == "https":
                    headers.setdefault("Strict-Transport-Security", HSTS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class BodyLimit:
    """Ends a request whose body is too large with 413, and one that does not come with 408, while it is read.

    Args:
        app: what reads.
        settings: with the limits.
        is_upload: tells of a path whether models are uploaded there.
    """

    def __init__(self, app: ASGIApp, settings: WebSettings, is_upload: Callable[[str], bool]):
        self._app, self._settings, self._is_upload = app, settings, is_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = self._is_upload(scope["path"])
        most = self._settings.max_upload_bytes if is_upload else self._settings.max_form_bytes
        option = "--max-upload-bytes" if is_upload else "--max-form-bytes"
        message = f"The request is larger than {most:,} bytes; send less, or start the store with a higher {option}"
        too_large = HTTPException(413, message, {"Connection": "close"})
        size, ended = 0, False

        async def limited():
            nonlocal size, ended
            if ended:
                return await receive()  # which says when the client has gone, and may take as long as that
            if size == 0 and _declared_bytes(scope) > most:
                raise too_large
            try:
                message = await asyncio.wait_for(receive(), self._settings.body_seconds)
            except TimeoutError as error:
                raise HTTPException(408, f"Nothing came for {self._settings.body_seconds:g} s; send the request faster", {"Connection": "close"}) from error
            size += len(message.get("body", b""))
            ended = not message.get("more_body", False)
            if size > most:
                raise too_large
            return message

        await self._app(scope, limited, send)


def _declared_bytes(scope):
    found = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(found) if found.isdigit() else 0
