"""Copies of a client: what they keep, what they replace, what they share, and who closes what."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Sequence
from typing import Any, get_type_hints

import openai
import pytest

from safe_llm import (
    AsyncSafeAzureOpenAI,
    AsyncSafeOpenAI,
    ConfigurationError,
    Identity,
    MemoryQuotaStore,
    RateLimitExceededError,
    SafeAzureOpenAI,
    SafeOpenAI,
)
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Good morning"}]}
ALL_FOUR = [SafeOpenAI, AsyncSafeOpenAI, SafeAzureOpenAI, AsyncSafeAzureOpenAI]
OURS = ["policy", "quota_store", "plan_for", "sinks", "checks", "hash_key", "clock", "verifier", "shadow_policy"]
COUNTED = {"plans": {"default": {"limits": ["2 requests/day"]}}}


async def done(result: Any) -> Any:
    """What a client of either colour answers."""
    return await result if inspect.isawaitable(result) else result


async def chat(client: Any, **arguments: Any) -> Any:
    return await done(client.chat.completions.create(**{**ASK, **arguments}))


async def used(client: Any, user_id: str = "u1") -> list[Any]:
    """What each limit of a user has used."""
    return [status.used for status in await done(client.guard.usage(user_id=user_id))]


@pytest.fixture
async def client(kind: Any, server: FakeOpenAI, sink: RecordingSink) -> Any:
    client = kind(
        base_url=server.base_url,
        api_key="test",
        sinks=[sink],
        policy=COUNTED,
        clock=FakeClock(),
        hash_key="key",
        default_headers={"X-App": "shop"},
    )
    yield client
    await done(client.close())


def azure(client_class: Any) -> dict[str, Any]:
    where = {"azure_endpoint": "https://example.openai.azure.com", "api_version": "2026-01-01"}
    return where if "Azure" in client_class.__name__ else {}


# What a copy keeps ----------------------------------------------------------------------------------------------------


async def test_a_copy_keeps_the_guard_its_counters_and_the_identity(client: Any, sink: RecordingSink) -> None:
    bound = client.with_identity(user_id="u1", feature="search")
    await chat(bound)
    copied = bound.copy()
    await chat(copied)
    with pytest.raises(RateLimitExceededError):
        await chat(copied.with_options(max_retries=0))
    assert [(record.user_id, record.feature) for record in sink.records] == [("u1", "search")] * 3
    assert await used(client) == [2]


async def test_a_copy_replaces_what_it_names_of_the_sdk_s_own(
    client: Any, server: FakeOpenAI, sink: RecordingSink
) -> None:
    copied = client.with_options(timeout=7.0, max_retries=5, api_key="other", default_headers={"X-Page": "cart"})
    assert type(copied) is type(client)
    assert (copied.timeout, copied.max_retries, copied.api_key) == (7.0, 5, "other")
    await chat(copied)
    headers = server.requests[-1].headers
    assert (headers["x-app"], headers["x-page"], headers["authorization"]) == ("shop", "cart", "Bearer other")
    assert (client.timeout, client.max_retries, client.api_key) != (7.0, 5, "other")


async def test_binding_an_identity_keeps_the_options_of_a_copy(client: Any, server: FakeOpenAI) -> None:
    bound = client.with_options(max_retries=5).with_identity(user_id="u1")
    await chat(bound)
    assert bound.max_retries == 5
    assert server.requests[-1].headers["x-app"] == "shop"


async def test_resources_that_were_used_before_do_not_lead_back_to_the_first_client(
    client: Any, sink: RecordingSink
) -> None:
    await chat(client)
    await chat(client.with_identity(user_id="u2"))
    await chat(client.with_identity(user_id="u3").copy())
    assert [record.user_id for record in sink.records] == ["anonymous", "u2", "u3"]


async def test_with_options_is_copy(kind: Any) -> None:
    assert kind.with_options is kind.copy


# What a copy replaces of ours -----------------------------------------------------------------------------------------


async def test_another_policy_holds_in_the_copy_and_shares_the_counters(client: Any) -> None:
    generous = client.with_options(policy={"plans": {"default": {"limits": ["3 requests/day"]}}})
    for asked in (client, client, generous):
        await chat(asked, user_id="u1")
    for asked in (client, generous):
        with pytest.raises(RateLimitExceededError):
            await chat(asked, user_id="u1")
    assert await used(client) == await used(generous) == [3]
    assert [str(limit) for limit in client.guard.policy.plans["default"].limits] == ["2 requests/day"]


async def test_another_policy_keeps_everything_else(client: Any, sink: RecordingSink) -> None:
    await chat(client.with_identity(user_id="u1"))
    await chat(client.with_identity(user_id="u1").with_options(policy={}))
    first, second = sink.records
    assert (first.user_id, first.prompt_hash, first.timestamp) == (second.user_id, second.prompt_hash, second.timestamp)
    assert first.policy_version != second.policy_version


async def test_another_store_has_its_own_counters(client: Any) -> None:
    store = MemoryQuotaStore()
    moved = client.with_options(quota_store=store)
    await chat(moved, user_id="u1")
    assert (await used(client), await used(moved)) == ([0], [1])


async def test_another_plan_for_and_other_sinks_hold_in_the_copy(client: Any, sink: RecordingSink) -> None:
    other = RecordingSink()
    copied = client.with_options(
        policy={"plans": {"pro": {"limits": []}}}, plan_for=lambda user_id: "pro", sinks=[other], hash_key="another"
    )
    await chat(copied, user_id="u1")
    await chat(client, user_id="u1")
    assert (other.last.plan, sink.last.plan) == ("pro", "default")
    assert other.last.prompt_hash != sink.last.prompt_hash
    assert len(other.records) == len(sink.records) == 1


async def test_another_clock_and_other_checks_hold_in_the_copy(client: Any, sink: RecordingSink) -> None:
    seen: list[Any] = []

    class Watching:
        name = "watching"

        def inspect(self, content: Any) -> Sequence[Any]:
            seen.append(content.phase)
            return ()

    await chat(client.with_options(clock=FakeClock(2e9), checks=[Watching()]))
    assert sink.last.timestamp.timestamp() == 2e9
    assert "input" in seen


async def test_a_wrong_policy_in_a_copy_is_a_configuration_error(client: Any) -> None:
    with pytest.raises(ConfigurationError, match="limitz"):
        client.with_options(policy={"limitz": []})


# Every keyword by name ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client_class", ALL_FOUR)
def test_the_constructor_and_copy_name_every_keyword_of_the_sdk_s_and_ours(client_class: Any) -> None:
    sdk = next(base for base in client_class.__mro__ if base.__module__.startswith("openai"))
    for method in ("__init__", "copy", "with_options"):
        ours = inspect.signature(getattr(client_class, method)).parameters
        theirs = inspect.signature(getattr(sdk, method)).parameters
        assert list(ours) == [*theirs, *OURS]
        assert {parameter.kind for name, parameter in ours.items() if name in OURS} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("client_class", ALL_FOUR)
@pytest.mark.parametrize("method", ["__init__", "copy", "with_options"])
def test_the_types_of_the_keywords_are_the_sdk_s_to_whoever_inspects(client_class: Any, method: str) -> None:
    sdk = next(base for base in client_class.__mro__ if base.__module__.startswith("openai"))
    theirs = get_type_hints(getattr(sdk, method))
    ours = get_type_hints(getattr(client_class, method))
    assert ours == {name: kind for name, kind in theirs.items() if name != "return"}


@pytest.mark.parametrize("client_class", ALL_FOUR)
def test_copy_has_every_parameter_of_the_constructor(client_class: Any) -> None:
    """The SDK's own test of its clients, run on ours."""
    client = client_class(api_key="test", **azure(client_class))
    known = inspect.signature(client.copy).parameters
    # As the SDK leaves them out of its own copy: what makes no sense there, or is named otherwise.
    left_out = {"_strict_response_validation", "self", "azure_endpoint", "azure_deployment"}
    missing = inspect.signature(type(client).__init__).parameters.keys() - known.keys() - left_out
    assert not missing


@pytest.mark.parametrize("client_class", ALL_FOUR)
def test_copy_passes_every_option_of_the_sdk_on(client_class: Any) -> None:
    """What a copy of the SDK's own client has, ours has."""
    sdk = next(base for base in client_class.__mro__ if base.__module__.startswith("openai"))
    changes: dict[str, Any] = {"organization": "org", "project": "shop", "default_query": {"a": "1"}, "max_retries": 7}
    for one in (client_class, sdk):
        copied = one(api_key="test", **azure(one)).copy(**changes)
        assert (copied.organization, copied.project, copied.max_retries) == ("org", "shop", 7)
        assert copied.default_query["a"] == "1"


@pytest.mark.parametrize("client_class", ALL_FOUR)
def test_an_unknown_keyword_is_a_type_error(client_class: Any) -> None:
    with pytest.raises(TypeError, match="policee"):
        client_class(api_key="test", policee={}, **azure(client_class))
    with pytest.raises(TypeError, match="policee"):
        client_class(api_key="test", **azure(client_class)).copy(policee={})


@pytest.mark.parametrize("client_class", ALL_FOUR)
def test_the_clients_are_the_sdk_s(client_class: Any) -> None:
    sdk = getattr(openai, client_class.__name__.replace("Safe", ""))
    assert issubclass(client_class, sdk)


# Closing --------------------------------------------------------------------------------------------------------------


class WatchedStore(MemoryQuotaStore):
    """Counts how often it was closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[WatchedStore]:
    """The stores that clients open by URL."""
    stores: list[WatchedStore] = []

    def from_url(url: str) -> WatchedStore:
        stores.append(WatchedStore())
        return stores[-1]

    monkeypatch.setattr(MemoryQuotaStore, "from_url", staticmethod(from_url))
    return stores


async def test_a_client_closes_the_store_that_it_opened(kind: Any, opened: list[WatchedStore]) -> None:
    client = kind(api_key="test", quota_store="memory://")
    assert [store.closed for store in opened] == [0]
    await done(client.close())
    assert [store.closed for store in opened] == [1]


async def test_a_client_leaves_a_store_open_that_it_was_given(kind: Any, server: FakeOpenAI) -> None:
    store = WatchedStore()
    first, second = (kind(api_key="test", base_url=server.base_url, quota_store=store, policy=COUNTED) for _ in "ab")
    await chat(first, user_id="u1")
    await done(first.close())
    await chat(second, user_id="u1")
    assert await used(second) == [2]
    await done(second.close())
    assert store.closed == 0


async def test_leaving_a_with_block_closes_the_client(kind: Any, opened: list[WatchedStore]) -> None:
    client = kind(api_key="test", quota_store="memory://")
    if kind is SafeOpenAI:
        with client as entered:
            assert entered is client
    else:
        async with client as entered:
            assert entered is client
    assert client.is_closed()
    assert [store.closed for store in opened] == [1]


async def test_closing_twice_is_harmless(kind: Any) -> None:
    client = kind(api_key="test")
    await done(client.close())
    await done(client.close())
    assert client.is_closed()


class SlowSink:
    """Has its own thread, and remembers late."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.closed = False

    def emit(self, event: Any) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed = True


async def test_closing_delivers_what_the_sinks_wait_for(kind: Any, server: FakeOpenAI) -> None:
    sink = SlowSink()
    client = kind(api_key="test", base_url=server.base_url, sinks=[sink])
    await chat(client)
    await done(client.close())
    assert [event.outcome for event in sink.events] == ["ok"]
    assert sink.closed


COPIES = {
    "plain": lambda client: client.copy(),
    "another time-out": lambda client: client.with_options(timeout=1),
    "another policy": lambda client: client.with_options(policy={}),
    "bound": lambda client: client.with_identity(user_id="u1"),
}


@pytest.mark.parametrize("way", COPIES)
async def test_a_copy_does_not_close_the_store_that_the_first_opened(
    kind: Any, opened: list[WatchedStore], way: str
) -> None:
    client = kind(api_key="test", quota_store="memory://")
    await done(COPIES[way](client).close())
    assert [store.closed for store in opened] == [0]
    await done(client.close())
    assert [store.closed for store in opened] == [1]


async def test_a_copy_closes_the_store_that_it_opened_itself(kind: Any, opened: list[WatchedStore]) -> None:
    client = kind(api_key="test", quota_store=MemoryQuotaStore())
    await done(client.with_options(quota_store="memory://").close())
    await done(client.close())
    assert [store.closed for store in opened] == [1]


async def test_a_client_that_could_not_be_constructed_can_be_collected(kind: Any) -> None:
    """The SDK's own destructor closes, and must find nothing missing: warnings are errors here."""
    with pytest.raises(ConfigurationError):
        kind(api_key="test", policy={"nonsense": 1})
    gc.collect()


async def test_an_identity_that_is_not_one_cannot_be_bound(client: Any) -> None:
    with pytest.raises(ValueError, match="user_id="):
        client.with_identity("u1")
    with pytest.raises(ValueError, match="two different users"):
        client.with_identity(Identity("u1"), user_id="u2")
