"""Time as a client lives through it, on a clock of our own: windows slide and turn over, leases end, alerts come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from inspect import isawaitable
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safe_llm import (
    AsyncSafeOpenAI,
    BudgetExceededError,
    LimitExceededError,
    LimitStatus,
    RateLimitExceededError,
    SafeOpenAI,
)
from safe_llm.stores import MemoryQuotaStore
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink, Reply, Request
from safe_llm.types import Usage

BERLIN = ZoneInfo("Europe/Berlin")
CALL: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}

both_kinds = pytest.mark.parametrize("kind", [SafeOpenAI, AsyncSafeOpenAI], ids=["sync", "async"])
random_times = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@dataclass
class App:
    """A client of either kind, driven the same way."""

    client: Any
    clock: FakeClock
    sink: RecordingSink
    wait: Callable[[Any], Any]
    """Awaits what the async client returns; passes on what the sync one does."""

    def ask(self, user: str = "u1", **options: Any) -> Any:
        return self.wait(self.client.chat.completions.create(**CALL, user_id=user, **options))

    def denied(self, user: str = "u1", **options: Any) -> LimitExceededError:
        """Ask, and expect a limit to refuse."""
        with pytest.raises(LimitExceededError) as caught:
            self.ask(user, **options)
        return caught.value

    def fits(self, user: str = "u1") -> bool:
        """Ask; whether the call was admitted."""
        try:
            self.ask(user)
        except LimitExceededError:
            return False
        return True

    def status(self, user: str = "u1") -> LimitStatus:
        """How the policy's only limit stands."""
        (status,) = self.wait(self.client.guard.usage(user_id=user))
        assert isinstance(status, LimitStatus)
        return status

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock.time(), UTC)


@contextmanager
def app(server: FakeOpenAI, kind: Any, *limits: str, start: datetime | None = None, **policy: Any) -> Iterator[App]:
    """An app with these limits for each user, whose clock stands at `start`."""
    clock, sink = FakeClock(), RecordingSink()
    if start is not None:
        clock.set(start.timestamp())
    with asyncio.Runner() as runner:

        async def until(answer: Any) -> Any:
            return await answer

        def wait(answer: Any) -> Any:
            return runner.run(until(answer)) if isawaitable(answer) else answer

        store = policy.pop("store", None)
        policy = {"plans": {"default": {"limits": limits}}, **policy}
        client = kind(
            base_url=server.base_url, api_key="test", policy=policy, sinks=[sink], clock=clock, quota_store=store
        )
        try:
            yield App(client, clock, sink, wait)
        finally:
            wait(client.close())


def berlin(*date: int) -> datetime:
    return datetime(*date, tzinfo=BERLIN)  # type: ignore[misc, arg-type]


# Sliding windows ------------------------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize(("window", "span"), [("minute", 60), ("hour", 3600)])
def test_no_span_ever_sees_more_than_the_limit_nor_waits_a_slice_too_long(
    server: FakeOpenAI, kind: Any, window: str, span: int
) -> None:
    pauses = st.lists(st.floats(0, 0.6, allow_subnormal=False), min_size=10, max_size=40)
    with app(server, kind, f"5 requests/{window}") as it:

        @random_times
        @given(pauses=pauses)
        def simulate(pauses: list[float]) -> None:
            user, admitted = uuid4().hex, []
            for pause in pauses:
                it.clock.advance(pause * span)
                now = it.clock.time()
                if it.fits(user):
                    admitted.append(now)
                    assert sum(now - span <= then for then in admitted) <= 5
                else:
                    assert sum(now - span * 61 / 60 < then for then in admitted) >= 5

        simulate()


@both_kinds
def test_no_minute_ever_sees_more_tokens_than_the_limit_whatever_the_answers_use(server: FakeOpenAI, kind: Any) -> None:
    steps = st.lists(st.tuples(st.floats(0, 30, allow_subnormal=False), st.integers(0, 150)), max_size=40)
    with app(server, kind, "500 tokens/minute") as it:

        @random_times
        @given(steps=steps)
        def simulate(steps: list[tuple[float, int]]) -> None:
            user, spent = uuid4().hex, list[tuple[float, int]]()
            for pause, generated in steps:
                it.clock.advance(pause)
                server.always(Reply(usage=Usage(9, generated)))
                try:
                    it.ask(user, max_completion_tokens=150)
                except RateLimitExceededError:
                    continue
                now = it.clock.time()
                spent.append((now, 9 + generated))
                assert sum(tokens for then, tokens in spent if now - 60 <= then) <= 500

        simulate()


# retry_after ----------------------------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize(
    "sentence",
    [
        *(f"3 requests/{window}" for window in ("minute", "hour", "day", "week", "month")),
        "3100 tokens/minute",
        "3100 tokens/day",
        "$0.04/day",
    ],
)
def test_waiting_exactly_retry_after_admits_the_same_call(server: FakeOpenAI, kind: Any, sentence: str) -> None:
    # Each call uses all that it reserves, or nearly: the third or fourth does not fit.
    server.always(Reply(usage=Usage(9, 1000)))
    with app(server, kind, sentence, timezone="America/New_York") as it:

        @random_times
        @given(begin=st.floats(0, 86_400), pause=st.floats(0, 15))
        def simulate(begin: float, pause: float) -> None:
            user = uuid4().hex
            it.clock.advance(begin)
            for _ in range(4):
                try:
                    it.ask(user)
                except LimitExceededError as denial:
                    error = denial
                    break
                it.clock.advance(pause)
            assert error.retry_after is not None
            quoted = it.wait(it.client.guard.quote(**CALL, user_id=user)).would_be_denied
            assert quoted.retry_after == pytest.approx(error.retry_after, abs=0.01)
            it.clock.advance(error.retry_after)
            assert it.fits(user)

        simulate()


@both_kinds
@pytest.mark.parametrize(("window", "slices"), [("minute", 61), ("hour", 3660)])
def test_nobody_is_told_to_wait_longer_than_the_window_and_one_slice(
    server: FakeOpenAI, kind: Any, window: str, slices: int
) -> None:
    with app(server, kind, f"1 request/{window}") as it:
        it.clock.advance(0.25)
        it.ask()
        wait = it.denied().retry_after
        assert wait is not None
        assert 0 < wait <= slices


@both_kinds
def test_what_can_never_fit_has_no_retry_after(server: FakeOpenAI, kind: Any) -> None:
    with app(server, kind, "500 tokens/day") as it:
        assert it.denied().retry_after is None
        assert it.denied(max_completion_tokens=500).retry_after is None
        it.ask(max_completion_tokens=400)


# Days and months ------------------------------------------------------------------------------------------------------

TURNS = [
    pytest.param("day", berlin(2027, 3, 28), 23, id="the_day_the_clocks_go_forward"),
    pytest.param("day", berlin(2027, 10, 31), 25, id="the_day_they_go_back"),
    pytest.param("day", berlin(2027, 6, 1), 24, id="a_day_in_summer"),
    pytest.param("week", berlin(2027, 3, 22), 7 * 24 - 1, id="the_week_they_go_forward"),
    pytest.param("month", berlin(2027, 3, 1), 31 * 24 - 1, id="the_month_they_go_forward"),
    pytest.param("month", berlin(2027, 10, 1), 31 * 24 + 1, id="the_month_they_go_back"),
    pytest.param("month", berlin(2028, 2, 1), 29 * 24, id="a_leap_february"),
]


@both_kinds
@pytest.mark.parametrize(("window", "first", "hours"), TURNS)
def test_calendar_windows_turn_over_at_midnight_of_the_zone(
    server: FakeOpenAI, kind: Any, window: str, first: datetime, hours: int
) -> None:
    limit = f"1 requests/{window}"
    with app(server, kind, limit, start=first, timezone="Europe/Berlin") as it:
        end = first.astimezone(UTC) + timedelta(hours=hours)
        it.ask()
        assert it.status().resets_at == end
        assert it.denied().retry_after == hours * 3600
        it.clock.advance(hours * 3600 - 1)
        assert it.denied().retry_after == 1
        it.clock.advance(1)
        assert end.astimezone(BERLIN).hour == 0
        it.ask()


@both_kinds
def test_a_day_that_begins_at_one_o_clock_begins_there(server: FakeOpenAI, kind: Any) -> None:
    """In Santiago the clocks go from 24:00 to 01:00, so that this day has no midnight."""
    zone = ZoneInfo("America/Santiago")
    evening = datetime(2026, 9, 5, 23, 30, tzinfo=zone)
    with app(server, kind, "1 request/day", start=evening, timezone="America/Santiago") as it:
        it.ask()
        assert it.denied().retry_after == 1800
        it.clock.advance(1800)
        assert it.now().astimezone(zone).hour == 1
        it.ask()
        assert it.denied().retry_after == 23 * 3600


@both_kinds
@pytest.mark.parametrize("streaming", [False, True], ids=["plain", "stream"])
def test_a_settlement_after_the_turn_refunds_the_old_day_and_leaves_the_new_one_alone(
    server: FakeOpenAI, kind: Any, streaming: bool
) -> None:
    midnight = datetime(2027, 1, 16, tzinfo=UTC)
    with app(server, kind, "5000 tokens/day", start=midnight - timedelta(seconds=5)) as it:

        def answer_after_midnight(request: Request) -> Reply:
            it.clock.advance(10)
            return Reply(usage=Usage(9, 20))

        server.respond(answer_after_midnight)
        answer = it.ask(stream=streaming)
        if streaming:
            it.wait(drained(answer))
        status = it.status()
        assert (status.used, status.held, status.remaining) == (0, 0, 5000)
        it.clock.set(midnight.timestamp() - 1)
        assert it.status().used == 29


@both_kinds
def test_a_settlement_moves_nothing_into_a_later_minute(server: FakeOpenAI, kind: Any) -> None:
    with app(server, kind, "5000 tokens/minute") as it:

        def answer_slowly(request: Request) -> Reply:
            it.clock.advance(25)
            return Reply(usage=Usage(9, 20))

        server.respond(answer_slowly)
        it.ask()
        assert (it.status().used, it.status().held) == (29, 0)
        it.clock.advance(60 - 25 + 1)  # It was spent when it was reserved.
        assert it.status().used == 0


def drained(stream: Any) -> Any:
    """Read a stream to its end; a coroutine where it is async."""
    if hasattr(stream, "__iter__"):
        return list(stream)

    async def drain() -> list[Any]:
        return [chunk async for chunk in stream]

    return drain()


# Leases ---------------------------------------------------------------------------------------------------------------


@both_kinds
def test_a_stream_that_is_never_read_nor_closed_frees_its_place_when_its_lease_ends(
    server: FakeOpenAI, kind: Any
) -> None:
    with app(server, kind, "1 concurrent") as it:
        kept = it.ask(stream=True)
        wait = it.denied().retry_after
        assert wait == 60  # The deadline of 30 s, and a margin as long.
        it.clock.advance(wait - 1)
        assert it.denied().retry_after == 1
        it.clock.advance(1)
        second = it.ask(stream=True)
        it.wait(kept.close())
        assert it.status().held == 1, "the late end of the first must not free the place of the second"
        it.denied()
        it.wait(second.close())
        it.ask()


@both_kinds
def test_an_ended_lease_is_charged_in_full_until_a_late_settlement_corrects_it(server: FakeOpenAI, kind: Any) -> None:
    with app(server, kind, "5000 tokens/day", time={"deadline_seconds": "off"}) as it:
        server.always(Reply(usage=Usage(9, 20)))
        kept = it.ask(stream=True)
        bound = it.status().held
        assert bound > 1000
        it.clock.advance(3600)
        assert (it.status().used, it.status().held) == (bound, 0)
        it.wait(drained(kept))
        assert (it.status().used, it.status().held) == (29, 0)
        assert [record.usage_source for record in it.sink.records] == ["provider"]


@both_kinds
def test_a_lease_outlives_its_deadline_and_is_settled_once(server: FakeOpenAI, kind: Any) -> None:
    with app(server, kind, "5000 tokens/day") as it:
        kept = it.ask(stream=True)
        it.wait(next(kept) if kind is SafeOpenAI else anext(kept))
        bound = it.status().held
        it.clock.advance(59)
        assert (it.status().used, it.status().held) == (0, bound)
        it.wait(kept.close())
        it.wait(kept.close())
        assert it.status().held == 0
        assert 0 < it.status().used < bound
        assert [record.usage_source for record in it.sink.records] == ["estimated"]


# What usage() says of the reset ---------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize(
    ("window", "resets_at"),
    [
        ("day", datetime(2027, 7, 15, 22, tzinfo=UTC)),
        ("week", datetime(2027, 7, 18, 22, tzinfo=UTC)),
        ("month", datetime(2027, 7, 31, 22, tzinfo=UTC)),
    ],
)
def test_a_calendar_limit_resets_when_its_span_ends(
    server: FakeOpenAI, kind: Any, window: str, resets_at: datetime
) -> None:
    with app(server, kind, f"3 requests/{window}", start=berlin(2027, 7, 15, 12), timezone="Europe/Berlin") as it:
        assert it.status().resets_at == resets_at
        it.ask()
        assert it.status().resets_at == resets_at
        it.clock.set(resets_at.timestamp() - 1)
        assert it.status().used == 1
        it.clock.set(resets_at.timestamp())
        assert it.status().used == 0


@both_kinds
@pytest.mark.parametrize("window", ["minute", "hour"])
def test_a_sliding_limit_resets_when_the_last_call_has_left_it(server: FakeOpenAI, kind: Any, window: str) -> None:
    pauses = st.lists(st.floats(0, 50), min_size=1, max_size=3)
    with app(server, kind, f"3 requests/{window}") as it:

        @random_times
        @given(pauses=pauses)
        def simulate(pauses: list[float]) -> None:
            user = uuid4().hex
            for pause in pauses:
                it.clock.advance(pause)
                it.fits(user)
            resets_at = it.status(user).resets_at
            assert resets_at is not None
            assert resets_at > it.now()
            for early, used in ((1, True), (0, False)):
                it.clock.set(resets_at.timestamp() - early)
                assert bool(it.status(user).used) is used

        simulate()


@both_kinds
def test_concurrency_has_no_reset(server: FakeOpenAI, kind: Any) -> None:
    with app(server, kind, "3 concurrent") as it:
        assert it.status().resets_at is None


# Alerts and debts -----------------------------------------------------------------------------------------------------


def told(it: App) -> list[tuple[str, int | None]]:
    """The alerts since this was last asked."""
    alerts: list[tuple[str, int | None]] = [(alert.kind, alert.percent) for alert in it.sink.alerts]
    it.sink.clear()
    return alerts


@both_kinds
@pytest.mark.parametrize(("window", "span"), [("minute", 61), ("hour", 3660), ("day", 86_400)])
def test_a_threshold_is_told_once_in_each_window(server: FakeOpenAI, kind: Any, window: str, span: int) -> None:
    # On the hour: a sliding limit's spans for alerts begin there.
    with app(server, kind, f"5 requests/{window}", start=datetime(2027, 1, 15, 8, tzinfo=UTC)) as it:
        for _ in range(3):
            per_call = [it.ask() and told(it) for _ in range(5)]
            limit = ("limit_threshold", 80), ("limit_threshold", 100)
            assert per_call == [[], [], [], [limit[0]], [limit[1]]]
            it.denied()
            assert told(it) == []
            it.clock.advance(span)


@both_kinds
def test_every_user_of_a_limit_per_user_is_told_of(server: FakeOpenAI, kind: Any) -> None:
    with app(server, kind, "1 requests/day", alert_at_percent=[100]) as it:
        it.ask("ann")
        it.ask("bob")
        assert [alert.scope for alert in it.sink.alerts] == [{"user": "ann"}, {"user": "bob"}]
        assert {alert.limit for alert in it.sink.alerts} == {"1 requests/day"}


@both_kinds
def test_clients_that_share_a_store_tell_once_between_them(server: FakeOpenAI, kind: Any) -> None:
    store, limit = MemoryQuotaStore(), "5 requests/day"
    with app(server, kind, limit, store=store) as one, app(server, kind, limit, store=store) as two:
        for _ in range(4):
            one.ask()
        two.ask()
        assert [told(one), told(two)] == [[("limit_threshold", 80)], [("limit_threshold", 100)]]


@both_kinds
def test_a_provider_that_bills_more_than_the_bound_leaves_a_debt(server: FakeOpenAI, kind: Any) -> None:
    """It is recorded in full, told of, and blocks the next call of this window; the next window is free of it."""
    server.script(Reply(usage=Usage(9, 30_000)))
    with app(server, kind, "$0.10/day", alert_at_percent=[100]) as it:
        it.ask(max_completion_tokens=100)
        status = it.status()
        assert it.sink.last.cost_usd == status.used == Decimal("0.3000225")
        assert (status.held, status.remaining) == (0, 0)
        assert told(it) == [("debt", None), ("limit_threshold", 100)]
        error = it.denied(max_completion_tokens=1)
        assert isinstance(error, BudgetExceededError)
        assert error.used == status.used
        assert error.retry_after is not None
        it.clock.advance(error.retry_after)
        it.ask(max_completion_tokens=100)
        assert told(it) == []


@both_kinds
def test_a_debt_of_tokens_slides_out_of_the_minute_with_its_call(server: FakeOpenAI, kind: Any) -> None:
    server.script(Reply(usage=Usage(9, 5_000)))
    with app(server, kind, "2000 tokens/minute", alert_at_percent=[]) as it:
        it.ask()
        assert told(it) == [("debt", None)]
        error = it.denied()
        assert (error.used, error.retry_after) == (5009, 61)
        it.clock.advance(61)
        it.ask()
