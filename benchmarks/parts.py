"""A part by itself: reading the chunks of a stream as they pass."""

from __future__ import annotations

import time

from safe_llm.endpoints.chat import CHAT
from safe_llm.metering import Meter

from . import provider

_ROUNDS = 60


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
