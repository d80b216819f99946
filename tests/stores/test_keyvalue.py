"""The algorithm over a backend that keeps nothing but text, and against an oracle that knows no tricks."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import pytest
from histories import DAY, START, Now
from hypothesis import given, settings
from hypothesis import strategies as st

from safe_llm.stores import Charge, KeyValueQuotaStore, MemoryQuotaStore, Refusal, Reservation, SQLiteQuotaStore
from safe_llm.testing.conformance import QuotaStoreConformance


class TextQuotaStore(KeyValueQuotaStore):
    """What a custom backend looks like: values go in and out as JSON text, and only what was assigned is kept."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.lock = Lock()

    @contextmanager
    def transaction(self, keys: Collection[str]) -> Iterator[dict[str, Any]]:
        with self.lock:
            data = _Assigned({key: json.loads(self.texts[key]) for key in keys if key in self.texts})
            yield data
            for key in data.touched:
                assert key in keys, "a key was used that was not asked for"
                if key in data:
                    assert data[key]["expires"] > 0
                    self.texts[key] = json.dumps(data[key], allow_nan=False)
                else:
                    del self.texts[key]


class _Assigned(dict[str, Any]):
    """Remembers which keys were assigned or deleted: a change that is not assigned is lost, as on a disk."""

    touched: set[str]

    def __init__(self, data: dict[str, Any]) -> None:
        super().__init__(data)
        self.touched = set()

    def __setitem__(self, key: str, value: Any) -> None:
        self.touched.add(key)
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self.touched.add(key)
        super().__delitem__(key)


class TestTextQuotaStore(QuotaStoreConformance):
    def make_store(self) -> TextQuotaStore:
        return TextQuotaStore()


class AsyncTextQuotaStore:
    """The same behind coroutines."""

    def __init__(self) -> None:
        self._store = TextQuotaStore()

    async def reserve(self, *args: Any) -> Any:
        return self._store.reserve(*args)

    async def settle(self, *args: Any) -> Any:
        return self._store.settle(*args)

    async def peek(self, *args: Any) -> Any:
        return self._store.peek(*args)

    async def close(self) -> None:
        self._store.close()


class TestAsyncQuotaStore(QuotaStoreConformance):
    async def make_store(self) -> AsyncTextQuotaStore:
        return AsyncTextQuotaStore()


@pytest.fixture
def now() -> Now:
    return Now()


Store = MemoryQuotaStore | TextQuotaStore | SQLiteQuotaStore


@contextmanager
def opened(backend: type[Store], now: Now) -> Iterator[Store]:
    """An empty store that follows the clock."""
    with TemporaryDirectory() as folder:
        store = SQLiteQuotaStore(f"{folder}/quotas.db") if backend is SQLiteQuotaStore else backend()
        if isinstance(store, SQLiteQuotaStore):
            store._every = 1  # Swept at each step, it can forget too much soonest.
        store.follow(now)
        yield store
        store.close()


BACKENDS: list[type[Store]] = [MemoryQuotaStore, TextQuotaStore, SQLiteQuotaStore]


@pytest.fixture(params=BACKENDS)
def store(request: pytest.FixtureRequest, now: Now) -> Iterator[Store]:
    with opened(request.param, now) as store:
        yield store


def at(now: float, *, requests: int = 0, tokens: int = 0, calls: int = 0, hourly: int = 0) -> list[Charge]:
    """The charges of one call: requests a minute, tokens a day, calls in flight, tokens an hour."""
    second, minute, day = int(now), int(now) // 60 * 60, int(now) // DAY * DAY
    return [
        Charge("requests", requests, 4, "sliding", second - 60, second + 1),
        Charge("tokens", tokens, 10, "fixed", day, day + DAY),
        Charge("calls", calls, 2, "held", second, second + 1),
        Charge("hourly", hourly, 6, "sliding", minute - 3600, minute + 60),
    ]


# Against an oracle ---------------------------------------------------------------------------------------------------


@dataclass
class Oracle:
    """Every reservation ever made, looked through from the beginning each time."""

    made: list[tuple[Reservation, list[int]]] = field(default_factory=list)

    def tally(self, charge: Charge, now: float) -> tuple[int, int]:
        used = held = 0
        slice = (charge.end - charge.start) // 61
        for reservation, actual in self.made:
            for position, was in enumerate(reservation.charges):
                if was.key != charge.key:
                    continue
                if charge.kind == "fixed" and was.start != charge.start:
                    continue
                if charge.kind == "sliding" and was.end - slice < charge.start:
                    continue
                if not actual and reservation.expires > now:
                    held += was.amount
                elif charge.kind != "held":
                    used += actual[position] if actual else was.amount
        return used, held

    def unfit(self, charges: list[Charge], now: float) -> list[int]:
        return [i for i, charge in enumerate(charges) if sum(self.tally(charge, now)) + charge.amount > charge.limit]


def amounts() -> st.SearchStrategy[dict[str, int]]:
    small = st.integers(0, 3)
    return st.fixed_dictionaries({"requests": st.integers(0, 5), "tokens": small, "calls": small, "hourly": small})


steps = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), amounts(), st.sampled_from([0.5, 40.0, 9_000.0])),
        st.tuples(st.just("settle"), st.integers(0, 30), st.lists(st.integers(0, 4), min_size=4, max_size=4)),
        st.tuples(st.just("wait"), st.sampled_from([0.1, 0.75, 7.0, 59.5, 61.0, 700.0, 3_700.0, 90_000.0])),
    ),
    max_size=40,
)


@pytest.mark.parametrize("backend", BACKENDS)
@given(steps=steps)
@settings(max_examples=150, deadline=None)
def test_any_interleaving_agrees_with_the_oracle(backend: type[Store], steps: list[Any]) -> None:
    """Answers, tallies and waits are those that looking at every reservation ever made would give."""
    now, oracle = Now(), Oracle()
    with opened(backend, now) as store:
        agree(store, oracle, now, steps)


def agree(store: Store, oracle: Oracle, now: Now, steps: list[Any]) -> None:
    def tallies() -> list[tuple[int, int]]:
        return [oracle.tally(charge, now.time) for charge in at(now.time)]

    for number, step in enumerate(steps):
        if step[0] == "wait":
            now.time += step[1]
        elif step[0] == "settle" and oracle.made:
            reservation, actual = oracle.made[step[1] % len(oracle.made)]
            amounts = [
                amount if charge.amount else 0 for charge, amount in zip(reservation.charges, step[2], strict=True)
            ]
            settled, before = bool(actual), tallies()
            changed = store.settle(reservation, amounts)
            if settled:
                assert not changed
            else:
                actual.extend(amounts)
                assert changed or tallies() == before, "forgotten while it still made a difference"
        elif step[0] == "reserve":
            charges = at(now.time, **step[1])
            answer = store.reserve(str(number), charges, step[2])
            unfit = oracle.unfit(charges, now.time)
            if isinstance(answer, Reservation):
                assert not unfit
                oracle.made.append((answer, []))
            else:
                assert answer[:3] == (unfit[0], *oracle.tally(charges[unfit[0]], now.time))
                check_wait(answer, step[1], charges, oracle, now.time)
        assert list(store.peek(at(now.time))) == tallies()


def check_wait(refusal: Refusal, amounts: dict[str, int], charges: list[Charge], oracle: Oracle, now: float) -> None:
    wait = refusal.retry_after
    if wait is None:
        assert any(charge.amount > charge.limit for charge in charges)
        return
    assert not oracle.unfit(at(now + wait, **amounts), now + wait), "waiting exactly that long does not admit"
    assert oracle.unfit(at(now + wait - 0.003, **amounts), now + wait - 0.003), "waiting less would have been enough"


calls = st.lists(st.tuples(st.floats(0, 30), st.integers(0, 4), st.booleans()), max_size=60)


@given(calls=calls)
@settings(max_examples=150, deadline=None)
def test_no_span_of_sixty_seconds_sees_more_than_the_limit(calls: list[tuple[float, int, bool]]) -> None:
    """Wherever the span begins, between whole seconds too."""
    now, store = Now(), MemoryQuotaStore()
    store.follow(now)
    admitted: list[tuple[float, int]] = []
    for number, (pause, amount, settled) in enumerate(calls):
        now.time += pause
        answer = store.reserve(str(number), at(now.time, requests=amount)[:1], 30)
        if isinstance(answer, Reservation):
            admitted.append((now.time, amount))
            if settled:
                store.settle(answer, [amount])
        for begins, _ in admitted:
            assert sum(amount for time, amount in admitted if begins <= time < begins + 60) <= 4


# What only an injected clock can show --------------------------------------------------------------------------------


def test_waiting_is_exact_by_a_clock_of_floats(store: Store, now: Now) -> None:
    """A clock that adds up many fractions still arrives."""
    store.reserve("a", at(now.time, requests=4, tokens=10, calls=2), 12.345_678)
    passed = 0.0
    for number in range(50):
        passed += 0.1
        now.time = START + passed
        refusal = store.reserve(f"b{number}", at(now.time, requests=1), 30)
        assert isinstance(refusal, Refusal)
        assert refusal.retry_after is not None
        now.time = START + (passed + refusal.retry_after)
        assert store.peek(at(now.time)[:1]) == [(0, 0)]


def test_whole_seconds_are_told_as_they_are(store: Store, now: Now) -> None:
    """Nothing is added where nothing can get lost."""
    now.time = START - 0.25
    store.reserve("a", at(now.time, requests=4), 30)
    assert store.reserve("b", at(now.time, requests=1), 30) == Refusal(0, 0, 4, 61.0)


@pytest.mark.parametrize(("off", "expected"), [(-10, DAY), (0, DAY), (DAY + 10, 0), (-10 * DAY, DAY), (10 * DAY, DAY)])
def test_a_wait_is_sane_when_the_clocks_differ(store: Store, now: Now, off: int, expected: int) -> None:
    """A little apart, the window's nearer end counts; far apart, the whole window is waited for."""
    day = int(START) // DAY * DAY
    now.time = day + off
    full = Charge("key", 1, 1, "fixed", day, day + DAY)
    store.reserve("a", [full], 30)
    assert store.reserve("b", [full], 30) == Refusal(0, 0, 1, expected)


def test_a_wait_for_several_limits_is_the_longest(store: Store, now: Now) -> None:
    """All of them must fit before the call does."""
    store.reserve("a", at(now.time, requests=4, calls=2), 20)
    refusal = store.reserve("b", at(now.time, requests=1, calls=1), 20)
    assert refusal == (0, 0, 4, 60.752)


def test_a_charge_of_zero_may_still_be_settled_with_more(store: Store, now: Now) -> None:
    """What was not foreseen is counted, and blocks."""
    reservation = store.reserve("a", at(now.time), 30)
    assert isinstance(reservation, Reservation)
    store.settle(reservation, [0, 11, 0, 0])
    assert store.peek(at(now.time))[1] == (11, 0)
    assert store.reserve("b", at(now.time), 30)[:3] == (1, 11, 0)


def test_less_than_nothing_cannot_be_used(store: Store, now: Now) -> None:
    """It would give back what others have used. The reservation stays open."""
    reservation = store.reserve("a", at(now.time, tokens=3), 30)
    assert isinstance(reservation, Reservation)
    with pytest.raises(ValueError, match="at least 0, not -1"):
        store.settle(reservation, [0, -1, 0, 0])
    assert store.peek(at(now.time))[1] == (0, 3)
    assert store.settle(reservation, [0, 2, 0, 0]) is True
    assert store.peek(at(now.time))[1] == (2, 0)


def test_looking_does_not_look_at_amounts(store: Store, now: Now) -> None:
    """A charge that could not be made may still be looked at."""
    assert store.peek(at(now.time, tokens=-1))[1] == (0, 0)


def test_kinds_and_windows_that_share_a_key_are_apart(store: Store, now: Now) -> None:
    """One call may ask for a limit's worth of each."""
    day = int(now.time) // DAY * DAY
    fixed = Charge("key", 5, 5, "fixed", day, day + DAY)
    charges = [
        fixed,
        fixed._replace(end=day + 7 * DAY),
        Charge("key", 5, 5, "held", day, day + 1),
        Charge("key", 5, 5, "sliding", day - 60, day + 1),
        Charge("key", 5, 5, "sliding", day - 3600, day + 60),
    ]
    assert isinstance(store.reserve("a", charges, 30), Reservation)
    assert store.peek(charges) == [(0, 5)] * 5


def test_what_was_not_foreseen_counts_where_the_call_began(store: Store, now: Now) -> None:
    """However late it is told, and whoever has called since."""
    charges = at(now.time)
    reservation = store.reserve("a", charges, 30)
    assert isinstance(reservation, Reservation)
    for seconds in (1, 40, 70):
        now.time = START + seconds
        store.reserve(str(seconds), at(now.time, requests=1), 300)
    assert store.settle(reservation, [2, 0, 0, 0]) is True
    assert store.peek([*charges[:1], *at(START + 60)[:1], *at(now.time)[:1]]) == [(2, 3), (2, 3), (0, 2)]


def test_what_has_been_forgotten_cannot_be_given_back(store: Store, now: Now) -> None:
    """A late settlement that says less never takes a count below zero."""
    charges = at(now.time, requests=3, tokens=3)
    late = store.reserve("late", charges, 30)
    assert isinstance(late, Reservation)
    for number in range(1_200):
        now.time = START + 200 + 20 * number
        assert isinstance(store.reserve(str(number), at(now.time, requests=1), DAY), Reservation)
    assert store.settle(late, [1, 1, 0, 0]) is True
    assert store.peek(charges)[:2] == [(0, 1_200), (1, 0)]


def test_slices_of_one_call_add_up(store: Store, now: Now) -> None:
    """A call that asks twice, a second apart, asks for the sum."""
    charges = [*at(now.time, requests=3)[:1], *at(now.time + 1, requests=2)[:1]]
    assert store.reserve("a", charges, 30)[:3] == (1, 0, 3)
    assert store.peek(charges) == [(0, 0), (0, 0)]


def test_a_late_settlement_is_remembered_for_a_while(store: Store, now: Now) -> None:
    """Its answer may get lost as well, among many other calls."""
    charges = at(now.time, tokens=3)
    late = store.reserve("late", charges, 30)
    assert isinstance(late, Reservation)
    now.time += 3_600
    assert store.settle(late, [0, 1, 0, 0]) is True
    for number in range(2_000):
        store.reserve(str(number), at(now.time), 0.5)
    assert store.reserve("late", charges, 30) == late
    assert store.peek(charges)[1] == (1, 0)


def test_an_unsettled_reservation_is_remembered_as_long_as_it_counts(store: Store, now: Now) -> None:
    """Hours after its lease, a settlement still corrects the day, among many other calls."""
    late = store.reserve("late", at(now.time, tokens=10), 30)
    assert isinstance(late, Reservation)
    for number in range(3_000):
        now.time += 1
        store.reserve(str(number), at(now.time), 30)
    assert store.peek(at(now.time))[1] == (10, 0)
    assert store.settle(late, [4, 4, 0, 0]) is True
    assert store.peek(at(now.time))[1] == (4, 0)


@pytest.mark.parametrize("clock_is_off", [-40 * DAY, 40 * DAY])
def test_a_wrong_store_clock_loses_no_counter(store: Store, now: Now, clock_is_off: int) -> None:
    """Rows go only when the client's windows say so as well."""
    store.reserve("a", at(START, requests=2, tokens=5), 30)
    now.time += clock_is_off
    store.reserve("b", at(START, requests=1, tokens=1), 30)
    assert [sum(tally) for tally in store.peek(at(START))[:2]] == [3, 6]


def test_a_client_from_the_future_wipes_no_counter(store: Store, now: Now) -> None:
    """Rows go only when the store's clock says so as well."""
    store.reserve("a", at(START, requests=2, tokens=5), 30)
    store.reserve("b", at(START + 40 * DAY, tokens=1), 30)
    assert store.peek(at(START))[1] == (0, 5)


def test_a_counter_keeps_only_windows_that_count(now: Now) -> None:
    """A backend that forgets nothing by itself holds one value per counter, of bounded size."""
    store = TextQuotaStore()
    store.follow(now)
    sizes = []
    for number in range(4_000):
        now.time += 977
        reservation = store.reserve(str(number), at(now.time, requests=1, tokens=0, calls=1, hourly=1), 30)
        assert isinstance(reservation, Reservation)
        store.settle(reservation, [1, 0, 0, 1])
        if number >= 2_000:
            sizes.append(sum(map(len, store.texts.values())))
    assert len(store.texts) <= 2 + 256
    assert max(sizes) < 1.2 * sizes[0]


def test_a_call_in_flight_leaves_nothing_behind(now: Now) -> None:
    """Its counter is deleted when nobody is in flight."""
    store = TextQuotaStore()
    reservation = store.reserve("a", at(now.time, calls=1), 30)
    assert "calls" in store.texts
    assert isinstance(reservation, Reservation)
    store.settle(reservation, [0, 0, 0, 0])
    assert "calls" not in store.texts


def test_the_first_clock_chosen_is_followed() -> None:
    """A client's clock is taken up only where none was chosen."""
    store = MemoryQuotaStore(clock=lambda: 1.0)
    store.follow(lambda: 2.0)
    assert store.clock() == 1.0
