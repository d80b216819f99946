"""What a `FakeOpenAI` received, and what it is told to answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from typing import Any, Literal

from ..types import Usage


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, as it arrived."""

    id: str
    """``req_000001`` for the server's first; sent back as ``x-request-id``."""
    method: str
    path: str
    """Whole and undecoded, without the query: ``/v1/chat/completions``."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case; of a repeated one, the last."""
    content: bytes
    body: Any
    """The parsed JSON; None where there is none. Of a multipart form, its text fields under their names on the wire,
    numbers still being text: a list of texts where the name ends in ``[]``, else the last of them."""
    time: float
    """UTC epoch seconds of the arrival of its last byte."""
    files: Mapping[str, Sequence[tuple[str, bytes]]] = field(default_factory=dict)
    """Of a multipart form, the file name and content of each upload, by the field's name on the wire."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of a `FakeOpenAI`; ``Reply()`` is a plain success. Every duration is in seconds.

    The answer is made of pieces, one per word: each costs one output token, and each is one content chunk of a
    stream. The request's own ``n``, ``stream``, ``stream_options`` and output cap are obeyed as the real API obeys
    them. Images and embeddings have no words of their own.
    """

    text: str | None = None
    """The answer, the transcript, or what is spoken; None means a greeting, or nothing beside `tool_calls` and
    `refusal`. Speech then says the request's own words."""
    _: KW_ONLY
    chunks: int | None = None
    """Exactly this many pieces: of `text`, in equal parts, or of filler words."""
    tool_calls: Sequence[Mapping[str, str]] = ()
    """Each ``{"name": …, "arguments": …}``, the arguments being JSON text, or anything else for a malformed call."""
    hosted_calls: Sequence[str | Mapping[str, Any]] = ()
    """Tools that the provider ran itself before it answered, by the type of their output item: ``"web_search_call"``.
    A mapping sets fields of the item: ``{"type": "web_search_call", "action": {…}}``. The Responses API alone has
    them."""
    refusal: str | None = None
    """The model declines, in these words."""
    failure: Mapping[str, Any] | None = None
    """A response of the Responses API ends with the status "failed" and this error, ``{"code": …, "message": …}``, and
    has no computed usage."""
    polls: float = 0
    """For as many plain retrievals, a background response is still "in_progress". ``math.inf``: until it is
    cancelled."""
    finish_reason: str | None = None
    """None: "stop", "length" where the cap cut the answer, "tool_calls". The Responses API has none."""
    model: str | None = None
    """The response's model; None: the request's."""
    service_tier: str | None = None
    usage: Usage | Mapping[str, Any] | Literal["computed"] | None = "computed"
    """A `Usage` is put in the route's own words, a mapping is sent as it is, None is left out. Computed, it is one
    token per word, which no real tokenizer undercuts, plus the chat format's own 4 per message and 3. An image costs
    what gpt-image-1 bills for a square one, a second of audio 10 tokens."""

    status: int = 200
    error: Mapping[str, Any] = field(default_factory=dict)
    """From `status` 400 up: fields to set in the error object, for example ``{"code": "insufficient_quota"}``."""
    body: Mapping[str, Any] | str | bytes | None = None
    """Sent instead of the computed body, never as a stream of the fake's own: a mapping as JSON, the rest as it is."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Added to the response's own, or put in their place: ``{"Retry-After": "1"}``."""

    delay: float = 0
    """Before the first byte of the answer. ``math.inf`` hangs until the client leaves or the server releases it."""
    drip_headers: float = 0
    """Between the bytes of the status line and the headers."""
    drip: float = 0
    """Between the pieces of the body: the events of a stream, the single bytes of anything else."""
    cut: int | Literal["connect"] | None = None
    """Break off after this many content chunks, or bytes of a body that is no stream; "connect": before any byte."""
    abrupt: bool = True
    """A cut closes the connection inside the HTTP message, which a client notices. False: the message ends in good
    order, as behind some proxies, so that a stream just stops, without usage, and JSON is truncated."""
    error_event: Mapping[str, Any] | None = None
    """A stream ends in this event, in place of its regular end, or where it is cut. The SDK raises it, if it has a key
    "error"; otherwise it passes it on as if it were a chunk."""
    done: bool = True
    """False: a stream's last event is missing: ``[DONE]``, ``response.completed`` or what else ends it."""

    def in_the_manner_of(self, other: Reply) -> Reply:
        """The same words, sent as the other reply is sent: all that is declared from `status` on is the other's."""
        return replace(self, **{name: getattr(other, name) for name in _MANNER})


_NAMES = [each.name for each in fields(Reply)]
_MANNER = _NAMES[_NAMES.index("status") :]
