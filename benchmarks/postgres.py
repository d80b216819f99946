"""The Postgres store, beside calls of a function that does nothing, on the same server and by turns.

python -m benchmarks.postgres              # starts a server of its own, from the package pgserver
python -m benchmarks.postgres postgresql://user@host/database
"""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from statistics import median
from typing import Any
from uuid import uuid4

from safe_llm import Charge, PostgresQuotaStore, Reservation

from .table import Row, aligned

_ROUNDS = 60
_PAIRS = 30
_SECONDS = 3.0
"""Of the measurement with several processes."""

_MOST = 2**50


@contextmanager
def server() -> Iterator[str]:
    """The URL of a server that lives as long as the context."""
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)  # where pgserver keeps its locks
        import pgserver

        with pgserver.get_server(f"{folder}/data") as running:
            yield running.get_uri()
        atexit.unregister(running._cleanup)  # which would make its folder anew


def turns(url: str) -> list[tuple[float, float, float]]:
    """Seconds of a no-op, of a reservation over six limits, and of its settlement, round by round."""
    schema = f"bench_{uuid4().hex}"
    store = PostgresQuotaStore(url, schema=schema)
    store.peek([])
    with _bare(url) as bare:
        bare.execute(f"create function {schema}.noop() returns integer language plpgsql as 'begin return 1; end'")
        try:
            _round(store, bare, schema, _PAIRS)  # Both sides plan and prepare their statements.
            return [_round(store, bare, schema, _PAIRS) for _ in range(_ROUNDS)]
        finally:
            store.close()
            bare.execute(f"set client_min_messages = error; drop schema {schema} cascade")


@contextmanager
def _bare(url: str) -> Iterator[Any]:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set synchronous_commit = off")
        yield connection


def _round(store: PostgresQuotaStore, bare: Any, schema: str, pairs: int) -> tuple[float, float, float]:
    times: list[tuple[float, float, float]] = []
    for _ in range(pairs):
        charges, id = _charges(int(time.time()), "u"), uuid4().hex
        began = time.perf_counter()
        bare.execute(f"select {schema}.noop()", prepare=True).fetchone()
        idle = time.perf_counter()
        answer = store.reserve(id, charges, 60.0)
        reserved = time.perf_counter()
        assert isinstance(answer, Reservation)
        store.settle(answer, (1, 1, 900, 800, 800, 0))
        times.append((idle - began, reserved - idle, time.perf_counter() - reserved))
    noop, reserve, settle = (median(side) for side in zip(*times, strict=True))
    return noop, reserve, settle


def throughput(url: str, processes: int = 4, *, shared: bool = False) -> float:
    """Pairs a second from several processes of four threads, of users of their own, or of one limit that all share."""
    schema = f"bench_{uuid4().hex}"
    store = PostgresQuotaStore(url, schema=schema, timeout=10)
    store.peek([])
    store.close()
    context = get_context("fork")
    counts = context.SimpleQueue()

    def work() -> None:
        with ThreadPoolExecutor(4) as pool:
            counts.put(sum(pool.map(lambda _: _pairs(store, shared=shared), range(4))))
        store.close()

    running = [context.Process(target=work) for _ in range(processes)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    with _bare(url) as bare:
        bare.execute(f"set client_min_messages = error; drop schema {schema} cascade")
    return sum(counts.get() for _ in running) / _SECONDS


def _pairs(store: PostgresQuotaStore, *, shared: bool) -> int:
    ends, made, user = time.monotonic() + _SECONDS, 0, uuid4().hex
    while time.monotonic() < ends:
        charges = _charges(int(time.time()), user)
        if shared:
            charges[3] = charges[3]._replace(key="app/money/day")
        answer = store.reserve(uuid4().hex, charges, 60.0)
        assert isinstance(answer, Reservation)
        store.settle(answer, (1, 1, 900, 800, 800, 0))
        made += 1
    return made


def _charges(now: int, user: str) -> list[Charge]:
    day = now // 86_400 * 86_400
    return [
        Charge(f"{user}/requests/minute", 1, _MOST, "sliding", now - 60, now + 1),
        Charge(f"{user}/requests/day", 1, _MOST, "fixed", day, day + 86_400),
        Charge(f"{user}/tokens/day", 1000, _MOST, "fixed", day, day + 86_400),
        Charge(f"{user}/money/day", 1000, _MOST, "fixed", day, day + 86_400),
        Charge(f"{user}/money/month", 1000, _MOST, "fixed", day, day + 30 * 86_400),
        Charge(f"{user}/now", 1, 100, "held", now, now + 1),
    ]


def rows(url: str) -> list[Row]:
    """For the table: two calls that do nothing, and a pair."""
    measured = [(noop * 2e6, (reserve + settle) * 1e6) for noop, reserve, settle in turns(url)]
    return [Row("Postgres store", measured, "µs", most=12)]


def main() -> None:
    with server() if len(sys.argv) < 2 else _given(sys.argv[1]) as url:
        measured = turns(url)
        noop, reserve, settle = (median(side) * 1e6 for side in zip(*measured, strict=True))
        print(aligned([Row("Postgres store", [(2e6 * n, 1e6 * (r + s)) for n, r, s in measured], "µs", most=12)]))
        print(f"\nA no-op {noop:.0f} µs, reserve {reserve:.0f} µs, settle {settle:.0f} µs, over six limits.")
        print(f"4 processes of 4 threads: {throughput(url):,.0f} pairs/s, all users their own;")
        print(f"{throughput(url, shared=True):,.0f} pairs/s where all share one limit.")


@contextmanager
def _given(url: str) -> Iterator[str]:
    yield url


if __name__ == "__main__":
    main()
