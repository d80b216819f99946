"""Where each quota store ends: pairs of reserve and settle over six limits, from one, two and four processes.

    python -m benchmarks.ceilings                      # everything; about five minutes
    python -m benchmarks.ceilings redis sqlite         # those whose names begin so

Calls are those of users of their own; then the same, with one of the six limits, the day's money, shared by all; last,
that shared limit alone.
CPU time says more than speed: it is what is left of a figure when clients have machines of their own, and it hardly
depends on what else this machine does. That is shown too, as the CPUs that others took; of several runs the one that
was disturbed least is kept.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from itertools import chain, product
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple
from uuid import uuid4

import psutil

from safe_llm.stores import Charge, Reservation, open_store

from .backends import ACTUAL, charges
from .servers import postgres_server, redis_server, with_options

_SECONDS = 1.5
_RUNS = 2
_USERS = 250  # Of each thread.
PROCESSES = (1, 2, 4)


class Meter(NamedTuple):
    """What a server has taken so far: seconds of CPU, bytes sent or logged, bytes that it keeps."""

    cpu: float = 0
    traffic: int = 0
    kept: int = 0


class Place(NamedTuple):
    url: str
    meter: Callable[[], Meter]


class Setup(NamedTuple):
    """A store, how it is used, and what `Meter.traffic` counts."""

    what: str
    place: Callable[[], Any]
    """A context that yields a `Place`."""
    traffic: str = "–"
    threads: int = 1
    """Of each process."""


@contextmanager
def _memory() -> Iterator[Place]:
    yield Place("memory://", Meter)


@contextmanager
def _sqlite() -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "quotas.db")
        yield Place(f"sqlite:///{file}", lambda: Meter(kept=file.stat().st_size if file.exists() else 0))


@contextmanager
def _redis(*options: str) -> Iterator[Place]:
    with redis_server(*options) as server, server.client() as client:

        def meter() -> Meter:
            told = client.info("everything")
            cpu = told["used_cpu_user"] + told["used_cpu_sys"]
            return Meter(cpu, told["total_net_input_bytes"] + told["total_net_output_bytes"], told["used_memory"])

        yield Place(with_options(server.url, namespace="bench"), meter)


@contextmanager
def _postgres(synchronous_commit: str) -> Iterator[Place]:
    import psycopg

    with ExitStack() as stack:
        server = stack.enter_context(postgres_server())
        bare = stack.enter_context(psycopg.connect(server.url, autocommit=True))
        main = psutil.Process(bare.info.backend_pid).parent()
        assert main is not None

        def meter() -> Meter:
            asked = "select pg_current_wal_insert_lsn() - '0/0', pg_database_size(current_database())"
            logged, kept = bare.execute(asked).fetchone() or (0, 0)
            cpu = sum(sum(process.cpu_times()[:2]) for process in main.children()) + sum(main.cpu_times()[:4])
            return Meter(cpu, int(logged), kept)

        yield Place(with_options(server.url, synchronous_commit=synchronous_commit, timeout=20), meter)


SETUPS = (
    Setup("memory", _memory),
    Setup("memory, 4 threads", _memory, threads=4),
    Setup("sqlite", _sqlite),
    Setup("redis", _redis, "sent", threads=4),
    Setup("redis, append-only file", lambda: _redis("--appendonly", "yes"), "sent", threads=4),
    Setup("postgres", lambda: _postgres("off"), "logged", threads=4),
    Setup("postgres, synchronous commit", lambda: _postgres("on"), "logged", threads=4),
)


class Run(NamedTuple):
    """Of pairs: how many a second, microseconds of CPU at both ends, and bytes; how long they took, in milliseconds."""

    speed: float
    client: float
    server: float
    traffic: float
    kept: float
    slow: float
    """What one of a hundred exceeds."""
    longest: float
    others: float
    """CPUs that everything else on this machine took meanwhile."""


def measure(place: Place, threads: int, processes: int, limits: str) -> Run:
    """The run that others disturbed least."""
    return min((_run(place, threads, processes, limits) for _ in range(_RUNS)), key=lambda run: run.others)


def _run(place: Place, threads: int, processes: int, limits: str) -> Run:
    context = multiprocessing.get_context("spawn")
    line, answers = context.Barrier(processes + 1), context.Queue()
    given = place.url, threads, limits, line, answers
    children = [context.Process(target=_use, args=given) for _ in range(processes)]
    for child in children:
        child.start()
    line.wait(60)  # All are connected.
    before, busy = place.meter(), _busy()
    line.wait(60)
    line.wait(60)  # All have ended, and are still connected.
    after, busy = place.meter(), _busy() - busy
    line.wait(60)
    told = [answers.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    client = sum(cpu for cpu, _, _ in told)
    taken = [seconds for _, _, each in told for seconds in each]
    cpu, traffic, kept = (now - then for now, then in zip(after, before, strict=True))
    if place.url.startswith("memory"):
        kept = sum(grown for _, grown, _ in told)
    pairs = len(taken)
    return Run(
        speed=pairs / _SECONDS,
        client=client / pairs * 1e6,
        server=cpu / pairs * 1e6,
        traffic=traffic / pairs,
        kept=kept / pairs,
        slow=quantiles(taken, n=100)[-1] * 1e3,
        longest=max(taken) * 1e3,
        others=max(0.0, busy - client - cpu) / _SECONDS,
    )


def _busy() -> float:
    """CPU seconds that this machine has worked."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


def _use(url: str, threads: int, limits: str, line: Any, answers: Any) -> None:
    """One process: make pairs for a while; answer the seconds of CPU, the bytes it grew, and what each pair took."""
    process = psutil.Process()
    with closing(open_store(url)) as store, ThreadPoolExecutor(threads) as pool:

        def work(until: float) -> list[float]:
            users = [_charges(uuid4().hex, limits) for _ in range(_USERS)]
            actual = ACTUAL if len(users[0]) > 1 else ACTUAL[3:4]
            store.peek(users[0])
            taken: list[float] = []
            while (began := time.perf_counter()) < until:
                answer = store.reserve(uuid4().hex, users[len(taken) % _USERS], 60.0)
                assert isinstance(answer, Reservation)
                store.settle(answer, actual)
                taken.append(time.perf_counter() - began)
            return taken

        list(pool.map(work, [0.0] * threads))  # connects, and plans
        line.wait(60)
        line.wait(60)
        size, cpu, until = process.memory_info().rss, time.process_time(), time.perf_counter() + _SECONDS
        taken = [seconds for each in pool.map(work, [until] * threads) for seconds in each]
        cpu, grown = time.process_time() - cpu, process.memory_info().rss - size
        line.wait(60)
        line.wait(60)
        answers.put((cpu, grown, taken))


def _charges(user: str, limits: str) -> list[Charge]:
    own = charges(int(time.time()), user)
    shared = own[3]._replace(key="app/usd/day")
    return {"own": own, "one shared": [*own[:3], shared, *own[4:]], "shared alone": [shared]}[limits]


# The table ------------------------------------------------------------------------------------------------------------

_HEADER = (
    "store",
    "processes",
    "limits",
    "pairs/s",
    "client µs",
    "server µs",
    "99 % ms",
    "longest",
    "others",
    "bytes",
    "kept",
)


def _rows(setup: Setup) -> Iterator[tuple[str, ...]]:
    counts = PROCESSES if setup.place is not _memory else PROCESSES[:1]
    with setup.place() as place:
        for processes, limits in [*product(counts, ("own", "one shared")), (counts[-1], "shared alone")]:
            run = measure(place, setup.threads, processes, limits)
            yield (
                setup.what,
                str(processes),
                limits,
                f"{run.speed:,.0f}",
                f"{run.client:.0f}",
                f"{run.server:.0f}" if run.server else "–",
                f"{run.slow:.2f}",
                f"{run.longest:.0f}",
                f"{run.others:.1f}",
                f"{run.traffic:,.0f} {setup.traffic}" if run.traffic else "–",
                f"{run.kept:,.0f}" if run.kept else "–",
            )


def main() -> None:
    chosen = [setup for setup in SETUPS if setup.what.startswith(tuple(sys.argv[1:]) or "")]
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} CPUs\n")
    rule = ("---", *["---:"] * (len(_HEADER) - 1))
    for cells in chain((_HEADER, rule), *map(_rows, chosen)):
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
