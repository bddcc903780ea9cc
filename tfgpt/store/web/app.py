"""The store's application: pages for people, an API for programs, and what stands before both."""
from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

import tfgpt
from tfgpt.store.errors import DamagedError, ForbiddenError, NotFoundError, StoreError
from tfgpt.store.store import Store
from tfgpt.store.web import account, api, forms, pages
from tfgpt.store.web.guard import HEADERS, BodyLimit, CarefulHeaders, RateGuard, Rates
from tfgpt.store.web.metrics import Counted, StoreMetrics
from tfgpt.store.web.remembered import RememberedFacets
from tfgpt.store.web.rendering import render
from tfgpt.store.web.settings import WebSettings
from tfgpt.store.web.trying import Trier

LOG = logging.getLogger(__name__)
STATIC = Path(__file__).parent / "static"
API = "/api/"


def create_app(store: Store, settings: WebSettings | None = None) -> FastAPI:
    """Return the ASGI application of a store.

    Args:
        store: which is shown; closed by whoever has opened it.
        settings: `None` = the defaults.
    """
    settings = settings or WebSettings()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        app.state.trier.close()

    app = FastAPI(title="tfgpt store", version=tfgpt.__version__, description=api.DESCRIPTION, docs_url=None, redoc_url=None,
                  openapi_url=f"{API}openapi.json", lifespan=lifespan)
    metrics = StoreMetrics()
    app.state.store, app.state.settings, app.state.rates, app.state.metrics = store, settings, Rates(settings), metrics
    app.state.trier, app.state.facets = Trier(settings, metrics), RememberedFacets()
    app.openapi = functools.partial(api.described, app)
    _add_error_handlers(app)
    app.include_router(api.ROUTER, prefix=f"{API}v1")
    for router in (pages.ROUTER, forms.ROUTER, account.ROUTER):
        app.include_router(router, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    app.add_middleware(BodyLimit, settings=settings, is_upload=lambda path: path == "/publish" or (path.startswith(API) and path.endswith("/versions")))
    app.add_middleware(RateGuard, rates=app.state.rates, refuse=lambda scope, error: _refusal(Request(scope), error.status_code, error.detail, error.headers))
    app.add_middleware(CarefulHeaders)
    app.add_middleware(Counted, metrics=metrics)
    return app


def _add_error_handlers(app):
    @app.exception_handler(StoreError)
    async def refused(request: Request, error: StoreError) -> Response:
        status = 404 if isinstance(error, NotFoundError) else 403 if isinstance(error, ForbiddenError) else 400
        nobody = not getattr(getattr(request.state, "caller", None), "name", "")
        if status != 403 or not nobody:
            return _refusal(request, status, str(error))
        if request.url.path.startswith(API):
            return _refusal(request, 401, str(error), {"WWW-Authenticate": "Bearer"})
        return RedirectResponse(str(request.url_for("sign_in_page").include_query_params(then=_own_path(request)).replace(scheme="", netloc="")), 303)

    @app.exception_handler(RuntimeError)
    async def failed(request: Request, error: RuntimeError) -> Response:
        LOG.error("%s %s: %s", request.method, request.url.path, error)
        what = "what is stored is damaged" if isinstance(error, DamagedError) else "the database or the files cannot be used now"
        return _refusal(request, 500, f"The store failed: {what}; its administrator finds why in the server's log")

    @app.exception_handler(UnicodeEncodeError)
    async def half(request: Request, error: UnicodeEncodeError) -> Response:
        return _refusal(request, 400, f"text: has half a character at {error.start}; send whole ones")

    @app.exception_handler(FileNotFoundError)
    async def nothing(request: Request, error: FileNotFoundError) -> Response:
        return _refusal(request, 400, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return _refusal(request, 400, f"{where or 'body'}: {first['msg']}")

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        response = _refusal(request, 500, f"The store failed ({type(error).__name__}); its administrator finds why in the server's log", HEADERS)
        response.headers["Connection"] = "close"  # the HTTP server closes it, since Starlette raises the error again
        return response

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> Response:
        return _refusal(request, error.status_code, str(error.detail), error.headers)


def _refusal(request, status, message, headers=None):
    """Return why a request is refused, as a page or as JSON."""
    if request.url.path.startswith(API):
        return JSONResponse({"error": message}, status, headers)
    response = render(request, "error.html", {"status": status, "message": message}, status)
    response.headers.update(headers or {})
    return response


def _own_path(request):
    """Return where to go on after signing in: the page that was asked for, if it was one to look at."""
    return request.url.path + (f"?{request.url.query}" if request.url.query else "") if request.method == "GET" else "/"
