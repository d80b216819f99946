"""The tables of the page, as they stand before anything is filtered. `templates/sheets.js` makes the same of a part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from .overview import Cell, Overview, largest
from .sums import Sums, Times, total
from .usage import OTHERS, Name
from .words import compact, day, duration, exact, label, number, percent, spent

ROWS = 10
"""Of a ranking; what is left is one more row."""

SERIES = 7
"""Features that have a colour of their own."""


class Value(NamedTuple):
    """What stands in a table: the text, and the figure with all its digits where that is rounded."""

    text: str
    exact: str | None = None
    bar: float = 0.0
    """How long its bar is, of 100."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table. The first column names what a row is about; `foot` is the sum."""

    id: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    foot: Sequence[Value] = ()


def sheets(overview: Overview) -> dict[str, Sheet]:
    """All tables that can be filtered, by their ids."""
    made = [
        spend(overview),
        users(overview),
        *(_ranking(overview, field) for field in ("feature", "model", "plan")),
        _tokens(overview),
        *_speed(overview),
        denials(overview),
    ]
    return {sheet.id: sheet for sheet in made}


def series(overview: Overview) -> list[Name]:
    """The features that have colours, dearest first."""
    return largest(overview.by(lambda place: place.feature), SERIES)


# What was spent -------------------------------------------------------------------------------------------------------


def spend(overview: Overview) -> Sheet:
    """When by feature."""
    names = series(overview)
    found = overview.by(lambda place: (place.when, place.feature if place.feature in names else OTHERS))
    has_others = any(name is OTHERS for _, name in found)
    columns: list[Name] = [*names, *([OTHERS] if has_others else [])]
    whens = sorted({when for when, _ in found})

    def costs(*whens: str) -> list[Value]:
        cells = [[found[when, name].sums for when in whens if (when, name) in found] for name in columns]
        return [_usd(total(sums)) for sums in ([sums for inside in cells for sums in inside], *cells)]

    rows = [[Value(day(when)), *costs(when)] for when in whens]
    headings = [overview.unit.capitalize(), "All", *map(label, columns)]
    return Sheet("spend", "Spend over time, by feature, in USD", headings, rows, [Value("All"), *costs(*whens)])


def _ranking(overview: Overview, field: str) -> Sheet:
    parts = {name: cell.sums for name, cell in overview.by(lambda place: getattr(place, field)).items()}
    return _ranked(field, f"Spend by {field}", parts)


def users(overview: Overview) -> Sheet:
    """The dearest users."""
    parts = {
        name: Sums(row.calls, row.denied, input_tokens=row.tokens, cost=row.cost, unpriced=row.unpriced)
        for name, row in overview.users().items()
    }
    return _ranked("user", "Users who spent most", parts)


def _ranked(what: str, caption: str, parts: Mapping[Name, Sums]) -> Sheet:
    # Where all else is equal the name decides, so that the page's side comes to the same order.
    named = sorted((name for name in parts if name is not OTHERS), key=label)
    named.sort(key=lambda name: parts[name].weight, reverse=True)
    whole, most = total(parts.values()), max((parts[name].cost for name in named), default=Decimal(0))
    rows = [_figures(label(name), parts[name], whole, most) for name in named[:ROWS]]
    rest = [parts[name] for name in named[ROWS:]] + [parts[name] for name in parts if name is OTHERS]
    if rest:
        rows.append(_figures(label(OTHERS), total(rest), whole, Decimal(0)))
    columns = [what.capitalize(), "Spend", "Share", "Calls", "Denied", "Tokens"]
    return Sheet(f"{what}s", caption, columns, rows, _figures("All", whole, whole, Decimal(0)))


def _figures(name: str, sums: Sums, whole: Sums, most: Decimal) -> list[Value]:
    bar = float(sums.cost / most) * 100 if most else 0.0
    return [
        Value(name),
        Value(spent(sums.cost, sums.unpriced), exact(sums.cost), round(bar, 1)),
        Value(percent(sums.cost, whole.cost)),
        Value(number(sums.calls)),
        Value(number(sums.denied)),
        Value(compact(sums.total_tokens), str(sums.total_tokens)),
    ]


def _usd(sums: Sums) -> Value:
    return Value(spent(sums.cost, sums.unpriced), exact(sums.cost))


# Over time ------------------------------------------------------------------------------------------------------------


def _over_time(overview: Overview) -> list[tuple[str, Cell]]:
    return sorted(overview.by(lambda place: place.when).items())


def _tokens(overview: Overview) -> Sheet:
    def row(name: str, sums: Sums) -> list[Value]:
        fresh = sums.input_tokens - sums.cached_input_tokens
        figures = (sums.calls, fresh, sums.cached_input_tokens, sums.output_tokens)
        return [Value(name), *(Value(number(figure)) for figure in figures)]

    rows = [row(day(when), cell.sums) for when, cell in _over_time(overview)]
    columns = [overview.unit.capitalize(), "Calls", "Input, not cached", "Input, cached", "Output"]
    return Sheet("tokens", "Calls and tokens over time", columns, rows, row("All", overview.sums))


def _speed(overview: Overview) -> Iterable[Sheet]:
    whens = _over_time(overview)
    everything = overview.by(lambda place: "All").get("All", Cell())
    for id, caption in (("latency", "Time to the end of the answer"), ("first_token", "Time to the first token")):

        def row(name: str, times: Times | None) -> list[Value]:
            found = times.percentiles(50, 90, 99) if times else (None,) * 3
            return [Value(name), *(Value(duration(time)) for time in found)]

        rows = [row(day(when), getattr(cell, id)) for when, cell in whens]
        columns = [overview.unit.capitalize(), "Half took at most", "90 % took at most", "99 % took at most"]
        yield Sheet(id, caption, columns, rows, row("All", getattr(everything, id)))


# Denials --------------------------------------------------------------------------------------------------------------


def denials(overview: Overview) -> Sheet:
    """By rule: the denied, and those of shadow mode."""
    real, shadow = Counter[Name](), Counter[Name]()
    for (rule, is_real, _), count in overview.denials.items():
        (real if is_real else shadow)[rule] += count
    both = real + shadow
    ranked = sorted((rule for rule in both if rule is not OTHERS), key=lambda rule: (-both[rule], label(rule)))
    rest: list[Name] = [*ranked[ROWS:], *(rule for rule in both if rule is OTHERS)]
    most = max(both.values(), default=0)

    def row(name: str, rules: Sequence[Name], bar: float) -> list[Value]:
        denied, would = sum(real[rule] for rule in rules), sum(shadow[rule] for rule in rules)
        share = percent(denied + would, sum(both.values()))
        return [Value(name), Value(number(denied), None, round(bar, 1)), Value(share), Value(number(would))]

    rows = [row(label(rule), [rule], both[rule] / most * 100) for rule in ranked[:ROWS]]
    if rest:
        rows.append(row(label(OTHERS), rest, 0.0))
    columns = ["Rule", "Denied", "Share", "Would be denied"]
    return Sheet("denials", "Denials by rule", columns, rows, row("All", list(both), 0.0))
