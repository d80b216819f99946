"""A limit is a sentence: ``<amount> <metric>/<window> [per <dimension>[, <dimension>…]]``.

``10 requests/minute``, ``50_000 tokens/day per user``, ``$0.50/day``, ``4 concurrent``. This file reads and writes the
sentence and finds the window that a moment falls into; the guard turns both into charges.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from .errors import ConfigurationError, nearest
from .types import Charge, nano, usd

Metric = Literal["requests", "tokens", "input_tokens", "output_tokens", "money", "concurrent"]
Unit = Literal["minute", "hour", "day", "week", "month"]

LARGEST = 2**53
"""The largest amount of a limit: stores written in Lua and JSON count in doubles."""

SLICES = 61
"""A sliding window is 60 slices and the one that has just begun, so that no span ever sees more than the limit."""

_COUNTED: dict[str, Metric] = {
    "requests": "requests",
    "request": "requests",
    "tokens": "tokens",
    "token": "tokens",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
}
USUAL = {"app": "app", "plan": "user", "feature": "feature"}
"""The dimension of a limit that names none, by the kind of place where it stands."""
_UNITS: tuple[Unit, ...] = ("minute", "hour", "day", "week", "month")
_SLICE_SECONDS = {"minute": 1, "hour": 60}
_DIMENSIONS = ("user", "feature", "model", "plan", "session", "prompt", "app")
_TAG = re.compile(r"tag:[^\s,]+")
_EXAMPLE = 'A limit reads like "10 requests/minute", "50_000 tokens/day per user", "$0.50/day" or "4 concurrent"'

_AMOUNT = r"[0-9](?:_?[0-9])*"
_SENTENCE = re.compile(
    rf"\s*(?:\$(?P<money>{_AMOUNT}(?:\.[0-9]+)?)|(?P<count>{_AMOUNT})\s+(?P<metric>[A-Za-z_]+))"
    r"\s*(?:/\s*(?P<window>[A-Za-z]+))?\s*(?:\bper\s(?P<per>.*))?",
    re.ASCII | re.DOTALL,
)


class Window(NamedTuple):
    """The span [start, end) that a moment falls into, in whole UTC epoch seconds, and how a store counts in it."""

    kind: Literal["fixed", "sliding"]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit. ``Limit.parse(sentence)`` reads it; ``str(limit)`` is the sentence as it was written."""

    amount: int
    """Requests, tokens, nano-USD, or calls in flight."""
    metric: Metric
    window: Unit | None
    """None for `concurrent`."""
    per: tuple[str, ...]
    """The dimensions that the sentence names. Empty: what is usual where the limit stands."""
    text: str

    @classmethod
    def parse(cls, sentence: str) -> Limit:
        """Read a sentence.

        Raises:
            ConfigurationError: what is wrong with the sentence, and how one reads.
        """
        if not isinstance(sentence, str):
            raise ConfigurationError(f"A limit must be a sentence, not {type(sentence).__name__}. {_EXAMPLE}.")
        match = _SENTENCE.fullmatch(sentence) if len(sentence) <= 500 else None
        if match is None:
            raise ConfigurationError(f"The limit {sentence[:80]!r} cannot be read. {_EXAMPLE}.")
        amount, metric = _amount_and_metric(sentence, match)
        window = match["window"]
        if metric == "concurrent":
            if window is not None:
                raise ConfigurationError(f"The limit {sentence!r} has a window: calls in flight have none.")
        elif window not in _UNITS:
            problem = _unknown("window", window, _UNITS) if window else "lacks a window"
            raise ConfigurationError(f"The limit {sentence!r} {problem}. {_EXAMPLE}.")
        return cls(amount, metric, window, _dimensions(sentence, match["per"]), sentence.strip())

    def __str__(self) -> str:
        return self.text

    def counts_the_same(self, kind: str) -> tuple[Metric, Unit | None, frozenset[str]]:
        """What two limits of one place must not share: they would count in one counter, twice."""
        return self.metric, self.window, frozenset(self.per or (USUAL[kind],))

    def shown(self, amount: int) -> int | Decimal:
        """An amount of this limit as users see it: USD for money, a plain number for the rest."""
        return usd(amount) if self.metric == "money" else amount


def _amount_and_metric(sentence: str, match: re.Match[str]) -> tuple[int, Metric]:
    metric: Metric | None
    if match["money"] is not None:
        exact = nano(match["money"].replace("_", ""))
        if exact is None:
            raise ConfigurationError(f"The limit {sentence!r} is finer than a nano-USD: nine decimals are the most.")
        amount, metric = exact, "money"
    else:
        amount = int(match["count"].replace("_", ""))
        name = match["metric"]
        metric = "concurrent" if name == "concurrent" else _COUNTED.get(name)
        if metric is None:
            known = ("requests", "tokens", "input_tokens", "output_tokens", "concurrent")
            raise ConfigurationError(f"The limit {sentence!r} {_unknown('metric', name, known)}. {_EXAMPLE}.")
    if amount > LARGEST:
        most = f"${usd(LARGEST)}" if metric == "money" else f"{LARGEST:_}"
        raise ConfigurationError(f"The limit {sentence!r} is larger than {most}, the most that can be counted exactly.")
    return amount, metric


def _dimensions(sentence: str, per: str | None) -> tuple[str, ...]:
    if per is None:
        return ()
    names = tuple(name.strip() for name in per.split(","))
    for name in names:
        if name not in _DIMENSIONS and not _TAG.fullmatch(name):
            raise ConfigurationError(
                f"The limit {sentence!r} {_unknown('dimension', name, (*_DIMENSIONS, 'tag:NAME'))}. "
                "A limit is per user, feature, model, plan, session, tag:NAME, prompt or app."
            )
    if len(set(names)) < len(names):
        raise ConfigurationError(f"The limit {sentence!r} names a dimension twice.")
    return names


def _unknown(what: str, name: str, known: tuple[str, ...]) -> str:
    near = nearest(name, known)
    return f"has an unknown {what} {name!r}" + (f" (did you mean {near!r}?)" if near else "")


class Calendar:
    """Finds windows: minutes and hours slide; days, weeks (from Monday) and months turn over in a time zone."""

    def __init__(self, zone: ZoneInfo) -> None:
        self._zone = zone
        # The last span of each unit: a call almost always falls into it. Replaced as a whole, so threads need no lock.
        self._last: dict[Unit, Window] = {}

    def window(self, unit: Unit, now: float) -> Window:
        """The window of `unit` that `now` (UTC epoch seconds) falls into."""
        size = _SLICE_SECONDS.get(unit)
        if size is not None:
            end = int(now // size) * size + size
            return Window("sliding", end - SLICES * size, end)
        last = self._last.get(unit)
        if last is None or not last.start <= now < last.end:
            last = self._last[unit] = self._span(unit, now)
        return last

    def _span(self, unit: Unit, now: float) -> Window:
        # Whole seconds: a datetime would round the last half microsecond of a day up into the next one.
        second = int(now // 1)
        today = datetime.fromtimestamp(second, self._zone).date()
        window = self._around(unit, today)
        # Where clocks went back across midnight, as from 00:01 to 23:01, the date comes back after its window's end.
        return window if second < window.end else self._around(unit, today + timedelta(days=1))

    def _around(self, unit: Unit, day: date) -> Window:
        if unit == "day":
            first, after = day, day + timedelta(days=1)
        elif unit == "week":
            first = day - timedelta(days=day.weekday())
            after = first + timedelta(days=7)
        else:
            first = day.replace(day=1)
            after = (first + timedelta(days=31)).replace(day=1)
        return Window("fixed", self._midnight(first), self._midnight(after))

    def _midnight(self, day: date) -> int:
        return int(datetime(day.year, day.month, day.day, tzinfo=self._zone).timestamp())


@dataclass(frozen=True, slots=True)
class PlacedLimit:
    """A limit where the policy puts it: it counts the calls that pass there, split by its dimensions."""

    limit: Limit
    place: str
    """``app``, ``plan:NAME`` or ``feature:NAME``."""
    per: tuple[str, ...]
    prefix: str
    """What the keys of its counters begin with. Free of the amount: raising a limit keeps what was counted."""

    @classmethod
    def at(cls, place: str, limit: Limit) -> PlacedLimit:
        """Put a limit in its place: there it gets its usual dimensions, where its sentence names none."""
        kind, _, name = place.partition(":")
        per = limit.per or (USUAL[kind],)
        per = tuple(sorted(per))
        split = "+".join(per)
        prefix = f"{kind}:{part(name)}/{limit.metric}/{limit.window or 'now'}/{split}"
        return cls(limit, place, per, prefix)

    def scope(self, values: Mapping[str, str | None]) -> dict[str, str]:
        """Dimension to value, as an error shows it. A value that the call lacks is shown as an empty string."""
        return {name: values.get(name) or "" for name in self.per if name != "app"}

    def charge(self, amount: int, values: Mapping[str, str | None], window: Window | None, now: float) -> Charge:
        """The charge of `amount`; `window` is None for calls in flight."""
        key = self.prefix
        for name in self.per:
            value = values.get(name)
            key += "/-" if value is None else f"/{len(value)}:{value}"
        if window is None:
            return Charge(key, amount, self.limit.amount, "held", int(now), int(now) + 1)
        return Charge(key, amount, self.limit.amount, *window)


def part(value: str | None) -> str:
    """One value within a key. Its length stands before it, so that no value can pass for another; "-" is a lack."""
    return "-" if value is None else f"{len(value)}:{value}"
