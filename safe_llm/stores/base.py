"""What a quota store is, and what the built-in ones share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from ..types import Charge, Refusal, Reservation, Tally

T = TypeVar("T")


class QuotaStore(Protocol):
    """Counts calls against limits. Every method is one atomic step, safe to call from any thread.

    Between `reserve` and `settle` an amount counts as held, afterwards as used at what it really was. Prove a store of
    your own with `safe_llm.testing.QuotaStoreConformance`; `KeyValueQuotaStore` spares you the algorithm.
    """

    def reserve(self, id: str, charges: Sequence[Charge], ttl: float) -> Reservation | Refusal:
        """Take room for all charges, or for none and say why.

        A charge fits when used + held + amount <= limit. The same `id` again gives the same answer and takes nothing.
        `ttl` is in seconds: a lease that ends unsettled gives its ``held`` charges back and makes the others used.
        """
        ...

    def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        """Turn what was reserved into what was used: one amount per charge, which may be more or less than reserved.

        False means that nothing was changed: it was settled before, or so long ago that it has been forgotten.
        """
        ...

    def peek(self, charges: Sequence[Charge]) -> Sequence[Tally]:
        """What stands against each charge's limit. Takes nothing; amounts and limits are not looked at."""
        ...

    def close(self) -> None:
        """Let go of connections and files. Closing twice is harmless."""
        ...


class AsyncQuotaStore(Protocol):
    """A `QuotaStore` whose methods are coroutines."""

    async def reserve(self, id: str, charges: Sequence[Charge], ttl: float) -> Reservation | Refusal: ...

    async def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool: ...

    async def peek(self, charges: Sequence[Charge]) -> Sequence[Tally]: ...

    async def close(self) -> None: ...


class ClockedStore:
    """A store that reads leases by a clock of its own: UTC epoch seconds. Windows come with the charges."""

    # Looked up at each call, so that a test that replaces time.time is heard.
    clock: Callable[[], float] = staticmethod(lambda: time.time())

    blocking: bool = True
    """Whether a method may wait for I/O. One that does not may be called on an event loop."""

    def follow(self, clock: Callable[[], float]) -> None:
        """Read leases by `clock`, unless a clock was chosen before. A client offers its own here."""
        self.__dict__.setdefault("clock", clock)


class AwaitableQuotaStore:
    """Any `QuotaStore` as an `AsyncQuotaStore`. A store that blocks, or does not say, is called in a worker thread.

    A cancelled `reserve` may still have taken room, as it may over a network: the lease gives it back.
    """

    def __init__(self, store: QuotaStore) -> None:
        self.store = store

    async def reserve(self, id: str, charges: Sequence[Charge], ttl: float) -> Reservation | Refusal:
        return await self._call(lambda: self.store.reserve(id, charges, ttl))

    async def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        return await self._call(lambda: self.store.settle(reservation, actual))

    async def peek(self, charges: Sequence[Charge]) -> Sequence[Tally]:
        return await self._call(lambda: self.store.peek(charges))

    async def close(self) -> None:
        await self._call(self.store.close)

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.to_thread(work) if getattr(self.store, "blocking", True) else work()
