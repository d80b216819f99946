"""What the page shows, from one pass over the records, in memory that grows neither with calls nor with users."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

from .facts import EXACT, NOTHING, Calendar, Fact, days_between, fact
from .sums import Sums, Times, total
from .usage import OTHERS, Name, Span

MOST_DAYS_OF_HOURS, MOST_DAYS = 4, 400
"""Beyond a span of these many days bars stand for days, not hours; beyond these many days, for months."""

MOST_CELLS, MOST_ROWS, MOST_RULES = 20_000, 400_000, 5_000


class Place(NamedTuple):
    """Where calls stand: what the page can filter by."""

    when: str
    """An hour, day or month, as the beginning of an ISO timestamp."""
    feature: Name
    model: Name
    plan: Name


@dataclass(slots=True)
class Cell:
    """All calls of one place."""

    sums: Sums = field(default_factory=Sums)
    latency: Times | None = None
    first_token: Times | None = None

    def add(self, call: Fact) -> None:
        self.sums.add(call)
        if call.latency_ms is not None:
            self.latency = self.latency or Times()
            self.latency.add(call.latency_ms)
        if call.first_token_ms is not None:
            self.first_token = self.first_token or Times()
            self.first_token.add(call.first_token_ms)

    def merge(self, other: Cell) -> None:
        self.sums.merge(other.sums)
        self.latency = _together(self.latency, other.latency)
        self.first_token = _together(self.first_token, other.first_token)


def _together(mine: Times | None, theirs: Times | None) -> Times | None:
    if theirs is None:
        return mine
    mine = mine or Times()  # never theirs itself, which the next merge would change
    mine.merge(theirs)
    return mine


class Row:
    """One user's calls in one place. There are many, so it is small."""

    __slots__ = ("calls", "cost", "denied", "tokens", "unpriced")

    def __init__(self) -> None:
        self.calls = self.tokens = self.denied = self.unpriced = 0
        self.cost = NOTHING

    def merge(self, other: Row) -> None:
        self.calls += other.calls
        self.tokens += other.tokens
        self.denied += other.denied
        self.unpriced += other.unpriced
        self.cost = EXACT.add(self.cost, other.cost)


@dataclass(slots=True)
class Overview:
    """One pass over the records: `add` each. Sums of all calls are exact, whatever was merged to save memory."""

    calendar: Calendar = field(default_factory=Calendar)
    span: Span = field(default_factory=Span)
    most_cells: int = MOST_CELLS
    most_rows: int = MOST_ROWS
    unit: str = "hour"
    """What a `Place.when` is: "hour", "day" or "month"."""
    cells: dict[Place, Cell] = field(default_factory=dict)
    rows: dict[tuple[Name, Place], Row] = field(default_factory=dict)
    """By user. `OTHERS` are users that were merged, because there were too many."""
    denials: Counter[tuple[Name, bool, Place]] = field(default_factory=Counter)
    """By rule, and whether the call was denied indeed; False is shadow mode."""
    unreadable: int = 0
    """Records that cannot be counted: a cost that is no number, a time that is none."""
    merged_users: int = 0
    """Users, or users anew, whose calls were merged into `OTHERS`."""
    degraded: int = 0
    """Calls that a process counted alone, because the quota store was away."""
    _places: dict[Place, Place] = field(default_factory=dict)
    _whens: set[str] = field(default_factory=set)

    def read(self, records: Iterable[Mapping[str, Any]]) -> Overview:
        """Add all of them."""
        for record in records:
            self.add(record)
        return self

    def add(self, record: Mapping[str, Any]) -> None:
        try:
            call = fact(record, self.calendar)
        except (ValueError, TypeError, AttributeError):
            self.unreadable += 1
            return
        if not self.span.holds(call.hour[:10]):
            return
        if record.get("degraded") is True:
            self.degraded += 1
        when = call.hour[: _LENGTHS[self.unit]]
        if when not in self._whens:
            when = self._new(call.hour)
        place = Place(when, call.feature, call.model, call.plan)
        cell = self.cells.get(place)
        if cell is None:
            cell = self.cells[place] = Cell()
            self._places[place] = place
        cell.add(call)
        place = self._places[place]  # one object for all, or their number would cost memory
        row = self.rows.get((call.user, place))
        if row is None:
            row = self.rows[call.user, place] = Row()
        row.calls += 1
        row.tokens += call.input_tokens + call.output_tokens
        if call.cost:
            row.cost = EXACT.add(row.cost, call.cost)
        elif call.cost is None and call.sent:
            row.unpriced += 1
        if not call.sent:
            row.denied += 1
        if call.rule is not None:
            self.denials[call.rule, not call.sent, place] += 1
        if len(self.rows) > self.most_rows or len(self.cells) > self.most_cells or len(self.denials) > self.most_rows:
            self._shrink()

    # The whole --------------------------------------------------------------------------------------------------------

    @property
    def sums(self) -> Sums:
        return total(cell.sums for cell in self.cells.values())

    def by(self, key: Callable[[Place], Any]) -> dict[Any, Cell]:
        """The cells, put together by what `key` says of their places."""
        found: dict[Any, Cell] = {}
        for place, cell in self.cells.items():
            found.setdefault(key(place), Cell()).merge(cell)
        return found

    def users(self) -> dict[Name, Row]:
        """Each user's calls."""
        found: dict[Name, Row] = {}
        for (user, _), row in self.rows.items():
            found.setdefault(user, Row()).merge(row)
        return found

    # Keeping it small -------------------------------------------------------------------------------------------------

    def _new(self, hour: str) -> str:
        """The time that an hour belongs to, when it has not come up before."""
        self._whens.add(hour[: _LENGTHS[self.unit]])
        # Hours are few and far between where a quiet application is looked at for a month; so the span decides.
        if self.unit == "hour" and days_between(min(self._whens), max(self._whens)) > MOST_DAYS_OF_HOURS:
            self._lengthen("day")
        # A clock that was wrong once makes a span of decades; so the number of days decides.
        if self.unit == "day" and len(self._whens) > MOST_DAYS:
            self._lengthen("month")
        return hour[: _LENGTHS[self.unit]]

    def _lengthen(self, unit: str) -> None:
        self.unit = unit
        self._whens = {when[: _LENGTHS[unit]] for when in self._whens}
        self._move(lambda place: place._replace(when=place.when[: _LENGTHS[unit]]))

    def _shrink(self) -> None:
        if len(self.cells) > self.most_cells:
            most = 64
            while len(self.cells) > self.most_cells // 2 and most:
                most //= 2
                self.keep_names(most)
        if len(self.denials) > self.most_rows:
            self._keep_rules()
        if len(self.rows) > self.most_rows:
            self._keep_users()

    def keep_names(self, most: int) -> None:
        """Leave this many features, models and plans their names, those that cost most; the rest are `OTHERS`."""
        kept = {
            field: set(largest(self.by(lambda place, field=field: getattr(place, field)), most))  # type: ignore[misc]
            for field in ("feature", "model", "plan")
        }
        self._move(
            lambda place: Place(
                place.when,
                place.feature if place.feature in kept["feature"] else OTHERS,
                place.model if place.model in kept["model"] else OTHERS,
                place.plan if place.plan in kept["plan"] else OTHERS,
            )
        )

    def _keep_users(self) -> None:
        """Let those that cost least go, until half of the rows are left."""
        totals, counted = self.users(), Counter(user for user, _ in self.rows)
        too_many, going = len(self.rows) - self.most_rows // 2, set[Name]()
        for user in sorted(totals.keys() - {OTHERS}, key=lambda user: _weight(totals[user])):
            if too_many <= 0:
                break
            going.add(user)
            too_many -= counted[user]
        self.merged_users += len(going)
        rows, self.rows = self.rows, {}
        for (user, place), row in rows.items():
            self._put(self.rows, (OTHERS if user in going else user, place), row)

    def _keep_rules(self) -> None:
        counted: Counter[Name] = Counter()
        for (rule, _, _), count in self.denials.items():
            counted[rule] += count
        kept = {rule for rule, _ in counted.most_common(50)}
        before, self.denials = self.denials, Counter()
        for (rule, real, place), count in before.items():
            self.denials[rule if rule in kept else OTHERS, real, place] += count

    def _move(self, to: Callable[[Place], Place]) -> None:
        """Put every place where `to` says, and what meets there together."""
        cells, rows, denials = self.cells, self.rows, self.denials
        self.cells, self.rows, self.denials, self._places = {}, {}, Counter(), {}
        moved: dict[Place, Place] = {}
        for place, cell in cells.items():
            there = to(place)
            moved[place] = self._places.setdefault(there, there)
            self._put(self.cells, there, cell)
        for (user, place), row in rows.items():
            self._put(self.rows, (user, moved[place]), row)
        for (rule, real, place), count in denials.items():
            self.denials[rule, real, moved[place]] += count

    @staticmethod
    def _put(where: dict[Any, Any], key: Any, value: Any) -> None:
        if key in where:
            where[key].merge(value)
        else:
            where[key] = value


_LENGTHS = {"hour": 13, "day": 10, "month": 7}


def _weight(row: Row) -> tuple[Decimal, int]:
    return row.cost, row.calls


def largest(parts: Mapping[Name, Cell], most: int) -> list[Name]:
    """The names of the parts that cost most, dearest first; `OTHERS` is no name."""
    named: list[Name] = [name for name in parts if name is not OTHERS]
    return sorted(named, key=lambda name: parts[name].sums.weight, reverse=True)[:most]
