"""What the guard answers when it is asked: how limits stand, what a call would be held to. Nothing is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from . import accounting, counting, reserving, switches
from .effects import Flow, compute, emit, peek
from .errors import DeniedError
from .guard import Guard
from .identity import Claim
from .limits import SLICES, PlacedLimit, Window
from .types import Alert, Call, Charge, LimitStatus, Quote, Refusal, Reservation, SwitchEvent, Tally, Usage, usd


def usage(
    guard: Guard,
    claim: Claim,
    *,
    plan: str | None = None,
    model: str | None = None,
    prompt: str | None = None,
    exact: bool = True,
) -> Flow[list[LimitStatus]]:
    """How each limit stands that a call of this caller would meet, in the policy's order.

    Not exact, a sliding limit tells the latest moment at which it may be free again, which costs a sixtieth.
    """
    claim = yield from guard.proved(claim)
    identity = claim._replace(plan=plan or claim.plan)
    name = yield from guard.plan_of(identity)
    values = accounting.values_of(identity, plan=name, model=model, prompt_hash=prompt)
    now = guard.clock.time()
    spans: list[tuple[PlacedLimit, Window | None, list[Charge]]] = []
    for placed in guard.policy.rules(name, identity.feature).limits:
        unit = placed.limit.window
        window = None if unit is None else guard.policy.calendar.window(unit, now)
        charge = placed.charge(0, values, window, now)
        looks_ahead = exact and window is not None and window.kind == "sliding"
        spans.append((placed, window, [charge, *_later(charge)] if looks_ahead else [charge]))
    # One look at the store, however many limits there are.
    tallies = iter((yield from peek([charge for *_, charges in spans for charge in charges], local=True)))
    return [_status(placed, values, window, [(c, next(tallies)) for c in charges]) for placed, window, charges in spans]


def _status(
    placed: PlacedLimit,
    values: Mapping[str, str | None],
    window: Window | None,
    tallied: list[tuple[Charge, Tally]],
) -> LimitStatus:
    """How one limit stands, of its tally now and, where its window slides, at each of the next slices."""
    limit, (charge, tally) = placed.limit, tallied[0]
    ends: float | None = None
    if window is not None:
        size = (charge.end - charge.start) // SLICES
        free = next((c.end for c, t in tallied if t.used + t.held == 0), charge.end + SLICES * size)
        ends = window.end if window.kind == "fixed" else free - size
    return LimitStatus(
        limit=limit.text,
        scope=placed.scope(values),
        used=limit.shown(tally.used),
        held=limit.shown(tally.held),
        remaining=limit.shown(max(limit.amount - tally.used - tally.held, 0)),
        resets_at=None if ends is None else datetime.fromtimestamp(ends, UTC),
    )


def allows(guard: Guard, claim: Claim, *, plan: str | None = None, model: str | None = None) -> Flow[bool]:
    """Whether the caller may use his feature, and the model. Limits are not looked at."""
    try:
        claim = yield from guard.identify(claim)
        name = yield from guard.plan_of(claim._replace(plan=plan or claim.plan))
    except DeniedError:
        return False
    found = guard.policy.plans[name]
    return found.allows_feature(claim.feature) and (model is None or found.allows_model(model))


def _later(charge: Charge) -> list[Charge]:
    """The same sliding charge at each of the next slices, until nothing of today's window is left."""
    size = (charge.end - charge.start) // SLICES
    key, amount, limit, kind, start, end = charge
    return [Charge(key, amount, limit, kind, start + size * step, end + size * step) for step in range(1, SLICES + 1)]


def quote(guard: Guard, call: Call) -> Flow[Quote]:
    """What a call would be held to."""
    admission = guard.begin(call)
    denial: DeniedError | None = None
    try:
        yield from guard.decide(admission)
        guard.try_circuit(admission, guard.breakers.wait)
        yield from reserving.take(guard, admission, lambda _id, charges, _ttl: _look(charges, guard.clock.time()))
    except DeniedError as error:
        denial = error
    given = admission.input_tokens
    if admission.estimated and not admission.counted:
        given = min(given, (yield from compute(lambda: counting.count(call))) + admission.extra_input)
    least = min((cost for rates in admission.rates if (cost := rates.cost(Usage(given))) is not None), default=None)
    return Quote(
        input_tokens=given,
        max_output_tokens=admission.output_tokens if admission.estimated else None,
        min_usd=None if least is None else usd(least),
        max_usd=None if admission.cost is None else usd(admission.cost),
        would_be_denied=None if denial is None else accounting.as_denial(denial),
        model=call.model or None,
        budget_action=admission.budget_action,
    )


def _look(charges: Sequence[Charge], now: float) -> Flow[Reservation | Refusal]:
    """What `reserve` would answer, without taking anything."""
    tallies = yield from peek(charges, local=True)
    for position, (charge, tally) in enumerate(zip(charges, tallies, strict=True)):
        if tally.used + tally.held + charge.amount > charge.limit:
            wait = yield from _wait(charge, now)
            return Refusal(position, tally.used, tally.held, wait)
    return Reservation("", tuple(charges), now)


def _wait(charge: Charge, now: float) -> Flow[float | None]:
    if charge.kind == "held" or charge.amount > charge.limit:
        return None
    if charge.kind == "fixed":
        return charge.end - now
    later = _later(charge)
    tallies = yield from peek(later, local=True)
    size = (charge.end - charge.start) // SLICES
    free = (c for c, t in zip(later, tallies, strict=True) if t.used + t.held + charge.amount <= charge.limit)
    return next(free, later[-1]).end - size - now


_LONGEST_NOTE = 500
"""Characters of who and why that are kept."""

_SWITCHES_TOLD = 1_000
"""Entries of the switches' log that are looked through."""


def switch_off(guard: Guard, values: Mapping[str, str | None], reason: str, by: str = "") -> Flow[None]:
    """Switch off what the values name, write down who did it and why, and tell of it."""
    pairs = switches.switch(values)
    if (yield from switches.switch_off(pairs)):
        yield from switches.log(_event(guard, "off", pairs, by, reason))
        what = switches.named(pairs)
        why = f": {reason}" if reason else ""
        yield from emit(
            Alert(
                kind="switched_off", timestamp=guard.now(), scope=dict(pairs), message=f"{what} is switched off{why}."
            )
        )


def switch_on(guard: Guard, values: Mapping[str, str | None], reason: str = "", by: str = "") -> Flow[None]:
    """Switch on what the values name, and write down who did it and why."""
    pairs = switches.switch(values)
    if (yield from switches.switch_on(pairs)):
        yield from switches.log(_event(guard, "on", pairs, by, reason))


def _event(guard: Guard, action: Literal["off", "on"], pairs: switches.Switch, by: str, reason: str) -> SwitchEvent:
    return SwitchEvent(action, dict(pairs), guard.now(), by[:_LONGEST_NOTE], reason[:_LONGEST_NOTE])


def switched_off(guard: Guard) -> Flow[list[SwitchEvent]]:
    """The kill switches that are off."""
    return (yield from switches.off_now(_SWITCHES_TOLD))
