"""What a store that processes share must stand beside the contract: many calls at once, and a caller that is killed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest

from safe_llm.stores import Charge, QuotaStore, Reservation
from safe_llm.testing import SharedQuotaStoreConformance

PROCESSES, ATTEMPTS, CAP = 4, 500, 700
NOW = int(time.time())
CHARGES = [
    Charge("day", 1, CAP, "fixed", NOW - 86_400, NOW + 86_400),
    Charge("hour", 10, 10 * CAP, "sliding", NOW // 60 * 60 - 3_600, NOW // 60 * 60 + 60),
    Charge("calls", 1, PROCESSES, "held", NOW, NOW + 1),
]


def attempts(store: QuotaStore, tell: Callable[[Any], None]) -> None:
    """Call so many times. What is admitted is told before it is settled."""
    for _ in range(ATTEMPTS):
        answer = store.reserve(uuid4().hex, CHARGES, 600)
        if isinstance(answer, Reservation):
            tell(True)
            assert store.settle(answer, [1, 10, 0]) is True


def admitted_by(child: Any) -> int:
    """How many of its calls a child has told of, when it has come to its end or was killed."""
    admitted = 0
    with suppress(EOFError):
        while child.told():
            admitted += 1
    return admitted


class SharedStore(SharedQuotaStoreConformance):
    """The contract, in a crowd."""

    def test_four_processes_admit_exactly_the_cap(self, store: QuotaStore, reopened: Any, fork: Any) -> None:
        """500 attempts each: 700 fit, and 700 are made. Settling turns all of them into used."""
        children = [fork(lambda tell: attempts(reopened(), tell)) for _ in range(PROCESSES)]
        assert sum(admitted_by(child) for child in children) == CAP
        assert list(store.peek(CHARGES)) == [(CAP, 0), (10 * CAP, 0), (0, 0)]

    @pytest.mark.parametrize("seed", range(3))
    def test_a_process_that_is_killed_lets_nobody_over_the_cap(
        self, store: QuotaStore, reopened: Any, fork: Any, seed: int
    ) -> None:
        """At a random moment, between the steps of a call or within one. What it held stays counted, and the others
        get exactly the rest."""
        children = [fork(lambda tell: attempts(reopened(), tell)) for _ in range(PROCESSES)]
        victim, chance = children[0], random.Random(seed)
        told = [victim.told() for _ in range(chance.randint(1, CAP // PROCESSES // 2))]
        time.sleep(chance.uniform(0, 0.003))
        os.kill(victim.pid, signal.SIGKILL)
        admitted = len(told) + sum(admitted_by(child) for child in children)
        day, hour, calls = store.peek(CHARGES)
        assert sum(day) == sum(hour) // 10 == CAP
        assert day.held == hour.held // 10 == calls.held <= 1
        # Its last call may have been admitted when it could not tell of it any more.
        assert CAP - calls.held <= admitted <= CAP
