"""Usage is added up exactly, by any dimension, in bounded memory."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_records import START, denied, record
from strategies import RECORDS, expected

from safe_llm.errors import ConfigurationError
from safe_llm.reports.facts import EXACT, Calendar
from safe_llm.reports.overview import Cell, Overview
from safe_llm.reports.sums import ERROR_PERCENT, Sums, Times, total
from safe_llm.reports.usage import OTHERS, Group, Span, Usage


def figures(sums: Sums) -> tuple[int, int, int, Decimal, int]:
    return sums.calls, sums.input_tokens, sums.output_tokens, sums.cost, sums.unpriced


def names(group: Group) -> list[Any]:
    return [inner.name for inner in group.groups]


# Exact ----------------------------------------------------------------------------------------------------------------


@given(RECORDS, st.sampled_from(["user", "user,day", "day,feature,model", "tag,plan"]), st.integers(2, 50))
def test_every_level_of_groups_adds_up_to_the_records_exactly(
    records: list[dict[str, Any]], by: str, most_groups: int
) -> None:
    usage = Usage(by, most_groups=most_groups).read(records)
    assert usage.unreadable == 0
    for top in (None, 1, 3):
        tree = usage.tree(top)
        assert figures(tree.sums) == expected(records)
        level = [tree]
        while level := [group for group in level if group.groups]:
            for group in level:
                assert figures(total(inner.sums for inner in group.groups)) == figures(group.sums)
            level = [inner for group in level for inner in group.groups]


@given(RECORDS)
def test_a_user_and_day_has_exactly_the_calls_that_the_records_say(records: list[dict[str, Any]]) -> None:
    counted = Counter((made["user_id"], made["timestamp"][:10]) for made in records)
    tree = Usage("user,day").read(records).tree()
    found = {(user.name, day.name): day.sums.calls for user in tree.groups for day in user.groups}
    assert found == counted


@given(RECORDS, st.integers(1, 30), st.integers(1, 30))
def test_the_overview_adds_up_exactly_whatever_it_merges(
    records: list[dict[str, Any]], most_cells: int, most_rows: int
) -> None:
    overview = Overview(most_cells=most_cells, most_rows=most_rows).read(records)
    assert figures(overview.sums) == expected(records)
    rows = overview.users().values()
    calls, given_, written, cost, unpriced = expected(records)
    assert sum(row.calls for row in rows) == calls
    assert sum(row.tokens for row in rows) == given_ + written
    assert sum(row.unpriced for row in rows) == unpriced
    whole = Decimal(0)
    for row in rows:
        whole = EXACT.add(whole, row.cost)
    assert whole == cost
    for cells in overview.by(lambda place: place.when), overview.by(lambda place: place.feature):
        assert figures(total(cell.sums for cell in cells.values())) == expected(records)


@given(RECORDS)
def test_putting_cells_together_leaves_them_as_they_were(records: list[dict[str, Any]]) -> None:
    overview = Overview().read(records)

    def measured() -> list[int]:
        cells = [*overview.cells.values(), *overview.by(lambda place: None).values()]
        return [sum(times.counts) for cell in cells for times in (cell.latency, cell.first_token) if times]

    assert measured() == measured() == measured()
    (whole,) = overview.by(lambda place: None).values() or [Cell()]
    sent = [made for made in records if made["outcome"] != "denied"]
    assert (sum(whole.latency.counts) if whole.latency else 0) == len(sent)
    streamed = [made for made in sent if made["first_token_ms"] is not None]
    assert (sum(whole.first_token.counts) if whole.first_token else 0) == len(streamed)


def test_a_program_that_rounds_its_own_decimals_does_not_round_the_sums() -> None:
    from decimal import localcontext

    with localcontext() as context:
        context.prec = 3
        usage = Usage("user").read(
            [record(cost_usd=Decimal("1234.567890123")), record(cost_usd=Decimal("0.000000001"))]
        )
        assert usage.tree().sums.cost == Decimal("1234.567890124")


@given(st.lists(st.floats(1, 10**6), min_size=1, max_size=200), st.sampled_from([50, 90, 99]))
def test_a_percentile_is_as_near_as_is_promised(milliseconds: list[float], percent: int) -> None:
    times = Times()
    for time in milliseconds:
        times.add(time)
    ordered = sorted(milliseconds)
    rank = -(-len(ordered) * percent // 100)
    (found,) = times.percentiles(percent)
    assert found is not None
    assert abs(found / ordered[rank - 1] - 1) * 100 <= ERROR_PERCENT


# By what --------------------------------------------------------------------------------------------------------------


def test_groups_stand_largest_first_and_the_rest_is_told_with_its_number() -> None:
    records = [record(user_id=user, cost_usd=Decimal(cost)) for user, cost in (("a", 1), ("b", 3), ("c", 2), ("d", 1))]
    tree = Usage("user").read(records).tree(2)
    assert names(tree) == ["b", "c", OTHERS]
    assert tree.groups[-1].left_out == 2
    assert tree.groups[-1].sums.cost == 2


def test_days_stand_in_their_order_and_none_is_left_out() -> None:
    records = [record(START + timedelta(days=day), cost_usd=Decimal(day)) for day in (2, 0, 1)]
    assert names(Usage("day").read(records).tree(1)) == ["2026-11-02", "2026-11-03", "2026-11-04"]


def test_a_user_called_others_is_not_the_others() -> None:
    records = [record(user_id=user) for user in ("others", "(others)", "b", "c")]
    tree = Usage("user").read(records).tree(2)
    assert [name for name in names(tree) if isinstance(name, str)] == ["others", "(others)"]
    assert tree.groups[-1].name is OTHERS


@pytest.mark.parametrize(
    ("by", "found"),
    [
        ("tag", {"env=prod, team=a", "team=b", None}),
        ("tag:team", {"a", "b", None}),
        ("tag:env", {"prod", None}),
        ("feature", {"chat", None}),
        ("plan", {"free"}),
        ("model", {"gpt-4o-mini"}),
    ],
)
def test_calls_are_grouped_by_any_dimension(by: str, found: set[str | None]) -> None:
    records = [record(tags={"team": "a", "env": "prod"}), record(tags={"team": "b"}), record(feature=None)]
    assert set(names(Usage(by).read(records).tree())) == found


@pytest.mark.parametrize("by", ["", "users", "user,", "tag:", "user;day", "cost"])
def test_an_unknown_dimension_is_refused_with_those_that_exist(by: str) -> None:
    with pytest.raises(ConfigurationError, match="user, feature, model, plan, tag, day"):
        Usage(by)


# When -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timezone", "at", "day"),
    [
        ("UTC", "2026-11-26T23:30:00Z", "2026-11-26"),
        ("Europe/Berlin", "2026-11-26T23:30:00Z", "2026-11-27"),
        ("America/New_York", "2026-11-26T03:30:00Z", "2026-11-25"),
        ("Asia/Kathmandu", "2026-11-26T18:14:59.999Z", "2026-11-26"),
        ("Asia/Kathmandu", "2026-11-26T18:15:00Z", "2026-11-27"),
        ("Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25"),
        ("UTC", "2026-11-26T01:30:00+02:00", "2026-11-25"),
        ("UTC", "2026-11-26T01:30:00", "2026-11-26"),
    ],
)
def test_a_day_turns_over_where_the_time_zone_says(timezone: str, at: str, day: str) -> None:
    made = record() | {"timestamp": at}
    for _ in range(2):  # the second time from memory
        assert names(Usage("day", Calendar(timezone)).read([made, made]).tree()) == [day]


def test_only_the_days_asked_for_are_counted_and_both_ends_are() -> None:
    records = [record(START + timedelta(days=day)) for day in range(5)]
    usage = Usage("day", span=Span("2026-11-03", "2026-11-04")).read(records)
    assert names(usage.tree()) == ["2026-11-03", "2026-11-04"]
    assert (usage.first, usage.last) == ("2026-11-03", "2026-11-04")


@pytest.mark.parametrize("timezone", ["Mars/Olympus", "", "../etc/passwd", "/etc/localtime", "Europe/berlin\x00"])
def test_an_unknown_time_zone_is_refused(timezone: str) -> None:
    with pytest.raises(ConfigurationError, match="There is no time zone"):
        Calendar(timezone)


def test_the_overview_goes_from_hours_to_days_to_months_as_the_time_grows() -> None:
    def unit(hours: int) -> str:
        records = [record(START + timedelta(hours=hours * number / 500)) for number in range(501)]
        overview = Overview().read(records)
        assert overview.sums.calls == 501
        return overview.unit

    assert [unit(hours) for hours in (48, 24 * 30, 24 * 500)] == ["hour", "day", "month"]


# What is unknown ------------------------------------------------------------------------------------------------------


def test_an_unknown_price_is_no_cost_of_zero() -> None:
    tree = Usage("user").read([record(cost_usd=None), record(cost_usd=Decimal(1)), denied()]).tree()
    assert (tree.sums.cost, tree.sums.unpriced) == (1, 1)


def test_a_denial_in_shadow_mode_is_a_call_that_was_made() -> None:
    sums = Usage("user").read([denied(outcome="ok"), denied()]).tree().sums
    assert (sums.denied, sums.would_be_denied) == (1, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cost_usd": "much"},
        {"cost_usd": "NaN"},
        {"cost_usd": "-1"},
        {"cost_usd": "1E+999999"},
        {"cost_usd": "1" * 300},
        {"cost_usd": []},
        {"cost_usd": True},
        {"timestamp": "yesterday"},
        {"timestamp": "Z"},
        {"timestamp": "0001-01-01T00:00:00Z"},
        {"timestamp": "9999-12-31T23:59:59Z"},
        {"input_tokens": -1},
        {"input_tokens": 1.5},
        {"output_tokens": "20"},
        {"latency_ms": float("nan")},
        {"latency_ms": float("inf")},
        {"latency_ms": "fast"},
        {"first_token_ms": -1},
        {"feature": ["a"]},
        {"model": {"a": 1}},
        {"denial": "no"},
        {"denial": {"limit": ["a"]}},
    ],
)
def test_a_record_that_cannot_be_counted_is_told_and_changes_no_figure(wrong: dict[str, Any]) -> None:
    good, bad = record(), record() | wrong
    for counted in Usage("user,feature").read([good, bad, good]), Overview().read([good, bad, good]):
        assert counted.unreadable == 1
        sums = counted.sums if isinstance(counted, Overview) else counted.tree().sums
        assert figures(sums) == expected([good, good])


def test_fields_of_another_version_are_no_obstacle() -> None:
    least = {key: record()[key] for key in ("record_id", "timestamp", "user_id", "endpoint", "outcome")}
    records = [least, record() | {"new_field": {"deep": [1, {}]}, "tags": None}, record() | {"tags": [1]}]
    for counted in Usage("user,tag").read(records), Overview().read(records):
        assert counted.unreadable == 0
    assert Usage("user").read(records).tree().sums.unpriced == 1
