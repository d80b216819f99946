"""From an outcome to what it used, what it cost, its record, and who is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from . import accounting, alerts, anomalies, counting, reserving, shadowing, tokens
from .effects import Flow, compute, emit, peek, reserve, settle
from .errors import LimitExceededError
from .types import Admission, Charge, Outcome, Reservation, Usage, UsageRecord

if TYPE_CHECKING:
    from .guard import Guard

_TOLD_AT_MOST = 10_000


def used(guard: Guard, admission: Admission, outcome: Outcome) -> Flow[tuple[Usage, str]]:
    """What a call used, and how that is known. What was seen of an answer without usage is counted exactly."""
    seen = None
    if outcome.usage is not None and outcome.usage.audio_seconds and not _is_billed_by_length(guard, admission):
        outcome.usage = outcome.text = None  # a length is no number of tokens
    if outcome.usage is None and not outcome.unbilled and not admission.estimated:
        reserving.bound_unreserved(guard, admission)
    if outcome.to_be_counted and not goes_on(admission, outcome):
        call, text = admission.call, outcome.text or ""
        readable = admission.prompt_hash is not None and not call.unseen  # nobody here can count what was not seen
        seen = yield from compute(
            lambda: (
                counting.count(call) + admission.extra_input if readable else admission.input_tokens,
                tokens.exact_up_to(call.model, admission.output_tokens)(text),
            ),
        )
    return accounting.settled_usage(admission, outcome, seen)


def goes_on(admission: Admission, outcome: Outcome) -> bool:
    """Whether the provider is at work beyond what was seen of the answer."""
    return outcome.pending or admission.call.background


def _is_billed_by_length(guard: Guard, admission: Admission) -> bool:
    rates = guard.prices.rates(admission.call.model)
    return rates is None or rates.hour is not None


def cost(guard: Guard, admission: Admission, outcome: Outcome, usage: Usage, source: str) -> int | None:
    """nano-USD; None where no price is known.

    The name that was asked for is looked up first, then the one that answered. An estimate is at the dearest rates that
    may apply, and never above what was reserved.
    """
    if outcome.unbilled:
        return 0
    if source == "estimated" and admission.cost is not None:
        costs = [rates.cost(usage) for rates in admission.rates]
        known = [cost for cost in costs if cost is not None]
        whole = usage.input_tokens == admission.input_tokens and usage.output_tokens == admission.output_tokens
        return admission.cost if whole or not known else min(max(known) + admission.fees, admission.cost)
    calls = outcome.hosted_calls
    fees = admission.fees if calls is None else reserving.fees(guard, admission.fee_of, calls)
    return price(guard, (admission.call.model, outcome.response_model), outcome.tier, usage, fees)


def price(guard: Guard, models: Sequence[str | None], tier: str | None, usage: Usage, fees: int) -> int | None:
    """nano-USD by the first of the models that has a price; None where none has, or none for this usage."""
    for model in models:
        rates = guard.prices.rates(model, tier) if model else None
        if rates is not None:
            cost = rates.cost(usage)
            return None if cost is None else cost + fees
    return None


def record(
    guard: Guard, admission: Admission, outcome: Outcome | None, usage: Usage, source: str, cost: int | None
) -> UsageRecord:
    """The record of a call; `outcome` is None where nothing was sent."""
    values = accounting.record(admission, outcome, usage, source, cost, ended=guard.clock.monotonic())
    values["policy_version"] = guard.policy.version
    values["shadow"] = shadowing.decision(admission)
    values["price_version"] = guard.prices.version
    return UsageRecord.model_validate(values)


def tell(guard: Guard, made: accounting.Made, values: Mapping[str, str | None], actual: Sequence[int]) -> Flow[None]:
    """Tell of debts, and of limits whose settled use has reached a threshold. `values`: dimension to value."""
    for (placed, charge), amount in zip(made, actual, strict=True):
        if amount > charge.amount:
            yield from emit(alerts.debt(placed, placed.scope(values), charge.amount, amount, guard.now()))
    percents = guard.policy.alert_at_percent
    windowed = [pair for pair in made if pair[1].kind != "held"]
    if not windowed or not percents:
        return
    tallies = yield from peek([charge for _, charge in windowed])
    lowest = min(percents)
    for (placed, charge), tally in zip(windowed, tallies, strict=True):
        if tally.used * 100 >= lowest * charge.limit:
            for percent in alerts.reached(percents, charge, tally):
                if (yield from _tells(guard, alerts.claim(charge, percent))):
                    scope = placed.scope(values)
                    yield from emit(alerts.threshold(placed, scope, charge, tally, percent, guard.now()))


def notice(guard: Guard, admission: Admission) -> Flow[None]:
    """Count a call that the limits have decided about, and tell if its user is far beyond the usual."""
    if admission.reservation is None and not isinstance(admission.denial, LimitExceededError):
        return
    found = guard.volumes.note(admission.identity.user, guard.clock.time(), guard.policy.calendar)
    for anomaly in found:
        if (yield from _tells(guard, anomalies.claim(anomaly))):
            yield from emit(anomalies.alert(anomaly, guard.now()))


def _tells(guard: Guard, claim: Charge) -> Flow[bool]:
    """Whether this is the one that tells: the first to make the claim, over all processes."""
    known = f"{claim.key}@{claim.start}"
    if known in guard.told:
        return False
    if len(guard.told) >= _TOLD_AT_MOST:
        guard.told.clear()
    answer = yield from reserve(known, [claim], float(claim.end - claim.start))
    guard.told.add(known)
    return isinstance(answer, Reservation) and (yield from settle(answer, [1]))
