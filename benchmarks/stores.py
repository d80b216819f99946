"""Quota stores: a reserve + settle pair over six limits, beside the least that its backend can do.

    python -m benchmarks.stores

Floor and pair are measured by turns, in one process; then several processes share one store, where that is what it is
for. Last, what others take for the same six limits (`rivals.py`). Redis and Postgres are started for it;
``SAFE_LLM_TEST_REDIS_URL`` and ``SAFE_LLM_TEST_POSTGRES_URL`` name others to use instead.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from contextlib import closing
from statistics import median
from typing import Any, NamedTuple
from uuid import uuid4

from safe_llm.stores import open_store

from . import rivals
from .backends import BACKENDS, Backend, Bench, charges, pair
from .table import Row, aligned

_ROUNDS = 60
_TURNS = 50
PROCESSES = 4
_SECONDS = 2.0


class Report(NamedTuple):
    rows: list[Row]
    """In microseconds."""
    notes: list[str]
    """What the rows are of, how fast the stores are that processes share, and what others take."""


def report() -> Report:
    """Measure everything."""
    made = Report([], [])
    for backend in BACKENDS:
        with backend.bench() as bench:
            made.rows.extend(_rows(backend, bench))
            made.notes.append(_note(backend, bench))
    made.notes.extend(rivals.notes())
    return made


def _rows(backend: Backend, bench: Bench) -> list[Row]:
    rows = [Row(backend.what, _rounds(lambda: _turn(bench)), "µs", most=backend.most)]
    if bench.reserving is not None:
        rows.append(Row(f"{backend.what}, reserve", _rounds(bench.reserving), "µs", most=backend.most_reserving))
    return rows


def _turn(bench: Bench) -> tuple[float, float]:
    """Seconds of the floor and of a pair."""
    of_call, id = charges(int(time.time())), uuid4().hex
    began = time.perf_counter()
    bench.floor()
    between = time.perf_counter()
    pair(bench.store, of_call, id)
    return between - began, time.perf_counter() - between


def _rounds(turn: Callable[[], tuple[float, float]]) -> list[tuple[float, float]]:
    """Microseconds of both sides, the medians of each round. The first is for connecting and planning."""
    rounds = [[turn() for _ in range(_TURNS)] for _ in range(_ROUNDS + 1)][1:]
    medians = [[median(side) * 1e6 for side in zip(*turns, strict=True)] for turns in rounds]
    return [(bare, ours) for bare, ours in medians]


# Several processes ----------------------------------------------------------------------------------------------------


def _note(backend: Backend, bench: Bench) -> str:
    note = f"{backend.what[0].upper()}{backend.what[1:]}: reserve and settle over six limits, beside {backend.floor}"
    if getattr(bench.store, "blocking", True):
        speed, longest = together(bench.url)
        note += f"; {PROCESSES} processes: {speed:,.0f} pairs/s, the longest {longest * 1e3:.0f} ms"
        if backend.least_shared is not None:
            met = "yes" if speed >= backend.least_shared else "NO"
            note += f" (target ≥ {backend.least_shared:,.0f} pairs/s, met: {met})"
    return f"{note}."


def together(url: str) -> tuple[float, float]:
    """Pairs a second from several processes, and the seconds that the unluckiest pair took."""
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(PROCESSES), context.Queue()
    children = [context.Process(target=_use, args=(url, number, start, answers)) for number in range(PROCESSES)]
    for child in children:
        child.start()
    made, longest = zip(*[answers.get(timeout=60) for _ in children], strict=True)
    for child in children:
        child.join()
    return sum(made) / _SECONDS, max(longest)


def _use(url: str, number: int, start: Any, answers: Any) -> None:
    """Make pairs of a thousand users for a while; answer how many, and the longest."""
    with closing(open_store(url)) as store:
        made, longest = 0, 0.0
        users = [charges(int(time.time()), f"user{number}-{user}") for user in range(250)]
        store.peek(users[0])
        start.wait()
        until = time.perf_counter() + _SECONDS
        while (began := time.perf_counter()) < until:
            pair(store, users[made % len(users)], uuid4().hex)
            made += 1
            longest = max(longest, time.perf_counter() - began)
    answers.put((made, longest))


def main() -> None:
    made = report()
    print(aligned(made.rows), "", *made.notes, sep="\n")


if __name__ == "__main__":
    main()
