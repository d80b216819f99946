"""The Postgres store on a real server: the contract, processes, connections that break, and what its tables keep."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from crowds import SharedStore
from histories import STEPS, Now, replay
from hypothesis import HealthCheck, given, settings
from lines import Line

from benchmarks.servers import PostgresServer, with_options
from safe_llm import AsyncSafeOpenAI, RateLimitExceededError, SafeOpenAI
from safe_llm.errors import ConfigurationError
from safe_llm.stores import (
    AsyncPostgresQuotaStore,
    Charge,
    MemoryQuotaStore,
    PostgresQuotaStore,
    Refusal,
    Reservation,
    Tally,
    open_async_store,
    open_store,
)
from safe_llm.testing import FakeClock, FakeOpenAI

DAY = 86_400
NOW = 1_800_000_000
PATIENT = 20.0
"""Seconds: on a busy machine an operation may take longer than it should."""

forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(scope="session")
def url(postgres_url: str) -> str:
    return postgres_url


@pytest.fixture
def schema(url: str) -> Iterator[str]:
    name = f"t_{uuid4().hex}"
    yield name
    with psycopg.connect(url) as connection:
        connection.execute(f"set client_min_messages = error; drop schema if exists {name} cascade")


@pytest.fixture
def store(url: str, schema: str) -> Iterator[PostgresQuotaStore]:
    store = PostgresQuotaStore(url, schema=schema, timeout=PATIENT)
    yield store
    store.close()


def fixed(key: str = "key", amount: int = 1, limit: int = 2**53, day: int = NOW // DAY) -> Charge:
    return Charge(key, amount, limit, "fixed", day * DAY, (day + 1) * DAY)


def in_flight(key: str = "calls", amount: int = 1, limit: int = 2**53) -> Charge:
    return Charge(key, amount, limit, "held", NOW, NOW + 1)


def taken(store: Any, *charges: Charge, ttl: float = 30) -> Reservation:
    answer = store.reserve(uuid4().hex, charges, ttl)
    assert isinstance(answer, Reservation), answer
    return answer


# The contract --------------------------------------------------------------------------------------------------------


class TestPostgresQuotaStore(SharedStore):
    @pytest.fixture(autouse=True)
    def where(self, url: str, schema: str) -> None:
        self.url, self.schema = url, schema

    def make_store(self) -> Any:
        return PostgresQuotaStore(self.url, schema=self.schema, timeout=PATIENT)

    reopen = make_store


class TestAsyncPostgresQuotaStore(TestPostgresQuotaStore):
    def make_store(self) -> Any:
        return AsyncPostgresQuotaStore(self.url, schema=self.schema, timeout=PATIENT)

    reopen = make_store


@given(steps=STEPS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_history_is_answered_as_the_memory_store_answers_it(store: PostgresQuotaStore, steps: list[Any]) -> None:
    """Every answer, tally and wait is the same, with leases that end, late settlements and switches."""
    now = store.clock = Now()
    replay(steps, now, store, MemoryQuotaStore(clock=now), name=uuid4().hex)


STRANGE = [
    "",
    "\0",
    "\0\0",
    "\\0",
    "\ud800",
    "é",
    "e\u0301",
    "ключ 🔑" * 500,
    "ключ 🔑" * 501,
    "'; drop table x; --",
    "{%s}",
]


def test_keys_and_ids_may_be_long_and_hold_anything(store: PostgresQuotaStore) -> None:
    """Each is a counter and a reservation of its own."""
    for key in STRANGE:
        answer = store.reserve(key, [fixed(key, limit=1)], 30)
        assert isinstance(answer, Reservation)
        assert store.reserve(key, [], 30) == answer
        assert store.reserve(f"{key} again", [fixed(key, limit=1)], 30)[:3] == (0, 0, 1)
        assert store.settle(answer, [1]) is True
    assert store.peek([fixed(key) for key in STRANGE]) == [Tally(1, 0)] * len(STRANGE)


def test_leases_follow_the_server_s_clock_unless_one_was_chosen(url: str, schema: str) -> None:
    """A client offers its own, and the constructor's comes before it."""
    clock = FakeClock()
    store = PostgresQuotaStore(url, schema=schema)
    assert abs(taken(store).expires - time.time() - 30) < 10
    store.follow(clock.time)
    assert taken(store).expires == clock.time() + 30
    store.close()
    chosen = PostgresQuotaStore(url, schema=schema, clock=lambda: 5.0)
    chosen.follow(clock.time)
    assert taken(chosen).expires == 35.0
    chosen.close()


# Processes and threads -----------------------------------------------------------------------------------------------


def in_processes(work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What four processes, started at once, come to."""
    context = get_context("fork")
    answers = context.SimpleQueue()
    processes = [context.Process(target=lambda: answers.put(work(*arguments))) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    return [answers.get() for _ in processes]


def begin(url: str, schema: str) -> int:
    """Open a store on tables that are not there yet."""
    store = PostgresQuotaStore(url, schema=schema)
    used = store.peek([fixed()])[0].used
    store.close()
    return used


@forks
def test_four_processes_that_start_at_once_make_the_tables_once(url: str, schema: str) -> None:
    """Each finds them whole, and none fails."""
    assert in_processes(begin, url, schema) == [0, 0, 0, 0]
    with psycopg.connect(url) as connection:
        assert connection.execute(f"select version from {schema}.version").fetchall() == [(1,)]


def test_calls_that_share_counters_in_any_order_do_not_deadlock(url: str, schema: str) -> None:
    """Eight threads over the same four limits, shuffled, while leases end and old rows are swept away."""
    stores = [PostgresQuotaStore(url, schema=schema, timeout=PATIENT) for _ in range(2)]
    keys = ["a", "b", "c", "d"]

    def work(thread: int) -> int:
        dice, store = random.Random(thread), stores[thread % 2]
        for _ in range(60):
            asked = [fixed(key) for key in dice.sample(keys, 3)] + [in_flight(key) for key in dice.sample(keys, 2)]
            answer = store.reserve(uuid4().hex, asked, dice.choice([0.0, 0.005, 30]))
            assert isinstance(answer, Reservation)
            if dice.random() < 0.8:
                assert store.settle(answer, [1, 1, 1, 0, 0]) is True
            else:
                store.peek([fixed(dice.choice(keys))])
        return 60

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 480
    assert sum(sum(tally) for tally in stores[0].peek([fixed(key) for key in keys])) == 3 * 480
    for store in stores:
        store.close()


def test_an_event_loop_that_ends_while_connections_are_being_made_ends(url: str, schema: str) -> None:
    """A program that forgets to close its client is not kept from leaving."""
    store = AsyncPostgresQuotaStore(url, schema=schema)

    async def leave(steps: int) -> None:
        await store.peek([])
        calls = [asyncio.create_task(store.peek([fixed()])) for _ in range(3)]
        for _ in range(steps):
            await asyncio.sleep(0)
        assert not any(call.done() and call.exception() for call in calls)

    for steps in range(1, 25):
        thread = threading.Thread(target=lambda steps=steps: asyncio.run(leave(steps)), daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()


def test_fifty_tasks_share_a_cap_to_the_last_unit(url: str, schema: str) -> None:
    """More tasks than connections; one that is cancelled leaves the others theirs."""

    async def work() -> tuple[int, Sequence[Tally]]:
        store = AsyncPostgresQuotaStore(url, schema=schema, max_connections=4)
        await store.peek([])

        async def use() -> int:
            answers = [await store.reserve(uuid4().hex, [fixed(limit=120)], 30) for _ in range(4)]
            return sum(isinstance(answer, Reservation) for answer in answers)

        tasks = [asyncio.create_task(use()) for _ in range(50)]
        doomed = [asyncio.create_task(store.peek([fixed()])) for _ in range(20)]
        await asyncio.sleep(0.01)
        for task in doomed:
            task.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)
        admitted = sum(await asyncio.gather(*tasks))
        tallies = await store.peek([fixed()])
        await store.close()
        return admitted, tallies

    assert asyncio.run(work()) == (120, [Tally(0, 120)])


# A server that is away -----------------------------------------------------------------------------------------------


class Driven:
    """A store of either colour, asked from a test that is not async."""

    def __init__(self, kind: str, url: str, **options: Any) -> None:
        self.runner = asyncio.Runner()
        self.store: Any = {"sync": PostgresQuotaStore, "async": AsyncPostgresQuotaStore}[kind](url, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            result = getattr(self.store, name)(*arguments)
            return self.runner.run(result) if inspect.iscoroutine(result) else result

        return call


@pytest.fixture(params=["sync", "async"])
def driven(request: pytest.FixtureRequest) -> Iterator[Callable[..., Driven]]:
    made: list[Driven] = []

    def make(url: str, **options: Any) -> Driven:
        made.append(Driven(request.param, url, **options))
        return made[-1]

    yield make
    for store in made:
        store.close()
        store.runner.close()


def test_a_server_that_was_restarted_is_found_again_by_the_next_operation(
    own_postgres: PostgresServer, schema: str, driven: Callable[..., Driven], caplog: pytest.LogCaptureFixture
) -> None:
    """All connections are dead by then. While it is away each operation fails at once, and says why."""
    store = driven(own_postgres.url, schema=schema)
    reservation = store.reserve("id", [fixed()], 30)
    own_postgres.stop()
    try:
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(psycopg.OperationalError, match=r"connection (to server|failed|is bad)"):
                store.reserve("other", [fixed()], 30)
            assert time.monotonic() - began < 1
    finally:
        own_postgres.start()
    assert store.settle(reservation, [3]) is True
    assert store.peek([fixed()]) == [Tally(3, 0)]


def test_connections_that_broke_unnoticed_cost_no_operation(
    url: str, schema: str, driven: Callable[..., Driven]
) -> None:
    """It is done on a new one."""
    store = driven(url, schema=schema)
    for _ in range(3):
        store.reserve(uuid4().hex, [fixed()], 30)
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'safe_llm'")
    assert store.peek([fixed()]) == [Tally(0, 3)]


def test_an_operation_whose_answer_got_lost_is_done_once(
    own_postgres: PostgresServer, schema: str, driven: Callable[..., Driven]
) -> None:
    """The line is cut when the server has done it. Trying again finds it done, and answers as it would have."""
    line = Line(own_postgres.url)
    store = driven(line.url, schema=schema)
    store.peek([])
    line.cut_next(b"900719925474")
    reservation = store.reserve("id", [fixed(limit=900719925474)], 30)
    assert line.was_cut.is_set()
    assert store.peek([fixed()]) == [Tally(0, 1)]
    line.cut_next(b"{12345}")
    assert store.settle(reservation, [12345]) is True
    assert line.was_cut.is_set()
    assert store.settle(reservation, [12345]) is False
    assert store.peek([fixed()]) == [Tally(12345, 0)]
    line.close()


def test_a_server_that_hangs_is_given_up(
    own_postgres: PostgresServer, schema: str, driven: Callable[..., Driven]
) -> None:
    """In the midst of an operation, and while connecting; afterwards all is well."""
    store = driven(own_postgres.url, schema=schema, timeout=0.3)
    store.reserve("id", [fixed()], 30)
    with own_postgres.hanging():
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError, match="did not answer within"):
            store.peek([fixed()])
        assert time.monotonic() - began < 2
        with pytest.raises(psycopg.OperationalError):
            store.peek([fixed()])
        assert time.monotonic() - began < 5
    assert store.peek([fixed()]) == [Tally(0, 1)]


def test_a_server_that_is_slow_ends_the_operation_itself(url: str, schema: str, driven: Callable[..., Driven]) -> None:
    """Here because another session keeps a counter to itself."""
    store = driven(url, schema=schema, timeout=0.2)
    store.peek([])
    with psycopg.connect(url) as other:
        other.execute(f"select pg_advisory_xact_lock('{schema}.counters'::regclass::bigint)")
        with pytest.raises(psycopg.errors.QueryCanceled):
            store.reserve("id", [fixed()], 30)
    assert isinstance(store.reserve("id", [fixed()], 30), Reservation)


def error_of(store: Any) -> str:
    """The name of what a look at it raises."""
    with pytest.raises(psycopg.Error) as caught:
        store.peek([fixed()])
    return type(caught.value).__name__


def test_more_calls_than_connections_wait_no_longer_than_an_operation_may_take(url: str, schema: str) -> None:
    """The others have failed by then, too; afterwards the same connection serves."""
    store = PostgresQuotaStore(url, schema=schema, timeout=0.3, max_connections=1)
    store.peek([])
    with psycopg.connect(url) as other, ThreadPoolExecutor(4) as pool:
        other.execute(f"select pg_advisory_xact_lock('{schema}.counters'::regclass::bigint)")
        assert {"QueryCanceled", "PoolTimeout"} == set(pool.map(error_of, [store] * 4))
    assert store.peek([fixed()]) == [Tally(0, 0)]
    store.close()


def test_calls_do_not_queue_up_before_a_port_that_says_nothing() -> None:
    """One attempts to connect, and the others wait for that no longer than for anything else."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(4) as pool:
        store = PostgresQuotaStore(f"postgresql://user@127.0.0.1:{listener.getsockname()[1]}/db", timeout=0.2)
        began = time.monotonic()
        errors = sorted(pool.map(error_of, [store] * 4))
        assert errors == ["ConnectionTimeout", "PoolTimeout", "PoolTimeout", "PoolTimeout"]
        assert time.monotonic() - began < 4


def test_a_port_where_nobody_listens_is_an_error_at_once_without_the_password(
    driven: Callable[..., Driven], caplog: pytest.LogCaptureFixture
) -> None:
    """It names the address, and neither it nor a log or a representation shows the password."""
    caplog.set_level(logging.DEBUG)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    store = driven(f"postgresql://user:hunter2@127.0.0.1:{port}/db")
    began = time.monotonic()
    with pytest.raises(psycopg.OperationalError, match=str(port)) as caught:
        store.peek([fixed()])
    assert time.monotonic() - began < 1
    shown = [str(caught.value), repr(caught.value), caplog.text, repr(store.store), repr(store.store._database)]
    assert "hunter2" not in "".join(shown)


def test_a_port_that_says_nothing_is_given_up(driven: Callable[..., Driven]) -> None:
    """The connection is taken, and no word comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        store = driven(f"postgresql://user@127.0.0.1:{listener.getsockname()[1]}/db", timeout=0.5)
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError):
            store.peek([fixed()])
        assert time.monotonic() - began < 4


# Tables --------------------------------------------------------------------------------------------------------------


def test_tables_of_a_newer_release_are_refused(url: str, schema: str, driven: Callable[..., Driven]) -> None:
    """The error names the schema and both versions, and the tables are left alone."""
    PostgresQuotaStore(url, schema=schema).close()
    begin(url, schema)
    with psycopg.connect(url) as connection:
        connection.execute(f"update {schema}.version set version = 7")
    with pytest.raises(ConfigurationError, match=f"{schema} have version 7, .* up to 1. Update safe_llm here"):
        driven(url, schema=schema).reserve("id", [fixed()], 30)


def rows(url: str, schema: str, table: str = "counters") -> int:
    with psycopg.connect(url) as connection:
        found = connection.execute(f"select count(*) from {schema}.{table}").fetchone()
    assert found is not None
    return int(found[0])


def test_what_takes_nothing_leaves_no_row(url: str, schema: str, store: PostgresQuotaStore) -> None:
    """Charges of 0, refusals and looks; and calls in flight, once nobody is."""
    for charge in (fixed(), in_flight(), Charge("s", 1, 2**53, "sliding", NOW - 60, NOW + 1)):
        store.settle(taken(store, charge._replace(amount=0)), [0])
        assert isinstance(store.reserve(uuid4().hex, [charge, charge._replace(limit=0)], 30), Refusal)
        store.peek([charge])
    store.settle(taken(store, in_flight()), [0])
    assert (rows(url, schema), rows(url, schema, "in_flight")) == (0, 0)
    assert rows(url, schema, "reservations") == 4


def test_tables_stay_bounded(url: str, schema: str, store: PostgresQuotaStore) -> None:
    """Windows, slices and reservations of the past go while work goes on; every seventh call never settles."""
    now = float(NOW)
    store.clock = lambda: now
    most = [0, 0]
    for number in range(1_500):
        now += 5_000
        second = int(now)
        asked = [
            Charge("minute", 1, 2**53, "sliding", second - 60, second + 1),
            fixed(f"user {number}", day=second // DAY),
            in_flight(),
        ]
        reservation = taken(store, *asked)
        if number % 7:
            store.settle(reservation, [1, 1, 0])
        if number % 100 == 99:
            most = [max(most[0], rows(url, schema)), max(most[1], rows(url, schema, "reservations"))]
    assert most[0] < 1_000
    assert most[1] < 700
    assert rows(url, schema, "in_flight") <= 1


@pytest.mark.parametrize("off", [-1_000 * DAY, 1_000 * DAY])
def test_a_wrong_clock_alone_wipes_nothing(url: str, schema: str, store: PostgresQuotaStore, off: int) -> None:
    """The store's clock, or a client's, may be years off while others still count."""
    now = float(NOW)
    store.clock = lambda: now
    store.settle(taken(store, fixed()), [1])
    for number in range(200):
        taken(store, fixed(f"{number}", day=(NOW + off) // DAY))
    now += off
    for number in range(200):
        taken(store, fixed(f"again {number}"))
    assert store.peek([fixed()]) == [Tally(1, 0)]


# URLs and arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "POSTGRES"])
def test_a_url_opens_a_store_of_either_colour(url: str, schema: str, scheme: str) -> None:
    """Its parameters choose the schema and the rest, beside those of libpq."""
    address = f"{scheme}{url.removeprefix('postgresql')}{'&' if '?' in url else '?'}schema={schema}&timeout=7.5"
    store = open_store(f"{address}&synchronous_commit=on&application_name=mine&max_connections=3")
    assert isinstance(store, PostgresQuotaStore)
    taken(store, fixed())

    async def look() -> Sequence[Tally]:
        other = open_async_store(address)
        assert isinstance(other, AsyncPostgresQuotaStore)
        tallies = await other.peek([fixed()])
        await other.close()
        return tallies

    assert asyncio.run(look()) == [Tally(0, 1)]
    assert setting(store, "synchronous_commit") == "on"
    assert setting(store, "application_name") == "mine"
    assert setting(store, "statement_timeout") == "7500ms"
    store.close()


def setting(store: PostgresQuotaStore, name: str) -> str:
    value: str = store._database.drive(store._database.call("select current_setting(%s)", (name,)))
    return value


def test_commits_are_asynchronous_by_default_and_operations_short(url: str, schema: str) -> None:
    """Two seconds at most."""
    store = PostgresQuotaStore(url, schema=schema)
    assert (setting(store, "synchronous_commit"), setting(store, "statement_timeout")) == ("off", "2s")
    store.close()


@pytest.mark.parametrize("open", [open_store, open_async_store])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://user:hunter2%zz@host/db", "cannot be read"),
        ("postgresql://user:hunter2@[host/db", "cannot be read"),
        ("postgresql://user:hunter2/1@host/db", "cannot be read"),
        ("postgresql://user:1/hunter2@host/db", "cannot be read"),
        ("postgresql://user:1@hunter2@host/db", "cannot be read"),
        ("postgresql://user:hunter2@host/db?colour=red", "cannot be read"),
        ("postgresql://user:hunter2@host/db?schema=Robert'); drop", "schema is a name"),
        ("postgresql://user:hunter2@host/db?timeout=soon", "timeout=soon"),
        ("postgresql://user:hunter2@host/db?timeout=0", "timeout is a number"),
        ("postgresql://user:hunter2@host/db?synchronous_commit=maybe", "synchronous_commit=maybe"),
        ("postgresql://user:hunter2@host/db?max_connections=0", "max_connections is a number"),
    ],
)
def test_a_url_that_cannot_be_read_is_explained_without_its_password(open: Any, url: str, said: str) -> None:
    """When the store is opened, not at its first use."""
    with pytest.raises(ConfigurationError, match=said) as caught:
        open(url)
    assert "hunter2" not in f"{caught.value}{caught.value.__cause__}"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


# Under a client ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", [SafeOpenAI, AsyncSafeOpenAI])
def test_a_client_counts_in_postgres(url: str, schema: str, client: Any) -> None:
    """By its URL, through the whole path, and the next client finds what this one used."""
    policy = {"plans": {"default": {"limits": ["2 requests/day", "4 concurrent"]}}}
    address = with_options(url, schema=schema)
    ask: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}], "user_id": "u1"}

    async def done(value: Any) -> Any:
        return await value if inspect.isawaitable(value) else value

    async def call(server: FakeOpenAI) -> None:
        guarded = client(base_url=server.base_url, api_key="k", quota_store=address, policy=policy, sinks=[])
        try:
            await done(guarded.chat.completions.create(**ask))
        finally:
            await done(guarded.close())

    with FakeOpenAI() as server:
        for _ in range(2):
            asyncio.run(call(server))
        with pytest.raises(RateLimitExceededError):
            asyncio.run(call(server))
        assert server.count == 2
