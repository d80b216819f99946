"""Quota stores: a reserve + settle pair over six limits, beside the least that its backend can do.

    python -m benchmarks.stores

A new backend is one function and one entry in `BACKENDS`. Floor and pair are measured by turns, in one process; then
several processes share one store, where that is what it is for.
"""

from __future__ import annotations

import multiprocessing
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple
from uuid import uuid4

from safe_llm.stores import Charge, MemoryQuotaStore, QuotaStore, Reservation, SQLiteQuotaStore

from .table import Row, aligned

_ROUNDS = 60
_PAIRS = 200
PROCESSES = 4
_SECONDS = 2.0


class Bench(NamedTuple):
    """A store, and its floor."""

    store: QuotaStore
    floor: Callable[[], object]
    """The least that two steps of this backend cost: of something that keeps no counters, only one change."""
    again: Callable[[], QuotaStore] | None = None
    """Opens the same store in another process; None where a store belongs to one."""


class Backend(NamedTuple):
    what: str
    floor: str
    bench: Callable[[], Any]
    """A context that yields a `Bench`."""
    most: float | None = None
    """The largest ratio of pair to floor that is aimed at."""


@contextmanager
def _memory() -> Iterator[Bench]:
    lock, counts = threading.Lock(), dict.fromkeys(range(6), 0)

    def floor() -> None:
        with lock:
            for key in counts:
                counts[key] += 1

    yield Bench(MemoryQuotaStore(), floor)


class _Opener(NamedTuple):
    """Opens a store in a process that this was sent to."""

    kind: Callable[[str], QuotaStore]
    where: str

    def __call__(self) -> QuotaStore:
        return self.kind(self.where)


@contextmanager
def _sqlite() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as folder:
        again = _Opener(SQLiteQuotaStore, f"{folder}/quotas.db")
        with closing(sqlite3.connect(f"{folder}/floor.db", isolation_level=None)) as db, closing(again()) as store:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("CREATE TABLE floor (number INTEGER PRIMARY KEY, text TEXT)")

            def floor() -> None:
                for _ in range(2):
                    db.execute("BEGIN IMMEDIATE")
                    db.execute("INSERT INTO floor (text) VALUES ('x')")
                    db.execute("COMMIT")

            yield Bench(store, floor, again)


BACKENDS = (
    Backend("memory store", "a lock and six increments", _memory),
    Backend("SQLite store", "two transactions of one insert", _sqlite, most=5),
)


def charges(now: int, user: str = "u1") -> list[Charge]:
    """Those of one call under six limits, none of which is ever reached."""
    most, who = 2**50, f"{len(user)}:{user}"
    return [
        Charge(f"plan/default/requests/minute/{who}", 1, most, "sliding", now - 60, now + 1),
        Charge(f"plan/default/requests/day/{who}", 1, most, "fixed", now - 1000, now + 80_000),
        Charge(f"plan/default/tokens/day/{who}", 1000, most, "fixed", now - 1000, now + 80_000),
        Charge(f"plan/default/usd/day/{who}", 1000, most, "fixed", now - 1000, now + 80_000),
        Charge(f"plan/default/usd/month/{who}", 1000, most, "fixed", now - 1000, now + 2_000_000),
        Charge(f"plan/default/concurrent/{who}", 1, 100, "held", now, now + 1),
    ]


def _pair(store: QuotaStore, of_call: list[Charge], id: str) -> None:
    answer = store.reserve(id, of_call, 60.0)
    assert isinstance(answer, Reservation)
    store.settle(answer, (1, 1, 900, 800, 800, 0))


def measure(bench: Bench) -> list[tuple[float, float]]:
    """Seconds of the floor and of a pair, round by round."""
    rounds: list[tuple[float, float]] = []
    of_call = charges(int(time.time()))
    for _ in range(_ROUNDS):
        ids = [uuid4().hex for _ in range(_PAIRS)]
        began = time.perf_counter()
        for _ in range(_PAIRS):
            bench.floor()
        between = time.perf_counter()
        for id in ids:
            _pair(bench.store, of_call, id)
        rounds.append(((between - began) / _PAIRS, (time.perf_counter() - between) / _PAIRS))
    return rounds


def rows() -> list[Row]:
    """One for each backend, in microseconds."""
    made = []
    for backend in BACKENDS:
        with backend.bench() as bench:
            pairs = [(floor * 1e6, pair * 1e6) for floor, pair in measure(bench)]
        made.append(Row(backend.what, pairs, "µs", most=backend.most))
    return made


# Several processes ----------------------------------------------------------------------------------------------------


def _use(again: Callable[[], QuotaStore], number: int, start: Any, answers: Any) -> None:
    """Make pairs of a thousand users for a while; answer how many, and the longest."""
    with closing(again()) as store:
        made, longest = 0, 0.0
        users = [charges(int(time.time()), f"user{number}-{user}") for user in range(250)]
        start.wait()
        until = time.perf_counter() + _SECONDS
        while (began := time.perf_counter()) < until:
            _pair(store, users[made % len(users)], uuid4().hex)
            made += 1
            longest = max(longest, time.perf_counter() - began)
    answers.put((made, longest))


def together(again: Callable[[], QuotaStore]) -> tuple[float, float]:
    """Pairs a second from four processes, and the seconds that the unluckiest pair took."""
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(PROCESSES), context.Queue()
    children = [context.Process(target=_use, args=(again, number, start, answers)) for number in range(PROCESSES)]
    for child in children:
        child.start()
    made, longest = zip(*[answers.get(timeout=60) for _ in children], strict=True)
    for child in children:
        child.join()
    return sum(made) / _SECONDS, max(longest)


def notes() -> Iterator[str]:
    """What the rows are of, and how fast the stores are that processes share."""
    for backend in BACKENDS:
        note = (
            f"{backend.what[0].upper()}{backend.what[1:]}: reserve and settle over six limits, beside {backend.floor}"
        )
        with backend.bench() as bench:
            if bench.again is not None:
                speed, longest = together(bench.again)
                note += f"; {PROCESSES} processes: {speed:,.0f} calls/s, the longest {longest * 1e3:.0f} ms"
        yield f"{note}."


def main() -> None:
    print(aligned(rows()), *notes(), sep="\n")


if __name__ == "__main__":
    main()
