"""The record of a call: every field of it, what it costs, exactly, and how it travels as a line of JSON."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from typing import Any

import openai
import pytest
from pydantic import TypeAdapter, ValidationError

from safe_llm import (
    Alert,
    AsyncSafeOpenAI,
    DeadlineExceededError,
    DeniedError,
    Finding,
    Policy,
    SafeOpenAI,
    UnpricedModelError,
    Usage,
    UsageRecord,
)
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink, Reply

pytestmark = pytest.mark.anyio

PROMPT = "Good morning"
ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": PROMPT}]}
USAGE = Usage(input_tokens=1_000, cached_input_tokens=200, output_tokens=300, reasoning_tokens=100)
FREE: dict[str, Any] = {"plans": {"default": {"limits": []}}}
"""A policy without limits, so that a price need not be known."""
Make = Callable[..., Any]


async def done(result: Any) -> Any:
    """What a client of either colour answers."""
    return await result if inspect.isawaitable(result) else result


async def chat(client: Any, **arguments: Any) -> Any:
    return await done(client.chat.completions.create(**{**ASK, **arguments}))


async def read(stream: Any, each: Callable[[], None] = lambda: None) -> None:
    """Read a stream of either colour, calling `each` after every chunk."""
    if hasattr(stream, "__aiter__"):
        async for _ in stream:
            each()
    else:
        for _ in stream:
            each()


@pytest.fixture(params=[SafeOpenAI, AsyncSafeOpenAI], ids=["sync", "async"])
async def make(
    request: pytest.FixtureRequest, server: FakeOpenAI, sink: RecordingSink, clock: FakeClock
) -> AsyncIterator[Make]:
    """Makes clients of one colour against the server; closes them in the end."""
    made: list[Any] = []

    def make(**arguments: Any) -> Any:
        base: dict[str, Any] = {"base_url": server.base_url, "api_key": "test", "max_retries": 0, "clock": clock}
        made.append(request.param(**{**base, "sinks": [sink], **arguments}))
        return made[-1]

    yield make
    for client in made:
        await done(client.close())


# Every field ----------------------------------------------------------------------------------------------------------

FIELDS = [
    *("record_id", "timestamp", "user_id", "feature", "session_id", "plan", "tags", "endpoint", "model"),
    *("response_model", "request_id", "stream", "outcome", "denial", "error", "attempts", "prompt_hash"),
    *("input_tokens_estimated", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens"),
    *("total_tokens", "usage_source", "cost_reserved_usd", "cost_usd", "price_version", "max_tokens"),
    *("trimmed_messages", "latency_ms", "first_token_ms", "findings", "policy_version", "degraded"),
]
MORE = [
    *("budget_action", "shadow", "requested_model"),
    *("output_tokens_estimated", "reserved_ms", "steps"),
]


def test_a_record_has_the_fields_of_the_contract_first_and_then_a_few_more() -> None:
    assert list(UsageRecord.model_fields) == [*FIELDS, *MORE]


async def test_each_field_of_a_plain_call(
    make: Make, server: FakeOpenAI, sink: RecordingSink, clock: FakeClock
) -> None:
    """gpt-4o-mini: 800 tokens at $0.15 per million, 200 cached at $0.075, 300 out at $0.60."""

    def answer(request: Any) -> Reply:
        clock.advance(0.25)
        return Reply("Hello", model="gpt-4o-mini-2024-07-18", usage=USAGE)

    server.respond(answer)
    client = make(plan_for={"u1": "pro"}, policy={"plans": {"pro": {"limits": ["$1/day"]}}})
    await chat(client, user_id="u1", feature="search", session_id="s1", tags={"team": "red"}, max_tokens=500)
    record = sink.last

    assert re.fullmatch("[0-9a-f]{32}", record.record_id)
    assert re.fullmatch("[0-9a-f]{64}", record.prompt_hash or "")
    assert record.model_dump(exclude={"record_id", "prompt_hash", "price_version", "steps"}) == {
        "timestamp": datetime(2027, 1, 15, 8, tzinfo=UTC),
        "user_id": "u1",
        "feature": "search",
        "session_id": "s1",
        "plan": "pro",
        "tags": {"team": "red"},
        "endpoint": "chat.completions",
        "model": "gpt-4o-mini",
        "response_model": "gpt-4o-mini-2024-07-18",
        "request_id": "req_000001",
        "stream": False,
        "outcome": "ok",
        "denial": None,
        "error": None,
        "attempts": 1,
        "input_tokens_estimated": 4 + len(PROMPT) + 3,  # a message's frame, at most a token per byte, the priming
        "input_tokens": 1_000,
        "cached_input_tokens": 200,
        "output_tokens": 300,
        "reasoning_tokens": 100,
        "total_tokens": 1_300,
        "usage_source": "provider",
        "cost_reserved_usd": Decimal("0.00030285"),  # 19 in, 500 out
        "cost_usd": Decimal("0.000315"),
        "max_tokens": 500,
        "trimmed_messages": 0,
        "latency_ms": 250.0,
        "first_token_ms": None,
        "findings": (),
        "policy_version": client.guard.policy.version,
        "degraded": False,
        "budget_action": None,
        "requested_model": None,
        "shadow": None,
        "output_tokens_estimated": 500,
        "reserved_ms": 0.0,
    }


async def test_a_stream_s_times_are_to_its_first_token_and_to_its_end(
    make: Make, server: FakeOpenAI, sink: RecordingSink, clock: FakeClock
) -> None:
    def answer(request: Any) -> Reply:
        clock.advance(0.25)
        return Reply(chunks=10)

    server.respond(answer)
    waits = iter([0.0, 0.5])  # the first chunk names the role; the second holds the first token

    await read(await chat(make(), stream=True), lambda: clock.advance(next(waits, 0.0)))
    record = sink.last
    assert (record.stream, record.outcome, record.usage_source) == (True, "ok", "provider")
    assert (record.first_token_ms, record.latency_ms) == (250.0, 750.0)


async def test_each_field_of_a_denied_call(make: Make, sink: RecordingSink) -> None:
    client = make(policy={"plans": {"default": {"limits": ["0 requests/day"]}}})
    with pytest.raises(DeniedError) as caught:
        await chat(client, user_id="u1", stream=True)
    record = sink.last
    assert record is caught.value.record
    assert (record.outcome, record.attempts, record.usage_source, record.stream) == ("denied", 0, "none", True)
    assert (record.input_tokens, record.output_tokens, record.total_tokens) == (0, 0, 0)
    assert record.cost_usd == 0
    assert (record.request_id, record.response_model, record.error, record.max_tokens) == (None, None, None, None)
    assert record.denial is not None
    assert record.denial.model_dump() == {
        "code": "rate_limit_exceeded",
        "limit": "0 requests/day",
        "scope": {"user": "u1"},
        "retry_after": None,
    }
    assert (record.plan, record.model, record.user_id) == ("default", "gpt-4o-mini", "u1")
    assert record.input_tokens_estimated > 0
    assert record.prompt_hash is not None


@pytest.mark.parametrize(
    ("reply", "outcome", "error", "source"),
    [
        (Reply("Hello"), "ok", None, "provider"),
        (Reply("Hello", usage=None), "ok", None, "estimated"),
        (Reply(status=400), "error", "BadRequestError", "none"),
        (Reply(status=503), "error", "InternalServerError", "none"),
        (Reply(cut="connect"), "error", "APIConnectionError", "estimated"),
        (Reply(delay=math.inf), "timeout", "DeadlineExceededError", "estimated"),
    ],
    ids=["ok", "no usage", "400", "503", "cut", "hang"],
)
async def test_the_record_says_how_the_call_ended(
    make: Make, server: FakeOpenAI, sink: RecordingSink, reply: Reply, outcome: str, error: str | None, source: str
) -> None:
    server.script(reply)
    try:
        await chat(make(clock=None), timeout=0.3)
    except (openai.APIError, DeadlineExceededError):
        assert outcome != "ok"
    record = sink.last
    assert (record.outcome, record.error, record.usage_source, record.attempts) == (outcome, error, source, 1)
    assert (record.cost_usd == 0) == (source == "none")


async def test_a_stream_that_is_left_early_is_aborted(make: Make, sink: RecordingSink) -> None:
    stream = await chat(make(), stream=True)
    await done(stream.close())
    assert (sink.last.outcome, sink.last.error, sink.last.usage_source) == ("aborted", None, "estimated")


async def test_retries_are_attempts_of_one_record(make: Make, server: FakeOpenAI, sink: RecordingSink) -> None:
    busy = Reply(status=503, headers={"retry-after-ms": "1"})
    server.script(busy, busy)
    await chat(make(max_retries=2))
    assert [(record.outcome, record.attempts, record.request_id) for record in sink.records] == [
        ("ok", 3, "req_000003")
    ]


async def test_equal_prompts_have_equal_hashes_and_the_hash_is_of_the_prompt_alone(
    make: Make, sink: RecordingSink
) -> None:
    client = make(policy=FREE)
    other = [{"role": "user", "content": "Good evening"}]
    for arguments in ({}, {"user_id": "u2", "model": "gpt-4o", "max_tokens": 5}, {"messages": other}):
        await chat(client, **arguments)
    first, second, third = (record.prompt_hash for record in sink.records)
    assert first == second != third


async def test_trimmed_messages_are_counted(make: Make, server: FakeOpenAI, sink: RecordingSink) -> None:
    messages = [{"role": role, "content": "Hi"} for role in ("system", "user", "assistant", "user")]
    await chat(make(policy={"input": {"max_turns": 1}}), messages=messages)
    assert sink.last.trimmed_messages == 2
    assert [message["role"] for message in server.requests[-1].body["messages"]] == ["system", "user"]


@pytest.mark.parametrize(
    ("asked", "sent"), [({}, 1_000), ({"max_tokens": 10}, 10), ({"max_completion_tokens": 9_000}, 4_000)]
)
async def test_the_cap_of_the_record_is_the_one_that_was_sent(
    make: Make, server: FakeOpenAI, sink: RecordingSink, asked: Mapping[str, int], sent: int
) -> None:
    await chat(make(), **asked)
    body = server.requests[-1].body
    assert sink.last.max_tokens == body.get("max_tokens", body.get("max_completion_tokens")) == sent


async def test_findings_of_checks_are_on_the_record(make: Make, sink: RecordingSink) -> None:
    finding = Finding(rule="odd", severity="low", where="messages[0]", score=0.5)

    class Odd:
        name = "odd"

        def inspect(self, content: Any) -> list[Finding]:
            return [finding] if content.phase == "input" else []

    await chat(make(checks=[Odd()]))
    assert sink.last.findings == (finding,)
    assert sink.last.outcome == "ok"


async def test_a_call_that_was_counted_locally_says_so(make: Make, sink: RecordingSink) -> None:
    class Away:
        def reserve(self, *arguments: Any) -> Any:
            raise ConnectionError

        settle = peek = reserve

        def close(self) -> None:
            pass

    await chat(make(quota_store=Away(), policy={"on_store_error": "allow"}))
    assert (sink.last.outcome, sink.last.degraded) == ("ok", True)


async def test_the_versions_change_with_the_policy_and_its_prices(make: Make, sink: RecordingSink) -> None:
    prices = {"gpt-4o-mini": {"input": "1", "output": "2"}}
    for policy in ({}, {"prices": prices}, {"timezone": "Asia/Tokyo"}):
        await chat(make(policy=policy))
    plain, priced, moved = sink.records
    assert len({record.policy_version for record in sink.records}) == 3
    assert plain.policy_version == Policy().version
    assert plain.price_version == moved.price_version
    assert re.fullmatch(r"genai-prices [0-9.]+", plain.price_version or "")
    assert re.fullmatch(rf"{re.escape(plain.price_version or '')}\+[0-9a-f]{{12}}", priced.price_version or "")


# What it costs --------------------------------------------------------------------------------------------------------

COSTS: dict[str, tuple[dict[str, Any], Reply, str | None]] = {
    "800 at $2.50, 200 at $1.25, 300 at $10": ({"model": "gpt-4o"}, Reply("Hi", usage=USAGE), "0.00525"),
    "nothing cached": ({"model": "gpt-4o"}, Reply("Hi", usage=Usage(1_000, 300)), "0.0055"),
    "one nano-USD's fraction is rounded up": (
        {"model": "gpt-5-mini"},
        Reply("Hi", usage=Usage(1, 0, 1)),
        "0.000000025",
    ),
    "an explicit nothing is believed": ({"model": "gpt-4o"}, Reply("Hi", usage=Usage(0, 0)), "0"),
    "the answer's tier: 800 at $0.45, 200 at $0.045, 300 at $3.60": (
        {"model": "gpt-5-mini"},
        Reply("Hi", usage=USAGE, service_tier="priority"),
        "0.001449",
    ),
    "a cheaper tier that was granted: half the price": (
        {"model": "gpt-5-mini", "service_tier": "flex"},
        Reply("Hi", usage=USAGE, service_tier="flex"),
        "0.0004025",
    ),
    "a cheaper tier that was asked for and not granted: the full price": (
        {"model": "gpt-5-mini", "service_tier": "flex"},
        Reply("Hi", usage=USAGE, service_tier="default"),
        "0.000805",
    ),
    "a fine-tuned model": ({"model": "ft:gpt-4o-mini:shop::a1"}, Reply("Hi", usage=USAGE), None),
    "an unknown model": ({"model": "nobody-s-model"}, Reply("Hi", usage=USAGE), None),
    "the requested name is not priced, the answer's is": (
        {"model": "shop-prod"},
        Reply("Hi", usage=USAGE, model="gpt-4o-2024-08-06"),
        "0.00525",
    ),
    "audio without a known rate": (
        {"model": "gpt-4o-audio-preview"},
        Reply("Hi", usage=Usage(1_000, 300, output_audio_tokens=10)),
        None,
    ),
}


@pytest.mark.parametrize("case", COSTS)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_call_costs_what_the_price_list_says_exactly(
    make: Make, server: FakeOpenAI, sink: RecordingSink, case: str, stream: bool
) -> None:
    arguments, reply, cost = COSTS[case]
    server.script(reply)
    result = await chat(make(policy=FREE), **arguments, **({"stream": True} if stream else {}))
    if stream:
        await read(result)
    assert sink.last.usage_source == "provider"
    assert sink.last.cost_usd == (None if cost is None else Decimal(cost))


PRICES = {
    "gpt-4o": {"input": "1", "cached_input": "0.5", "output": "2"},
    "ft:gpt-4o-mini:shop::a1": {"same_as": "gpt-4o"},
    "no-cache-price": {"input": "1", "output": "2"},
    "free": {"input": "0", "output": "0"},
}


@pytest.mark.parametrize(
    ("model", "cost"),
    [
        ("gpt-4o", "0.0015"),  # 800 at $1, 200 at $0.50, 300 at $2
        ("ft:gpt-4o-mini:shop::a1", "0.0015"),
        ("no-cache-price", "0.0016"),  # cached input costs what input costs
        ("free", "0"),
        ("gpt-4o-mini", "0.000315"),  # not named: the built-in price
    ],
)
async def test_the_policy_s_prices_replace_the_built_in_ones(
    make: Make, server: FakeOpenAI, sink: RecordingSink, model: str, cost: str
) -> None:
    server.script(Reply("Hi", usage=USAGE))
    await chat(make(policy={"prices": PRICES}), model=model)
    assert sink.last.cost_usd == Decimal(cost)


@pytest.mark.parametrize("model", ["ft:gpt-4o-mini:shop::a1", "nobody-s-model"])
async def test_a_model_without_a_price_is_denied_where_money_is_limited(
    make: Make, server: FakeOpenAI, sink: RecordingSink, model: str
) -> None:
    with pytest.raises(UnpricedModelError) as caught:
        await chat(make(), model=model)
    assert caught.value.limit == "$0.50/day"
    assert (server.count, sink.last.outcome, sink.last.cost_reserved_usd) == (0, "denied", None)


async def test_a_model_without_a_price_passes_where_no_money_is_limited(make: Make, sink: RecordingSink) -> None:
    await chat(make(policy={"plans": {"default": {"limits": ["50_000 tokens/day"]}}}), model="nobody-s-model")
    assert (sink.last.outcome, sink.last.cost_reserved_usd, sink.last.cost_usd) == ("ok", None, None)


async def test_the_dearer_of_the_asked_and_the_standard_tier_is_reserved(make: Make, sink: RecordingSink) -> None:
    """18 tokens in and 1,000 out; a flex request may be served at the standard price, which is twice as high."""
    client = make(policy=FREE)
    for tier in ({}, {"service_tier": "flex"}, {"service_tier": "priority"}):
        await chat(client, model="gpt-5-mini", **tier)
    reserved = [record.cost_reserved_usd for record in sink.records]
    assert reserved == [Decimal("0.0020045"), Decimal("0.0020045"), Decimal("0.0036081")]


async def test_every_answer_that_was_asked_for_is_reserved(make: Make, sink: RecordingSink) -> None:
    await chat(make(), n=3, max_tokens=100)
    assert sink.last.cost_reserved_usd == Decimal("0.00018285")  # 19 at 150 nano-USD, 300 at 600


async def test_a_hosted_tool_s_tokens_are_reserved_and_its_fee_is_charged(
    make: Make, server: FakeOpenAI, sink: RecordingSink
) -> None:
    server.script(Reply("Hi", usage=USAGE))
    tools = {"web_search": {"reserve_tokens": 1_000, "fee": "$0.01"}}
    await chat(make(policy={**FREE, "routes": {"hosted_tools": tools}}), web_search_options={}, max_tokens=100)
    record = sink.last
    assert record.cost_usd == Decimal("0.010315")
    assert record.input_tokens_estimated > 1_000
    tokens = record.input_tokens_estimated * Decimal("0.00000015") + 100 * Decimal("0.0000006")
    assert record.cost_reserved_usd == Decimal("0.01") + tokens


async def test_a_refused_call_costs_nothing_and_says_zero(make: Make, server: FakeOpenAI, sink: RecordingSink) -> None:
    server.script(Reply(status=429))
    with pytest.raises(openai.RateLimitError):
        await chat(make())
    assert (sink.last.cost_usd, sink.last.total_tokens, sink.last.outcome) == (Decimal(0), 0, "error")


async def test_a_program_s_own_decimal_precision_changes_nothing(
    make: Make, server: FakeOpenAI, sink: RecordingSink
) -> None:
    server.script(Reply("Hi", usage=Usage(123_457, 98_765)))
    with localcontext(prec=2):
        await chat(make(policy=FREE))
    assert str(sink.last.cost_usd) == "0.07777755"  # 123,457 at 150 and 98,765 at 600 nano-USD


# As a line of JSON ----------------------------------------------------------------------------------------------------


async def some_of_each(make: Make, server: FakeOpenAI) -> None:
    """An ordinary call, a costly one that raises alerts, a denied one and a failed one."""
    client = make(policy={"plans": {"default": {"limits": ["$0.01/day", "3 requests/day"]}}})
    server.script(Reply("Hi", usage=USAGE), Reply("Hi", usage=Usage(1_000, 20_000)), Reply(status=500))
    await chat(client, user_id="ü1", tags={"team": 'r"ed'})
    await chat(client, user_id="ü1")
    with pytest.raises(DeniedError):
        await chat(client, user_id="ü1")
    with pytest.raises(openai.InternalServerError):
        await chat(client, user_id="u2")


async def test_a_record_comes_back_from_its_line_of_json_as_it_was(
    make: Make, server: FakeOpenAI, sink: RecordingSink
) -> None:
    await some_of_each(make, server)
    assert [record.outcome for record in sink.records] == ["ok", "ok", "denied", "error"]
    for event in sink.events:
        line = event.model_dump_json()
        assert "\n" not in line
        assert type(event).model_validate_json(line) == event
        assert TypeAdapter(UsageRecord | Alert).validate_json(line) == event


async def test_money_is_a_decimal_in_memory_and_a_string_in_json_and_never_a_float(
    make: Make, server: FakeOpenAI, sink: RecordingSink
) -> None:
    await some_of_each(make, server)
    for record in sink.records:
        for name in ("cost_usd", "cost_reserved_usd"):
            assert type(getattr(record, name)) is Decimal
            assert type(json.loads(record.model_dump_json())[name]) is str
        floats = {name for name, value in record if isinstance(value, float)}
        assert floats <= {"latency_ms", "first_token_ms", "reserved_ms"}


async def test_a_record_cannot_be_changed(make: Make, sink: RecordingSink) -> None:
    await chat(make())
    with pytest.raises(ValidationError, match="frozen"):
        sink.last.user_id = "u2"  # type: ignore[misc]  # that it is an error is the point


async def test_neither_record_nor_alert_quotes_the_prompt_the_answer_or_the_key(
    make: Make, server: FakeOpenAI, sink: RecordingSink
) -> None:
    refusal = Reply(status=400, error={"message": "green llama"})
    server.script(Reply("purple elephant", usage=Usage(1_000, 700)), refusal)
    client = make(api_key="sk-secret", policy={"plans": {"default": {"limits": ["$0.0007/day"]}}})
    await chat(client)
    with pytest.raises(DeniedError):
        await chat(client)
    with pytest.raises(openai.BadRequestError):
        await chat(client, user_id="u2")
    assert len(sink.records) == 3
    assert sink.alerts
    lines = "".join(event.model_dump_json() for event in sink.events)
    assert not re.search("Good morning|purple|green|sk-secret", lines)
