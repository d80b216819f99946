"""Records and alerts for the tests of reports."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

from safe_llm import Alert, UsageRecord

START = datetime(2026, 11, 2, tzinfo=UTC)
_numbers = count()

HOSTILE = (
    "</script><script>document.title = 'owned'</script>",
    "<img src=x onerror=\"document.title = 'owned'\">",
    '" onfocus="document.title=\'owned\'" autofocus x="',
    "{{ 7 * 7 }}{% raw %}",
    "%{y} <a href='https://example.com/'>a link</a> <b>bold</b>",
    "[red]red[/red] \x1b[2J\x07",
    "\u202egnitirw sdrawkcab",
    "__proto__",
    "constructor",
    "&lt;already escaped&gt;",
    "W" * 256,
    "用户 ملف 🙂",
)
"""Names that users may choose, and that a page or a terminal must do nothing with but show."""


def record(at: datetime = START, user_id: str = "alice", **fields: Any) -> dict[str, Any]:
    """One record as it stands in a file."""
    values: dict[str, Any] = {
        "feature": "chat",
        "plan": "free",
        "model": "gpt-4o-mini",
        "endpoint": "chat.completions",
        "outcome": "ok",
        "attempts": 1,
        "usage_source": "provider",
        "input_tokens": 100,
        "output_tokens": 20,
        "total_tokens": 120,
        "cost_usd": Decimal("0.000027"),
        "latency_ms": 900.0,
    }
    number = f"r{next(_numbers)}"
    made = UsageRecord(record_id=number, timestamp=at, user_id=user_id, **{**values, **fields})
    return made.model_dump(mode="json")


def denied(
    at: datetime = START, user_id: str = "alice", limit: str | None = "10 requests/minute", **fields: Any
) -> Any:
    """One record of a call that was denied."""
    code = "rate_limit_exceeded" if limit else "message_too_long"
    values = {"outcome": "denied", "denial": {"code": code, "limit": limit}, "attempts": 0, "usage_source": "none"}
    nothing = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0, "cost_usd": Decimal(0), "latency_ms": 0.4}
    return record(at, user_id, **{**values, **nothing, **fields})


def alert(at: datetime = START, kind: Any = "anomaly", **fields: Any) -> dict[str, Any]:
    """One alert as it stands in a file."""
    values = {"scope": {"user": "alice"}, "message": "User 'alice' has made 96 calls in this hour; usual are 2."}
    return Alert(kind=kind, timestamp=at, **{**values, **fields}).model_dump(mode="json")


def month() -> Iterator[dict[str, Any]]:
    """Thirty days of several features, models and plans: about 3,000 records, some with hostile names."""
    models = {"chat": "gpt-4o-mini", "review": "gpt-4o", None: "text-embedding-3-small"}
    users = [f"user-{number}" for number in range(40)]
    for day in range(30):
        for number in range(90 if day % 7 < 5 else 30):
            at = START + timedelta(days=day, minutes=13 * number)
            feature = ("chat", "chat", "review", None)[number % 4]
            user = users[(number * number + day) % len(users)]
            tokens = 300 + 37 * (number % 17)
            yield record(
                at,
                user,
                feature=feature,
                model=models[feature],
                plan=("free", "pro")[number % 3 == 0],
                input_tokens=tokens,
                cached_input_tokens=tokens // 3,
                output_tokens=tokens // 2,
                cost_usd=Decimal(tokens * (3 if feature == "review" else 1)).scaleb(-6),
                latency_ms=300.0 + 41 * (number % 50),
                first_token_ms=120.0 + 7 * (number % 30) if feature else None,
                stream=feature is not None,
            )
            if number % 9 == 0:
                yield denied(at, user, ("10 requests/minute", "$0.50/day", None)[number % 3], feature=feature)
        yield record(
            START + timedelta(days=day), "user-1", outcome="timeout", usage_source="estimated", feature="review"
        )
    for number, name in enumerate(HOSTILE):
        at = START + timedelta(days=number)
        yield record(at, name, feature=name, model=name, plan=name, tags={name: name}, cost_usd=Decimal("0.05"))
        yield denied(at, name, limit=name, feature=name)
    yield record(START, "unpriced", cost_usd=None, model="my-deployment")


def month_of_alerts() -> Iterator[dict[str, Any]]:
    """Alerts of the same days."""
    yield alert(START + timedelta(days=9, hours=14))
    yield alert(START + timedelta(days=3), "store_degraded", scope={}, message="The quota store is away.")
    for name in HOSTILE:
        yield alert(START + timedelta(days=2), scope={"user": name}, message=f"User {name} is unusual.")
        yield alert(START, "limit_threshold", limit="$0.50/day", scope={"user": name}, percent=80, message="80 %")
    yield alert(START, "limit_threshold", limit="$0.50/day", percent=100, message="100 %")
