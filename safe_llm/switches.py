"""Kill switches, made of charges alone.

A switch that is off is an open reservation of one call in flight on the switch's own counter; a call asks for none of
it against a limit of none, so it fits only while the counter is empty. One gate counts all switches that are off: as
long as it is empty, which is nearly always, a call looks at nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import combinations

from pydantic_core import from_json, to_json

from .effects import Flow, peek, reserve, settle
from .limits import LARGEST, part
from .types import Charge, Refusal, Reservation, SwitchEvent

DIMENSIONS = ("feature", "model", "plan", "user")
"""What a switch can name. All that it names must match; one that names nothing stops the application."""

FOREVER = 2**42
"""Epoch seconds that no clock will reach."""

_TTL = 2.0**35
_GATE = "switch/any"
GATE = Charge(_GATE, 0, 0, "held", 0, FOREVER)
"""The charge that fits only while no switch at all is off."""

_LOG = "switch/log/"
_COUNTED = Charge("switch/log", 1, LARGEST, "held", 0, FOREVER)
"""What each entry of the log charges: their number is what the next one is called."""

Switch = tuple[tuple[str, str], ...]
"""Dimension and value pairs, in the order of `DIMENSIONS`."""


def switch(values: Mapping[str, str | None]) -> Switch:
    """The switch that these values name; None leaves a dimension out."""
    return tuple((name, value) for name in DIMENSIONS if (value := values.get(name)) is not None)


def named(pairs: Switch) -> str:
    """A switch in words."""
    return " and ".join(f"{name} {value!r}" for name, value in pairs) or "the whole application"


def matching(values: Mapping[str, str | None]) -> list[Switch]:
    """Every switch that would stop a call with these values, the widest first."""
    pairs = switch(values)
    return [chosen for size in range(len(pairs) + 1) for chosen in combinations(pairs, size)]


def asked(switches: Sequence[Switch]) -> list[Charge]:
    """One charge for each switch, which fits only while it is on."""
    return [Charge(_key(pairs), 0, 0, "held", 0, FOREVER) for pairs in switches]


def switch_off(pairs: Switch) -> Flow[bool]:
    """Switch off; whether it was on."""
    generation, is_off = yield from _state(pairs)
    if is_off:
        return False
    yield from _open(pairs, generation + 1)
    return True


def switch_on(pairs: Switch) -> Flow[bool]:
    """Switch on; whether it was off."""
    generation, is_off = yield from _state(pairs)
    if not is_off:
        return False
    reservation = yield from _open(pairs, generation)
    return isinstance(reservation, Reservation) and (yield from settle(reservation, [0, 1, 0]))


def log(entry: SwitchEvent) -> Flow[None]:
    """Write down who turned a switch, when and why: in the key of a charge of nothing, under a numbered id.

    Another process that writes at the same time takes the number; then the next one is tried.
    """
    said = to_json((entry.action, dict(entry.scope), entry.at.timestamp(), entry.by, entry.reason)).decode()
    number = (yield from _entries()) + 1
    while True:
        charges = (_COUNTED, Charge(_LOG + said, 0, 0, "held", 0, FOREVER))
        answer = yield from reserve(f"{_LOG}{number}", charges, _TTL)
        if not isinstance(answer, Reservation) or tuple(answer.charges) == charges:
            return
        number += 1


def history(most: int) -> Flow[list[SwitchEvent]]:
    """The latest entries of the log, at most so many, oldest first."""
    last = yield from _entries()
    found = []
    for number in range(max(last - most, 0) + 1, last + 1):
        answer = yield from reserve(f"{_LOG}{number}", [], _TTL)
        if isinstance(answer, Reservation) and len(answer.charges) == 2:
            action, scope, at, by, reason = from_json(answer.charges[1].key.removeprefix(_LOG))
            found.append(SwitchEvent(action, scope, datetime.fromtimestamp(at, UTC), by, reason))
    return found


def off_now(most: int) -> Flow[list[SwitchEvent]]:
    """The switches that are off, as far as the latest entries of the log tell of them."""
    latest: dict[Switch, SwitchEvent] = {}
    for entry in (yield from history(most)):
        pairs = switch(entry.scope)
        latest.pop(pairs, None)
        latest[pairs] = entry
    found = []
    for pairs, entry in latest.items():
        if entry.action == "off" and (yield from _state(pairs))[1]:
            found.append(entry)
    return found


def _entries() -> Flow[int]:
    (tally,) = yield from peek([_COUNTED])
    return tally.used + tally.held


def _state(pairs: Switch) -> Flow[tuple[int, bool]]:
    own, generation, _ = _charges(pairs)
    now, before = yield from peek([own, generation])
    return before.used + before.held, now.used + now.held > 0


def _open(pairs: Switch, generation: int) -> Flow[Reservation | Refusal]:
    # Numbered ids make this idempotent: two processes that switch off at once make one reservation, and whoever
    # switches on is given that same reservation by its number. A refusal says that another was faster.
    return (yield from reserve(f"{_key(pairs)}#{generation}", _charges(pairs), _TTL))


def _charges(pairs: Switch) -> list[Charge]:
    key = _key(pairs)
    return [
        Charge(key, 1, 1, "held", 0, FOREVER),
        Charge(f"{key}/generation", 1, LARGEST, "fixed", 0, FOREVER),
        Charge(_GATE, 1, LARGEST, "held", 0, FOREVER),
    ]


def _key(pairs: Switch) -> str:
    return "switch/off" + "".join(f"/{name}={part(value)}" for name, value in pairs)
