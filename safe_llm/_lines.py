"""The connections under open streams, and how to hang up on a provider while somebody else is reading.

A web request ends when its client leaves, whatever its code is doing: waiting in a thread for the next chunk, most of
the time. Closing a socket does not wake who waits on it; shutting down the connection does.
"""

from __future__ import annotations

import socket
import threading
import weakref
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Protocol


class HungUpError(ConnectionAbortedError):
    """A stream was cut because nobody is there any more to read what it brings."""

    def __init__(self) -> None:
        super().__init__("The stream was closed: the client of the request that it belongs to has left.")


class Line:
    """The connection under one open stream, for as long as it is that stream's."""

    __slots__ = ("_lock", "_network", "cut")

    def __init__(self, response: Any) -> None:
        # Under HTTP/2 the connection has other streams too; other transports show none.
        own = response.extensions.get("http_version") == b"HTTP/1.1"
        self._network = response.extensions.get("network_stream") if own else None
        self._lock = threading.Lock()
        self.cut = False
        """Whether it was hung up on."""

    def hang_up(self) -> bool:
        """Shut the connection down, so that a reader who waits is let go. False where it cannot be reached.

        From any thread for a sync stream, from the thread of its event loop for an async one.
        """
        with self._lock:  # a connection that has gone back to its pool is somebody else's
            found = None if self._network is None else self._network.get_extra_info("socket")
            if found is None:
                return False
            self.cut = True
            with suppress(OSError):  # it is closed already
                _shut_down(found)
            return True

    def release(self) -> None:
        """The connection is about to be closed, or to go back to its pool."""
        with self._lock:
            self._network = None


def _shut_down(found: Any) -> None:
    if isinstance(found, socket.socket):
        # Not TLS's own way, which would take the session away from under the reader.
        socket.socket.shutdown(found, socket.SHUT_RDWR)
        return
    # What stands for the socket of an event loop may not let it be shut down, as uvloop's does not.
    with socket.fromfd(found.fileno(), found.family, found.type) as twin:
        twin.shutdown(socket.SHUT_RDWR)


class Reading(Protocol):
    """A stream that is being read."""

    def hang_up(self) -> None: ...

    def abandon(self) -> None: ...


class Lines:
    """The streams that were opened within one web request. They belong to their readers: this only finds them."""

    __slots__ = ("_found", "_gone")

    def __init__(self) -> None:
        self._found: list[weakref.ref[Reading]] = []
        self._gone = False

    def add(self, stream: Reading) -> None:
        self._found.append(weakref.ref(stream))
        if self._gone:
            stream.hang_up()

    def hang_up(self) -> None:
        """The client has left: stop every provider now, and those that answer later."""
        self._gone = True
        for stream in self._alive():
            stream.hang_up()

    def abandon(self) -> None:
        """The request failed: end what it has left open."""
        for stream in self._alive():
            stream.abandon()

    def _alive(self) -> list[Reading]:
        return [stream for found in list(self._found) if (stream := found()) is not None]


opened: ContextVar[Lines | None] = ContextVar("safe_llm_lines", default=None)
"""Where a stream that is opened here and now is noted."""
