"""What was reserved becomes what was used, exactly once."""

from __future__ import annotations

from typing import Any

import pytest

from ...stores import Charge, QuotaStore, Reservation
from ._clock import Clock
from ._subject import Subject
from ._words import KINDS, LARGEST, TTL, charge, later, refused, sliding, taken, tallies, tally


class Settling(Subject):
    """Settlements, debts, and ids."""

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
        """Exactly once, for all its charges."""
        charges = [charge(kind, amount=3) for kind in KINDS]
        reservation = taken(store, *charges)
        assert store.settle(reservation, [2, 4, 0]) is True
        for actual in ([5, 5, 5], [2, 4, 0], [0, 0, 0]):
            assert store.settle(reservation, actual) is False
        assert tallies(store, charges) == [(2, 0), (4, 0), (0, 0)]

    def test_settling_one_reservation_leaves_the_others(self, store: QuotaStore) -> None:
        """Of several on one counter, of like amounts and at one moment."""
        charges = [charge(kind, limit=10) for kind in KINDS]
        first, second, third = (taken(store, *charges) for _ in range(3))
        assert store.settle(second, [2, 3, 0]) is True
        assert tallies(store, charges) == [(2, 2), (3, 2), (0, 2)]
        assert store.settle(second, [2, 3, 0]) is False
        assert store.settle(first, [1, 0, 0]) is True
        assert store.settle(third, [0, 1, 0]) is True
        assert tallies(store, charges) == [(3, 0), (4, 0), (0, 0)]

    def test_settling_what_was_never_reserved_changes_nothing_and_says_so(
        self, store: QuotaStore, clock: Clock
    ) -> None:
        """An unknown id is not believed, nor one that was refused."""
        assert store.settle(Reservation("unknown", (charge(),), clock.time() + TTL), [1]) is False
        store.reserve("refused", [charge(amount=6)], TTL)
        assert store.settle(Reservation("refused", (charge(amount=6),), clock.time() + TTL), [1]) is False
        assert tally(store, charge()) == (0, 0)

    def test_settling_needs_one_amount_for_each_charge(self, store: QuotaStore) -> None:
        """A wrong length is an error, and the reservation stays open."""
        reservation = taken(store, charge(), charge("sliding"))
        for wrong in ([], [1], [1, 1, 1]):
            with pytest.raises(ValueError, match="amount"):
                store.settle(reservation, wrong)
        assert tallies(store, [charge(), charge("sliding")]) == [(0, 1), (0, 1)]
        assert store.settle(reservation, [1, 1]) is True

    def test_less_than_nothing_cannot_be_used(self, store: QuotaStore) -> None:
        """It would give back what others have used. The reservation stays open."""
        reservation = taken(store, charge(), charge("sliding"))
        with pytest.raises(ValueError, match="amount"):
            store.settle(reservation, [1, -1])
        assert tallies(store, [charge(), charge("sliding")]) == [(0, 1), (0, 1)]
        assert store.settle(reservation, [1, 1]) is True

    @pytest.mark.parametrize("kind", ["fixed", "sliding"])
    def test_what_was_used_beyond_the_limit_blocks(self, store: QuotaStore, kind: Any) -> None:
        """A debt is counted in full, and even what costs nothing is refused."""
        store.settle(taken(store, charge(kind, amount=5)), [7])
        assert refused(store, charge(kind)).used == 7
        assert refused(store, charge(kind, amount=0)).used == 7
        assert refused(store, charge(key="other"), charge(kind, amount=0)).position == 1
        taken(store, charge(kind, limit=8))

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_charge_of_zero_leaves_no_trace_and_may_be_settled_with_more(self, store: QuotaStore, kind: Any) -> None:
        """What was not foreseen is counted, and blocks. Calls in flight use nothing."""
        reservation = taken(store, charge(kind, amount=0))
        assert tally(store, charge(kind)) == (0, 0)
        assert store.settle(reservation, [6]) is True
        assert store.settle(reservation, [6]) is False
        if kind == "held":
            assert tally(store, charge(kind)) == (0, 0)
        else:
            assert tally(store, charge(kind)) == (6, 0)
            assert refused(store, charge(kind, amount=0))[:3] == (0, 6, 0)

    def test_a_settlement_is_exact_up_to_two_to_the_53(self, store: QuotaStore) -> None:
        """From all to nothing, and from one to all."""
        charges = [charge(kind, amount=LARGEST - 1, limit=LARGEST) for kind in ("fixed", "sliding")]
        assert store.settle(taken(store, *charges), [0, 1]) is True
        little = [charge(kind, limit=LARGEST) for kind in ("fixed", "sliding")]
        assert store.settle(taken(store, *little), [LARGEST - 1, LARGEST - 2]) is True
        assert tallies(store, charges) == [(LARGEST - 1, 0), (LARGEST - 1, 0)]

    # Windows that have turned over ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("kind", ["fixed", "sliding"])
    def test_a_settlement_never_reaches_the_window_that_came_after(
        self, store: QuotaStore, clock: Clock, kind: Any
    ) -> None:
        """Whether it was less or more, what was reserved in one window is settled in that window."""
        before = charge(kind, limit=9)
        less, more, free = (taken(store, before._replace(amount=amount), ttl=9 * 86_400.0) for amount in (1, 3, 0))
        after = later(before)._replace(amount=3)
        clock.turn_to(after.start + 1.0)
        taken(store, after)
        assert store.settle(less, [0]) is True
        assert store.settle(more, [9]) is True
        assert tally(store, after) == (0, 3)
        store.settle(free, [5])
        assert tally(store, after) == (0, 3)

    def test_a_sliding_window_counts_a_settlement_where_the_call_began(self, store: QuotaStore, clock: Clock) -> None:
        """However late it ends, it leaves the window when its own slice does."""
        now = int(clock.time())
        reservation = taken(store, sliding(now, amount=5), ttl=600)
        clock.turn_to(now + 61.0)
        taken(store, sliding(now + 61))
        assert store.settle(reservation, [4]) is True
        assert tally(store, sliding(now + 60)) == (4, 1)
        assert tally(store, sliding(now + 61)) == (0, 1)

    # Ids ------------------------------------------------------------------------------------------------------------

    def test_the_same_id_gives_the_same_answer_and_takes_nothing(self, store: QuotaStore) -> None:
        """An answer that got lost may be asked for again, before and after the settlement, at a full limit too."""
        charges = [charge(amount=5), charge("held", limit=1)]
        first = taken(store, *charges, id="id")
        assert store.reserve("id", charges, TTL) == first
        assert tally(store, charge()) == (0, 5)
        assert store.settle(first, [4, 0]) is True
        assert store.reserve("id", charges, TTL) == first
        assert store.settle(first, [4, 0]) is False
        assert tallies(store, charges) == [(4, 0), (0, 0)]

    @pytest.mark.parametrize(
        "given",
        [[], [charge(key="other")], [charge(amount=9)], [charge(amount=1), charge("sliding"), charge(key="other")]],
        ids=["none", "another", "more", "most"],
    )
    def test_the_same_id_with_other_charges_gives_the_first_answer(
        self, store: QuotaStore, given: list[Charge]
    ) -> None:
        """An id stands for what was first reserved under it, before and after the settlement, whatever is asked."""
        charges = (charge(amount=3), charge("sliding", amount=2), charge("held"), charge(key="free", amount=0))
        looked = [*charges, charge(key="other")]
        first = taken(store, *charges, id="id")
        assert first.charges == charges
        again = store.reserve("id", given, 2 * TTL)
        assert again == first
        assert isinstance(again, Reservation)
        assert {type(charge) for charge in again.charges} == {Charge}
        assert store.settle(again, [2, 2, 0, 1]) is True
        assert store.reserve("id", given, 2 * TTL) == first
        assert store.settle(first, [0, 0, 0, 0]) is False
        assert tallies(store, looked) == [(2, 0), (2, 0), (0, 0), (1, 0), (0, 0)]

    def test_ids_are_opaque(self, store: QuotaStore) -> None:
        """What differs at all is another reservation."""
        ids = ["a", "A", "a ", "a:0", "0/a", "{a}", "a*", "'a'", "switch/7:feature=1:é#1", "e\u0301", "é", "x" * 1_000]
        made = [taken(store, charge(limit=99), id=id) for id in ids]
        assert [reservation.id for reservation in made] == ids
        assert tally(store, charge()) == (0, len(ids))
        assert [store.settle(reservation, [1]) for reservation in made] == [True] * len(ids)

    def test_a_reservation_says_what_was_taken_and_until_when(self, store: QuotaStore, clock: Clock) -> None:
        """The id and the charges as they were given, and the end of the lease within the time that the call took."""
        charges = (charge(), charge("sliding"))
        before = clock.time()
        reservation = taken(store, *charges, id="id")
        assert (reservation.id, reservation.charges) == ("id", charges)
        slack = 0.01 if clock.injected else 5
        assert before + TTL - slack <= reservation.expires <= clock.time() + TTL + slack
