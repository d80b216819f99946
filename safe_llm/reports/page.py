"""The report as one page of HTML that needs nothing else: no network, no other file.

Names in records are chosen by users, so every text is escaped, and scripts run only if their hash is the one that the
page's own policy names: what slips through shows, and does nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from . import data
from .insights import insights
from .overview import Overview
from .sheets import sheets
from .steering import KINDS, Steering
from .sums import Times
from .unknowns import unknowns
from .words import compact, counted, day, duration, exact, label, money, number, percent, spent

_MOST_NAMES, _MOST_CELLS = 24, 10_000
_SCRIPTS = ("figures.js", "sheets.js", "charts.js", "page.js")


@dataclass(frozen=True, slots=True)
class Report:
    """All that the page tells."""

    overview: Overview
    steering: Steering = field(default_factory=Steering)
    sources: Sequence[str] = ()
    """The names of the files, fit to be shown."""
    skipped: int = 0
    """Lines of them that are no record."""


def render(report: Report) -> str:
    """The page. Folds what is too much for one into others: the overview is then less detailed than before."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    overview = report.overview
    most = _MOST_NAMES
    overview.keep_names(most)
    while len(overview.cells) > _MOST_CELLS and most > 1:
        most //= 2
        overview.keep_names(most)
    environment = Environment(
        loader=PackageLoader(__package__, "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(number=number, money=money, exact=exact, day=day)
    scripts = [_plotly(), "".join(_template(name) for name in _SCRIPTS)]
    return environment.get_template("page.html").render(
        report=report,
        overview=overview,
        steering=report.steering,
        kinds=KINDS,
        alerted=report.steering.sentence(),
        number=number,
        sheets=sheets(overview),
        insights=insights(overview),
        unknowns=unknowns(overview, report.skipped + report.steering.unreadable),
        figures=_figures(overview),
        subtitle=_subtitle(overview),
        choices=_choices(overview),
        data=data.embedded(overview, report.steering),
        style=Markup(_template("page.css")),  # noqa: S704
        scripts=[Markup(script) for script in scripts],  # noqa: S704
        hashes=[_hash(script) for script in scripts],
    )


def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

    return str(get_plotlyjs()).replace("\r\n", "\n")  # as a parser of HTML reads it, or the hash would be another


def _template(name: str) -> str:
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _hash(script: str) -> str:
    """As a Content-Security-Policy names a script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


# What stands in words -------------------------------------------------------------------------------------------------


def _figures(overview: Overview) -> list[tuple[str, str, str, str, str]]:
    """The large figures: id, name, text, the exact value, and what else is to be said."""
    sums = overview.sums
    whole = overview.by(lambda place: None).get(None)
    latency, first = (whole.latency, whole.first_token) if whole else (None, None)
    sent = sums.calls - sums.denied
    unknown = f"and {counted(sums.unpriced, 'call')} of unknown price" if sums.unpriced else f"${exact(sums.cost)}"
    return [
        ("spend", "Spend", spent(sums.cost, sums.unpriced), exact(sums.cost), unknown),
        ("calls", "Calls", compact(sums.calls), str(sums.calls), number(sums.calls)),
        ("tokens", "Tokens", compact(sums.total_tokens), str(sums.total_tokens), number(sums.total_tokens)),
        ("denied", "Denied", percent(sums.denied, sums.calls), str(sums.denied), counted(sums.denied, "call")),
        ("failed", "Failed", percent(sums.failed, sent), str(sums.failed), counted(sums.failed, "call")),
        ("speed", "Answer, median", _median(latency), "", f"first token {_median(first)}"),
    ]


def _median(times: Times | None) -> str:
    return duration(times.percentiles(50)[0]) if times else "–"


def _subtitle(overview: Overview) -> str:
    if not overview.cells:
        return "No records"
    whens = sorted({place.when for place in overview.cells})
    first, last = day(whens[0]), day(whens[-1])
    users = ("more than " if overview.merged_users else "") + counted(len(overview.users()), "user")
    span = first if first == last else f"{first} to {last}"
    return f"{span} · {counted(overview.sums.calls, 'call')} · {users} · days in {overview.calendar.timezone}"


def _choices(overview: Overview) -> dict[str, list[tuple[int, str]]]:
    """What each filter offers: index and label."""
    found = data.names(overview)
    whens = list(enumerate(map(day, data.whens(overview))))
    return {
        **{field: sorted(enumerate(map(label, names)), key=lambda choice: choice[1]) for field, names in found.items()},
        "from": whens,
        "until": whens,
    }
