"""A second policy beside the one in force: what it would have decided, on counters of its own. It changes no call.

Its counters stand in the same store, under names that begin differently. The built-in checks and the limits are its
own; the application's checks, kill switches and circuit breakers are not asked twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from typing import TYPE_CHECKING

from . import accounting, reserving, settling
from .accounting import Amounts
from .effects import Flow, complete, reserve, settle
from .errors import DeniedError, StoreUnavailableError, SwitchedOffError
from .types import Admission, Charge, Outcome, Refusal, Reservation, ShadowDecision, Usage

if TYPE_CHECKING:
    from .guard import Guard

_MARK = "shadow/"


def consider(guard: Guard, admission: Admission) -> Flow[None]:
    """Decide about a call under the shadow policy, and note that on its admission.

    Before the policy in force reads the call, which replaces what it holds, and changes none of it in place.
    """
    shadow = guard.shadow
    if shadow is None:
        return
    beside = shadow.begin(copy(admission.call))
    try:
        yield from shadow.decide(beside)
        yield from reserving.take(shadow, beside, _ask)
    except StoreUnavailableError:
        return  # which says nothing about the policy
    except DeniedError as denial:
        beside.denial = denial
    except Exception as error:  # a mistake in here is not to be the call's, and is told
        beside.shadow_error = type(error).__name__
    admission.shadow = beside


def _ask(id: str, charges: Sequence[Charge], ttl: float) -> Flow[Reservation | Refusal]:
    marked = [charge._replace(key=_MARK + charge.key) for charge in charges]
    return (yield from reserve(_MARK + id, marked, ttl, local=True))


def decision(admission: Admission) -> ShadowDecision | None:
    """What the shadow policy decided, where that is something else."""
    beside, live = admission.shadow, admission.denial
    if beside is None or isinstance(live, SwitchedOffError | StoreUnavailableError):
        return None
    other = beside.denial
    if beside.shadow_error is None and _rule(live) == _rule(other):
        return None
    denial = None if other is None else accounting.as_denial(other)
    version = beside.guard.policy.version
    return ShadowDecision(policy_version=version, denial=denial, error=beside.shadow_error)


def _rule(denial: DeniedError | None) -> tuple[str, str | None] | None:
    return None if denial is None else (denial.code, denial.limit)


def finish(admission: Admission, outcome: Outcome | None, usage: Usage, source: str) -> Flow[None]:
    """Settle with the shadow's counters what a call used; of one that was denied, that it asked."""
    beside = admission.shadow
    if beside is None or beside.reservation is None:
        return
    cost = 0 if outcome is None else settling.cost(beside.guard, beside, outcome, usage, source)
    amounts = Amounts(usage, beside.cost if cost is None else cost)
    actual = [amounts.of(placed.limit.metric) for placed, _ in beside.made]
    with suppress(StoreUnavailableError):  # whoever found that out has told of it
        yield from complete(_settled(beside.reservation, [*[0] * len(beside.gate), *actual]))


def _settled(reservation: Reservation, actual: Sequence[int]) -> Flow[None]:
    yield from settle(reservation, actual)
