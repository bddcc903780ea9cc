"""What OpenAI's protocol asks for and gets: requests as typed models, and answers made of what the engine has written.

Source: https://platform.openai.com/docs/api-reference/completions, https://platform.openai.com/docs/api-reference/chat
"""
from __future__ import annotations

import codecs
import secrets
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tfgpt.generation.controls import CONTROLS
from tfgpt.serving.errors import BadRequestError
from tfgpt.serving.scheduler import Prompt, Writing

MOST_CHOICES = 128
MOST_TOLD = 20
DEFAULT_TOKENS = 16
"""Of a completion, as OpenAI has it; a chat goes on until it ends or the context is full."""
NEVER = -100
"""The bias of a token that is never chosen."""
DECODER = codecs.getincrementaldecoder("utf-8")
Text = Annotated[str, Field(max_length=10_000_000)]


class StreamOptions(BaseModel):
    """How a stream is told."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    include_obfuscation: bool = False


class Sampling(BaseModel):
    """What completions and chats have in common. Beside OpenAI's own keys there are the controls of `tfgpt.generation.controls`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=False)
    model: str
    """NAME, or NAME:LABEL, or NAME:VERSION."""
    temperature: float | None = Field(1.0, ge=0.0, le=100.0)
    top_p: float | None = Field(1.0, ge=0.0, le=1.0)
    n: int | None = Field(1, ge=1, le=MOST_CHOICES)
    stop: Text | list[Text] | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    presence_penalty: float | None = Field(0.0, ge=-100.0, le=100.0)
    frequency_penalty: float | None = Field(0.0, ge=-100.0, le=100.0)
    logit_bias: dict[str, float] | None = None
    """-100 alone, which bans a token."""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    top_k: int = Field(0, ge=0, le=2**31 - 1)
    min_p: float = Field(0.0, ge=0.0, le=1.0)
    typical_p: float = Field(1.0, ge=0.0, le=1.0)
    repetition_penalty: float = Field(1.0, ge=0.0, le=1000.0)
    no_repeat_ngram_size: int = Field(0, ge=0, le=2**31 - 1)
    min_new_tokens: int = Field(0, ge=0, le=2**31 - 1)
    prompt_lookup_num_tokens: int = Field(0, ge=0, le=64)

    def prompts(self, texts: list[bytes], most: int, top: int | None) -> list[Prompt]:
        """Return the rows to be written: for each text as many as `n`, whose seeds count up from the request's own, or from one that is drawn for the text.

        Args:
            texts: what is continued.
            most: tokens of each.
            top: as in `Prompt`.

        Raises:
            BadRequestError: a bias or a stop string that cannot be had.
        """
        controls = {name: getattr(self, name) for name in CONTROLS if name not in ("max_new_tokens", "seed")}
        controls = {name: value for name, value in controls.items() if value is not None} | {"max_new_tokens": most}
        if self.temperature is None:
            controls["temperature"] = 1.0
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if "" in stops:
            raise BadRequestError("stop: an empty text; give texts of one character at least")
        stop = tuple(text.encode("utf-8", "replace") for text in stops)
        banned = self._banned()
        first = [secrets.randbits(32) if self.seed is None else self.seed for _ in texts]
        return [Prompt(text, controls | {"seed": (seed + number + 2**63) % 2**64 - 2**63}, stop, banned, top=top)
                for number in range(self.n or 1) for text, seed in zip(texts, first)]

    def _banned(self):
        for token, bias in (self.logit_bias or {}).items():
            if bias != NEVER:
                raise BadRequestError(f"logit_bias: {bias:g} for token {token}; this server knows {NEVER} alone, which bans a token")
            if not (token.isascii() and token.isdecimal() and len(token) < 10):
                raise BadRequestError(f"logit_bias: {token[:20]!r} is no token; give its number")
        return tuple(map(int, self.logit_bias or {}))


class CompletionRequest(Sampling):
    """The body of /v1/completions."""

    prompt: Text | list[Text] | list[int] | list[list[int]] = "<|endoftext|>"
    """A text or several, or their tokens."""
    max_tokens: int | None = Field(None, ge=0, le=2**31 - 1)
    """`None` = `DEFAULT_TOKENS`, or fewer where the server's limit is lower."""
    logprobs: int | None = Field(None, ge=0, le=MOST_TOLD)
    echo: bool | None = False
    best_of: int | None = Field(None, ge=1, le=MOST_CHOICES)
    suffix: str | None = None

    def check(self) -> None:
        """Raise `BadRequestError` for what OpenAI's models do and these do not."""
        if self.suffix:
            raise BadRequestError("suffix: these models write on and fill no gap; leave it out")
        if self.best_of not in (None, self.n or 1):
            raise BadRequestError(f"best_of: {self.best_of}, but every text that is written is given; leave it out, or give n ({self.n or 1})")
        if self.echo and self.logprobs is not None:
            raise BadRequestError("echo with logprobs: the tokens of a prompt are not told; leave one of them out, or use the signature `score`")


class Part(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """A turn of a chat."""

    model_config = ConfigDict(extra="forbid")
    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: Text | list[Part]
    name: str | None = None

    def turn(self) -> dict[str, str]:
        """Return the turn as a chat's template takes it."""
        return {"role": self.role, "content": self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)}


class ChatRequest(Sampling):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    max_tokens: int | None = Field(None, ge=0, le=2**31 - 1)
    max_completion_tokens: int | None = Field(None, ge=0, le=2**31 - 1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=MOST_TOLD)

    def check(self) -> None:
        """Raise `BadRequestError` for what does not go together."""
        if self.top_logprobs is not None and not self.logprobs:
            raise BadRequestError("top_logprobs: wants logprobs: true beside it")


def completion_logprobs(writing: Writing, texts: list[bytes], start: int) -> dict:
    """Return the `logprobs` of a completion's choice for the tokens from `start` on.

    A token's offset is the place behind the prompt of the character that it begins, or goes on with.
    """
    tokens = [_as_text(texts, token) for token in writing.ids[start:]]
    offsets = _offsets([_bytes_of(texts, token) for token in writing.ids], start)
    tops = [{_as_text(texts, token): log_prob for token, log_prob in top} for top in writing.tops[start:]]
    return {"tokens": tokens, "token_logprobs": writing.token_log_probs[start:], "top_logprobs": tops, "text_offset": offsets}


def _offsets(pieces: list[bytes], start: int) -> list[int]:
    """Return the place in the text of each piece from `start` on, in characters.

    >>> _offsets([b"a", bytes([195]), bytes([169]), bytes([195]), b"b"], 1)  # é in two pieces, and half of one, which becomes one character by itself
    [1, 1, 2, 3]
    """
    decoder, offsets = DECODER("replace"), []
    place = len(decoder.decode(b"".join(pieces[:start])))
    for piece in pieces[start:]:
        begun, _ = decoder.getstate()
        offsets.append(place if _goes_on(begun, piece) else place + 1)
        place += len(decoder.decode(piece))
    return offsets


def _goes_on(begun, piece):
    """Tell whether a piece goes on with the character that is begun, if any is."""
    try:
        DECODER().decode(begun + piece[:1])
    except UnicodeDecodeError:
        return not begun
    return True


def chat_logprobs(writing: Writing, texts: list[bytes], start: int) -> dict:
    """Return the `logprobs` of a chat's choice for the tokens from `start` on."""
    rows = zip(writing.ids[start:], writing.token_log_probs[start:], writing.tops[start:])
    return {"content": [_told(texts, token, log_prob) | {"top_logprobs": [_told(texts, *pair) for pair in top]} for token, log_prob, top in rows],
            "refusal": None}


def _told(texts, token, log_prob):
    return {"token": _as_text(texts, token), "logprob": log_prob, "bytes": list(_bytes_of(texts, token))}


def _as_text(texts, token):
    return _bytes_of(texts, token).decode("utf-8", "replace")


def _bytes_of(texts, token):
    return texts[token] if token < len(texts) else b""
