"""What a stream has said so far: its usage, its text, and whether it came to its end.

The bytes of a stream pass through a `Meter` on their way to whoever reads them, parsed or raw, so that there is one
place that counts and one that hides the chunk of usage from a caller who did not ask for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from .types import Usage

if TYPE_CHECKING:
    from .endpoints import Endpoint

_END_OF_EVENT = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LARGEST_EVENT = 16 * 1024 * 1024
"""Bytes. A stream without event boundaries is passed on unread from here, and charged as unknown."""


_MOST_KEPT = 16 * 1024 * 1024
"""Bytes of events that are kept unread. A longer stream without usage is charged as unknown."""
_USAGE = b'"usage"'
_DONE = b"[DONE]\n\n"
_NULL = re.compile(rb"\s*:\s*null")


def whole(value: object) -> int | None:
    """A count as a provider reports it: a whole number that is not negative, or None."""
    return value if type(value) is int and value >= 0 else None


class Meter:
    """Reads server-sent events as they pass. `feed` and `end` return the bytes to hand on, unchanged.

    Up to the first text each event is read at once, and then only those that tell usage or an error. The others are
    kept, and read if the stream ends without telling its usage: reading all as they pass would cost more than
    everything else that is done with them.
    """

    __slots__ = (
        "_buffer",
        "_endpoint",
        "_hide_usage",
        "_kept",
        "_kept_size",
        "_reading",
        "_skips",
        "ended",
        "failed",
        "hosted_calls",
        "items",
        "model",
        "overflowed",
        "pending",
        "response_id",
        "tier",
        "usage",
    )

    def __init__(self, endpoint: Endpoint, *, hide_usage: bool) -> None:
        self._endpoint = endpoint
        self._hide_usage = hide_usage
        self._buffer = bytearray()
        self._reading = True
        self._skips = False
        self._kept: list[str | bytes] = []
        """What was said, in order: text, and events that were not read yet."""
        self._kept_size = 0
        self.usage: Usage | None = None
        self.items = 0
        """Events that were read."""
        self.overflowed = False
        """The stream is too long to be kept: without usage, what it said is not known."""
        self.ended = False
        """The stream said that it is complete."""
        self.failed = False
        """The provider said that it failed."""
        self.pending = False
        """An answer that is no stream is still to come."""
        self.model: str | None = None
        self.tier: str | None = None
        self.response_id: str | None = None
        self.hosted_calls: Mapping[str, int] | None = None

    @property
    def is_lost(self) -> bool:
        """Whether no ends of events were found, and the stream is passed on unread."""
        return not self._reading

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return those that can be handed on: whole events."""
        if not self._reading:
            return data
        if not self._buffer and data.endswith(b"\n\n"):
            return self._pass(data)  # whole events, as nearly always
        # Only what is new is searched, and the end of what is not: an end of event may come in pieces.
        searched = max(0, len(self._buffer) - 3)
        self._buffer += data
        end = max((match.end() for match in _END_OF_EVENT.finditer(self._buffer, searched)), default=0)
        whole_events = bytes(self._buffer[:end])
        del self._buffer[:end]
        out = self._pass(whole_events) if end else b""
        if len(self._buffer) > _LARGEST_EVENT:
            self._reading, self.overflowed = False, True
            out += self._buffer
            self._buffer.clear()
        return out

    def end(self) -> bytes:
        """The stream is over; return what is left."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return self._pass(rest) if rest and self._reading else rest

    def _pass(self, events: bytes) -> bytes:
        """Keep events, or read them if they may tell something; those that the caller is to see."""
        if self._skips and b'"error"' not in events and not _tells_usage(events):
            if events.endswith(_DONE):
                self.ended = True
            self._keep(events)
            return events
        return self._read_all(events)

    def _read_all(self, events: bytes) -> bytes:
        """Read each event; those that the caller is to see."""
        seen, start = [], 0
        for end in [*[match.end() for match in _END_OF_EVENT.finditer(events)], len(events)]:
            if end > start:
                event = events[start:end]
                if self._read(event):
                    seen.append(event)
                start = end
        return seen[0] if len(seen) == 1 else b"".join(seen)

    def _keep(self, said: bytes | str) -> None:
        if not self._endpoint.streams_text:
            return
        self._kept.append(said)
        self._kept_size += len(said)
        if self._kept_size > _MOST_KEPT:
            self.overflowed = True
            self._kept.clear()
            self._kept_size = 0

    @property
    def text(self) -> str:
        """What was said so far, in all that was read."""
        return "".join([piece for piece in self._kept if isinstance(piece, str)])

    @property
    def has_text(self) -> bool:
        """Whether anything was said."""
        return bool(self._kept)

    def read_rest(self) -> None:
        """Read the events that were only kept: how a stream without usage ended, and what it said."""
        kept, self._kept, self._kept_size = self._kept, [], 0
        for piece in kept:
            if isinstance(piece, str):
                self._kept.append(piece)
            else:
                self._read_all(piece)

    def _read(self, event: bytes) -> bool:
        """Read one event; whether the caller is to see it."""
        payload = payload_of(event)
        if payload is None:
            return True
        if payload.startswith(b"[DONE]"):
            self.ended = True
            return True
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
            self._keep(text)
        self._skips = bool(self._kept) or not endpoint.streams_text
        if ended:
            self.ended = True
        if endpoint.failed(item):
            self.failed = True
        if self.response_id is None:
            self.response_id = text_or_none(endpoint.answer(item).get("id"))
        usage = endpoint.usage(item)
        if usage is not None:
            if endpoint.sums_usage and self.usage is not None:
                usage = added(self.usage, usage)
            self.note(item, usage)
        return not (self._hide_usage and item.get("usage") is not None and endpoint.only_usage(item))

    def take(self, answer: Mapping[str, Any]) -> None:
        """Read an answer that is no stream."""
        self.items, self.ended = 1, True
        self.failed, self.pending = self._endpoint.failed(answer), self._endpoint.pending(answer)
        self._kept = [self._endpoint.said(answer)[0]]
        self.note(answer, self._endpoint.usage(answer))

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


def added(one: Usage, other: Usage) -> Usage:
    """Two usages as one; a part that one of them does not tell is not told."""
    return Usage(*[None if a is None or b is None else a + b for a, b in zip(one, other, strict=True)])  # type: ignore[arg-type]


def _tells_usage(events: bytes) -> bool:
    """Whether events name a usage that is not null. Inside of text, the quotation marks would be escaped."""
    position = events.find(_USAGE)
    while position >= 0:
        position += len(_USAGE)
        if _NULL.match(events, position) is None:
            return True
        position = events.find(_USAGE, position)
    return False


def payload_of(event: bytes) -> bytes | None:
    """The data of an event; None where it has none. Most events are a single line of data."""
    if event.startswith(b"data:"):
        payload = event[5:].strip()
        if b"\n" not in payload and b"\r" not in payload:
            return payload
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
