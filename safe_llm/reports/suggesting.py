"""Limits to choose from: what users really used, at percentiles, as sentences that a policy takes."""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from math import ceil
from typing import NamedTuple

from ..limits import LARGEST, SLICES, Calendar
from ..types import plain, usd
from .recorded import Recorded

PERCENTILES = (95.0, 99.0)
_DAILY = ("money", "tokens", "requests")
_MICRO = 1_000_000


class Suggestion(NamedTuple):
    """For the users of one plan, and one metric and window: amounts that so much of what happened stays within."""

    plan: str | None
    metric: str
    window: str
    seen: int
    """Users' days that the daily amounts are of, days without a call left out; or calls, for those of a minute."""
    amounts: dict[float, int]
    """By percentile: nano-USD, tokens or requests, rounded up to two digits that count."""
    most: int

    def sentence(self, percentile: float) -> str:
        """The limit, as ``[plans.NAME] limits`` takes it."""
        return _sentence(self.metric, self.window, self.amounts[percentile])


class Suggesting:
    """Takes calls in their order. Memory grows with the users of one day, and by 24 bytes with each user's day."""

    def __init__(self, calendar: Calendar, percentiles: Sequence[float] = PERCENTILES) -> None:
        self._calendar, self._percentiles = calendar, percentiles
        self._ends = 0
        self._today: dict[tuple[str | None, str], list[int]] = {}
        self._days: dict[str | None, tuple[array[int], ...]] = {}
        self._minute: dict[tuple[str | None, str], deque[int]] = {}
        self._minutes: dict[str | None, Counter[int]] = {}

    def add(self, call: Recorded) -> None:
        """Count what a call used; one that was not sent used nothing."""
        if not call.sent:
            return
        second = call.begin // _MICRO
        if second >= self._ends:
            self._turn_over()
            self._ends = self._calendar.window("day", second).end
        who = call.plan, call.user
        used = self._today.setdefault(who, [0, 0, 0])
        used[0] += call.cost_used or 0
        used[1] += call.input_used + call.output_used
        used[2] += 1
        recent = self._minute.setdefault(who, deque())
        while recent and recent[0] <= second - SLICES:
            recent.popleft()
        recent.append(second)
        self._minutes.setdefault(call.plan, Counter())[len(recent)] += 1

    def _turn_over(self) -> None:
        for (plan, _), used in self._today.items():
            days = self._days.setdefault(plan, tuple(array("q") for _ in _DAILY))
            for values, amount in zip(days, used, strict=True):
                values.append(min(amount, LARGEST))
        self._today = {}
        self._minute = {who: recent for who, recent in self._minute.items() if recent[-1] > self._ends - SLICES}

    def suggestions(self) -> Iterator[Suggestion]:
        """By plan, once all calls have been added."""
        self._turn_over()
        for plan in sorted(self._days, key=str):
            for metric, values in zip(_DAILY, self._days[plan], strict=True):
                ranked = sorted(values)
                at = {p: _rounded(ranked[_rank(p, len(ranked))]) for p in self._percentiles}
                if ranked[-1]:
                    yield Suggestion(plan, metric, "day", len(ranked), at, ranked[-1])
            counts = self._minutes[plan]
            at = {p: _rounded(_of_counts(counts, _rank(p, counts.total()))) for p in self._percentiles}
            yield Suggestion(plan, "requests", "minute", counts.total(), at, max(counts))


def _rank(percentile: float, number: int) -> int:
    """The place, among so many in ascending order, that this share of them does not exceed."""
    return max(ceil(percentile / 100 * number) - 1, 0)


def _of_counts(counts: Counter[int], rank: int) -> int:
    for value, number in sorted(counts.items()):
        if rank < number:
            return value
        rank -= number
    raise IndexError(rank)


def _rounded(amount: int) -> int:
    unit: int = 10 ** max(len(str(amount)) - 2, 0)
    return -(-amount // unit) * unit


def _sentence(metric: str, window: str, amount: int) -> str:
    return f"${plain(usd(amount))}/{window}" if metric == "money" else f"{amount:_} {metric}/{window}"
