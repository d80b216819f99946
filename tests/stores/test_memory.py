"""The store of one process: its threads, its forks, its memory, and its URL."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from threading import Barrier, Event, Thread, get_ident
from typing import Any

import pytest
from histories import STEPS, SWITCH, Now, ends_well, replay
from hypothesis import given, settings

from safe_llm.errors import ConfigurationError
from safe_llm.stores import (
    AwaitableQuotaStore,
    Charge,
    KeyValueQuotaStore,
    MemoryQuotaStore,
    Refusal,
    Reservation,
    Tally,
    open_async_store,
    open_store,
)
from safe_llm.testing.conformance import QuotaStoreConformance

DAY = 86_400


class TestMemoryQuotaStore(QuotaStoreConformance):
    def make_store(self) -> MemoryQuotaStore:
        return MemoryQuotaStore()


class TestAwaitableQuotaStore(QuotaStoreConformance):
    def make_store(self) -> AwaitableQuotaStore:
        return AwaitableQuotaStore(MemoryQuotaStore())


def of_day(day: int, user: int = 0, *, amount: int = 1, limit: int = 1_000_000) -> Charge:
    return Charge(f"user{user}", amount, limit, "fixed", day * DAY, (day + 1) * DAY)


def test_a_hundred_threads_share_a_limit_to_the_last_unit() -> None:
    """They start at once and ask for six times what there is."""
    store, start = MemoryQuotaStore(), Barrier(100)
    charge = of_day(20_000, limit=1_000)

    def use(thread: int) -> int:
        start.wait()
        used = 0
        for call in range(60):
            answer = store.reserve(f"{thread}/{call}", [charge, of_day(20_000, thread + 1)], 30)
            if isinstance(answer, Reservation):
                used += 1
                assert store.settle(answer, [1, 1])
        return used

    with ThreadPoolExecutor(100) as pool:
        assert sum(pool.map(use, range(100))) == 1_000
    assert store.peek([charge]) == [Tally(1_000, 0)]


def test_memory_stays_bounded_over_many_users_and_windows() -> None:
    """Fifty thousand users over a hundred days cost no more than those of one day."""
    now = 20_000.0 * DAY
    store = MemoryQuotaStore(clock=lambda: now)
    sizes = []
    for day in range(20_000, 20_100):
        for user in range(500):
            now = day * DAY + user
            answer = store.reserve(f"{day}/{user}", [of_day(day, day * 500 + user)], 30)
            assert isinstance(answer, Reservation)
            if user % 50:  # The others never settle.
                store.settle(answer, [1])
        sizes.append(size(store))
    assert max(sizes[50:]) < 2 * max(sizes[5:10])
    assert max(sizes) < 1_000_000


def test_refusals_and_looks_leave_nothing_for_long() -> None:
    """Keys that a denied caller makes up cost no memory, and neither do those that are only asked about."""
    store = MemoryQuotaStore(clock=lambda: 20_000.0 * DAY)
    full = of_day(20_000, limit=0)
    asked = Charge("", 0, 0, "held", 0, 2**42)
    for number in range(50_000):
        made_up = f"{number:0100}"
        other = of_day(20_000)._replace(key=made_up)
        assert isinstance(store.reserve(made_up, [asked._replace(key=made_up), other, full], 30), Refusal)
        store.peek([other])
    assert size(store) < 500_000


def test_a_store_that_has_grown_still_takes_a_call_without_limits() -> None:
    """The sweep needs no charge to tell the time by."""
    store = MemoryQuotaStore()
    for user in range(2_000):
        store.reserve(str(user), [of_day(20_000, user)], 30)
    assert isinstance(store.reserve("free", [], 30), Reservation)


@pytest.mark.parametrize("clock_is_off", [-1_000 * DAY, 1_000 * DAY])
def test_a_wrong_clock_alone_wipes_nothing(clock_is_off: int) -> None:
    """The store's clock, or a client's, may be years off while others still count."""
    now = 20_000.0 * DAY
    store = MemoryQuotaStore(clock=lambda: now)
    used = store.reserve("a", [of_day(20_000)], 30)
    assert isinstance(used, Reservation)
    store.settle(used, [1])
    for user in range(5_000):
        store.reserve(str(user), [of_day(20_000 + clock_is_off // DAY, user + 1)], 30)
    assert store.peek([of_day(20_000)]) == [Tally(1, 0)]
    now += clock_is_off
    for user in range(20_000):
        store.reserve(f"again{user}", [of_day(20_000, user + 10_000)], 30)
    assert store.peek([of_day(20_000)]) == [Tally(1, 0)]


def test_a_sweep_wipes_nothing_that_a_late_call_will_ask_for() -> None:
    """Calls in flight, and switches, whose windows begin at nothing and end never, do not say what time it is."""
    now = 20_000.0 * DAY
    store = MemoryQuotaStore(clock=lambda: now)
    store.reserve("a", [of_day(20_000)], 30)
    now += 2 * DAY
    for number in range(3_000):
        in_flight = Charge(f"now{number}", 1, 1, "held", int(now), int(now) + 1)
        assert isinstance(store.reserve(str(number), [SWITCH, in_flight], 30), Reservation)
    assert store.peek([of_day(20_000)]) == [Tally(1, 0)]


def test_switches_do_not_keep_ended_windows() -> None:
    """A call's other windows tell the time."""
    now = 20_000.0 * DAY
    store = MemoryQuotaStore(clock=lambda: now)
    for number in range(30_000):
        now += 60
        answer = store.reserve(str(number), [SWITCH, of_day(int(now // DAY), number)], 30)
        assert isinstance(answer, Reservation)
        store.settle(answer, [0, 1])
    assert size(store) < 500_000


def test_what_was_not_foreseen_is_counted_after_a_sweep_too() -> None:
    """A charge of 0 held no place for its counter."""
    store = MemoryQuotaStore(clock=lambda: 20_000.0 * DAY)
    free = of_day(20_000, amount=0)
    reservation = store.reserve("free", [free], 30)
    assert isinstance(reservation, Reservation)
    for user in range(5_000):
        store.reserve(str(user), [of_day(20_000, user + 1)], 30)
    assert store.settle(reservation, [3]) is True
    assert store.peek([free]) == [Tally(3, 0)]


def size(store: MemoryQuotaStore) -> int:
    """Bytes of all that the store remembers."""
    return len(pickle.dumps({name: value for name, value in vars(store).items() if name != "clock"}))


# Against the reference algorithm --------------------------------------------------------------------------------------


class Reference(KeyValueQuotaStore):
    """The algorithm that is written to be read, over a dict."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.data: dict[str, Any] = {}

    def transaction(self, keys: Collection[str]) -> AbstractContextManager[dict[str, Any]]:
        return nullcontext(self.data)


@pytest.mark.parametrize("swept", [False, True], ids=["", "swept at each step"])
@given(steps=STEPS)
@settings(max_examples=300, deadline=None)
def test_any_history_is_answered_as_the_reference_algorithm_answers_it(swept: bool, steps: list[Any]) -> None:
    """Every answer, tally and wait is the same, whenever the sweep comes, by clients whose clocks differ a little."""
    now = Now()
    store, reference = MemoryQuotaStore(clock=now), Reference(now)

    def sweep() -> None:
        store._room = -1

    replay(steps, now, store, reference, before_each=sweep if swept else None)


# Threads and forks ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_in_the_midst_of_other_threads_leaves_a_store_that_works() -> None:
    """The child finds a free lock and whole counters, and counts on by itself."""
    store, stop = MemoryQuotaStore(), Event()
    pair = [of_day(20_000, 1, limit=2**53), of_day(20_000, 2, limit=2**53)]  # more than a slow machine ever uses

    def use() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            answer = store.reserve(f"{get_ident()}/{number}", pair, 30)
            assert isinstance(answer, Reservation)
            store.settle(answer, [1, 1])

    threads = [Thread(target=use) for _ in range(4)]
    interval, tracer = sys.getswitchinterval(), sys.gettrace()
    sys.setswitchinterval(1e-5)
    sys.settrace(None)  # a coverage tool has a lock of its own, which a thread that the child lacks may hold
    try:
        for thread in threads:
            thread.start()
        for _ in range(20):
            child = os.fork()
            if child == 0:
                first, second = store.peek(pair)
                answer = store.reserve("child", pair, 30)
                os._exit(0 if first == second and isinstance(answer, Reservation) else 1)
            assert ends_well(child)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
        sys.settrace(tracer)


# URLs and event loops ------------------------------------------------------------------------------------------------


def test_a_url_opens_a_fresh_store() -> None:
    """Each with counters of its own."""
    first, second = open_store("memory://"), open_store("MEMORY://")
    assert isinstance(first, MemoryQuotaStore)
    first.reserve("a", [of_day(1)], 30)
    assert second.peek([of_day(1)]) == [Tally(0, 0)]
    first.close()
    second.close()


def test_an_async_store_opens_from_the_same_url() -> None:
    """Its methods are coroutines."""

    async def use() -> Any:
        store = open_async_store("memory://")
        answer = await store.reserve("a", [of_day(1, limit=1)], 30)
        assert isinstance(answer, Reservation)
        assert await store.settle(answer, [1]) is True
        tallies = await store.peek([of_day(1)])
        await store.close()
        return tallies

    assert asyncio.run(use()) == [Tally(1, 0)]


class Where:
    """Tells which threads it is called in."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def reserve(self, id: str, charges: Sequence[Charge], ttl: float) -> Reservation | Refusal:
        self.threads.append(get_ident())
        return Reservation(id, tuple(charges), ttl)

    def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        self.threads.append(get_ident())
        return True

    def peek(self, charges: Sequence[Charge]) -> Sequence[Tally]:
        self.threads.append(get_ident())
        return []

    def close(self) -> None:
        self.threads.append(get_ident())


@pytest.mark.parametrize("method", ["reserve", "settle", "peek", "close"])
@pytest.mark.parametrize("blocking", [False, True, None])
def test_a_store_is_called_off_the_event_loop_unless_it_says_that_it_never_blocks(
    blocking: bool | None, method: str
) -> None:
    """One that says nothing is taken to wait, whichever method is called."""
    store: Any = Where()
    if blocking is not None:
        store.blocking = blocking
    arguments = {"reserve": ("id", [], 30), "settle": (Reservation("id", (), 0.0), []), "peek": ([],), "close": ()}
    asyncio.run(getattr(AwaitableQuotaStore(store), method)(*arguments[method]))
    assert (store.threads == [get_ident()]) is (blocking is False)


def test_a_blocking_store_leaves_the_event_loop_free() -> None:
    """Other tasks go on while it waits."""
    free = Event()

    class Waits(Where):
        def peek(self, charges: Sequence[Charge]) -> Sequence[Tally]:
            assert free.wait(10), "the event loop stood still"
            return []

    async def use() -> None:
        looking = asyncio.create_task(AwaitableQuotaStore(Waits()).peek([]))
        await asyncio.sleep(0)
        free.set()
        await looking

    asyncio.run(use())


@pytest.mark.parametrize("open", [open_store, open_async_store])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memry://", r"memry:// \(did you mean memory://\?\). There are: memory://"),
        ("mongodb://user:hunter2@host", "no quota store for mongodb://. There are: memory://"),
        ("user:hunter2@host", "a URL that begins with one of: memory://"),
        ("hunter2:pw@redis://host", "a URL that begins with one of: memory://"),
        ("memory://user:hunter2@host", "memory:// takes nothing after"),
    ],
)
def test_a_url_that_names_no_store_is_explained_without_its_password(open: Any, url: str, said: str) -> None:
    """The scheme and what there is, with the nearest, and never the rest."""
    with pytest.raises(ConfigurationError, match=said) as caught:
        open(url)
    assert "hunter2" not in str(caught.value)
