"""How events reach the sinks: no call waits for a sink, and none fails with one.

A sink that cannot block is called in place, in the thread of the call. Every other sink has a thread and a bounded
queue of its own, so one that hangs holds up neither the calls nor its neighbours. When its queue is full, events for it
are dropped and counted.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from types import BuiltinMethodType
from typing import Literal, NamedTuple

from ..errors import ConfigurationError
from ..types import Event, Sink
from ._exit import before_exit
from ._worker import Worker

SinkLike = Sink | Callable[[Event], object]
"""What ``sinks=`` takes."""

ROOM = 10_000
"""Events that may wait for one sink: some 25 MB of records."""

BATCH = 500
"""Events that a sink with an ``emit_batch`` is given at once, at most."""

EXIT_SECONDS = 5.0
"""How long a normal exit waits for all sinks together."""

_CANNOT_BLOCK = (list, deque, SimpleQueue)

_log = logging.getLogger("safe_llm")


class SinkStats(NamedTuple):
    """What became of the events meant for one sink. Those still queued are in none of the numbers."""

    sink: str
    """The class of the sink, or the qualified name of the function."""
    delivered: int
    failed: int
    """`emit` raised."""
    dropped: int
    """The queue was full."""


@dataclass(eq=False)
class _Outlet:
    """One sink, and what became of the events meant for it."""

    name: str
    emit: Callable[..., object]
    close: Callable[[], object] | None
    worker: Worker | None
    """None: called in place."""
    capture: Callable[[], object] | None = None
    emit_batch: Callable[[list[Event]], object] | None = None
    waiting: deque[Event] = field(default_factory=deque)
    """For the next batch. Each has a job of the worker; the job of the first takes its followers along."""
    counts: Counter[str] = field(default_factory=Counter)
    used: bool = True
    """There may be something to close: nothing has closed the sink since its last event."""


def _outlet(sink: SinkLike) -> _Outlet:
    name = _name(sink)
    emit = getattr(sink, "emit", sink)
    if isinstance(sink, type) or not callable(emit) or inspect.iscoroutinefunction(emit):
        raise ConfigurationError(
            f"{name} cannot be a sink. Give an object with a method emit(event), or a function of one event; "
            "not a class, and not a coroutine function."
        )
    builtin = isinstance(sink, BuiltinMethodType) and isinstance(sink.__self__, _CANNOT_BLOCK)
    if builtin or getattr(sink, "inline", False):
        return _Outlet(name, emit, getattr(sink, "close", None), None)
    return _Outlet(
        *(name, emit, getattr(sink, "close", None), Worker(f"safe_llm {name}")),
        capture=getattr(sink, "capture", None),
        emit_batch=getattr(sink, "emit_batch", None),
    )


class Dispatcher:
    """Hands events to sinks.

    A sink with a true ``inline`` attribute, or a built-in that cannot block such as ``[].append``, gets each event in
    the thread of the call, before `emit` returns, and possibly from several threads at once. Every other sink gets its
    events in order from one thread of its own, which starts at the first event. In a forked child the threads start
    anew; what was queued is delivered by the parent.

    Such a sink may have a method ``capture()``, for what only the thread of the call knows: it is called there, must
    not block, and what it returns is handed to ``emit(event, captured)``. And it may have ``emit_batch(events)``, for
    what costs less together: it is called with all that wait, `BATCH` at most, which count as failed if it raises.

    A sink that raises, or whose queue is full, is named in the log once, at WARNING by the logger "safe_llm", and
    counted from then on.

    A dispatcher that is collected still delivers what it was given, and so does a normal exit, which closes it. Sinks
    belong to whoever made them: a sink shared by several dispatchers must bear events after its `close`.

    Args:
        sinks: `Sink` objects, or callables that take one event.
        room: events that may wait for one sink.

    Raises:
        ConfigurationError: something in `sinks` cannot be a sink.
    """

    def __init__(self, sinks: Iterable[SinkLike] = (), *, room: int = ROOM) -> None:
        self._room = room
        self._outlets = [_outlet(sink) for sink in sinks]
        self._deferred = Worker("safe_llm deferred")
        self._counting = threading.RLock()  # the garbage collector may emit in the middle of it
        self.before_close: Callable[[float], object] | None = None
        """Called by `close`, and so by a normal exit, with the seconds that it may take. What it emits is delivered."""
        _dispatchers.add(self)
        weakref.finalize(self, _stop, self._workers()).atexit = False

    def emit(self, event: Event) -> None:
        """Gives `event` to every sink. Never waits for a queued one, never raises an `Exception` of any."""
        for outlet in self._outlets:
            # Jobs are bound to the dispatcher, which therefore lives, and is closed at exit, until they are done.
            if outlet.worker is None:
                self._deliver(outlet, event)
            elif outlet.worker.backlog < self._room:  # several threads at once may overshoot by one each
                if outlet.emit_batch is not None:
                    outlet.waiting.append(event)
                    outlet.worker.put(partial(self._deliver_waiting, outlet))
                elif outlet.capture is None:
                    outlet.worker.put(partial(self._deliver, outlet, event))
                else:
                    outlet.worker.put(partial(self._deliver, outlet, event, *self._captured(outlet)))
            elif self._count(outlet, "dropped") == 1:
                _warn("The sink %s is too slow: its queue is full, and events are dropped.", outlet.name)

    def defer(self, function: Callable[[], object]) -> None:
        """Calls `function` soon, in a thread of its own. Safe in a destructor, where taking a lock is not.

        An exception is logged by its class. Nothing bounds this queue: what is deferred settles money.
        """
        self._deferred.put(partial(self._call, function))

    def flush(self, timeout: float = 5.0) -> bool:
        """Waits until all that was deferred and emitted so far is done, at most `timeout` seconds. Whether it was."""
        return not self._late(timeout)

    def _late(self, timeout: float) -> list[str]:
        """Flush; whose work is not done after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        deferred = self._deferred.mark().wait(timeout)  # before the sinks, for what was deferred may emit
        marks = [(outlet.name, outlet.worker.mark()) for outlet in self._outlets if outlet.worker]
        late = [name for name, mark in marks if not mark.wait(deadline - time.monotonic())]
        return late if deferred else [self._deferred.name, *late]

    def close(self, timeout: float = 5.0) -> bool:
        """Flushes, closes the sinks that have a ``close``, and ends the threads, in at most `timeout` seconds.

        Whether all was done in time; what was not goes on in its thread. Closing twice is harmless. An event that comes
        later is delivered as ever; its sink is then closed again by the next `close`, or at exit.
        """
        deadline = time.monotonic() + timeout
        if self.before_close is not None:
            self._call(partial(self.before_close, timeout))
            timeout = max(deadline - time.monotonic(), 0.0)
        late = self._late(timeout)
        for outlet in self._outlets:
            if outlet.worker is None:
                self._close(outlet)
            elif outlet.close is not None:
                outlet.worker.put(partial(self._close, outlet))
        done = self.flush(deadline - time.monotonic())
        _stop(self._workers())
        self._tell_losses(late)
        return done

    def stats(self) -> list[SinkStats]:
        """The counts of each sink, in the order in which the sinks were given."""
        with self._counting:
            fates = [(o.name, o.counts) for o in self._outlets]
            return [SinkStats(name, n["delivered"], n["failed"], n["dropped"]) for name, n in fates]

    def _captured(self, outlet: _Outlet) -> tuple[object, ...]:
        assert outlet.capture is not None
        try:
            return (outlet.capture(),)
        except Exception as exc:
            if self._count(outlet, "uncaptured") == 1:
                _warn("The sink %s failed to capture, with %s.", outlet.name, _name(type(exc)))
            return ()

    def _deliver(self, outlet: _Outlet, event: Event, *captured: object) -> None:
        self._give(outlet, partial(outlet.emit, event, *captured), 1)

    def _deliver_waiting(self, outlet: _Outlet) -> None:
        assert outlet.emit_batch is not None
        batch: list[Event] = []
        while outlet.waiting and len(batch) < BATCH:
            batch.append(outlet.waiting.popleft())
        if batch:
            self._give(outlet, partial(outlet.emit_batch, batch), len(batch))

    def _give(self, outlet: _Outlet, emit: Callable[[], object], number: int) -> None:
        outlet.used = True
        try:
            emit()
        except Exception as exc:
            if self._count(outlet, "failed", number) == number:
                _warn("The sink %s failed with %s; further failures are only counted.", outlet.name, _name(type(exc)))
        else:
            self._count(outlet, "delivered", number)

    def _count(
        self, outlet: _Outlet, fate: Literal["delivered", "failed", "dropped", "uncaptured"], number: int = 1
    ) -> int:
        with self._counting:
            outlet.counts[fate] += number
            return outlet.counts[fate]

    def _tell_losses(self, late: list[str]) -> None:
        """Log how much was lost since the last time, and whose time was over before it had taken all."""
        for outlet in self._outlets:
            with self._counting:
                lost = outlet.counts["failed"] + outlet.counts["dropped"]
                new, outlet.counts["told"] = lost - outlet.counts["told"], lost
            if new:
                _warn("The sink %s lost %s events.", outlet.name, str(new))
        for name in late:
            _warn("%s was too slow to do all before the end.", name)

    def _close(self, outlet: _Outlet) -> None:
        if outlet.close is None or not outlet.used:
            return
        outlet.used = False
        try:
            outlet.close()
        except Exception as exc:
            _warn("The sink %s failed to close, with %s.", outlet.name, _name(type(exc)))

    def _call(self, function: Callable[[], object]) -> None:
        try:
            function()
        except Exception as exc:
            _warn("Deferred work, %s, failed with %s.", _name(function), _name(type(exc)))

    def _workers(self) -> list[Worker]:
        return [self._deferred, *(outlet.worker for outlet in self._outlets if outlet.worker)]

    def _renew(self) -> None:
        self._counting = threading.RLock()  # the garbage collector may emit in the middle of it
        for outlet in self._outlets:
            outlet.waiting.clear()
        for worker in self._workers():
            worker.renew()


def _name(thing: object) -> str:
    return str(getattr(thing, "__qualname__", type(thing).__name__))


def _warn(message: str, *names: str) -> None:
    """Logs names alone. An exception is told by its class, for its message may quote the event."""
    # A filter of the application's may raise, and no call is to fail for that; the counts tell all the same.
    with contextlib.suppress(Exception):
        _log.warning(message, *names)


def _stop(workers: list[Worker]) -> None:
    for worker in workers:
        worker.stop()


_dispatchers: weakref.WeakSet[Dispatcher] = weakref.WeakSet()


@before_exit
def _close_all() -> None:
    deadline = time.monotonic() + EXIT_SECONDS
    for dispatcher in list(_dispatchers):
        dispatcher.close(deadline - time.monotonic())


def _renew_all() -> None:
    for dispatcher in list(_dispatchers):
        dispatcher._renew()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_all)
