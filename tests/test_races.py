"""A hundred calls at once against a limit that fits a few: exactly those few reach the provider.

The provider answers nobody before every call has been decided, so that all reservations overlap; every call of a race
asks for the same. Each race is run with threads on the sync client and with tasks on the async one.
"""

from __future__ import annotations

import asyncio
import math
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from safe_llm import (
    AsyncSafeOpenAI,
    BudgetExceededError,
    DeniedError,
    LimitExceededError,
    LimitStatus,
    RateLimitExceededError,
    SafeOpenAI,
    UsageRecord,
)
from safe_llm.stores import MemoryQuotaStore
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink, Reply, assert_no_overspend

CALLS = 100
FIT = 7

# One letter is one byte and one token: what is reserved for this input is exactly what `quote` counts.
CALL: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [{"role": "user", "content": "a"}],
    "max_completion_tokens": 50,
}

both_kinds = pytest.mark.parametrize(
    "kind", [pytest.param(SafeOpenAI, id="threads"), pytest.param(AsyncSafeOpenAI, id="tasks")]
)


@pytest.fixture(scope="module")
def price() -> Decimal:
    """The most USD that one `CALL` can cost: what is reserved for it."""
    with SafeOpenAI(api_key="test") as client:
        most = client.guard.quote(**CALL).max_usd
    assert most is not None
    return most


@pytest.fixture(scope="module")
def tokens() -> int:
    """The tokens that are reserved for one `CALL`."""
    with SafeOpenAI(api_key="test") as client:
        quote = client.guard.quote(**CALL)
    assert quote.max_output_tokens is not None
    return quote.input_tokens + quote.max_output_tokens


@dataclass(frozen=True)
class Race:
    """How a race ended."""

    answers: int
    denials: list[DeniedError]
    records: list[UsageRecord]
    usage: Callable[..., list[LimitStatus]]
    """``guard.usage``, to be asked afterwards."""


def race(
    server: FakeOpenAI,
    policy: Mapping[str, Any],
    *kinds: type[SafeOpenAI] | type[AsyncSafeOpenAI],
    callers: Sequence[Mapping[str, str]] = ({"user_id": "u1"},) * CALLS,
    store: MemoryQuotaStore | None = None,
) -> Race:
    """Let every caller make one `CALL` at the same moment, over clients of these kinds in turn, which share a store."""
    sink, clock, store = RecordingSink(), FakeClock(), store or MemoryQuotaStore()
    options: dict[str, Any] = {"policy": policy, "quota_store": store, "sinks": [sink], "clock": clock}
    clients = [kind(base_url=server.base_url, api_key="test", **options) for kind in kinds]
    asks = [
        partial(clients[position % len(clients)].chat.completions.create, **CALL, **caller)
        for position, caller in enumerate(callers)
    ]

    async def run() -> list[Any]:
        try:
            return await together(server, asks)
        finally:
            for client in clients:
                if isinstance(client, AsyncSafeOpenAI):
                    await client.close()
                else:
                    client.close()

    ended = asyncio.run(run())
    denials = [end for end in ended if isinstance(end, DeniedError)]
    unexpected = [end for end in ended if isinstance(end, BaseException) and end not in denials]
    assert not unexpected
    with SafeOpenAI(api_key="test", **options) as teller:
        return Race(len(ended) - len(denials), denials, sink.records, teller.guard.usage)


async def together(server: FakeOpenAI, asks: Sequence[partial[Any]]) -> list[Any]:
    """Start all at once, hold every answer back until all are decided, and return what each came to."""
    server.always(Reply(delay=math.inf))
    loop, opened = asyncio.get_running_loop(), asyncio.Event()
    blocking = sum(not asyncio.iscoroutinefunction(ask.func) for ask in asks)
    barrier = threading.Barrier(blocking + 1, timeout=10)

    def in_thread(ask: partial[Any]) -> Any:
        barrier.wait()
        return ask()

    async def in_task(ask: partial[Any]) -> Any:
        await opened.wait()
        return await ask()

    with ThreadPoolExecutor(blocking + 1) as pool:
        running = [
            asyncio.ensure_future(in_task(ask))
            if asyncio.iscoroutinefunction(ask.func)
            else loop.run_in_executor(pool, in_thread, ask)
            for ask in asks
        ]
        await loop.run_in_executor(pool, barrier.wait)
        opened.set()
        try:
            async with asyncio.timeout(15):
                # Decided is who is with the provider or has been denied.
                while server.count + sum(call.done() for call in running) < len(asks):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        finally:
            server.always(Reply())
            server.release()
        return await asyncio.gather(*running, return_exceptions=True)


def by_sentence(statuses: Sequence[LimitStatus]) -> dict[str, LimitStatus]:
    return {status.limit: status for status in statuses}


# One limit ------------------------------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("sentence", [f"{FIT} requests/minute", f"{FIT} requests/hour", f"{FIT} requests/day"])
def test_a_request_limit_lets_exactly_its_number_through(server: FakeOpenAI, kind: Any, sentence: str) -> None:
    ended = race(server, {"plans": {"default": {"limits": [sentence]}}}, kind)
    assert_fit(server, ended, FIT, RateLimitExceededError, sentence)
    assert {(error.used, error.held, error.requested) for error in ended.denials} == {(0, FIT, 1)}


@both_kinds
@pytest.mark.parametrize("spare", [0, 1], ids=["exactly", "and_half_a_call"])
@pytest.mark.parametrize("window", ["minute", "month"])
def test_a_token_limit_lets_as_many_through_as_their_bounds_fit(
    server: FakeOpenAI, kind: Any, window: str, spare: int, tokens: int
) -> None:
    sentence = f"{FIT * tokens + spare * tokens // 2} tokens/{window}"
    ended = race(server, {"plans": {"default": {"limits": [sentence]}}}, kind)
    assert_fit(server, ended, FIT, RateLimitExceededError, sentence)
    assert {error.requested for error in ended.denials} == {tokens}


@both_kinds
def test_a_limit_of_output_tokens_counts_the_caps(server: FakeOpenAI, kind: Any) -> None:
    sentence = f"{FIT * 50 + 25} output_tokens/day"
    ended = race(server, {"plans": {"default": {"limits": [sentence]}}}, kind)
    assert_fit(server, ended, FIT, RateLimitExceededError, sentence)


@both_kinds
@pytest.mark.parametrize("spare", ["0", "0.5"], ids=["exactly", "and_half_a_call"])
def test_a_budget_lets_as_many_through_as_it_can_pay_in_the_worst_case(
    server: FakeOpenAI, kind: Any, spare: str, price: Decimal
) -> None:
    sentence = f"${price * (FIT + Decimal(spare))}/day"
    ended = race(server, {"plans": {"default": {"limits": [sentence]}}}, kind)
    assert_fit(server, ended, FIT, BudgetExceededError, sentence)
    assert {(error.used, error.held, error.requested) for error in ended.denials} == {(0, price * FIT, price)}
    assert_no_overspend(ended.records, limit_usd=price * FIT)


@both_kinds
def test_concurrency_lets_its_number_in_at_one_time(server: FakeOpenAI, kind: Any) -> None:
    sentence = f"{FIT} concurrent"
    ended = race(server, {"plans": {"default": {"limits": [sentence]}}}, kind)
    assert_fit(server, ended, FIT, RateLimitExceededError, sentence)


def assert_fit(
    server: FakeOpenAI, ended: Race, fit: int, error: type[LimitExceededError], sentence: str, **caller: str
) -> None:
    """Exactly `fit` calls were sent, all others were denied by this limit, and nothing is held afterwards."""
    assert (server.count, server.peak, ended.answers) == (fit, fit, fit)
    assert {(type(denial), denial.limit) for denial in ended.denials} == {(error, sentence)}
    outcomes = Counter((record.outcome, record.attempts, record.usage_source) for record in ended.records)
    assert outcomes == {("ok", 1, "provider"): fit, ("denied", 0, "none"): len(ended.denials)}
    assert len({record.record_id for record in ended.records}) == len(ended.records)
    statuses = ended.usage(**(caller or {"user_id": "u1"}))
    assert_no_overspend(ended.records, guard_usage=statuses)
    assert by_sentence(statuses)[sentence].used == spent(ended.records, sentence)


def spent(records: Sequence[UsageRecord], sentence: str) -> int | Decimal:
    """What a limit must have counted, by the records."""
    billed = [record for record in records if record.outcome == "ok"]
    if sentence.startswith("$"):
        return sum((record.cost_usd or Decimal(0) for record in billed), Decimal(0))
    metric = sentence.split()[1].partition("/")[0]
    of_record: dict[str, Callable[[UsageRecord], int]] = {
        "requests": lambda record: 1,
        "concurrent": lambda record: 0,
        "tokens": lambda record: record.total_tokens,
        "output_tokens": lambda record: record.output_tokens,
    }
    return sum(map(of_record[metric], billed))


# Where it stands ------------------------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("what", ["requests", "money"])
@pytest.mark.parametrize("place", ["app", "feature"])
def test_a_total_of_the_application_or_a_feature_holds_over_all_its_users(
    server: FakeOpenAI, kind: Any, place: str, what: str, price: Decimal
) -> None:
    sentence = f"{FIT} requests/minute" if what == "requests" else f"${price * FIT}/month"
    roomy = {"default": {"limits": ["100 requests/day"]}}
    top = {"limits": [sentence]}
    policy = {"plans": roomy, **(top if place == "app" else {"features": {"chat": top}})}
    callers = [{"user_id": f"u{number}", "feature": "chat"} for number in range(CALLS)]
    ended = race(server, policy, kind, callers=callers)
    error = RateLimitExceededError if what == "requests" else BudgetExceededError
    assert_fit(server, ended, FIT, error, sentence, user_id="u1", feature="chat")


@both_kinds
def test_each_of_many_new_users_gets_a_limit_of_its_own(server: FakeOpenAI, kind: Any) -> None:
    callers = [{"user_id": f"u{number % 10}"} for number in range(CALLS)]
    ended = race(server, {"plans": {"default": {"limits": ["3 requests/day"]}}}, kind, callers=callers)
    let_through = Counter(record.user_id for record in ended.records if record.outcome == "ok")
    assert let_through == {f"u{number}": 3 for number in range(10)}
    assert server.count == 30


@both_kinds
def test_a_user_who_was_never_seen_before_has_no_head_start(server: FakeOpenAI, kind: Any) -> None:
    store = MemoryQuotaStore()
    policy = {"plans": {"default": {"limits": [f"{FIT} requests/day"]}}}
    race(server, policy, kind, callers=[{"user_id": "regular"}] * FIT, store=store)
    before = server.count
    ended = race(server, policy, kind, callers=[{"user_id": "newcomer"}] * CALLS, store=store)
    assert (before, server.count - before, len(ended.denials)) == (FIT, FIT, CALLS - FIT)


@both_kinds
def test_calls_without_a_user_race_for_one_shared_limit(server: FakeOpenAI, kind: Any) -> None:
    ended = race(server, {"plans": {"default": {"limits": [f"{FIT} requests/day"]}}}, kind, callers=[{}] * CALLS)
    assert (server.count, len(ended.denials)) == (FIT, CALLS - FIT)
    assert {denial.scope["user"] for denial in ended.denials} == {"anonymous"}


# Several limits at once -----------------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("tight", ["app", "plan", "feature"])
def test_a_call_denied_by_one_limit_takes_nothing_of_the_others(
    server: FakeOpenAI, kind: Any, tight: str, price: Decimal
) -> None:
    roomy = ["100_000 tokens/day", "$100/day", "1000 requests/hour", "1000 concurrent"]
    limits = {place: [*roomy, f"{FIT if place == tight else 900} requests/day"] for place in ("app", "plan", "feature")}
    policy = {
        "limits": limits["app"],
        "plans": {"default": {"limits": limits["plan"]}},
        "features": {"chat": {"limits": limits["feature"]}},
    }
    ended = race(server, policy, kind, callers=[{"user_id": "u1", "feature": "chat"}] * CALLS)
    assert {denial.limit for denial in ended.denials} == {f"{FIT} requests/day"}
    statuses = ended.usage(user_id="u1", feature="chat")
    assert len(statuses) == 15
    for status in statuses:
        assert (status.held, status.used) == (0, spent(ended.records, status.limit)), status
    assert server.count == FIT


@both_kinds
def test_a_user_denied_by_the_total_keeps_its_own_allowance(server: FakeOpenAI, kind: Any) -> None:
    policy = {"limits": [f"{FIT} requests/day"], "plans": {"default": {"limits": ["5 requests/day"]}}}
    callers = [{"user_id": f"u{number % 2}"} for number in range(CALLS)]
    ended = race(server, policy, kind, callers=callers)
    let_through = Counter(record.user_id for record in ended.records if record.outcome == "ok")
    assert sum(let_through.values()) == server.count == FIT
    for user in ("u0", "u1"):
        assert let_through[user] <= 5
        assert by_sentence(ended.usage(user_id=user))["5 requests/day"].used == let_through[user]


# Records and clients --------------------------------------------------------------------------------------------------


@both_kinds
def test_every_denied_call_leaves_one_record_that_says_why(server: FakeOpenAI, kind: Any) -> None:
    ended = race(server, {"plans": {"default": {"limits": [f"{FIT} requests/day"]}}}, kind)
    denied = {record.record_id: record for record in ended.records if record.outcome == "denied"}
    assert len(denied) == CALLS - FIT
    for error in ended.denials:
        assert error.record is denied.pop(error.record.record_id if error.record else "")
        assert error.record.denial is not None
        assert (error.record.denial.code, error.record.denial.limit) == ("rate_limit_exceeded", f"{FIT} requests/day")
        assert error.record.denial.scope == {"user": "u1"}
        assert (error.record.total_tokens, error.record.request_id) == (0, None)


@pytest.mark.parametrize("what", ["requests", "money", "concurrent"])
def test_a_sync_and_an_async_client_on_one_store_share_one_limit(server: FakeOpenAI, what: str, price: Decimal) -> None:
    sentence = {
        "requests": f"{FIT} requests/minute",
        "money": f"${price * FIT}/day",
        "concurrent": f"{FIT} concurrent",
    }[what]
    ended = race(server, {"plans": {"default": {"limits": [sentence]}}}, SafeOpenAI, AsyncSafeOpenAI)
    error = BudgetExceededError if what == "money" else RateLimitExceededError
    assert_fit(server, ended, FIT, error, sentence)


def test_threads_that_meet_at_a_fresh_client_all_get_the_guarded_resource() -> None:
    """None finds the SDK's own, which knows no `user_id`, while another one is making ours."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            with SafeOpenAI(api_key="test") as client, ThreadPoolExecutor(8) as threads:
                start = threading.Barrier(8)

                def first_use(client: SafeOpenAI = client, start: threading.Barrier = start) -> set[str]:
                    start.wait(10)
                    return {type(found).__name__ for found in (client.chat, client.chat.completions)}

                found = set().union(*threads.map(lambda use: use(), [first_use] * 8))
            assert found == {"SafeChat", "SafeCompletions"}
    finally:
        sys.setswitchinterval(interval)
