"""A second policy beside the one in force: what it would have decided stands on the records, and changes no call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from safe_llm import ConfigurationError, MemoryQuotaStore, Policy, RateLimitExceededError, StoreUnavailableError
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink, Reply

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say a word."}]}
Make = Callable[..., Any]


def limited(*limits: str, **rest: Any) -> dict[str, Any]:
    return {"plans": {"default": {"limits": list(limits)}}, **rest}


async def done(result: Any) -> Any:
    return await result if asyncio.iscoroutine(result) else result


async def chat(client: Any, **arguments: Any) -> Any:
    return await done(client.chat.completions.create(**{**ASK, **arguments}))


@pytest.fixture
async def make(kind: Any, server: FakeOpenAI, sink: RecordingSink) -> AsyncIterator[Make]:
    made: list[Any] = []

    def make(policy: Any, shadow: Any, **rest: Any) -> Any:
        base = {"base_url": server.base_url, "api_key": "test", "sinks": [sink], "max_retries": 0}
        made.append(kind(**{**base, "policy": policy, "shadow_policy": shadow, **rest}))
        return made[-1]

    yield make
    for client in made:
        await done(client.close())


async def test_a_stricter_policy_tells_what_it_would_have_denied_and_denies_nothing(
    make: Make, server: FakeOpenAI, sink: RecordingSink
) -> None:
    shadow = Policy(**limited("2 requests/day"))
    client = make(limited(), shadow)
    for _ in range(4):
        await chat(client)
    assert server.count == 4
    told = [record.shadow for record in sink.records]
    assert told[:2] == [None, None]
    assert [one.denial.code for one in told[2:]] == ["rate_limit_exceeded"] * 2
    assert {(one.policy_version, one.denial.limit, one.error) for one in told[2:]} == {
        (shadow.version, "2 requests/day", None)
    }
    assert {record.outcome for record in sink.records} == {"ok"}
    assert {record.denial for record in sink.records} == {None}


async def test_a_looser_policy_tells_what_it_would_have_let_through(make: Make, sink: RecordingSink) -> None:
    client = make(limited("1 requests/day"), limited("2 requests/day"))
    await chat(client)
    for _ in range(2):
        with pytest.raises(RateLimitExceededError):
            await chat(client)
    same, looser, both = sink.records
    assert same.shadow is None
    assert looser.shadow is not None
    assert looser.shadow.denial is None
    assert both.shadow is not None  # another limit of it denies
    assert both.shadow.denial is not None
    assert both.shadow.denial.limit == "2 requests/day"


async def test_the_shadow_s_counters_are_its_own_and_are_settled_at_what_was_used(
    make: Make, server: FakeOpenAI, sink: RecordingSink
) -> None:
    """Both have the same budget; were it one counter, or not settled, the second call would be too much."""
    budget = "$0.0007/day"
    client = make(limited(budget), limited(budget))
    for _ in range(5):
        await chat(client)
    (status,) = await done(client.guard.usage())
    assert status.used == sum((record.cost_usd for record in sink.records), Decimal(0))
    assert [record.shadow for record in sink.records] == [None] * 5
    assert server.count == 5


async def test_streams_and_failures_settle_the_shadow_as_well(
    make: Make, server: FakeOpenAI, sink: RecordingSink
) -> None:
    client = make(limited(), limited("1 concurrent", "$0.0007/day"))
    server.script(Reply(status=400), Reply(status=500), Reply(text="one two three"), Reply(text="four"))
    for _ in range(2):
        with pytest.raises(Exception, match="fake server"):
            await chat(client)
    stream = await chat(client, stream=True)
    if hasattr(stream, "__aiter__"):
        async for _ in stream:
            pass
    else:
        for _ in stream:
            pass
    await chat(client)
    assert [record.shadow for record in sink.records] == [None] * 4


async def test_authorization_input_and_prices_are_decided_as_well(make: Make, sink: RecordingSink) -> None:
    strict = {
        "plans": {"default": {"features": ["chat"], "models": ["gpt-4o*", "mystery"], "limits": ["$1/day"]}},
        "input": {"max_message_chars": 20},
        "identity": {"required": True},
    }
    client = make(limited(), strict)
    await chat(client)
    await chat(client, user_id="u1", feature="reports")
    await chat(client, user_id="u1", model="gpt-4.1")
    await chat(client, user_id="u1", model="mystery")
    await chat(client, user_id="u1", messages=[{"role": "user", "content": "x" * 21}])
    await chat(client, user_id="u1", feature="chat")
    codes = [record.shadow and record.shadow.denial.code for record in sink.records]
    assert codes == [
        *("not_authenticated", "feature_not_allowed", "model_not_allowed", "unpriced_model"),
        *("message_too_long", None),
    ]


async def test_kill_switches_are_no_difference(make: Make, sink: RecordingSink) -> None:
    client = make(limited(), limited())
    await done(client.guard.switch_off())
    with pytest.raises(Exception, match="switched off"):
        await chat(client)
    assert sink.records[-1].shadow is None


class Away:
    def reserve(self, *_: Any) -> Any:
        raise OSError

    settle = peek = reserve

    def close(self) -> None: ...


async def test_without_the_store_there_is_nothing_to_compare(make: Make, sink: RecordingSink) -> None:
    client = make(limited("1 requests/day"), limited("5 requests/day"), quota_store=Away())
    with pytest.raises(StoreUnavailableError):
        await chat(client)
    assert sink.records[-1].shadow is None


async def test_clients_that_share_a_store_share_the_shadow_s_counters(make: Make, sink: RecordingSink) -> None:
    store, clock = MemoryQuotaStore(), FakeClock()
    for _ in range(2):
        await chat(make(limited(), limited("1 requests/day"), quota_store=store, clock=clock))
    assert [record.shadow is None for record in sink.records] == [True, False]


async def test_it_may_stand_in_a_file_and_a_bad_one_is_refused(make: Make, tmp_path: Path, sink: RecordingSink) -> None:
    file = tmp_path / "next.toml"
    file.write_text('[plans.default]\nlimits = ["0 requests/day"]\n')
    client = make(limited(), file).with_options(max_retries=0)
    await chat(client)
    assert sink.last.shadow is not None
    file.write_text("[plans.default]\nlimitz = []\n")
    with pytest.raises(ConfigurationError, match="limitz"):
        make(limited(), file)
