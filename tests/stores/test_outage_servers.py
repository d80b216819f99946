"""A real Redis or Postgres, stopped and started again under load: who passes meanwhile, and if it adds up after."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from benchmarks.servers import RedisServer, redis_server, with_options
from safe_llm import AsyncSafeOpenAI, DeniedError, StoreUnavailableError, UsageRecord
from safe_llm.testing import FakeOpenAI, RecordingSink, assert_no_overspend

pytestmark = pytest.mark.anyio

PER_SECOND = 200
ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], "user_id": "u1"}


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """One that forgets nothing of what it has answered, however it ends."""
    with redis_server("--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@pytest.fixture(params=["redis", "own_postgres"])
def backend(request: pytest.FixtureRequest) -> Any:
    """Has a `url`, and can be stopped and started."""
    return request.getfixturevalue(request.param)


def counting_in(server: Any) -> str:
    """Counters of its own, with time for a machine that is busy with other tests: what is stopped refuses at once."""
    if isinstance(server, RedisServer):
        return with_options(server.url, socket_connect_timeout=20, socket_timeout=20, timeout=20)
    return with_options(server.url, schema=f"t_{uuid4().hex}")


async def done(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.02)


class Load:
    """Two clients, which know nothing of each other as processes do, called 200 times a second together."""

    def __init__(self, kind: Any, backend: Any, provider: FakeOpenAI, limit: int, on_store_error: str) -> None:
        plan = {"limits": [f"{limit} requests/day", "100_000_000 tokens/day", "1_000 concurrent"]}
        policy = {"plans": {"default": plan}, "alert_at_percent": [], "on_store_error": on_store_error}
        self.sinks, url = [RecordingSink(), RecordingSink()], counting_in(backend)
        self.clients = [
            kind(base_url=provider.base_url, api_key="k", quota_store=url, policy=policy, sinks=[sink])
            for sink in self.sinks
        ]
        self.threads = ThreadPoolExecutor(16)
        self.stopping = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        loading = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self.stopping = True
            await loading

    async def _run(self) -> None:
        began, calls = time.monotonic(), []
        while not self.stopping:
            calls.append(asyncio.create_task(self._call(self.clients[len(calls) % 2])))
            await asyncio.sleep(max(0.0, began + len(calls) / PER_SECOND - time.monotonic()))
        errors = {error for error in await asyncio.gather(*calls) if error is not None}
        assert all(issubclass(error, DeniedError) for error in errors), errors

    async def _call(self, client: Any) -> type[BaseException] | None:
        try:
            if isinstance(client, AsyncSafeOpenAI):
                await client.chat.completions.create(**ASK)
            else:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self.threads, lambda: client.chat.completions.create(**ASK))
        except Exception as error:
            return type(error)
        return None

    def records(self) -> list[UsageRecord]:
        return [record for sink in self.sinks for record in sink.records]

    def passed(self) -> list[UsageRecord]:
        return [record for record in self.records() if record.outcome != "denied"]

    async def told(self, alerts: int) -> None:
        """Each client has told of the outage, and then that all is made up for."""
        await until(lambda: all(len(sink.alerts) >= alerts for sink in self.sinks))

    async def counters(self) -> list[tuple[int, int]]:
        return [(status.used, status.held) for status in await done(self.clients[0].guard.usage(user_id="u1"))]

    async def close(self) -> None:
        for client in self.clients:
            await done(client.close())
        self.threads.shutdown()


Loads = Callable[..., Load]


@pytest.fixture
async def loads(anyio_backend: str) -> AsyncIterator[Loads]:
    """Makes loads, and closes what they have opened: a connection that outlives its loop complains."""
    made: list[Load] = []

    def load(*arguments: Any) -> Load:
        made.append(Load(*arguments))
        return made[-1]

    yield load
    for one in made:
        await one.close()


async def quiet(provider: FakeOpenAI) -> int:
    """What was reserved before the store went away has been sent: how many requests that makes."""
    give_up, seen, since = time.monotonic() + 10, -1, time.monotonic()
    while time.monotonic() - since < 0.3:
        assert time.monotonic() < give_up, "calls reach the provider while the store is away"
        if provider.count != seen:
            seen, since = provider.count, time.monotonic()
        await asyncio.sleep(0.01)
    return seen


async def assert_made_up_for(load: Load) -> None:
    """The counters are the sums of the records, and nothing is held."""
    await until(lambda: not any(client._guard._link.owes for client in load.clients))
    calls, tokens, in_flight = await load.counters()
    passed = load.passed()
    assert calls == (len(passed), 0)
    assert tokens == (sum(record.total_tokens for record in passed), 0)
    assert in_flight == (0, 0)


async def test_with_deny_no_call_passes_while_the_store_is_away(loads: Loads, kind: Any, backend: Any) -> None:
    with FakeOpenAI() as provider:
        load = loads(kind, backend, provider, 1_000_000, "deny")
        async with load.running():
            await until(lambda: provider.count >= 100)
            await asyncio.to_thread(backend.stop)
            before, denied = await quiet(provider), len(load.records()) - len(load.passed())
            await asyncio.sleep(1)
            assert provider.count == before
            assert len(load.records()) - len(load.passed()) > denied + 10
            await asyncio.to_thread(backend.start)
            await until(lambda: provider.count >= before + 100)
        await load.told(2)
        await assert_made_up_for(load)
        assert provider.count == len(load.passed())
        assert not any(record.degraded for record in load.records())


async def test_with_allow_each_process_stays_within_the_limit_by_itself(
    loads: Loads, kind: Any, redis: RedisServer
) -> None:
    limit = 120
    with FakeOpenAI() as provider:
        load = loads(kind, redis, provider, limit, "allow")
        async with load.running():
            await until(lambda: provider.count >= 40)
            await asyncio.to_thread(redis.stop)
            for sink in load.sinks:
                await until(lambda sink=sink: sum(r.degraded for r in sink.records) == limit)  # type: ignore[misc]
            await asyncio.sleep(0.3)
            await asyncio.to_thread(redis.start)
            await load.told(2)
            await asyncio.sleep(0.3)
        for sink in load.sinks:
            counted_alone = [record for record in sink.records if record.degraded]
            assert_no_overspend(counted_alone, limit_requests=limit)
            assert len(counted_alone) == limit
        await assert_made_up_for(load)
        assert provider.count == len(load.passed()) > 2 * limit


@pytest.mark.parametrize("on_store_error", ["deny", "allow"])
async def test_calls_that_were_in_flight_when_the_store_went_are_settled_when_it_is_back(
    loads: Loads, kind: Any, backend: Any, on_store_error: str
) -> None:
    """They were reserved before. Their answers are read meanwhile, and wait for nothing."""
    with FakeOpenAI() as provider:
        load = loads(kind, backend, provider, 1_000, on_store_error)
        streams = [await done(client.chat.completions.create(**ASK, stream=True)) for client in load.clients * 5]
        await asyncio.to_thread(backend.stop)
        for stream in streams:
            chunks = [chunk async for chunk in stream] if hasattr(stream, "__aiter__") else list(stream)
            assert chunks
        assert [record.outcome for record in load.records()] == ["ok"] * 10
        await asyncio.to_thread(backend.start)
        await load.told(2)
        await assert_made_up_for(load)


async def test_a_redis_that_is_full_denies_and_serves_again_when_there_is_room(
    loads: Loads, kind: Any, redis: RedisServer
) -> None:
    """It still reads, so that only a write tells."""
    with FakeOpenAI() as provider, redis.client() as direct:
        load = loads(kind, redis, provider, 1_000, "deny")
        client = load.clients[0]
        await done(client.chat.completions.create(**ASK))
        direct.config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailableError):
            await done(client.chat.completions.create(**ASK))
        direct.config_set("maxmemory", 0)
        await until(lambda: len(load.sinks[0].alerts) == 2)
        await done(client.chat.completions.create(**ASK))
        await assert_made_up_for(load)
        assert provider.count == 2
