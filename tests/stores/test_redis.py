"""What the Redis stores count, against a real server: the contract, the memory store as oracle, keys, scripts and URLs."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
import redis
from crowds import SharedStore
from histories import STEPS, SWITCH, Now, replay
from hypothesis import given, settings

import safe_llm
from benchmarks.servers import RedisServer, with_options
from safe_llm import (
    AsyncRedisQuotaStore,
    Charge,
    ConfigurationError,
    MemoryQuotaStore,
    RedisQuotaStore,
    Refusal,
    Reservation,
)
from safe_llm.stores import open_async_store, open_store
from safe_llm.testing import FakeClock

DAY = 86_400


class TestRedisQuotaStore(SharedStore):
    @pytest.fixture(autouse=True)
    def _server(self, patient_redis_url: str) -> None:
        self.url, self.namespace = patient_redis_url, uuid4().hex

    def make_store(self) -> Any:
        return RedisQuotaStore(self.url, namespace=self.namespace)

    reopen = make_store


class TestAsyncRedisQuotaStore(TestRedisQuotaStore):
    def make_store(self) -> Any:
        return AsyncRedisQuotaStore(self.url, namespace=self.namespace)

    reopen = make_store


class TestOnValkey(TestRedisQuotaStore):
    @pytest.fixture(autouse=True)
    def _server(self, patient_valkey_url: str) -> None:
        self.url, self.namespace = patient_valkey_url, uuid4().hex


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(int(time.time()) // DAY * DAY + DAY / 2)


@pytest.fixture
def make(redis_url: str) -> Iterator[Callable[..., RedisQuotaStore]]:
    """Makes stores of one fresh namespace."""
    namespace, made = uuid4().hex, []

    def make(**options: Any) -> RedisQuotaStore:
        made.append(RedisQuotaStore(redis_url, **{"namespace": namespace, **options}))
        return made[-1]

    yield make
    for store in made:
        store.close()


def of_day(now: float, amount: int = 1, limit: int = 1_000_000, key: str = "day") -> Charge:
    day = int(now) // DAY * DAY
    return Charge(key, amount, limit, "fixed", day, day + DAY)


def of_minute(now: float, amount: int = 1, limit: int = 1_000_000) -> Charge:
    return Charge("minute", amount, limit, "sliding", int(now) - 60, int(now) + 1)


def in_flight(now: float, amount: int = 1, limit: int = 1_000_000) -> Charge:
    return Charge("calls", amount, limit, "held", int(now), int(now) + 1)


def taken(store: RedisQuotaStore, *charges: Charge, ttl: float = 30) -> Reservation:
    answer = store.reserve(uuid4().hex, charges, ttl)
    assert isinstance(answer, Reservation), answer
    return answer


# The algorithm --------------------------------------------------------------------------------------------------------


@given(steps=STEPS)
@settings(max_examples=60, deadline=None)
def test_any_history_is_answered_as_the_memory_store_answers_it(redis_url: str, steps: list[Any]) -> None:
    """Every answer, tally and wait is the same, by clients whose clocks differ a little."""
    now = Now()
    store = RedisQuotaStore(redis_url, namespace=uuid4().hex, clock=now)
    replay(steps, now, store, MemoryQuotaStore(clock=now))
    store.close()


def test_many_leases_at_once_are_counted_to_the_last_unit(make: Any, clock: FakeClock) -> None:
    """Beyond those whose ends a counter tells apart, who fits is exact, and so is what is used in the end."""
    store, chance, now = make(clock=clock.time), random.Random(4), clock.time()
    charges = [of_day(now, 3, limit=1_500), of_minute(now, 3), in_flight(now, 1, limit=500)]
    open_ = [taken(store, *charges, ttl=30 + chance.random() * 20) for _ in range(500)]
    assert isinstance(store.reserve("one more", charges, 30), Refusal)
    assert store.peek(charges) == [(0, 1_500), (0, 1_500), (0, 500)]
    chance.shuffle(open_)
    for reservation in open_[:250]:
        assert store.settle(reservation, [1, 2, 0]) is True
    assert store.peek(charges) == [(250, 750), (500, 750), (0, 250)]
    clock.advance(50)
    assert store.peek(charges) == [(1_000, 0), (1_250, 0), (0, 0)]
    for reservation in open_[250:]:
        assert store.settle(reservation, [1, 2, 0]) is True
    assert store.peek(charges) == [(500, 0), (1_000, 0), (0, 0)]


def test_a_reservation_is_told_by_its_id_alone(make: Any, clock: FakeClock) -> None:
    """With no charges, the stored answer is asked for, before and after the settlement."""
    store = make(clock=clock.time)
    first = taken(store, of_day(clock.time(), 2), in_flight(clock.time()))
    assert store.reserve(first.id, [], 1) == first
    assert store.settle(first, [1, 0]) is True
    assert store.reserve(first.id, [], 1) == first


def test_leases_follow_the_servers_clock_unless_one_was_chosen(
    make: Any, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose own clock is off does not end the leases of others."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: 5.0)
    assert abs(taken(make(), of_day(now), ttl=30).expires - now - 30) < 20
    followed = make()
    followed.follow(clock.time)
    assert taken(followed, of_day(now), ttl=30).expires == clock.time() + 30


@pytest.mark.parametrize("off", [-40 * DAY, 40 * DAY])
def test_a_client_whose_clock_is_far_off_is_held_to_its_limit(make: Any, off: int) -> None:
    """What it counts in does not expire at once, only because the server takes it to be over."""
    store, now = make(), time.time() + off
    for charge in (of_day(now, limit=1), of_minute(now, limit=1)):
        store.settle(taken(store, charge), [1])
        assert store.reserve("more", [charge], 30)[:3] == (0, 1, 0)


# Keys -----------------------------------------------------------------------------------------------------------------


def test_every_key_lies_under_the_hash_tag_and_expires_soon_after_it_has_counted(
    make: Any, client: redis.Redis
) -> None:
    """A window's at its end and two minutes, a lease's and a reservation's likewise."""
    store, now = make(namespace="Some.Name-1"), time.time()
    client.delete(*client.keys("{Some.Name-1}*"), "none")
    charges = [of_day(now), of_minute(now), in_flight(now)]
    store.settle(taken(store, *charges), [1, 1, 0])
    taken(store, *charges)
    left = {key: client.pttl(key) / 1000 for key in client.scan_iter("{Some.Name-1}:*")}
    kinds = sorted(key.split(":")[1] for key in left)
    assert kinds == ["fixed", "held", "reservation", "reservation", "sliding"]
    most = {"fixed": charges[0].end - now, "held": 30, "sliding": 61, "reservation": charges[0].end - now}
    for key, seconds in left.items():
        kind = key.split(":")[1]
        assert (0 if kind == "reservation" else most[kind]) < seconds <= most[kind] + 121, key


def test_what_takes_nothing_leaves_nothing(make: Any, client: redis.Redis) -> None:
    """Neither a refusal nor a look, and calls in flight are gone when nobody is."""
    store, now = make(), time.time()
    full = of_day(now, limit=0)
    assert isinstance(store.reserve("refused", [SWITCH, of_minute(now), in_flight(now), full], 30), Refusal)
    store.peek([full, in_flight(now)])
    assert client.keys(f"{store._prefix}*") == []
    store.settle(taken(store, in_flight(now), of_day(now, amount=0)), [0, 0])
    assert [key.split(":")[1] for key in client.keys(f"{store._prefix}*")] == ["reservation"]


def test_a_sliding_counter_keeps_only_slices_that_count(make: Any, clock: FakeClock, client: redis.Redis) -> None:
    """Its size is bounded however long it is used, and by leases that never settle too."""
    store, sizes = make(clock=clock.time), []
    for number in range(1_200):
        clock.advance(0.5)
        reservation = taken(store, of_minute(clock.time()), ttl=3_600)
        if number % 2:
            store.settle(reservation, [1])
        sizes.append(client.strlen(f"{store._prefix}:sliding:61:minute"))
    assert max(sizes[600:]) < 1.5 * max(sizes[:600])
    assert max(sizes) < 6_000


def test_namespaces_share_nothing(make: Any) -> None:
    """Though the server is the same."""
    one, other, charge = make(), make(namespace="other." + uuid4().hex), of_day(time.time(), limit=1)
    taken(one, charge)
    assert other.peek([charge]) == [(0, 0)]


@pytest.mark.parametrize("name", ["a}b", "{a", "a b", "x" * 65, "ü"])
def test_a_namespace_that_would_not_be_one_hash_tag_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="namespace"):
        RedisQuotaStore("redis://localhost", namespace=name)


# Scripts --------------------------------------------------------------------------------------------------------------


def test_a_server_that_has_forgotten_the_scripts_is_told_them_again(own_redis: RedisServer) -> None:
    """As after a restart or a failover."""
    store, charge = RedisQuotaStore(own_redis.url, namespace=uuid4().hex), of_day(time.time())

    async def use() -> None:
        other = AsyncRedisQuotaStore(own_redis.url, namespace=uuid4().hex)
        for _ in range(2):
            client.script_flush()
            answer = await other.reserve(uuid4().hex, [charge], 30)
            assert isinstance(answer, Reservation)
        assert await other.settle(answer, [1]) is True
        assert await other.peek([charge]) == [(1, 1)]
        await other.close()

    with own_redis.client() as client:
        for _ in range(2):
            client.script_flush()
            reservation = taken(store, charge)
            client.script_flush()
            assert store.settle(reservation, [1]) is True
            client.script_flush()
            (tally,) = store.peek([charge])
            assert tally.held == 0
        asyncio.run(use())
    store.close()


def test_an_operation_is_one_round_trip(own_redis: RedisServer) -> None:
    """Counted on the server: whatever it is asked, by however many charges, it is asked one thing."""
    store, now = RedisQuotaStore(own_redis.url, namespace=uuid4().hex), time.time()
    charges = [of_day(now, key=f"key{number}") for number in range(6)] + [of_minute(now), in_flight(now, limit=1)]
    store.settle(taken(store, *charges), [1] * 8)  # connected, and every script known
    store.peek(charges)

    def commands(work: Callable[[], Any]) -> list[str]:
        with own_redis.client() as client, client.monitor() as monitor:
            work()
            with own_redis.client() as other:
                other.execute_command("ECHO", "end")
            seen: list[str] = []
            for event in monitor.listen():
                if event["command"].startswith("ECHO"):
                    return [command for command in seen if command not in ("HELLO", "CLIENT", "SELECT")]
                if event["client_type"] != "lua":
                    seen.append(event["command"].split()[0])
        raise AssertionError

    assert commands(lambda: taken(store, *charges)) == ["EVALSHA"]
    assert commands(lambda: store.reserve("refused", charges, 30)) == ["EVALSHA"]
    assert commands(lambda: store.peek(charges)) == ["EVALSHA"]
    open_ = taken(store, *charges[:-1])
    assert commands(lambda: store.settle(open_, [1] * 7)) == ["EVALSHA"]
    assert commands(lambda: store.settle(open_, [1] * 7)) == ["EVALSHA"]
    store.close()


def test_a_client_of_ones_own_serves_too_and_stays_open(client: redis.Redis) -> None:
    """One that decodes answers as well."""
    store = RedisQuotaStore(client, namespace=uuid4().hex)
    now = time.time()
    first = taken(store, of_day(now, 2, limit=2))
    assert store.reserve(first.id, [], 1) == first
    assert store.reserve("more", [of_day(now, 1, limit=2)], 30)[:3] == (0, 0, 2)
    assert store.settle(first, [1]) is True
    assert store.peek([of_day(now)]) == [(1, 0)]
    store.close()
    assert client.ping()


# URLs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("open", [open_store, open_async_store])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://:hunter2@", "names no host"),
        ("redis://:hun/hunter2@host", "names no host .in a password, / is written %2F"),
        ("redis://:hunter2@host:hunter2", "cannot be read"),
        ("redis://:hunter2@host/first", "a database that is not a number"),
        ("redis://:hunter2@host/0?socket_timeut=1", "an unknown option 'socket_timeut'"),
        ("redis://:hunter2@host/0?socket_timeout=hunter2", "cannot be read"),
        ("redis://:hunter2@host/0?cluster=maybe", "neither cluster=true nor cluster=false"),
        ("redis://:hunter2@host/0?namespace={hunter2}", "A Redis namespace is 1 to 64"),
        ("redis+sentinel://:hunter2@host:26379", "lacks the master's name"),
        ("redis+sentinel://:hunter2@,host/name", "names no host"),
    ],
)
def test_a_url_that_is_wrong_is_explained_without_its_password(open: Any, url: str, said: str) -> None:
    """When the store is opened, not at the first call."""
    with pytest.raises(ConfigurationError, match=said) as caught:
        open(url)
    assert "hunter2" not in str(caught.value)


def test_a_url_chooses_namespace_and_limits_of_time(redis_url: str) -> None:
    """And what it does not choose has defaults that deny soon."""
    namespace = uuid4().hex
    store = open_store(with_options(redis_url, namespace=namespace, socket_timeout=7))
    same = RedisQuotaStore(redis_url, namespace=namespace)
    assert isinstance(store, RedisQuotaStore)
    taken(store, of_day(time.time()))
    assert same.peek([of_day(time.time())]) == [(0, 1)]
    (opened,) = store._opened.values()
    settings = opened.connection_pool.connection_kwargs
    assert (settings["socket_timeout"], settings["socket_connect_timeout"]) == (7, 1)
    assert "password" not in repr(store._address)
    store.close()
    same.close()


def test_the_stores_are_public_and_unknown_names_are_not() -> None:
    """They are imported when they are first asked for."""
    assert safe_llm.RedisQuotaStore is RedisQuotaStore
    with pytest.raises(AttributeError, match="RedditQuotaStore"):
        _ = safe_llm.RedditQuotaStore
