"""The steps that ask the checks, the policy's own and the application's: of the input, and of the answer."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

from .checks.patterns import looks_at
from .effects import CHECK_SECONDS, Flow, compute, inspect
from .errors import InjectionDetectedError, InputRejectedError
from .types import Admission, Check, Content, Finding, Part

if TYPE_CHECKING:
    from .checks.inputs import InputChecks
    from .guard import Guard


def check_input(guard: Guard, admission: Admission) -> Flow[None]:
    """Ask every check about the input, before any money is reserved, and note on the admission what they find.

    Raises:
        InputRejectedError: a check denies the call, or failed.
    """
    call, claim, rules = admission.call, admission.identity, admission.rules.checks
    parts = call.endpoint.parts(call)
    if not rules.injection == rules.role_markers == rules.hidden_text == "off":
        _obey(admission, (yield from _or_failed(admission, "input", "deny", _look(admission, parts))))
    if not guard.checks:
        return
    content = Content("input", parts, claim.as_identity(), call.endpoint.name, call.model)
    for check in guard.checks:
        if not looks_at(check, "input"):
            continue
        asked = inspect(check, content, _seconds_for(guard, check, admission))
        action = getattr(check, "action", "deny")
        _obey(admission, (yield from _or_failed(admission, check.name, action, asked)), check.name)


def prepare(guard: Guard, admission: Admission) -> None:
    """Say what is to look at the answer to a call. It looks at the bytes, on their way to the caller."""
    if not admission.call.endpoint.answers_in_words:
        return
    from .checks.output import Output  # here, because importing the package is not to compile the rules

    # In shadow mode a call may go on whose rules could not be found.
    rules = admission.rules.checks if hasattr(admission, "rules") else guard.policy.checks
    own = [check for check in guard.checks if looks_at(check, "output")]
    watches = guard.policy.mode == "shadow"
    output = Output(admission, admission.identity.as_identity(), rules, own, watches=watches)
    admission.output = output if output.looks else None


def check_output(admission: Admission) -> Flow[None]:
    """Run the application's own checks on an answer of which all has come. What they deny is not shown."""
    output = admission.output
    assert output is not None
    for check in output.waiting:
        try:
            findings = yield from inspect(check, output.content, _seconds_for(admission.guard, check, admission))
        except Exception as error:
            output.failed(check, error)
        else:
            output.judged(check, findings)
        if output.rejection is not None:
            return


def _look(admission: Admission, parts: tuple[Part, ...]) -> Flow[tuple[Finding, ...]]:
    """What the policy's own checks find."""
    own = _own_checks()
    look = partial(own.inspect, parts, admission.rules.checks)
    return (yield from compute(look)) if own.takes_long(parts) else look()


@cache
def _own_checks() -> InputChecks:
    """One for all policies of the process, since what is found in a text depends on none."""
    from .checks.inputs import InputChecks  # here, because importing the package is not to compile its rules

    return InputChecks()


def _or_failed(
    admission: Admission, name: str, action: str, asked: Flow[tuple[Finding, ...]]
) -> Flow[tuple[Finding, ...]]:
    """What a check found. That it failed is a finding of its own action, where the policy does not let it pass."""
    try:
        return (yield from asked)
    except Exception as error:
        if admission.rules.checks.on_error == "deny" and action != "flag":
            raise InputRejectedError(
                f"User {admission.identity.user!r} is denied: the check {name!r} failed with "
                f"{type(error).__name__}, and [checks] on_error is deny.",
                code="check_failed",
            ) from error
        return (Finding(rule=f"{name}_failed", severity="low", where="input"),)


def _seconds_for(guard: Guard, check: Check, admission: Admission) -> float:
    own: float | None = getattr(check, "timeout", None)
    seconds = CHECK_SECONDS if own is None else own
    return seconds if admission.ends is None else min(seconds, max(admission.ends - guard.clock.monotonic(), 0.0))


def _obey(admission: Admission, findings: tuple[Finding, ...], check: str | None = None) -> None:
    """Note what a check found, and deny the call where it says so. One without a name is the policy's own."""
    admission.findings += findings
    for finding in findings:
        if finding.action != "flag":  # there is nothing to redact before sending, so that is a denial, too
            denied = InjectionDetectedError if "injection" in finding.rule else InputRejectedError
            by = f'[checks] {finding.rule} = "deny"' if check is None else f"the check {check!r}"
            raise denied(
                f"User {admission.identity.user!r} is denied: {finding.where} holds what {finding.rule!r} is about, by "
                f"{by}. Leave it out, or have it flagged instead of denied."
            )
