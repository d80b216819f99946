"""Who is told, and when: a limit that is nearly used up, a debt.

Over all processes that share a store one of them gets to tell: an alert is claimed by reserving one of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from .breakers import Circuit
from .limits import SLICES, PlacedLimit
from .types import Alert, Charge, Tally, plain


def reached(percents: Sequence[int], charge: Charge, tally: Tally) -> list[int]:
    """The percentages of its limit that the settled use has reached, lowest first."""
    return [p for p in sorted(percents) if charge.limit and tally.used * 100 >= p * charge.limit]


def claim(charge: Charge, percent: int) -> Charge:
    """The charge that only the first to tell can make: once a window, or once a span where the window slides."""
    start, end = charge.start, charge.end
    if charge.kind == "sliding":
        size = (end - start) // SLICES
        span = size * (SLICES - 1)
        start = (end - size) // span * span
        end = start + span
    return Charge(f"alert/{percent}/{charge.key}", 1, 1, "fixed", start, end)


def circuit_open(circuit: Circuit, failures: int, seconds: float, now: datetime) -> Alert:
    """The alert that a breaker has opened."""
    host, model = circuit
    return Alert(
        kind="circuit_open",
        timestamp=now,
        scope={"host": host, "model": model},
        message=f"The circuit breaker of model {model!r} at {host} is open: {failures} calls in a row failed. Calls "
        f"are denied for {seconds:g} s; then one at a time may try.",
    )


def policy_invalid(why: str, version: str, now: datetime) -> Alert:
    """The alert that a policy file was changed into what is no policy."""
    return Alert(
        kind="policy_invalid",
        timestamp=now,
        message=f"The policy file has changed, but is not in force: {why} Version {version} stays in force.",
    )


def threshold(
    placed: PlacedLimit, scope: Mapping[str, str], charge: Charge, tally: Tally, percent: int, now: datetime
) -> Alert:
    """The alert that a limit's settled use has reached a percentage of it."""
    used, most = plain(placed.limit.shown(tally.used)), plain(placed.limit.shown(charge.limit))
    who = f" for {_named(scope)}" if scope else ""
    return Alert(
        kind="limit_threshold",
        timestamp=now,
        limit=placed.limit.text,
        scope=dict(scope),
        percent=percent,
        message=f'The limit "{placed.limit}" of {placed.place} has reached {percent} %{who}: {used} of {most} is used.',
    )


def debt(placed: PlacedLimit, scope: Mapping[str, str], reserved: int, actual: int, now: datetime) -> Alert:
    """The alert that a provider billed more than the bound that was reserved."""
    billed, bound = plain(placed.limit.shown(actual)), plain(placed.limit.shown(reserved))
    return Alert(
        kind="debt",
        timestamp=now,
        limit=placed.limit.text,
        scope=dict(scope),
        message=(
            f'The provider billed {billed} against the limit "{placed.limit}" of {placed.place}, more than the {bound} '
            "that was reserved. The excess counts as used and blocks the next calls."
        ),
    )


def _named(scope: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in scope.items())
