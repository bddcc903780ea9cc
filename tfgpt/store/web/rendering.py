"""Pages from templates: everything is escaped but what Markdown makes, which holds no HTML of its author."""
from __future__ import annotations

import functools
from pathlib import Path

import jinja2
from fastapi import Request
from markdown_it import MarkdownIt
from markupsafe import Markup
from starlette.responses import HTMLResponse

import tfgpt
from tfgpt.store.access.rights import Caller
from tfgpt.store.cards import split_card
from tfgpt.store.web.doors import CSRF_FIELD, csrf_of, give_token, token_of

MARKDOWN = MarkdownIt("js-default").disable("image")  # which would tell another server who looks at a page
MOST_MARKS = 2000
"""Of one kind in a card: the time that Markdown takes goes with their square."""
KINDS = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


@functools.lru_cache(maxsize=256)
def card_html(card: str) -> Markup:
    """Return a card's Markdown as HTML; HTML in it is text, and links lead to no scripts. One with more marks than any page has is shown as it is written."""
    body = split_card(card)[1]
    if max(map(body.count, "[]*_`<!~|")) > MOST_MARKS:
        return Markup("<pre>{}</pre>").format(body)
    return Markup(MARKDOWN.render(body))


def size_text(count: int) -> str:
    """Return a number of bytes for people.

    >>> size_text(10_400_000)
    '10.4 MB'
    """
    unit = next((unit for unit, size in reversed(KINDS.items()) if count >= size), "B")
    return f"{count / KINDS[unit]:.3g} {unit}" if count < 1000 * KINDS[unit] else f"{count / KINDS[unit]:,.0f} {unit}"


def number_text(value: float | None) -> str:
    """Return a figure for people."""
    return "-" if value is None else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _environment():
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
                                     trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"size": size_text, "number": number_text, "card": card_html, "minute": lambda at: at[:16].replace("T", " ")}
    environment.globals["tfgpt_version"] = tfgpt.__version__
    return environment


ENVIRONMENT = _environment()


def render(request: Request, name: str, context: dict, status: int = 200) -> HTMLResponse:
    """Return a page, for whoever asks, with the token that its forms need."""
    token, is_new = token_of(request)
    caller = getattr(request.state, "caller", None) or Caller()
    csrf = csrf_of(token)
    field = Markup('<input type="hidden" name="{}" value="{}">').format(CSRF_FIELD, csrf)
    page = ENVIRONMENT.get_template(name).render(context | {"caller": caller, "csrf": csrf, "csrf_field": field, "path": request.url.path,
                                                            "can_try": "try" in caller.scopes and request.app.state.settings.try_models > 0})
    response = HTMLResponse(page, status)
    if is_new:
        give_token(request, response, token)
    return response
