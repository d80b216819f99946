"""Looking up plans: what is remembered, what is not, and how many look at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from safe_llm import FeatureNotAllowedError, Policy
from safe_llm._plans import PlanLookup
from safe_llm.identity import Claim
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink

pytestmark = pytest.mark.anyio

ALICE = Claim("alice")
ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Good morning"}]}
PATIENCE = 10.0


def lookup(plan_for: Any, clock: FakeClock | None = None, *, seconds: float = 60) -> PlanLookup:
    monotonic = (clock or FakeClock()).monotonic
    plans = {"default": {}, "free": {}, "pro": {}}
    policy = Policy(plans=plans, identity={"plan_seconds": seconds})
    return PlanLookup(plan_for, policy=lambda: policy, monotonic=monotonic)


async def find(plans: PlanLookup, colour: str, identity: Claim = ALICE) -> Any:
    if colour == "sync":
        return plans.find(identity)
    found = plans.find_async(identity)
    return await found if asyncio.iscoroutine(found) else found


class Directory:
    """A ``plan_for`` that notes who was asked for, and gives its answers in turn; an error is raised."""

    def __init__(self, *answers: Any) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    def __call__(self, user_id: str) -> Any:
        self.asked.append(user_id)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_an_answer_holds_for_a_while_and_each_user_has_his_own(colour: str) -> None:
    clock, directory = FakeClock(), Directory("free", "pro", None)
    plans = lookup(directory, clock)
    assert [await find(plans, colour) for _ in range(3)] == ["free"] * 3
    assert await find(plans, colour, Claim("bob")) == "pro"
    clock.advance(59.9)
    assert await find(plans, colour) == "free"
    clock.advance(0.2)
    assert [await find(plans, colour) for _ in range(2)] == [None, None]
    assert directory.asked == ["alice", "bob", "alice"]


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("first", [LookupError("a secret"), "gold", 7, ["free"]], ids=["error", "unknown", "7", "list"])
async def test_neither_an_error_nor_an_unknown_plan_is_remembered(colour: str, first: Any) -> None:
    plans = lookup(directory := Directory(first, "pro"))
    found = (await asyncio.gather(find(plans, colour), return_exceptions=True))[0]
    assert found == first
    assert [await find(plans, colour) for _ in range(2)] == ["pro", "pro"]
    assert len(directory.asked) == 2


@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_zero_seconds_asks_each_time(colour: str) -> None:
    plans = lookup(directory := Directory("free"), seconds=0)
    assert [await find(plans, colour) for _ in range(3)] == ["free"] * 3
    assert len(directory.asked) == 3


async def test_a_mapping_is_read_each_time() -> None:
    plans = lookup(mapping := {"alice": "free"})
    assert plans.find(ALICE) == "free"
    mapping["alice"] = "pro"
    assert (plans.find(ALICE), plans.find(Claim("bob"))) == ("pro", None)


async def test_at_most_ten_thousand_users_are_remembered() -> None:
    plans = lookup(directory := Directory("free"))
    for number in range(10_001):
        plans.find(Claim(f"u{number}"))
    plans.find(Claim("u10000"))
    plans.find(Claim("u0"))
    assert len(directory.asked) == 10_002


class Gate:
    """A ``plan_for`` that says when it was entered, and waits to be let on."""

    def __init__(self, answer: Any) -> None:
        self.entered, self.opened, self.times = threading.Event(), threading.Event(), 0
        self._answer = answer

    def __call__(self, user_id: str) -> Any:
        self.times += 1
        self.entered.set()
        assert self.opened.wait(PATIENCE)
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer


@pytest.mark.parametrize("answer", ["pro", LookupError("away")], ids=["found", "failed"])
async def test_fifty_threads_ask_once_and_share_the_answer_or_the_failure(answer: Any) -> None:
    gate = Gate(answer)
    plans = lookup(gate)

    def ask(_: int) -> Any:
        try:
            return plans.find(ALICE)
        except LookupError as error:
            return error

    with ThreadPoolExecutor(50) as pool:
        first = pool.submit(ask, 0)
        assert gate.entered.wait(PATIENCE)
        others = [pool.submit(ask, number) for number in range(1, 50)]
        gate.opened.set()
        found = {first.result(PATIENCE), *(other.result(PATIENCE) for other in others)}
    # Whoever came after a failure was over has asked anew, and rightly so.
    assert found == {answer}
    assert gate.times == 1 or isinstance(answer, LookupError)


async def test_fifty_tasks_ask_once_and_one_that_is_cancelled_takes_nobody_along() -> None:
    entered, opened, times = asyncio.Event(), asyncio.Event(), 0

    async def plan_for(user_id: str) -> str:
        nonlocal times
        times += 1
        entered.set()
        await opened.wait()
        return "pro"

    plans = lookup(plan_for)
    async with asyncio.timeout(PATIENCE):
        tasks = [asyncio.ensure_future(find(plans, "async")) for _ in range(50)]
        await entered.wait()
        tasks[0].cancel()
        opened.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == ["pro"] * 49
    assert times == 1


async def test_a_thread_that_is_interrupted_leaves_the_others_to_ask_for_themselves() -> None:
    gate = Gate(KeyboardInterrupt())
    plans = lookup(gate)

    def ask() -> Any:
        try:
            return plans.find(ALICE)
        except KeyboardInterrupt:
            return "interrupted"

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask)
        assert gate.entered.wait(PATIENCE)
        second = pool.submit(ask)
        gate.opened.set()
        assert [first.result(PATIENCE), second.result(PATIENCE)] == ["interrupted"] * 2
    assert gate.times == 2


@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_a_plan_for_that_makes_a_call_of_the_same_user_does_not_wait_for_itself(colour: str) -> None:
    depth = 0
    plans: PlanLookup

    def directly(user_id: str) -> Any:
        nonlocal depth
        depth += 1
        return "free" if depth > 1 else plans.find(ALICE)

    async def later(user_id: str) -> Any:
        nonlocal depth
        depth += 1
        return "free" if depth > 1 else await find(plans, "async")

    plans = lookup(directly if colour == "sync" else later)
    async with asyncio.timeout(PATIENCE):
        assert await find(plans, colour) == "free"


# Through a client -----------------------------------------------------------------------------------------------------

POLICY = {
    "plans": {
        "default": {"features": ["chat"], "models": ["gpt-4o-mini"], "limits": []},
        "pro": {"features": ["*"], "limits": []},
    }
}


@pytest.fixture
def make(kind: Any, server: FakeOpenAI, sink: RecordingSink) -> Callable[..., Any]:
    def make(**arguments: Any) -> Any:
        base = {"base_url": server.base_url, "api_key": "test", "sinks": [sink], "policy": POLICY}
        return kind(**{**base, **arguments})

    return make


async def done(result: Any) -> Any:
    return await result if asyncio.iscoroutine(result) else result


async def chat(client: Any, **arguments: Any) -> Any:
    return await done(client.chat.completions.create(**ASK, **arguments))


async def test_a_client_asks_once_a_minute(make: Callable[..., Any], sink: RecordingSink) -> None:
    clock, directory = FakeClock(), Directory("pro", "default")
    client = make(plan_for=directory, clock=clock)
    for _ in range(3):
        await chat(client, user_id="alice")
    clock.advance(61)
    await chat(client, user_id="alice")
    assert [record.plan for record in sink.records] == ["pro"] * 3 + ["default"]
    await done(client.close())


async def test_a_lookup_that_failed_denies_only_as_long_as_it_fails(make: Callable[..., Any]) -> None:
    client = make(plan_for=Directory(OSError("db.internal is away"), "pro"))
    with pytest.raises(FeatureNotAllowedError) as caught:
        await chat(client, user_id="alice")
    assert "internal" not in str(caught.value)
    await chat(client, user_id="alice")
    await done(client.close())


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ({"user_id": "alice", "feature": "chat"}, True),
        ({"user_id": "alice", "feature": "reports"}, False),
        ({"user_id": "alice"}, True),
        ({"user_id": "alice", "feature": "chat", "model": "gpt-4o"}, False),
        ({"user_id": "alice", "feature": "chat", "model": "gpt-4o-mini"}, True),
        ({"user_id": "paul", "feature": "reports", "model": "gpt-4o"}, True),
        ({"user_id": "alice", "plan": "pro", "feature": "reports"}, True),
        ({"user_id": "alice", "plan": "gold"}, False),
    ],
)
async def test_the_guard_tells_what_a_menu_should_offer(
    make: Callable[..., Any], asked: dict[str, Any], allowed: bool, server: FakeOpenAI, sink: RecordingSink
) -> None:
    client = make(plan_for={"paul": "pro"})
    assert await done(client.guard.allows(**asked)) is allowed
    bound = client.with_identity(user_id=asked["user_id"])
    rest = {name: value for name, value in asked.items() if name != "user_id"}
    assert await done(bound.guard.allows(**rest)) is allowed
    assert (server.count, sink.events) == (0, [])
    await done(client.close())


async def test_a_menu_offers_nothing_to_whom_nobody_can_look_up_or_verify(make: Callable[..., Any]) -> None:
    failing = make(plan_for=Directory(OSError()))
    assert await done(failing.guard.allows(user_id="alice", feature="chat")) is False
    strict = make(policy={**POLICY, "identity": {"verified": True}})
    assert await done(strict.guard.allows(user_id="alice", feature="chat")) is False
    for client in (failing, strict):
        await done(client.close())
