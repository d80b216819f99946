"""A budget that is nearly used up: the cheaper model or the lower cap, on every surface, and who is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from safe_llm import BudgetExceededError
from safe_llm.testing import FakeOpenAI, RecordingSink, Reply

pytestmark = pytest.mark.anyio

MESSAGES: Any = [{"role": "user", "content": "Say a word."}]
DOWNGRADE = {"on_budget": "downgrade", "downgrade": {"gpt-4o": "gpt-4o-mini"}}
SHRINK = {"on_budget": "shrink"}


class Word(BaseModel):
    word: str


async def done(result: Any) -> Any:
    return await result if asyncio.iscoroutine(result) else result


async def read(stream: Any) -> None:
    if hasattr(stream, "__aiter__"):
        async for _ in stream:
            pass
    else:
        for _ in stream:
            pass


async def through(manager: Any) -> None:
    """A helper's stream, to its end."""
    if hasattr(manager, "__aenter__"):
        async with manager as stream:
            await read(stream)
    else:
        with manager as stream:
            await read(stream)


async def chat(client: Any, **rest: Any) -> None:
    await done(client.chat.completions.create(messages=MESSAGES, **rest))


async def chat_streamed(client: Any, **rest: Any) -> None:
    await read(await done(client.chat.completions.create(messages=MESSAGES, stream=True, **rest)))


async def chat_parsed(client: Any, **rest: Any) -> None:
    await done(client.chat.completions.parse(messages=MESSAGES, response_format=Word, **rest))


async def chat_helper(client: Any, **rest: Any) -> None:
    await through(client.chat.completions.stream(messages=MESSAGES, **rest))


async def responses(client: Any, **rest: Any) -> None:
    await done(client.responses.create(input="Say a word.", **rest))


async def responses_streamed(client: Any, **rest: Any) -> None:
    await read(await done(client.responses.create(input="Say a word.", stream=True, **rest)))


async def responses_parsed(client: Any, **rest: Any) -> None:
    await done(client.responses.parse(input="Say a word.", text_format=Word, **rest))


async def responses_helper(client: Any, **rest: Any) -> None:
    await through(client.responses.stream(input="Say a word.", **rest))


SURFACES = [
    *(chat, chat_streamed, chat_parsed, chat_helper),
    *(responses, responses_streamed, responses_parsed, responses_helper),
]
surfaces = pytest.mark.parametrize("ask", SURFACES, ids=[surface.__name__ for surface in SURFACES])


@pytest.fixture
async def make(kind: Any, server: FakeOpenAI, sink: RecordingSink) -> AsyncIterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(budget: str, output: Any) -> Any:
        policy = {"output": output, "plans": {"default": {"limits": [budget]}}}
        made.append(kind(base_url=server.base_url, api_key="test", sinks=[sink], policy=policy))
        return made[-1]

    server.script(Reply(text='{"word": "hello"}'))
    yield make
    for client in made:
        await done(client.close())


@surfaces
async def test_the_cheaper_model_is_sent_recorded_and_paid_for(
    make: Callable[..., Any], ask: Any, server: FakeOpenAI, sink: RecordingSink
) -> None:
    client = make("$0.005/day", DOWNGRADE)
    await ask(client, model="gpt-4o")
    record = sink.last
    assert server.requests[-1].body["model"] == "gpt-4o-mini"
    assert (record.outcome, record.model, record.requested_model, record.budget_action) == (
        *("ok", "gpt-4o-mini", "gpt-4o", "downgrade"),
    )
    (status,) = await done(client.guard.usage())
    assert status.used == record.cost_usd
    assert Decimal(0) < record.cost_usd < Decimal("0.0001")


@surfaces
async def test_a_lower_cap_is_sent_and_recorded(
    make: Callable[..., Any], ask: Any, server: FakeOpenAI, sink: RecordingSink
) -> None:
    client = make("$0.005/day", SHRINK)
    await ask(client, model="gpt-4o")
    record, body = sink.last, server.requests[-1].body
    sent = body.get("max_output_tokens", body.get("max_completion_tokens"))
    assert 64 <= sent < 500
    assert (record.outcome, record.model, record.requested_model, record.budget_action) == (
        "ok",
        "gpt-4o",
        None,
        "shrink",
    )
    assert record.max_tokens == sent
    assert record.cost_reserved_usd <= Decimal("0.005")


@pytest.mark.parametrize("arguments", [{"messages": MESSAGES}, {"input": "Say a word."}], ids=["chat", "responses"])
async def test_a_quote_says_what_would_be_sent(make: Callable[..., Any], arguments: Any) -> None:
    downgraded = await done(make("$0.005/day", DOWNGRADE).guard.quote(model="gpt-4o", **arguments))
    assert (downgraded.model, downgraded.budget_action) == ("gpt-4o-mini", "downgrade")
    assert downgraded.would_be_denied is None
    shrunk = await done(make("$0.005/day", SHRINK).guard.quote(model="gpt-4o", **arguments))
    assert (shrunk.model, shrunk.budget_action) == ("gpt-4o", "shrink")
    assert 64 <= shrunk.max_output_tokens < 500
    plain = await done(make("$5/day", SHRINK).guard.quote(model="gpt-4o", **arguments))
    assert (plain.model, plain.budget_action, plain.max_output_tokens) == ("gpt-4o", None, 1_000)


async def test_where_nothing_helps_the_record_names_what_was_asked_for(
    make: Callable[..., Any], server: FakeOpenAI, sink: RecordingSink
) -> None:
    client = make("$0.0001/day", DOWNGRADE)
    with pytest.raises(BudgetExceededError):
        await chat(client, model="gpt-4o")
    assert (sink.last.model, sink.last.requested_model, sink.last.budget_action) == ("gpt-4o", None, None)
    assert server.count == 0
