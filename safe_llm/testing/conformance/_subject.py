"""The store that the tests are about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ...stores import QuotaStore
from ._clock import Clock, Injected, Real
from ._drive import LoopThread, faced, made_of


class Subject:
    """Makes a store for each test, and closes it afterwards."""

    def make_store(self) -> Any:
        """A fresh, empty store: a `QuotaStore` or an `AsyncQuotaStore`, or a coroutine that makes one."""
        raise NotImplementedError("return a fresh, empty store")

    def set_clock(self, store: Any, clock: Callable[[], float]) -> bool:
        """Make a store that `make_store` made read leases by `clock`, in UTC epoch seconds. False if it cannot: then
        the tests wait for leases in real time, and say less about them."""
        target = getattr(store, "store", store)  # what an adapter wraps
        if hasattr(target, "clock"):
            target.clock = clock
        elif hasattr(target, "follow"):
            target.follow(clock)
        else:
            return False
        return True

    @pytest.fixture
    def loop(self) -> Iterator[LoopThread]:
        loop = LoopThread()
        yield loop
        loop.stop()

    @pytest.fixture
    def store(self, loop: LoopThread) -> Iterator[QuotaStore]:
        store = faced(self.make_store(), loop)
        yield store
        store.close()

    @pytest.fixture
    def clock(self, store: QuotaStore) -> Clock:
        clock = Injected()
        return clock if self.set_clock(made_of(store), clock.time) else Real()
