"""The Redis stores on clusters and behind sentinels, and when Redis is away."""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
import redis
import redis.asyncio

from benchmarks.servers import RedisServer, free_port, redis_server, with_options
from safe_llm import (
    AsyncRedisQuotaStore,
    Charge,
    RedisQuotaStore,
    Refusal,
    Reservation,
    SafeOpenAI,
    StoreUnavailableError,
)
from safe_llm.testing import FakeOpenAI

DAY = 86_400
NOW = int(time.time())


def of_day(amount: int = 1, limit: int = 1_000_000, key: str = "day") -> Charge:
    return Charge(key, amount, limit, "fixed", NOW - DAY, NOW + DAY)


def in_flight(limit: int = 1_000_000) -> Charge:
    return Charge("calls", 1, limit, "held", NOW, NOW + 1)


def of_minute(limit: int = 1_000_000) -> Charge:
    return Charge("minute", 1, limit, "sliding", NOW - 3_600, NOW + 60)


def taken(store: RedisQuotaStore, *charges: Charge) -> Reservation:
    answer = store.reserve(uuid4().hex, charges, 30)
    assert isinstance(answer, Reservation), answer
    return answer


# Event loops ----------------------------------------------------------------------------------------------------------


def test_more_tasks_than_connections_wait_for_one(patient_redis_url: str) -> None:
    """They neither fail nor open one each."""
    store = AsyncRedisQuotaStore(with_options(patient_redis_url, max_connections=5), namespace=uuid4().hex)

    async def use() -> list[Any]:
        answers = await asyncio.gather(*[store.reserve(str(number), [of_day()], 30) for number in range(300)])
        await store.close()
        return answers

    assert all(isinstance(answer, Reservation) for answer in asyncio.run(use()))


# Away -----------------------------------------------------------------------------------------------------------------


def test_a_closed_port_denies_at_once_and_nothing_tells_the_password() -> None:
    """Nothing is sent to the provider, and no message or traceback quotes the URL."""
    url = f"redis://user:hunter2@127.0.0.1:{free_port()}/0"
    with FakeOpenAI() as server:
        client = SafeOpenAI(quota_store=url, api_key="k", base_url=server.base_url)
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError) as caught:
            client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello"}])
        assert time.monotonic() - began < 2
        client.close()
        assert server.requests == []
    assert isinstance(caught.value.__cause__, redis.ConnectionError)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    store = RedisQuotaStore(url)
    assert "hunter2" not in f"{store!r} {vars(store)}"


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port behind which each connection is served by a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                Thread(target=serve, args=[connection], daemon=True).start()

        Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_a_server_that_hangs_is_not_waited_for() -> None:
    """An answer that takes too long is not asked for again."""
    connected: list[socket.socket] = []
    with listening(connected.append) as port:
        store, began = RedisQuotaStore(f"redis://127.0.0.1:{port}?socket_timeout=0.2"), time.monotonic()
        with pytest.raises(redis.TimeoutError):
            store.reserve("id", [of_day()], 30)
        assert 0.2 <= time.monotonic() - began < 1.5
        assert len(connected) == 1
        store.close()
    for connection in connected:
        connection.close()


@contextmanager
def losing_answers(to: int) -> Iterator[tuple[int, list[bytes]]]:
    """A port that passes on what is said to a Redis, and hangs up on the answers to what is in the list."""
    lost: list[bytes] = []

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", to)) as server:
            while said := client.recv(65_536):
                server.sendall(said)
                answer = server.recv(65_536)
                if any(part in said for part in lost):
                    lost.clear()
                    return
                client.sendall(answer)

    with listening(serve) as port:
        yield port, lost


@pytest.mark.parametrize("is_async", [False, True])
def test_an_operation_whose_answer_got_lost_counts_once(own_redis: RedisServer, is_async: bool) -> None:
    """It is asked once more over a new connection, and told what it was told before."""
    with losing_answers(own_redis.port) as (port, lost):
        url, namespace = f"redis://127.0.0.1:{port}", uuid4().hex

        async def use() -> None:
            store: Any = (AsyncRedisQuotaStore if is_async else RedisQuotaStore)(url, namespace=namespace)

            async def done(answer: Any) -> Any:
                return await answer if is_async else answer

            warm = await done(store.reserve("warm", [of_day(), in_flight(9)], 30))
            await done(store.settle(warm, [0, 0]))
            lost.append(b"EVALSHA")
            reservation = await done(store.reserve("id", [of_day(2), in_flight(9)], 30))
            assert isinstance(reservation, Reservation)
            assert await done(store.peek([of_day(), in_flight()])) == [(0, 2), (0, 1)]
            lost.append(b"EVALSHA")
            assert await done(store.settle(reservation, [1, 0])) is True
            assert await done(store.settle(reservation, [1, 0])) is False
            assert await done(store.peek([of_day(), in_flight()])) == [(1, 0), (0, 0)]
            assert lost == []
            await done(store.close())

        asyncio.run(use())


def test_a_server_that_was_restarted_serves_the_next_call() -> None:
    """Over a new connection, with scripts that it has never seen."""
    with redis_server() as server:
        store = RedisQuotaStore(server.url)
        taken(store, of_day())
        server.stop()
        with pytest.raises(redis.ConnectionError):
            store.peek([of_day()])
        server.start()
        taken(store, of_day())
        assert store.peek([of_day()]) == [(0, 1)]
        store.close()


# Clusters and sentinels -----------------------------------------------------------------------------------------------

SIX = [of_day(), of_day(3, key="tokens"), of_day(0, key="free"), of_minute(), in_flight(1), of_day(key="month")]


async def use(store: Any) -> None:
    """The whole of what a store does, on keys that would lie on many nodes."""

    async def done(answer: Any) -> Any:
        return await answer if asyncio.iscoroutine(answer) else answer

    first = await done(store.reserve(uuid4().hex, SIX, 30))
    assert isinstance(first, Reservation)
    refusal = await done(store.reserve(uuid4().hex, SIX, 30))
    assert isinstance(refusal, Refusal)
    assert refusal.position == 4
    assert await done(store.reserve(first.id, [], 30)) == first
    assert await done(store.settle(first, [1, 2, 0, 1, 0, 1])) is True
    assert await done(store.peek(SIX)) == [(1, 0), (2, 0), (0, 0), (1, 0), (0, 0), (1, 0)]
    await done(store.close())


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisServer]:
    """One node that has all the slots, which refuses whatever lies in two of them."""
    newest = shutil.which("redis-server")  # 7 looks harder than the one that comes with the tests
    with redis_server("--cluster-enabled", "yes", binary=newest) as server:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
            give_up = time.monotonic() + 20
            while client.cluster("info")["cluster_state"] != "ok":
                assert time.monotonic() < give_up
                time.sleep(0.02)
            with pytest.raises(redis.ResponseError, match=r"CROSSSLOT|same slot"):
                client.execute_command("EVAL", "return 1", 2, "a", "b")
        yield server


@pytest.mark.parametrize("kind", [RedisQuotaStore, AsyncRedisQuotaStore])
def test_a_cluster_is_reached_by_any_node(cluster: RedisServer, kind: Any) -> None:
    """No script touches a key of another slot."""
    asyncio.run(use(kind(f"redis://127.0.0.1:{cluster.port}?cluster=true", namespace=uuid4().hex)))


def test_a_clusters_client_of_ones_own_serves_too(cluster: RedisServer) -> None:
    """It stays open."""
    client = redis.RedisCluster(host="127.0.0.1", port=cluster.port)
    asyncio.run(use(RedisQuotaStore(client, namespace=uuid4().hex)))
    assert client.ping()
    client.close()


def test_a_cluster_that_is_away_is_not_looked_for_when_the_store_is_opened() -> None:
    """Only the call is denied."""
    store = RedisQuotaStore(f"redis://127.0.0.1:{free_port()}?cluster=true")
    with pytest.raises(redis.exceptions.RedisClusterException):
        store.peek([of_day()])
    store.close()


@pytest.fixture(scope="module")
def sentinel(own_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One sentinel, which knows the Redis by the name of `main`."""
    file: Path = tmp_path_factory.mktemp("sentinel") / "sentinel.conf"
    file.write_text(f"sentinel monitor main 127.0.0.1 {own_redis.port} 1\n")
    server = RedisServer()
    server.command = [server.command[0], str(file), "--sentinel", *server.command[1:5]]
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.mark.parametrize("kind", [RedisQuotaStore, AsyncRedisQuotaStore])
def test_sentinels_are_asked_for_the_master(sentinel: RedisServer, kind: Any) -> None:
    """Of several, one that is away does not matter."""
    nodes = f"127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}"
    asyncio.run(use(kind(f"redis+sentinel://{nodes}/main/0?namespace=main", namespace=uuid4().hex)))
