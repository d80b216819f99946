"""The anomaly alert: a user at ten times the usual volume, told once: what is usual, what is now, and since when."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.anomalies import Found, watch
from benchmarks.traffic import ABUSER, NEWCOMER, World
from safe_llm import Alert, DeniedError, SafeOpenAI, anomalies
from safe_llm.anomalies import Anomaly, Volumes
from safe_llm.limits import Calendar
from safe_llm.stores import MemoryQuotaStore
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink

HOUR, DAY = 3_600, 86_400
START = 1_800_000_000.0
"""Friday, 15 January 2027, 08:00 UTC."""
UTC_DAYS = Calendar(ZoneInfo("UTC"))


class Watch:
    """Volumes, a clock, and what was found."""

    def __init__(self, zone: str = "UTC") -> None:
        self.volumes, self.calendar, self.now = Volumes(), Calendar(ZoneInfo(zone)), START
        self.found: list[Anomaly] = []

    def calls(self, number: int, user: str = "u1") -> list[Anomaly]:
        """So many calls, a second apart; what is found with the last of them."""
        last: list[Anomaly] = []
        for _ in range(number):
            last = self.volumes.note(user, self.now, self.calendar)
            self.found += last
            self.now += 1
        return last

    def hours(self, *numbers: int, user: str = "u1") -> Watch:
        """So many calls in each hour from now on. Afterwards, the next hour has begun."""
        for number in numbers:
            self.calls(number, user)
            self.now = self.now // HOUR * HOUR + HOUR
        return self

    def days(self, *numbers: int, user: str = "u1") -> Watch:
        """So many calls on each day, all in one hour."""
        for number in numbers:
            self.calls(number, user)
            self.now = self.now // DAY * DAY + DAY
        return self


# What is an anomaly ---------------------------------------------------------------------------------------------------


def test_ten_times_the_usual_hour_is_an_anomaly_and_a_request_less_is_none() -> None:
    here = Watch().hours(4, 4, 4, 4, 4)
    here.calls(39)
    assert here.found == []
    (found,) = here.calls(1)
    assert found == ("u1", "hour", START + 5 * HOUR, START + 6 * HOUR, 40, START + 5 * HOUR, 4, 5)


def test_ten_times_the_usual_day_is_an_anomaly_although_no_hour_of_it_is() -> None:
    """Twelve requests a day, in one hour; then ten in each of twelve hours."""
    here = Watch().days(12, 12, 12, 12)
    midnight = here.now
    here.hours(*[10] * 12)
    (found,) = here.found
    assert (found.window, found.requests, found.usual, found.start) == ("day", 120, 12, midnight)


def test_days_turn_over_in_the_time_zone_of_the_policy() -> None:
    here = Watch("Asia/Tokyo").days(2, 2, 2, 2)
    here.calls(20)
    (day,) = {(found.start, found.end) for found in here.found if found.window == "day"}
    assert [datetime.fromtimestamp(moment, ZoneInfo("Asia/Tokyo")).hour for moment in day] == [0, 0]


def test_somebody_who_grows_by_half_each_day_is_no_anomaly() -> None:
    here = Watch()
    for day in range(20):
        here.days(int(2 * 1.5**day) + 1)
    assert here.found == []


def test_hours_without_a_request_are_not_what_is_usual() -> None:
    """Who comes once a week with twenty requests may do so again."""
    here = Watch()
    for _ in range(8):
        here.days(20)
        here.now += 6 * DAY
    assert here.found == []


def test_nobody_is_an_anomaly_before_anything_is_known() -> None:
    assert Watch().calls(1_000) == []
    assert Watch().hours(1, 1).calls(1_000) == []


def test_a_first_time_user_is_measured_by_the_typical_one() -> None:
    here = Watch()
    for number in range(50):
        here.calls(3, f"u{number}")
    here.now += HOUR
    here.calls(29, "new")
    assert here.found == []
    (found,) = here.calls(1, "new")
    assert (found.user, found.window, found.requests, found.usual, found.own) == ("new", "hour", 30, 3, 0)


def test_one_busy_user_does_not_make_the_typical_one_busy() -> None:
    """What the abuser does beyond tenfold is not learned."""
    here = Watch()
    for _ in range(3):
        for number in range(50):
            here.calls(3, f"u{number}")
        here.now = here.now // HOUR * HOUR + HOUR
    here.calls(2_000, "abuser")
    for number in range(40):
        here.calls(3, f"u{number}")
    here.now = here.now // HOUR * HOUR + HOUR
    here.found.clear()
    here.calls(45, "new")
    assert [found.user for found in here.found[:1]] == ["new"]


def test_a_busy_user_who_is_new_here_is_soon_measured_by_himself() -> None:
    here = Watch()
    for number in range(50):
        here.calls(3, f"u{number}")
    here.now += HOUR
    here.hours(25, 100, 100, 100, user="busy")
    assert {found.usual for found in here.found} <= {3, 25}
    here.found.clear()
    here.hours(*[100] * 10, user="busy")
    assert here.found == []


def test_a_day_of_abuse_does_not_become_a_habit() -> None:
    here = Watch().hours(*[2] * 12, 5_000)
    here.found.clear()
    here.hours(5_000)
    assert here.found


def test_a_habit_that_stays_changed_is_learned() -> None:
    here = Watch().hours(*[2] * 12, *[40] * 40)
    here.found.clear()
    here.hours(*[40] * 24)
    assert here.found == []


def test_a_clock_that_is_set_back_neither_raises_nor_learns() -> None:
    here = Watch().hours(4, 4, 4, 4)
    here.now -= 2 * HOUR
    here.calls(39)
    assert here.found == []


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3 * DAY)), min_size=1, max_size=300).map(
        lambda calls: sorted(calls, key=lambda call: call[1])
    )
)
def test_whatever_comes_an_anomaly_is_ten_requests_and_ten_times_what_the_user_himself_does(calls: Any) -> None:
    volumes = Volumes()
    by_hour: dict[tuple[str, float], int] = {}
    for user, second in calls:
        now = START + second
        hour = now // HOUR
        by_hour[user, hour] = by_hour.get((user, hour), 0) + 1
        for found in volumes.note(user, now, UTC_DAYS):
            assert found.requests >= 10 * found.usual >= 10
            assert found.start <= found.first <= now < found.end
            if found.window == "hour":
                assert found.requests == by_hour[user, hour]
                least = min(number for (name, when), number in by_hour.items() if name == user and when < hour)
                assert found.usual >= min(least, 10)


# Bounds ---------------------------------------------------------------------------------------------------------------


def test_memory_is_bounded_and_who_keeps_coming_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anomalies, "_USERS", 100)
    here = Watch().hours(4, 4, 4, 4)
    for number in range(1_000):
        here.volumes.note(f"once{number}", here.now, here.calendar)
        if number % 50 == 0:
            here.calls(1)
    assert here.volumes.remembered <= 400
    here.calls(20)
    assert [found.user for found in here.found[:1]] == ["u1"]


def test_threads_count_without_harm() -> None:
    volumes = Volumes()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: volumes.note(f"u{n % 7}", START + n * 7, UTC_DAYS), range(20_000)))
    finally:
        sys.setswitchinterval(before)
    assert volumes.remembered == 14


# Telling --------------------------------------------------------------------------------------------------------------


def test_the_alert_says_what_is_usual_what_is_now_and_since_when() -> None:
    found = Anomaly("u7", "hour", int(START), int(START) + HOUR, 1_214, START + 200, 4.06, 20)
    alert = anomalies.alert(found, datetime.fromtimestamp(START + 900, UTC))
    assert (alert.kind, alert.limit, alert.scope, alert.percent) == ("anomaly", None, {"user": "u7"}, None)
    assert alert.message == (
        "User 'u7' has made 1_214 requests in the hour since 2027-01-15 08:00 UTC, the first at 08:03. "
        "Usual are 4.1 an hour for this user, over 20 hours with any."
    )
    of_crowd = found._replace(window="day", own=0, usual=3.0)
    assert "Usual are 3 a day for one user here." in anomalies.alert(of_crowd, alert.timestamp).message


def test_an_anomaly_is_claimed_by_user_and_window() -> None:
    found = Anomaly("u7", "hour", 0, HOUR, 40, 0.0, 4, 20)
    keys = {
        anomalies.claim(one)
        for one in (
            *(found, found._replace(requests=41, usual=3)),
            *(found._replace(window="day"), found._replace(user="u8"), found._replace(start=HOUR, end=2 * HOUR)),
        )
    }
    assert len(keys) == 4


# With clients ---------------------------------------------------------------------------------------------------------

LOOSE = {"plans": {"default": {"limits": ["10_000 requests/day"]}}, "alert_at_percent": []}
CALL: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_completion_tokens": 5,
}


class Calls:
    """Calls of clients of one kind, one after the other or all at once, on a clock that stands still."""

    def __init__(self, kind: Any, server: FakeOpenAI, **options: Any) -> None:
        self.sink, self.clock = RecordingSink(), FakeClock()
        self.kind = kind
        given = {"policy": LOOSE, "base_url": server.base_url, "api_key": "test", "max_retries": 0}
        self.options = {**given, **options}

    def client(self) -> Any:
        return self.kind(sinks=[self.sink], clock=self.clock, **self.options)

    async def make(self, client: Any, number: int, **arguments: Any) -> None:
        for _ in range(number):
            try:
                answer = client.chat.completions.create(**{**CALL, "user_id": "u1", **arguments})
                if self.kind is not SafeOpenAI:
                    answer = await answer
                if arguments.get("stream"):
                    if self.kind is SafeOpenAI:
                        list(answer)
                    else:
                        [chunk async for chunk in answer]
            except DeniedError:
                pass

    async def hours(self, client: Any, *numbers: int) -> None:
        for number in numbers:
            await self.make(client, number)
            self.clock.advance(HOUR)

    async def close(self, client: Any) -> None:
        if self.kind is SafeOpenAI:
            client.close()
        else:
            await client.close()

    @property
    def alerts(self) -> list[Alert]:
        return self.sink.alerts


@pytest.mark.anyio
async def test_it_is_told_once_a_window_and_again_in_the_next(server: FakeOpenAI, kind: Any) -> None:
    calls = Calls(kind, server)
    client = calls.client()
    await calls.hours(client, 1, 1, 1)
    await calls.make(client, 9)
    assert calls.alerts == []
    await calls.make(client, 5)
    (alert,) = calls.alerts
    assert (alert.kind, alert.scope) == ("anomaly", {"user": "u1"})
    assert alert.timestamp == calls.sink.last.timestamp
    assert "10 requests in the hour since 2027-01-15 11:00 UTC" in alert.message
    calls.clock.advance(HOUR)
    await calls.make(client, 40)
    assert [alert.kind for alert in calls.alerts] == ["anomaly"] * 2
    await calls.close(client)


@pytest.mark.anyio
async def test_streams_count_as_well(server: FakeOpenAI, kind: Any) -> None:
    calls = Calls(kind, server)
    client = calls.client()
    await calls.hours(client, 1, 1, 1)
    await calls.make(client, 10, stream=True)
    assert [alert.kind for alert in calls.alerts] == ["anomaly"]
    await calls.close(client)


@pytest.mark.anyio
async def test_a_loop_that_runs_into_its_limit_is_told_of_and_its_denials_stay_denials(
    server: FakeOpenAI, kind: Any
) -> None:
    calls = Calls(kind, server, policy={**LOOSE, "plans": {"default": {"limits": ["5 requests/hour"]}}})
    client = calls.client()
    await calls.hours(client, 1, 1, 1)
    await calls.make(client, 30)
    assert [alert.kind for alert in calls.alerts] == ["anomaly"]
    assert sum(record.outcome == "denied" for record in calls.sink.records) == 30 - 4
    await calls.close(client)


@pytest.mark.anyio
async def test_what_is_refused_before_the_limits_is_no_volume(server: FakeOpenAI, kind: Any) -> None:
    """Nobody can be made to look like an abuser by requests that are not even looked at."""
    calls = Calls(kind, server)
    client = calls.client()
    await calls.hours(client, 1, 1, 1)
    await calls.make(client, 50, messages=[])
    assert calls.alerts == []
    await calls.close(client)


@pytest.mark.anyio
async def test_in_shadow_mode_all_are_counted(server: FakeOpenAI, kind: Any) -> None:
    policy = {**LOOSE, "mode": "shadow", "plans": {"default": {"limits": ["5 requests/day"]}}}
    calls = Calls(kind, server, policy=policy)
    client = calls.client()
    await calls.hours(client, 1, 1, 1)
    await calls.make(client, 10)
    assert [alert.kind for alert in calls.alerts] == ["anomaly"]
    await calls.close(client)


@pytest.mark.anyio
async def test_of_all_clients_that_share_a_store_one_tells(server: FakeOpenAI, kind: Any) -> None:
    calls = Calls(kind, server, quota_store=MemoryQuotaStore())
    clients = [calls.client() for _ in range(4)]
    for _ in range(3):
        for client in clients:
            await calls.make(client, 1)
        calls.clock.advance(HOUR)
    for client in clients:
        await calls.make(client, 12)
    assert [alert.kind for alert in calls.alerts] == ["anomaly"]
    for client in clients:
        await calls.close(client)


@pytest.mark.anyio
async def test_calls_at_once_tell_once(server: FakeOpenAI, kind: Any) -> None:
    calls = Calls(kind, server)
    client = calls.client()
    await calls.hours(client, 1, 1, 1)
    if kind is SafeOpenAI:
        with ThreadPoolExecutor(50) as pool:
            list(pool.map(lambda _: client.chat.completions.create(**CALL, user_id="u1"), range(50)))
    else:
        await asyncio.gather(*[client.chat.completions.create(**CALL, user_id="u1") for _ in range(50)])
    assert [alert.kind for alert in calls.alerts] == ["anomaly"]
    await calls.close(client)


# The goals ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[ABUSER, NEWCOMER], ids=["known", "new"])
def found(request: pytest.FixtureRequest) -> Found:
    return watch(World(records=40_000, users=600, days=30, seed=3, abuser=request.param))


def test_the_simulated_abuser_is_found_within_his_first_hour(found: Found) -> None:
    assert found.after is not None
    assert 0 < found.after < HOUR


def test_at_most_one_alarm_in_a_thousand_user_days_is_false(found: Found) -> None:
    assert found.user_days > 3_000
    assert found.false <= found.user_days / 1_000
