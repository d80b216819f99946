"""What the tests are written in."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal
from uuid import uuid4

from ...stores import Charge, QuotaStore, Refusal, Reservation, Tally
from ._clock import Clock

Kind = Literal["fixed", "sliding", "held"]

KINDS: tuple[Kind, ...] = ("fixed", "sliding", "held")
TTL = 30.0
SHORT = 0.3
"""Seconds of a lease that a test sees the end of."""

LARGEST = 2**53
DAY = 86_400
FOREVER = 2**42  # Epoch seconds far beyond the year 9999: kill switches have such windows.
FOR_GOOD = 2.0**35  # Seconds that the lease of a kill switch lasts.

_NOW = int(time.time())


def charge(kind: Any = "fixed", *, key: str = "key", amount: int = 1, limit: int = 5) -> Charge:
    """A charge of these days, of this hour, or of a call in flight. Each kind has a counter of its own."""
    if kind == "sliding":
        return sliding(_NOW, key=f"{key}/sliding", amount=amount, limit=limit, slice=60)
    start, end = (_NOW - DAY, _NOW + DAY) if kind == "fixed" else (_NOW, _NOW + 1)
    return Charge(f"{key}/{kind}", amount, limit, kind, start, end)


def later(charge: Charge) -> Charge:
    """The same charge, in the window after."""
    return charge._replace(start=charge.end, end=2 * charge.end - charge.start)


def sliding(now: float, *, key: str = "key", amount: int = 1, limit: int = 5, slice: int = 1) -> Charge:
    """A sliding charge at the moment `now`, in slices of so many seconds."""
    end = int(now // slice + 1) * slice
    return Charge(key, amount, limit, "sliding", end - 61 * slice, end)


def daily(now: float, *, key: str = "key", amount: int = 1, limit: int = 5) -> Charge:
    """A charge of the calendar day at the moment `now`."""
    start = int(now // DAY) * DAY
    return Charge(key, amount, limit, "fixed", start, start + DAY)


def taken(store: QuotaStore, *charges: Charge, ttl: float = TTL, id: str | None = None) -> Reservation:
    """Reserve, and expect that it fits."""
    answer = store.reserve(id or uuid4().hex, charges, ttl)
    assert isinstance(answer, Reservation), answer
    return answer


def refused(store: QuotaStore, *charges: Charge) -> Refusal:
    """Reserve, and expect that it does not fit."""
    answer = store.reserve(uuid4().hex, charges, TTL)
    assert isinstance(answer, Refusal), answer
    return answer


def waited_for(store: QuotaStore, clock: Clock, ask: Callable[[float], Sequence[Charge]]) -> float:
    """Wait for as long as the refusal of a call says, which admits it, while a moment less does not. `ask` makes the
    charges of the call at a time. Returns the seconds."""
    before = clock.time()
    wait = refused(store, *ask(before)).retry_after
    after = clock.time()
    assert wait is not None, "there is a time to wait for"
    assert wait >= 0
    in_flight = any(charge.kind == "held" and charge.amount for charge in ask(before))
    reach = clock.wait_until if in_flight else clock.turn_to
    if wait > clock.moment:
        reach(before + wait - clock.moment)
        refused(store, *ask(before + wait - clock.moment))
    reach(after + wait)
    taken(store, *ask(after + wait))
    return wait


def tally(store: QuotaStore, charge: Charge) -> Tally:
    (only,) = store.peek([charge])
    return only


def tallies(store: QuotaStore, charges: Sequence[Charge]) -> list[Tally]:
    return list(store.peek(charges))
