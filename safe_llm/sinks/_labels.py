"""Values of metrics' labels, bounded: each costs the metrics' server memory for good."""

from __future__ import annotations

from ..types import UsageRecord

OTHER = "other"
"""Stands for all values beyond the bound."""


class Labels:
    """Remembers which values a label has had. Callers choose features and models, so there is a bound.

    A call that succeeded may bring a new value up to the bound, another one up to half of it: whoever makes names up is
    refused, and leaves room for those that are real.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def of(self, value: str | None, record: UsageRecord) -> str:
        """The value as a label; empty where there is none."""
        if not value or value in self._known:
            return value or ""
        if len(self._known) >= (self._most if record.outcome == "ok" else self._most // 2):
            return OTHER
        self._known.add(value)
        return value
