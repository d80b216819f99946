"""What stands out is said in plain sentences, and only where it is so."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any, get_args

import pytest
from made_records import HOSTILE, START, alert, denied, record

from safe_llm import Alert
from safe_llm.reports.facts import Calendar
from safe_llm.reports.insights import insights
from safe_llm.reports.overview import Overview
from safe_llm.reports.steering import KINDS, NEWEST, Steering
from safe_llm.reports.unknowns import unknowns
from safe_llm.reports.usage import OTHERS, Span
from safe_llm.reports.words import compact, day, duration, exact, label, money, percent, spent, visible


def said(records: list[Any]) -> str:
    sections = insights(Overview().read(records))
    return " ".join("".join(sentence) for found in sections.values() for sentence in found)


def days(costs: list[int], **fields: Any) -> list[Any]:
    return [record(START + timedelta(days=n), cost_usd=Decimal(cost), **fields) for n, cost in enumerate(costs)]


# What stands out ------------------------------------------------------------------------------------------------------


def test_what_was_spent_comes_first() -> None:
    assert said(days([1, 2, 3, 4, 5, 6])).startswith("$21.00 was spent in 6 days, $3.50 a day.")
    assert said([record(cost_usd=Decimal(2))]).startswith("$2.00 was spent on 1 call.")
    assert said([record(cost_usd=None)]).startswith("An unknown amount was spent on 1 call.")


def test_a_week_that_costs_more_is_told_and_a_steady_one_is_not() -> None:
    assert "The last seven full days cost 50 % more than the seven before." in said(days([2] * 7 + [3] * 7 + [1]))
    assert "seven full days" not in said(days([2] * 15))


def test_a_day_that_is_unlike_the_others_is_named() -> None:
    assert "The most expensive day, 5 Nov 2026, cost $9.00: 9.0 times the usual." in said(days([1, 1, 1, 9, 1, 1, 1]))
    assert "The most expensive day" not in said(days([1, 1, 1, 1, 1, 1, 1]))


def test_a_user_whose_day_is_unlike_his_others_is_named() -> None:
    usual = [record(START + timedelta(days=day), "eve") for day in range(5) for _ in range(3)]
    burst = [record(START + timedelta(days=6, minutes=n), "eve") for n in range(60)]
    assert "eve made 60 calls on 8 Nov 2026, 20 times as many as on a usual day." in said([*usual, *burst])
    assert "as many as on a usual day" not in said(usual)


def test_the_largest_feature_and_model_are_named() -> None:
    text = said([record(cost_usd=Decimal(3)), record(feature=None, model="gpt-4o", cost_usd=Decimal(7))])
    assert "gpt-4o made up 70 % of the spend, with 50 % of the calls." in text
    assert "Calls without a feature made up 70 % of the spend" in text


def test_those_who_spend_most_are_told() -> None:
    users = [record(user_id=f"u{n}", cost_usd=Decimal(100 if n == 7 else 1)) for n in range(101)]
    assert "The top 1 % of 101 users (one user) spent 50 % of the money." in said(users)
    assert "u7 spent 91 % of the money, the most of 11 users." in said(users[:11])


def test_denials_failures_and_the_cache_are_told() -> None:
    text = said([denied(), denied(limit=None), denied(), record(outcome="error"), record(cached_input_tokens=50)])
    assert "60 % of all calls were denied, most often by 10 requests/minute." in text
    assert "50 % of the calls that were sent ended in an error or a time-out." in text
    assert "200 tokens were read, 25 % of them from the provider's cache, and 40 were written." in text
    assert "No call was denied." in said([record()])


def test_no_record_has_no_sentence() -> None:
    assert insights(Overview()) == {}


def test_what_is_not_known_is_said_and_otherwise_only_how_exact_all_is() -> None:
    def text(*records: Any, skipped: int = 0) -> list[str]:
        return ["".join(sentence) for sentence in unknowns(Overview().read(records), skipped)]

    assert [sentence.split(" ")[0] for sentence in text(record())] == ["Percentiles"]
    found = text(record(cost_usd=None), record(usage_source="estimated"), record(degraded=True), skipped=2)
    assert found[0] == "The price of 1 call is not known: it is in no sum of money. More was spent than is shown."
    assert "The usage of 1 call was not told" in found[1]
    assert found[2] == "2 lines of the files could not be read as records. No figure has them."
    assert "1 call had limits counted by one process alone" in found[3]


# Alerts ---------------------------------------------------------------------------------------------------------------


def steering(*alerts: Any, span: Span | None = None) -> Steering:
    return Steering.of(alerts, Calendar("Europe/Berlin"), span or Span())


def test_alerts_stand_newest_first_in_the_time_zone() -> None:
    found = steering(alert(START), alert(START + timedelta(hours=2), "circuit_open", scope={"model": "gpt-5"}))
    assert [(event.when, event.kind, event.who) for event in found.events] == [
        ("2026-11-02 03:00", "Circuit open", "model gpt-5"),
        ("2026-11-02 01:00", "Unusual volume", "alice"),
    ]
    assert "".join(found.sentence()) == "2 alerts were raised: unusual volume (1), circuit open (1)."


def test_limits_stand_fullest_first_with_their_latest_alert() -> None:
    def reached(percent: int, hours: int, user: str) -> Any:
        at = START + timedelta(hours=hours)
        return alert(at, "limit_threshold", limit="$1/day", percent=percent, scope={"user": user})

    found = steering(reached(80, 1, "a"), reached(80, 2, "b"), reached(100, 3, "b"), reached(80, 30, "a"))
    assert [(limit.who, limit.percent, limit.times, limit.last) for limit in found.limits] == [
        ("b", 100, 2, "2026-11-02 04:00"),
        ("a", 80, 2, "2026-11-03 07:00"),
    ]
    assert found.sentence() == ()


def test_many_alerts_are_counted_and_the_newest_are_kept() -> None:
    found = steering(*[alert(START + timedelta(minutes=n)) for n in range(NEWEST + 9)])
    assert (len(found.events), found.hidden_events, found.kinds["anomaly"]) == (NEWEST, 9, NEWEST + 9)
    assert sum(map(len, found.marks.values())) == NEWEST + 9


def test_alerts_of_other_days_and_those_that_cannot_be_read_are_left_out() -> None:
    found = steering(
        alert(START), alert(START + timedelta(days=2)), alert() | {"timestamp": "x"}, span=Span("2026-11-03")
    )
    assert (len(found.events), found.unreadable) == (1, 1)


def test_every_kind_of_alert_has_a_name() -> None:
    kinds = get_args(Alert.model_fields["kind"].annotation)
    assert KINDS.keys() == set(kinds) - {"limit_threshold"}


def test_an_alert_of_a_kind_that_is_not_known_yet_is_shown() -> None:
    found = steering(alert() | {"kind": "new\x1bkind", "scope": None})
    assert (found.events[0].kind, found.events[0].who) == ("new\\x1bkind", "everyone")


# How it is written ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0", "$0.00"),
        ("0.5", "$0.50"),
        ("0.994", "$0.99"),
        ("0.0000048", "$0.0000048"),
        ("0.000004849", "$0.0000048"),
        ("0.05", "$0.050"),
        ("1234567.895", "$1,234,567.90"),
        ("1E+3", "$1,000.00"),
    ],
)
def test_money_is_rounded_to_what_can_be_read(amount: str, shown: str) -> None:
    assert money(Decimal(amount)) == shown


def test_an_exact_amount_has_all_its_digits_and_no_exponent() -> None:
    assert [exact(Decimal(text)) for text in ("1E-9", "1E+2", "0.10", "0")] == ["0.000000001", "100", "0.1", "0"]


def test_what_is_not_known_whole_is_a_lower_bound() -> None:
    assert [spent(Decimal(1), 0), spent(Decimal(1), 2), spent(Decimal(0), 1)] == ["$1.00", "≥ $1.00", "unknown"]


def test_shares_times_and_counts_are_short() -> None:
    assert [percent(part, 1000) for part in (0, 1, 4, 125, 999, 1000)] == [
        "0 %",
        "0.1 %",
        "0.4 %",
        "13 %",
        "99.9 %",
        "100 %",
    ]
    assert [percent(1, 10**6), percent(1, 0)] == ["< 0.1 %", "0 %"]
    assert [duration(time) for time in (None, 0.4, 850, 2449, 31_000)] == ["–", "0 ms", "850 ms", "2.4 s", "31 s"]
    assert [compact(n) for n in (0, 980, 12_400, 999_999, 1_450_000_000)] == ["0", "980", "12.4 K", "1.00 M", "1.45 B"]
    assert [day(when) for when in ("2027-01-22T14", "2027-01-22", "2027-01")] == [
        "22 Jan 2027, 14:00",
        "22 Jan 2027",
        "Jan 2027",
    ]


def test_a_name_can_do_nothing_but_be_read() -> None:
    for name in HOSTILE:
        shown = visible(name)
        assert len(shown) <= 120 + 20
        assert all(char.isprintable() for char in shown)
    assert visible("a\u202eb\x1b") == "a\\u202eb\\x1b"
    assert [label(None), label(OTHERS), label("x")] == ["(none)", "(others)", "x"]
