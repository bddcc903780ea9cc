"""Chats as text: turns rendered by a Jinja template, which also says which parts of it are the assistant's and so trained on."""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

DEFAULT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message.role | capitalize }}:"
    "{% if message.role == 'assistant' %}"
    "{% generation %}{{ ' ' + message.content + '<|endoftext|>' }}{% endgeneration %}"
    "{% else %}{{ ' ' + message.content }}{% endif %}"
    "{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""Plain text that any GPT-2 vocabulary holds; each of the assistant's turns ends with end-of-text, so that decoding stops there."""


def chat_parts(messages: Sequence[Mapping[str, str]], template: str = DEFAULT_TEMPLATE) -> list[tuple[str, bool]]:
    """Return a chat as text in parts, each with whether it is trained on.

    Args:
        messages: turns, each with `role` and `content`.
        template: Jinja, as transformers' `apply_chat_template` takes it; `{% generation %}` marks what is trained on.

    Raises:
        ValueError: a turn without role or content, a template that does not work on these turns, or nothing to train on.

    >>> chat_parts([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
    [('User: Hi\\nAssistant:', False), (' Hello<|endoftext|>', True), ('\\n', False)]
    """
    text, spans = _render(messages, template, return_assistant_tokens_mask=True)
    if not spans:
        raise ValueError("no turn of an assistant")
    parts, done = [], 0
    for start, end in spans:
        parts += [(text[done:start], False), (text[start:end], True)]
        done = end
    return [(part, trained) for part, trained in [*parts, (text[done:], False)] if part]


def marks_what_is_trained_on(template: str) -> bool:
    """Tell whether a template has the marks that `chat_parts` goes by."""
    return re.search(r"\{%-?\s*generation\s*-?%\}", template) is not None


def chat_prompt(messages: Sequence[Mapping[str, str]], template: str = DEFAULT_TEMPLATE) -> str:
    """Return the text that an assistant's next turn continues.

    >>> chat_prompt([{"role": "user", "content": "Hi"}])
    'User: Hi\\nAssistant:'
    """
    return _render(messages, template, add_generation_prompt=True)[0]


def _render(messages, template, **options):
    for number, message in enumerate(messages):
        if not (isinstance(message, Mapping) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)):
            raise ValueError(f"turn {number} is no object with the texts role and content")
    try:
        texts, spans = render_jinja_template([list(messages)], chat_template=template, **options)
    except (TemplateError, TypeError) as error:
        raise ValueError(f"the chat template does not work on these turns ({error})") from error
    return texts[0], spans[0] if spans else []
