"""What stands out, in plain sentences. Each is about all calls, and is left out where there is nothing to say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from statistics import median

from .facts import days_between
from .overview import Overview, largest
from .sums import Times
from .usage import OTHERS, Name
from .words import compact, counted, day, duration, label, money, number, percent, spent, times

Sentence = tuple[str, ...]
"""Plain and emphasized text by turns, beginning with plain."""

_PEAK = 2
_BURST, _BURST_CALLS = 10, 50


def insights(overview: Overview) -> dict[str, list[Sentence]]:
    """By the section of the page that they stand in; the first of each section is the most telling."""
    if not overview.cells:
        return {}
    sections: dict[str, Sequence[Callable[[Overview], Iterator[Sentence]]]] = {
        "spend": (_spend, _trend, _peak),
        "users": (_bursts, _users),
        "models": (_models,),
        "features": (_features,),
        "tokens": (_tokens,),
        "speed": (_speed, _failures),
        "denials": (_denials,),
    }
    return {name: [sentence for find in finders for sentence in find(overview)] for name, finders in sections.items()}


def _spend(overview: Overview) -> Iterator[Sentence]:
    sums, span = overview.sums, sorted(place.when for place in overview.cells)
    money_spent = spent(sums.cost, sums.unpriced) if sums.cost or not sums.unpriced else "An unknown amount"
    if overview.unit == "day" and (days := days_between(span[0], span[-1])) > 1:
        yield "", money_spent, " was spent in ", f"{days} days", f", {money(sums.cost / days)} a day."
    else:
        yield "", money_spent, " was spent on ", counted(sums.calls, "call"), "."


def _trend(overview: Overview) -> Iterator[Sentence]:
    if overview.unit != "day":
        return
    costs = _costs(overview)
    last = max(costs)
    if days_between(min(costs), last) < 15:
        return
    # The last day may have only begun, so the weeks compared end before it.
    ages = {when: days_between(when, last) - 2 for when in costs}
    recent, before = (sum((costs[when] for when in costs if ages[when] // 7 == week), Decimal(0)) for week in (0, 1))
    if before and abs(change := float(recent / before) - 1) >= 0.1:
        direction = "more" if change > 0 else "less"
        yield "The last seven full days cost ", f"{abs(change) * 100:.0f} % {direction}", " than the seven before."


def _peak(overview: Overview) -> Iterator[Sentence]:
    costs = _costs(overview)
    when = max(costs, key=lambda when: costs[when])
    usual = median(costs.values())
    if len(costs) >= 5 and usual and (ratio := float(costs[when] / usual)) >= _PEAK:
        when_said = f"{overview.unit}, {day(when)},"
        yield "The most expensive ", when_said, f" cost {money(costs[when])}: ", f"{times(ratio)} times", " the usual."


def _costs(overview: Overview) -> dict[str, Decimal]:
    return {when: cell.sums.cost for when, cell in overview.by(lambda place: place.when).items()}


def _features(overview: Overview) -> Iterator[Sentence]:
    yield from _dearest(overview, "feature")


def _models(overview: Overview) -> Iterator[Sentence]:
    yield from _dearest(overview, "model")


def _dearest(overview: Overview, field: str) -> Iterator[Sentence]:
    parts = overview.by(lambda place: getattr(place, field))
    names, whole = largest(parts, 1), overview.sums
    if len(parts) < 2 or not names or not whole.cost:
        return
    dearest = parts[names[0]].sums
    cost, calls = percent(dearest.cost, whole.cost), percent(dearest.calls, whole.calls)
    name = f"Calls without a {field}" if names[0] is None else label(names[0])
    yield "", name, " made up ", cost, f" of the spend, with {calls} of the calls."


def _bursts(overview: Overview) -> Iterator[Sentence]:
    """The user whose busiest day was most unlike his others."""
    if overview.unit == "month":
        return
    calls: dict[Name, Counter[str]] = {}
    for (user, place), row in overview.rows.items():
        if user is not OTHERS:
            calls.setdefault(user, Counter())[place.when[:10]] += row.calls
    worst: tuple[float, Name, str, int] | None = None
    for user, days in calls.items():
        busiest, most = days.most_common(1)[0]
        usual = float(median(count for when, count in days.items() if when != busiest)) if len(days) > 2 else 0.0
        if usual and most >= _BURST_CALLS and most >= _BURST * usual and (worst is None or most / usual > worst[0]):
            worst = most / usual, user, busiest, most
    if worst:
        ratio, user, busiest, most = worst
        yield (
            "",
            label(user),
            f" made {counted(most, 'call')} on {day(busiest)}, ",
            f"{times(ratio)} times",
            " as many as on a usual day.",
        )


def _users(overview: Overview) -> Iterator[Sentence]:
    totals = overview.users()
    costs = sorted((row.cost for user, row in totals.items() if user is not OTHERS), reverse=True)
    whole = overview.sums.cost
    if len(costs) >= 100 and whole:
        top = max(1, len(costs) // 100)
        share = percent(sum(costs[:top], Decimal(0)), whole)
        who = "one user" if top == 1 else f"{number(top)} users"
        yield "The top ", "1 %", f" of {_people(overview, totals)} ({who}) spent ", share, " of the money."
    elif len(costs) >= 2 and whole:
        first = max((user for user in totals if user is not OTHERS), key=lambda user: totals[user].cost)
        share = percent(costs[0], whole)
        yield "", label(first), " spent ", share, f" of the money, the most of {_people(overview, totals)}."


def _people(overview: Overview, totals: Mapping[Name, object]) -> str:
    count = len(totals)
    return f"more than {number(count)} users" if overview.merged_users else f"{number(count)} users"


def _tokens(overview: Overview) -> Iterator[Sentence]:
    sums = overview.sums
    if sums.input_tokens:
        read, written = compact(sums.input_tokens), compact(sums.output_tokens)
        cached = percent(sums.cached_input_tokens, sums.input_tokens)
        some = (" tokens were read, ", cached, " of them from the provider's cache, and ")
        yield "", read, *(some if sums.cached_input_tokens else (" tokens were read and ",)), written, " were written."


def _speed(overview: Overview) -> Iterator[Sentence]:
    whole = overview.by(lambda place: None)[None]
    for what, found in (
        ("An answer took ", whole.latency),
        ("The first token of a stream came after ", whole.first_token),
    ):
        if found:
            half, most = _two(found)
            yield what, half, " at the median, and one in a hundred more than ", most, "."


def _two(found: Times) -> tuple[str, str]:
    half, most = found.percentiles(50, 99)
    return duration(half), duration(most)


def _failures(overview: Overview) -> Iterator[Sentence]:
    sums = overview.sums
    sent = sums.calls - sums.denied
    if sums.failed:
        yield "", percent(sums.failed, sent), " of the calls that were sent ended in an error or a time-out."


def _denials(overview: Overview) -> Iterator[Sentence]:
    sums = overview.sums
    for count, real, what in (
        (sums.denied, True, " were denied"),
        (sums.would_be_denied, False, " would have been denied, had the policy not been in shadow mode"),
    ):
        if count:
            rules: Counter[Name] = Counter()
            for (rule, is_real, _), number_of in overview.denials.items():
                if is_real is real:
                    rules[rule] += number_of
            often = rules.most_common(1)
            by = (f"{what}, most often by ", label(often[0][0]), ".") if often else (f"{what}.",)
            yield "", percent(count, sums.calls), f" of all calls{by[0]}", *by[1:]
    if not sums.denied and not sums.would_be_denied:
        yield ("No call was denied.",)
