"""From a call to its charges, and from its outcome to what it used, what it cost, and its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

from .breakers import Circuit
from .errors import BudgetExceededError, DeniedError, LimitExceededError, RateLimitExceededError, SwitchedOffError
from .identity import Claim
from .limits import Calendar, PlacedLimit
from .switches import Switch, named
from .types import Admission, Charge, Denial, Outcome, Refusal, Usage, plain, usd

Made = list[tuple[PlacedLimit, Charge]]
"""Limits with what is charged against them, in the policy's order."""


STEPS = count()
"""Numbers what happens to the calls of this process, in its order."""


def dimensions(admission: Admission) -> dict[str, str | None]:
    """Dimension to value, None where the call lacks it."""
    return values_of(
        admission.identity, plan=admission.plan, model=admission.call.model, prompt_hash=admission.prompt_hash
    )


def values_of(
    identity: Claim, *, plan: str | None, model: str | None, prompt_hash: str | None
) -> dict[str, str | None]:
    """Dimension to value, None where there is none."""
    values: dict[str, str | None] = {
        "user": identity.user,
        "feature": identity.feature,
        "session": identity.session_id,
        "plan": plan,
        "model": model,
        "prompt": prompt_hash,
    }
    for name, value in identity.tags.items():
        values[f"tag:{name}"] = value
    return values


def charges(
    limits: Sequence[PlacedLimit], calendar: Calendar, now: float, values: Mapping[str, str | None], amounts: Amounts
) -> Made:
    """What a call charges against each limit, in the policy's order.

    Charges of no money are not made: a free model passes an exhausted budget.
    """
    made: Made = []
    for placed in limits:
        limit = placed.limit
        amount = amounts.of(limit.metric)
        if amount or limit.metric != "money":
            window = None if limit.window is None else calendar.window(limit.window, now)
            made.append((placed, placed.charge(amount, values, window, now)))
    return made


class Amounts:
    """What a call takes of each metric."""

    __slots__ = ("_amounts",)

    def __init__(self, usage: Usage, cost: int | None, *, requests: int = 1) -> None:
        self._amounts = {
            "requests": requests,
            "tokens": usage.total_tokens,
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "money": cost or 0,
            "concurrent": 1,
        }

    def of(self, metric: str) -> int:
        """In the metric's own unit."""
        return self._amounts[metric]


def settled_usage(admission: Admission, outcome: Outcome, seen: tuple[int, int] | None) -> tuple[Usage, str]:
    """What was used, and how that is known: "provider", "estimated" or "none".

    `seen` are the exact tokens of the input and of the part of the answer that was seen, where the usage is unknown
    and something was seen. An estimate is never above the bound that was reserved.
    """
    if outcome.usage is not None:
        return outcome.usage, "provider"
    if outcome.unbilled:
        return Usage(), "none"
    if seen is None:
        return Usage(admission.input_tokens, admission.output_tokens), "estimated"
    told = outcome.at_least or Usage()
    given, generated = max(seen[0], told.input_tokens), max(seen[1], told.output_tokens)
    return Usage(min(given, admission.input_tokens), min(generated, admission.output_tokens)), "estimated"


def refused(
    admission: Admission, placed: PlacedLimit, charge: Charge, refusal: Refusal, values: Mapping[str, str | None]
) -> LimitExceededError:
    """The error for a limit that has no room."""
    limit = placed.limit
    used, held, asked = limit.shown(refusal.used), limit.shown(refusal.held), limit.shown(charge.amount)
    unit = {"money": " USD", "concurrent": " calls"}.get(limit.metric, f" {limit.metric.replace('_', ' ')}")
    wait = refusal.retry_after
    hint = (
        f"Try again in {duration(wait)}."
        if wait is not None
        else "It can never fit: make the call smaller, or raise the limit."
    )
    error = BudgetExceededError if limit.metric == "money" else RateLimitExceededError
    return error(
        f'User {admission.identity.user!r} is denied by the limit "{limit}" of {placed.place}: '
        f"{plain(used)}{unit} used, {plain(held)} held, {plain(asked)} more asked. {hint}",
        limit=limit.text,
        scope=placed.scope(values),
        used=used,
        held=held,
        requested=asked,
        retry_after=wait,
    )


def switched_off(admission: Admission, pairs: Switch) -> SwitchedOffError:
    """The error for a kill switch."""
    arguments = ", ".join(f"{'user_id' if name == 'user' else name}={value!r}" for name, value in pairs)
    return SwitchedOffError(
        f"User {admission.identity.user!r} is denied: {named(pairs)} is switched off. "
        f"client.guard.switch_on({arguments}) switches it on again.",
        scope=dict(pairs),
    )


def circuit_open(admission: Admission, circuit: Circuit, wait: float) -> SwitchedOffError:
    """The error for an open circuit breaker."""
    host, model = circuit
    return SwitchedOffError(
        f"User {admission.identity.user!r} is denied: the circuit breaker of model {model!r} at {host} is open, for "
        f"calls to it kept failing ([breaker]). Try again in {duration(wait)}.",
        code="circuit_open",
        scope={"host": host, "model": model},
        retry_after=wait,
    )


def duration(seconds: float) -> str:
    """Seconds in words: ``12 s``, ``3 min``, ``5 h 20 min``, ``2 d``; never less than they are."""
    whole = int(-(-seconds // 1))
    if whole < 120:
        return f"{whole} s"
    minutes = -(-whole // 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{-(-(hours * 60 + minutes) // 1440)} d"


def record(
    admission: Admission, outcome: Outcome | None, usage: Usage, source: str, cost: int | None, *, ended: float
) -> dict[str, object]:
    """The fields of a call's record that the call itself decides; `outcome` is None where nothing was sent."""
    call, identity, denial, asked = admission.call, admission.identity, admission.denial, admission.asked
    first = outcome.first_token if outcome else None
    error = None if outcome is None else outcome.fault if outcome.error is None else type(outcome.error).__name__
    return {
        "record_id": admission.id,
        "timestamp": admission.timestamp,
        "user_id": identity.user,
        "feature": identity.feature,
        "session_id": identity.session_id,
        "plan": admission.plan,
        "tags": dict(identity.tags),
        "endpoint": call.endpoint.name,
        "model": call.model or None,
        "response_model": outcome.response_model if outcome else None,
        "request_id": outcome.request_id if outcome else None,
        "stream": call.stream,
        "outcome": outcome.ended if outcome else "denied",
        "denial": None if denial is None else as_denial(denial),
        "error": error,
        "attempts": outcome.attempts if outcome else 0,
        "prompt_hash": admission.prompt_hash,
        "input_tokens_estimated": admission.input_tokens,
        "output_tokens_estimated": admission.output_tokens,
        "input_tokens": usage.input_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "total_tokens": usage.total_tokens,
        "usage_source": source,
        "cost_reserved_usd": None if admission.cost is None else usd(admission.cost),
        "cost_usd": None if cost is None else usd(cost),
        "max_tokens": admission.cap_sent,
        "trimmed_messages": admission.trimmed,
        "latency_ms": round((ended - admission.began) * 1000, 3),
        "first_token_ms": None if first is None else round((first - admission.began) * 1000, 3),
        "reserved_ms": None if asked is None else round((asked - admission.timestamp.timestamp()) * 1000, 3),
        "steps": None if asked is None else (admission.step, next(STEPS)),
        "findings": admission.findings,
        "degraded": admission.degraded,
        "budget_action": admission.budget_action,
        "requested_model": admission.requested_model,
    }


def as_denial(error: DeniedError) -> Denial:
    """A denial as the record keeps it."""
    return Denial(code=error.code, limit=error.limit, scope=dict(error.scope), retry_after=error.retry_after)
