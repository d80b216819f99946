"""Background responses: answered later, to whoever retrieves them, and charged at a bound until then.

The reservation of such a call stays open. Its lease ends by itself, which charges the bound, and a later settlement
corrects that, as with any call. So that any process can settle it, a second reservation, named by the response, keeps
where the first one is: a store gives back the charges of an id that it knows, and their keys may say anything.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from . import reserving, settling
from .accounting import Amounts
from .effects import Flow, peek, reserve, settle
from .errors import StoreUnavailableError
from .types import Admission, Charge, Outcome, Reservation

if TYPE_CHECKING:
    from .guard import Guard

_LATEST = 60.0
"""Seconds that an answer is waited for at the least, whatever the windows of its limits."""


def leave_open(admission: Admission, outcome: Outcome) -> bool:
    """Whether the bill of a call comes later."""
    billed_later = admission.call.background and outcome.usage is None and not outcome.unbilled
    reservation = admission.reservation
    return billed_later and outcome.response_id is not None and type(reservation) is Reservation


def remember(guard: Guard, admission: Admission, response_id: str) -> Flow[None]:
    """Keep where the reservation of a response is, until no window that it counts in is left."""
    reservation = admission.reservation
    assert reservation is not None
    note = json.dumps(
        [
            reservation.id,
            admission.call.model,
            len(admission.gate),
            [placed.limit.metric for placed, _ in admission.made],
        ]
    )
    now = guard.clock.time()
    latest = max([reservation.expires, now + _LATEST, *(charge.end for _, charge in admission.made)])
    charges = [_mark(response_id, 1), Charge(f"background/note/{note}", 0, 0, "held", 0, 1)]
    with suppress(StoreUnavailableError):  # whoever found that out has told of it; the bound stays charged
        yield from reserve(_name(response_id), charges, latest - now)


def correct(guard: Guard, admission: Admission, outcome: Outcome) -> Flow[None]:
    """A response has been retrieved: if it tells its usage, and no retrieval did before, that is what it used."""
    response_id = admission.corrects
    if response_id is None or outcome.usage is None:
        return
    with suppress(StoreUnavailableError):  # the next retrieval corrects it
        yield from _correct(guard, response_id, outcome)


def _correct(guard: Guard, response_id: str, outcome: Outcome) -> Flow[None]:
    (mark,) = yield from peek([_mark(response_id, 0)])
    if not mark.held:
        return  # not one of ours, or corrected before
    pointer = yield from reserve(_name(response_id), [], _LATEST)
    if type(pointer) is not Reservation or len(pointer.charges) != 2:
        return
    id, model, gate, metrics = json.loads(pointer.charges[1].key.removeprefix("background/note/"))
    reservation = yield from reserve(id, [], _LATEST)
    if type(reservation) is not Reservation or len(reservation.charges) != gate + len(metrics):
        return  # forgotten: its windows are over
    usage = outcome.usage
    assert usage is not None
    fees = reserving.fees(guard, outcome.hosted_calls or {})
    cost = settling.price(guard, (model, outcome.response_model), outcome.tier, usage, fees)
    amounts = Amounts(usage, cost)
    actual = [
        charge.amount if metric == "money" and cost is None else amounts.of(metric)
        for metric, charge in zip(metrics, reservation.charges[gate:], strict=True)
    ]
    yield from settle(reservation, [*[0] * gate, *actual])
    yield from settle(pointer, [0, 0])


def _name(response_id: str) -> str:
    return f"background/{response_id.lower()}"


def _mark(response_id: str, amount: int) -> Charge:
    """The charge that tells whether there is anything to correct."""
    return Charge(_name(response_id), amount, 1, "held", 0, 1)
