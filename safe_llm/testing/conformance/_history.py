"""Histories that nobody thought of, with the memory store as the oracle."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from ...stores import Charge, MemoryQuotaStore, QuotaStore, Refusal, Reservation
from ._clock import Clock
from ._words import DAY, daily, sliding

# No sum of waits is the length of a lease: at that very moment, a rounded clock may say one thing or the other.
TTLS = st.sampled_from([0.53, 41.32, 9_001.77])
WAITS = st.sampled_from([0.1, 0.75, 7.0, 59.5, 61.0, 130.0, 3_700.0, 30_000.0])
SKEWS = st.sampled_from([0, 0, 1, 20, -1, -2, -30])
AMOUNTS = st.lists(st.integers(0, 3), min_size=5, max_size=5)


def check_histories(store: QuotaStore, clock: Clock, examples: int) -> None:
    """Each history has counters of its own in the store, and begins at a midnight."""

    class OfThisStore(History):
        def __init__(self) -> None:
            super().__init__(store, clock)

    run_state_machine_as_test(
        OfThisStore,
        settings=settings(
            max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


class History(RuleBasedStateMachine):
    """What clients do whose clocks differ a little, to a store and to its oracle."""

    def __init__(self, store: QuotaStore, clock: Clock) -> None:
        super().__init__()
        clock.turn_to((clock.time() // DAY + 2) * DAY + 0.25)
        self.store, self.clock = store, clock
        self.oracle = MemoryQuotaStore(clock=clock.time)
        self.name = uuid4().hex
        self.skew = 0
        self.made: list[Reservation] = []
        self.answered: dict[str, float] = {}  # Until then, the same id gives the same answer.
        self.open: dict[str, float] = {}  # Until then, a settlement makes a difference.

    def charges(self, amounts: list[int]) -> list[Charge]:
        """A minute, an hour, a day and calls in flight, and the day once more: two charges may meet."""
        now, key = self.clock.time() + self.skew, self.name
        return [
            sliding(now, key=key, amount=amounts[0], limit=4),
            sliding(now, key=key, amount=amounts[1], limit=6, slice=60),
            daily(now, key=key, amount=amounts[2], limit=10),
            Charge(f"{key}/calls", amounts[3], 3, "held", int(now), int(now) + 1),
            daily(now, key=key, amount=amounts[4], limit=8),
        ]

    @rule(amounts=AMOUNTS, ttl=TTLS)
    def reserve(self, amounts: list[int], ttl: float) -> None:
        ttl = ttl if self.clock.injected else 2.0**33
        id, charges = f"{self.name}/{len(self.made)}", self.charges(amounts)
        answer, expected = (store.reserve(id, charges, ttl) for store in (self.store, self.oracle))
        if isinstance(expected, Refusal):
            assert isinstance(answer, Refusal)
            assert answer[:3] == expected[:3]
            self.check_wait(answer.retry_after, expected.retry_after)
        else:
            assert isinstance(answer, Reservation)
            assert answer[:2] == expected[:2]
            self.made.append(answer)
            ends = [charge.end for charge in charges if charge.amount and charge.kind != "held"]
            self.answered[id] = self.open[id] = max([answer.expires, *ends])
        self.compare()

    def check_wait(self, wait: float | None, expected: float | None) -> None:
        if wait is None or expected is None:
            assert wait is expected
        elif self.clock.injected and not self.skew:
            assert abs(wait - expected) < 0.01

    @precondition(lambda self: self.made)
    @rule(which=st.integers(0, 30), amounts=AMOUNTS)
    def reserve_again(self, which: int, amounts: list[int]) -> None:
        first = self.made[which % len(self.made)]
        if self.clock.time() < self.answered[first.id]:
            assert self.store.reserve(first.id, self.charges(amounts), 1.0) == first
        self.compare()

    @precondition(lambda self: self.made)
    @rule(which=st.integers(0, 30), actual=AMOUNTS)
    def settle(self, which: int, actual: list[int]) -> None:
        reservation = self.made[which % len(self.made)]
        if reservation.id not in self.open:
            assert self.store.settle(reservation, actual) is False
        elif self.clock.time() < self.open[reservation.id]:
            assert self.store.settle(reservation, actual) is True
            assert self.oracle.settle(reservation, actual) is True
            del self.open[reservation.id]
            self.answered[reservation.id] = reservation.expires
        self.compare()

    @rule(seconds=WAITS, skew=SKEWS)
    def wait(self, seconds: float, skew: int) -> None:
        self.clock.turn_to(self.clock.time() + seconds)
        self.skew = skew
        self.compare()

    def compare(self) -> None:
        looked: list[Any] = self.charges([0] * 5)
        assert list(self.store.peek(looked)) == list(self.oracle.peek(looked))
