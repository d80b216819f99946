"""The middleware for ASGI: Starlette, FastAPI, Litestar, Quart."""

from __future__ import annotations

import asyncio

from ..errors import DeniedError
from ..identity import Identity
from ._asgi import Incoming, Outgoing, Receive, Scope, Send, Socket, values
from ._base import Middleware
from .exchange import Exchange
from .headers import bearer, length, too_large, too_slow
from .problems import refusal_in


class SafeLLMMiddleware(Middleware):
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
        token = bearer(values(scope, b"authorization"))
        verify_async = getattr(self._verifier, "verify_async", None)
        return self._verifier.verify(token) if verify_async is None else await verify_async(token)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(self.client)
        answer = Outgoing(self, exchange, scope, send)
        try:
            exchange.identity = await self.identity(scope)
            body = await self._body(scope, receive)
        except DeniedError as error:
            await answer.refuse(error, closing=True)
            return
        if body is None:
            return
        incoming = Incoming(body, receive, answer)
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
        length(values(scope, b"content-length"), values(scope, b"transfer-encoding"), self._most)
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
        socket = Socket(self, exchange, scope, receive, send)
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


def _with_identity(scope: Scope, identity: Identity | None) -> Scope:
    """The scope that the application is given. Its state may be shared, so it is not changed in place."""
    return {**scope, "state": {**(scope.get("state") or {}), "identity": identity}}
