"""The step "check output": who looks at an answer, and the application's own checks, once all of it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .checks.patterns import looks_at
from .effects import Flow, inspect
from .identity import Identity
from .types import Admission

if TYPE_CHECKING:
    from .guard import Guard


def prepare(guard: Guard, admission: Admission) -> None:
    """Say what is to look at the answer to a call. It looks at the bytes, on their way to the caller."""
    if not admission.call.endpoint.answers_in_words:
        return
    from .checks.output import Output  # here, because importing the package is not to compile the rules

    claim = admission.identity
    caller = Identity(claim.user, claim.feature, claim.session_id, claim.plan, claim.tags, claim.verified)
    # In shadow mode a call may go on whose rules could not be found.
    rules = admission.rules.checks if hasattr(admission, "rules") else guard.policy.checks
    own = [check for check in guard.checks if looks_at(check, "output")]
    output = Output(admission, caller, rules, own, watches=guard.policy.mode == "shadow")
    admission.output = output if output.looks else None


def judge(admission: Admission) -> Flow[None]:
    """Run the application's own checks on an answer of which all has come. What they deny is not shown."""
    output = admission.output
    assert output is not None
    for check in output.waiting:
        try:
            findings = yield from inspect(check, output.content)
        except Exception as error:
            output.failed(check, error)
        else:
            output.judged(check, findings)
        if output.rejection is not None:
            return
