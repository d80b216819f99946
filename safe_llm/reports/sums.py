"""What is added up: calls, tokens, money, and times by their percentiles. All but the percentiles are exact."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from math import ceil, log

from .facts import EXACT, NOTHING, Fact

GROWTH = 1.05
"""The page's side has the same."""
_BUCKETS = 312
"""Up to 1.05 ** 312 ms, more than an hour; longer times count as that."""
_SIZE = array("L").itemsize
_SCALE = 1 / log(GROWTH)

ERROR_PERCENT = 2.5
"""A percentile is within this much of a time that was measured: half a bucket, the root of 1.05."""

FAILED = ("error", "timeout")


@dataclass(slots=True)
class Sums:
    """Sums over calls. Where a number includes another, it says so."""

    calls: int = 0
    """Includes those that were denied."""
    denied: int = 0
    would_be_denied: int = 0
    """Denied by a policy in shadow mode: they were made all the same."""
    failed: int = 0
    """Ended by an error or a time-out."""
    input_tokens: int = 0
    """Includes `cached_input_tokens`."""
    cached_input_tokens: int = 0
    output_tokens: int = 0
    """Includes `reasoning_tokens`."""
    reasoning_tokens: int = 0
    cost: Decimal = NOTHING
    """USD, of the calls whose price is known; includes `cost_estimated`."""
    cost_estimated: Decimal = NOTHING
    """USD of the calls whose usage the provider did not tell."""
    estimated: int = 0
    """Calls whose usage the provider did not tell."""
    unpriced: int = 0
    """Calls whose cost is not known. They are not in `cost`."""

    def add(self, call: Fact) -> None:
        self.calls += 1
        self.input_tokens += call.input_tokens
        self.cached_input_tokens += call.cached_input_tokens
        self.output_tokens += call.output_tokens
        self.reasoning_tokens += call.reasoning_tokens
        if call.sent:
            if call.rule is not None:
                self.would_be_denied += 1
            if call.outcome in FAILED:
                self.failed += 1
        else:
            self.denied += 1
        if call.cost is None:
            self.unpriced += call.sent
        elif call.cost:
            self.cost = EXACT.add(self.cost, call.cost)
        if call.estimated:
            self.estimated += 1
            self.cost_estimated = EXACT.add(self.cost_estimated, call.cost or NOTHING)

    def merge(self, other: Sums) -> None:
        for name in _NAMES:
            if value := getattr(other, name):
                mine = getattr(self, name)
                setattr(self, name, EXACT.add(mine, value) if isinstance(value, Decimal) else mine + value)

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def weight(self) -> tuple[Decimal, int]:
        """What groups are ordered by: money, then calls."""
        return self.cost, self.calls


_NAMES = tuple(field.name for field in fields(Sums))


def total(parts: Iterable[Sums]) -> Sums:
    """One sum of several."""
    whole = Sums()
    for part in parts:
        whole.merge(part)
    return whole


class Times:
    """How long calls took: counts in buckets that grow by a twentieth, so that any two can be put together."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = array("L", bytes(_SIZE * _BUCKETS))

    def add(self, milliseconds: float) -> None:
        bucket = int(log(milliseconds) * _SCALE) if milliseconds > 1 else 0
        self.counts[min(bucket, _BUCKETS - 1)] += 1

    def merge(self, other: Times) -> None:
        for bucket, count in enumerate(other.counts):
            if count:
                self.counts[bucket] += count

    def percentiles(self, *percents: float) -> Sequence[float | None]:
        """Milliseconds that so many percent of the calls took at the most, within `ERROR_PERCENT`; None of none."""
        whole = sum(self.counts)
        return [self._at(max(1, ceil(whole * percent / 100))) if whole else None for percent in percents]

    def _at(self, rank: int) -> float:
        below = 0
        for bucket, count in enumerate(self.counts):
            below += count
            if below >= rank:
                return middle(bucket)
        return middle(_BUCKETS - 1)


def middle(bucket: int) -> float:
    """The milliseconds that stand for a bucket: those in it differ by no more than `ERROR_PERCENT`."""
    return float(GROWTH ** (bucket + 0.5))
