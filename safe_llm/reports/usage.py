"""Who spent what: calls by any of their dimensions, in memory that does not grow with the number of users."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from heapq import nlargest
from operator import attrgetter
from typing import Any

from ..errors import ConfigurationError
from .facts import Calendar, Fact, fact
from .sums import Sums, total

MOST_GROUPS = 100_000


class Others(Enum):
    """The name of all groups that have none of their own."""

    OTHERS = "others"


OTHERS = Others.OTHERS
Name = str | None | Others
"""What a group is called; None is the group of the calls that name nothing."""

Dimension = Callable[[Fact, Mapping[str, Any]], str | None]

DIMENSIONS: dict[str, Dimension] = {
    "user": lambda call, record: call.user,
    "feature": lambda call, record: call.feature,
    "model": lambda call, record: call.model,
    "plan": lambda call, record: call.plan,
    "tag": lambda call, record: ", ".join(f"{name}={value}" for name, value in sorted(_tags(record).items())) or None,
    "day": lambda call, record: call.hour[:10],
}
"""What calls can be grouped by; beside these, ``tag:NAME`` is the value of one tag."""


def dimensions(by: str) -> list[tuple[str, Dimension]]:
    """The dimensions of a text such as ``user,day``. Raises `ConfigurationError`, which names those that exist."""
    found: dict[str, Dimension] = {}
    for name in by.split(","):
        name = name.strip()
        if name.startswith("tag:") and name != "tag:":
            found[name] = _tag(name.removeprefix("tag:"))
        elif name in DIMENSIONS:
            found[name] = DIMENSIONS[name]
        else:
            raise ConfigurationError(
                f"Usage cannot be grouped by {name!r}. Name any of {', '.join(DIMENSIONS)} or tag:NAME, with commas "
                "between them: user,day."
            )
    return list(found.items())


def _tag(tag: str) -> Dimension:
    return lambda call, record: _text(_tags(record).get(tag))


def _tags(record: Mapping[str, Any]) -> Mapping[str, Any]:
    tags = record.get("tags")
    return tags if isinstance(tags, dict) else {}


def _text(value: object) -> str | None:
    return None if value is None else str(value)


@dataclass(slots=True)
class Group:
    """The calls that have something in common, and what they are made of."""

    name: Name
    sums: Sums
    groups: list[Group] = field(default_factory=list)
    """Largest first, days in their order; what was left out stands last, as `OTHERS`."""
    left_out: int = 0
    """How many groups `OTHERS` stands for, at least; only where this is `OTHERS`."""


@dataclass(frozen=True, slots=True)
class Span:
    """The days that a report is about, the last included; None is unbounded. As ISO texts: ``2026-11-26``."""

    since: str | None = None
    until: str | None = None

    def holds(self, day: str) -> bool:
        return (self.since is None or day >= self.since) and (self.until is None or day <= self.until)


@dataclass(slots=True)
class Usage:
    """Sums by group. One pass over the records: `add` each."""

    by: str
    calendar: Calendar = field(default_factory=Calendar)
    span: Span = field(default_factory=Span)
    most_groups: int = MOST_GROUPS
    """When there are more, the smaller half of them is merged into `OTHERS`. Sums of all calls stay exact; a group that
    was merged and comes again starts anew."""
    unreadable: int = 0
    """Records that cannot be counted: a cost that is no number, a time that is none."""
    merged: int = 0
    """Groups that were merged because there were too many."""
    first: str | None = None
    """The first day and the last one with calls."""
    last: str | None = None
    _groups: dict[tuple[Name, ...], Sums] = field(default_factory=dict)
    dimensions: list[tuple[str, Dimension]] = field(init=False)

    def __post_init__(self) -> None:
        self.dimensions = dimensions(self.by)

    def read(self, records: Iterable[Mapping[str, Any]]) -> Usage:
        """Add all of them."""
        for record in records:
            self.add(record)
        return self

    def add(self, record: Mapping[str, Any]) -> None:
        try:
            call = fact(record, self.calendar)
            key = tuple([name(call, record) for _, name in self.dimensions])
        except (ValueError, TypeError, AttributeError):
            self.unreadable += 1
            return
        day = call.hour[:10]
        if not self.span.holds(day):
            return
        if self.first is None or self.last is None:
            self.first = self.last = day
        self.first, self.last = min(self.first, day), max(self.last, day)
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= self.most_groups:
                self._merge_smaller_half()
            group = self._groups[key] = Sums()
        group.add(call)

    def _merge_smaller_half(self) -> None:
        ordered = sorted(self._groups.items(), key=lambda item: item[1].weight, reverse=True)
        self._groups = dict(ordered[: self.most_groups // 2])
        rest = [sums for _, sums in ordered[self.most_groups // 2 :]]
        self.merged += len(rest)
        others = (OTHERS,) * len(self.dimensions)
        self._groups.setdefault(others, Sums()).merge(total(rest))

    def tree(self, top: int | None = None) -> Group:
        """All calls, with groups inside groups in the order of `by`; of each level the `top` largest, days apart."""
        rows = [(key, sums) for key, sums in self._groups.items()]
        return Group(None, total(sums for _, sums in rows), self._level(rows, 0, top))

    def _level(self, rows: list[tuple[tuple[Name, ...], Sums]], depth: int, top: int | None) -> list[Group]:
        if depth == len(self.dimensions):
            return []
        parts: dict[Name, list[tuple[tuple[Name, ...], Sums]]] = {}
        for key, sums in rows:
            parts.setdefault(key[depth], []).append((key, sums))
        rest = parts.pop(OTHERS, [])
        groups = [
            Group(name, total(sums for _, sums in inside), self._level(inside, depth + 1, top))
            for name, inside in parts.items()
        ]
        shown = groups if top is None else nlargest(top, groups, key=attrgetter("sums.weight"))
        left_out = _without(groups, shown)
        if self.dimensions[depth][0] == "day":
            shown, left_out = sorted(groups, key=lambda group: str(group.name)), []
        elif top is None:
            shown = sorted(groups, key=attrgetter("sums.weight"), reverse=True)
        if rest or left_out:
            sums = total([*(sums for _, sums in rest), *(group.sums for group in left_out)])
            shown = [*shown, Group(OTHERS, sums, left_out=len(left_out) + len(rest))]
        return shown


def _without(groups: Sequence[Group], shown: Sequence[Group]) -> list[Group]:
    kept = {id(group) for group in shown}
    return [group for group in groups if id(group) not in kept]
