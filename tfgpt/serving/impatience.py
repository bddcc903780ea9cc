"""Connections whose requests do not come: uvicorn itself waits for headers without limit, so that a client could hold as many connections as it likes."""
from __future__ import annotations

import asyncio

from uvicorn.protocols.http.auto import AutoHTTPProtocol


def impatient(seconds: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol, made to close a connection on which headers take longer than `seconds`, from its beginning or their first byte on.

    Bodies are none of its business (see `BodyGuard`), but for what is left of one that was answered before its end. Between requests uvicorn's own
    limit holds.
    """

    class Impatient(AutoHTTPProtocol):
        """HTTP as uvicorn speaks it, with a clock."""

        def connection_made(self, transport):
            super().connection_made(transport)
            self._clock = self.loop.call_later(seconds, transport.close)

        def data_received(self, data):
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:  # the headers are there, and somebody answers
                self._stop()
            elif self._clock is None:
                self._clock = self.loop.call_later(seconds, self.transport.close)

        def connection_lost(self, exc):
            self._stop()
            super().connection_lost(exc)

        def _stop(self):
            if self._clock is not None:
                self._clock.cancel()
                self._clock = None

    return Impatient
