"""The figures that the page carries along, so that it can be filtered: as small as that can be told."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from heapq import nlargest
from typing import Any

from .facts import EXACT, days_between
from .overview import Overview, Place
from .sheets import SERIES, series
from .steering import Steering
from .sums import Sums, Times
from .usage import OTHERS, Name
from .words import label

_MOST_ROWS, _LEADERS, _FOREMOST = 40_000, 10, 25
_MOST_WHENS, _MOST_WHO = 1_500, 4


def names(overview: Overview) -> dict[str, list[Name]]:
    """The features, models and plans, as the data numbers them. Features that have a colour come first."""
    coloured = series(overview)
    found: dict[str, list[Name]] = {}
    for field in ("feature", "model", "plan"):
        names = {getattr(place, field) for place in overview.cells}
        first = coloured if field == "feature" else []
        found[field] = [*first, *sorted(names - set(first), key=lambda name: (name is OTHERS, label(name)))]
    return found


def whens(overview: Overview) -> list[str]:
    """All hours, days or months from the first to the last, also those without calls, unless they are too many."""
    present = sorted({place.when for place in overview.cells})
    if not present:
        return []
    first, last = present[0], present[-1]
    if overview.unit == "month":
        years = range(int(first[:4]), int(last[:4]) + 1)
        every = [f"{year:04d}-{month:02d}" for year in years for month in range(1, 13)]
    else:
        days = [
            date.fromisoformat(first[:10]) + timedelta(n) for n in range(min(_MOST_WHENS, days_between(first, last)))
        ]
        every = [day.isoformat() for day in days]
        if overview.unit == "hour":
            every = [f"{day}T{hour:02d}" for day in every for hour in range(24)]
    every = [when for when in every if first <= when <= last]
    return every if len(every) < _MOST_WHENS and set(present) <= set(every) else present


def embedded(overview: Overview, steering: Steering) -> dict[str, Any]:
    """What the page's scripts make charts and tables of. Money is in units of 10 ** -places USD."""
    found, times = names(overview), whens(overview)
    at = {when: index for index, when in enumerate(times)}
    index = {field: {name: number for number, name in enumerate(listed)} for field, listed in found.items()}
    places = {place: number for number, place in enumerate(overview.cells)}
    amounts = [cell.sums.cost for cell in overview.cells.values()]
    digits = max((-int(amount.as_tuple().exponent) for amount in amounts if amount), default=0)

    def where(place: Place) -> list[int]:
        return [at[place.when], *(index[field][getattr(place, field)] for field in index)]

    users, rows = _foremost(overview)
    user_at = {user: number for number, user in enumerate(users)}
    rules = list(dict.fromkeys(rule for rule, _, _ in overview.denials))
    rule_at = {rule: number for number, rule in enumerate(rules)}
    return {
        "unit": overview.unit,
        "places": max(digits, 0),
        "whens": times,
        "names": {field: [[label(name), name is OTHERS] for name in listed] for field, listed in found.items()},
        "series": min(SERIES, len(series(overview))),
        "cells": [
            [*where(place), *_sums(cell.sums, digits), _times(cell.latency), _times(cell.first_token)]
            for place, cell in overview.cells.items()
        ],
        "users": [label(user) for user in users],
        "rows": [
            [user_at[user], places[place], row.calls, row.denied, row.tokens, row.unpriced, _scaled(row.cost, digits)]
            for user, place, row in rows
        ],
        "rules": [[label(rule), rule is OTHERS] for rule in rules],
        "denials": [
            [rule_at[rule], int(real), places[place], n] for (rule, real, place), n in overview.denials.items()
        ],
        "marks": [[when, kind, len(who), who[:_MOST_WHO]] for (when, kind), who in sorted(steering.marks.items())],
    }


def _sums(sums: Sums, digits: int) -> list[int | str]:
    return [
        sums.calls,
        sums.denied,
        sums.failed,
        sums.input_tokens,
        sums.cached_input_tokens,
        sums.output_tokens,
        sums.unpriced,
        _scaled(sums.cost, digits),
    ]


def _scaled(amount: Decimal, digits: int) -> int | str:
    units = int(EXACT.scaleb(amount, digits))
    # Beyond this a number of JavaScript is no longer exact; its whole numbers of any size are read from text.
    return units if units < 2**53 else str(units)


def _times(times: Times | None) -> list[int]:
    """Buckets and their counts, by turns."""
    return [figure for pair in enumerate(times.counts) if pair[1] for figure in pair] if times else []


def _foremost(overview: Overview) -> tuple[list[Name], list[tuple[Name, Place, Any]]]:
    """The users that the page knows by name, and their rows: the dearest of all, and of each feature, model, plan and
    time, so that the leaders of what is filtered by one of these are among them."""
    totals = overview.users()
    totals.pop(OTHERS, None)
    chosen = dict.fromkeys(_dearest(totals, _FOREMOST))
    leaders: dict[tuple[str, Name], dict[Name, Any]] = {}
    for (user, place), row in overview.rows.items():
        if user is OTHERS:
            continue
        for field, name in zip(Place._fields, place, strict=True):
            spent = leaders.setdefault((field, name), {})
            known = spent.get(user)
            spent[user] = (
                (row.cost, row.calls) if known is None else (EXACT.add(known[0], row.cost), known[1] + row.calls)
            )
    for spent in leaders.values():
        chosen.update(dict.fromkeys(nlargest(_LEADERS, spent, key=spent.__getitem__)))
    counts: dict[Name, int] = dict.fromkeys(chosen, 0)
    for user, _ in overview.rows:
        if user in counts:
            counts[user] += 1
    kept: list[Name] = []
    size = 0
    for user in chosen:
        size += counts[user]
        if size > _MOST_ROWS and kept:
            break
        kept.append(user)
    inside = set(kept)
    return kept, [(user, place, row) for (user, place), row in overview.rows.items() if user in inside]


def _dearest(totals: Mapping[Name, Any], most: int) -> list[Name]:
    return nlargest(most, totals, key=lambda user: (totals[user].cost, totals[user].calls))
