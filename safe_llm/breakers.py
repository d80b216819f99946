"""Circuit breakers: a provider that fails again and again is left alone for a while.

One for each host and model, in each process. So many failures in a row open it; while it is open, calls fail at once.
Then one call at a time may try: its success closes the breaker, its failure opens it anew.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import openai

from .types import Outcome

Circuit = tuple[str, str]
"""Host and model."""

MOST = 1_000
"""Circuits that are remembered. The one that failed longest ago is forgotten first."""

_PROBE_SECONDS = 60.0
"""After so long a probe that never told how it ended is given up."""

_WHILE_PROBED = 1.0
"""Seconds after which to come back where somebody else is trying."""


@dataclass(slots=True)
class _State:
    failures: int = 0
    opens_at: float | None = None
    """Where it is open, when it lets one try. Monotonic seconds, as `probed_until`."""
    probed_until: float = 0.0


class Breakers:
    """The breakers of one process. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failing: OrderedDict[Circuit, _State] = OrderedDict()

    def wait(self, circuit: Circuit, now: float) -> float | None:
        """Seconds after which a call may try; None where it may go."""
        state = self._failing.get(circuit)
        if state is None or state.opens_at is None:
            return None
        if now < state.opens_at:
            return state.opens_at - now
        return _WHILE_PROBED if now < state.probed_until else None

    def enter(self, circuit: Circuit, now: float) -> float | None:
        """The same, for a call that goes if it may: where the breaker is open, it is the one that tries."""
        if circuit not in self._failing:  # nearly always
            return None
        with self._lock:
            wait = self.wait(circuit, now)
            state = self._failing.get(circuit)
            if wait is None and state is not None and state.opens_at is not None:
                state.probed_until = now + _PROBE_SECONDS
            return wait

    def note(self, circuit: Circuit, answered: bool | None, now: float, *, failures: int, seconds: float) -> int:
        """A call that entered has ended. None says that it tells nothing.

        Args:
            failures: so many in a row open the breaker.
            seconds: how long it stays open.

        Returns:
            The failures in a row if that opened the breaker, else 0.
        """
        if answered is not False and circuit not in self._failing:
            return 0
        with self._lock:
            if answered:
                self._failing.pop(circuit, None)
                return 0
            state = self._failing.setdefault(circuit, _State())
            state.probed_until = 0.0
            if answered is None or (state.opens_at is not None and now < state.opens_at):
                return 0  # of a call that was on its way when the breaker opened
            self._failing.move_to_end(circuit)
            state.failures += 1
            if len(self._failing) > MOST:
                self._failing.popitem(last=False)
            if state.failures < failures:
                return 0
            state.opens_at = now + seconds
            return state.failures


def answered(outcome: Outcome) -> bool | None:
    """Whether the provider answered a call as it should, be it with a refusal; None where the call does not tell."""
    error = outcome.error
    if outcome.attempts == 0 or outcome.ended == "aborted":
        return None
    if outcome.ended == "timeout":
        # One that was at work when the time ran out is slow, not away.
        return None if outcome.first_token is not None or outcome.response_id is not None else False
    if isinstance(error, openai.APIStatusError):
        return error.status_code < 500
    if error is None:
        return outcome.ended != "error"  # a stream that was cut, or told of an error
    return not (isinstance(error, openai.APIConnectionError) or type(error).__module__.startswith("httpx"))
