"""Background responses: charged at their bound, corrected when they are retrieved, and never billed twice."""

from __future__ import annotations

import inspect
import math
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import pytest

from safe_llm import AsyncSafeOpenAI, MemoryQuotaStore, Refusal, Reservation, SafeOpenAI, Usage
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink, Reply

pytestmark = pytest.mark.anyio

USAGE = Usage(1_000, 100, cached_input_tokens=400)
COST = Decimal("0.003")
"""Of `USAGE` with gpt-4o."""
POLICY = {"plans": {"default": {"limits": ["10 requests/day", "100_000 tokens/day", "$5/day", "2 concurrent"]}}}
ASK = {"model": "gpt-4o", "input": "Write a book.", "background": True, "user_id": "alice"}
both_kinds = pytest.mark.parametrize("kind", [SafeOpenAI, AsyncSafeOpenAI], ids=["sync", "async"])


async def done(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


@pytest.fixture
async def make(kind: Any, server: FakeOpenAI, sink: RecordingSink) -> AsyncIterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(**options: Any) -> Any:
        base = {"base_url": server.base_url, "api_key": "k", "sinks": [sink], "policy": POLICY, "max_retries": 0}
        made.append(kind(**{**base, **options}))
        return made[-1]

    yield make
    for client in made:
        await done(client.close())


async def standing(client: Any) -> list[tuple[Any, Any]]:
    """Used and held of each limit."""
    return [(status.used, status.held) for status in await done(client.guard.usage(user_id="alice"))]


CORRECTED = [(1, 0), (1_100, 0), (COST, 0), (0, 0)]
"""What stands once the provider has told the usage."""


@both_kinds
async def test_it_is_held_at_its_bound_until_it_is_retrieved(
    make: Any, server: FakeOpenAI, sink: RecordingSink
) -> None:
    server.always(Reply("Once upon a time", usage=USAGE, polls=2))
    client = make()
    begun = await done(client.responses.create(**ASK))
    assert begun.status == "queued"
    record = sink.last
    assert (record.outcome, record.usage_source, record.cost_usd) == ("ok", "estimated", record.cost_reserved_usd)
    bound = [(0, 1), (0, record.total_tokens), (0, record.cost_usd), (0, 1)]
    assert await standing(client) == bound
    for _ in range(2):
        assert (await done(client.responses.retrieve(begun.id))).status == "in_progress"
        assert await standing(client) == bound
    assert (await done(client.responses.retrieve(begun.id))).status == "completed"
    assert await standing(client) == CORRECTED


@both_kinds
async def test_retrieving_is_free_and_never_bills_twice(make: Any, server: FakeOpenAI, sink: RecordingSink) -> None:
    """Neither a second retrieval nor one in another style changes anything, and none leaves a record."""
    server.always(Reply("Once upon a time", usage=USAGE))
    client = make()
    begun = await done(client.responses.create(**ASK))
    for _ in range(3):
        await done(client.responses.retrieve(begun.id))
    await done(client.responses.with_raw_response.retrieve(begun.id))
    await done(client.get(f"/responses/{begun.id}", cast_to=object))
    assert await standing(client) == CORRECTED
    assert len(sink.records) == 1


@both_kinds
async def test_retrieving_passes_at_exhausted_limits(make: Any, server: FakeOpenAI) -> None:
    server.always(Reply("Once upon a time", usage=USAGE))
    client = make(policy={"plans": {"default": {"limits": ["1 requests/day"]}}})
    begun = await done(client.responses.create(**ASK))
    assert (await done(client.responses.retrieve(begun.id))).status == "completed"


@both_kinds
async def test_another_client_that_shares_the_store_corrects_it(make: Any, server: FakeOpenAI) -> None:
    """As in another process: it knows nothing but the response's id."""
    server.always(Reply("Once upon a time", usage=USAGE, hosted_calls=("web_search_call",)))
    store = MemoryQuotaStore()
    policy = {**POLICY, "routes": {"hosted_tools": {"web_search": {"fee": "$0.01"}}}}
    first, second = make(quota_store=store, policy=policy), make(quota_store=store, policy=policy)
    begun = await done(first.responses.create(**ASK, tools=[{"type": "web_search"}]))
    await done(second.responses.retrieve(begun.id))
    assert await standing(first) == [(1, 0), (1_100, 0), (COST + Decimal("0.01"), 0), (0, 0)]


@both_kinds
async def test_one_that_nobody_retrieves_stays_charged_at_its_bound(
    make: Any, server: FakeOpenAI, sink: RecordingSink, clock: FakeClock
) -> None:
    client = make(clock=clock)
    begun = await done(client.responses.create(**ASK))
    clock.advance(61)
    bound = sink.last
    assert await standing(client) == [(1, 0), (bound.total_tokens, 0), (bound.cost_usd, 0), (0, 0)]
    clock.advance(3_600)
    server.always(Reply("late", usage=USAGE))
    await done(client.responses.retrieve(begun.id))
    assert (await standing(client))[0] == (1, 0)
    assert (await standing(client))[2][0] < bound.cost_usd


@both_kinds
async def test_a_stream_of_one_settles_when_it_tells_its_usage(
    make: Any, server: FakeOpenAI, sink: RecordingSink
) -> None:
    server.always(Reply("Once upon a time", usage=USAGE))
    client = make()
    stream = await done(client.responses.create(**ASK, stream=True))
    events = [event async for event in stream] if hasattr(stream, "__aiter__") else list(stream)
    assert events[-1].type == "response.completed"
    assert await standing(client) == CORRECTED
    assert sink.last.usage_source == "provider"


@both_kinds
async def test_a_stream_of_one_that_is_left_is_billed_by_a_later_stream(
    make: Any, server: FakeOpenAI, sink: RecordingSink
) -> None:
    """The provider goes on writing: what was seen of it is not all that is billed."""
    server.always(Reply("one two three four five six", usage=USAGE, drip=0.02))
    client = make()
    stream = await done(client.responses.create(**ASK, stream=True))
    if hasattr(stream, "__aiter__"):
        first = await anext(aiter(stream))
        await stream.close()
    else:
        first = next(iter(stream))
        stream.close()
    server.wait_until(lambda: bool(sink.records))
    assert (sink.last.outcome, sink.last.cost_usd) == ("aborted", sink.last.cost_reserved_usd)
    again = await done(client.responses.retrieve(first.response.id, stream=True))
    events = [event async for event in again] if hasattr(again, "__aiter__") else list(again)
    assert events[-1].type == "response.completed"
    assert await standing(client) == CORRECTED
    assert len(sink.records) == 1


@both_kinds
async def test_one_that_is_cancelled_without_usage_stays_at_its_bound(make: Any, server: FakeOpenAI) -> None:
    server.always(Reply(polls=math.inf))
    client = make()
    begun = await done(client.responses.create(**ASK))
    before = await standing(client)
    assert (await done(client.responses.cancel(begun.id))).status == "cancelled"
    assert await standing(client) == before


@both_kinds
async def test_retrieving_a_response_that_is_not_known_here_changes_nothing(make: Any, server: FakeOpenAI) -> None:
    server.always(Reply("Hi", usage=USAGE))
    client, stranger = make(), make()
    begun = await done(stranger.responses.create(**ASK))
    await done(client.responses.retrieve(begun.id))
    assert await standing(client) == [(0, 0)] * 4
    plain = await done(client.responses.create(**{**ASK, "background": False}))
    await done(client.responses.retrieve(plain.id))
    assert await standing(client) == CORRECTED


class Failing(MemoryQuotaStore):
    """Fails whenever it is told to."""

    away = False

    def peek(self, charges: Any) -> Any:
        if self.away:
            raise ConnectionError
        return super().peek(charges)

    def reserve(self, id: str, charges: Any, ttl: float) -> Reservation | Refusal:
        if self.away:
            raise ConnectionError
        return super().reserve(id, charges, ttl)


@both_kinds
async def test_a_store_that_is_away_does_not_lose_the_answer(
    make: Any, server: FakeOpenAI, sink: RecordingSink
) -> None:
    """The bound stays charged, an alert says so, and a retrieval corrects it when the store is back."""
    server.always(Reply("Once upon a time", usage=USAGE))
    store, clock = Failing(), FakeClock()
    client = make(quota_store=store, clock=clock)
    begun = await done(client.responses.create(**ASK))
    store.away = True
    assert (await done(client.responses.retrieve(begun.id))).status == "completed"
    assert [alert.kind for alert in sink.alerts] == ["store_degraded"]
    store.away = False
    clock.advance(1)
    await done(client.responses.retrieve(begun.id))
    assert await standing(client) == CORRECTED
