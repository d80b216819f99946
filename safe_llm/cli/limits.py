"""``safe-llm limits``: how a user's limits stand, and what is switched off."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from ..errors import nearest
from ..policy import Policy
from ..types import LimitStatus
from .console import MISUSED, AsJSON, as_json, console, fail, one_line, plain, remark, table
from .running import (
    PolicyFile,
    StoreURL,
    policy_of,
    print_switches,
    reaching,
    shown_url,
    switch_as_json,
    switches_off,
)


def limits(
    user: Annotated[str, typer.Argument(metavar="USER", help='A user_id; "anonymous" for calls that name none.')],
    feature: Annotated[str | None, typer.Option(help="With the limits of this feature.")] = None,
    plan: Annotated[str | None, typer.Option(help="The user's plan. Without it: the policy's default_plan.")] = None,
    model: Annotated[str | None, typer.Option(help="For limits per model.")] = None,
    session: Annotated[str | None, typer.Option(help="For limits per session: a session_id.")] = None,
    prompt: Annotated[str | None, typer.Option(help="For limits per prompt: a record's prompt_hash.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="For limits per tag.", metavar="NAME=VALUE")] = None,
    store: StoreURL = None,
    policy: PolicyFile = None,
    json: AsJSON = False,
) -> None:
    """Show how each limit of a user stands, and which kill switches are off.

    Exits with 0; with 1 where the store cannot be reached; with 2 where no store is named that processes share, the
    policy is not valid, or an argument is wrong.
    """
    rules = policy_of(policy)
    chosen = _plan(rules, plan)
    asked = {"feature": feature, "model": model, "session_id": session, "prompt": prompt, "tags": _tags(tag)}
    with reaching(store, rules) as guard:
        try:
            found = guard.usage(user_id=user, plan=chosen, **asked)  # type: ignore[arg-type]
        except ValueError as error:
            fail(one_line(error), MISUSED)
        off, untold = switches_off(guard)
    if json:
        as_json(
            {
                "user": user,
                "plan": chosen,
                "feature": feature,
                "policy": policy or None,
                "policy_version": rules.version,
                "mode": rules.mode,
                "store": shown_url(str(store)),
                "limits": [_as_json(status) for status in found],
                "switches": [switch_as_json(event) for event in off],
                "unlogged_switches": untold,
            }
        )
        return
    if not policy:
        remark("No policy is named: these are the limits of the defaults. Give --policy, or set SAFE_LLM_POLICY.")
    _print(rules, user, chosen, found, told=plan is not None)
    console().print()
    print_switches(off, untold)


def _plan(policy: Policy, name: str | None) -> str:
    if name is not None and name not in policy.plans:
        near = nearest(name, policy.plans)
        fail(f"The policy has no plan {name!r}" + (f": did you mean {near!r}?" if near else "."), MISUSED)
    return name or policy.default_plan


def _tags(pairs: list[str] | None) -> dict[str, str] | None:
    split = [pair.partition("=") for pair in pairs or ()]
    if not all(equals for _, equals, _ in split):
        fail("--tag takes NAME=VALUE, such as --tag team=search.", MISUSED)
    return {name: value for name, _, value in split} or None


def _as_json(status: LimitStatus) -> dict[str, Any]:
    amounts = {name: _exact(getattr(status, name)) for name in ("used", "held", "remaining")}
    resets = None if status.resets_at is None else status.resets_at.isoformat()
    return {"limit": status.limit, "scope": dict(status.scope), **amounts, "resets_at": resets}


def _exact(amount: int | Decimal) -> int | str:
    """Money as text with all its digits."""
    return format(amount, "f") if isinstance(amount, Decimal) else amount


def _print(policy: Policy, user: str, plan: str, found: list[LimitStatus], *, told: bool) -> None:
    out = console()
    whence = "" if told else " (the policy's default_plan; where plan_for says otherwise, give --plan)"
    out.print(f"{plain(user)}, plan {plain(plan)}{whence}")
    if policy.mode == "shadow":
        out.print("The policy is in shadow mode: it counts, and stops nothing.")
    if not found:
        out.print("No limit holds for this user.")
        return
    amounts = ("used", "held", "remaining")
    rows = table("limit", "counted for", *amounts, f"free again ({policy.timezone})", right=amounts)
    now, zone = datetime.now(UTC), ZoneInfo(policy.timezone)
    for status in found:
        figures = (_amount(getattr(status, name)) for name in amounts)
        rows.add_row(plain(status.limit), _scope(status.scope), *figures, _when(status.resets_at, now, zone))
    out.print(rows)
    for name in sorted({name for status in found for name, value in status.scope.items() if not value}):
        option = f"--tag {name[4:]}=…" if name.startswith("tag:") else f"--{name}"
        out.print(f"Without {plain(option)}, a limit per {plain(name)} shows the calls that name none.")


def _scope(scope: Mapping[str, str]) -> str:
    named = ", ".join(f"{name} {value}" if value else f"no {name}" for name, value in scope.items())
    return plain(named) or "the whole application"


def _amount(amount: int | Decimal) -> str:
    return f"${amount.normalize():f}" if isinstance(amount, Decimal) else f"{amount:,}"


def _when(at: datetime | None, now: datetime, zone: ZoneInfo) -> str:
    if at is None:
        return "as calls end"
    left = round((at - now).total_seconds())
    if left <= 0:
        return "now"
    steps = ((86_400, "d"), (3_600, "h"), (60, "min"))
    rough = next((f"{left // size} {unit}" for size, unit in steps if left >= 2 * size), f"{left} s")
    return f"in {rough}, {at.astimezone(zone):%d %b %H:%M}" if left >= 120 else f"in {rough}"
