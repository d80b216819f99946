"""The SDK's own stream classes, made to notice being left.

An SDK stream that is left with ``break`` keeps its connection open, and the provider keeps writing, and billing, an
answer that nobody reads. Here leaving the loop closes the stream; so does dropping it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, TypeVar

from openai import AsyncStream, Stream

from ._bytes import Bytes

T = TypeVar("T")

_LEFT = (
    "This stream was closed when its loop was left: nobody would have read, but somebody would have paid for, the rest "
    "of the answer. To look at the first chunk only, use next(stream), or keep the iterator: it = iter(stream)."
)


class SafeStream(Stream[T], Generic[T]):
    """The SDK's `Stream`, closed when its loop is left or when it is dropped."""

    def __init__(self, **arguments: Any) -> None:
        # The iterator belongs to a stream inside, so that nothing keeps this one alive but its user.
        self.__dict__.update(Stream(**arguments).__dict__)

    def __iter__(self) -> Iterator[T]:
        return _Loop(self)

    def leave(self) -> None:
        """Close; a later attempt to read says why."""
        if not self.response.is_closed:
            self._iterator = _left()
            self.response.close()

    def __del__(self) -> None:
        if not sys.is_finalizing() and "response" in self.__dict__:
            self.response.close()


class _Loop(Generic[T]):
    """One loop over a stream. It knows whether it came to the stream's end."""

    __slots__ = ("_step", "_stream")

    def __init__(self, stream: SafeStream[T]) -> None:
        self._stream: SafeStream[T] | None = stream
        self._step = stream._iterator.__next__

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            return self._step()
        except BaseException:
            self._stream = None
            raise

    def __del__(self) -> None:
        if self._stream is not None and not sys.is_finalizing():
            self._stream.leave()


def _left() -> Iterator[Any]:
    raise RuntimeError(_LEFT)
    yield


class SafeAsyncStream(AsyncStream[T], Generic[T]):
    """The SDK's `AsyncStream`, closed when its loop is left or when it is dropped."""

    def __init__(self, **arguments: Any) -> None:
        self.__dict__.update(AsyncStream(**arguments).__dict__)

    def __aiter__(self) -> AsyncIterator[T]:
        return _AsyncLoop(self)

    def leave(self) -> None:
        """Close, without waiting for it; a later attempt to read says why."""
        if not self.response.is_closed:
            self._iterator = _async_left()
            self._abandon()

    def _abandon(self) -> None:
        stream = self.response.stream
        if isinstance(stream, Bytes):
            stream.abandon()

    def __del__(self) -> None:
        if not sys.is_finalizing() and "response" in self.__dict__:
            self._abandon()


class _AsyncLoop(Generic[T]):
    __slots__ = ("_step", "_stream")

    def __init__(self, stream: SafeAsyncStream[T]) -> None:
        self._stream: SafeAsyncStream[T] | None = stream
        self._step = stream._iterator.__anext__

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return await self._step()
        except BaseException:
            self._stream = None
            raise

    def __del__(self) -> None:
        if self._stream is not None and not sys.is_finalizing():
            self._stream.leave()


async def _async_left() -> AsyncIterator[Any]:
    raise RuntimeError(_LEFT)
    yield


def noticing(stream_cls: Any) -> Any:
    """The stream class to build for the caller: ours in place of the SDK's own, anybody else's as it is."""
    origin = getattr(stream_cls, "__origin__", stream_cls)
    ours: Any = {Stream: SafeStream, AsyncStream: SafeAsyncStream}.get(origin)
    if ours is None:
        return stream_cls
    arguments = getattr(stream_cls, "__args__", ())
    return ours[arguments] if arguments else ours
