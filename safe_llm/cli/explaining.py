"""A policy in plain sentences: what holds for whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, get_args

from ..limits import PlacedLimit
from ..policy import CheckRules, Policy, Rules


class Chapter(NamedTuple):
    """What is to say about one thing."""

    title: str
    sentences: list[str]


def explained(policy: Policy) -> list[Chapter]:
    """The application's rules, those of each plan, and those of each feature that has some of its own."""
    plans = [Chapter(_plan_title(policy, name), list(_plan(policy, name))) for name in policy.plans]
    features = [Chapter(f"Feature {name}", list(_feature(policy, name))) for name in policy.features]
    return [Chapter("The application", list(_application(policy))), *plans, *features]


# The application ------------------------------------------------------------------------------------------------------


def _application(policy: Policy) -> Iterator[str]:
    if policy.mode == "enforce":
        yield "Calls that break a rule are denied before anything is sent."
    else:
        yield "Shadow mode: every call goes on as it came, and its record says what would have been denied."
    yield f"Days, weeks and months turn over in {policy.timezone}."
    yield from _limits([PlacedLimit.at("app", limit) for limit in policy.limits], "All calls together")
    yield _identity(policy)
    marks = [f"{percent} %" for percent in sorted(policy.alert_at_percent)]
    yield f"An alert is raised at {_listed(marks)} of each limit." if marks else "No limit raises an alert."
    if policy.on_store_error == "deny":
        yield "Without the quota store, calls are denied."
    else:
        yield "Without the quota store, calls go on, and each process counts its own until the store is back."
    breaker = policy.breaker
    if breaker.failures == "off":
        yield "Calls to a provider that keeps failing are sent all the same."
    else:
        yield (
            f"After {breaker.failures} failures in a row, calls to that host and model are denied for "
            f"{breaker.seconds:g} s."
        )
    yield from _routes(policy)


def _identity(policy: Policy) -> str:
    if policy.identity.verified:
        return "A caller is known by a verified token; others are denied."
    if policy.identity.required:
        return "A call must name its user, and the application is believed; others are denied."
    return 'Calls that name no user share the limits of one user, "anonymous".'


def _routes(policy: Policy) -> Iterator[str]:
    allowed = policy.routes.allow
    if "*" in allowed:
        yield "Routes that are not guarded are open, all of them: nothing is limited or metered there."
    elif allowed:
        yield f"Open without a guard: {_listed(allowed)}. All other routes that cost money are closed."
    else:
        yield "Routes of the SDK that cannot be guarded are closed."
    for name, tool in policy.routes.hosted_tools.items():
        what = "Every tool that the provider runs" if name == "*" else f"The provider's tool {name}"
        yield f"{what} is allowed; reserved are {_number(tool.reserve_tokens)} tokens and {tool.fee} for each use."


# Plans and features ---------------------------------------------------------------------------------------------------


def _plan_title(policy: Policy, name: str) -> str:
    return f"Plan {name}, the default" if name == policy.default_plan else f"Plan {name}"


def _plan(policy: Policy, name: str) -> Iterator[str]:
    rules = policy.rules(name, None)
    any_feature = "*" in rules.plan.features
    yield "May use every feature." if any_feature else f"May use {_listed(rules.plan.features)}, or name no feature."
    models = rules.plan.models
    yield "May use every model." if "*" in models else f"May use the models {_listed(models)}."
    own = [placed for placed in rules.limits if placed.place != "app"]
    if own:
        yield from _limits(own, "The plan's users together")
    else:
        yield "The plan itself sets no limit."
    yield from _sections(rules)


def _feature(policy: Policy, name: str) -> Iterator[str]:
    within = [plan for plan, rules in policy.plans.items() if rules.allows_feature(name)]
    yield f"Belongs to {_listed(within, 'plan', 'plans')}." if within else "Belongs to no plan: nobody may use it."
    places = [PlacedLimit.at(f"feature:{name}", limit) for limit in policy.features[name].limits]
    yield from _limits(places, "All its calls together")
    differs: dict[str, list[str]] = {}
    for plan in within:
        usual = set(_sections(policy.rules(plan, None)))
        for sentence in _sections(policy.rules(plan, name)):
            if sentence not in usual:
                differs.setdefault(sentence, []).append(plan)
    for sentence, plans in differs.items():
        where = "" if plans == within else f" (in {_listed(plans, 'plan', 'plans')})"
        yield f"{sentence[:-1]}{where}."
    if not places and not differs:
        yield "Has no rules of its own."


def _sections(rules: Rules) -> Iterator[str]:
    given, out = rules.input, rules.output
    yield (
        f"A user message may have {_number(given.max_message_chars)} characters, a request "
        f"{_number(given.max_context_tokens)} tokens, {_number(given.max_images)} images, "
        f"{_number(given.max_request_bytes)} bytes of text and {_number(given.max_inline_bytes)} of inline files."
    )
    longer = "is trimmed" if given.overflow == "trim" else "is denied"
    yield f"A history of more than {given.max_turns} turns, or too many tokens, {longer}."
    default = out.default_max_tokens
    if default == "off":
        yield f"A call that names no output cap has none; one that is named is lowered to {_number(out.max_tokens)}."
    else:
        cap = _number(min(default, out.max_tokens))
        yield f"An answer may have {cap} tokens, or as many as the call asks for, up to {_number(out.max_tokens)}."
    if out.on_budget == "shrink":
        yield f"When the budget is nearly spent, the output cap shrinks, down to {out.min_tokens} tokens."
    elif out.on_budget == "downgrade":
        ways = [f"{dear} to {cheap}" for dear, cheap in out.downgrade.items()]
        yield f"When the budget is nearly spent, cheaper models answer: {_listed(ways) or 'none is named'}."
    deadline = rules.time.deadline_seconds
    yield "A call has no deadline." if deadline == "off" else f"A call ends within {deadline:g} s, all included."
    yield from _checks(rules.checks)


def _checks(checks: CheckRules) -> Iterator[str]:
    found: dict[str, list[str]] = {}
    for name in CHECKS:
        found.setdefault(getattr(checks, name), []).append(name)
    words = {"deny": "Denied when found", "redact": "Taken out of answers", "flag": "Noted on the record"}
    for action in ("deny", "redact", "flag", "off"):
        if action in found:
            yield f"{words.get(action, 'Not looked for')}: {_listed(found[action])}."
    if checks.allowed_hosts:
        yield f"Links to {_listed(checks.allowed_hosts)} are no finding."
    if checks.on_error == "allow":
        yield "A check that fails lets the call pass."


CHECKS = tuple(name for name, field in CheckRules.model_fields.items() if "off" in get_args(field.annotation))
"""The built-in checks that a policy turns on and off."""


# Words ----------------------------------------------------------------------------------------------------------------


def _limits(places: list[PlacedLimit], everybody: str) -> Iterator[str]:
    by_scope: dict[tuple[str, ...], list[str]] = {}
    for placed in places:
        per = tuple(name for name in placed.per if name not in ("app", *placed.place.split(":")[:1]))
        by_scope.setdefault(per, []).append(_sentence(placed))
    for per, sentences in by_scope.items():
        who = f"Each {' and '.join(per)}" if per else everybody
        yield f"{who}: at most {_listed(sentences)}."


def _sentence(placed: PlacedLimit) -> str:
    """The limit without its dimensions."""
    return " ".join(placed.limit.text.partition(" per ")[0].split())


def _number(amount: int) -> str:
    return f"{amount:,}"


def _listed(names: object, one: str = "", many: str = "") -> str:
    words = [str(name) for name in names]  # type: ignore[attr-defined]
    kind = (one if len(words) == 1 else many) + " " if one else ""
    return kind + (f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words))
