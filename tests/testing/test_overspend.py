from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from safe_llm.testing import RecordingSink, assert_no_overspend
from safe_llm.types import LimitStatus, UsageRecord

NOW = datetime(2027, 1, 15, tzinfo=UTC)


def record(cost: str | None = "0.10", **fields: Any) -> UsageRecord:
    given = {"outcome": "ok", "usage_source": "provider", "total_tokens": 100} | fields
    cost_usd = None if cost is None else Decimal(cost)
    return UsageRecord(
        record_id="r", timestamp=NOW, user_id="u1", endpoint="chat.completions", cost_usd=cost_usd, **given
    )


def status(**fields: Any) -> LimitStatus:
    given = {"used": Decimal("0.50"), "held": Decimal(0), "remaining": Decimal(0)} | fields
    return LimitStatus(limit="$0.50/day", scope={"user": "u1"}, resets_at=None, **given)


DENIED = record(None, outcome="denied", usage_source="none", total_tokens=0)
REFUSED = record(None, outcome="error", usage_source="none", total_tokens=0)


def test_spending_a_limit_to_the_last_unit_is_no_overspend() -> None:
    assert_no_overspend([record()] * 5, limit_usd="0.50", limit_requests=5, limit_tokens=500, guard_usage=[status()])


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"limit_usd": "0.49"}, r"in 5 billed of 5 calls: \$0.50 exceed limit_usd=\$0.49$"),
        ({"limit_usd": Decimal("0.49"), "limit_requests": 5}, "limit_usd"),
        ({"limit_requests": 4}, "5 requests exceed limit_requests=4"),
        ({"limit_tokens": 499}, "500 tokens exceed limit_tokens=499"),
        ({"limit_tokens": 1, "limit_requests": 1}, "5 requests .*; 500 tokens"),
    ],
)
def test_one_unit_too_many_fails_and_names_the_figures(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_no_overspend([record()] * 5, **limits)


def test_denials_and_refusals_cost_nothing_and_are_left_out() -> None:
    assert_no_overspend([record(), DENIED, REFUSED], limit_usd="0.10", limit_requests=1, limit_tokens=100)


def test_an_unknown_cost_is_not_zero() -> None:
    with pytest.raises(AssertionError, match="without a known cost: 1"):
        assert_no_overspend([record(), record(None)], limit_usd=100)


def test_an_unknown_usage_is_not_zero() -> None:
    with pytest.raises(AssertionError, match="without a known usage: 1"):
        assert_no_overspend([record(), record(usage_source="none", total_tokens=0)], limit_tokens=100)


def test_nothing_may_still_be_held() -> None:
    with pytest.raises(AssertionError, match=r"'\$0.50/day' of user u1 still holds 0.10"):
        assert_no_overspend([record()], guard_usage=[status(held=Decimal("0.10"))])


def test_no_limit_may_be_overdrawn() -> None:
    with pytest.raises(AssertionError, match=r"overdrawn: 0\.50 used, -0\.01 remaining"):
        assert_no_overspend([record()], guard_usage=[status(remaining=Decimal("-0.01"))])


def test_a_recording_sink_can_be_given_whole_and_an_empty_one_proves_nothing() -> None:
    sink = RecordingSink()
    with pytest.raises(AssertionError, match="no records"):
        assert_no_overspend(sink, limit_requests=1)
    sink.emit(record())
    assert_no_overspend(sink, limit_requests=1)


def test_a_limit_must_be_given_and_money_must_be_exact() -> None:
    with pytest.raises(TypeError, match="at least one"):
        assert_no_overspend([record()])
    with pytest.raises(TypeError, match="float"):
        assert_no_overspend([record()], limit_usd=0.5)  # type: ignore[arg-type]  # the mistake under test
