"""A response's bytes on their way to the reader: metered, checked, held to the deadline, and settled at their end."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401  # it cannot be imported while the process exits, and counting needs it
import os
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from ._lines import HungUpError, Line, opened
from ._transport import Sending, base_of
from .deadline import within
from .errors import OutputRejectedError
from .sinks._exit import before_exit

T = TypeVar("T")

_UNREAD_SECONDS = 0.1
"""How long after its deadline a stream that nobody reads is ended."""

Done = Callable[[BaseException | None, bool], Any]
"""Called once with the error that ended a stream, if any, and whether it was read to its end."""


class Bytes:
    """A response's bytes on their way to the reader."""

    def __init__(
        self,
        inner: Any,
        line: Line,
        sending: Sending,
        done: Done,
        abandoned: Callable[[Any], None],
        judge: Callable[[], Any],
    ) -> None:
        self._inner = inner
        self._line = line
        self._sending = sending
        self._done: Done | None = done
        self._judge = judge
        self._abandoned = abandoned
        self._process = os.getpid()
        self._begun = False
        _open.add(self)
        if (lines := opened.get()) is not None:
            lines.add(self)

    def _take(self) -> Done | None:
        """What to call at the end; None from the second time on, and in a forked copy, which is the parent's to end."""
        done, self._done = self._done, None
        return done if self._process == os.getpid() else None

    def hang_up(self) -> None:
        """Stop the provider: whoever is reading, in whatever thread, gets a `HungUpError` and settles."""
        if self._done is not None and not self._line.hang_up():
            self.abandon()

    def abandon(self) -> None:
        """End without waiting: the reader is gone. May be called by the garbage collector."""
        if self._take() is not None:
            self._line.release()
            self._abandoned(self._inner)

    def _verdict(self, error: BaseException) -> tuple[BaseException, BaseException | None, bool]:
        """What the reader is told of an error; what the call is settled with, and whether as read to its end."""
        deadline = self._sending.deadline
        if isinstance(error, Exception) and not isinstance(error, OutputRejectedError):
            if self._line.cut:
                return (error if isinstance(error, HungUpError) else HungUpError()), None, False
            if deadline is not None and deadline.expired:
                error = self._sending.too_late()
        return error, error, True

    def disown(self) -> None:
        """Somebody else settles."""
        self._take()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.abandon()


_open: weakref.WeakSet[Bytes] = weakref.WeakSet()


@before_exit
def _settle_open_streams() -> None:
    """A normal exit settles what is still being read, and then flushes the sinks."""
    for stream in list(_open):
        with suppress(Exception):  # one that fails is not to keep the others from being settled
            stream.abandon()


class _SyncBytes(Bytes):
    def __iter__(self) -> Iterator[bytes]:
        if self._begun:  # whoever drains what is left after the end
            yield from self._inner
            return
        self._begun = True
        sending = self._sending
        deadline, chunks = sending.deadline, iter(self._inner)
        enforced = sending.bounded and deadline is not None
        try:
            while True:
                if enforced:
                    with within(deadline):
                        data = next(chunks, None)
                else:
                    data = next(chunks, None)
                    if deadline is not None and deadline.expired:
                        raise sending.too_late()
                if data is None:
                    if self._line.cut:
                        raise HungUpError
                    break
                if out := sending.feed(data):
                    yield out
                if sending.rejection is not None:
                    raise sending.rejection
            if out := sending.end():
                yield out
            if sending.output is not None:
                self._judge()
                if out := sending.release():
                    yield out
        except GeneratorExit:
            raise
        except BaseException as error:
            if isinstance(error, Exception) and (out := sending.cut()):
                yield out
            shown = self._fail(sending.rejection or error)
            if shown is error:
                raise
            raise shown from error
        self._finish(None, True)

    def _fail(self, error: BaseException) -> BaseException:
        shown, settled, exhausted = self._verdict(error)
        if isinstance(shown, OutputRejectedError):
            self._inner.close()  # nobody is to read on
        self._finish(settled, exhausted)
        return shown

    def _finish(self, error: BaseException | None, exhausted: bool) -> None:
        done = self._take()
        if done is not None:
            done(error, exhausted)

    def close(self) -> None:
        self._line.release()
        try:
            self._inner.close()
        finally:
            self._finish(None, False)


class _AsyncBytes(Bytes):
    _timer: asyncio.TimerHandle | None = None
    _late: BaseException | None = None
    _ending: asyncio.Task[Any] | None = None

    def end_in_time(self, loop: asyncio.AbstractEventLoop) -> None:
        """End at the deadline even if nobody reads: a reader that pauses would keep the provider writing."""
        deadline = self._sending.deadline
        if deadline is not None:
            # A reader who waits finds out by himself; this is for one who does not.
            self._timer = loop.call_later(deadline.remaining() + _UNREAD_SECONDS, _expire, weakref.ref(self), loop)

    def expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """The deadline is over: stop the provider and settle. Whoever reads on is told."""
        deadline = self._sending.deadline
        if deadline is None or not deadline.expired or (done := self._take()) is None:
            return
        self._late = self._sending.too_late()
        self._line.hang_up()
        # Shutting down lets go who waits for the next bytes, closing lets go a provider who cannot get rid of his.
        start(loop, self._inner.aclose())
        self._ending = keep(loop, done(self._late, True))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._begun:  # whoever drains what is left after the end, as the SDK does
            async for data in self._inner:
                yield data
            return
        self._begun = True
        sending = self._sending
        deadline, chunks = sending.deadline, aiter(self._inner)
        enforced = sending.bounded and deadline is not None
        try:
            while True:
                if enforced:
                    with within(deadline):
                        data = await anext(chunks, None)
                else:
                    data = await sending.step(anext(chunks, None))
                if self._late is not None:
                    raise self._late
                if data is None:
                    if self._line.cut:
                        raise HungUpError
                    break
                if out := sending.feed(data):
                    yield out
                if sending.rejection is not None:
                    raise sending.rejection
            if out := sending.end():
                yield out
            if sending.output is not None:
                await self._judge()
                if out := sending.release():
                    yield out
        except GeneratorExit:
            raise
        except BaseException as error:
            if isinstance(error, Exception) and (out := sending.cut()):
                yield out
            shown = await self._fail(sending.rejection or error)
            if shown is error:
                raise
            raise shown from error
        await self._finish(None, True)

    async def _fail(self, error: BaseException) -> BaseException:
        if self._ending is not None and self._late is not None and isinstance(error, Exception):
            await asyncio.wait([self._ending])
            return self._late
        shown, settled, exhausted = self._verdict(error)
        if isinstance(shown, OutputRejectedError):
            await self._inner.aclose()  # nobody is to read on
        await self._finish(settled, exhausted)
        return shown

    async def _finish(self, error: BaseException | None, exhausted: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        done = self._take()
        if done is not None:
            await done(error, exhausted)

    async def aclose(self) -> None:
        self._line.release()
        try:
            await self._inner.aclose()
        finally:
            await self._finish(None, False)


def _expire(found: weakref.ref[_AsyncBytes], loop: asyncio.AbstractEventLoop) -> None:
    stream = found()
    if stream is not None:
        stream.expire(loop)


def start(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any]) -> None:
    """Run work on a loop from any thread; if the loop is gone, so are its connections, and the lease settles."""
    if loop.is_closed():
        work.close()
    else:
        loop.call_soon_threadsafe(keep, loop, work)


_running: set[asyncio.Task[Any]] = set()


def keep(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task that is not collected before it is done."""
    task = loop.create_task(work)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


_classes: dict[tuple[type, type], type] = {}


def metered(
    response: Any,
    sending: Sending,
    done: Done,
    abandoned: Callable[[Any], None],
    judge: Callable[[], Any],
    *,
    is_async: bool,
) -> Any:
    """Put our stream into an open response; returns it. `judge` runs the checks that want all of the answer."""
    ours = _AsyncBytes if is_async else _SyncBytes
    theirs = base_of(response.stream, "AsyncByteStream" if is_async else "SyncByteStream")
    # httpx and httpx2 each insist on a stream of their own class.
    made = _classes.get((ours, theirs))
    if made is None:
        made = _classes[ours, theirs] = type("MeteredStream", (ours, theirs), {})
    response.stream = made(response.stream, Line(response), sending, done, abandoned, judge)
    return response.stream
