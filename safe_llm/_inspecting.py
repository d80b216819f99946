"""Running an application's own checks, and waiting for each no longer than it may take."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextvars import copy_context
from inspect import isawaitable
from typing import Any

from ._settings import is_async
from .types import Check, Content, Finding

_MOST_OVERDUE = 32
"""Checks of this process that nobody waits for any more, and that still run. A thread cannot be ended from outside."""


class _Overdue:
    """How many checks still run after their time."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self, number: int) -> None:
        with self._lock:
            self.count += number


_overdue = _Overdue()


def inspected(check: Check, content: Content, seconds: float) -> tuple[Finding, ...]:
    """What a check finds, in a thread of its own.

    Raises:
        TimeoutError: it takes longer, or too many that took longer have not ended yet.
    """
    running = _started(check, content)
    try:
        return tuple(running.result(seconds))
    except TimeoutError:
        _left(running)
        raise


async def inspected_async(check: Check, content: Content, seconds: float) -> tuple[Finding, ...]:
    """The same for both kinds of checks: coroutines are awaited, others run in a thread."""
    running: Future[Any] | None = None
    try:
        async with asyncio.timeout(seconds):
            if is_async(check.inspect):
                found: Any = check.inspect(content)
            else:
                running = _started(check, content)
                found = await asyncio.wrap_future(running)
            return tuple(await found if isawaitable(found) else found)
    finally:
        if running is not None and not running.done():
            _left(running)


def _started(check: Check, content: Content) -> Future[Any]:
    if _overdue.count >= _MOST_OVERDUE:
        raise TimeoutError
    running: Future[Any] = Future()
    running.set_running_or_notify_cancel()
    context = copy_context()

    def work() -> None:
        try:
            found: Any = context.run(check.inspect, content)
            running.set_result(found if isawaitable(found) else context.run(tuple, found))
        except BaseException as error:
            running.set_exception(error)

    threading.Thread(target=work, name=f"safe_llm check {check.name}", daemon=True).start()
    return running


def _left(running: Future[Any]) -> None:
    _overdue.add(1)
    running.add_done_callback(lambda _: _overdue.add(-1))
