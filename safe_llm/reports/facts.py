"""What reports take from a record, checked: whoever writes the files decides what stands in them."""

from __future__ import annotations

import zoneinfo
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, Inexact, InvalidOperation
from math import isfinite
from typing import Any, NamedTuple

from ..errors import ConfigurationError

EXACT = Context(prec=200, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[InvalidOperation, Inexact])
"""Sums of money are made in it: they are exact, or raise. A program's own context may round."""

NOTHING = Decimal(0)
_LARGEST, _SMALLEST, _LONGEST = 24, -100, 64
"""Powers of ten, and characters, of a cost that is believed. Sums of such ones fit into `EXACT`."""
_MOST_HOURS = 100_000


class Fact(NamedTuple):
    """One call. Names are as the record has them, None where it has none."""

    user: str
    feature: str | None
    model: str | None
    plan: str | None
    hour: str
    """The hour it began in, in the report's time zone: ``2026-11-26T04``. Its first ten characters are the day."""
    outcome: str
    sent: bool
    """Whether anything went to the provider."""
    rule: str | None
    """What denied it, or would have in shadow mode: the limit's sentence, or the code where no limit did."""
    cost: Decimal | None
    """USD; None where no price is known."""
    estimated: bool
    """Its usage was not told by the provider."""
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    latency_ms: float | None
    """Of a call that was sent."""
    first_token_ms: float | None


class Calendar:
    """Hours and days of a time zone."""

    def __init__(self, timezone: str = "UTC") -> None:
        """Raises `ConfigurationError` where there is no such zone."""
        try:
            self._zone = zoneinfo.ZoneInfo(timezone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ConfigurationError(
                f"There is no time zone {timezone!r}. Name one as IANA does, for example Europe/Berlin or UTC."
            ) from error
        self.timezone = timezone
        self._hours: dict[str, str] = {}

    def hour(self, timestamp: str) -> str:
        """The local hour that a record's timestamp falls into. Raises `ValueError` where it is none."""
        # All zones are whole minutes away from UTC, so a minute has one hour, and is worked out once.
        minute = timestamp[:16] if timestamp.endswith("Z") else timestamp
        known = self._hours.get(minute)
        if known is None:
            if len(self._hours) >= _MOST_HOURS:
                self._hours.clear()
            known = self._hours[minute] = self.local(timestamp).isoformat()[:13]
        return known

    def local(self, timestamp: str) -> datetime:
        """A record's timestamp in the zone. Raises `ValueError` where it is none."""
        moment = datetime.fromisoformat(timestamp)
        try:
            local = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(self._zone)
        except OverflowError as error:
            raise ValueError("a timestamp beyond the calendar") from error
        if not 1970 <= local.year < 2200:  # so that there are not too many months
            raise ValueError("a timestamp that is no call's")
        return local


def days_between(first: str, last: str) -> int:
    """Calendar days from one to the other, both included."""
    return (date.fromisoformat(last[:10]) - date.fromisoformat(first[:10])).days + 1


def fact(record: Mapping[str, Any], calendar: Calendar) -> Fact:
    """What a record says. Raises `ValueError` or `TypeError` where it is not one that can be counted."""
    get = record.get
    denial = get("denial")
    outcome = record["outcome"]
    sent = outcome != "denied"
    return Fact(
        record["user_id"],
        _name(get("feature")),
        _name(get("model")),
        _name(get("plan")),
        calendar.hour(record["timestamp"]),
        outcome,
        sent,
        None if denial is None else _name(denial.get("limit")) or _name(denial.get("code")) or "?",
        _money(get("cost_usd")),
        get("usage_source") == "estimated",
        _count(get("input_tokens")),
        _count(get("cached_input_tokens")),
        _count(get("output_tokens")),
        _count(get("reasoning_tokens")),
        _milliseconds(get("latency_ms")) if sent else None,
        _milliseconds(get("first_token_ms")) if sent else None,
    )


def _name(value: object) -> str | None:
    if value is None or type(value) is str:
        return value
    raise TypeError(f"a name is text, not {type(value).__name__}")


def _count(value: object) -> int:
    if value is None:
        return 0
    if type(value) is not int or value < 0:
        raise ValueError("tokens are a whole number of at least 0")
    return value


def _money(value: object) -> Decimal | None:
    if value is None:
        return None
    if type(value) not in (str, int, float):
        raise TypeError(f"a cost is a number, not {type(value).__name__}")
    try:
        amount = Decimal(str(value)[:_LONGEST])
    except InvalidOperation as error:
        raise ValueError("a cost is a decimal number of USD") from error
    # Without these bounds, one line could make every sum a million digits long.
    if (
        len(str(value)) >= _LONGEST
        or not amount.is_finite()
        or amount < 0
        or not _SMALLEST <= amount.adjusted() <= _LARGEST
    ):
        raise ValueError("a cost is a decimal number of USD, of at least 0")
    return amount


def _milliseconds(value: object) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not isfinite(value) or value < 0:  # type: ignore[arg-type,operator]
        raise ValueError("a time is a number of milliseconds of at least 0")
    return value  # type: ignore[return-value]
