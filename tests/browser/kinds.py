"""Kinds of pages: much, little, and what is unknown."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from made_records import START, denied, month, record

KINDS: dict[str, Callable[[], list[Any]]] = {
    "month": lambda: list(month()),
    "hours": lambda: [record(START + timedelta(hours=hour), f"u{hour % 7}") for hour in range(60)],
    "years": lambda: [record(START + timedelta(days=day), first_token_ms=200.0) for day in range(0, 1200, 2)],
    "one": lambda: [record()],
    "unpriced": lambda: [record(cost_usd=None, model="my-deployment")],
    "shadow": lambda: [denied(outcome="ok"), record()],
    "denied": lambda: [denied()],
}
