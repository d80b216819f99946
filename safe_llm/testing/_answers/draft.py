"""What every surface needs to know of an answer, before it is put into the surface's own words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...types import Usage
from ..reply import Reply, Request

GREETING = "Hello from the fake server."
FILLER = "word "


class MalformedRequestError(Exception):
    """The real API would answer 400."""

    def __init__(self, param: str, expected: str) -> None:
        super().__init__(f"Invalid value for '{param}': expected {expected}.")
        self.param = param


class Media(NamedTuple):
    """A body of a type of its own."""

    kind: str
    """For example ``audio/mpeg``."""
    content: bytes


Body = Mapping[str, Any] | str | bytes | Media


class Events(NamedTuple):
    """A stream, in the order of sending; each item is the text of one server-sent event."""

    opening: list[bytes]
    content: list[bytes]
    """What `Reply.cut` counts."""
    closing: list[bytes]
    end: bytes
    """The mark without which a stream is not complete."""


@dataclass(frozen=True, slots=True)
class Draft:
    """One answer. Each of the `answers` that were asked for is the same."""

    number: str
    created: int
    model: str
    answers: int
    pieces: list[str]
    """Of the text, or of the refusal."""
    refused: bool
    tool_calls: list[Mapping[str, str]]
    capped: bool
    """The output cap cut the answer short."""
    finish_reason: str
    service_tier: str | None
    usage: Usage | Mapping[str, Any] | None

    @property
    def text(self) -> str | None:
        """None where the model refuses, or only calls tools."""
        silent = self.refused or (self.tool_calls and not self.pieces)
        return None if silent else "".join(self.pieces)

    @property
    def refusal(self) -> str | None:
        return "".join(self.pieces) if self.refused else None


def draft(request: Request, reply: Reply, *, prompt_tokens: int, cap: int | None, answers: int = 1) -> Draft:
    """`cap` is the most pieces that one answer may have; None where the request names no cap."""
    said = pieces(reply)
    capped = cap is not None and len(said) > cap
    said = said[:cap]
    finish = "length" if capped else "tool_calls" if reply.tool_calls else "stop"
    usage = reply.usage
    if usage == "computed":
        spoken = len(said) + sum(words(call["name"]) + words(call["arguments"]) for call in reply.tool_calls)
        usage = Usage(prompt_tokens, answers * (spoken if cap is None else min(spoken, cap)))
    return Draft(
        number=request.id.removeprefix("req_"),
        created=int(request.time),
        model=reply.model or str(request.body.get("model")),
        answers=answers,
        pieces=said,
        refused=reply.refusal is not None,
        tool_calls=list(reply.tool_calls),
        capped=capped,
        finish_reason=reply.finish_reason or finish,
        service_tier=reply.service_tier,
        usage=usage,
    )


def pieces(reply: Reply, default: str = GREETING) -> list[str]:
    """What is said, `default` where the reply has no words."""
    text = reply.refusal if reply.refusal is not None else reply.text
    if reply.chunks is not None:
        text, count = text or FILLER * reply.chunks, reply.chunks
        return [text[i * len(text) // count : (i + 1) * len(text) // count] for i in range(count)]
    if text is None:
        text = "" if reply.tool_calls else default
    return split(text)


def split(text: str) -> list[str]:
    """Into words with the space before them; joined, they are the text again."""
    return re.findall(r"\s*\S+|\s+$", text)


def words(value: Any) -> int:
    """Words in a prompt of any of the API's shapes. A token id counts as one; images and files as none."""
    match value:
        case str():
            return len(value.split())
        case int():
            return 1
        case list():
            return sum(map(words, value))
        case {"text": inner} | {"content": inner} | {"output": inner}:
            return words(inner)
    return 0


def batch_size(value: Any) -> int:
    """Prompts or inputs in one request. A list is a batch, unless it holds the token ids of a single one."""
    return len(value) if isinstance(value, list) and value and not isinstance(value[0], int) else 1


def whole_number(request: Request, name: str, least: int = 1) -> int | None:
    """A parameter of the request that must be a whole number of at least `least`, where it is given."""
    value = request.body.get(name)
    if is_form(request) and isinstance(value, str) and value.isdecimal():
        value = int(value)
    if value is not None and (type(value) is not int or value < least):
        raise MalformedRequestError(name, f"a whole number of at least {least}")
    return value


def is_form(request: Request) -> bool:
    """Whether all of its parameters are text."""
    return request.headers.get("content-type", "").lower().startswith("multipart/")


def asks_to_stream(request: Request) -> bool:
    """By the parameter ``stream``, which is text in a form."""
    value = request.body.get("stream")
    return value == "true" if is_form(request) else bool(value)


def uploads(request: Request, name: str) -> list[bytes]:
    """The files of a form in this field, which must have one at least."""
    found = [content for field in (name, f"{name}[]") for _, content in request.files.get(field, ())]
    if not found:
        raise MalformedRequestError(name, "a file")
    return found


def conversation(messages: Any) -> int:
    """Prompt tokens of a list of messages: the words, 4 for each message and 3 to prime the answer."""
    return words(messages) + 4 * (len(messages) if isinstance(messages, list) else 1) + 3


def sse(data: Mapping[str, Any] | str, event: str | None = None) -> bytes:
    """One server-sent event."""
    name = f"event: {event}\n" if event else ""
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    return f"{name}data: {text}\n\n".encode()


DONE = sse("[DONE]")


def completion_usage(usage: Usage | Mapping[str, Any]) -> Mapping[str, Any]:
    """A usage in the words of chat and of legacy completions."""
    if not isinstance(usage, Usage):
        return usage
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "audio_tokens": usage.input_audio_tokens,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": usage.output_audio_tokens,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
