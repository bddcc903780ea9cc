"""Signing in and out, one's own keys and password, and the pages of administrators: users, groups, the audit log."""
from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Path, Request
from starlette.responses import RedirectResponse, Response

from tfgpt.store.access import users
from tfgpt.store.access.rights import ROLES, SCOPES
from tfgpt.store.errors import ForbiddenError
from tfgpt.store.web.doors import COOKIE, Changing, Reading, give_token
from tfgpt.store.web.guard import address_of, counted_as
from tfgpt.store.web.pages import check_then
from tfgpt.store.web.rendering import render

ROUTER = APIRouter()
Text = Annotated[str, Form()]
LINES = 100


@ROUTER.get("/sign-in", name="sign_in_page")
def sign_in_page(request: Request, then: str = "/") -> Response:
    """Show the form."""
    return render(request, "sign_in.html", {"then": check_then(then), "name": "", "message": ""})


@ROUTER.post("/sign-in")
def sign_in(request: Request, visit: Changing, name: Text = "", password: Text = "", then: Text = "/") -> Response:
    """Sign a browser in; it gets a new token, so that one which somebody else has put there is worth nothing."""
    state, address = request.app.state, address_of(request.scope)
    state.rates.count("attempts to sign in", f"from {counted_as(address)}")
    state.rates.count("attempts to sign in with this name", name[:64].casefold())
    try:
        token = users.sign_in(visit.store.database, name, password, {"address": address})
    except ForbiddenError as error:
        state.metrics.sign_ins.labels("refused").inc()
        return render(request, "sign_in.html", {"then": check_then(then), "name": name[:64], "message": str(error)}, 403)
    state.metrics.sign_ins.labels("done").inc()
    users.sign_out(visit.store.database, request.cookies[COOKIE])  # whoever this browser was signed in as before
    response = RedirectResponse(check_then(then), 303)
    give_token(request, response, token)
    return response


@ROUTER.post("/sign-out")
def sign_out(request: Request, visit: Changing) -> Response:
    """End what the browser's token stands for."""
    users.sign_out(visit.store.database, request.cookies.get(COOKIE, ""))
    response = RedirectResponse("/", 303)
    response.delete_cookie(COOKIE)
    return response


@ROUTER.get("/account")
def account(request: Request, visit: Reading) -> Response:
    """Show one's keys, and the forms of a new one and of another password."""
    return _account(request, visit)


@ROUTER.post("/account/keys")
def make_key(request: Request, visit: Changing, name: Text = "", scopes: Annotated[list[str] | None, Form()] = None,
             days: Annotated[int, Form()] = 90) -> Response:
    """Make a key, and show it this once."""
    return _account(request, visit, visit.make_key(name, scopes or (), days))


@ROUTER.post("/account/keys/{number}/revoke")
def revoke_key(visit: Changing, number: Annotated[int, Path(ge=1, lt=2**31)]) -> Response:
    """Have a key refused from now on."""
    visit.revoke_key(number)
    return RedirectResponse("/account", 303)


@ROUTER.post("/account/password")
def change_password(request: Request, visit: Changing, old: Text = "", new: Text = "", again: Text = "") -> Response:
    """Change one's password, which signs out every browser."""
    request.app.state.rates.count("attempts to sign in", f"as {visit.caller.name}")
    if new != again:
        raise ForbiddenError("password: the two new ones are not the same; type it again")
    visit.change_password(old, new)
    return RedirectResponse("/sign-in", 303)


@ROUTER.get("/admin")
def admin(request: Request, visit: Reading) -> Response:
    """Show users and groups."""
    return render(request, "admin.html", {"users": visit.users(), "groups": visit.groups(), "roles": list(ROLES)})


@ROUTER.get("/admin/audit")
def audit(request: Request, visit: Reading, actor: str = "", action: str = "", model: str = "", before: int = 0) -> Response:
    """Show the audit log."""
    lines = visit.audit(actor, action, model, before, LINES)
    given = {"actor": actor, "action": action, "model": model}
    older = "/admin/audit?" + urlencode({key: value for key, value in given.items() if value} | {"before": lines[-1].id}) if len(lines) == LINES else ""
    return render(request, "audit.html", {"lines": lines, "given": given, "older": older})


@ROUTER.post("/admin/users")
def add_user(visit: Changing, name: Text = "", password: Text = "", role: Text = "reader") -> Response:
    """Make somebody known."""
    visit.add_user(name, password, role)
    return RedirectResponse("/admin", 303)


@ROUTER.post("/admin/users/{name}")
def change_user(visit: Changing, name: str, role: Text = "", state: Text = "", password: Text = "") -> Response:
    """Change a user's role or password, or refuse or accept them again."""
    visit.change_user(name, role or None, {"disabled": True, "enabled": False}.get(state), password or None)
    return RedirectResponse("/admin", 303)


@ROUTER.post("/admin/groups")
def add_group(visit: Changing, name: Text = "") -> Response:
    """Make a group."""
    visit.add_group(name)
    return RedirectResponse("/admin", 303)


@ROUTER.post("/admin/groups/{name}")
def change_group(visit: Changing, name: str, user: Text = "", action: Text = "") -> Response:
    """Put a user into a group or out of it, or remove the group."""
    if action == "remove":
        visit.remove_group(name)
    else:
        visit.set_member(name, user, action != "leave")
    return RedirectResponse("/admin", 303)


def _account(request, visit, new_key=""):
    keys = visit.api_keys()
    scopes = {scope: SCOPES[scope] for scope in SCOPES if scope in visit.caller.scopes}
    return render(request, "account.html", {"keys": keys, "scopes": scopes, "new_key": new_key})
