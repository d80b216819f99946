"""The quota store of one process."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from threading import Lock

from ..errors import ConfigurationError
from ..types import Charge, Refusal, Reservation, Tally
from .base import ClockedStore
from .keyvalue import GRACE, SLICES, check_actual, check_charges, place_of, refuse

# One lock for all stores of the process, so that a fork can wait for it: the child then starts with whole counters and
# a free lock. A step takes microseconds, so stores hardly meet.
_LOCK = Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


class MemoryQuotaStore(ClockedStore):
    """Counts in this process's memory: exact among its threads and tasks, unknown to other processes.

    It answers as a `KeyValueQuotaStore` does, but is written for speed: by default every call passes here. Memory is
    bounded by the counters of windows that have not ended: what is over is swept away as the store grows.

    Args:
        clock: UTC epoch seconds, for leases. By default the clock of the client that uses the store.
    """

    blocking = False

    def __init__(self, *, clock: Callable[[], float] | None = None) -> None:
        if clock is not None:
            self.clock = clock
        self._counters: dict[_Key, _Counter] = {}
        self._open: dict[str, tuple[Reservation, list[_Counter]]] = {}
        self._ends: list[tuple[float, str]] = []  # A heap of when leases end, those of settled ones among them.
        self._ended: dict[str, float] = {}  # Of the open ones, those whose lease has ended, and when to forget them.
        self._settled: dict[str, tuple[Reservation, float]] = {}  # And when to forget it.
        self._room = 1000

    @classmethod
    def from_url(cls, url: str) -> MemoryQuotaStore:
        if url.partition("://")[2]:
            raise ConfigurationError("memory:// takes nothing after the slashes: the store has no address or options.")
        return cls()

    def close(self) -> None:
        """Nothing to let go of."""

    def reserve(self, id: str, charges: Sequence[Charge], ttl: float) -> Reservation | Refusal:
        charges = tuple(charges)
        check_charges(charges)
        now = self.clock()
        with _LOCK:
            self._end_leases(now)
            if id in self._open:
                return self._open[id][0]
            if id in self._settled:
                return self._settled[id][0]
            if len(self._counters) + len(self._open) + len(self._settled) > self._room:
                self._sweep(charges, now)
            reservation = Reservation(id, charges, now + ttl)
            counters = self._hold(reservation)
            if counters is None:
                return self._refusal(charges, now)
            self._open[id] = reservation, counters
            heappush(self._ends, (reservation.expires, id))
            return reservation

    def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        id = reservation.id
        check_actual(reservation.charges, actual)
        now = self.clock()
        with _LOCK:
            self._end_leases(now)
            if id not in self._open:
                return False
            reservation, counters = self._open.pop(id)
            _, charges, ends = reservation
            ended = self._ended.pop(id, None) is not None
            for charge, counter, used in zip(charges, counters, actual, strict=True):
                amount = charge.amount
                if not amount:
                    if used:  # It held nothing, so the counter may have been swept away meanwhile.
                        self._counter(charge).move(charge, ends, 0, used)
                elif ended:  # The whole amount was counted as used.
                    counter.move(charge, ends, 0, used - amount)
                else:
                    counter.move(charge, ends, -amount, used)
            self._settled[id] = reservation, max(ends, now) + GRACE
            return True

    def peek(self, charges: Sequence[Charge]) -> Sequence[Tally]:
        now = self.clock()
        with _LOCK:
            self._end_leases(now)
            return self._tallies(charges)

    # Under the lock ---------------------------------------------------------------------------------------------------

    def _counter(self, charge: Charge) -> _Counter:
        """The charge's counter, made if there is none. An empty one goes with the next sweep."""
        key = _key(charge)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = _COUNTERS[charge.kind](charge)
        return counter

    def _tallies(self, charges: Sequence[Charge]) -> list[Tally]:
        tallies = []
        for charge in charges:
            counter = self._counters.get(_key(charge))
            # The constructor of a NamedTuple is a Python function, and would be the dearest part.
            tallies.append(_NOTHING if counter is None else _new(Tally, counter.tally(charge)))
        return tallies

    def _hold(self, reservation: Reservation) -> list[_Counter] | None:
        """Hold every amount, and tell where; hold none if one does not fit."""
        _, charges, ends = reservation
        counters: list[_Counter] = []
        for charge in charges:
            amount = charge.amount
            counter = self._counter(charge)
            used, held = counter.tally(charge)
            if used + held + amount > charge.limit:
                for counter, taken in zip(counters, charges, strict=False):
                    counter.move(taken, ends, -taken.amount, 0)
                return None
            if amount:
                counter.move(charge, ends, amount, 0)
            counters.append(counter)
        return counters

    def _refusal(self, charges: Sequence[Charge], now: float) -> Refusal:
        refusal = refuse(charges, self._tallies(charges), lambda charge: self._counter(charge).leaving(charge), now)
        assert refusal is not None
        return refusal

    def _end_leases(self, now: float) -> None:
        """Settle leases that have ended: what is in flight is given back, other amounts become used."""
        while self._ends and self._ends[0][0] <= now:
            _, id = heappop(self._ends)
            if id in self._open:
                (_, charges, ends), counters = self._open[id]
                for charge, counter in zip(charges, counters, strict=True):
                    counter.move(charge, ends, -charge.amount, charge.amount)
                # It is remembered for as long as a late settlement still makes a difference.
                over = max((place_of(charge)[2] for charge in charges if charge.amount), default=0)
                self._ended[id] = max(ends, over) + GRACE

    def _sweep(self, charges: Sequence[Charge], now: float) -> None:
        """Forget what makes no difference any more.

        The store's clock and the client's must agree that a window is over: neither alone, if wrong, can wipe counters
        that are in use. What the client's clock says at least, the windows of its call tell; calls in flight have none.
        """
        began = max((place_of(charge)[1] for charge in charges), default=0)
        over = min(now, began) - GRACE
        self._counters = {key: counter for key, counter in self._counters.items() if counter.lives(over)}
        for id in [id for id, forget in self._ended.items() if forget <= now]:
            del self._ended[id], self._open[id]
        self._settled = {id: times for id, times in self._settled.items() if times[1] > now}
        self._ends = [(reservation.expires, id) for id, (reservation, _) in self._open.items() if id not in self._ended]
        heapify(self._ends)
        # Twice what is left: over time, a call pays for looking at two values or so.
        self._room = max(1000, 2 * (len(self._counters) + len(self._open) + len(self._settled)))


_NOTHING = Tally(0, 0)
_new = tuple.__new__


# Counters, one class for each kind of charge -------------------------------------------------------------------------
#
# `tally` is what stands against a charge, used and held. `move` adds to both, where the charge counts; `ends` is when
# its lease does. `leaving` tells which amounts leave the tally when. `lives` clears away what ended before `over`, and
# tells whether anything is left.

_Key = tuple[object, ...]


def _key(charge: Charge) -> _Key:
    key, _, _, kind, start, end = charge
    if kind == "fixed":
        return key, start, end
    return (key, end - start) if kind == "sliding" else (key,)


class _Fixed:
    """One window."""

    __slots__ = ("end", "held", "used")

    def __init__(self, charge: Charge) -> None:
        self.end = charge.end
        self.used = self.held = 0

    def tally(self, charge: Charge) -> tuple[int, int]:
        return self.used, self.held

    def move(self, charge: Charge, ends: float, held: int, used: int) -> None:
        self.held += held
        self.used += used

    def leaving(self, charge: Charge) -> list[tuple[float, int]]:
        return [(self.end, self.used + self.held)]

    def lives(self, over: float) -> bool:
        return self.held > 0 or (self.used > 0 and self.end > over)


class _Held:
    """Calls in flight. They use nothing."""

    __slots__ = ("free", "held")

    def __init__(self, charge: Charge) -> None:
        self.held = 0
        self.free: dict[float, int] = {}  # How much comes free when a lease ends.

    def tally(self, charge: Charge) -> tuple[int, int]:
        return 0, self.held

    def move(self, charge: Charge, ends: float, held: int, used: int) -> None:
        self.held += held
        left = self.free.pop(ends, 0) + held
        if left:
            self.free[ends] = left

    def leaving(self, charge: Charge) -> list[tuple[float, int]]:
        return sorted(self.free.items())

    def lives(self, over: float) -> bool:
        return self.held > 0


class _Sliding:
    """Slices: rows of [begins, used, held], ascending, and the sums of those from `first` on.

    Windows move by a slice or two from call to call, so the sums are hardly ever made anew.
    """

    __slots__ = ("first", "held", "rows", "used", "width")

    def __init__(self, charge: Charge) -> None:
        self.width = charge.end - charge.start
        self.rows: list[list[int]] = []
        self.first = self.used = self.held = 0

    def tally(self, charge: Charge) -> tuple[int, int]:
        rows, start = self.rows, charge.start
        while self.first < len(rows) and rows[self.first][0] < start:
            self.used -= rows[self.first][1]
            self.held -= rows[self.first][2]
            self.first += 1
        while self.first and rows[self.first - 1][0] >= start:
            self.first -= 1
            self.used += rows[self.first][1]
            self.held += rows[self.first][2]
        return self.used, self.held

    def move(self, charge: Charge, ends: float, held: int, used: int) -> None:
        begins = charge.end - self.width // SLICES
        rows = self.rows
        at = len(rows) - 1  # Nearly always.
        if at < 0 or rows[at][0] != begins:
            at = bisect_left(rows, [begins])
        if at == len(rows) or rows[at][0] != begins:
            if held + used <= 0:
                return  # Gone in a sweep, or never there: there is nothing to give back.
            rows.insert(at, [begins, 0, 0])
            self.first += at < self.first
        rows[at][1] += used
        rows[at][2] += held
        if at >= self.first:
            self.used += used
            self.held += held

    def leaving(self, charge: Charge) -> list[tuple[float, int]]:
        return [(begins + self.width, used + held) for begins, used, held in self.rows if begins >= charge.start]

    def lives(self, over: float) -> bool:
        self.rows = [row for row in self.rows if row[2] or (row[1] and row[0] + self.width > over)]
        self.first = 0
        self.used = sum(row[1] for row in self.rows)
        self.held = sum(row[2] for row in self.rows)
        return bool(self.rows)


_Counter = _Fixed | _Held | _Sliding
_COUNTERS: dict[str, type[_Counter]] = {"fixed": _Fixed, "held": _Held, "sliding": _Sliding}
