"""Background responses: answered later, to whoever retrieves them, and charged at a bound until then.

The reservation of such a call stays open. Its lease ends by itself, which charges the bound, and a later settlement
corrects that, as with any call. So that any process can settle it, a second reservation, named by the response, keeps
where the first one is: a store gives back the charges of an id that it knows, and their keys may say anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from . import accounting, reserving, settling
from .accounting import Amounts
from .effects import Flow, peek, reserve, settle
from .errors import StoreUnavailableError
from .limits import Limit, PlacedLimit
from .types import Admission, Charge, Outcome, Reservation

if TYPE_CHECKING:
    from .guard import Guard

_LATEST = 60.0
"""Seconds that an answer is waited for at the least, whatever the windows of its limits."""
_NOTE = "background/note/"


class Note(NamedTuple):
    """What whoever retrieves a response must know to settle its call: JSON, in the key of a charge of nothing."""

    id: str
    """Of the reservation."""
    model: str
    gate: int
    """How many of its charges stand before those of limits."""
    limits: list[list[str]]
    """Of each limit that was charged, its place and its sentence."""
    values: Mapping[str, str | None]
    """Dimension to value."""
    fee_of: Mapping[str, int]
    """nano-USD for each call of a hosted tool."""


def leave_open(admission: Admission, outcome: Outcome) -> bool:
    """Whether the bill of a call comes later."""
    billed_later = settling.goes_on(admission, outcome) and outcome.usage is None and not outcome.unbilled
    return billed_later and outcome.response_id is not None and type(admission.reservation) is Reservation


def remember(guard: Guard, admission: Admission, response_id: str) -> Flow[None]:
    """Keep where the reservation of a response is, until no window that it counts in is left."""
    reservation = admission.reservation
    assert reservation is not None
    note = Note(
        reservation.id,
        admission.call.model,
        len(admission.gate),
        [[placed.place, placed.limit.text] for placed, _ in admission.made],
        accounting.dimensions(admission),
        admission.fee_of,
    )
    now = guard.clock.time()
    latest = max([reservation.expires, now + _LATEST, *(charge.end for _, charge in admission.made)])
    charges = [_mark(response_id, 1), Charge(_NOTE + json.dumps(note), 0, 0, "held", 0, 1)]
    with suppress(StoreUnavailableError):  # whoever found that out has told of it; the bound stays charged
        yield from reserve(_name(response_id), charges, latest - now)


def correct(guard: Guard, admission: Admission, outcome: Outcome) -> Flow[None]:
    """A response has been retrieved: if it tells its usage, and no retrieval did before, that is what it used."""
    asked, found = admission.corrects, outcome.response_id
    if asked and found and found.lower() == asked and outcome.usage is not None:
        with suppress(StoreUnavailableError):  # whoever found that out has told of it; the next retrieval corrects
            yield from _correct(guard, found, outcome)


def _correct(guard: Guard, response_id: str, outcome: Outcome) -> Flow[None]:
    usage = outcome.usage
    assert usage is not None
    (mark,) = yield from peek([_mark(response_id, 0)])
    if not mark.held:
        return  # not one of ours, or corrected before
    pointer = yield from reserve(_name(response_id), [], _LATEST)
    if type(pointer) is not Reservation or len(pointer.charges) != 2:
        return
    note = Note(*json.loads(pointer.charges[1].key.removeprefix(_NOTE)))
    reservation = yield from reserve(note.id, [], _LATEST)
    if type(reservation) is not Reservation or len(reservation.charges) != note.gate + len(note.limits):
        return  # forgotten: its windows are over
    placed = [PlacedLimit.at(place, Limit.parse(sentence)) for place, sentence in note.limits]
    made = list(zip(placed, reservation.charges[note.gate :], strict=True))
    fees = reserving.fees(guard, note.fee_of, outcome.hosted_calls or {})
    cost = settling.price(guard, (note.model, outcome.response_model), outcome.tier, usage, fees)
    amounts = Amounts(usage, cost)
    actual = [
        charge.amount if one.limit.metric == "money" and cost is None else amounts.of(one.limit.metric)
        for one, charge in made
    ]
    yield from settle(reservation, [*[0] * note.gate, *actual])
    yield from settle(pointer, [0, 0])
    yield from settling.tell(guard, made, note.values, actual)


def _name(response_id: str) -> str:
    return f"background/{response_id}"


def _mark(response_id: str, amount: int) -> Charge:
    """The charge that tells whether there is anything to correct."""
    return Charge(_name(response_id), amount, 1, "held", 0, 1)
