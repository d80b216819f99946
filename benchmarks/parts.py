"""Two parts by themselves: the memory store, and reading the chunks of a stream as they pass."""

from __future__ import annotations

import threading
import time

from safe_llm import Charge, MemoryQuotaStore, Reservation
from safe_llm.endpoints.chat import CHAT
from safe_llm.metering import Meter

from . import provider

_ROUNDS = 60
_PAIRS = 300


def store() -> list[tuple[float, float]]:
    """Seconds of the floor, a lock and six increments, and of a reserve + settle pair over six limits."""
    memory, lock, counts = MemoryQuotaStore(), threading.Lock(), dict.fromkeys(range(6), 0)
    charges = _charges(int(time.time()))
    rounds: list[tuple[float, float]] = []
    for number in range(_ROUNDS):
        began = time.perf_counter()
        for _ in range(_PAIRS):
            with lock:
                for key in counts:
                    counts[key] += 1
        floor = time.perf_counter() - began
        ids = [f"{number:016x}{call:016x}" for call in range(_PAIRS)]
        began = time.perf_counter()
        for id in ids:
            answer = memory.reserve(id, charges, 60.0)
            assert isinstance(answer, Reservation)
            memory.settle(answer, (1, 1, 900, 800, 800, 0))
        rounds.append((floor / _PAIRS, (time.perf_counter() - began) / _PAIRS))
    return rounds


def _charges(now: int) -> list[Charge]:
    most = 2**50
    return [
        Charge("u/requests/minute", 1, most, "sliding", now - 60, now + 1),
        Charge("u/requests/day", 1, most, "fixed", now - 1000, now + 80_000),
        Charge("u/tokens/day", 1000, most, "fixed", now - 1000, now + 80_000),
        Charge("u/money/day", 1000, most, "fixed", now - 1000, now + 80_000),
        Charge("u/money/month", 1000, most, "fixed", now - 1000, now + 2_000_000),
        Charge("u/now", 1, 100, "held", now, now + 1),
    ]


def metering() -> list[float]:
    """Seconds that reading one chunk takes, round by round."""
    rounds: list[float] = []
    for _ in range(_ROUNDS):
        meter = Meter(CHAT, hide_usage=True)
        began = time.perf_counter()
        for event in provider.EVENTS:
            meter.feed(event)
        rounds.append((time.perf_counter() - began) / len(provider.EVENTS))
    return rounds
