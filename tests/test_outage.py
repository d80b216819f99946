"""When the quota store is away: who is denied, who is counted by the process alone, and that nothing is lost for it."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from safe_llm import (
    AsyncSafeOpenAI,
    Charge,
    MemoryQuotaStore,
    RateLimitExceededError,
    Refusal,
    Reservation,
    SafeOpenAI,
    StoreUnavailableError,
    Tally,
)
from safe_llm import _outage as outage
from safe_llm.effects import Effect, Peek, Reserve, Settle, drive
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink, Reply
from safe_llm.types import Alert, LocalReservation

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}], "user_id": "u1"}
POLICY: dict[str, Any] = {
    "plans": {"default": {"limits": ["5 requests/day", "10_000 tokens/day", "4 concurrent"]}},
    "alert_at_percent": [],
}
AWAY = {"reserve", "settle", "peek"}
ALLOW = {**POLICY, "on_store_error": "allow"}


class Fragile:
    """A store behind a network that can be cut: before the request arrives, or before the answer is back."""

    def __init__(self) -> None:
        self.counters = MemoryQuotaStore()
        self.refuses: set[str] = set()
        self.loses: set[str] = set()
        self.asked: list[str] = []
        self.closed = False

    def follow(self, clock: Callable[[], float]) -> None:
        self.counters.follow(clock)

    def reserve(self, id: str, charges: Sequence[Charge], ttl: float) -> Reservation | Refusal:
        return self._do("reserve", lambda: self.counters.reserve(id, charges, ttl))

    def settle(self, reservation: Reservation, actual: Sequence[int]) -> bool:
        return self._do("settle", lambda: self.counters.settle(reservation, actual))

    def peek(self, charges: Sequence[Charge]) -> Sequence[Tally]:
        return self._do("peek", lambda: self.counters.peek(charges))

    def close(self) -> None:
        self.closed = True

    def _do(self, what: str, work: Callable[[], Any]) -> Any:
        self.asked.append(what)
        if what in self.refuses:
            raise ConnectionError("the address and the password of the store")
        done = work()
        if what in self.loses:
            raise ConnectionError("the address and the password of the store")
        return done


class AsyncFragile(Fragile):
    """The same with coroutines."""

    async def reserve(self, *arguments: Any) -> Any:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().reserve(*arguments)

    async def settle(self, *arguments: Any) -> Any:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().settle(*arguments)

    async def peek(self, *arguments: Any) -> Any:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().peek(*arguments)

    async def close(self) -> None:  # type: ignore[override]
        super().close()


async def done(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what happens in another thread or task."""
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.01)


KINDS = [(SafeOpenAI, Fragile), (AsyncSafeOpenAI, Fragile), (AsyncSafeOpenAI, AsyncFragile)]


class World:
    """A client of one of the kinds, its store, and everything around it."""

    def __init__(self, kind: Any, make: Any) -> None:
        self.kind = kind
        self.store = make()
        self.clock = FakeClock()
        self.sink = RecordingSink()
        self.server = FakeOpenAI()
        self.made: list[Any] = []

    def client(self, policy: Any = POLICY, **options: Any) -> Any:
        settings = {"quota_store": self.store, "sinks": [self.sink], "clock": self.clock, "max_retries": 0, **options}
        client = self.kind(base_url=self.server.base_url, api_key="k", policy=policy, **settings)
        self.made.append(client)
        return client

    async def call(self, client: Any, **options: Any) -> Any:
        return await done(client.chat.completions.create(**{**ASK, **options}))

    async def standing(self, client: Any) -> list[tuple[int, int]]:
        return [(status.used, status.held) for status in await done(client.guard.usage(user_id="u1"))]

    def back(self) -> None:
        """The store answers again, and every pause is over."""
        self.store.refuses = self.store.loses = set()
        self.clock.advance(outage.LONGEST)

    async def told(self, alerts: int) -> list[str]:
        await until(lambda: len(self.sink.alerts) == alerts)
        assert {alert.kind for alert in self.sink.alerts} == {"store_degraded"}
        return [alert.message for alert in self.sink.alerts]

    def counted(self) -> tuple[int, int]:
        """Calls and tokens by the records, of those that were not denied."""
        passed = [record for record in self.sink.records if record.outcome != "denied"]
        return len(passed), sum(record.total_tokens for record in passed)


@pytest.fixture(params=KINDS, ids=["sync", "async-blocking", "async"])
async def world(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[World]:
    made = World(*request.param)
    with made.server:
        yield made
        for client in made.made:
            await done(client.close())


# Deny -----------------------------------------------------------------------------------------------------------------


async def test_nothing_is_sent_while_the_store_is_away_and_only_the_first_call_waits_for_it(world: World) -> None:
    client = world.client()
    world.store.refuses = AWAY
    for _ in range(5):
        with pytest.raises(StoreUnavailableError, match="on_store_error is deny") as caught:
            await world.call(client)
        assert caught.value.retry_after is None
        assert "password" not in str(caught.value)
    assert (world.server.count, world.store.asked) == (0, ["reserve"])
    assert [record.outcome for record in world.sink.records] == ["denied"] * 5
    (message,) = await world.told(1)
    assert "ConnectionError" in message
    assert "denied" in message
    assert "password" not in message


async def test_calls_pass_again_by_themselves_when_the_store_is_back(world: World) -> None:
    client = world.client()
    world.store.refuses = AWAY
    with pytest.raises(StoreUnavailableError):
        await world.call(client)
    world.back()
    await world.call(client)
    _, message = await world.told(2)
    assert "back after 5.0 s" in message
    assert await world.standing(client) == [(1, 0), (world.sink.last.total_tokens, 0), (0, 0)]


async def test_a_denied_call_whose_reservation_was_made_after_all_gives_it_back(world: World) -> None:
    """The store took it, and the answer got lost."""
    client = world.client()
    world.store.loses = {"reserve"}
    with pytest.raises(StoreUnavailableError):
        await world.call(client)
    world.back()
    await world.told(2)
    assert await world.standing(client) == [(0, 0)] * 3
    assert world.server.count == 0


# Allow ----------------------------------------------------------------------------------------------------------------


async def test_the_process_counts_by_itself_within_the_limit_and_its_counts_are_added_afterwards(world: World) -> None:
    client = world.client(ALLOW)
    await world.call(client)
    world.store.refuses = AWAY
    for _ in range(5):
        await world.call(client)
    with pytest.raises(RateLimitExceededError):
        await world.call(client)
    assert [record.degraded for record in world.sink.records] == [False, *[True] * 5, False]
    world.back()
    begun, ended = await world.told(2)
    assert "counts calls by itself" in begun
    assert "have been added: 5." in ended
    calls, tokens = world.counted()
    assert await world.standing(client) == [(calls, 0), (tokens, 0), (0, 0)]
    assert calls == 6
    with pytest.raises(RateLimitExceededError):
        await world.call(client)
    assert world.sink.last.denial is not None


async def test_a_call_whose_lost_reservation_was_made_after_all_counts_once(world: World) -> None:
    client = world.client(ALLOW)
    world.store.loses = {"reserve"}
    await world.call(client)
    world.back()
    await world.told(2)
    calls, tokens = world.counted()
    assert await world.standing(client) == [(1, 0), (tokens, 0), (0, 0)]
    assert calls == 1


async def test_usage_and_quote_answer_meanwhile_what_holds_meanwhile(world: World) -> None:
    client = world.client(ALLOW)
    for _ in range(3):
        await world.call(client)
    world.store.refuses = AWAY
    await world.call(client)
    requests, *_ = await world.standing(client)
    assert requests == (1, 0)
    quote = await done(client.guard.quote(**ASK))
    assert quote.would_be_denied is None


async def test_a_second_outage_gives_no_second_limit_away(world: World) -> None:
    policy = {**ALLOW, "plans": {"default": {"limits": ["2 requests/day"]}}}
    client = world.client(policy)
    world.store.refuses = AWAY
    await world.call(client)
    world.back()
    await world.told(2)
    world.store.refuses = AWAY
    await world.call(client)
    with pytest.raises(RateLimitExceededError):
        await world.call(client)


async def test_a_call_that_is_in_flight_when_the_store_comes_back_is_added_when_it_ends(world: World) -> None:
    client = world.client(ALLOW)
    world.store.refuses = AWAY
    stream = await world.call(client, stream=True)
    world.back()
    await world.told(2)
    if world.kind is SafeOpenAI:
        assert list(stream)
    else:
        assert [chunk async for chunk in stream]
    await until(lambda: world.counted()[0] == 1 and not client._guard._link.owes)
    assert await world.standing(client) == [(1, 0), (world.counted()[1], 0), (0, 0)]


async def test_a_call_that_asks_again_for_less_is_counted_once_by_whoever_admits_it(world: World) -> None:
    """The first answer got lost; what it reserved is given back whatever becomes of the second."""
    plan = {"limits": ["$0.0005/day", "5 requests/day"], "output": {"on_budget": "shrink"}}
    client = world.client({**ALLOW, "plans": {"default": plan}})
    world.server.always(Reply("Hi", usage=(10, 5)))
    world.store.loses = {"reserve"}
    await world.call(client, max_tokens=900)
    await world.call(client, max_tokens=900)
    world.back()
    await world.told(2)
    money, requests = await done(client.guard.usage(user_id="u1"))
    assert (money.used, money.held) == (sum(record.cost_usd or 0 for record in world.sink.records), 0)
    assert (requests.used, requests.held) == (2, 0)


# Settlements ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["refuses", "loses"])
@pytest.mark.parametrize("policy", [POLICY, ALLOW], ids=["deny", "allow"])
async def test_a_settlement_that_did_not_arrive_is_delivered_by_itself_and_counts_once(
    world: World, policy: Any, how: str
) -> None:
    """Nobody calls any more; the answer came at once, and nothing stays held."""
    client = world.client(policy)
    setattr(world.store, how, {"settle"})
    answer = await world.call(client)
    assert answer.choices
    assert (world.sink.last.outcome, world.sink.last.degraded) == ("ok", False)
    assert len(world.sink.records) == 1
    world.back()
    await world.told(2)
    assert await world.standing(client) == [(1, 0), (world.sink.last.total_tokens, 0), (0, 0)]


async def test_a_stream_that_is_dropped_meanwhile_is_settled_afterwards(world: World) -> None:
    client = world.client()
    stream = await world.call(client, stream=True)
    world.store.refuses = AWAY
    if world.kind is SafeOpenAI:
        for _ in stream:
            break
    else:
        async for _ in stream:
            break
    del stream
    await until(lambda: len(world.sink.records) == 1 and bool(world.sink.alerts))
    world.back()
    await world.told(2)
    assert await world.standing(client) == [(1, 0), (world.sink.last.total_tokens, 0), (0, 0)]


async def test_closing_tries_once_more(world: World) -> None:
    client = world.client()
    world.store.refuses = {"settle"}
    await world.call(client)
    world.store.refuses = set()
    await done(client.close())
    other = world.client()
    assert await world.standing(other) == [(1, 0), (world.sink.last.total_tokens, 0), (0, 0)]


async def test_what_a_closed_store_was_not_told_is_named_in_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    client = world.client()
    client._guard._owns_store = True
    world.store.refuses = {"settle"}
    await world.call(client)
    await done(client.close())
    assert "did not reach it before: 1." in caplog.text
    assert "password" not in caplog.text
    assert world.store.closed


# What only the real store may answer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [POLICY, ALLOW], ids=["deny", "allow"])
async def test_a_kill_switch_is_not_set_where_nobody_else_would_see_it(world: World, policy: Any) -> None:
    client = world.client(policy)
    world.store.refuses = AWAY
    for change in (client.guard.switch_off, client.guard.switch_on):
        with pytest.raises(StoreUnavailableError):
            await done(change(feature="search"))
    world.back()
    await world.call(client, feature="search")
    assert world.sink.last.outcome == "ok"


async def test_a_threshold_that_could_not_be_looked_at_is_told_of_by_the_next_call(world: World) -> None:
    client = world.client({**ALLOW, "alert_at_percent": [20]})
    world.store.refuses = AWAY
    await world.call(client)
    assert [alert.kind for alert in world.sink.alerts] == ["store_degraded"]
    world.back()
    await until(lambda: len(world.sink.alerts) == 2)
    await world.call(client)
    kinds = [alert.kind for alert in world.sink.alerts]
    assert kinds == ["store_degraded", "store_degraded", "limit_threshold"]


# The end of a loop, a process, a fork ---------------------------------------------------------------------------------


def test_what_one_event_loop_could_not_deliver_the_next_one_does() -> None:
    world = World(AsyncSafeOpenAI, AsyncFragile)
    with world.server:
        client = world.client()
        world.store.loses = {"reserve"}
        with pytest.raises(StoreUnavailableError):
            asyncio.run(world.call(client))
        assert client._guard._link.owes

        async def later() -> None:
            world.back()
            await world.standing(client)
            await world.told(2)
            assert await world.standing(client) == [(0, 0)] * 3
            await client.close()

        asyncio.run(later())


PROGRAM = """
import atexit, sys

told = []
atexit.register(lambda: print(told))  # the last of all hooks: they are called in reverse

from safe_llm import MemoryQuotaStore, SafeOpenAI

class Store(MemoryQuotaStore):
    blocking = True
    away = True

    def settle(self, reservation, actual):
        if self.away:
            raise ConnectionError
        told.append(list(actual))
        return super().settle(reservation, actual)

store = Store()
policy = {"plans": {"default": {"limits": ["5 requests/day"]}}}
client = SafeOpenAI(base_url=sys.argv[1], api_key="k", quota_store=store, policy=policy, sinks=[])
client._guard._pause = lambda _: 3600  # nothing but the exit delivers
client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello"}])
store.away = False
"""


def test_a_normal_exit_tries_once_more(server: FakeOpenAI) -> None:
    command = [sys.executable, "-c", PROGRAM, server.base_url]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("[[0, 1]]\n", "", 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_what_is_owed_stays_with_the_parent_of_a_fork() -> None:
    link = outage.StoreLink(allows=lambda: False, clock=FakeClock(), emit=lambda _: None)
    link.instead(Settle(Reservation("id", (), 0.0), []), ConnectionError())
    client = SafeOpenAI(api_key="k", sinks=[])
    client._guard._link = link
    child = os.fork()
    if child == 0:
        os._exit(1 if link.owes else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert link.owes
    link.give_up()


# The link itself ------------------------------------------------------------------------------------------------------


class Linked:
    """A link, stepped: what is asked of the store fails or is noted."""

    def __init__(self, *, allows: bool = False) -> None:
        self.clock = FakeClock()
        self.alerts: list[Alert] = []
        self.link = outage.StoreLink(allows=lambda: allows, clock=self.clock, emit=self.alerts.append)
        self.fails: Callable[[Effect], bool] = lambda _: False
        self.told: list[Effect] = []

    def perform(self, effect: Effect) -> Any:
        if self.fails(effect):
            raise TimeoutError
        self.told.append(effect)
        return Reservation(effect.id, tuple(effect.charges), 0.0) if isinstance(effect, Reserve) else True

    def deliver(self) -> bool:
        return drive(self.link.deliver(), self.perform)

    def owe(self, *ids: str) -> None:
        for id in ids:
            self.link.instead(Settle(Reservation(id, (), 0.0), []), TimeoutError())

    def delivered(self) -> list[str]:
        return [effect.reservation.id for effect in self.told if isinstance(effect, Settle)]


def test_pauses_double_up_to_five_seconds_and_begin_anew_with_the_next_outage() -> None:
    here = Linked()
    for _ in range(2):
        here.link.failed(TimeoutError())
        pauses = []
        for _ in range(9):
            pauses.append(here.link.pause())
            assert not here.link.tries()
            here.clock.advance(here.link.pause())
            assert here.link.tries()
        assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5], abs=1e-6)
        here.link.answered()
        assert here.link.tries()
    assert len(here.alerts) == 4


def test_calls_that_fail_together_are_one_outage_and_one_pause() -> None:
    here = Linked()
    for _ in range(20):
        here.link.failed(TimeoutError())
    assert here.link.pause() == pytest.approx(0.1)
    assert len(here.alerts) == 1


def test_the_store_is_told_to_be_back_once_nothing_is_owed_to_it() -> None:
    here = Linked()
    here.owe("a", "b")
    assert here.deliver()
    assert here.link.tries()
    assert len(here.alerts) == 1
    assert here.deliver()
    assert len(here.alerts) == 2
    assert not here.deliver()
    assert here.delivered() == ["a", "b"]


def test_what_was_counted_here_is_added_whatever_the_limits_say() -> None:
    here = Linked(allows=True)
    charges = [Charge("k", 3, 3, "fixed", 0, 2**40)]
    here.link.failed(TimeoutError())
    reservation = here.link.instead(Reserve("id", charges, 30.0, True))
    assert isinstance(reservation, LocalReservation)
    assert isinstance(here.link.instead(Reserve("other", charges, 30.0, True)), Refusal)
    here.link.instead(Settle(reservation, [2]))
    assert here.link.instead(Peek(charges, True)) == [Tally(2, 0)]
    assert here.deliver()
    (asked, settled) = here.told
    assert isinstance(asked, Reserve)
    assert asked.charges == [charges[0]._replace(limit=2**53)]
    assert isinstance(settled, Settle)
    assert (settled.reservation.id, settled.actual) == (asked.id, [2])


def test_only_calls_are_counted_here() -> None:
    """An alert that is claimed, a switch or a note is everybody's: alone, and afterwards, it would mean nothing."""
    here = Linked(allows=True)
    with pytest.raises(StoreUnavailableError, match="TimeoutError"):
        here.link.instead(Reserve("switch/off#1", [Charge("k", 1, 1, "held", 0, 1)], 30.0), TimeoutError())
    assert not here.link.owes


def test_the_oldest_are_given_up_when_too_many_are_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "ROOM", 2)
    here = Linked()
    here.owe("a", "b", "c", "d")
    while here.deliver():
        pass
    assert here.delivered() == ["c", "d"]
    assert "given up, so that what they had reserved stays charged: 2." in here.alerts[-1].message


def test_a_settlement_that_is_itself_at_fault_is_given_up_and_is_in_nobodys_way() -> None:
    here = Linked()
    here.fails = lambda effect: isinstance(effect, Settle) and effect.reservation.id == "bad"
    here.owe("bad", "good")
    attempts = 0
    while here.link.owes:
        attempts += 1
        assert attempts < 100
        here.deliver()
        here.link.answered()  # a call has got through
    assert here.delivered() == ["good"]
    assert outage.STRIKES <= attempts <= outage.STRIKES + 2
    assert "stays charged: 1." in here.alerts[-1].message


def test_a_long_outage_is_no_fault_of_what_is_owed() -> None:
    here = Linked()
    here.fails = lambda _: True
    here.owe("a")
    for _ in range(5 * outage.STRIKES):
        assert not here.deliver()
    here.fails = lambda _: False
    assert here.deliver()
    assert here.delivered() == ["a"]
