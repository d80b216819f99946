"""What a stream has said so far: its usage, its text, and whether it came to its end.

The bytes of a stream pass through a `Meter` on their way to whoever reads them, parsed or raw, so that there is one
place that counts and one that hides the chunk of usage from a caller who did not ask for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from .types import Usage

if TYPE_CHECKING:
    from .endpoints import Endpoint

_END_OF_EVENT = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LARGEST_EVENT = 16 * 1024 * 1024
"""Bytes. A stream without event boundaries is passed on unread from here, and charged as unknown."""


_MOST_UNREAD = 16 * 1024 * 1024
"""Bytes of events that are kept unread. A longer stream without usage is charged as unknown."""
_NULL = re.compile(rb"\s*:\s*null")


def whole(value: object) -> int | None:
    """A count as a provider reports it: a whole number that is not negative, or None."""
    return value if type(value) is int and value >= 0 else None


class Meter:
    """Reads server-sent events as they pass. `feed` and `end` return the bytes to hand on, unchanged.

    Most events are only kept, and read if the stream ends without telling its usage: reading each as it passes would
    cost more than all else that is done with it. Those that tell usage or an error are read at once, and all up to the
    first text.
    """

    __slots__ = (
        "_buffer",
        "_endpoint",
        "_hide_usage",
        "_reading",
        "_unread",
        "_unread_size",
        "ended",
        "failed",
        "hosted_calls",
        "items",
        "model",
        "overflowed",
        "response_id",
        "text",
        "tier",
        "usage",
    )

    def __init__(self, endpoint: Endpoint, *, hide_usage: bool) -> None:
        self._endpoint = endpoint
        self._hide_usage = hide_usage
        self._buffer = bytearray()
        self._reading = True
        self._unread: list[bytes] = []
        self._unread_size = 0
        self.usage: Usage | None = None
        self.text: list[str] = []
        self.items = 0
        """Events that were read."""
        self.overflowed = False
        """Without usage, the stream is too long for what it said to be known."""
        self.ended = False
        """The stream said that it is complete."""
        self.failed = False
        """The stream carried an error."""
        self.model: str | None = None
        self.tier: str | None = None
        self.response_id: str | None = None
        self.hosted_calls: Mapping[str, int] | None = None

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return those that can be handed on: whole events."""
        if not self._reading:
            return data
        if not self._buffer and data.find(b"\n\n") == len(data) - 2 >= 0 and b"\r" not in data:
            return data if self._event(data) else b""  # one whole event, as nearly always
        # Only what is new is searched, and the end of what is not: an end of event may come in pieces.
        searched = max(0, len(self._buffer) - 3)
        self._buffer += data
        ends = [match.end() for match in _END_OF_EVENT.finditer(self._buffer, searched)]
        out = [event for event in self._events(ends) if self._event(event)]
        if ends:
            del self._buffer[: ends[-1]]
        if len(self._buffer) > _LARGEST_EVENT:
            self._reading = False
            out.append(bytes(self._buffer))
            self._buffer.clear()
        return out[0] if len(out) == 1 else b"".join(out)

    def _events(self, ends: list[int]) -> Iterator[bytes]:
        start = 0
        for end in ends:
            yield bytes(self._buffer[start:end])
            start = end

    def end(self) -> bytes:
        """The stream is over; return what is left."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        if rest and self._reading and not self._event(rest):
            return b""
        return rest

    def _event(self, event: bytes) -> bool:
        """Read one event; whether the caller is to see it."""
        payload = _payload(event)
        if payload is None:
            return True
        if payload.startswith(b"[DONE]"):
            self.ended = True
            return True
        if (
            _tells(payload, b'"usage"')
            or _tells(payload, b'"error"')
            or (not self.text and self._endpoint.streams_text)
        ):
            return self._read(payload)
        if self._endpoint.streams_text:
            self._unread.append(payload)
            self._unread_size += len(payload)
            if self._unread_size > _MOST_UNREAD:
                self._unread, self._unread_size, self.overflowed = [], 0, True
        return True

    def read_rest(self) -> None:
        """Read the events that were only kept: how a stream without usage ended, and what it said."""
        unread, self._unread = self._unread, []
        for payload in unread:
            self._read(payload)

    def _read(self, payload: bytes) -> bool:
        """Read what an event holds; whether the caller is to see it."""
        try:
            item = from_json(payload)
        except ValueError:
            return True
        if not isinstance(item, dict):
            return True
        self.items += 1
        endpoint = self._endpoint
        text, ended = endpoint.said(item)
        if text:
            self.text.append(text)
        if ended:
            self.ended = True
        if item.get("error") or item.get("type") == "error":
            self.failed = True
        if self.response_id is None:
            self.response_id = text_or_none(endpoint.answer(item).get("id"))
        usage = endpoint.usage(item)
        if usage is not None:
            self.note(item, usage)
        return not (self._hide_usage and item.get("usage") is not None and endpoint.only_usage(item))

    def note(self, item: Mapping[str, Any], usage: Usage | None) -> None:
        """Take from an answer, or the event that closes one, what it tells of itself."""
        answer = self._endpoint.answer(item)
        self.usage = usage
        self.hosted_calls = self._endpoint.hosted_calls(item)
        self.response_id = text_or_none(answer.get("id")) or self.response_id
        self.model = text_or_none(answer.get("model")) or self.model
        self.tier = text_or_none(answer.get("service_tier")) or self.tier


def text_or_none(value: object) -> str | None:
    """A short string from a provider's answer, or None: names from outside are bounded before they are kept."""
    return value if isinstance(value, str) and 0 < len(value) <= 256 else None


def _tells(payload: bytes, name: bytes) -> bool:
    """Whether JSON holds a name with a value that is not null. Inside of text, a quotation mark would be escaped."""
    position = payload.find(name)
    while position >= 0:
        position += len(name)
        if _NULL.match(payload, position) is None:
            return True
        position = payload.find(name, position)
    return False


def _payload(event: bytes) -> bytes | None:
    """The data of an event; None where it has none. Most events are a single line of data."""
    if event.startswith(b"data:"):
        payload = event[5:].strip()
        if b"\n" not in payload and b"\r" not in payload:
            return payload
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
