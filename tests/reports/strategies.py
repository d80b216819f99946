"""Any records, and what they add up to."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from made_records import record

from safe_llm.reports.facts import EXACT

COSTS = st.none() | st.decimals(0, 10**6, places=9) | st.decimals(0, 1, places=30) | st.just(Decimal("1E-7"))
RECORDS = st.lists(
    st.builds(
        record,
        at=st.datetimes(datetime(2026, 10, 20), datetime(2026, 11, 5), timezones=st.just(UTC)),
        user_id=st.sampled_from("abcdefgh"),
        feature=st.sampled_from([None, "chat", "review"]),
        model=st.sampled_from(["gpt-4o", "gpt-4o-mini", None]),
        plan=st.sampled_from(["free", None]),
        outcome=st.sampled_from(["ok", "denied", "error", "timeout", "aborted", "blocked"]),
        cost_usd=COSTS,
        input_tokens=st.integers(0, 10**12),
        output_tokens=st.integers(0, 10**12),
        usage_source=st.sampled_from(["provider", "estimated", "none"]),
        latency_ms=st.floats(0, 10**7),
        first_token_ms=st.none() | st.floats(0, 10**7),
    ),
    max_size=40,
)


def expected(records: list[dict[str, Any]]) -> tuple[int, int, int, Decimal, int]:
    """Calls, tokens in and out, money, and calls of unknown price, added up the plain way."""
    cost = Decimal(0)
    for made in records:
        cost = EXACT.add(cost, Decimal(made["cost_usd"] or 0))
    return (
        len(records),
        sum(made["input_tokens"] for made in records),
        sum(made["output_tokens"] for made in records),
        cost,
        sum(made["cost_usd"] is None and made["outcome"] != "denied" for made in records),
    )
