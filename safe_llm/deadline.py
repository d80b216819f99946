"""One total deadline for a call, over both HTTP libraries of the SDK: httpx2 on httpcore2, and httpx on httpcore.

Their own time-outs bound one read or one write, so an answer that drips a byte a second never runs into them. Here
every network operation of a client waits at most what is left of the deadline in force: connecting, the TLS handshake,
each write and each read. No threads are needed for it.

::

    bounded = install(client)                # once per HTTP client
    clip_timeouts(request, deadline)         # per attempt: bounds the wait for the pool
    with within(deadline):                   # around the request, and around each step of a stream
        response = client.send(request, stream=True)

When nothing is left, an operation raises the transport's own time-out without touching the network, so that httpx
and the SDK see an ordinary time-out.

What stays outside: the resolution of a name in sync code, which Python cannot interrupt; waiting for a turn on a
connection that several calls share (HTTP/2, which the SDK does not use unless asked to); TLS inside the TLS of a proxy
in sync code, where each record may take what is left.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, Token
from types import ModuleType
from typing import Any

from .errors import DeadlineExceededError

_PIECE = 16_384
"""Bytes written at a time: one TLS record (RFC 8446, 5.1), which Python sends within one time-out."""

_NUMERIC = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
_PHASES = ("connect", "read", "write", "pool")


class Deadline:
    """The moment at which a call must have ended, `seconds` after this is made.

    It passes when either the given clock or the system's says so: a test's clock can bring it about, and one that
    stands still cannot keep a socket waiting for ever.
    """

    __slots__ = ("_ends", "_monotonic", "_system_ends", "seconds")

    def __init__(self, seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._monotonic = monotonic
        self._ends = monotonic() + seconds
        self._system_ends = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, min(self._ends - self._monotonic(), self._system_ends - time.monotonic()))

    @property
    def expired(self) -> bool:
        return self._monotonic() >= self._ends or time.monotonic() >= self._system_ends


current: ContextVar[Deadline | None] = ContextVar("safe_llm_deadline", default=None)
"""The deadline in force in this thread or task."""


class within:  # noqa: N801 - reads as a function, like contextlib.closing
    """Puts a deadline, or with None the absence of one, in force for a block, in place of any outer one.

    Not for a block with a ``yield`` in it, whose ends may run in different contexts: wrap each step instead. That costs
    0.35 µs; `contextlib.contextmanager` would cost thrice as much.
    """

    __slots__ = ("_deadline", "_token")

    _token: Token[Deadline | None]

    def __init__(self, deadline: Deadline | None) -> None:
        self._deadline = deadline

    def __enter__(self) -> None:
        self._token = current.set(self._deadline)

    def __exit__(self, *_: object) -> None:
        current.reset(self._token)


def clip_timeouts(request: Any, deadline: Deadline) -> None:
    """Lowers each time-out of an httpx or httpx2 request to what is left: the wait for the pool above all.

    On a transport that `install` cannot reach this is all there is: it bounds each wait but not their sum, so look at
    the deadline between the chunks of an answer as well.

    Raises:
        DeadlineExceededError: nothing is left, so the request should not be sent. Call this before handing the request
            to the client: what an httpx event hook raises, the SDK takes for a failed connection and retries.
    """
    remaining = deadline.remaining()
    if remaining <= 0:
        raise DeadlineExceededError(deadline.seconds, request=request)
    given = request.extensions.get("timeout", {})
    request.extensions["timeout"] = {phase: _least(given.get(phase), remaining) for phase in _PHASES}


def install(http_client: Any) -> bool:
    """Makes a client of httpx or httpx2, sync or async, obey the deadline in force; without one nothing changes.

    The client is changed in place, connections that are already open included. Doing it twice is harmless.

    Returns:
        Whether every transport of the client obeys. False for a transport of another make, such as `MockTransport`,
        and for a release of the libraries that has renamed what is needed here: then `clip_timeouts` is the fallback.
    """
    try:
        transports = [http_client._transport, *http_client._mounts.values()]
    except AttributeError:
        return False
    # A mount of None stands for the client's own transport.
    bound = [_bind(getattr(transport, "_pool", None)) for transport in transports if transport is not None]
    return all(bound)


def _bind(pool: Any) -> bool:
    core = _core_of(pool)
    if core is None or not hasattr(pool, "_network_backend"):
        return False
    is_async = isinstance(pool, core.AsyncConnectionPool)
    backend, stream = (_AsyncBackend, _AsyncStream) if is_async else (_SyncBackend, _SyncStream)
    if isinstance(pool._network_backend, backend):
        return True
    pool._network_backend = backend(core, pool._network_backend)
    for connection in pool.connections:
        # A connection wraps another, down to the one that holds the stream; a proxy adds a layer.
        layer = connection
        while layer is not None:
            if hasattr(layer, "_network_backend"):
                layer._network_backend = pool._network_backend
            if hasattr(layer, "_network_stream"):
                layer._network_stream = stream(core, layer._network_stream)
            layer = getattr(layer, "_connection", None)
    return True


def _core_of(pool: Any) -> ModuleType | None:
    # Whoever holds a pool has imported its library; importing the other one would only cost time.
    for name in ("httpcore2", "httpcore"):
        core = sys.modules.get(name)
        if core is not None and isinstance(pool, core.ConnectionPool | core.AsyncConnectionPool):
            return core
    return None


def _least(timeout: float | None, remaining: float) -> float:
    return remaining if timeout is None else min(timeout, remaining)


def _clip(timeout: float | None, error: type[Exception]) -> float | None:
    """The time-out of one operation under the deadline in force. Raises `error` when nothing is left."""
    deadline = current.get()
    if deadline is None:
        return timeout
    remaining = deadline.remaining()
    if remaining <= 0:
        # A socket would take a time-out of 0 to mean non-blocking, and report that as a failed connection.
        raise error("the deadline has passed")
    return _least(timeout, remaining)


class _Wrapper:
    """What it does not name itself is the library's own."""

    def __init__(self, core: ModuleType, inner: Any) -> None:
        self._core = core
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Stream(_Wrapper):
    """Answers as the library's stream does: with bytes in sync code, with something to await in async code."""

    def read(self, max_bytes: int, timeout: float | None = None) -> Any:
        return self._inner.read(max_bytes, _clip(timeout, self._core.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> Any:
        return self._inner.write(buffer, _clip(timeout, self._core.WriteTimeout))


class _SyncStream(_Stream):
    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if current.get() is None:
            super().write(buffer, timeout)
            return
        # The library starts its time-out anew for each part that the system takes, and a slow reader makes many parts.
        for start in range(0, len(buffer), _PIECE):
            super().write(buffer[start : start + _PIECE], timeout)

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> _Stream:
        try:
            timeout = _clip(timeout, self._core.ConnectTimeout)
        except self._core.ConnectTimeout:
            self._inner.close()  # The pool forgets a stream that has not come through its handshake.
            raise
        return _SyncStream(self._core, self._inner.start_tls(ssl_context, server_hostname, timeout))


class _AsyncStream(_Stream):
    async def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> _Stream:
        try:
            timeout = _clip(timeout, self._core.ConnectTimeout)
        except self._core.ConnectTimeout:
            await self._inner.aclose()
            raise
        return _AsyncStream(self._core, await self._inner.start_tls(ssl_context, server_hostname, timeout))


class _Backend(_Wrapper):
    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **options: Any) -> Any:
        timeout = _clip(timeout, self._core.ConnectTimeout)
        return self._wrap(self._inner.connect_tcp(host, port, timeout=timeout, **options))

    def connect_unix_socket(self, path: str, timeout: float | None = None, **options: Any) -> Any:
        timeout = _clip(timeout, self._core.ConnectTimeout)
        return self._wrap(self._inner.connect_unix_socket(path, timeout=timeout, **options))

    def sleep(self, seconds: float) -> Any:
        """Between the attempts of a transport that was told to retry connecting."""
        return self._inner.sleep(_clip(seconds, self._core.ConnectTimeout))


class _SyncBackend(_Backend):
    def _wrap(self, stream: Any) -> _Stream:
        return _SyncStream(self._core, stream)

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **options: Any) -> Any:
        if current.get() is None:
            return super().connect_tcp(host, port, timeout, **options)
        # The library gives each address of a name the whole time-out, so they are tried one by one from here.
        *others, last = self._resolve(host, port)
        for address in others:
            with suppress(self._core.ConnectError, self._core.ConnectTimeout):
                return super().connect_tcp(address, port, timeout, **options)
        return super().connect_tcp(last, port, timeout, **options)

    def _resolve(self, host: str, port: int) -> list[str]:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            # The addresses in `found` themselves would lose an IPv6 zone.
            return [socket.getnameinfo(address, _NUMERIC)[0] for *_, address in found]
        except OSError as exc:
            raise self._core.ConnectError(exc) from exc


class _AsyncBackend(_Backend):
    async def _wrap(self, connecting: Any) -> _Stream:
        return _AsyncStream(self._core, await connecting)
