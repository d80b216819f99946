"""From a call to its reservation: what it may cost, and asking for room in every limit at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from pydantic_core import to_json

from . import accounting, switches
from .accounting import Amounts
from .counting import bound, count
from .effects import Flow, compute
from .endpoints.hosted import family
from .errors import RouteBlockedError, UnpricedModelError
from .limits import Limit
from .types import Admission, Call, Charge, LocalReservation, Refusal, Reservation, Usage

if TYPE_CHECKING:
    from .guard import Guard
    from .policy import HostedTool, OutputRules

LEASE_MARGIN = 30.0
"""Seconds that a reservation outlives its call's deadline."""
_LEASE_WITHOUT_DEADLINE = 3_600.0

Ask: TypeAlias = "Callable[[str, Sequence[Charge], float], Flow[Reservation | Refusal]]"
"""Asks a store for room; an inquiry asks without taking any."""


def estimate(guard: Guard, admission: Admission) -> None:
    """Bound what the call can bill.

    Raises:
        UnpricedModelError: a money limit applies, and the price is not known.
        RouteBlockedError: the call offers the model a hosted tool that the policy does not list.
    """
    call = admission.call
    tools = _tools(guard, admission)
    admission.extra_input = call.extra_input + sum(tool.reserve_tokens for tool in tools.values())
    for kind, tool in tools.items():
        admission.fee_of[family(kind)] = max(admission.fee_of.get(family(kind), 0), tool.fee_nano)
    fees = admission.fee_of.values()
    # Where the caller bounds the calls, all of them may be of the dearest tool; where nobody does, one of each.
    admission.fees = sum(fees) if call.max_hosted_calls is None else max(fees, default=0) * call.max_hosted_calls
    admission.counted |= call.unseen
    admission.input_tokens = _input(admission, admission.input_tokens)
    admission.output_tokens = _output(call, admission.rules.output)
    admission.estimated = True
    _price(guard, admission)


def bound_unreserved(guard: Guard, admission: Admission) -> None:
    """Bound what a call can have billed that was let through although it would have been denied: shadow mode."""
    call = admission.call
    output = admission.rules.output if admission.plan is not None else guard.policy.output
    # A body that could not be read has no tokens that could be told; its bytes bound them.
    readable = bound(call) if admission.prompt_hash else len(to_json(call.body, fallback=str))
    admission.input_tokens = readable + call.extra_input
    admission.output_tokens = _output(call, output)
    tiers = dict.fromkeys((None, call.tier))
    admission.rates = [rates for tier in tiers if (rates := guard.prices.rates(call.model, tier)) is not None]
    admission.cost = _most(admission, admission.output_tokens)


def _input(admission: Admission, tokens: int) -> int:
    """The input that is reserved for a call whose visible part has so many tokens."""
    if admission.call.unseen:
        tokens = max(tokens, admission.rules.input.max_context_tokens)
    return tokens + admission.extra_input


def _output(call: Call, rules: OutputRules) -> int:
    """The most output of a call: of a capped one by its cap, of others by what their endpoint knows.

    Where neither is known, an answer is bounded by nothing, and the policy's maximum stands in for it.
    """
    bound = call.cap if call.cap is not None else call.most_output
    return ((rules.max_tokens if bound is None else bound) + call.extra_output) * call.answers


def take(guard: Guard, admission: Admission, ask: Ask) -> Flow[None]:
    """Ask for room in every limit at once. Where there is none, ask for less if the policy has a way to.

    Raises:
        LimitExceededError: there is no room.
        SwitchedOffError: a kill switch matches the call.
    """
    call = admission.call
    asked_for = call.model, call.body
    gate_is_open = True
    # Each time by another id: an answer to the one before that got lost is settled at nothing, whatever comes after.
    for attempt in itertools.count():
        values = accounting.dimensions(admission)
        stops = [] if gate_is_open else switches.matching(values)
        admission.gate = [switches.GATE] if gate_is_open else switches.asked(stops)
        most = Amounts(Usage(admission.input_tokens, admission.output_tokens), admission.cost)
        now = admission.asked = guard.clock.time()
        admission.made = accounting.charges(admission.rules.limits, guard.policy.calendar, now, values, most)
        charges = [*admission.gate, *[charge for _, charge in admission.made]]
        id = f"{admission.id}/{attempt}" if attempt else admission.id
        admission.step = next(accounting.STEPS)
        answer = yield from ask(id, charges, _lease(guard, admission))
        if isinstance(answer, Reservation):
            admission.reservation = answer
            admission.degraded = isinstance(answer, LocalReservation)
            return
        position = answer.position - len(admission.gate)
        if position >= 0:
            placed, charge = admission.made[position]
            if not (yield from _ask_for_less(guard, admission, placed.limit, answer)):
                call.model, call.body = asked_for  # the record names what was asked for, not what was tried
                admission.budget_action = admission.requested_model = None
                raise accounting.refused(admission, placed, charge, answer, values)
        elif gate_is_open:
            gate_is_open = False  # some switch is off, maybe not one of this call's: look at each of those
        else:
            raise accounting.switched_off(admission, stops[answer.position])


def _lease(guard: Guard, admission: Admission) -> float:
    if admission.ends is None:
        return _LEASE_WITHOUT_DEADLINE
    return max(admission.ends - guard.clock.monotonic(), 0.0) + LEASE_MARGIN


def _price(guard: Guard, admission: Admission) -> None:
    """Bound the cost. A tier that the request names may turn out to be the standard one, so the dearer counts."""
    model, tier = admission.call.model, admission.call.tier
    tiers = (None,) if tier is None else (None, tier)
    admission.rates = [rates for named in tiers if (rates := guard.prices.rates(model, named)) is not None]
    admission.cost = _most(admission, admission.output_tokens)
    if admission.cost is not None:
        return
    for placed in admission.rules.limits:
        if placed.limit.metric == "money":
            raise UnpricedModelError(
                f'The model {model!r} has no known price, and the limit "{placed.limit}" needs one. Add '
                f'[prices."{model}"] with input and output in USD per million tokens, or same_as.'
                if model
                else f'The request names no model, so it has no price, and the limit "{placed.limit}" needs one. '
                "Pass model=.",
                limit=placed.limit.text,
            )


def _most(admission: Admission, output_tokens: int) -> int | None:
    """The most nano-USD that the call can cost with so much output; None where a rate is not known."""
    call, most = admission.call, 0
    for rates in admission.rates:
        cost = rates.bound(admission.input_tokens, output_tokens, call.audio_seconds)
        unheard = call.hears and rates.input_audio is None and rates.hour is None
        unheard = unheard or (call.speaks and rates.output_audio is None)
        if cost is None or unheard:
            return None
        most = max(most, cost)
    return most + admission.fees if admission.rates else None


# Asking for less ------------------------------------------------------------------------------------------------------


def _ask_for_less(guard: Guard, admission: Admission, limit: Limit, refusal: Refusal) -> Flow[bool]:
    """Whether the call now asks for less than what was refused, so that another try is worth it."""
    if limit.metric in ("tokens", "input_tokens", "money") and not admission.counted:
        before = admission.input_tokens
        counted = yield from compute(lambda: count(admission.call))
        admission.counted = True
        admission.input_tokens = min(before, _input(admission, counted))
        _price(guard, admission)
        if admission.input_tokens < before:
            return True
    if limit.metric != "money" or guard.policy.mode == "shadow":
        return False
    room = limit.amount - refusal.used - refusal.held
    return _shrink(guard, admission, room) or _downgrade(guard, admission)


def _shrink(guard: Guard, admission: Admission, room: int) -> bool:
    """Lower the cap to what the budget still pays, if the policy says so and that is enough."""
    call, output = admission.call, admission.rules.output
    if output.on_budget != "shrink" or call.cap is None:
        return False
    low, high = 0, call.cap - 1  # the largest cap that fits; rates may have bands, so it is searched for
    while low < high:
        middle = (low + high + 1) // 2
        cost = _most(admission, (middle + call.extra_output) * call.answers)
        low, high = (middle, high) if cost is not None and cost <= room else (low, middle - 1)
    if low < output.min_tokens:
        return False
    call.cap = low
    admission.budget_action = "shrink"
    admission.output_tokens = _output(call, output)
    _price(guard, admission)
    return True


def _downgrade(guard: Guard, admission: Admission) -> bool:
    """Take the cheaper model, if the policy names one that the plan has."""
    call, rules = admission.call, admission.rules
    cheaper = rules.output.downgrade.get(call.model) if rules.output.on_budget == "downgrade" else None
    if cheaper is None or call.deployment is not None or not rules.plan.allows_model(cheaper):
        return False
    before = admission.cost
    admission.budget_action, admission.requested_model = "downgrade", call.model
    call.model, call.body = cheaper, {**call.body, "model": cheaper}
    admission.counted = call.unseen
    admission.input_tokens = _input(admission, bound(call))
    _price(guard, admission)
    return before is None or admission.cost is None or admission.cost < before


def _tools(guard: Guard, admission: Admission) -> dict[str, HostedTool]:
    """The policy's entries for the hosted tools that the call offers to the model, by their types."""
    found = {}
    for kind in admission.call.hosted_tools:
        tool = _listed(guard, kind)
        if tool is None:
            name = family(kind)[:80]
            raise RouteBlockedError(
                f"The hosted tool {name!r} is blocked: the provider bills it beyond what can be bounded here. "
                f'[routes] hosted_tools = {{ {name} = {{ reserve_tokens = 20_000, fee = "$0.01" }} }} '
                "would allow it.",
                code="hosted_tool_blocked",
            )
        found[kind] = tool
    return found


def _listed(guard: Guard, kind: str) -> HostedTool | None:
    """The policy's entry for a hosted tool: by its type, its family, or the one for all."""
    listed = guard.policy.routes.hosted_tools
    return listed.get(kind) or listed.get(family(kind)) or listed.get("*")


def fees(guard: Guard, fee_of: Mapping[str, int], calls: Mapping[str, int]) -> int:
    """nano-USD for hosted tools that were called so often; those that nobody offered, as the policy lists them."""
    total = 0
    for name, times in calls.items():
        tool = None if name in fee_of else _listed(guard, name)
        total += times * (fee_of.get(name, 0) if tool is None else tool.fee_nano)
    return total
