"""What fits, and what is taken."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ...stores import Charge, QuotaStore, Refusal, Reservation, Tally
from ._subject import Subject
from ._words import FOR_GOOD, FOREVER, KINDS, LARGEST, TTL, charge, later, refused, sliding, taken, tallies, tally


class Admission(Subject):
    """Strict caps, all or nothing, exact amounts."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_an_amount_that_reaches_the_limit_fits_and_one_more_does_not(self, store: QuotaStore, kind: Any) -> None:
        """used + held + amount <= limit is the whole rule, for every kind."""
        taken(store, charge(kind, amount=3, limit=5))
        taken(store, charge(kind, amount=2, limit=5))
        refusal = refused(store, charge(kind, amount=1, limit=5))
        assert (refusal.position, refusal.used, refusal.held) == (0, 0, 5)

    @pytest.mark.parametrize("kind", ["fixed", "sliding"])
    def test_used_and_held_count_together(self, store: QuotaStore, kind: Any) -> None:
        """And a refusal tells them apart."""
        store.settle(taken(store, charge(kind, amount=2)), [2])
        taken(store, charge(kind, amount=2))
        assert refused(store, charge(kind, amount=2))[:3] == (0, 2, 2)
        taken(store, charge(kind, amount=1))
        assert refused(store, charge(kind, amount=1))[:3] == (0, 2, 3)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_limit_of_zero_admits_nothing_that_counts(self, store: QuotaStore, kind: Any) -> None:
        """What costs nothing goes through."""
        assert refused(store, charge(kind, limit=0))[:3] == (0, 0, 0)
        taken(store, charge(kind, amount=0, limit=0))

    @pytest.mark.parametrize("position", range(6))
    def test_all_charges_are_taken_or_none(self, store: QuotaStore, position: int) -> None:
        """Wherever the charge stands that does not fit, the others take nothing, and the refusal names its place."""
        charges = [charge(kind, key=key, amount=2, limit=6) for key in "ab" for kind in KINDS]
        store.settle(taken(store, *charges), [1] * 6)
        taken(store, *charges)
        before = tallies(store, charges)
        assert before == [Tally(0 if one.kind == "held" else 1, 2) for one in charges]
        asked = list(charges)
        asked[position] = asked[position]._replace(amount=7 - sum(before[position]))
        assert refused(store, *asked)[:3] == (position, *before[position])
        assert tallies(store, charges) == before
        asked[position] = asked[position]._replace(amount=6 - sum(before[position]))
        taken(store, *asked)

    def test_a_refusal_names_the_first_charge_that_does_not_fit(self, store: QuotaStore) -> None:
        """Of several, the first is told."""
        charges = [charge(key="a"), charge(key="b", amount=6), charge(key="c", amount=7)]
        assert refused(store, *charges).position == 1

    def test_a_refused_id_may_be_reserved_again(self, store: QuotaStore) -> None:
        """A refusal is not remembered: the same operation may try again."""
        first = taken(store, charge("held", amount=5))
        assert isinstance(store.reserve("id", [charge("held")], TTL), Refusal)
        store.settle(first, [0])
        assert isinstance(store.reserve("id", [charge("held")], TTL), Reservation)

    @pytest.mark.parametrize("kind", KINDS)
    def test_two_charges_of_one_call_on_one_key_add_up(self, store: QuotaStore, kind: Any) -> None:
        """Together they must fit, each under its own limit, and both are settled."""
        assert refused(store, charge(kind, amount=3), charge(kind, amount=3))[:3] == (1, 0, 3)
        assert refused(store, charge(kind, amount=2), charge(kind, amount=1, limit=2))[:3] == (1, 0, 2)
        assert tally(store, charge(kind)) == (0, 0)
        reservation = taken(store, charge(kind, amount=3), charge(kind, amount=2))
        assert tally(store, charge(kind)) == (0, 5)
        assert store.settle(reservation, [1, 2])
        assert tally(store, charge(kind)) == ((0, 0) if kind == "held" else (3, 0))

    @pytest.mark.parametrize("kind", KINDS)
    def test_an_amount_of_zero_fits_a_full_limit_and_takes_nothing(self, store: QuotaStore, kind: Any) -> None:
        """0 asks whether there is an overdraft, and no more."""
        taken(store, charge(kind, amount=5))
        reservation = taken(store, charge(kind, amount=0))
        assert tally(store, charge(kind)) == (0, 5)
        assert store.settle(reservation, [0])
        assert tally(store, charge(kind)) == (0, 5)

    def test_no_charges_are_a_reservation_too(self, store: QuotaStore) -> None:
        """A call without limits goes through the same door."""
        reservation = taken(store, id="id")
        assert store.reserve("id", [], TTL) == reservation
        assert store.settle(reservation, [])
        assert not store.settle(reservation, [])
        assert store.reserve("id", [], TTL) == reservation

    @pytest.mark.parametrize("kind", KINDS)
    def test_amounts_are_exact_up_to_two_to_the_53(self, store: QuotaStore, kind: Any) -> None:
        """Nothing is rounded where doubles end, not even a sum of three that lies just above."""
        most = charge(kind, amount=LARGEST - 2, limit=LARGEST)
        reservation = taken(store, most)
        assert tally(store, most) == (0, LARGEST - 2)
        if kind != "held":
            assert store.settle(reservation, [LARGEST - 2])
        taken(store, charge(kind, limit=LARGEST))
        refusal = refused(store, charge(kind, amount=2, limit=LARGEST))
        assert refusal.used + refusal.held == LARGEST - 1
        taken(store, charge(kind, limit=LARGEST))
        assert sum(tally(store, most)) == LARGEST
        refused(store, charge(kind, limit=LARGEST))
        assert {type(count) for count in tally(store, most)} == {int}

    def test_slices_of_a_sliding_window_add_up_exactly(self, store: QuotaStore) -> None:
        """Two halves of the largest amount, less one."""
        now = 1_800_000_000
        taken(store, sliding(now, amount=LARGEST // 2, limit=LARGEST))
        taken(store, sliding(now + 30, amount=LARGEST // 2 - 1, limit=LARGEST))
        refused(store, sliding(now + 40, amount=2, limit=LARGEST))
        taken(store, sliding(now + 40, amount=1, limit=LARGEST))
        assert sum(tally(store, sliding(now + 40))) == LARGEST

    def test_a_negative_amount_is_an_error(self, store: QuotaStore) -> None:
        """It would raise the limit."""
        with pytest.raises(ValueError, match="amount"):
            store.reserve("id", [charge(amount=-1)], TTL)

    def test_keys_are_opaque(self, store: QuotaStore) -> None:
        """Any text but NUL, and long ones too: what differs at all is another counter."""
        long = "".join(chr(0x4E00 + i * 7_919 % 20_000) for i in range(1_000))
        keys = [
            "a",
            "A",
            "a ",
            " a",
            "a:",
            "{a}",
            "a*",
            "a%",
            "a_",
            "'a'",
            '"a"',
            "a\\",
            "a\n",
            "a/0",
            "a~60",
            "0",
            "00",
        ]
        keys += ["é", "e\u0301", "ß", "ss", "😀", long, long + "a", long[:-1]]
        charges = [Charge(key, number, LARGEST, "fixed", *charge()[4:]) for number, key in enumerate(keys, 1)]
        taken(store, *charges)
        assert tallies(store, charges) == [(0, number) for number in range(1, len(keys) + 1)]

    # Patterns -------------------------------------------------------------------------------------------------------

    def test_a_kill_switch_is_a_place_that_is_held_for_good(self, store: QuotaStore) -> None:
        """Asking for none of none is refused meanwhile. Its numbered id finds it again, and settling gives it back."""
        switch = Charge("switch", 1, 1, "held", 0, FOREVER)
        generation = Charge("generation", 1, LARGEST, "fixed", 0, FOREVER)
        asking = switch._replace(amount=0, limit=0)
        store.settle(taken(store, asking), [0])
        off = taken(store, switch, generation, ttl=FOR_GOOD, id="switch#1")
        refusal = refused(store, charge(), asking)
        assert (refusal.position, refusal.used, refusal.held) == (1, 0, 1)
        assert store.reserve("switch#1", [switch, generation], FOR_GOOD) == off
        assert tallies(store, [switch, generation]) == [(0, 1), (0, 1)]
        assert store.settle(off, [0, 1]) is True
        assert store.reserve("switch#1", [switch, generation], FOR_GOOD) == off
        taken(store, charge(), asking)
        taken(store, switch, generation, ttl=FOR_GOOD, id="switch#2")
        refused(store, asking)
        assert tally(store, generation) == (1, 1)

    def test_an_alert_is_claimed_once_by_reserving_one_of_one(self, store: QuotaStore) -> None:
        """The second to try is refused, and the next window may claim again."""
        alert = charge(key="alert", limit=1)
        store.settle(taken(store, alert), [1])
        refused(store, alert)
        taken(store, later(alert))

    def test_peek_takes_nothing_and_answers_in_order(self, store: QuotaStore) -> None:
        """One tally per charge, for counters that exist and for those that do not; amounts and limits are not read."""
        store.settle(taken(store, charge(key="a", amount=2)), [2])
        taken(store, charge(key="a", amount=1))
        looked = [charge(key="b"), charge(key="a"), charge(key="a", amount=9, limit=0)]
        for _ in range(3):
            assert tallies(store, looked) == [(0, 0), (2, 1), (2, 1)]
        assert tallies(store, []) == []
        taken(store, charge(key="a", amount=2), charge(key="b", amount=5))

    def test_answers_are_of_the_types_that_they_are_said_to_be(self, store: QuotaStore) -> None:
        """Callers read fields by name."""
        assert isinstance(store.reserve("id", [charge(amount=5)], TTL), Reservation)
        refusal = store.reserve("other", [charge()], TTL)
        assert isinstance(refusal, Refusal)
        assert math.isfinite(refusal.retry_after or math.nan)
        assert all(isinstance(tally, Tally) for tally in store.peek([charge(), charge("held")]))

    def test_closing_twice_is_harmless(self, store: QuotaStore) -> None:
        """The second time finds nothing to do."""
        store.close()
