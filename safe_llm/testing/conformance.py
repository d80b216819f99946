"""Proof that a quota store keeps the contract."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Any, Literal, TypeVar
from uuid import uuid4

import pytest

from ..stores import AsyncQuotaStore, Charge, QuotaStore, Refusal, Reservation, Tally

T = TypeVar("T")

_TTL = 30.0
_SHORT = 0.3
_LARGEST = 2**53
_KINDS: tuple[Literal["fixed", "sliding", "held"], ...] = ("fixed", "sliding", "held")


class QuotaStoreConformance:
    """The contract of a `QuotaStore`, as a pytest class. It takes about two seconds, most of them asleep.

    ::

        class TestMyStore(QuotaStoreConformance):
            def make_store(self):
                return MyStore()

    `make_store` returns a fresh, empty store: a `QuotaStore`, or an `AsyncQuotaStore`, which is driven on an event loop
    of its own. It may be a coroutine function. The store is closed after each test.
    """

    def make_store(self) -> Any:
        raise NotImplementedError("return a fresh, empty store")

    @pytest.fixture
    def store(self) -> Iterator[QuotaStore]:
        loop = _LoopThread()
        try:
            made = self.make_store()
            if inspect.iscoroutine(made):
                made = loop.run(made)
            store = _Driven(made, loop) if inspect.iscoroutinefunction(made.reserve) else made
            yield store
            store.close()
        finally:
            loop.stop()

    # What fits ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("kind", _KINDS)
    def test_an_amount_that_reaches_the_limit_fits_and_one_more_does_not(self, store: QuotaStore, kind: Any) -> None:
        """used + held + amount <= limit is the whole rule, for every kind."""
        taken(store, charge(kind, amount=3, limit=5))
        taken(store, charge(kind, amount=2, limit=5))
        refusal = refused(store, charge(kind, amount=1, limit=5))
        assert (refusal.position, refusal.used, refusal.held) == (0, 0, 5)

    @pytest.mark.parametrize("position", range(3))
    def test_all_charges_are_taken_or_none(self, store: QuotaStore, position: int) -> None:
        """Wherever the charge stands that does not fit, the others take nothing, and the refusal names its place."""
        charges = [charge(kind, key=kind) for kind in _KINDS]
        charges[position] = charges[position]._replace(amount=6)
        assert refused(store, *charges).position == position
        assert tallies(store, charges) == [Tally(0, 0)] * 3

    def test_a_refusal_names_the_first_charge_that_does_not_fit(self, store: QuotaStore) -> None:
        """Of several, the first is told."""
        charges = [charge(key="a"), charge(key="b", amount=6), charge(key="c", amount=7)]
        assert refused(store, *charges).position == 1

    def test_a_refused_id_may_be_reserved_again(self, store: QuotaStore) -> None:
        """A refusal is not remembered: the same operation may try again."""
        first = taken(store, charge("held", amount=5))
        id = uuid4().hex
        assert isinstance(store.reserve(id, [charge("held")], _TTL), Refusal)
        store.settle(first, [0])
        assert isinstance(store.reserve(id, [charge("held")], _TTL), Reservation)

    def test_two_charges_of_one_call_on_one_key_add_up(self, store: QuotaStore) -> None:
        """Together they must fit, and both are settled."""
        assert refused(store, charge(amount=3), charge(amount=3)).position == 1
        reservation = taken(store, charge(amount=3), charge(amount=2))
        assert tally(store, charge()) == (0, 5)
        assert store.settle(reservation, [1, 2])
        assert tally(store, charge()) == (3, 0)

    def test_an_amount_of_zero_fits_a_full_limit_and_takes_nothing(self, store: QuotaStore) -> None:
        """0 asks whether there is an overdraft, and no more."""
        taken(store, charge(amount=5))
        reservation = taken(store, charge(amount=0))
        assert tally(store, charge()) == (0, 5)
        assert store.settle(reservation, [0])
        assert tally(store, charge()) == (0, 5)

    def test_no_charges_are_a_reservation_too(self, store: QuotaStore) -> None:
        """A call without limits goes through the same door."""
        reservation = taken(store)
        assert store.settle(reservation, [])
        assert not store.settle(reservation, [])

    def test_amounts_are_exact_up_to_two_to_the_53(self, store: QuotaStore) -> None:
        """Nothing is rounded where doubles end."""
        reservation = taken(store, charge(amount=_LARGEST - 1, limit=_LARGEST))
        assert tally(store, charge()) == (0, _LARGEST - 1)
        assert store.settle(reservation, [_LARGEST - 1])
        taken(store, charge(limit=_LARGEST))
        assert refused(store, charge(limit=_LARGEST)).used == _LARGEST - 1

    def test_a_negative_amount_is_an_error(self, store: QuotaStore) -> None:
        """It would raise the limit."""
        with pytest.raises(ValueError, match="amount"):
            store.reserve("id", [charge(amount=-1)], _TTL)

    # Settling -------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("kind", ["fixed", "sliding"])
    @pytest.mark.parametrize("actual", [0, 1, 3, 4])
    def test_settling_turns_held_into_used_at_the_actual_amount(
        self, store: QuotaStore, kind: Any, actual: int
    ) -> None:
        """What was used may be less than was reserved, or more."""
        reservation = taken(store, charge(kind, amount=3))
        assert tally(store, charge(kind)) == (0, 3)
        assert store.settle(reservation, [actual])
        assert tally(store, charge(kind)) == (actual, 0)

    def test_settling_a_call_in_flight_frees_its_place(self, store: QuotaStore) -> None:
        """Concurrency counts only until then; the actual amount is not looked at."""
        reservation = taken(store, charge("held", limit=1))
        refused(store, charge("held", limit=1))
        assert store.settle(reservation, [1])
        assert tally(store, charge("held")) == (0, 0)
        taken(store, charge("held", limit=1))

    def test_settling_twice_changes_nothing_and_says_so(self, store: QuotaStore) -> None:
        """Exactly once."""
        reservation = taken(store, charge(amount=3))
        assert store.settle(reservation, [2]) is True
        assert store.settle(reservation, [5]) is False
        assert tally(store, charge()) == (2, 0)

    def test_settling_what_was_never_reserved_changes_nothing_and_says_so(self, store: QuotaStore) -> None:
        """An unknown id is not believed."""
        assert store.settle(Reservation("unknown", (charge(),), time.time() + _TTL), [1]) is False
        assert tally(store, charge()) == (0, 0)

    def test_settling_needs_one_amount_for_each_charge(self, store: QuotaStore) -> None:
        """A wrong length is an error, and the reservation stays open."""
        reservation = taken(store, charge())
        with pytest.raises(ValueError, match="amount"):
            store.settle(reservation, [])
        assert store.settle(reservation, [1]) is True

    def test_what_was_used_beyond_the_limit_blocks(self, store: QuotaStore) -> None:
        """A debt is counted in full."""
        store.settle(taken(store, charge(amount=5)), [7])
        assert refused(store, charge()).used == 7
        assert refused(store, charge(amount=0)).used == 7

    def test_the_same_id_gives_the_same_answer_and_takes_nothing(self, store: QuotaStore) -> None:
        """An answer that got lost may be asked for again, before and after the settlement, at a full limit too."""
        first = store.reserve("id", [charge(amount=5), charge("held", limit=1)], _TTL)
        assert isinstance(first, Reservation)
        assert store.reserve("id", [charge(amount=5), charge("held", limit=1)], _TTL) == first
        assert tally(store, charge()) == (0, 5)
        assert store.settle(first, [4, 0]) is True
        assert store.reserve("id", [charge(amount=5), charge("held", limit=1)], _TTL) == first
        assert store.settle(first, [4, 0]) is False
        assert tallies(store, [charge(), charge("held")]) == [(4, 0), (0, 0)]

    def test_a_reservation_says_what_was_taken_and_until_when(self, store: QuotaStore) -> None:
        """The id and the charges as they were given, and the end of the lease within the time that the call took."""
        charges = (charge(), charge("sliding"))
        before = time.time()
        reservation = store.reserve("id", list(charges), _TTL)
        assert isinstance(reservation, Reservation)
        assert (reservation.id, reservation.charges) == ("id", charges)
        assert before + _TTL - 5 <= reservation.expires <= time.time() + _TTL + 5

    # Windows --------------------------------------------------------------------------------------------------------

    def test_windows_of_one_counter_are_apart(self, store: QuotaStore) -> None:
        """A new window begins at nothing, and a late call still meets the old one."""
        this, following = charge(amount=5), later(charge(amount=5))
        taken(store, this)
        taken(store, following)
        assert refused(store, this).held == 5
        assert refused(store, following).held == 5

    def test_a_settlement_never_reaches_the_window_that_came_after(self, store: QuotaStore) -> None:
        """Whether it was less or more, what was reserved in one window is settled in that window."""
        after = charge(amount=3)
        before = after._replace(start=2 * after.start - after.end, end=after.start)
        less, more = taken(store, before._replace(amount=1)), taken(store, before)
        taken(store, after)
        assert store.settle(less, [0]) is True
        assert store.settle(more, [9]) is True
        assert tally(store, after) == (0, 3)

    def test_a_full_window_is_waited_for_to_its_end(self, store: QuotaStore) -> None:
        """retry_after of a fixed window."""
        full = charge(amount=5)
        taken(store, full)
        before = time.time()
        wait = refused(store, full).retry_after
        assert wait is not None
        assert full.end - time.time() - 0.01 <= wait <= full.end - before + 1

    def test_what_can_never_fit_has_no_time_to_wait_for(self, store: QuotaStore) -> None:
        """More than the limit itself, for every kind, beside charges that fit or that one could wait for."""
        taken(store, charge(amount=5))
        for kind in _KINDS:
            assert refused(store, charge(kind, key="other", amount=6)).retry_after is None
            assert refused(store, charge(), charge(kind, key="other", amount=6)).retry_after is None

    def test_a_sliding_window_sums_over_61_slices(self, store: QuotaStore) -> None:
        """A call counts in its newest slice, for that one and the sixty that follow."""
        now = int(time.time())
        taken(store, sliding(now, amount=2))
        taken(store, sliding(now + 30, amount=3))
        assert tally(store, sliding(now + 60)) == (0, 5)
        refused(store, sliding(now + 60))
        assert tally(store, sliding(now + 61)) == (0, 3)
        taken(store, sliding(now + 61, amount=2))
        refused(store, sliding(now + 61))
        assert tally(store, sliding(now + 91)) == (0, 2)

    def test_a_sliding_window_counts_a_settlement_where_the_call_began(self, store: QuotaStore) -> None:
        """However late it ends, it leaves the window when its own slice does."""
        now = int(time.time())
        reservation = taken(store, sliding(now, amount=5))
        taken(store, sliding(now + 61))
        assert store.settle(reservation, [4]) is True
        assert tally(store, sliding(now + 60)) == (4, 1)
        assert tally(store, sliding(now + 61)) == (0, 1)

    def test_a_client_whose_clock_is_behind_does_not_overlook_newer_calls(self, store: QuotaStore) -> None:
        """A newer slice has been spent, whoever's clock said so."""
        now = int(time.time())
        taken(store, sliding(now, amount=5))
        refused(store, sliding(now - 2))

    @pytest.mark.parametrize("slice", [1, 60])
    def test_waiting_out_a_sliding_window_admits_and_little_less_does_not(self, store: QuotaStore, slice: int) -> None:
        """retry_after of a sliding window is true to a slice, for minutes and for hours."""
        taken(store, sliding(time.time(), slice=slice, amount=5))
        before = time.time()
        wait = refused(store, sliding(before, slice=slice)).retry_after
        after = time.time()
        assert wait is not None
        refused(store, sliding(before + wait - 1.1 * slice, slice=slice))
        taken(store, sliding(after + wait, slice=slice))

    def test_waiting_is_for_as_much_as_is_needed(self, store: QuotaStore) -> None:
        """Of several slices, only those need to leave that make room; of several charges, all must fit."""
        now = int(time.time())
        taken(store, sliding(now - 40, amount=2))
        taken(store, sliding(now - 20, amount=3))
        little, much = (refused(store, sliding(now, amount=amount)).retry_after for amount in (2, 3))
        both = refused(store, sliding(now, amount=2), charge("held", amount=0), sliding(now, amount=1)).retry_after
        assert little is not None
        assert much is not None
        assert both is not None
        assert 15 <= little <= 23
        assert 19 <= much - little <= 21
        assert abs(both - much) <= 1

    def test_the_oldest_slice_is_waited_for_as_well(self, store: QuotaStore) -> None:
        """It counts until its very end, which is near."""
        now = int(time.time())
        taken(store, sliding(now - 60, amount=5))
        wait = refused(store, sliding(now)).retry_after
        assert wait is not None
        assert 0 <= wait <= 2

    # Leases ---------------------------------------------------------------------------------------------------------

    def test_a_lease_that_ends_frees_its_place_and_keeps_what_may_have_been_billed(self, store: QuotaStore) -> None:
        """Calls in flight are given back; other amounts become used."""
        charges = [charge(amount=3), charge("sliding", amount=3), charge("held", limit=1)]
        assert isinstance(store.reserve("id", charges, _SHORT), Reservation)
        wait = refused(store, charge("held", limit=1)).retry_after
        assert wait is not None
        assert 0 < wait <= _SHORT + 0.01
        time.sleep(wait)
        assert tallies(store, charges) == [(3, 0), (3, 0), (0, 0)]
        taken(store, charge("held", limit=1))

    def test_a_settlement_after_the_lease_still_corrects(self, store: QuotaStore) -> None:
        """Once, and without freeing a place that someone else has taken since."""
        charges = [charge(amount=3), charge("sliding", amount=3), charge("held", limit=1)]
        reservation = store.reserve("id", charges, _SHORT)
        assert isinstance(reservation, Reservation)
        time.sleep(_SHORT + 0.05)
        taken(store, charge("held", limit=1))
        assert store.settle(reservation, [1, 4, 0]) is True
        assert tallies(store, charges) == [(1, 0), (4, 0), (0, 1)]
        assert store.settle(reservation, [0, 0, 0]) is False

    def test_the_same_id_after_the_lease_takes_nothing(self, store: QuotaStore) -> None:
        """An id stands for one reservation, even when its lease has ended."""
        first = store.reserve("id", [charge(amount=3)], _SHORT)
        time.sleep(_SHORT + 0.05)
        assert store.reserve("id", [charge(amount=3)], _SHORT) == first
        assert tally(store, charge()) == (3, 0)

    # Patterns -------------------------------------------------------------------------------------------------------

    def test_a_kill_switch_is_a_place_that_is_held_for_good(self, store: QuotaStore) -> None:
        """Asking for none of none is refused meanwhile. Its numbered id finds it again, and settling gives it back."""
        switch = Charge("switch", 1, 1, "held", 0, _FOREVER)
        generation = Charge("generation", 1, _LARGEST, "fixed", 0, _FOREVER)
        asking = switch._replace(amount=0, limit=0)
        store.settle(taken(store, asking), [0])
        off = store.reserve("switch#1", [switch, generation], _FOR_GOOD)
        assert isinstance(off, Reservation)
        refusal = refused(store, charge(), asking)
        assert (refusal.position, refusal.used, refusal.held) == (1, 0, 1)
        assert store.reserve("switch#1", [switch, generation], _FOR_GOOD) == off
        assert tallies(store, [switch, generation]) == [(0, 1), (0, 1)]
        assert store.settle(off, [0, 1]) is True
        assert store.reserve("switch#1", [switch, generation], _FOR_GOOD) == off
        taken(store, charge(), asking)
        assert isinstance(store.reserve("switch#2", [switch, generation], _FOR_GOOD), Reservation)
        refused(store, asking)
        assert tally(store, generation) == (1, 1)

    def test_an_alert_is_claimed_once_by_reserving_one_of_one(self, store: QuotaStore) -> None:
        """The second to try is refused, and the next window may claim again."""
        alert = charge(key="alert", limit=1)
        store.settle(taken(store, alert), [1])
        refused(store, alert)
        taken(store, later(alert))

    def test_peek_takes_nothing_and_answers_in_order(self, store: QuotaStore) -> None:
        """One tally per charge, for counters that exist and for those that do not."""
        store.settle(taken(store, charge(key="a", amount=2)), [2])
        taken(store, charge(key="a", amount=1))
        assert tallies(store, [charge(key="b"), charge(key="a"), charge(key="a")]) == [(0, 0), (2, 1), (2, 1)]
        assert tallies(store, []) == []

    def test_threads_share_a_limit_to_the_last_unit(self, store: QuotaStore) -> None:
        """Eight threads ask for more than there is, and exactly the limit is given."""

        def admitted(_: int) -> int:
            mine = 0
            for _ in range(10):
                answer = store.reserve(uuid4().hex, [charge(limit=50), charge("sliding", limit=60)], _TTL)
                if isinstance(answer, Reservation):
                    mine += 1
                    store.settle(answer, [1, 1])
            return mine

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(admitted, range(8))) == 50
        assert tallies(store, [charge(), charge("sliding")]) == [(50, 0), (50, 0)]

    def test_closing_twice_is_harmless(self, store: QuotaStore) -> None:
        """The second time finds nothing to do."""
        store.close()


# What the tests are written in ---------------------------------------------------------------------------------------

_NOW = int(time.time())
_DAY = 86_400
_FOREVER = 2**42  # Epoch seconds far beyond the year 9999: kill switches have such windows.
_FOR_GOOD = 2.0**35  # Seconds that the lease of a kill switch lasts.


def charge(kind: Any = "fixed", *, key: str = "key", amount: int = 1, limit: int = 5) -> Charge:
    """A charge of these days, of this hour, or of a call in flight. Each kind has a counter of its own."""
    if kind == "sliding":
        return sliding(_NOW, key=f"{key}/sliding", amount=amount, limit=limit, slice=60)
    start, end = (_NOW - _DAY, _NOW + _DAY) if kind == "fixed" else (_NOW, _NOW + 1)
    return Charge(f"{key}/{kind}", amount, limit, kind, start, end)


def later(charge: Charge) -> Charge:
    """The same charge, in the window after."""
    return charge._replace(start=charge.end, end=2 * charge.end - charge.start)


def sliding(now: float, *, key: str = "key", amount: int = 1, limit: int = 5, slice: int = 1) -> Charge:
    """A sliding charge at the moment `now`, in slices of so many seconds."""
    end = int(now // slice + 1) * slice
    return Charge(key, amount, limit, "sliding", end - 61 * slice, end)


def taken(store: QuotaStore, *charges: Charge) -> Reservation:
    """Reserve, and expect that it fits."""
    answer = store.reserve(uuid4().hex, charges, _TTL)
    assert isinstance(answer, Reservation), answer
    return answer


def refused(store: QuotaStore, *charges: Charge) -> Refusal:
    """Reserve, and expect that it does not fit."""
    answer = store.reserve(uuid4().hex, charges, _TTL)
    assert isinstance(answer, Refusal), answer
    return answer


def tally(store: QuotaStore, charge: Charge) -> Tally:
    (only,) = store.peek([charge])
    return only


def tallies(store: QuotaStore, charges: Sequence[Charge]) -> list[Tally]:
    return list(store.peek(charges))


# Coroutine stores ----------------------------------------------------------------------------------------------------


class _LoopThread:
    """An event loop in a thread, so that a coroutine store can be asked from several threads at once."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Driven:
    """An `AsyncQuotaStore` with the face of a `QuotaStore`."""

    def __init__(self, store: AsyncQuotaStore, loop: _LoopThread) -> None:
        self._store = store
        self._run = loop.run

    def reserve(self, id: str, charges: Sequence[Charge], ttl: float) -> Reservation | Refusal:
        return self._run(self._store.reserve(id, charges, ttl))

    def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        return self._run(self._store.settle(reservation, actual))

    def peek(self, charges: Sequence[Charge]) -> Sequence[Tally]:
        return self._run(self._store.peek(charges))

    def close(self) -> None:
        self._run(self._store.close())
