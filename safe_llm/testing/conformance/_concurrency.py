"""Threads, tasks and event loops at once."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any, TypeVar
from uuid import uuid4

import pytest

from ...stores import AsyncQuotaStore, Charge, QuotaStore, Reservation
from ._drive import PATIENCE, LoopThread, faced, tasked
from ._subject import Subject
from ._words import TTL, charge, taken, tallies

T = TypeVar("T")


class Concurrency(Subject):
    """Every method is one step: exact counts, whoever asks at once."""

    @pytest.fixture
    def eager(self) -> Iterator[None]:
        """Threads that interrupt one another more often than is usual."""
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        yield
        sys.setswitchinterval(interval)

    def test_threads_share_a_limit_to_the_last_unit(self, store: QuotaStore, eager: None) -> None:
        """Eight threads ask for more than there is, and exactly the limit is given."""
        charges = [charge(limit=50), charge("sliding", limit=60)]
        assert sum(at_once(8, lambda: used_up(store, charges, 10))) == 50
        assert tallies(store, charges) == [(50, 0), (50, 0)]

    def test_no_moment_sees_more_than_the_limit_or_half_a_step(self, store: QuotaStore, eager: None) -> None:
        """Whoever looks meanwhile finds all charges of a call or none, held or used, and never too many."""
        charges = [charge(key=key, limit=20) for key in "ab"] + [charge("held", limit=3)]
        seen = []

        def use() -> None:
            for _ in range(8):
                answer = store.reserve(uuid4().hex, charges, TTL)
                seen.append(tallies(store, charges))
                if isinstance(answer, Reservation):
                    store.settle(answer, [1, 1, 0])

        at_once(8, use)
        for a, b, calls in seen:
            assert a == b
            assert sum(a) <= 20
            assert a.held == calls.held <= 3

    def test_a_reservation_is_settled_by_one_of_many(self, store: QuotaStore, eager: None) -> None:
        """Eight threads settle the same one at once: one is told True, and it is counted once."""
        for number in range(5):
            reservation = taken(store, charge(amount=3, limit=99), charge("sliding", amount=3, limit=99))
            told = at_once(8, partial(store.settle, reservation, [1, 4]))
            assert sorted(told) == [False] * 7 + [True]
            assert tallies(store, [charge(), charge("sliding")]) == [(number + 1, 0), (4 * (number + 1), 0)]

    def test_the_same_id_from_many_threads_is_one_reservation(self, store: QuotaStore, eager: None) -> None:
        """All get the same answer, and one amount is taken."""
        charges = [charge(limit=99), charge("held", limit=99)]
        for number in range(5):
            answers = at_once(8, partial(store.reserve, f"id{number}", charges, TTL))
            assert isinstance(answers[0], Reservation)
            assert answers == [answers[0]] * 8
            assert tallies(store, charges) == [(0, number + 1)] * 2

    def test_tasks_share_a_limit_to_the_last_unit(self, store: QuotaStore, loop: LoopThread) -> None:
        """Fifty tasks of one event loop, which reach a store without coroutines through `AwaitableQuotaStore`."""
        charges = [charge(limit=70), charge("sliding", limit=80)]

        async def crowd(store: AsyncQuotaStore) -> list[int]:
            return await asyncio.gather(*(use(store) for _ in range(50)))

        async def use(store: AsyncQuotaStore) -> int:
            mine = 0
            for _ in range(2):
                answer = await store.reserve(uuid4().hex, charges, TTL)
                if isinstance(answer, Reservation):
                    mine += 1
                    assert await store.settle(answer, [1, 1]) is True
            return mine

        assert sum(tasked(store, crowd, loop=loop)) == 70
        assert tallies(store, charges) == [(70, 0), (70, 0)]

    # What a store still holds of an event loop that has ended is found to be open when it is collected: here.
    @pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
    def test_a_store_serves_two_event_loops(self, loop: LoopThread) -> None:
        """At once, and one after the end of the other, as ``asyncio.run`` twice."""
        store = faced(self.make_store(), loop)
        serves_two_loops(store, loop)
        store.close()
        del store
        gc.collect()


def serves_two_loops(store: QuotaStore, loop: LoopThread) -> None:
    def work(loop: LoopThread, charges: list[Charge]) -> int:
        return tasked(store, one_after_another(charges, 10), loop=loop)

    second, third = LoopThread(), LoopThread()
    little = [charge(limit=15), charge("held", limit=15)]
    assert sum(together(partial(work, loop, little), partial(work, second, little))) == 15
    second.stop()
    much = [charge(key="afterwards", limit=99)]
    assert sum(together(partial(work, loop, much), partial(work, third, much))) == 20
    third.stop()
    assert used_up(store, much, 10) == 10


def one_after_another(charges: list[Charge], times: int) -> Callable[[AsyncQuotaStore], Coroutine[Any, Any, int]]:
    """A coroutine function that reserves and settles so many times, and counts what was admitted."""

    async def work(store: AsyncQuotaStore) -> int:
        admitted = 0
        for _ in range(times):
            answer = await store.reserve(uuid4().hex, charges, TTL)
            if isinstance(answer, Reservation):
                admitted += 1
                assert await store.settle(answer, [1] * len(charges)) is True
        return admitted

    return work


def used_up(store: QuotaStore, charges: list[Charge], times: int) -> int:
    """Reserve and settle so many times, and count what was admitted."""
    admitted = 0
    for _ in range(times):
        answer = store.reserve(uuid4().hex, charges, TTL)
        if isinstance(answer, Reservation):
            admitted += 1
            assert store.settle(answer, [1] * len(charges)) is True
    return admitted


def at_once(threads: int, work: Callable[[], T]) -> list[T]:
    """What the work came to in so many threads that began together."""
    return together(*[work] * threads)


def together(*works: Callable[[], T]) -> list[T]:
    start = Barrier(len(works))

    def begin(work: Callable[[], T]) -> T:
        start.wait(PATIENCE)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(begin, works, timeout=PATIENCE))
