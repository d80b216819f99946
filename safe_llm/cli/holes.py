"""What a policy leaves open: warnings, which want mending, and notes, which are worth knowing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from ..errors import nearest
from ..limits import PlacedLimit
from ..policy import Feature, OutputRules, Plan, Policy
from ..pricing import PriceBook
from .explaining import CHECKS


class Hole(NamedTuple):
    """One thing that a policy leaves open."""

    level: Literal["warning", "note"]
    rule: str
    """Stable, snake_case."""
    where: str
    """The key of the policy."""
    message: str


def holes(policy: Policy) -> list[Hole]:
    """All that is found, the warnings first.

    Raises:
        ConfigurationError: prices whose ``same_as`` go in a circle.
    """
    prices = PriceBook(policy.prices)
    found = [*_application(policy), *_limits(policy), *_features(policy), *_sections(policy), *_prices(policy, prices)]
    return sorted(dict.fromkeys(found), key=lambda hole: hole.level != "warning")


def _warn(rule: str, where: str, message: str) -> Hole:
    return Hole("warning", rule, where, message)


def _note(rule: str, where: str, message: str) -> Hole:
    return Hole("note", rule, where, message)


# The application ------------------------------------------------------------------------------------------------------


def _application(policy: Policy) -> Iterator[Hole]:
    if policy.mode == "shadow":
        yield _warn("shadow_mode", "mode", "Shadow mode stops nothing: enforce once the records look right.")
    if policy.on_store_error == "allow":
        yield _warn(
            "store_error_allows",
            "on_store_error",
            "While the quota store is away, each process counts alone: users get every limit once per process.",
        )
    if not (policy.identity.required or policy.identity.verified):
        yield _note(
            "anonymous_allowed",
            "identity.required",
            'Calls without a user are let through: they share the limits of one user, "anonymous".',
        )
    if not policy.alert_at_percent:
        yield _note("no_alerts", "alert_at_percent", "Nobody is told before a limit is reached.")
    if policy.breaker.failures == "off":
        yield _note("breaker_off", "breaker.failures", "A provider that is down is asked by every call all the same.")
    if "*" in policy.routes.allow:
        yield _warn("all_routes_open", "routes.allow", "All unguarded routes are open: they cost what nobody counts.")
    elif policy.routes.allow:
        opened = ", ".join(policy.routes.allow)
        yield _note("routes_open", "routes.allow", f"What these routes cost is neither limited nor metered: {opened}.")
    for name, tool in policy.routes.hosted_tools.items():
        if name == "*" or not (tool.reserve_tokens or tool.fee_nano):
            what = "Every hosted tool is open" if name == "*" else "Nothing is reserved for this tool"
            yield _warn(
                "hosted_tool_unbounded",
                f"routes.hosted_tools.{name}",
                f"{what}: what it adds to a bill may pass the limits, and is found out afterwards.",
            )


# Limits ---------------------------------------------------------------------------------------------------------------


def _limits(policy: Policy) -> Iterator[Hole]:
    for name in policy.plans:
        where, limits = f"plans.{name}.limits", policy.rules(name, None).limits
        money = [placed for placed in limits if placed.limit.metric == "money"]
        if not limits:
            yield _warn("no_limits", where, f"Users of plan {name} are not limited at all.")
            continue
        if not money:
            yield _warn("no_money_limit", where, f'Nothing limits what plan {name} spends: add one such as "$5/day".')
        if not any("user" in placed.per for placed in limits):
            yield _warn(
                "no_user_limit",
                where,
                f"Nothing limits a single user of plan {name}: one may use up everybody's share.",
            )
        elif money and not any("user" in placed.per for placed in money):
            yield _note("no_user_money_limit", where, f"One user of plan {name} may spend the money of all.")
    yield from _zero(policy)


def _zero(policy: Policy) -> Iterator[Hole]:
    places = [PlacedLimit.at("app", limit) for limit in policy.limits]
    for kind, named in (("plan", policy.plans), ("feature", policy.features)):
        places += [PlacedLimit.at(f"{kind}:{name}", limit) for name, place in named.items() for limit in place.limits]
    for placed in places:
        if placed.limit.amount == 0:
            kind, _, name = placed.place.partition(":")
            where = f"{kind}s.{name}.limits" if name else "limits"
            yield _note("zero_limit", where, f'"{placed.limit}" denies every call that it counts.')


# Features -------------------------------------------------------------------------------------------------------------


def _features(policy: Policy) -> Iterator[Hole]:
    named = {name for plan in policy.plans.values() for name in plan.features}
    nowhere = policy.features.keys() - named
    for name in policy.features:
        if not any(plan.allows_feature(name) for plan in policy.plans.values()):
            yield _warn("feature_in_no_plan", f"features.{name}", f"No plan includes {name}: nobody may use it.")
    for plan_name, plan in policy.plans.items():
        for name in plan.features:
            if name == "*" or name in policy.features:
                continue
            where = f"plans.{plan_name}.features"
            near = nearest(name, nowhere)
            if near:
                yield _warn("feature_misspelled", where, f"{name} has no section; did you mean {near}?")
            else:
                yield _note("feature_without_section", where, f"{name} has no section: only its plan's rules hold.")


# Sections -------------------------------------------------------------------------------------------------------------


def _sections(policy: Policy) -> Iterator[Hole]:
    yield from _left_open("", policy)
    for kind, named in (("plans", policy.plans), ("features", policy.features)):
        for name, place in named.items():
            yield from _left_open(f"{kind}.{name}.", place)


def _left_open(prefix: str, place: Policy | Plan | Feature) -> Iterator[Hole]:
    """Of what a place sets itself: defaults leave nothing open, and what is taken over is told where it stands."""
    if place.time.deadline_seconds == "off":
        yield _warn("deadline_off", f"{prefix}time.deadline_seconds", "A call may take minutes, and hang for longer.")
    if place.output.default_max_tokens == "off":
        yield _warn(
            "cap_off", f"{prefix}output.default_max_tokens", "A call that names no output cap is answered without one."
        )
    for name in CHECKS:
        if getattr(place.checks, name) == "off":
            yield _warn("check_off", f"{prefix}checks.{name}", f"The check {name} is off: nothing is looked for.")
    if place.checks.on_error == "allow":
        yield _warn("check_error_allows", f"{prefix}checks.on_error", "A check that fails lets everything pass.")


# Prices ---------------------------------------------------------------------------------------------------------------


def _prices(policy: Policy, prices: PriceBook) -> Iterator[Hole]:
    for name, plan in policy.plans.items():
        for model in plan.models:
            if not model.endswith("*") and prices.rates(model) is None:
                yield _unpriced(f"plans.{name}.models", model)
    for name, entry in policy.prices.items():
        if entry.same_as is not None and prices.rates(name) is None:
            yield _warn("unpriced_model", f"prices.{name}.same_as", f"The price of {entry.same_as} is not known.")
    places = (("", policy.output), *((f"plans.{name}.", plan.output) for name, plan in policy.plans.items()))
    places += tuple((f"features.{name}.", feature.output) for name, feature in policy.features.items())
    for prefix, output in places:
        yield from _downgrades(f"{prefix}output.downgrade", output, prices)
    for name in policy.plans:
        output = policy.rules(name, None).output
        if output.on_budget == "downgrade" and not output.downgrade:
            yield _warn("downgrade_to_nothing", "output.downgrade", f"Plan {name} has no cheaper model to go down to.")


def _downgrades(where: str, output: OutputRules, prices: PriceBook) -> Iterator[Hole]:
    for dear, cheap in output.downgrade.items():
        before, after = prices.rates(dear), prices.rates(cheap)
        if after is None:
            yield _unpriced(where, cheap)
        elif before is not None and (after.bound(1_000, 1_000) or 0) >= (before.bound(1_000, 1_000) or 0):
            yield _warn("downgrade_is_dearer", where, f"{cheap} costs no less than {dear}.")


def _unpriced(where: str, model: str) -> Hole:
    return _warn(
        "unpriced_model",
        where,
        f'The price of {model} is not known: it is denied where money is limited. Add [prices."{model}"].',
    )
