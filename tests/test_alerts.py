"""Alerts: when a threshold is reached, who gets to tell of it, and in which words."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_llm.alerts import claim, debt, reached, threshold
from safe_llm.limits import Calendar, Limit, PlacedLimit, Unit
from safe_llm.stores import MemoryQuotaStore
from safe_llm.testing import FakeClock
from safe_llm.types import Charge, Reservation, Tally

NOW = datetime(2027, 6, 15, 12, 30, 30, tzinfo=UTC)


def placed(sentence: str, place: str = "plan:pro") -> PlacedLimit:
    return PlacedLimit.at(place, Limit.parse(sentence))


def charge(sentence: str, now: float = NOW.timestamp(), user: str = "u1") -> Charge:
    limit = placed(sentence)
    assert limit.limit.window is not None
    window = Calendar(ZoneInfo("UTC")).window(limit.limit.window, now)
    return limit.charge(1, {"user": user}, window, now)


# Reached --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "percents"),
    [(0, []), (79, []), (80, [80]), (99, [80]), (100, [80, 100]), (149, [80, 100]), (150, [80, 100, 150])],
)
def test_a_threshold_is_reached_by_settled_use_alone(used: int, percents: list[int]) -> None:
    assert reached([100, 150, 80], charge("100 requests/day"), Tally(used, held=1_000)) == percents


def test_thresholds_of_small_limits_are_exact() -> None:
    """80 % of 3 is 2.4: reached by 3, not by 2."""
    assert reached([80], charge("3 requests/day"), Tally(2, 0)) == []
    assert reached([80], charge("3 requests/day"), Tally(3, 0)) == [80]


def test_a_limit_of_nothing_has_no_percentage() -> None:
    assert reached([80, 100], charge("0 requests/day"), Tally(0, 0)) == []


# Claiming -------------------------------------------------------------------------------------------------------------


def tells(store: MemoryQuotaStore, wanted: Charge) -> bool:
    """Whether this one gets to tell; all that would tell ask under the same id."""
    answer = store.reserve(f"{wanted.key}@{wanted.start}", [wanted], 60)
    return isinstance(answer, Reservation) and store.settle(answer, [1])


@pytest.mark.parametrize("sentence", ["10 requests/day", "10 requests/minute"])
def test_the_first_to_claim_tells_and_no_other(sentence: str) -> None:
    clock = FakeClock(NOW.timestamp())
    store = MemoryQuotaStore(clock=clock.time)
    wanted = claim(charge(sentence), 80)
    assert [tells(store, wanted) for _ in range(3)] == [True, False, False]
    clock.advance(29)
    assert not tells(store, claim(charge(sentence, now=clock.time()), 80))


def test_thresholds_users_and_windows_are_claimed_apart() -> None:
    store = MemoryQuotaStore(clock=FakeClock(NOW.timestamp()).time)
    day = "10 requests/day"
    tomorrow = NOW.timestamp() + 86_400
    for wanted in (
        claim(charge(day), 80),
        claim(charge(day), 100),
        claim(charge(day, user="u2"), 80),
        claim(charge("10 tokens/day"), 80),
        claim(charge(day, now=tomorrow), 80),
    ):
        assert tells(store, wanted)
        assert not tells(store, wanted)


def test_a_calendar_window_is_claimed_once() -> None:
    of_the_day = charge("10 requests/day")
    assert claim(of_the_day, 80)[3:] == ("fixed", of_the_day.start, of_the_day.end)


@given(st.integers(0, 10**10), st.sampled_from([("minute", 60), ("hour", 3_600)]))
def test_a_sliding_limit_is_claimed_once_per_span_of_the_clock(second: int, unit: tuple[Unit, int]) -> None:
    name, span = unit
    kind, start, end = claim(charge(f"10 requests/{name}", now=second), 80)[3:]
    assert kind == "fixed"
    assert end - start == span
    assert start % span == 0
    assert start <= second < end


def test_a_claim_cannot_meet_the_counter_of_its_limit() -> None:
    of_the_day = charge("10 requests/day")
    wanted = claim(of_the_day, 80)
    assert wanted.key != of_the_day.key
    assert (wanted.amount, wanted.limit) == (1, 1)


# Telling --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "scope", "tally", "message"),
    [
        (
            "10 requests/day",
            {"user": "u1"},
            Tally(8, 1),
            "The limit \"10 requests/day\" of plan:pro has reached 80 % for user 'u1': 8 of 10 is used.",
        ),
        (
            "$0.50/day per user, model",
            {"user": "u1", "model": "m"},
            Tally(400_000_000, 0),
            "The limit \"$0.50/day per user, model\" of plan:pro has reached 80 % for user 'u1', model 'm': "
            "0.4 of 0.5 is used.",
        ),
        (
            "$5/day per app",
            {},
            Tally(4 * 10**9, 0),
            'The limit "$5/day per app" of plan:pro has reached 80 %: 4 of 5 is used.',
        ),
    ],
)
def test_a_threshold_is_told_in_the_words_of_the_policy(
    sentence: str, scope: Mapping[str, str], tally: Tally, message: str
) -> None:
    alert = threshold(placed(sentence), scope, charge(sentence), tally, 80, NOW)
    assert (alert.kind, alert.limit, alert.percent, alert.scope) == ("limit_threshold", sentence, 80, scope)
    assert alert.timestamp == NOW
    assert alert.message == message


def test_a_debt_says_what_was_billed_and_what_was_reserved() -> None:
    alert = debt(placed("$5/day"), {"user": "u1"}, 10**9, 15 * 10**8, NOW)
    assert (alert.kind, alert.limit, alert.percent, alert.scope) == ("debt", "$5/day", None, {"user": "u1"})
    assert 'billed 1.5 against the limit "$5/day" of plan:pro, more than the 1 that was reserved' in alert.message


def test_small_amounts_of_money_are_told_without_an_exponent() -> None:
    alert = debt(placed("$5/day"), {}, 0, 10, NOW)
    assert "0.00000001" in alert.message
