"""Leases that end unsettled."""

from __future__ import annotations

import pytest

from ...stores import QuotaStore
from ._clock import Clock
from ._subject import Subject
from ._words import DAY, KINDS, SHORT, charge, daily, refused, sliding, taken, tallies, tally


class Leases(Subject):
    """Whoever does not come back gives back its place, and pays what it may have cost."""

    def test_a_lease_that_ends_frees_its_place_and_keeps_what_may_have_been_billed(
        self, store: QuotaStore, clock: Clock
    ) -> None:
        """Calls in flight are given back; other amounts become used. Not a moment before."""
        charges = [charge(amount=3), charge("sliding", amount=3), charge("held", limit=1)]
        reservation = taken(store, *charges, ttl=SHORT)
        if clock.injected:
            clock.wait_until(reservation.expires - 0.01)
        assert tallies(store, charges) == [(0, 3), (0, 3), (0, 1)]
        wait = refused(store, charge("held", limit=1)).retry_after
        assert wait is not None
        assert 0 < wait <= SHORT + 0.01
        clock.wait_until(clock.time() + wait)
        assert tallies(store, charges) == [(3, 0), (3, 0), (0, 0)]
        taken(store, charge("held", limit=1))

    def test_what_has_become_used_counts(self, store: QuotaStore, clock: Clock) -> None:
        """It blocks as what was settled does."""
        reservation = taken(store, charge(amount=5), ttl=SHORT)
        clock.wait_until(reservation.expires)
        assert refused(store, charge())[:3] == (0, 5, 0)

    @pytest.mark.parametrize("looked", [False, True], ids=["", "seen in between"])
    def test_a_settlement_after_the_lease_still_corrects(self, store: QuotaStore, clock: Clock, looked: bool) -> None:
        """Once, and without freeing a place that someone else has taken since."""
        charges = [charge(amount=3), charge("sliding", amount=3), charge("held", limit=1), charge(key="0", amount=0)]
        reservation = taken(store, *charges, ttl=SHORT)
        clock.wait_until(reservation.expires)
        if looked:
            assert tallies(store, charges) == [(3, 0), (3, 0), (0, 0), (0, 0)]
        taken(store, charge("held", limit=1))
        assert store.settle(reservation, [1, 4, 0, 2]) is True
        assert tallies(store, charges) == [(1, 0), (4, 0), (0, 1), (2, 0)]
        assert store.settle(reservation, [0, 0, 0, 0]) is False
        assert tallies(store, charges) == [(1, 0), (4, 0), (0, 1), (2, 0)]

    def test_a_settlement_corrects_as_long_as_its_window_lasts(self, store: QuotaStore, clock: Clock) -> None:
        """Hours after the lease, among many other calls, and without touching the window that comes after."""
        began = (clock.time() // DAY + 1) * DAY + 1
        clock.turn_to(began)
        late, later = (taken(store, daily(began, amount=3, limit=9), ttl=SHORT) for _ in range(2))
        clock.wait_until(late.expires)
        for hours in (2, 11, 23):
            clock.turn_to(began + 3_600 * hours)
            for number in range(20):
                now = clock.time()
                reservation = taken(store, daily(now, key=f"other{number}"), sliding(now, limit=99))
                assert store.settle(reservation, [1, 1]) is True
        assert store.settle(late, [1]) is True
        assert sum(tally(store, daily(began))) == 4
        clock.turn_to(began + DAY)
        taken(store, daily(began + DAY))
        store.settle(later, [0])
        assert tally(store, daily(began + DAY)) == (0, 1)

    def test_the_same_id_after_the_lease_takes_nothing(self, store: QuotaStore, clock: Clock) -> None:
        """An id stands for one reservation, even when its lease has ended, and when it was settled after that."""
        charges = [charge(kind, amount=3) for kind in KINDS]
        first = taken(store, *charges, ttl=SHORT, id="id")
        clock.wait_until(first.expires)
        assert store.reserve("id", charges, SHORT) == first
        assert tallies(store, charges) == [(3, 0), (3, 0), (0, 0)]
        assert store.settle(first, [1, 1, 0]) is True
        assert store.reserve("id", [], SHORT) == first
        assert tallies(store, charges) == [(1, 0), (1, 0), (0, 0)]

    def test_leases_end_each_in_its_time(self, store: QuotaStore, clock: Clock) -> None:
        """Long ones that began first, short ones among them."""
        ttls = (4.0, 1.0, 3.0, 2.0) if clock.injected else (9.0, 0.1, 8.0, 0.6)
        leases = [taken(store, charge("held"), charge("sliding"), ttl=ttl) for ttl in ttls]
        for gone, lease in enumerate(sorted(leases, key=lambda lease: lease.expires)[:2], 1):
            clock.wait_until(lease.expires)
            assert tallies(store, [charge("held"), charge("sliding")]) == [(0, 4 - gone), (gone, 4 - gone)]
