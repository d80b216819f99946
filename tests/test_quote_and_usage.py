"""What the guard answers when it is asked, `quote` and `usage`, and the kill switches."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import combinations
from typing import Any

import pytest

from safe_llm import (
    AsyncSafeOpenAI,
    ConfigurationError,
    DeniedError,
    FeatureNotAllowedError,
    Finding,
    Identity,
    MemoryQuotaStore,
    Policy,
    Quote,
    SafeOpenAI,
    SwitchedOffError,
    Usage,
    identify,
)
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink, Reply

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Good morning"}]}
NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)
"""Where a `FakeClock` stands: a Friday."""
Make = Callable[..., Any]


async def done(result: Any) -> Any:
    """What a client of either colour answers."""
    return await result if inspect.isawaitable(result) else result


async def chat(client: Any, **arguments: Any) -> Any:
    return await done(client.chat.completions.create(**{**ASK, **arguments}))


async def quote(client: Any, **arguments: Any) -> Quote:
    found: Quote = await done(client.guard.quote(**{**ASK, **arguments}))
    return found


async def usage(client: Any, **dimensions: Any) -> dict[str, Any]:
    """The statuses by the sentence of their limit."""
    return {status.limit: status for status in await done(client.guard.usage(**dimensions))}


@pytest.fixture(params=[SafeOpenAI, AsyncSafeOpenAI], ids=["sync", "async"])
async def make(
    request: pytest.FixtureRequest, server: FakeOpenAI, sink: RecordingSink, clock: FakeClock
) -> AsyncIterator[Make]:
    """Makes clients of one colour against the server; closes them in the end."""
    made: list[Any] = []

    def make(*limits: str, kind: Any = request.param, **arguments: Any) -> Any:
        base: dict[str, Any] = {"base_url": server.base_url, "api_key": "test", "max_retries": 0, "clock": clock}
        base["policy"] = {"plans": {"default": {"limits": list(limits)}}}
        made.append(kind(**{**base, "sinks": [sink], **arguments}))
        return made[-1]

    yield make
    for client in made:
        await done(client.close())


# Quotes ---------------------------------------------------------------------------------------------------------------


async def test_a_quote_tells_tokens_and_money(make: Make, server: FakeOpenAI, sink: RecordingSink) -> None:
    """gpt-4o-mini: two tokens of text, 4 and 3 around them, at 150 nano-USD. The most is what is reserved: at first a
    token for each byte, and 1,000 out at 600.
    """
    assert await quote(make(policy={})) == Quote(
        input_tokens=9,
        max_output_tokens=1_000,
        min_usd=Decimal("0.00000135"),
        max_usd=Decimal("0.00060285"),
        would_be_denied=None,
        model="gpt-4o-mini",
    )
    assert (server.requests, sink.events) == ([], [])


ARGUMENTS: dict[str, tuple[dict[str, Any], int]] = {
    "plain": ({}, 1_000),
    "cap": ({"max_tokens": 10}, 10),
    "cap too high": ({"max_completion_tokens": 9_000}, 4_000),
    "answers": ({"n": 3, "max_tokens": 10}, 30),
    "tier": ({"model": "gpt-5-mini", "service_tier": "priority"}, 1_000),
    "extra body": ({"extra_body": {"max_tokens": 20, "n": 2}}, 40),
    "stream": ({"stream": True}, 1_000),
    "long": ({"messages": [{"role": "user", "content": "Good morning, " * 200}]}, 1_000),
    "tool": ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]}, 1_000),
    "unpriced": ({"model": "nobody-s-model"}, 1_000),
}


@pytest.mark.parametrize("name", ARGUMENTS)
async def test_a_quote_s_most_is_what_the_same_call_reserves(make: Make, sink: RecordingSink, name: str) -> None:
    arguments, output_tokens = ARGUMENTS[name]
    client = make()
    told = await quote(client, **arguments, user_id="u1")
    answer = await chat(client, **arguments, user_id="u1")
    if "stream" in arguments:
        await done(answer.close())
    assert told.max_output_tokens == output_tokens
    assert told.max_usd == sink.last.cost_reserved_usd
    assert told.input_tokens <= sink.last.input_tokens_estimated
    assert (told.min_usd is None) == (told.max_usd is None) == (name == "unpriced")
    assert told.would_be_denied is None


async def test_a_quote_holds_and_counts_nothing(make: Make, sink: RecordingSink) -> None:
    client = make("1 requests/day", "$1/day", "1 concurrent", "1 requests/minute")
    for _ in range(5):
        assert (await quote(client, user_id="u1")).would_be_denied is None
    assert all((status.used, status.held) == (0, 0) for status in (await usage(client, user_id="u1")).values())
    assert sink.events == []
    await chat(client, user_id="u1")


class Suspicious:
    name = "suspicious"

    def inspect(self, content: Any) -> list[Finding]:
        return [Finding(rule="injection", severity="high", where="messages[0]", action="deny")]


class Away:
    """A store that cannot be reached."""

    def reserve(self, *arguments: Any) -> Any:
        raise ConnectionError

    settle = peek = reserve

    def close(self) -> None:
        pass


def limited(*limits: str) -> dict[str, Any]:
    return {"policy": {"plans": {"default": {"limits": list(limits)}}}}


DENIED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "nobody": ("not_authenticated", {"policy": {"identity": {"required": True}}}, {}),
    "plan": ("plan_unknown", {"plan_for": {"u1": "gold"}}, {"user_id": "u1"}),
    "feature": ("feature_not_allowed", {"policy": {"plans": {"default": {"features": ["a"]}}}}, {"feature": "b"}),
    "model": ("model_not_allowed", {"policy": {"plans": {"default": {"models": ["a"]}}}}, {}),
    "malformed": ("malformed_request", {}, {"max_tokens": 0}),
    "no messages": ("malformed_request", {}, {"messages": []}),
    "message": ("message_too_long", {"policy": {"input": {"max_message_chars": 3}}}, {}),
    "bytes": ("request_too_large", {"policy": {"input": {"max_request_bytes": 3}}}, {}),
    "context": ("context_too_long", {"policy": {"input": {"max_context_tokens": 3}}}, {}),
    "injection": ("injection_detected", {"checks": [Suspicious()]}, {}),
    "requests": ("rate_limit_exceeded", limited("0 requests/day"), {}),
    "tokens": ("rate_limit_exceeded", limited("20 tokens/minute"), {}),
    "concurrency": ("rate_limit_exceeded", limited("0 concurrent"), {}),
    "money": ("budget_exceeded", limited("$0.0001/month"), {}),
    "price": ("unpriced_model", {"policy": {}}, {"model": "nobody-s-model"}),
    "hosted tool": ("hosted_tool_blocked", {}, {"web_search_options": {}}),
    "store": ("store_unavailable", {"quota_store": Away()}, {}),
}


@pytest.mark.parametrize("reason", DENIED)
async def test_a_quote_foretells_each_denial_as_it_comes(
    make: Make, server: FakeOpenAI, sink: RecordingSink, reason: str
) -> None:
    code, settings, arguments = DENIED[reason]
    client = make(**settings)
    told = await quote(client, **arguments)
    assert sink.records == []
    with pytest.raises(DeniedError) as caught:
        await chat(client, **arguments)
    assert caught.value.code == code
    assert caught.value.record is not None
    assert told.would_be_denied == caught.value.record.denial
    assert server.count == 0


@pytest.mark.parametrize("limit", ["2 requests/minute", "2 requests/hour", "2 requests/day", "2 requests/month"])
async def test_a_quote_foretells_when_to_come_back(make: Make, clock: FakeClock, limit: str) -> None:
    client = make(limit)
    await chat(client, user_id="u1")
    clock.advance(7)
    await chat(client, user_id="u1")
    told = (await quote(client, user_id="u1")).would_be_denied
    with pytest.raises(DeniedError) as caught:
        await chat(client, user_id="u1")
    assert told is not None
    assert told.limit == limit
    assert told.retry_after == caught.value.retry_after
    assert told.retry_after is not None
    clock.advance(told.retry_after)
    assert (await quote(client, user_id="u1")).would_be_denied is None
    await chat(client, user_id="u1")


async def test_a_quote_still_tells_the_figures_of_what_would_be_denied(make: Make) -> None:
    told = await quote(make("0 requests/day"))
    assert (told.input_tokens, told.max_output_tokens, told.max_usd) == (9, 1_000, Decimal("0.00060285"))


async def test_a_quote_in_shadow_mode_tells_what_would_be_denied(make: Make) -> None:
    client = make(policy={"mode": "shadow", "plans": {"default": {"limits": ["0 requests/day"]}}})
    denial = (await quote(client)).would_be_denied
    assert denial is not None
    assert denial.code == "rate_limit_exceeded"


async def test_a_quote_takes_the_lower_cap_that_a_budget_still_pays(
    make: Make, server: FakeOpenAI, sink: RecordingSink
) -> None:
    """9 tokens in at 150 nano-USD leave 298,650 of 300,000, which pay 497 out at 600."""
    policy = {"output": {"on_budget": "shrink"}, "plans": {"default": {"limits": ["$0.0003/day"]}}}
    client = make(policy=policy)
    told = await quote(client)
    assert (told.max_output_tokens, told.max_usd, told.would_be_denied) == (497, Decimal("0.00029955"), None)
    await chat(client)
    assert server.requests[-1].body["max_completion_tokens"] == sink.last.max_tokens == 497


async def test_a_quote_takes_the_cheaper_model_that_a_budget_still_pays(make: Make, server: FakeOpenAI) -> None:
    output = {"on_budget": "downgrade", "downgrade": {"gpt-4o": "gpt-4o-mini"}}
    client = make(policy={"output": output, "plans": {"default": {"limits": ["$0.001/day"]}}})
    told = await quote(client, model="gpt-4o")
    assert (told.max_usd, told.would_be_denied) == (Decimal("0.00060285"), None)
    await chat(client, model="gpt-4o")
    assert server.requests[-1].body["model"] == "gpt-4o-mini"


async def test_a_quote_is_of_the_client_s_and_the_context_s_caller(make: Make) -> None:
    client = make(policy={"identity": {"required": True}})
    assert (await quote(client)).would_be_denied is not None
    assert (await quote(client, user_id="u1")).would_be_denied is None
    assert (await quote(client.with_identity(user_id="u1"))).would_be_denied is None
    with identify(user_id="u1"):
        assert (await quote(client)).would_be_denied is None


async def test_a_quote_of_an_unknown_endpoint_names_those_that_there_are(make: Make) -> None:
    with pytest.raises(ConfigurationError, match=r"chat\.completions"):
        await quote(make(), endpoint="chat.completion")


async def test_a_quote_for_what_is_no_user_is_a_value_error(make: Make) -> None:
    with pytest.raises(ValueError, match="user_id"):
        await quote(make(), user_id="")


async def test_a_quote_does_not_change_the_caller_s_arguments(make: Make) -> None:
    messages = [{"role": role, "content": "Hi"} for role in ("user", "assistant", "user")]
    before = [dict(message) for message in messages]
    await quote(make(policy={"input": {"max_turns": 1}}), messages=messages)
    assert messages == before


# Usage ----------------------------------------------------------------------------------------------------------------

DIMENSIONS: dict[str, Any] = {
    "user_id": "u1",
    "feature": "search",
    "session_id": "s1",
    "tags": {"team": "red"},
    "model": "gpt-4o-mini",
}
SPLIT = {
    "10 requests/day per user": {"user": "u1"},
    "11 requests/day per feature": {"feature": "search"},
    "12 requests/day per session": {"session": "s1"},
    "13 requests/day per tag:team": {"tag:team": "red"},
    "14 requests/day per model": {"model": "gpt-4o-mini"},
    "15 requests/day per plan": {"plan": "default"},
    "16 requests/day per app": {},
    "17 requests/day per user, model": {"user": "u1", "model": "gpt-4o-mini"},
}


async def test_usage_is_split_by_each_dimension(make: Make) -> None:
    client = make(*SPLIT)
    await chat(client, **DIMENSIONS)
    statuses = await usage(client, **DIMENSIONS)
    assert {limit: status.scope for limit, status in statuses.items()} == SPLIT
    assert {status.used for status in statuses.values()} == {1}
    assert [status.remaining for status in statuses.values()] == [9, 10, 11, 12, 13, 14, 15, 16]


OTHER: dict[str, tuple[dict[str, Any], set[str]]] = {
    "user": ({"user_id": "u2"}, {"10 requests/day per user", "17 requests/day per user, model"}),
    "feature": ({"feature": "code"}, {"11 requests/day per feature"}),
    "session": ({"session_id": "s2"}, {"12 requests/day per session"}),
    "tag": ({"tags": {"team": "blue"}}, {"13 requests/day per tag:team"}),
    "model": ({"model": "gpt-4o"}, {"14 requests/day per model", "17 requests/day per user, model"}),
}


@pytest.mark.parametrize("dimension", OTHER)
async def test_another_value_of_a_dimension_has_counters_of_its_own(make: Make, dimension: str) -> None:
    other, untouched = OTHER[dimension]
    client = make(*SPLIT)
    await chat(client, **DIMENSIONS)
    statuses = await usage(client, **{**DIMENSIONS, **other})
    assert {limit for limit, status in statuses.items() if status.used == 0} == untouched


async def test_usage_by_prompt_is_asked_for_by_the_hash_on_the_record(make: Make, sink: RecordingSink) -> None:
    client = make("5 requests/day per user, prompt")
    await chat(client, user_id="u1")
    (status,) = (await usage(client, user_id="u1", prompt=sink.last.prompt_hash)).values()
    assert status.used == 1
    (status,) = (await usage(client, user_id="u1", prompt="0" * 64)).values()
    assert status.used == 0


async def test_usage_lists_the_limits_of_the_app_the_plan_and_the_feature_in_the_policy_s_order(make: Make) -> None:
    policy = {
        "limits": ["$500/day"],
        "plans": {"default": {"limits": ["3 requests/day", "$1/month"]}, "pro": {"limits": ["30 requests/day"]}},
        "features": {"search": {"limits": ["$50/day", "5 requests/day per user"]}},
    }
    client = make(policy=policy, plan_for={"u2": "pro"})
    of_the_feature = ["$50/day", "5 requests/day per user"]
    assert list(await usage(client, user_id="u1")) == ["$500/day", "3 requests/day", "$1/month"]
    assert list(await usage(client, user_id="u2", feature="search")) == ["$500/day", "30 requests/day", *of_the_feature]
    assert list(await usage(client, user_id="u1", plan="pro")) == ["$500/day", "30 requests/day"]
    with pytest.raises(FeatureNotAllowedError):
        await usage(client, plan="gold")


async def test_usage_tells_each_metric_in_its_own_unit(make: Make, server: FakeOpenAI) -> None:
    """gpt-4o-mini: 1,000 at 150 nano-USD and 300 at 600."""
    limits = ("10 requests/day", "9_000 tokens/day", "8_000 input_tokens/day", "7_000 output_tokens/day", "$1/day")
    client = make(*limits)
    server.script(Reply("Hi", usage=Usage(1_000, 300)))
    await chat(client, user_id="u1")
    statuses = (await usage(client, user_id="u1")).values()
    assert [status.used for status in statuses] == [1, 1_300, 1_000, 300, Decimal("0.00033")]
    assert [status.remaining for status in statuses] == [9, 7_700, 7_000, 6_700, Decimal("0.99967")]
    assert [type(status.used) for status in statuses] == [int, int, int, int, Decimal]
    assert {status.held for status in statuses} == {0}


async def test_what_a_call_in_flight_may_use_is_held(make: Make) -> None:
    client = make("10 requests/day", "9_000 tokens/day", "$1/day", "2 concurrent")
    stream = await chat(client, user_id="u1", stream=True)
    statuses = (await usage(client, user_id="u1")).values()
    assert [status.used for status in statuses] == [0, 0, 0, 0]
    assert [status.held for status in statuses] == [1, 1_019, Decimal("0.00060285"), 1]
    assert [status.remaining for status in statuses] == [9, 7_981, Decimal("0.99939715"), 1]
    await done(stream.close())
    assert {status.held for status in (await usage(client, user_id="u1")).values()} == {0}


async def test_each_limit_says_when_the_whole_of_it_is_free_again(make: Make, clock: FakeClock) -> None:
    """Sliding windows are 61 slices, of a second for a minute, of a minute for an hour; weeks begin on Monday."""
    sliding = {"5 requests/minute": timedelta(seconds=61), "50 requests/hour": timedelta(minutes=61)}
    fixed = {
        "500 requests/day": datetime(2027, 1, 16, tzinfo=UTC),
        "600 requests/week": datetime(2027, 1, 18, tzinfo=UTC),
        "700 requests/month": datetime(2027, 2, 1, tzinfo=UTC),
        "2 concurrent": None,
    }
    client = make(*sliding, *fixed)
    for status in (await usage(client, user_id="u1")).values():
        assert status.resets_at == (NOW if status.limit in sliding else fixed[status.limit])
    await chat(client, user_id="u1")
    clock.advance(20)
    for status in (await usage(client, user_id="u1")).values():
        assert status.resets_at == (NOW + sliding[status.limit] if status.limit in sliding else fixed[status.limit])
    clock.advance(3_640)
    assert [status.used for status in (await usage(client, user_id="u1")).values()] == [0, 0, 1, 1, 1, 0]


async def test_what_is_told_quickly_is_never_too_early_and_at_most_a_window_late(make: Make, clock: FakeClock) -> None:
    client = make("5 requests/minute", "50 requests/hour", "500 requests/day", "2 concurrent")
    for passed in (0, 20, 30, 11, 3_600):
        await chat(client, user_id="u1")
        clock.advance(passed)
        exact = list((await usage(client, user_id="u1")).values())
        quick = list((await usage(client, user_id="u1", exact=False)).values())
        stands = [[(one.limit, one.used, one.held, one.remaining) for one in told] for told in (exact, quick)]
        assert stands[0] == stands[1]
        for one, other, most in zip(exact, quick, (61, 3_660, 0, None), strict=True):
            if most is None:
                assert one.resets_at is other.resets_at is None
            else:
                assert one.resets_at <= other.resets_at <= one.resets_at + timedelta(seconds=most)


async def test_usage_is_of_the_client_s_and_the_context_s_caller_and_else_of_anonymous(make: Make) -> None:
    client = make("9 requests/day")
    for caller, calls in (("anonymous", 1), ("u1", 2), ("u2", 3)):
        for _ in range(calls):
            await chat(client, **({} if caller == "anonymous" else {"user_id": caller}))
    found = [await usage(client), await usage(client.with_identity(user_id="u1"))]
    with identify(user_id="u2"):
        found.append(await usage(client))
    assert [statuses["9 requests/day"].used for statuses in found] == [1, 2, 3]


async def test_a_name_that_is_not_one_is_a_value_error(make: Make) -> None:
    with pytest.raises(ValueError, match="user_id"):
        await usage(make(), user_id="")


def test_the_policy_in_force_is_at_hand() -> None:
    policy = Policy(timezone="Asia/Tokyo")
    with SafeOpenAI(api_key="test", policy=policy) as client:
        assert client.guard.policy is policy


# Kill switches --------------------------------------------------------------------------------------------------------

CALLER = {"feature": "search", "user_id": "u1", "plan": "default", "model": "gpt-4o-mini"}
OTHERS = {"feature": "code", "user_id": "u2", "plan": "pro", "model": "gpt-4o"}
SUBSETS = [names for size in range(len(CALLER) + 1) for names in combinations(CALLER, size)]


@pytest.fixture
def switchable(make: Make) -> Any:
    """A client without limits, with two plans."""
    plans: dict[str, Any] = {"default": {"limits": []}, "pro": {"limits": []}}
    return make(policy={"plans": plans})


async def called(client: Any, caller: dict[str, str]) -> bool:
    """Whether a call of that feature, user, plan and model is let through."""
    bound = client.with_identity(Identity(caller["user_id"], plan=caller["plan"]), feature=caller["feature"])
    try:
        await chat(bound, model=caller["model"])
    except SwitchedOffError:
        return False
    return True


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
async def test_a_switch_stops_what_matches_all_that_it_names(switchable: Any, names: tuple[str, ...]) -> None:
    off = {name: CALLER[name] for name in names}
    await done(switchable.guard.switch_off(**off))
    assert not await called(switchable, CALLER)
    for name in CALLER:
        assert await called(switchable, {**CALLER, name: OTHERS[name]}) == (name in names)
    await done(switchable.guard.switch_on(**off))
    assert await called(switchable, CALLER)


async def test_another_process_learns_who_switched_off_what_when_and_why(
    kind: Any, server: FakeOpenAI, tmp_path: Any
) -> None:
    clock = FakeClock()
    made = {"base_url": server.base_url, "api_key": "test", "sinks": [], "clock": clock}
    one, other = (kind(**made, quota_store=f"sqlite:///{tmp_path}/quotas.db") for _ in range(2))
    assert await done(other.guard.switches()) == []
    await done(one.guard.switch_off(feature="search", reason="it loops", by="olga"))
    await done(one.guard.switch_off(feature="search", reason="again", by="oleg"))  # it was off already
    (event,) = await done(other.guard.switches())
    assert (event.action, event.scope, event.by, event.reason) == ("off", {"feature": "search"}, "olga", "it loops")
    assert event.at.timestamp() == clock.time()
    await done(other.guard.switch_on(feature="search"))
    assert await done(one.guard.switches()) == []
    await done(one.guard.switch_off(reason="x" * 10_000))
    (event,) = await done(other.guard.switches())
    assert (event.scope, event.reason) == ({}, "x" * 500)
    for client in (one, other):
        await done(client.close())


async def test_a_switch_stops_a_call_before_anything_is_sent_and_says_how_to_undo_it(
    switchable: Any, server: FakeOpenAI, sink: RecordingSink
) -> None:
    await done(switchable.guard.switch_off(user_id="u1", model="gpt-4o-mini", reason="leaked key"))
    with pytest.raises(SwitchedOffError) as caught:
        await chat(switchable, user_id="u1")
    assert server.count == 0
    assert (caught.value.status_code, caught.value.retry_after) == (503, None)
    assert caught.value.scope == {"model": "gpt-4o-mini", "user": "u1"}
    assert "switch_on(model='gpt-4o-mini', user_id='u1')" in str(caught.value)
    assert sink.last.denial is not None
    assert sink.last.denial.code == "switched_off"
    (alert,) = sink.alerts
    assert (alert.kind, alert.scope) == ("switched_off", {"model": "gpt-4o-mini", "user": "u1"})
    assert "leaked key" in alert.message


async def test_a_switch_is_told_of_once(switchable: Any, sink: RecordingSink) -> None:
    for _ in range(3):
        await done(switchable.guard.switch_off(user_id="u1"))
    assert len(sink.alerts) == 1


async def test_what_was_switched_off_twice_is_switched_on_once(switchable: Any) -> None:
    for _ in range(3):
        for _ in range(2):
            await done(switchable.guard.switch_off(user_id="u1"))
        assert not await called(switchable, CALLER)
        await done(switchable.guard.switch_on(user_id="u1"))
        assert await called(switchable, CALLER)


async def test_switching_on_what_is_on_is_harmless_and_undoes_nothing_else(switchable: Any) -> None:
    await done(switchable.guard.switch_on())
    await done(switchable.guard.switch_on(user_id="u1"))
    assert await called(switchable, CALLER)
    await done(switchable.guard.switch_off(user_id="u1"))
    await done(switchable.guard.switch_on())
    await done(switchable.guard.switch_on(user_id="u1", feature="search"))
    assert not await called(switchable, CALLER)


async def test_two_switches_are_undone_one_by_one(switchable: Any) -> None:
    await done(switchable.guard.switch_off(user_id="u1"))
    await done(switchable.guard.switch_off())
    await done(switchable.guard.switch_on(user_id="u1"))
    assert not await called(switchable, CALLER)
    await done(switchable.guard.switch_on())
    assert await called(switchable, CALLER)


async def test_a_switch_never_expires(switchable: Any, clock: FakeClock) -> None:
    await done(switchable.guard.switch_off(user_id="u1"))
    clock.advance(10 * 365 * 86_400)
    assert not await called(switchable, CALLER)


async def test_a_switch_holds_in_every_client_that_shares_the_store(make: Make) -> None:
    store = MemoryQuotaStore()
    policy = limited()["policy"]
    first, second = (make(kind=kind, quota_store=store, policy=policy) for kind in (SafeOpenAI, AsyncSafeOpenAI))
    stranger = make(policy=policy)
    for one, other in ((first, second), (second, first)):
        await done(one.guard.switch_off(user_id="u1"))
        assert not await called(one, CALLER)
        assert not await called(other, CALLER)
        assert await called(stranger, CALLER)
        await done(other.guard.switch_on(user_id="u1"))
        assert await called(one, CALLER)
        assert await called(other, CALLER)


async def test_a_quote_foretells_a_switch(switchable: Any) -> None:
    await done(switchable.guard.switch_off(model="gpt-4o-mini"))
    denial = (await quote(switchable)).would_be_denied
    assert denial is not None
    assert (denial.code, denial.scope) == ("switched_off", {"model": "gpt-4o-mini"})
    assert (await quote(switchable, model="gpt-4o")).would_be_denied is None


@pytest.mark.parametrize("name", CALLER)
async def test_a_switch_for_what_is_no_name_is_a_value_error(switchable: Any, name: str) -> None:
    for function in (switchable.guard.switch_off, switchable.guard.switch_on):
        with pytest.raises(ValueError, match="printable"):
            await done(function(**{name: ""}))
    assert await called(switchable, CALLER)
