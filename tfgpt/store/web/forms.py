"""What the pages' forms do: publish, promote, roll back, archive, rate, share, try. Each leads to the page that shows what came of it."""
from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from tfgpt.store.reference import Reference
from tfgpt.store.web.doors import Changing, Reading, Uploading
from tfgpt.store.web.lineage import link_to
from tfgpt.store.web.rendering import render
from tfgpt.store.web.tries import TryRequest, answer_try
from tfgpt.store.web.uploads import publish_form

ROUTER = APIRouter()
Text = Annotated[str, Form()]


@ROUTER.get("/publish")
def publish_page(request: Request, visit: Reading) -> Response:
    """Show the form of a new version."""
    visit.caller.require("publish")
    return render(request, "publish.html", {"settings": request.app.state.settings, "limits": visit.store.config})


@ROUTER.post("/publish")
async def publish(request: Request, visit: Uploading) -> Response:
    """Publish what the form holds."""
    return RedirectResponse(link_to((await publish_form(request, visit)).reference), 303)


@ROUTER.post("/try")
def try_model(request: Request, visit: Changing, asked: TryRequest) -> Response:
    """Have a model write, for the page's script."""
    return answer_try(request, visit, asked)


@ROUTER.post("/models/{name}/rollback")
def roll_back(visit: Changing, name: str) -> Response:
    """Put back into production what was there before."""
    return RedirectResponse(link_to(visit.roll_back(name)[0]), 303)


@ROUTER.post("/models/{name}/access")
def access(visit: Changing, name: str, visibility: Text = "", group: Text = "", right: Text = "") -> Response:
    """Make a model private or public, or grant it to a group."""
    private = {"private": True, "public": False}.get(visibility)
    visit.set_access(name, private, {group: right} if group else None)
    return RedirectResponse(f"/models/{name}#access", 303)


@ROUTER.post("/models/{name}/{version}/promote")
def promote(visit: Changing, name: str, version: int, stage: Text) -> Response:
    """Put a version into a stage."""
    return RedirectResponse(link_to(visit.promote(Reference(name, version), stage)), 303)


@ROUTER.post("/models/{name}/{version}/archive")
def archive(visit: Changing, name: str, version: int) -> Response:
    """Put a version out of use."""
    return RedirectResponse(link_to(visit.archive(Reference(name, version))), 303)


@ROUTER.post("/models/{name}/{version}/rate")
def rate(visit: Changing, name: str, version: int, stars: Annotated[int, Form()], review: Text = "") -> Response:
    """Rate a model."""
    return RedirectResponse(f"{link_to(visit.rate(Reference(name, version), stars, review.replace(chr(13), '')))}#reviews", 303)
