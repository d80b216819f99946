"""Stores of both colours behind one face."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Sequence
from threading import Thread
from typing import Any, TypeVar

from ...stores import AsyncQuotaStore, AwaitableQuotaStore, Charge, QuotaStore, Refusal, Reservation, Tally

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that anything may take at most."""


class LoopThread:
    """An event loop in a thread, so that a coroutine store can be asked from several threads at once."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    def stop(self) -> None:
        self.run(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()


class Driven:
    """An `AsyncQuotaStore` with the face of a `QuotaStore`."""

    def __init__(self, made: AsyncQuotaStore, loop: LoopThread) -> None:
        self.made = made
        self.loop = loop

    def reserve(self, id: str, charges: Sequence[Charge], ttl: float) -> Reservation | Refusal:
        return self.loop.run(self.made.reserve(id, charges, ttl))

    def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        return self.loop.run(self.made.settle(reservation, actual))

    def peek(self, charges: Sequence[Charge]) -> Sequence[Tally]:
        return self.loop.run(self.made.peek(charges))

    def close(self) -> None:
        self.loop.run(self.made.close())


def faced(made: Any, loop: LoopThread) -> QuotaStore:
    """What `make_store` made, or a coroutine that makes it, as a `QuotaStore`."""
    if inspect.iscoroutine(made):
        made = loop.run(made)
    store: QuotaStore = Driven(made, loop) if inspect.iscoroutinefunction(made.reserve) else made
    return store


def made_of(store: QuotaStore) -> Any:
    """What is behind the face."""
    return store.made if isinstance(store, Driven) else store


def in_child(store: QuotaStore) -> QuotaStore:
    """A store that was made before a fork, in the child: the thread with the event loop has stayed with the parent."""
    return Driven(store.made, LoopThread()) if isinstance(store, Driven) else store


def tasked(store: QuotaStore, work: Callable[[AsyncQuotaStore], Coroutine[Any, Any, T]], *, loop: LoopThread) -> T:
    """Run `work` on an event loop, with the store as an async client has it."""
    return loop.run(work(store.made if isinstance(store, Driven) else AwaitableQuotaStore(store)))
