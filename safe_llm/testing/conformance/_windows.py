"""Windows, and how long a refused call has to wait."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ...stores import Charge, QuotaStore
from ._clock import Clock
from ._subject import Subject
from ._words import KINDS, SHORT, charge, daily, later, refused, sliding, taken, tally, waited_for


class Windows(Subject):
    """Calendar windows and sliding ones come with the charges, and waiting is exact."""

    def test_windows_of_one_counter_are_apart(self, store: QuotaStore) -> None:
        """A new window begins at nothing, and a late call still meets the old one."""
        this, following = charge(amount=5), later(charge(amount=5))
        taken(store, this)
        taken(store, following)
        assert refused(store, this).held == 5
        assert refused(store, following).held == 5

    def test_kinds_and_windows_that_share_a_key_are_apart(self, store: QuotaStore, clock: Clock) -> None:
        """One call may ask for a limit's worth of each."""
        now = clock.time()
        day = daily(now, amount=5)
        longer = day._replace(end=day.start + 7 * 86_400)
        calls = day._replace(kind="held", start=int(now), end=int(now) + 1)
        minute, hour = sliding(now, amount=5), sliding(now, slice=60, amount=5)
        charges = [day, longer, calls, minute, hour]
        taken(store, *charges)
        assert [tally(store, one) for one in charges] == [(0, 5)] * 5

    def test_what_can_never_fit_has_no_time_to_wait_for(self, store: QuotaStore) -> None:
        """More than the limit itself, for every kind, beside charges that fit or that one could wait for."""
        taken(store, charge(amount=5))
        for kind in KINDS:
            assert refused(store, charge(kind, key="other", amount=6)).retry_after is None
            assert refused(store, charge(), charge(kind, key="other", amount=6)).retry_after is None

    def test_a_sliding_window_sums_over_61_slices(self, store: QuotaStore, clock: Clock) -> None:
        """A call counts in its newest slice, for that one and the sixty that follow."""
        now = int(clock.time())
        taken(store, sliding(now, amount=2))
        taken(store, sliding(now + 30, amount=3))
        assert tally(store, sliding(now + 60)) == (0, 5)
        refused(store, sliding(now + 60))
        assert tally(store, sliding(now + 61)) == (0, 3)
        taken(store, sliding(now + 61, amount=2))
        refused(store, sliding(now + 61))
        assert tally(store, sliding(now + 91)) == (0, 2)

    def test_a_client_whose_clock_is_behind_does_not_overlook_newer_calls(
        self, store: QuotaStore, clock: Clock
    ) -> None:
        """A newer slice has been spent, whoever's clock said so."""
        now = int(clock.time())
        taken(store, sliding(now, amount=5))
        refused(store, sliding(now - 2))

    # Waiting --------------------------------------------------------------------------------------------------------

    def test_a_full_window_is_waited_for_to_its_end(self, store: QuotaStore, clock: Clock) -> None:
        """Of a calendar window, however little it is that does not fit."""
        store.settle(taken(store, daily(clock.time(), amount=3)), [4])
        taken(store, daily(clock.time(), amount=1))
        waited_for(store, clock, lambda now: [daily(now)])

    @pytest.mark.parametrize("slice", [1, 60])
    def test_a_full_sliding_window_is_waited_for_until_its_slice_leaves(
        self, store: QuotaStore, clock: Clock, slice: int
    ) -> None:
        """For minutes and for hours."""
        taken(store, sliding(clock.time(), slice=slice, amount=5))
        assert 60 * slice <= waited_for(store, clock, lambda now: [sliding(now, slice=slice)]) + 0.1 <= 61 * slice + 1

    def test_the_oldest_slice_is_waited_for_as_well(self, store: QuotaStore, clock: Clock) -> None:
        """It counts until its very end, which is near."""
        taken(store, sliding(int(clock.time()) - 60, amount=5))
        assert waited_for(store, clock, lambda now: [sliding(now)]) <= 2

    @pytest.mark.parametrize(("amount", "expected"), [(1, 21), (2, 21), (3, 41), (5, 41)])
    def test_only_what_makes_room_is_waited_for(
        self, store: QuotaStore, clock: Clock, amount: int, expected: int
    ) -> None:
        """Of several slices, used or held, as many leave as are needed."""
        now = clock.time()
        store.settle(taken(store, sliding(now - 40, amount=2)), [2])
        taken(store, sliding(now - 20, amount=3))
        wait = waited_for(store, clock, lambda now: [sliding(now, amount=amount)])
        assert expected - 1 <= wait <= expected + 1

    def test_the_longest_wait_counts_where_several_charges_do_not_fit(self, store: QuotaStore, clock: Clock) -> None:
        """Beside charges that fit."""
        now = clock.time()
        taken(store, sliding(now - 40, key="a", amount=5), sliding(now - 20, key="b", amount=5))

        def ask(now: float) -> Sequence[Charge]:
            return [sliding(now, key="a"), sliding(now, key="b"), charge("held", amount=0), sliding(now, key="c")]

        assert 39 <= waited_for(store, clock, ask) <= 42

    @pytest.mark.parametrize(("amount", "leases"), [(1, 1), (2, 2), (3, 2), (4, 3)])
    def test_a_place_is_waited_for_until_the_lease_ends_that_frees_it(
        self, store: QuotaStore, clock: Clock, amount: int, leases: int
    ) -> None:
        """Of calls in flight, those that end first, in whatever order they began, and none that is settled."""
        settled = taken(store, charge("held", limit=9), ttl=SHORT / 2)
        for held, ttl in ((1, 3 * SHORT), (1, SHORT), (2, 2 * SHORT)):
            taken(store, charge("held", amount=held, limit=9), ttl=ttl)
        store.settle(settled, [0])
        wait = waited_for(store, clock, lambda now: [charge("held", amount=amount, limit=4)])
        assert (leases - 1) * SHORT < wait <= leases * SHORT + 0.01
