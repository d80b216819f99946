"""Answers of a provider, made of given texts, and what the output checks make of them; without HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any

from safe_llm import Policy
from safe_llm.checks.output import Output
from safe_llm.endpoints.chat import CHAT
from safe_llm.endpoints.responses import RESPONSES
from safe_llm.guard import Guard
from safe_llm.identity import NOTHING, Identity
from safe_llm.metering import Meter
from safe_llm.testing import FakeClock
from safe_llm.types import Admission, Call

USER = {"role": "user", "content": "Hello"}
GUARD = Guard(Policy(), clock=FakeClock(), hash_key=b"key")


def admission(*, responses: bool = False, **body: Any) -> Admission:
    """A call that was let through."""
    endpoint = RESPONSES if responses else CHAT
    given = {"model": "gpt-4o-mini", "stream": True, ("input" if responses else "messages"): [USER], **body}
    call = Call(endpoint, given, NOTHING)
    endpoint.read(call)
    return Admission("id", call, NOTHING, 0.0, datetime.now(UTC), GUARD)


def output(
    checks: Mapping[str, Any] | None = None, *, own: Sequence[Any] = (), watches: bool = False, **rest: Any
) -> Output:
    """What looks at the answer to such a call, under these ``[checks]``."""
    rules = Policy(checks=dict(checks or {})).checks
    return Output(admission(**rest), Identity("anonymous"), rules, own, watches=watches)


def through(looking: Output, data: Iterable[bytes]) -> list[bytes]:
    """What comes out for each piece of the bytes that goes in, and at the end."""
    meter = Meter(CHAT, hide_usage=False)
    out = []
    for piece in data:
        events = meter.feed(piece)
        out.append(looking.feed(events) if events else b"")
        if looking.rejection is not None:
            return out
    rest = meter.end()
    out.append((looking.feed(rest) if rest else b"") + looking.end())
    return out


def split(text: str, random: Random, most: int = 6) -> list[str]:
    """The text in pieces of random lengths; now and then each character by itself."""
    most = 1 if random.random() < 0.1 else random.choice((most, 40))
    pieces, position = [], 0
    while position < len(text):
        step = random.randint(1, most)
        pieces.append(text[position : position + step])
        position += step
    return pieces


def cut(data: bytes, random: Random) -> list[bytes]:
    """Bytes as a network delivers them: in the middle of events, of characters, of line ends."""
    if random.random() < 0.3:
        return re.findall(rb".+?(?:\r\n\r\n|\n\n|\Z)", data, re.DOTALL)
    pieces, position = [], 0
    while position < len(data):
        step = random.randint(1, 300)
        pieces.append(data[position : position + step])
        position += step
    return pieces


def sse(item: Any, random: Random | None = None) -> bytes:
    """One event: with or without escapes, its name, a comment, carriage returns."""
    if random is None:
        return b"data: " + json.dumps(item).encode() + b"\n\n"
    data = json.dumps(item, ensure_ascii=random.random() < 0.5)
    if random.random() < 0.1:
        data = "".join(
            f"\\u{ord(letter):04x}" if letter.isalpha() and random.random() < 0.3 and not held else letter
            for letter, held in _with_held(data)
        )
    lines = [f"data: {data}"]
    if "type" in item:
        lines.insert(0, f"event: {item['type']}")
    if random.random() < 0.05:
        lines.insert(0, ": a comment")
    ending = "\r\n" if random.random() < 0.2 else "\n"
    return (ending.join(lines) + ending * 2).encode("utf-8", "surrogatepass")


def _with_held(data: str) -> Iterable[tuple[str, bool]]:
    """Each character, and whether it must stay as it is: outside of strings, and in escapes."""
    inside, escaped, left = False, False, 0
    for letter in data:
        held = not inside or escaped or left > 0
        if left:
            left -= 1
        elif escaped:
            escaped, left = False, 4 if letter == "u" else 0
        elif letter == "\\":
            escaped = True
        elif letter == '"':
            inside = not inside
        yield letter, held or escaped


def chat_events(texts: Sequence[Sequence[str]], random: Random | None = None, field: str = "content") -> list[bytes]:
    """A stream of one choice for each list of pieces, interleaved."""
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini"}
    waiting = [(index, list(pieces)) for index, pieces in enumerate(texts)]
    events = [sse({**base, "choices": [_choice(index, {"role": "assistant", field: ""})]}) for index, _ in waiting]
    while waiting:
        index, pieces = random.choice(waiting) if random else waiting[0]
        if pieces:
            delta = {field: pieces.pop(0)}
            logprobs = (
                {"content": [{"token": delta[field], "logprob": -0.1}]} if random and random.random() < 0.1 else None
            )
            events.append(sse({**base, "choices": [_choice(index, delta, logprobs=logprobs)]}, random))
        else:
            events.append(sse({**base, "choices": [_choice(index, {}, "stop")]}, random))
            waiting = [each for each in waiting if each[0] != index]
    return [*events, b"data: [DONE]\n\n"]


def _choice(index: int, delta: Any, reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def response_events(pieces: Sequence[str], random: Random | None = None) -> list[bytes]:
    """A stream of the Responses API that says one text."""
    text = "".join(pieces)
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "content": [part], "status": "completed"}
    response = {"id": "resp_1", "object": "response", "status": "completed", "output": [item]}
    all_of_it: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**response, "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {"type": "response.content_part.added", **where, "part": {**part, "text": ""}},
        *({"type": "response.output_text.delta", **where, "delta": piece, "logprobs": []} for piece in pieces),
        {"type": "response.output_text.done", **where, "text": text},
        {"type": "response.content_part.done", **where, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": response},
    ]
    return [sse(event, random) for event in all_of_it]


def items_in(data: bytes) -> list[dict[str, Any]]:
    """The JSON of the events."""
    found = []
    for line in data.replace(b"\r\n", b"\n").split(b"\n"):
        if line.startswith(b"data:") and b"[DONE]" not in line:
            found.append(json.loads(line[5:]))
    return found


def said(data: bytes, field: str = "content") -> list[str]:
    """The text of each choice of a chat stream."""
    texts: dict[int, str] = {}
    for item in items_in(data):
        for choice in item["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + (choice["delta"].get(field) or "")
    return [texts[index] for index in sorted(texts)]
