"""Circuit breakers: when they open, who may try, and what closes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import openai
import pytest

from safe_llm import RateLimitExceededError, SafeOpenAI, SwitchedOffError
from safe_llm.breakers import MOST, Breakers
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink, Reply

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Good morning"}]}
HERE = ("host", "model")
Make = Callable[..., Any]


def note(breakers: Breakers, answered: bool | None, now: float, circuit: tuple[str, str] = HERE) -> int:
    return breakers.note(circuit, answered, now, failures=3, seconds=30)


# By itself ------------------------------------------------------------------------------------------------------------


def test_only_failures_in_a_row_open_it() -> None:
    breakers = Breakers()
    for answered in (False, False, True, False, None, False):
        assert breakers.enter(HERE, 0) is None
        assert note(breakers, answered, 0) == 0
    assert note(breakers, False, 0) == 3
    assert (breakers.enter(HERE, 10), breakers.enter(("host", "other"), 10)) == (20, None)


def test_then_one_may_try_and_its_success_closes_it() -> None:
    breakers = Breakers()
    for _ in range(3):
        note(breakers, False, 0)
    assert breakers.enter(HERE, 29.5) == 0.5
    assert breakers.wait(HERE, 30) is None
    assert breakers.enter(HERE, 30) is None
    assert (breakers.enter(HERE, 30), breakers.wait(HERE, 31)) == (1.0, 1.0)
    assert note(breakers, True, 31) == 0
    assert [breakers.enter(HERE, 31) for _ in range(3)] == [None] * 3


def test_a_probe_that_fails_opens_it_anew_and_one_that_tells_nothing_leaves_the_turn_to_the_next() -> None:
    breakers = Breakers()
    for _ in range(3):
        note(breakers, False, 0)
    assert breakers.enter(HERE, 30) is None
    note(breakers, None, 30)
    assert breakers.enter(HERE, 30) is None
    assert note(breakers, False, 32) == 4
    assert breakers.enter(HERE, 61) == 1.0
    assert breakers.enter(HERE, 62) is None


def test_a_probe_that_never_ends_is_given_up() -> None:
    breakers = Breakers()
    for _ in range(3):
        note(breakers, False, 0)
    assert breakers.enter(HERE, 30) is None
    assert breakers.enter(HERE, 89) == 1.0
    assert breakers.enter(HERE, 90) is None


def test_calls_that_were_on_their_way_when_it_opened_do_not_keep_it_open() -> None:
    breakers = Breakers()
    for _ in range(3):
        note(breakers, False, 0)
    assert [note(breakers, False, 20) for _ in range(5)] == [0] * 5
    assert breakers.enter(HERE, 30) is None


def test_it_remembers_a_bounded_number_of_circuits() -> None:
    """Models may be named by callers."""
    breakers = Breakers()
    for number in range(MOST + 1):
        for _ in range(3):
            note(breakers, False, 0, ("host", f"m{number}"))
    assert breakers.enter(("host", "m0"), 1) is None
    assert breakers.enter(("host", f"m{MOST}"), 1) == 29


def test_of_fifty_threads_that_come_at_once_one_may_try() -> None:
    breakers, barrier = Breakers(), Barrier(50)
    for _ in range(3):
        note(breakers, False, 0)

    def enter(_: int) -> float | None:
        barrier.wait(10)
        return breakers.enter(HERE, 30)

    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(enter, range(50))).count(None) == 1


# On the path ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make(kind: Any, server: FakeOpenAI, sink: RecordingSink, clock: FakeClock) -> Make:
    def make(**arguments: Any) -> Any:
        policy = {"breaker": {"failures": 3, "seconds": 30}, "plans": {"default": {"limits": ["20 requests/day"]}}}
        base = {"base_url": server.base_url, "api_key": "test", "sinks": [sink], "max_retries": 0, "clock": clock}
        return kind(**{**base, "policy": policy, **arguments})

    return make


async def done(result: Any) -> Any:
    return await result if asyncio.iscoroutine(result) else result


async def chat(client: Any, **arguments: Any) -> Any:
    return await done(client.chat.completions.create(**{**ASK, **arguments}))


async def fails(client: Any, times: int, error: Any = openai.APIError, **arguments: Any) -> None:
    for _ in range(times):
        with pytest.raises(error):
            await chat(client, **arguments)


async def test_a_failing_provider_is_left_alone_and_tried_again_by_one_call(
    make: Make, server: FakeOpenAI, sink: RecordingSink, clock: FakeClock
) -> None:
    client = make()
    server.script(*[Reply(status=500)] * 3)
    await fails(client, 3)
    with pytest.raises(SwitchedOffError, match=r"breaker.*Try again in 30 s") as caught:
        await chat(client, user_id="alice")
    denial = caught.value
    assert (denial.code, denial.status_code, denial.retry_after) == ("circuit_open", 503, 30)
    assert denial.scope == {"host": "127.0.0.1", "model": "gpt-4o-mini"}
    assert (server.count, sink.last.outcome, sink.last.attempts) == (3, "denied", 0)
    (alert,) = [alert for alert in sink.alerts if alert.kind == "circuit_open"]
    assert alert.scope == denial.scope

    await chat(client, model="gpt-4o")  # has a circuit of its own
    quoted = (await done(client.guard.quote(**ASK))).would_be_denied
    assert quoted is not None
    assert quoted.code == "circuit_open"

    clock.advance(30)
    assert (await done(client.guard.quote(**ASK))).would_be_denied is None
    server.script(Reply(status=500))
    await fails(client, 1)
    await fails(client, 1, SwitchedOffError)
    clock.advance(30)
    for _ in range(2):
        await chat(client)
    assert server.count == 7
    await done(client.close())


async def test_what_the_breaker_denies_consumes_nothing(make: Make, server: FakeOpenAI) -> None:
    client = make()
    server.script(*[Reply(status=500)] * 3)
    await fails(client, 3)
    await fails(client, 3, SwitchedOffError)
    (status,) = await done(client.guard.usage())
    assert (status.used, status.held) == (3, 0)
    await done(client.close())


async def test_refusals_of_the_provider_are_answers(make: Make, server: FakeOpenAI) -> None:
    client = make()
    server.script(*[Reply(status=status) for status in (400, 401, 404, 429, 429, 429)])
    await fails(client, 6)
    await chat(client)
    await done(client.close())


async def test_no_connection_and_no_answer_in_time_are_failures(make: Make, server: FakeOpenAI) -> None:
    away = make(base_url="http://127.0.0.1:9/v1", timeout=1.0)
    await fails(away, 3, openai.APIConnectionError)
    await fails(away, 1, SwitchedOffError)
    slow = make(timeout=0.2)
    server.script(*[Reply(delay=5)] * 3)
    await fails(slow, 3, openai.APITimeoutError)
    await fails(slow, 1, SwitchedOffError)
    for client in (away, slow):
        await done(client.close())


async def test_streams_that_are_cut_are_failures_and_those_that_are_left_tell_nothing(
    make: Make, server: FakeOpenAI
) -> None:
    client = make()
    cut = Reply(text="one two three", cut=1, abrupt=False)
    server.script(cut, cut, Reply(text="one two"), cut)
    for leaves in (False, False, True, False):
        stream = await chat(client, stream=True)
        if hasattr(stream, "__aiter__"):
            async for _ in stream:
                if leaves:
                    await stream.close()
                    break
        else:
            for _ in stream:
                if leaves:
                    stream.close()
                    break
    await fails(client, 1, SwitchedOffError)
    await done(client.close())


async def test_a_probe_that_a_limit_denies_leaves_the_turn_to_the_next(
    make: Make, server: FakeOpenAI, clock: FakeClock
) -> None:
    client = make(
        policy={
            "breaker": {"failures": 2},
            "plans": {"default": {"limits": ["2 requests/day"]}, "pro": {"limits": []}},
        },
        plan_for={"paul": "pro"},
    )
    server.script(*[Reply(status=500)] * 2)
    await fails(client, 2, user_id="alice")
    clock.advance(30)
    await fails(client, 1, RateLimitExceededError, user_id="alice")
    await chat(client, user_id="paul")
    await done(client.close())


async def test_it_can_be_turned_off_and_blocks_nothing_in_shadow_mode(
    make: Make, server: FakeOpenAI, sink: RecordingSink
) -> None:
    server.script(*[Reply(status=500)] * 23)
    off = make(policy={"breaker": {"failures": "off"}, "plans": {"default": {"limits": []}}})
    await fails(off, 20)
    shadow = make(policy={"mode": "shadow", "breaker": {"failures": 3}})
    await fails(shadow, 3)
    await chat(shadow)
    assert sink.last.outcome == "ok"
    assert sink.last.denial is not None
    assert sink.last.denial.code == "circuit_open"
    for client in (off, shadow):
        await done(client.close())


def test_by_default_ten_failures_in_a_row_open_it(server: FakeOpenAI) -> None:
    client = SafeOpenAI(base_url=server.base_url, api_key="test", max_retries=0, sinks=[], policy={"limits": []})
    server.script(*[Reply(status=503)] * 11)
    codes = []
    for number in range(11):
        try:
            client.chat.completions.create(**ASK, user_id=f"u{number}")
        except openai.OpenAIError as error:
            codes.append(getattr(error, "status_code", None) if not isinstance(error, SwitchedOffError) else error.code)
    assert codes == [503] * 10 + ["circuit_open"]
    client.close()
