"""A clock that moves only when a test says so."""

from __future__ import annotations

import threading


class FakeClock:
    """A `Clock` that stands still until it is moved: ``SafeOpenAI(clock=FakeClock())``. Safe to share among threads.

    Starts at 1,800,000,000, which is 15 January 2027, 08:00 UTC; `monotonic` starts at 0.
    """

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._lock = threading.Lock()
        self._time = start
        self._monotonic = 0.0

    def time(self) -> float:
        """UTC epoch seconds."""
        with self._lock:
            return self._time

    def monotonic(self) -> float:
        """Seconds that never go back."""
        with self._lock:
            return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let this much time pass, on both clocks. Raises `ValueError` for a negative span: time does not go back."""
        if seconds < 0:
            raise ValueError(f"advance() takes seconds >= 0, not {seconds!r}; set() moves the wall clock back.")
        with self._lock:
            self._time += seconds
            self._monotonic += seconds

    def set(self, epoch: float) -> None:
        """Put the wall clock to this UTC epoch, forwards or back, as an operator might; `monotonic` does not notice."""
        with self._lock:
            self._time = epoch
