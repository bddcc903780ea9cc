"""The API for programs, under /api/v1, as /api/openapi.json describes it. It does what the pages do, by the same `Visit`."""
from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse

from tfgpt.store import search
from tfgpt.store.catalog import entry_as_dict
from tfgpt.store.compare import compare
from tfgpt.store.reference import Reference, parse_reference
from tfgpt.store.web.doors import Changing, Reading, Uploading
from tfgpt.store.web.tries import TryRequest, answer_try
from tfgpt.store.web.uploads import publish_form

DESCRIPTION = """Published models: find, describe, fetch, publish, promote, rate and try them.

Send `Authorization: Bearer KEY` with a key of your account's page. What goes wrong is answered with a status and `{"error": "..."}`."""


class Refusal(BaseModel):
    """Why something is not done."""

    error: str


PUBLISH = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
    "type": "object", "required": ["files"], "properties": {
        "files": {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "Each with its path in the run's folder as file name"},
        **{field: {"type": "string"} for field in ("version", "stage", "task", "licence", "base_model", "languages", "tags", "card", "private")}}}}}}}
"""What the description says of an upload, whose form is read by hand."""
KEY = HTTPBearer(auto_error=False, description="A key of your account's page")
ROUTER = APIRouter(dependencies=[Depends(KEY)], responses={status: {"model": Refusal} for status in (400, 401, 403, 404, 429)})
Name = Annotated[str, Path(description="Of the model.", max_length=200)]
Number = Annotated[int, Path(description="Of the version.", ge=1, lt=2**31)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Promotion(_Asked):
    """Which version, and where to."""

    version: int = Field(ge=1, lt=2**31)
    stage: str = "production"


class Rating(_Asked):
    """Of a version, one of each user and model."""

    version: int = Field(ge=1, lt=2**31)
    stars: int
    review: str = ""


class NewAccess(_Asked):
    """Who sees a model; what is left out stays. A right of "" takes a grant back."""

    private: bool | None = None
    grants: dict[str, str] = {}


class NewUser(_Asked):
    """Somebody who can sign in."""

    name: str
    password: str
    role: str = "reader"


@ROUTER.get("/models", tags=["models"])
def search_models(visit: Reading, q: str = "", task: str = "", language: Annotated[list[str] | None, Query()] = None,
                  tag: Annotated[list[str] | None, Query()] = None, licence: str = "", owner: str = "", base_model: str = "", stage: str = "",
                  max_size_bytes: int = 0, sort: str = "", limit: int = 20, offset: int = 0) -> list[dict]:
    """Find models by words and filters; see `tfgpt store search`."""
    query = search.Query(q[:500], task, tuple(language or ()), tuple(tag or ()), licence, owner, base_model, stage, max_size_bytes, sort, limit, offset)
    return [entry_as_dict(entry) for entry in visit.search(query)]


@ROUTER.get("/models/{name}", tags=["models"])
def list_versions(visit: Reading, name: Name) -> list[dict]:
    """List a model's versions, the newest first."""
    return [entry_as_dict(entry) for entry in visit.versions(name)]


@ROUTER.get("/resolve", tags=["models"])
def resolve(visit: Reading, reference: str) -> dict:
    """Return the version that NAME, NAME:VERSION or NAME@STAGE leads to now."""
    return entry_as_dict(visit.details(parse_reference(reference)).entry)


@ROUTER.get("/compare", tags=["models"])
def compare_versions(visit: Reading, first: str, second: str) -> dict:
    """Compare two versions: fields, figures, data, files."""
    return compare(visit.details(parse_reference(first)), visit.details(parse_reference(second)))


@ROUTER.get("/models/{name}/versions/{version}", tags=["models"])
def describe(visit: Reading, name: Name, version: Number) -> dict:
    """Return all that is known of a version: fields, figures, files with their sha256, card, reviews, log."""
    details = visit.details(Reference(name, version))
    return entry_as_dict(details.entry) | {key: value for key, value in asdict(details).items() if key != "entry"}


@ROUTER.get("/models/{name}/versions/{version}/files/{path:path}", tags=["models"], response_class=Response)
def fetch(request: Request, visit: Reading, name: Name, version: Number, path: str) -> Response:
    """Fetch a file of a version. Its sha256 is in the header X-SHA256. The first file of its weights counts as a download."""
    reference = Reference(name, version)
    file, is_counted = visit.file(reference, path)
    if is_counted:
        visit.count_download(reference)
        request.app.state.metrics.downloads.inc()
    headers = {"Content-Length": str(file.size_bytes), "X-SHA256": file.sha256, "Content-Disposition": "attachment"}
    return StreamingResponse(visit.content(file), media_type="application/octet-stream", headers=headers)


@ROUTER.post("/models/{name}/versions", tags=["changes"], status_code=201, openapi_extra=PUBLISH, responses={200: {"description": "There already"}})
async def publish(request: Request, response: Response, visit: Uploading, name: Name) -> dict:
    """Publish a version: multipart/form-data; 200 where the same content is there already.

    Of `files` each has its path in the run's folder, such as model/config.json, as its file name; if wanted there are version, stage, task, licence,
    base_model, languages, tags, card, private.
    """
    done = await publish_form(request, visit, name)
    if not done.is_new:
        response.status_code = 200
    return {"reference": str(done.reference), "is_new": done.is_new}


@ROUTER.post("/models/{name}/promote", tags=["changes"])
def promote(visit: Changing, name: Name, asked: Promotion) -> dict:
    """Put a version into a stage."""
    return {"reference": str(visit.promote(Reference(name, asked.version), asked.stage)), "stage": asked.stage}


@ROUTER.post("/models/{name}/rollback", tags=["changes"])
def roll_back(visit: Changing, name: Name) -> dict:
    """Put back into production what was there before."""
    reference, before = visit.roll_back(name)
    return {"reference": str(reference), "instead_of": before}


@ROUTER.post("/models/{name}/versions/{version}/archive", tags=["changes"])
def archive(visit: Changing, name: Name, version: Number) -> dict:
    """Put a version out of use."""
    return {"reference": str(visit.archive(Reference(name, version))), "stage": "archived"}


@ROUTER.post("/models/{name}/ratings", tags=["changes"])
def rate(visit: Changing, name: Name, asked: Rating) -> dict:
    """Rate a model, in place of what you said of it before."""
    return {"reference": str(visit.rate(Reference(name, asked.version), asked.stars, asked.review)), "stars": asked.stars}


@ROUTER.get("/models/{name}/access", tags=["access"])
def access(visit: Reading, name: Name) -> dict:
    """Return who sees a model of yours."""
    return asdict(visit.access(name))


@ROUTER.put("/models/{name}/access", tags=["access"])
def set_access(visit: Changing, name: Name, asked: NewAccess) -> dict:
    """Make a model private or public, and grant it to groups."""
    return asdict(visit.set_access(name, asked.private, asked.grants))


@ROUTER.post("/try", tags=["models"], response_class=Response, responses={200: {"content": {"application/x-ndjson": {}}}})
def try_model(request: Request, visit: Changing, asked: TryRequest) -> Response:
    """Have a model write: lines of JSON with `piece`, then one with `done` or `error`."""
    return answer_try(request, visit, asked)


@ROUTER.get("/users", tags=["administration"])
def list_users(visit: Reading) -> list[dict]:
    """List all users."""
    return [asdict(user) for user in visit.users()]


@ROUTER.post("/users", tags=["administration"], status_code=201)
def add_user(visit: Changing, asked: NewUser) -> dict:
    """Make somebody known."""
    visit.add_user(asked.name, asked.password, asked.role)
    return {"user": asked.name, "role": asked.role}


@ROUTER.get("/audit", tags=["administration"])
def audit(visit: Reading, actor: str = "", action: str = "", model: str = "", before: int = 0, limit: int = 100) -> list[dict]:
    """Return lines of the audit log, the newest first."""
    return [asdict(line) for line in visit.audit(actor, action, model, before, limit)]


def described(app: FastAPI) -> dict:
    """Return the OpenAPI description of an application. FastAPI would announce 422, which is answered with 400 here."""
    if app.openapi_schema is None:
        schema = FastAPI.openapi(app)
        for operation in (operation for methods in schema["paths"].values() for operation in methods.values()):
            operation["responses"].pop("422", None)
    return app.openapi_schema
