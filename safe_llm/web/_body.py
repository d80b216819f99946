"""Reading the body of a WSGI request: so much of it, and for so long."""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from contextlib import suppress
from typing import Any

from ..errors import InputRejectedError
from .headers import incomplete, length, too_large, too_slow

_PIECE = 65_536


def read_body(environ: dict[str, Any], most: int, seconds: float) -> bytes:
    """The whole body of a request: at most so many bytes, within so many seconds.

    Raises:
        InputRejectedError: it is too long, too slow, cut short, or its length cannot be told.
    """
    told = environ.get("CONTENT_LENGTH") or None
    encoding = environ.get("HTTP_TRANSFER_ENCODING") or None
    # Some servers put a length of 0 where there is none.
    lengths = [] if told is None or (told == "0" and encoding) else [told]
    left = length(lengths, [] if encoding is None else [encoding], most)
    if left is None:
        if encoding is None:
            return b""
        if not environ.get("wsgi.input_terminated"):
            raise InputRejectedError(
                "This server cannot tell where a chunked body ends: send Content-Length.",
                code="length_required",
                status_code=411,
            )
    return _read(environ, left, most, seconds) if left != 0 else b""


def _read(environ: dict[str, Any], left: int | None, most: int, seconds: float) -> bytes:
    given = environ["wsgi.input"]
    read = getattr(given, "read1", given.read)  # the one gives what is there, the other waits until it is so much
    ends = time.monotonic() + seconds
    pieces, size = [], 0
    patience = _Patience(environ)
    try:
        while left is None or size < left:
            patience.set(ends - time.monotonic())
            # One byte more than may come tells that more is coming.
            piece = read(min(_PIECE, (most + 1 if left is None else left) - size))
            if time.monotonic() >= ends:
                raise too_slow(seconds)
            if not piece:
                break
            size += len(piece)
            if size > most:
                raise too_large(most)
            pieces.append(piece)
    except OSError as error:
        raise (too_slow(seconds) if time.monotonic() >= ends else incomplete()) from error
    finally:
        patience.set(None)
    if left is not None and size < left:
        raise incomplete()
    return b"".join(pieces)


class _Patience:
    """How long the system waits for bytes of the socket that a body comes from, where the server shows it."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self._twin: socket.socket | None = None
        shown = environ.get("werkzeug.socket") or environ.get("gunicorn.socket") or environ["wsgi.input"]
        if sys.platform != "win32":  # it counts in milliseconds there
            # Of one connection, whatever object stands for it. Most inputs are none: files, buffers.
            with suppress(AttributeError, OSError):
                self._twin = socket.socket(fileno=os.dup(shown.fileno()))

    def set(self, seconds: float | None) -> None:
        """None: for ever, as before; and no more is going to be said."""
        if self._twin is None:
            return
        whole, part = divmod(max(seconds, 0.001) if seconds is not None else 0.0, 1)
        with suppress(OSError):  # it has been closed
            self._twin.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(whole), int(part * 1_000_000))
            )
        if seconds is None:
            self._twin.close()
            self._twin = None
