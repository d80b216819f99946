"""``safe-llm switch``: stop a feature, a user, a plan, a model or everything, in every process, and let it go on."""

from __future__ import annotations

import getpass
import os
import socket
from typing import Annotated, Literal

import typer

from .._sync import SyncGuard
from ..errors import ConfigurationError
from ..policy import Policy
from ..switches import switch as pairs_of
from ..types import SwitchEvent
from .console import FAILED, MISUSED, AsJSON, as_json, console, fail, one_line, plain, remark
from .running import (
    PolicyFile,
    StoreURL,
    print_switches,
    reaching,
    scope_named,
    shown_url,
    switch_as_json,
    switches_off,
    why,
)

switch = typer.Typer(no_args_is_help=True, help="Stop calls in every process that shares the quota store.")

_Feature = Annotated[str | None, typer.Option(help="Calls of this feature.")]
_User = Annotated[str | None, typer.Option("--user", "--user-id", help="Calls of this user.")]
_Plan = Annotated[str | None, typer.Option(help="Calls of users of this plan.")]
_Model = Annotated[str | None, typer.Option(help="Calls of this model.")]
_All = Annotated[bool, typer.Option("--all", help="The whole application.")]
_By = Annotated[str | None, typer.Option(help="Who does it. Without it: the user of this system, and its host.")]


@switch.command()
def off(
    feature: _Feature = None,
    user: _User = None,
    plan: _Plan = None,
    model: _Model = None,
    everything: _All = False,
    reason: Annotated[str, typer.Option(help="Why; it is shown to whoever looks.")] = "",
    by: _By = None,
    store: StoreURL = None,
    policy: PolicyFile = None,
    json: AsJSON = False,
) -> None:
    """Stop calls, from the next one on. Where several things are named, calls must match all of them.

    Exits with 0 once it is off, also where it was before; with 1 where the store cannot be reached; with 2 where
    nothing is named, or no store that processes share.
    """
    scope = _scope(everything, feature=feature, user=user, plan=plan, model=model)
    if not reason:
        remark("No --reason is given: whoever finds this switched off will not know why.")
    _warn_of_unknown(policy, feature, plan)
    _turn("off", scope, reason, by, store, json)


@switch.command()
def on(
    feature: _Feature = None,
    user: _User = None,
    plan: _Plan = None,
    model: _Model = None,
    everything: _All = False,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    by: _By = None,
    store: StoreURL = None,
    json: AsJSON = False,
) -> None:
    """Undo `switch off` with the same arguments.

    Exits with 0 once it is on, also where it was before; with 1 where the store cannot be reached; with 2 where nothing
    is named, or no store that processes share.
    """
    _turn("on", _scope(everything, feature=feature, user=user, plan=plan, model=model), reason, by, store, json)


@switch.command("list")
def list_(store: StoreURL = None, json: AsJSON = False) -> None:
    """Show what is switched off: by whom, when and why.

    Exits with 0, whether anything is off or not; with 1 where the store cannot be reached; with 2 where no store is
    named that processes share.
    """
    with reaching(store, Policy()) as guard:
        found, untold = switches_off(guard)
    if json:
        _print_json(store, found, untold)
    else:
        print_switches(found, untold)


def _scope(everything: bool, **named: str | None) -> dict[str, str]:
    scope = {name: value for name, value in named.items() if value is not None}
    if everything and scope:
        fail("--all means the whole application: name nothing else beside it, or leave --all out.", MISUSED)
    if not everything and not scope:
        fail("Name what it is about: --feature, --user, --plan or --model, or --all, the whole application.", MISUSED)
    return dict(pairs_of(scope))


def _turn(
    action: Literal["off", "on"], scope: dict[str, str], reason: str, by: str | None, store: str | None, json: bool
) -> None:
    arguments = {"user_id" if name == "user" else name: value for name, value in scope.items()}
    # The policy is of no concern here, and a broken one must not stand in the way.
    with reaching(store, Policy()) as guard:
        before = _event(guard, scope)
        try:
            turn = guard.switch_off if action == "off" else guard.switch_on
            turn(**arguments, reason=reason, by=by or _whoever())
        except ValueError as error:
            fail(one_line(error), MISUSED)
        found, untold = switches_off(guard)
    after = next((event for event in found if event.scope == scope), None)
    if (after is None) is (action == "off") and not untold:
        fail(f"Somebody else turned {scope_named(scope)} {_other(action)} at the same time.", FAILED)
    if json:
        changed = (before is None) is (action == "off")
        _print_json(store, found, untold, action=action, scope=scope, changed=changed)
        return
    _tell(action, scope, before)
    if found and (action == "on" or len(found) > 1):
        console().print()
        print_switches(found, untold)


def _event(guard: SyncGuard, scope: dict[str, str]) -> SwitchEvent | None:
    return next((event for event in guard.switches() if event.scope == scope), None)


def _other(action: str) -> str:
    return "on" if action == "off" else "off"


def _tell(action: str, scope: dict[str, str], before: SwitchEvent | None) -> None:
    what = scope_named(scope)
    if action == "off" and before is not None:
        said = f"was off already, by {plain(before.by) or 'somebody'} since {before.at:%Y-%m-%d %H:%M:%S} UTC"
        console().print(f"{what} {said}: {why(before)}")
    elif action == "off":
        console().print(f"{what} is switched off, in every process, from its next call on.")
    elif before is None:
        console().print(f"{what} was not switched off.")
    else:
        console().print(f"{what} is switched on again.")


def _print_json(store: str | None, found: list[SwitchEvent], untold: int, **done: object) -> None:
    off = [switch_as_json(event) for event in found]
    as_json({**done, "store": shown_url(str(store)), "switches": off, "unlogged_switches": untold})


def _whoever() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container whose user has no name
        user = f"uid {os.getuid()}" if hasattr(os, "getuid") else "somebody"
    return f"{user}@{socket.gethostname()}"


def _warn_of_unknown(file: str | None, feature: str | None, plan: str | None) -> None:
    """A name that the policy does not know is perhaps a slip, and then stops nobody."""
    if not file:
        return
    try:
        policy = Policy.of(file)
    except ConfigurationError:
        return
    named = {name for known in policy.plans.values() for name in known.features if name != "*"} | set(policy.features)
    if feature is not None and named and feature not in named:
        remark(f"The policy names no feature {feature!r}: make sure that it is spelled as the application does.")
    if plan is not None and plan not in policy.plans:
        remark(f"The policy has no plan {plan!r}: this stops nobody.")
