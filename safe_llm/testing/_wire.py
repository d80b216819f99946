"""One HTTP/1.1 connection, and the bytes on it to a `Request`."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, cast
from urllib.parse import parse_qsl

from ._content import read_content
from .reply import Request


class Connection(asyncio.Protocol):
    """One client's connection: answers its requests one after another. `answer` is cancelled when the client leaves.

    It is in `connections` as long as it is open.
    """

    # A protocol and not a stream, because only this learns at once that a client left while its answer is waiting.

    def __init__(
        self,
        answer: Callable[[Request, Connection], Coroutine[Any, Any, None]],
        ids: Iterator[str],
        connections: set[Connection],
    ) -> None:
        self._answer = answer
        self._ids = ids
        self._connections = connections
        self._buffer = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    async def write(self, data: bytes) -> None:
        """Waits while the client reads more slowly than the server writes."""
        self._transport.write(data)
        await self._writable.wait()

    def close(self) -> None:
        """Close behind what has been written."""
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # asyncio does this only for sockets made with an explicit protocol number, which `socket.create_server` does
        # not; without it a body waits 40 ms for the acknowledgement of its headers.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _next(self) -> None:
        if self._task is None and not self._transport.is_closing() and (parsed := parse(self._buffer, self._ids)):
            request, size = parsed
            del self._buffer[:size]
            self._task = asyncio.get_running_loop().create_task(self._run(request))

    async def _run(self, request: Request) -> None:
        await self._answer(request, self)
        self._task = None
        if request.headers.get("connection", "").lower() == "close":
            self._transport.close()
        self._next()


def parse(buffer: bytearray, ids: Iterator[str]) -> tuple[Request, int] | None:
    """The first request in the buffer and its size in bytes; None until all of it has arrived. `ids` name it.

    Raises `ValueError` for what is not HTTP.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = buffer[:end].decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        framed = _unchunk(buffer, end + 4)
    else:
        size = end + 4 + int(headers.get("content-length", 0))
        framed = (bytes(buffer[end + 4 : size]), size) if len(buffer) >= size else None
    if framed is None:
        return None
    content, size = framed
    path, _, query = target.partition("?")
    body, files = read_content(headers.get("content-type", ""), content)
    request = Request(
        id=next(ids),
        method=method,
        path=path,
        query=dict(parse_qsl(query, keep_blank_values=True)),
        headers=headers,
        content=content,
        body=body,
        time=time.time(),
        files=files,
    )
    return request, size


def _unchunk(buffer: bytearray, start: int) -> tuple[bytes, int] | None:
    content = b""
    while (line := buffer.find(b"\r\n", start)) >= 0:
        size = int(buffer[start:line].split(b";")[0], 16)
        begin, start = line + 2, line + 2 + size + 2
        if len(buffer) < start:
            return None
        content += buffer[begin : begin + size]
        if size == 0:
            return content, start
    return None
