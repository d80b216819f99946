"""A `Reply` to the bytes of an HTTP/1.1 response, with the waits between them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from http.client import responses as reasons
from typing import Any

from ._answers import Body, Events, MalformedRequestError, Media, Route, sse
from .reply import Reply, Request

Steps = Iterator[tuple[float, bytes]]
"""Seconds to wait, then bytes to send."""

JSON = "application/json"


def render(request: Request, reply: Reply, route: Route | None) -> Steps:
    """What goes over the wire, up to the cut. Without a route, the reply must be an error or have a body."""
    if reply.body is not None:
        return _whole(request, reply, *_given(reply.body))
    if reply.status >= 400 or route is None:
        return _whole(request, reply, JSON, _dump({"error": _error(reply)}))
    if route.needs_body and not isinstance(request.body, Mapping):
        return render(request, _malformed("We could not parse the JSON body of your request."), None)
    try:
        if route.events is not None and route.streams(request):
            return _stream(request, reply, route.events(request, reply))
        return _whole(request, reply, *_given(route.body(request, reply)))
    except MalformedRequestError as exc:
        return render(request, _malformed(str(exc), exc.param), None)


def breaks_off(reply: Reply) -> bool:
    """Whether the connection ends inside the HTTP message."""
    return reply.cut is not None and reply.abrupt and reply.error_event is None


def _whole(request: Request, reply: Reply, kind: str, content: bytes) -> Steps:
    sent = content[: _cut(reply)]
    length = len(content if breaks_off(reply) else sent)
    yield from _head(request, reply, {"content-type": kind, "content-length": str(length)})
    yield from _spaced([sent[i : i + 1] for i in range(len(sent))] if reply.drip else [sent], reply.drip)


def _stream(request: Request, reply: Reply, events: Events) -> Steps:
    frames = events.opening + events.content[: _cut(reply)]
    if reply.error_event is not None:
        frames.append(sse(reply.error_event, None if "error" in reply.error_event else "error"))
    elif reply.cut is None:
        frames += events.closing + [events.end] * reply.done
    kind = "text/event-stream; charset=utf-8"
    yield from _head(request, reply, {"content-type": kind, "transfer-encoding": "chunked"})
    yield from _spaced((b"%x\r\n%s\r\n" % (len(frame), frame) for frame in frames), reply.drip)
    if not breaks_off(reply):
        yield 0, b"0\r\n\r\n"


def _head(request: Request, reply: Reply, headers: dict[str, str]) -> Steps:
    headers |= {"x-request-id": request.id, "openai-version": "2020-10-01"}
    headers |= {name.lower(): value for name, value in reply.headers.items()}
    lines = [f"HTTP/1.1 {reply.status} {reasons.get(reply.status, '')}", *map(": ".join, headers.items()), "", ""]
    head = "\r\n".join(lines).encode("latin-1")
    return _spaced([head[i : i + 1] for i in range(len(head))] if reply.drip_headers else [head], reply.drip_headers)


def _spaced(pieces: Iterable[bytes], seconds: float) -> Steps:
    for position, piece in enumerate(pieces):
        yield (seconds if position else 0), piece


def _cut(reply: Reply) -> int | None:
    return reply.cut if isinstance(reply.cut, int) else None


def _given(body: Body) -> Media:
    match body:
        case Media():
            return body
        case bytes():
            return Media("application/octet-stream", body)
        case str():
            return Media("text/plain; charset=utf-8", body.encode())
    return Media(JSON, _dump(body))


def _malformed(message: str, param: str | None = None) -> Reply:
    return Reply(status=400, error={"message": message, "param": param})


def _error(reply: Reply) -> dict[str, Any]:
    kind, code = "server_error" if reply.status >= 500 else "invalid_request_error", None
    if reply.status == 429:
        kind, code = "requests", "rate_limit_exceeded"
    message = f"The fake server answers {reply.status}, as it was told to."
    return {"message": message, "type": kind, "param": None, "code": code} | dict(reply.error)


def _dump(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()
