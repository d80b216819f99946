"""Histories of calls, replayed on two stores that must agree; and what else several stores' tests share."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import strategies as st

from safe_llm.stores import Charge, QuotaStore, Reservation

DAY = 86_400
START = 1_800_000_000.25
SWITCH = Charge("switch/any", 0, 0, "held", 0, 2**42)


@dataclass
class Now:
    """A clock that stands until it is moved."""

    time: float = START

    def __call__(self) -> float:
        return self.time


def charges_at(now: float, amounts: Sequence[int]) -> list[Charge]:
    """A switch, minute, hour, day, month and calls in flight; day and minute once more: two charges may meet."""
    second, minute, day = int(now), int(now) // 60 * 60, int(now) // DAY * DAY
    kinds: list[tuple[str, int, Literal["fixed", "sliding", "held"], int, int]] = [
        ("minute", 4, "sliding", second - 60, second + 1),
        ("hour", 6, "sliding", minute - 3600, minute + 60),
        ("day", 10, "fixed", day, day + DAY),
        ("month", 30, "fixed", day // (30 * DAY) * 30 * DAY, (day // (30 * DAY) + 1) * 30 * DAY),
        ("calls", 3, "held", second, second + 1),
        ("day", 8, "fixed", day, day + DAY),
        ("minute", 5, "sliding", second - 61, second),
    ]
    made = [Charge(key, n, limit, kind, *span) for (key, limit, kind, *span), n in zip(kinds, amounts, strict=True)]
    return [SWITCH, *made]


AMOUNTS = st.lists(st.integers(0, 3), min_size=7, max_size=7)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), AMOUNTS, st.sampled_from([0.5, 40.0, 9_000.0])),
        st.tuples(st.just("switch"), st.booleans()),
        st.tuples(st.just("again"), st.integers(0, 30)),
        st.tuples(st.just("settle"), st.integers(0, 30), AMOUNTS),
        st.tuples(st.just("wait"), st.sampled_from([0.1, 0.75, 7.0, 59.5, 61.0, 130.0, 3_700.0, 90_000.0])),
        st.tuples(st.just("skew"), st.sampled_from([0, 0, 1, 20, -1, -2, -30])),
    ),
    max_size=60,
)


def replay(
    steps: list[Any],
    now: Now,
    store: QuotaStore,
    reference: QuotaStore,
    *,
    before_each: Callable[[], None] | None = None,
    name: str = "",
) -> None:
    """Take the steps on both, by clients whose clocks differ a little: answers, tallies and waits must be the same. A
    store that has replayed another history needs a name for this one."""
    skew = 0
    made: list[Reservation] = []
    forgotten: dict[str, float] = {}  # Until then, a reservation is remembered by both.

    def reserve(id: str, charges: list[Charge], ttl: float) -> None:
        answer = store.reserve(id, charges, ttl)
        assert answer == reference.reserve(id, charges, ttl)
        if isinstance(answer, Reservation) and answer not in made:
            made.append(answer)
            ends = [charge.end for charge in charges if charge.amount and charge.kind != "held"]
            forgotten[id] = max([answer.expires, *ends]) + 60

    def settle(reservation: Reservation, actual: list[int]) -> None:
        first = store.settle(reservation, actual)
        assert first is reference.settle(reservation, actual)
        if first:
            forgotten[reservation.id] = max(reservation.expires, now.time) + 60

    def charges(now: float, amounts: Sequence[int]) -> list[Charge]:
        return [charge._replace(key=name + charge.key) for charge in charges_at(now, amounts)]

    for number, step in enumerate(steps):
        if before_each is not None:
            before_each()
        chosen = made[step[1] % len(made)] if step[0] in ("again", "settle") and made else None
        match step:
            case "reserve", amounts, ttl:
                reserve(f"{name}{number}", charges(now.time + skew, amounts), ttl)
            case "again", _ if chosen is not None and now.time < forgotten[chosen.id]:
                reserve(chosen.id, list(chosen.charges), 1.0)
            case "settle", _, actual if chosen is not None and now.time < forgotten[chosen.id]:
                settle(chosen, [0, *actual][: len(chosen.charges)])
            case "switch", True:
                reserve(f"{name}off{number}", [SWITCH._replace(key=name + SWITCH.key, amount=1, limit=1)], 2.0**35)
            case "switch", False:
                for reservation in made:
                    if reservation.id.startswith(f"{name}off"):
                        settle(reservation, [0])
            case "wait", seconds:
                now.time += seconds
            case "skew", seconds:
                skew = seconds
        for seen in (now.time, now.time + skew, now.time - 30):
            looked = charges(seen, [0] * 7)
            assert store.peek(looked) == reference.peek(looked)


def ends_well(child: int) -> bool:
    """Whether the child exits with 0 within ten seconds; one that hangs is killed."""
    give_up = time.monotonic() + 10
    while time.monotonic() < give_up:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.001)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False


def forked(work: Callable[[], None]) -> int:
    """The id of a child that does the work and exits, with 0 if it did not raise."""
    child = os.fork()
    if child == 0:
        sys.settrace(None)  # A thread that is gone may hold the lock of a coverage tool.
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child
