"""The algorithm of a quota store, written once, over any backend that can hold JSON under keys."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import insort
from collections.abc import Callable, Collection, MutableMapping, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate
from math import floor, inf
from typing import Any, TypedDict
from zlib import crc32

from ..types import Charge, Refusal, Reservation, Tally
from .base import ClockedStore

Data = MutableMapping[str, Any]

GRACE = 60.0
"""Seconds that a value outlives its use: clients' clocks differ a little, and answers get lost and are asked again."""

SLICES = 61
"""Of a sliding window."""

_BUCKETS = 256
_NEVER = 2.0**53  # JSON knows no infinity.


class KeyValueQuotaStore(ClockedStore, ABC):
    """A quota store over a backend of your own: give it `transaction`, and it does the rest.

    ::

        class FileQuotaStore(KeyValueQuotaStore):
            \"\"\"Counts in one JSON file, under a lock that all processes respect.\"\"\"

            def __init__(self, path):
                self.path = path

            @contextmanager
            def transaction(self, keys):
                with FileLock(f"{self.path}.lock"):
                    stored = json.loads(self.path.read_text()) if self.path.exists() else {}
                    data = {key: stored.pop(key) for key in keys if key in stored}
                    yield data
                    written = self.path.with_suffix(".new")
                    written.write_text(json.dumps({**stored, **data}))
                    written.replace(self.path)  # so that a crash leaves the old counts whole

    - `transaction(keys)` yields a mutable mapping of those of `keys` that exist, and commits when it is left without an
      error. Nothing else may change these keys in between; keys are distinct and sorted, so that backends that lock
      them one by one do so in one order.
    - Values are JSON. A changed value is assigned again; a deleted key is to be forgotten.
    - Every value is an object with ``"expires"``, UTC epoch seconds: a backend may forget it from then on. One that
      does not keeps one value per counter, and those of ended windows go when the counter is next used.

    Prove it with `safe_llm.testing.QuotaStoreConformance`. Leases and `Refusal.retry_after` follow `clock`.
    """

    @abstractmethod
    def transaction(self, keys: Collection[str]) -> AbstractContextManager[Data]:
        """A context that yields the values of `keys` and commits on leaving: see the class."""

    def close(self) -> None:
        """Nothing to let go of, unless a backend says otherwise."""

    def reserve(self, id: str, charges: Sequence[Charge], ttl: float) -> Reservation | Refusal:
        charges = tuple(charges)
        check_charges(charges)
        places = [place_of(charge) for charge in charges]
        bucket = _bucket(id)
        now = self.clock()
        lease = now + ttl
        with self.transaction(_keys(places, bucket)) as data:
            known = _recall(data, bucket, id)
            if known is not None:
                lease, _, taken, _ = known
                return Reservation(id, tuple(Charge(*charge) for charge in taken), lease)
            tallies = _tallies(data, charges, places, now)
            refusal = refuse(charges, tallies, lambda charge: _leaving(data[place_of(charge)[0]], charge), now)
            if refusal is not None:
                return refusal
            over = lease
            for position, (charge, place) in enumerate(zip(charges, places, strict=True)):
                if charge.amount:  # Nothing taken leaves no trace: switches are looked at by every call of every user.
                    _hold(data, f"{position}/{id}", charge, place, now, lease)
                    over = max(over, place[2])
            # Unsettled, it is remembered for as long as a late settlement still makes a difference.
            _remember(data, bucket, id, (lease, over + GRACE, charges, True), now)
        return Reservation(id, charges, lease)

    def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        id, charges, lease = reservation
        check_actual(charges, actual)
        places = [place_of(charge) for charge in charges]
        bucket = _bucket(id)
        now = self.clock()
        with self.transaction(_keys(places, bucket)) as data:
            known = _recall(data, bucket, id)
            if known is None or not known[3]:
                return False
            for position, (charge, place, amount) in enumerate(zip(charges, places, actual, strict=True)):
                if charge.amount or amount:
                    _settle(data, f"{position}/{id}", charge, place, now, amount)
            _remember(data, bucket, id, (lease, max(lease, now) + GRACE, charges, False), now)
        return True

    def peek(self, charges: Sequence[Charge]) -> Sequence[Tally]:
        places = [place_of(charge) for charge in charges]
        now = self.clock()
        with self.transaction(_keys(places)) as data:
            return _tallies(data, charges, places, now)


_Place = tuple[str, int, int]
"""Where a charge counts: the counter's name, the second its window or slice begins, the second it no longer counts."""


def place_of(charge: Charge) -> _Place:
    """Where a charge counts."""
    key, _, _, kind, start, end = charge
    if kind == "fixed":
        return key, start, end
    if kind == "held":
        return key, 0, 0
    width = end - start
    slot = end - width // SLICES
    return f"{width}~{key}", slot, slot + width


def _keys(places: Sequence[_Place], *others: str) -> list[str]:
    return sorted({*others, *[place[0] for place in places]})


# Reservations: in buckets, so that old ones are forgotten without a sweep of the backend ----------------------------

_Record = tuple[float, float, Sequence[Charge], bool]
"""When the lease ends, when to forget it, the charges, and whether they are still to be settled."""


class _Bucket(TypedDict):
    records: dict[str, _Record]
    room: int
    """So many records make it worth while to look for old ones."""
    expires: float


def _bucket(id: str) -> str:
    return f"reservations/{crc32(id.encode()) % _BUCKETS}"


def _recall(data: Data, name: str, id: str) -> _Record | None:
    bucket: _Bucket | None = data.get(name)
    return None if bucket is None else bucket["records"].get(id)


def _remember(data: Data, name: str, id: str, record: _Record, now: float) -> None:
    bucket: _Bucket = data.get(name) or {"records": {}, "room": 8, "expires": 0.0}
    bucket["records"][id] = record
    if len(bucket["records"]) > bucket["room"]:
        bucket["records"] = {id: record for id, record in bucket["records"].items() if record[1] > now}
        bucket["room"] = 2 * len(bucket["records"]) + 8
    bucket["expires"] = max(bucket["expires"], record[1])
    data[name] = bucket


# Counters ------------------------------------------------------------------------------------------------------------


class _Counter(TypedDict):
    rows: list[list[int]]
    """[begins, over, used, held] of each window or slice, ascending; calls in flight have one row of [0, 0, 0, held].
    Rows without used and held are left out, and a counter without rows is deleted."""
    open: dict[str, tuple[int, int, int, float]]
    """Unsettled leases: begins, over, amount, and when it ends. JSON makes lists of tuples, which serve as well.
    Named by the charge's position and the id, for two charges of one call may meet here."""
    lapse: float
    """No open lease ends before."""
    expires: float


def _row(rows: list[list[int]], begins: int, over: int) -> list[int]:
    """The row of a window or slice, made if there is none."""
    for row in reversed(rows):
        if row[0] == begins and row[1] == over:
            return row
    row = [begins, over, 0, 0]
    insort(rows, row)
    return row


def _put(data: Data, name: str, counter: _Counter) -> None:
    if counter["rows"]:
        data[name] = counter
    elif name in data:
        del data[name]


def _current(data: Data, name: str, now: float) -> _Counter | None:
    """The counter, with ended leases settled: ``held`` amounts are given back, others become used."""
    counter: _Counter | None = data.get(name)
    if counter is not None and counter["lapse"] <= now:
        rows, leases = counter["rows"], counter["open"]
        for lease in [lease for lease, (*_, ends) in leases.items() if ends <= now]:
            begins, over, amount, _ = leases.pop(lease)
            _move(rows, begins, over, amount, amount)
        counter["lapse"] = min((ends for *_, ends in leases.values()), default=_NEVER)
        _put(data, name, counter)
    return counter


def _move(rows: list[list[int]], begins: int, over: int, held: int, used: int) -> None:
    """Let go of what was held, and count what was used; calls in flight use nothing."""
    row = _row(rows, begins, over)
    row[3] -= held
    if over:
        row[2] = max(0, row[2] + used)
    if not (row[2] or row[3]):
        rows.remove(row)


def _hold(data: Data, lease: str, charge: Charge, place: _Place, now: float, ends: float) -> None:
    name, begins, over = place
    counter: _Counter | None = data.get(name)
    until = (over or ends) + GRACE
    if counter is None:
        counter = {"rows": [], "open": {}, "lapse": ends, "expires": until}
    rows = counter["rows"]
    # The store's clock and the client's must agree that a row is over: neither alone, if wrong, can wipe live ones.
    while rows and rows[0][1] + GRACE <= now and rows[0][1] + GRACE <= charge.start and not rows[0][3]:
        del rows[0]
    _row(rows, begins, over)[3] += charge.amount
    counter["open"][lease] = begins, over, charge.amount, ends
    if ends < counter["lapse"]:
        counter["lapse"] = ends
    if until > counter["expires"]:
        counter["expires"] = until
    data[name] = counter


def _settle(data: Data, lease: str, charge: Charge, place: _Place, now: float, actual: int) -> None:
    name, begins, over = place
    counter = _current(data, name, now) or {"rows": [], "open": {}, "lapse": _NEVER, "expires": 0.0}
    if counter["open"].pop(lease, None):
        _move(counter["rows"], begins, over, charge.amount, actual)
    else:  # The lease has ended, and the whole amount was counted as used; or it was 0 and had none.
        _move(counter["rows"], begins, over, 0, actual - charge.amount)
        counter["expires"] = max(counter["expires"], over + GRACE)
    _put(data, name, counter)


def _tallies(data: Data, charges: Sequence[Charge], places: Sequence[_Place], now: float) -> list[Tally]:
    return [_tally(_current(data, place[0], now), charge, place) for charge, place in zip(charges, places, strict=True)]


def _tally(counter: _Counter | None, charge: Charge, place: _Place) -> Tally:
    rows = [] if counter is None else _counting(counter, charge, place)
    return Tally(sum(row[2] for row in rows), sum(row[3] for row in rows))


def _leaving(counter: _Counter, charge: Charge) -> list[tuple[float, int]]:
    if charge.kind == "held":
        return sorted((ends, amount) for _, over, amount, ends in counter["open"].values() if not over)
    return [(over, used + held) for _, over, used, held in _counting(counter, charge, place_of(charge))]


def _counting(counter: _Counter, charge: Charge, place: _Place) -> list[list[int]]:
    """The rows that count against a charge."""
    if charge.kind == "sliding":
        # Slices newer than the charge's own come from a client whose clock is ahead; they are spent all the same.
        return [row for row in counter["rows"] if row[0] >= charge.start]
    return [row for row in counter["rows"] if row[0] == place[1] and row[1] == place[2]]


# Decisions, for every store that keeps its counters in Python --------------------------------------------------------


def check_charges(charges: Sequence[Charge]) -> None:
    """Raise ValueError for an amount below 0: it would raise the limit."""
    for charge in charges:
        if charge.amount < 0:
            raise ValueError(f"the amount of a charge is at least 0, not {charge.amount}")


def check_actual(charges: Sequence[Charge], actual: Sequence[int]) -> None:
    """Raise ValueError unless there is one amount for each charge, none of them below 0."""
    if len(actual) != len(charges):
        raise ValueError(f"settle needs one amount for each of the {len(charges)} charges, not {len(actual)}")
    if actual and min(actual) < 0:
        raise ValueError(f"the amount that was used is at least 0, not {min(actual)}")


def refuse(
    charges: Sequence[Charge],
    tallies: Sequence[Tally],
    leaving: Callable[[Charge], Sequence[tuple[float, int]]],
    now: float,
) -> Refusal | None:
    """The first charge that does not fit, and the seconds until all of them do; None where they fit.

    `tallies` are what stands against each. `leaving` tells, of one charge's tally, which amounts leave it when, the
    first to go first.
    """
    first: tuple[int, int, int] | None = None
    waits: list[float] = []
    asked: dict[object, int] = {}  # Two charges of one call may meet on one counter.
    for position, (charge, (used, held)) in enumerate(zip(charges, tallies, strict=True)):
        place = place_of(charge)
        where = place if charge.kind == "fixed" else place[0]
        before = asked.get(where, 0)
        asked[where] = before + charge.amount
        excess = used + held + asked[where] - charge.limit
        if excess > 0:
            first = first or (position, used, held + before)
            waits.append(inf if asked[where] > charge.limit else _wait(charge, excess, leaving(charge), now))
    if first is None:
        return None
    longest = max(waits)
    return Refusal(*first, None if longest == inf else _rounded(longest))


def _wait(charge: Charge, excess: int, leaving: Sequence[tuple[float, int]], now: float) -> float:
    """Seconds until `excess` has left the window, if nothing else is used meanwhile."""
    if charge.kind != "held":
        now = _within(now, place_of(charge)[1], charge.end)
    freed = accumulate(amount for _, amount in leaving)
    return next(when for (when, _), total in zip(leaving, freed, strict=True) if total >= excess) - now


def _within(now: float, start: int, end: int) -> float:
    """`now` as the client sees it, whose clock said that it lies in [start, end).

    A store's clock that is a little off is moved there. One that is far off says nothing: then the whole span is
    waited for.
    """
    return min(max(now, start), end) if start - GRACE < now < end + GRACE else start


def _rounded(wait: float) -> float:
    """Up to a millisecond and one more: sums of floats and slewed clocks fall a little short. Whole seconds do not."""
    return float(wait) if float(wait).is_integer() else (floor(wait * 1000) + 2) / 1000
