"""The middleware for WSGI: Flask, Django, and whatever else speaks it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import Context, copy_context
from io import BytesIO
from typing import Any

from ..errors import DeniedError
from ..identity import Identity
from ._base import Middleware
from ._body import read_body
from .exchange import IDENTITY, Exchange
from .headers import Header, bearer
from .problems import Answer, answer_to, refusal_in

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


class SafeLLMWSGIMiddleware(Middleware):
    """The twin of `SafeLLMMiddleware`, with the same arguments and promises, for sync clients.

    ::

        app.wsgi_app = SafeLLMWSGIMiddleware(app.wsgi_app, verifier=JWTVerifier(...), client=client)   # Flask
        application = SafeLLMWSGIMiddleware(get_wsgi_application(), verifier=..., client=client)       # Django

    The identity is in ``environ["safe_llm.identity"]``. Two things are as good as the server makes them. A slow body is
    waited for no longer than `body_seconds` where the server shows its socket (wsgiref, werkzeug, gunicorn's threads);
    others look at the clock between pieces. And a server learns that its client has left only when it writes: then it
    closes the answer, which ends the streams that the request has opened.
    """

    waits = False

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        exchange = Exchange(self.client)
        reply = _Reply(self, exchange, environ, start_response)
        try:
            exchange.identity = self.identity(environ)
            body = read_body(environ, self._most, self._seconds)
        except DeniedError as error:
            return reply.refused(error)
        environ = {**environ, IDENTITY: exchange.identity}
        environ["wsgi.input"], environ["CONTENT_LENGTH"] = BytesIO(body), str(len(body))
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        return reply.run(environ)

    def identity(self, environ: Environ) -> Identity | None:
        """Who is calling; None where the path is exempt.

        Raises:
            NotAuthenticatedError: no token, or one that proves nothing.
        """
        if environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "") in self._exempt:
            return None
        return self._verifier.verify(bearer(_authorization(environ)))


class _Reply:
    """The answer on its way to the client. Its start is held back until there is something of its body.

    The application runs in a context of its own, as do the steps of its answer, which the server takes when it likes.
    """

    def __init__(
        self, middleware: SafeLLMWSGIMiddleware, exchange: Exchange, environ: Environ, start_response: StartResponse
    ) -> None:
        self._middleware, self._exchange, self._start_response = middleware, exchange, start_response
        self._authorization = _authorization(environ)
        self._context: Context = copy_context()
        self._start: tuple[Any, ...] | None = None
        self._begun = False
        self._written: list[bytes] = []
        self._refusal: BaseException | None = None
        """What is behind the application's own page of an error."""

    def run(self, environ: Environ) -> Iterable[bytes]:
        """The application's answer, or the problem that stands for it."""
        with self._exchange.entered():
            self._context = copy_context()
        found: Iterable[bytes] = ()
        try:
            found = self._context.run(self._middleware.app, environ, self._hold)
            chunks = self._context.run(iter, found)
            first = b"".join(self._written) or self._next(chunks)
            while not first and first is not None:
                first = self._next(chunks)
        except Exception as error:
            self._refusal = refusal_in(error)
            self._end(found, failed=True)
            if self._refusal is None:
                raise
            return self.refused(self._refusal)
        if self._refusal is not None:
            self._end(found, failed=True)
            return self.refused(self._refusal)
        self._begin()
        return _Chunks(self, found, chunks, first)

    def refused(self, error: Any) -> Iterable[bytes]:
        """Answer with a problem."""
        answer: Answer = answer_to(error, self._middleware.clock.time(), self._authorization)
        self._start_response(answer.line, answer.headers)
        return [answer.body]

    def _hold(self, status: str, headers: list[Header], exc_info: Any = None) -> Callable[[bytes], object]:
        """The ``start_response`` that the application is given."""
        if self._begun:
            self._start_response(status, headers, exc_info)  # raises, as the server is to have it
        self._start = (status, headers, exc_info) if exc_info else (status, headers)
        told = exc_info[1] if exc_info else self._exchange.refusal(int(status.split(" ", 1)[0]))
        self._refusal = refusal_in(told) if status.startswith("500") else None
        return self._written.append

    def _begin(self) -> None:
        if self._start is None:
            return  # the application's own failure, which the server sees
        status, headers, *rest = self._start
        self._begun = True
        self._start_response(status, [*headers, *self._limits(headers)], *rest)

    def _limits(self, headers: Sequence[Header]) -> list[Header]:
        exchange, middleware = self._exchange, self._middleware
        if not middleware.tells(exchange, [name for name, _ in headers]):
            return []
        try:
            return middleware.told(self._context.run(exchange.limits_now))
        except Exception as error:
            return middleware.cannot_tell(error)

    def _next(self, chunks: Iterator[bytes]) -> bytes | None:
        return self._context.run(next, chunks, None)

    def _end(self, found: Iterable[bytes], *, failed: bool) -> None:
        try:
            close = getattr(found, "close", None)
            if close is not None:
                self._context.run(close)
        finally:
            if failed:
                self._exchange.lines.abandon()


class _Chunks:
    """The rest of an answer that has begun. The server calls `close` however it ends."""

    def __init__(self, reply: _Reply, found: Iterable[bytes], chunks: Iterator[bytes], first: bytes | None) -> None:
        self._reply, self._found, self._chunks = reply, found, chunks
        self._first, self._complete = first, first is None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._first is not None:
            chunk, self._first = self._first, None
            return chunk
        following = None if self._complete else self._reply._next(self._chunks)
        if following is None:
            self._complete = True
            raise StopIteration
        return following

    def close(self) -> None:
        self._reply._end(self._found, failed=not self._complete)


def _authorization(environ: Environ) -> list[str]:
    """What the request's ``Authorization`` headers said. Servers join several of them, or keep one."""
    return [environ["HTTP_AUTHORIZATION"]] if "HTTP_AUTHORIZATION" in environ else []
