"""A part by itself: reading the chunks of a stream as they pass."""

from __future__ import annotations

import time

from safe_llm.endpoints import Endpoint
from safe_llm.endpoints.chat import CHAT
from safe_llm.endpoints.responses import RESPONSES
from safe_llm.metering import Meter

from . import provider

_ROUNDS = 60


def metering() -> dict[str, list[float]]:
    """Seconds that reading one chunk takes, round by round, by the name of the case that streams it."""
    return {"stream": _metering(CHAT, provider.EVENTS), "responses": _metering(RESPONSES, provider.RESPONSE_EVENTS)}


def _metering(endpoint: Endpoint, events: list[bytes]) -> list[float]:
    rounds: list[float] = []
    for _ in range(_ROUNDS):
        meter = Meter(endpoint, hide_usage=True)
        began = time.perf_counter()
        for event in events:
            meter.feed(event)
        rounds.append((time.perf_counter() - began) / len(events))
    return rounds
