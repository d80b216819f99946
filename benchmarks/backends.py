"""The quota stores that are measured, each with the least that a call can cost it. A new one is one function here, and
one entry in `BACKENDS`."""

from __future__ import annotations

import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from typing import Any, NamedTuple
from uuid import uuid4

from safe_llm.stores import Charge, QuotaStore, RedisQuotaStore, Reservation, open_store

from .servers import given_postgres, given_redis, postgres_server, redis_server, with_options

ACTUAL = (1, 1, 900, 800, 800, 0)
"""What is used in the end of the charges of a call."""


class Bench(NamedTuple):
    """A store, and its floor."""

    url: str
    store: QuotaStore
    floor: Callable[[], object]
    """The least that a pair costs: two steps of this backend, of something that keeps no counters only one change."""
    reserving: Callable[[], tuple[float, float]] | None = None
    """Seconds of a step that does nothing and of a reservation, where these are compared by themselves too."""


class Backend(NamedTuple):
    what: str
    floor: str
    bench: Callable[[], Any]
    """A context that yields a `Bench`."""
    most: float | None = None
    """The largest ratio of pair to floor that is aimed at."""
    most_reserving: float | None = None
    least_shared: float | None = None
    """The smallest number of pairs a second, from several processes, that is aimed at."""


def charges(now: int, user: str = "u1") -> list[Charge]:
    """Those of one call under six limits, none of which is ever reached."""
    most, who = 2**50, f"{len(user)}:{user}"
    day = now // 86_400 * 86_400
    return [
        Charge(f"plan/default/requests/minute/{who}", 1, most, "sliding", now - 60, now + 1),
        Charge(f"plan/default/requests/day/{who}", 1, most, "fixed", day, day + 86_400),
        Charge(f"plan/default/tokens/day/{who}", 1000, most, "fixed", day, day + 86_400),
        Charge(f"plan/default/usd/day/{who}", 1000, most, "fixed", day, day + 86_400),
        Charge(f"plan/default/usd/month/{who}", 1000, most, "fixed", day, day + 30 * 86_400),
        Charge(f"plan/default/concurrent/{who}", 1, most, "held", now, now + 1),
    ]


def pair(store: QuotaStore, of_call: list[Charge], id: str) -> None:
    """Reserve and settle."""
    answer = store.reserve(id, of_call, 60.0)
    assert isinstance(answer, Reservation)
    store.settle(answer, ACTUAL)


@contextmanager
def _memory() -> Iterator[Bench]:
    lock, counts = threading.Lock(), dict.fromkeys(range(6), 0)

    def floor() -> None:
        with lock:
            for key in counts:
                counts[key] += 1

    yield Bench("memory://", open_store("memory://"), floor)


@contextmanager
def _sqlite() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/quotas.db"
        with (
            closing(sqlite3.connect(f"{folder}/floor.db", isolation_level=None)) as db,
            closing(open_store(url)) as store,
        ):
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("CREATE TABLE floor (number INTEGER PRIMARY KEY, text TEXT)")

            def floor() -> None:
                for _ in range(2):
                    db.execute("BEGIN IMMEDIATE")
                    db.execute("INSERT INTO floor (text) VALUES ('x')")
                    db.execute("COMMIT")

            yield Bench(url, store, floor)


@contextmanager
def _redis() -> Iterator[Bench]:
    import redis

    with ExitStack() as stack:
        url = given_redis() or stack.enter_context(redis_server()).url
        client = stack.enter_context(redis.Redis.from_url(url))
        url = with_options(url, namespace=f"bench.{uuid4().hex}")
        store = stack.enter_context(closing(RedisQuotaStore(url)))
        nothing, numbers = client.script_load("return 1"), count()

        def idle(question: Any) -> None:
            client.execute_command("EVALSHA", nothing, *question.by_hash[2:])

        asked = store._reserving(uuid4().hex, charges(int(time.time())), 60.0)
        answer = store._ask(asked)
        assert isinstance(answer, Reservation)
        settling = store._settling(answer, ACTUAL)

        def floor() -> None:
            idle(asked)
            idle(settling)

        def reserving() -> tuple[float, float]:
            asked = store._reserving(f"{next(numbers):032}", charges(int(time.time())), 60.0)
            began = time.perf_counter()
            idle(asked)
            between = time.perf_counter()
            answer = store._ask(asked)
            ended = time.perf_counter()
            assert isinstance(answer, Reservation)
            store.settle(answer, ACTUAL)
            return between - began, ended - between

        yield Bench(url, store, floor, reserving)


@contextmanager
def _postgres() -> Iterator[Bench]:
    import psycopg

    with ExitStack() as stack:
        address = given_postgres() or stack.enter_context(postgres_server()).url
        schema = f"bench_{uuid4().hex}"
        url = with_options(address, schema=schema, timeout=10)
        bare = stack.enter_context(psycopg.connect(address, autocommit=True))
        stack.callback(bare.execute, f"drop schema if exists {schema} cascade")
        bare.execute("set client_min_messages = error; set synchronous_commit = off")
        store = stack.enter_context(closing(open_store(url)))
        store.peek([])
        bare.execute(f"create function {schema}.noop() returns integer language plpgsql as 'begin return 1; end'")

        def floor() -> None:
            for _ in range(2):
                bare.execute(f"select {schema}.noop()", prepare=True).fetchone()

        yield Bench(url, store, floor)


BACKENDS = (
    Backend("memory store", "a lock and six increments", _memory),
    Backend("SQLite store", "two transactions of one insert", _sqlite, most=5, least_shared=4_000),
    Backend("Redis store", "two scripts that return 1, sent the same", _redis, most_reserving=1.6),
    Backend("Postgres store", "two calls of a function that returns 1", _postgres, most=12),
)
