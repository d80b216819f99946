"""What the path needs done, and how the sync and the async side do it.

The path is a generator. It yields an effect and is sent the result, so its order stands once, and it can be stepped in
a test without any I/O. Each effect has a typed helper: ``reservation = yield from reserve(…)``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from types import CoroutineType
from typing import Any, NamedTuple, TypeAlias, TypeVar

from .identity import Claim, Identity
from .types import Admission, Charge, Check, Content, Event, Finding, Outcome, Refusal, Reservation, Tally

T = TypeVar("T")
Flow: TypeAlias = "Generator[Effect, Any, T]"
"""A piece of the path: yields effects, is sent their results, and returns a T."""


CHECK_SECONDS = 5.0
"""What a check of the application may take, where it says nothing itself."""


class FindPlan(NamedTuple):
    """Ask ``plan_for``. Answered by a name; None stands for the default plan."""

    identity: Claim


class Prove(NamedTuple):
    """Verify the token that a caller brought. Answered by its identity."""

    proof: Callable[[], Any]


class Inspect(NamedTuple):
    """Run one check. Answered by its findings."""

    check: Check
    content: Content
    seconds: float = CHECK_SECONDS
    """How long it may take."""


class Compute(NamedTuple):
    """Run a function that does no I/O but may take long, such as tokenizing."""

    function: Callable[[], Any]


class Reserve(NamedTuple):
    """Take room in all limits at once, or in none."""

    id: str
    charges: Sequence[Charge]
    ttl: float
    local: bool = False
    """Whether a store of this process may answer while the real one is away: for a call, whose id nobody else uses."""


class Peek(NamedTuple):
    """Look at tallies without taking anything."""

    charges: Sequence[Charge]
    local: bool = False
    """As of `Reserve`: for whoever asks how a call would fare."""


class Settle(NamedTuple):
    """Turn what was reserved into what was used. Answered by False where that was done before."""

    reservation: Reservation
    actual: Sequence[int]


class Send(NamedTuple):
    """Send the request, inside the deadline. Never raises: errors, cancellation included, are in the outcome."""

    admission: Admission
    body: dict[str, Any]

    def __repr__(self) -> str:
        return f"Send({self.admission!r})"  # error reporters print it, and the body holds the prompt


class Emit(NamedTuple):
    """Hand an event to the sinks."""

    event: Event


class Complete(NamedTuple):
    """Run a flow to its end, whatever is cancelled meanwhile: what has been sent must be settled and recorded."""

    flow: Flow[Any]
    waits: bool = False
    """Whether it may have to wait although the store does not, for a count."""


Effect = FindPlan | Prove | Inspect | Compute | Reserve | Peek | Settle | Send | Emit | Complete


def find_plan(identity: Claim) -> Flow[str | None]:
    found: str | None = yield FindPlan(identity)
    return found


def prove(proof: Callable[[], Any]) -> Flow[Identity]:
    identity: Identity = yield Prove(proof)
    return identity


def inspect(check: Check, content: Content, seconds: float = CHECK_SECONDS) -> Flow[tuple[Finding, ...]]:
    findings: tuple[Finding, ...] = yield Inspect(check, content, seconds)
    return findings


def compute(function: Callable[[], T]) -> Flow[T]:
    result: T = yield Compute(function)
    return result


def reserve(id: str, charges: Sequence[Charge], ttl: float, *, local: bool = False) -> Flow[Reservation | Refusal]:
    answer: Reservation | Refusal = yield Reserve(id, charges, ttl, local)
    return answer


def peek(charges: Sequence[Charge], *, local: bool = False) -> Flow[Sequence[Tally]]:
    tallies: Sequence[Tally] = yield Peek(charges, local)
    return tallies


def settle(reservation: Reservation, actual: Sequence[int]) -> Flow[bool]:
    first: bool = yield Settle(reservation, actual)
    return first


def send(admission: Admission, body: dict[str, Any]) -> Flow[Outcome]:
    outcome: Outcome = yield Send(admission, body)
    return outcome


def emit(event: Event) -> Flow[None]:
    yield Emit(event)


def complete(flow: Flow[T], *, waits: bool = False) -> Flow[T]:
    result: T = yield Complete(flow, waits)
    return result


def drive(flow: Flow[T], perform: Callable[[Effect], Any]) -> T:
    """Run a flow to its end, doing each effect with `perform`."""
    try:
        effect = next(flow)
        while True:
            try:
                result = perform(effect)
            except BaseException as error:
                effect = flow.throw(error)
            else:
                effect = flow.send(result)
    except StopIteration as stop:
        value: T = stop.value
        return value


async def drive_async(flow: Flow[T], perform: Callable[[Effect], Any]) -> T:
    """Run a flow to its end. `perform` answers with a result, or with a coroutine that is awaited for it."""
    try:
        effect = next(flow)
        while True:
            try:
                result = perform(effect)
                if type(result) is CoroutineType:
                    result = await result
            except BaseException as error:
                effect = flow.throw(error)
            else:
                effect = flow.send(result)
    except StopIteration as stop:
        value: T = stop.value
        return value
