"""Chats as text: turns rendered by a Jinja template, which also says which parts of it are the assistant's and so trained on.

A chat longer than what a model reads loses its oldest turns, whole and counted; its system text stays.
"""
from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

DEFAULT_TEMPLATE = (
    "{% if add_generation_prompt %}{{ '<|endoftext|>' }}{% endif %}"
    "{% for message in messages %}"
    "{{ message.role | capitalize }}:"
    "{% if message.role == 'assistant' %}"
    "{% generation %}{{ ' ' + message.content + '<|endoftext|>' }}{% endgeneration %}"
    "{% else %}{{ ' ' + message.content }}{% endif %}"
    "{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""Plain text that any GPT-2 vocabulary holds; each of the assistant's turns ends with end-of-text, so that decoding stops there. A prompt begins with it, as
each chat does in training, where the data puts it before each document."""


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
    '<|endoftext|>User: Hi\\nAssistant:'
    """
    return _render(messages, template, add_generation_prompt=True)[0]


class TooLongError(ValueError):
    """The system text and the last turn of a chat alone have no room; holds their prompt."""

    def __init__(self, prompt: str, said: str):
        super().__init__(f"the system text and the last turn ({said[:40]!r}) are longer than what the model reads at once, room for its reply left; shorten "
                         "them, or ask for fewer new tokens")
        self.prompt = prompt


class Memory(NamedTuple):
    """What of a chat is read."""

    turns: tuple[Mapping[str, str], ...]
    """The system text, if there is one, and the newest turns."""
    prompt: str
    """These as text, which an assistant's next turn continues."""
    left_out: int
    """How many turns, the oldest ones, are not among them."""


def remembered(messages: Sequence[Mapping[str, str]], fits: Callable[[str], bool], template: str = DEFAULT_TEMPLATE) -> Memory:
    """Leave out the oldest turns of a chat until its prompt fits; no turn is ever cut.

    The system text (turns of that role before all others) and the last turn stay. An answer whose question is left out goes with it.

    Args:
        messages: turns, one at least that is not the system's; the last is to be answered.
        fits: tells of a prompt whether there is room for it.
        template: as `chat_parts` takes it.

    Raises:
        TooLongError: the system text and the last turn alone do not fit.
        ValueError: as `chat_prompt`.

    >>> turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Who?"}]
    >>> remembered([{"role": "system", "content": "Be brief."}, *turns], lambda prompt: len(prompt) < 60)[1:]
    ('<|endoftext|>System: Be brief.\\nUser: Who?\\nAssistant:', 2)
    """
    _check(messages)
    first = next((place for place, turn in enumerate(messages) if turn["role"] != "system"), len(messages))
    system, turns = messages[:first], messages[first:]

    def without(left_out):
        kept = (*system, *turns[left_out:])
        return Memory(kept, chat_prompt(kept, template), left_out)

    if fits((whole := without(0)).prompt):
        return whole
    last = max(len(turns) - 1, 0)
    begins = [left_out for left_out in range(1, last) if turns[left_out]["role"] != "assistant"] + [last]
    # the more is left out the shorter it is, so a chat of thousands of turns is rendered and counted a dozen times
    memory = without(begins[min(bisect.bisect_left(begins, True, key=lambda left_out: fits(without(left_out).prompt)), len(begins) - 1)])
    if not fits(memory.prompt):
        raise TooLongError(memory.prompt, memory.turns[-1]["content"])
    return memory


def room_for_reply(max_new_tokens: int, context: int) -> int:
    """Return how many tokens of the context a memory leaves for a reply: as many as it may have, and at most a quarter, since what was said is worth more.

    >>> room_for_reply(64, 1024), room_for_reply(64, 128)
    (64, 32)
    """
    return min(max(max_new_tokens, 1), context // 4)


def _check(messages):
    for number, message in enumerate(messages):
        if not (isinstance(message, Mapping) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)):
            raise ValueError(f"turn {number} is no object with the texts role and content")


def _render(messages, template, **options):
    _check(messages)
    try:
        texts, spans = render_jinja_template([list(messages)], chat_template=template, **options)
    except (TemplateError, TypeError) as error:
        raise ValueError(f"the chat template does not work on these turns ({error})") from error
    return texts[0], spans[0] if spans else []
