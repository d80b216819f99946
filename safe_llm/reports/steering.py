"""What alerts tell a report: anomalies and the like, and the limits that are near their end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .facts import Calendar
from .usage import Span
from .words import number, visible

NEWEST, NEAREST = 50, 15

KINDS = {
    "anomaly": "Unusual volume",
    "debt": "Debt",
    "circuit_open": "Circuit open",
    "store_degraded": "Store away",
    "switched_off": "Switched off",
    "policy_invalid": "Policy invalid",
}
"""How each kind of alert is called. The other kind, a limit's threshold, is shown by the limits."""


class Event(NamedTuple):
    """An alert, as the page lists it."""

    when: str
    """Local, to the minute: ``2026-11-26 14:03``."""
    kind: str
    who: str
    message: str


class NearLimit(NamedTuple):
    """A limit that has reached a threshold."""

    limit: str
    who: str
    percent: int
    """The highest that was reached."""
    times: int
    """How many alerts told of it: each threshold once a window."""
    last: str
    """When the last of them did, local."""


@dataclass(slots=True)
class Steering:
    """Alerts, put in order."""

    events: list[Event] = field(default_factory=list)
    """The newest first, at most `NEWEST`."""
    marks: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Whom the alerts were about, all of them, by the hour and their kind's name."""
    kinds: Counter[str] = field(default_factory=Counter)
    """How many there were of each kind."""
    limits: list[NearLimit] = field(default_factory=list)
    """The nearest to their end first, at most `NEAREST`."""
    hidden_events: int = 0
    """How many there were beyond those."""
    more_limits: int = 0
    unreadable: int = 0

    @classmethod
    def of(cls, alerts: Iterable[Mapping[str, Any]], calendar: Calendar, span: Span) -> Steering:
        """From alerts by their JSON names."""
        made, near = cls(), dict[tuple[str, str], NearLimit]()
        for alert in alerts:
            try:
                when = calendar.local(alert["timestamp"]).isoformat(" ", "minutes")[:16]
                limit, who = visible(str(alert.get("limit") or "")), _who(alert.get("scope"))
                percent, kind = int(alert.get("percent") or 0), str(alert["kind"])
            except (ValueError, TypeError, AttributeError):
                made.unreadable += 1
                continue
            if not span.holds(when[:10]):
                continue
            made.kinds[kind] += 1
            if kind != "limit_threshold":
                event = Event(when, KINDS.get(kind, visible(kind)), who, visible(alert["message"], 400))
                made.events.append(event)
                made.marks.setdefault((when[:13], event.kind), []).append(who)
                continue
            before = near.get((limit, who), NearLimit(limit, who, 0, 0, ""))
            near[limit, who] = NearLimit(
                limit, who, max(before.percent, percent), before.times + 1, max(before.last, when)
            )
        made.hidden_events = max(0, len(made.events) - NEWEST)
        made.events = sorted(made.events, reverse=True)[:NEWEST]
        ordered = sorted(near.values(), key=lambda limit: (limit.percent, limit.times, limit.last), reverse=True)
        made.limits, made.more_limits = ordered[:NEAREST], len(ordered[NEAREST:])
        return made

    def sentence(self) -> tuple[str, ...]:
        """The alerts in one, plain and emphasized text by turns; empty where there is none."""
        counts = [(kind, count) for kind, count in self.kinds.most_common() if kind != "limit_threshold"]
        if not counts:
            return ()
        whole = sum(count for _, count in counts)
        kinds = ", ".join(f"{KINDS.get(kind, 'other').lower()} ({number(count)})" for kind, count in counts)
        return (
            "",
            f"{number(whole)} {'alert' if whole == 1 else 'alerts'}",
            f" {'was' if whole == 1 else 'were'} raised: {kinds}.",
        )


def _who(scope: object) -> str:
    if not isinstance(scope, dict) or not scope:
        return "everyone"
    return ", ".join(
        visible(str(value)) if name == "user" else f"{visible(str(name))} {visible(str(value))}"
        for name, value in scope.items()
    )
