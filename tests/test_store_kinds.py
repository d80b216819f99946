"""Stores of every kind under clients of both colours: async ones, blocking ones, and such that fail."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from safe_llm import (
    AsyncSafeOpenAI,
    Charge,
    ConfigurationError,
    MemoryQuotaStore,
    RateLimitExceededError,
    Refusal,
    Reservation,
    SafeOpenAI,
    StoreUnavailableError,
    Tally,
)
from safe_llm.testing import FakeOpenAI, RecordingSink, Reply

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "Hello"}],
    "user_id": "u1",
}
POLICY = {"plans": {"default": {"limits": ["2 requests/day", "4 concurrent"]}}, "alert_at_percent": [100]}


class Blocking(MemoryQuotaStore):
    """A store that waits, as one behind a network does; it notes the threads that it was called in."""

    blocking = True

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[str] = set()

    def reserve(self, id: str, charges: Sequence[Charge], ttl: float) -> Reservation | Refusal:
        self.threads.add(threading.current_thread().name)
        return super().reserve(id, charges, ttl)


class Coroutines:
    """An async store. `gate` holds reservations back after they were made, as a slow network does."""

    def __init__(self) -> None:
        self.inner = MemoryQuotaStore()
        self.gate: asyncio.Event | None = None
        self.fails: set[str] = set()
        self.closed = 0

    async def reserve(self, id: str, charges: Sequence[Charge], ttl: float) -> Reservation | Refusal:
        self._maybe_fail("reserve")
        answer = self.inner.reserve(id, charges, ttl)
        if self.gate is not None:
            await self.gate.wait()
        return answer

    async def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        self._maybe_fail("settle")
        await asyncio.sleep(0)
        return self.inner.settle(reservation, actual)

    async def peek(self, charges: Sequence[Charge]) -> Sequence[Tally]:
        self._maybe_fail("peek")
        return self.inner.peek(charges)

    async def close(self) -> None:
        self.closed += 1

    def _maybe_fail(self, what: str) -> None:
        if what in self.fails:
            raise ConnectionError("the address and the password of the store")


class Failing(MemoryQuotaStore):
    """A sync store whose methods fail on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: set[str] = set()

    def reserve(self, id: str, charges: Sequence[Charge], ttl: float) -> Reservation | Refusal:
        if "reserve" in self.fails:
            raise ConnectionError("the address and the password of the store")
        return super().reserve(id, charges, ttl)

    def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        if "settle" in self.fails:
            raise ConnectionError("the address and the password of the store")
        return super().settle(reservation, actual)

    def peek(self, charges: Sequence[Charge]) -> Sequence[Tally]:
        if "peek" in self.fails:
            raise ConnectionError("the address and the password of the store")
        return super().peek(charges)


async def done(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


async def held(client: Any) -> list[int]:
    return [status.held for status in await done(client.guard.usage(user_id="u1"))]


class Clients:
    """Makes clients and closes them all: a connection that outlives its loop complains when it is collected."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def __call__(self, kind: Any, server: FakeOpenAI, store: Any, **options: Any) -> tuple[Any, RecordingSink]:
        sink = RecordingSink()
        options = {"policy": POLICY, "max_retries": 0, **options}
        client = kind(base_url=server.base_url, api_key="k", quota_store=store, sinks=[sink], **options)
        self.made.append(client)
        return client, sink


@pytest.fixture
async def clients(anyio_backend: str) -> AsyncIterator[Clients]:
    made = Clients()
    yield made
    for client in made.made:
        await done(client.close())


@pytest.mark.parametrize("make", [Blocking, Coroutines])
async def test_an_async_client_counts_in_any_store(clients: Clients, make: Any) -> None:
    store = make()
    with FakeOpenAI() as server:
        client, sink = clients(AsyncSafeOpenAI, server, store)
        await client.chat.completions.create(**ASK)
        stream = await client.chat.completions.create(**ASK, stream=True)
        assert [chunk async for chunk in stream]
        with pytest.raises(RateLimitExceededError):
            await client.chat.completions.create(**ASK)
        assert await held(client) == [0, 0]
    assert [record.outcome for record in sink.records] == ["ok", "ok", "denied"]
    assert [alert.kind for alert in sink.alerts] == ["limit_threshold"]
    assert server.count == 2


async def test_a_store_that_blocks_is_called_off_the_event_loop(clients: Clients) -> None:
    store = Blocking()
    with FakeOpenAI() as server:
        client, _ = clients(AsyncSafeOpenAI, server, store)
        await client.chat.completions.create(**ASK)
    assert threading.current_thread().name not in store.threads


@pytest.mark.parametrize("make", [Blocking, Coroutines])
async def test_a_stream_that_is_dropped_settles_in_any_store(clients: Clients, make: Any) -> None:
    with FakeOpenAI() as server:
        client, sink = clients(AsyncSafeOpenAI, server, make())
        stream = await client.chat.completions.create(**ASK, stream=True)
        async for _ in stream:
            break
        for _ in range(200):
            if sink.records and not any(await held(client)):
                break
            await asyncio.sleep(0.01)
        assert await held(client) == [0, 0]
    assert len(sink.records) == 1


async def test_a_task_cancelled_while_it_reserves_gives_back_what_it_got_and_sends_nothing(clients: Clients) -> None:
    store = Coroutines()
    with FakeOpenAI() as server:
        client, sink = clients(AsyncSafeOpenAI, server, store)
        store.gate = asyncio.Event()
        task = asyncio.create_task(client.chat.completions.create(**ASK))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.sleep(0.01)
        store.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        store.gate = None
        usage = await client.guard.usage(user_id="u1")
    assert [(status.used, status.held) for status in usage] == [(0, 0), (0, 0)]
    assert (server.count, [record.outcome for record in sink.records]) == (0, ["aborted"])


async def test_a_task_cancelled_while_it_settles_is_settled_and_recorded_all_the_same(clients: Clients) -> None:
    store = Coroutines()
    with FakeOpenAI() as server:
        server.always(Reply(delay=0.2))
        client, sink = clients(AsyncSafeOpenAI, server, store)
        task = asyncio.create_task(client.chat.completions.create(**ASK))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await held(client) == [0, 0]
    assert [record.outcome for record in sink.records] == ["aborted"]


@pytest.mark.parametrize(
    ("kind", "make"), [(SafeOpenAI, Failing), (AsyncSafeOpenAI, Failing), (AsyncSafeOpenAI, Coroutines)]
)
class TestAStoreThatFails:
    """What becomes of calls when the store does not answer. No error quotes the store's own message."""

    async def test_denies_unless_the_policy_says_otherwise(self, clients: Clients, kind: Any, make: Any) -> None:
        store = make()
        with FakeOpenAI() as server:
            client, sink = clients(kind, server, store)
            store.fails = {"reserve"}
            with pytest.raises(StoreUnavailableError, match="ConnectionError") as caught:
                await done(client.chat.completions.create(**ASK))
            assert "password" not in str(caught.value)
            assert server.count == 0
        assert [record.denial.code for record in sink.records if record.denial] == ["store_unavailable"]

    async def test_goes_on_with_a_local_store_where_the_policy_says_so(
        self, clients: Clients, kind: Any, make: Any
    ) -> None:
        store = make()
        policy = {**POLICY, "on_store_error": "allow"}
        with FakeOpenAI() as server:
            client, sink = clients(kind, server, store, policy=policy)
            store.fails = {"reserve", "peek"}
            for _ in range(2):
                await done(client.chat.completions.create(**ASK))
            with pytest.raises(RateLimitExceededError):
                await done(client.chat.completions.create(**ASK))
        assert [(record.outcome, record.degraded) for record in sink.records] == [
            ("ok", True),
            ("ok", True),
            ("denied", False),
        ]

    async def test_does_not_lose_the_answer_of_a_call_that_could_not_be_settled(
        self, clients: Clients, kind: Any, make: Any
    ) -> None:
        store = make()
        with FakeOpenAI() as server:
            client, sink = clients(kind, server, store)
            store.fails = {"settle", "peek"}
            answer = await done(client.chat.completions.create(**ASK))
            assert answer.choices
            with pytest.raises(StoreUnavailableError):
                await done(client.guard.usage(user_id="u1"))
        assert [record.outcome for record in sink.records] == ["ok"]
        (alert,) = sink.alerts
        assert alert.kind == "store_degraded"
        assert "ConnectionError" in alert.message
        assert "password" not in alert.message


async def test_a_sync_client_refuses_what_it_cannot_wait_for() -> None:
    async def plan_for(_: str) -> str:
        return "default"

    class Check:
        name = "judge"

        async def inspect(self, _: Any) -> list[Any]:
            return []

    for options in ({"quota_store": Coroutines()}, {"plan_for": plan_for}, {"checks": [Check()]}):
        with pytest.raises(ConfigurationError, match="async"):
            SafeOpenAI(api_key="k", **options)


async def test_an_async_client_waits_for_plans_and_checks(clients: Clients) -> None:
    async def plan_for(user: str) -> str:
        return {"u1": "default"}[user]

    class Check:
        name = "judge"

        async def inspect(self, _: Any) -> list[Any]:
            return []

    with FakeOpenAI() as server:
        client, sink = clients(AsyncSafeOpenAI, server, Coroutines(), plan_for=plan_for, checks=[Check()])
        await client.chat.completions.create(**ASK)
    assert sink.last.plan == "default"


async def test_closing_an_async_client_leaves_the_store_that_it_was_given_open(clients: Clients) -> None:
    store = Coroutines()
    with FakeOpenAI() as server:
        client, _ = clients(AsyncSafeOpenAI, server, store)
        await client.close()
    assert store.closed == 0
