"""What a served store counts, for Prometheus."""
from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Receive, Scope, Send

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class StoreMetrics:
    """Counters of one server."""

    def __init__(self):
        self.registry = CollectorRegistry()
        self.requests = Counter("tfgpt_store_requests", "Requests by route and status.", ["method", "route", "status"], registry=self.registry)
        self.seconds = Histogram("tfgpt_store_request_seconds", "Time until an answer was sent.", ["method", "route"], registry=self.registry)
        self.sign_ins = Counter("tfgpt_store_sign_ins", "Attempts to sign in.", ["outcome"], registry=self.registry)
        self.published = Counter("tfgpt_store_published", "Versions that were published.", registry=self.registry)
        self.downloads = Counter("tfgpt_store_downloads", "Versions that were fetched.", registry=self.registry)
        self.tries = Counter("tfgpt_store_tries", "Models that were tried, by how it ended.", ["outcome"], registry=self.registry)
        self.trying = Gauge("tfgpt_store_models_loaded", "Models that are loaded to be tried.", registry=self.registry)

    def page(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class Counted:
    """Counts the requests of an application, under the route's own path: names of models are not labels, since there is no end of them.

    Args:
        app: what answers.
        metrics: which count.
    """

    def __init__(self, app: ASGIApp, metrics: StoreMetrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noting(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE") else "other"
            self._metrics.requests.labels(method, route, str(status)).inc()
            self._metrics.seconds.labels(method, route).observe(time.perf_counter() - started)
