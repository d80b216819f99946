"""What goes to and fro between an ASGI server and an application behind the middleware."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from ..errors import DeniedError
from ._base import Middleware
from .exchange import Exchange
from .headers import Header
from .problems import Answer, answer_to, is_hung_up, refusal_in

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_POLICY_VIOLATION, _INTERNAL_ERROR = 1008, 1011
"""Why a websocket is closed (RFC 6455, 7.4.1)."""


class Incoming:
    """What the application receives: the body, and then that the client has left or has its answer."""

    def __init__(self, body: bytes, receive: Receive, answer: Outgoing) -> None:
        self._body: bytes | None = body
        self._answer = answer
        self._over = asyncio.Event()
        self._watching = asyncio.create_task(self._watch(receive))

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._answer.disconnected()
        self._over.set()

    def stop(self) -> None:
        self._watching.cancel()


class Outgoing:
    """The answer on its way to the client. Its start is held back until there is something of its body."""

    def __init__(self, middleware: Middleware, exchange: Exchange, scope: Scope, send: Send) -> None:
        self._middleware, self._exchange, self._scope, self._send = middleware, exchange, scope, send
        self._start: Message | None = None
        self._begun = self._refused = self._complete = self._gone = False

    async def send(self, message: Message) -> None:
        """What the application sends."""
        if self._refused:
            return  # its own page of an error, in place of which a problem was sent
        if message["type"] == "http.response.start":
            refusal = refusal_in(self._exchange.refusal(message["status"]))
            if refusal is not None:
                await self.refuse(refusal)
            else:
                self._start = message
            return
        if self._start is not None:
            if message["type"] == "http.response.body" and not message.get("body") and message.get("more_body"):
                return
            start, self._start, self._begun = self._start, None, True
            await self._send({**start, "headers": await self._with_limits(start)})
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._complete = True
        await self._send(message)

    async def refuse(self, error: Any, *, closing: bool = False) -> None:
        """Answer with a problem. `closing`: the request's body, if any, was not read, and is not going to be."""
        answer = answer_to(error, self._middleware.clock.time(), values(self._scope, b"authorization"))
        headers = _raw(answer.headers)
        if closing and has_body(self._scope) and self._scope.get("http_version", "1.1").startswith("1"):
            headers.append((b"connection", b"close"))
        self._start, self._begun, self._refused, self._complete = None, True, True, True
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": answer.body})

    async def explains(self, error: Exception) -> bool:
        """Whether what the application raised is answered with that; else the server is to know of it, which also
        breaks off an answer that has begun."""
        if self._gone and is_hung_up(error):
            return True
        found = refusal_in(error)
        if found is None or (self._begun and not self._refused):
            return False
        if not self._refused:
            await self.refuse(found)
        return True

    def disconnected(self) -> None:
        """The client has left, or has got everything."""
        if not self._complete:
            self._gone = True
            self._exchange.lines.hang_up()

    async def _with_limits(self, start: Message) -> list[tuple[bytes, bytes]]:
        headers = list(start.get("headers", ()))
        exchange, middleware = self._exchange, self._middleware
        if self._gone or not middleware.tells(exchange, [name.decode("latin-1") for name, _ in headers]):
            return headers
        try:
            return headers + _raw(middleware.told(await exchange.limits()))
        except Exception as error:
            return headers + _raw(middleware.cannot_tell(error))


class Socket:
    """A websocket, which can be refused by HTTP until it is accepted, and closed with a reason from then on."""

    def __init__(self, middleware: Middleware, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        self._middleware, self._exchange, self._scope = middleware, exchange, scope
        self._receive, self._send = receive, send
        self._accepted = self._closed = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._closed = True
            self._exchange.lines.hang_up()
        return message

    async def send(self, message: Message) -> None:
        self._accepted |= message["type"] == "websocket.accept"
        self._closed |= message["type"] in ("websocket.close", "websocket.http.response.start")
        await self._send(message)

    async def refuse(self, error: Any) -> None:
        if self._closed:
            return
        answer = answer_to(error, self._middleware.clock.time(), values(self._scope, b"authorization"))
        if not self._accepted and "websocket.http.response" in (self._scope.get("extensions") or {}):
            await self._deny(answer)
            return
        code = _POLICY_VIOLATION if isinstance(error, DeniedError) else _INTERNAL_ERROR
        await self._send({"type": "websocket.close", "code": code, "reason": getattr(error, "code", None) or ""})

    async def _deny(self, answer: Answer) -> None:
        kind, headers = "websocket.http.response", _raw(answer.headers)
        await self._send({"type": f"{kind}.start", "status": answer.status, "headers": headers})
        await self._send({"type": f"{kind}.body", "body": answer.body})


def has_body(scope: Scope) -> bool:
    """Whether the request says that a body is coming."""
    return any(value != "0" for name in (b"content-length", b"transfer-encoding") for value in values(scope, name))


def values(scope: Scope, name: bytes) -> list[str]:
    """The values of all headers of a name, however it is capitalised."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _raw(headers: Sequence[Header]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in headers]
