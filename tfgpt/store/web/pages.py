"""Pages to look at: all models, one of them, several side by side, and the one on which they are tried."""
from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from tfgpt.store import search
from tfgpt.store.compare import FIELDS, compare
from tfgpt.store.errors import StoreError
from tfgpt.store.orders import ORDERS
from tfgpt.store.reference import STAGES, Reference, parse_reference
from tfgpt.store.web.doors import Reading
from tfgpt.store.web.lineage import lineage_of
from tfgpt.store.web.metrics import CONTENT_TYPE
from tfgpt.store.web.rendering import render

ROUTER = APIRouter()
ON_A_PAGE = 24
MOST_COMPARED, MOST_TRIED = 8, 2


@ROUTER.get("/")
def browse(request: Request, visit: Reading, q: str = "", task: str = "", language: str = "", tag: str = "", licence: str = "", owner: str = "",
           stage: str = "", sort: str = "", page: Annotated[int, Query(ge=1, le=10_000)] = 1) -> Response:
    """Show the models that a search finds."""
    given = {"q": q, "task": task, "language": language, "tag": tag, "licence": licence, "owner": owner, "stage": stage, "sort": sort}
    query = search.Query(q[:500], task, (language,) if language else (), (tag,) if tag else (), licence, owner, stage=stage,
                         sort="" if sort == "relevance" and not q.strip() else sort, limit=ON_A_PAGE + 1, offset=(page - 1) * ON_A_PAGE)
    found = visit.search(query)
    link = "/?" + urlencode({key: value for key, value in given.items() if value} | {"page": ""})
    return render(request, "browse.html", {
        "entries": found[:ON_A_PAGE], "given": given, "facets": request.app.state.facets.of(visit), "orders": ORDERS, "stages": STAGES, "page": page,
        "link": link, "has_more": len(found) > ON_A_PAGE})  # fmt: skip


@ROUTER.get("/models/{name}")
def newest(visit: Reading, name: str) -> Response:
    """Lead to the version that is shown of a model."""
    return RedirectResponse(f"/models/{name}/{visit.details(Reference(name)).entry.version}", 303)


@ROUTER.get("/models/{name}/{version}")
def model(request: Request, visit: Reading, name: str, version: int) -> Response:
    """Show all of a version."""
    details = visit.details(Reference(name, version))
    may_change, is_own = visit.may_change(name), visit.caller.sees_all or details.entry.owner == visit.caller.name
    baselines = {figure: details.figures[other] for figure in details.figures if (other := _baseline_of(figure)) in details.figures}
    return render(request, "model.html", {
        "details": details, "entry": details.entry, "versions": visit.versions(name), "lineage": lineage_of(visit, details), "baselines": baselines,
        "may_change": may_change, "access": visit.access(name) if may_change and is_own else None, "stages": STAGES[:-1],
        "base_url": str(request.base_url).rstrip("/"),
        "has_export": any(file.path.startswith("export/") for file in details.files)})  # fmt: skip


@ROUTER.get("/compare")
def side_by_side(request: Request, visit: Reading, reference: Annotated[list[str] | None, Query()] = None) -> Response:
    """Show several versions in a table, and of two also what differs between their files."""
    asked = _parsed(reference, MOST_COMPARED)
    if not asked:
        return render(request, "compare.html", {"all": [], "figures": [], "fields": FIELDS, "result": None, "best": {}, "asked": ""})
    every = [visit.details(one) for one in asked]
    figures = list(dict.fromkeys(name for details in every for name in details.figures))
    result = compare(*every) if len(every) == 2 else None
    return render(request, "compare.html", {"all": every, "figures": figures, "fields": FIELDS, "result": result, "best": _best(every, figures),
                                            "asked": " ".join(str(one) for one in asked)})


@ROUTER.get("/try")
def try_page(request: Request, visit: Reading, reference: Annotated[list[str] | None, Query()] = None) -> Response:
    """Show the page on which one or two models are tried."""
    visit.caller.require("try")
    asked = [visit.resolve(one) for one in _parsed(reference, MOST_TRIED)]
    return render(request, "try.html", {"asked": asked, "settings": request.app.state.settings})


@ROUTER.get("/health")
def health() -> Response:
    """Answer, which tells that the store is there."""
    return PlainTextResponse("ok\n")


@ROUTER.get("/metrics")
def metrics(request: Request, visit: Reading) -> Response:
    """Return the metrics, for keys and administrators that may read them."""
    visit.caller.require("metrics")
    return Response(request.app.state.metrics.page(), media_type=CONTENT_TYPE)


def _parsed(references, most):
    """Return the references of an address, without those that are empty."""
    given = [parse_reference(text) for text in references or [] if text.strip()]
    if len(given) > most:
        raise StoreError(f"reference: {len(given)} models; give {most} at most")
    return given


def _baseline_of(figure):
    part, slash, rest = figure.partition("/")
    return f"{part}/baseline/{rest}" if part in ("head", "task") and slash else f"baseline/{figure}"


def _best(every, figures):
    """Return, of losses and the like, the lowest of what is compared: of other figures only their author knows which is better."""
    best = {}
    for name in figures:
        values = [details.figures[name] for details in every if name in details.figures]
        if "baseline/" not in name and name.rpartition("/")[2] in ("loss", "perplexity", "bits_per_byte") and len(set(values)) > 1:
            best[name] = min(values)
    return best


def check_then(then: str) -> str:
    """Return where to go on after signing in, if it is one of our own pages, and else the first.

    >>> check_then("/models/tickets"), check_then("//example.org"), check_then("https://example.org")
    ('/models/tickets', '/', '/')
    """
    is_own = then.startswith("/") and not then.startswith(("//", "/\\")) and then.isprintable()
    return then if is_own else "/"


