"""The middleware for ASGI: Starlette, FastAPI, Litestar, Quart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from .._settings import SystemClock
from ..errors import ConfigurationError, DeniedError
from ..identity import Identity, Verifier
from .exchange import Exchange, listen
from .headers import Header, bearer, length, of_limits, too_large, too_slow
from .problems import Answer, answer_to, is_hung_up, refusal_in

log = logging.getLogger("safe_llm")

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 1_048_576
"""As the policy's ``[input] max_request_bytes``. Inline images and files need more."""
BODY_SECONDS = 15.0
EXEMPT = ("/healthz",)

_POLICY_VIOLATION, _INTERNAL_ERROR = 1008, 1011
"""Why a websocket is closed (RFC 6455, 7.4.1)."""


class SafeLLMMiddleware:
    """Proves who is calling, before anything of the application runs, and answers for what is refused below.

    ::

        app.add_middleware(SafeLLMMiddleware, verifier=JWTVerifier(...), client=client)

    - Exactly one ``Authorization: Bearer`` header is taken, and nothing else of a request says who is calling. The
      identity holds for all that the request starts, in tasks, threads and the generators of streamed answers, and is
      in ``scope["state"]["identity"]`` (``request.state.identity``).
    - The body is read before the application is called: `max_body_bytes` at the most, within `body_seconds`.
    - A `DeniedError` becomes an ``application/problem+json`` with its status, ``Retry-After`` and ``RateLimit``; so do
      `DeadlineExceededError` (504) and `OutputRejectedError` (502). That holds until the first byte of the answer's
      body; later, the connection is broken off, so that no client takes the answer for whole.
    - When the client leaves before the answer is complete, the streams that the request has opened are cut.

    Args:
        verifier: makes an `Identity` of the token; ``verify_async`` is awaited where there is one.
        client: a `SafeOpenAI` or `AsyncSafeOpenAI`: how the caller's limits stand is then told on every answer.
        max_body_bytes: of a request's body; more is a 413.
        body_seconds: for the whole of it to arrive; longer is a 408.
        exempt: paths, whole and exact, that need no token. They have no identity either.

    Put a middleware for CORS around this one: a browser's preflight carries no token.
    """

    def __init__(
        self,
        app: Application,
        *,
        verifier: Verifier,
        client: Any = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        body_seconds: float = BODY_SECONDS,
        exempt: Sequence[str] = EXEMPT,
    ) -> None:
        self.app = app
        self.client = client
        self._verifier = verifier
        self._most, self._seconds, self._exempt = max_body_bytes, body_seconds, exempt_paths(exempt)
        self.clock = SystemClock() if client is None else client.guard.core.clock
        self.can_tell = True
        """Whether the limits could be told so far: a failure is logged once."""
        listen()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def identity(self, scope: Scope) -> Identity | None:
        """Who is calling; None where the path is exempt.

        Raises:
            NotAuthenticatedError: no token, or one that proves nothing.
        """
        if scope["path"] in self._exempt:
            return None
        token = bearer(_values(scope, b"authorization"))
        verify_async = getattr(self._verifier, "verify_async", None)
        return self._verifier.verify(token) if verify_async is None else await verify_async(token)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(self.client)
        answer = _Outgoing(self, exchange, scope, send)
        try:
            exchange.identity = await self.identity(scope)
            body = await self._body(scope, receive)
        except DeniedError as error:
            await answer.refuse(error, closing=True)
            return
        if body is None:
            return
        incoming = _Incoming(body, receive, answer)
        with exchange.entered():
            try:
                await self.app(_with_identity(scope, exchange.identity), incoming.receive, answer.send)
            except Exception as error:
                exchange.lines.abandon()
                if not await answer.explains(error):
                    raise
            except BaseException:
                exchange.lines.abandon()
                raise
            finally:
                incoming.stop()

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None where the client has left.

        Raises:
            InputRejectedError: it is too long, too slow, or its length cannot be told.
        """
        length(_values(scope, b"content-length"), _values(scope, b"transfer-encoding"), self._most)
        pieces, size = [], 0
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    piece = message.get("body", b"")
                    size += len(piece)
                    if size > self._most:
                        raise too_large(self._most)
                    pieces.append(piece)
                    if not message.get("more_body", False):
                        return b"".join(pieces)
        except TimeoutError:
            raise too_slow(self._seconds) from None

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(self.client)
        socket = _Socket(self, exchange, scope, receive, send)
        try:
            exchange.identity = await self.identity(scope)
        except DeniedError as error:
            await receive()  # that it wants to connect
            await socket.refuse(error)
            return
        with exchange.entered():
            try:
                await self.app(_with_identity(scope, exchange.identity), socket.receive, socket.send)
            except Exception as error:
                if (found := refusal_in(error)) is None:
                    raise
                await socket.refuse(found)
            finally:
                exchange.lines.abandon()


def exempt_paths(paths: Sequence[str]) -> frozenset[str]:
    """The paths that need no token.

    Raises:
        ConfigurationError: it is one string, whose letters would be taken for paths.
    """
    if isinstance(paths, str):
        raise ConfigurationError(f"exempt= must be several paths, not {paths!r}: write exempt=({paths!r},).")
    return frozenset(paths)


class _Incoming:
    """What the application receives: the body, and then that the client has left or has its answer."""

    def __init__(self, body: bytes, receive: Receive, answer: _Outgoing) -> None:
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


class _Outgoing:
    """The answer on its way to the client. Its start is held back until there is something of its body."""

    def __init__(self, middleware: SafeLLMMiddleware, exchange: Exchange, scope: Scope, send: Send) -> None:
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
        answer = answer_to(error, self._middleware.clock.time(), _values(self._scope, b"authorization"))
        headers = _raw(answer.headers)
        if closing and _has_body(self._scope) and self._scope.get("http_version", "1.1").startswith("1"):
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
        if exchange.client is None or exchange.identity is None or self._gone:
            return headers
        if any(name.lower() == b"ratelimit" for name, _ in headers):
            return headers
        try:
            statuses = await exchange.limits()
        except Exception as error:
            if middleware.can_tell:
                middleware.can_tell = False
                untold(error)
            return headers
        return headers + _raw(of_limits(statuses, middleware.clock.time()))


def untold(error: Exception) -> None:
    """Say that limits cannot be told. An answer is not to fail for a header."""
    log.warning("How limits stand cannot be told in headers: usage() failed with %s.", type(error).__name__)


class _Socket:
    """A websocket, which can be refused by HTTP until it is accepted, and closed with a reason from then on."""

    def __init__(
        self, middleware: SafeLLMMiddleware, exchange: Exchange, scope: Scope, receive: Receive, send: Send
    ) -> None:
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
        answer = answer_to(error, self._middleware.clock.time(), _values(self._scope, b"authorization"))
        if not self._accepted and "websocket.http.response" in (self._scope.get("extensions") or {}):
            await self._deny(answer)
            return
        code = _POLICY_VIOLATION if isinstance(error, DeniedError) else _INTERNAL_ERROR
        await self._send({"type": "websocket.close", "code": code, "reason": getattr(error, "code", None) or ""})

    async def _deny(self, answer: Answer) -> None:
        kind, headers = "websocket.http.response", _raw(answer.headers)
        await self._send({"type": f"{kind}.start", "status": answer.status, "headers": headers})
        await self._send({"type": f"{kind}.body", "body": answer.body})


def _with_identity(scope: Scope, identity: Identity | None) -> Scope:
    """The scope that the application is given. Its state may be shared, so it is not changed in place."""
    return {**scope, "state": {**(scope.get("state") or {}), "identity": identity}}


def _has_body(scope: Scope) -> bool:
    return any(value != "0" for name in (b"content-length", b"transfer-encoding") for value in _values(scope, name))


def _values(scope: Scope, name: bytes) -> list[str]:
    """The values of all headers of a name, however it is capitalised."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _raw(headers: Sequence[Header]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in headers]
