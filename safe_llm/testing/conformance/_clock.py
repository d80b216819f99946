"""The time that a store under test lives by."""

from __future__ import annotations

import time

from ..clock import FakeClock


class Injected(FakeClock):
    """A clock that the store reads and that only a test moves. It starts near the real time, for a backend may forget
    by its server's clock what ended long ago."""

    injected = True
    moment = 0.01
    """Seconds: so much less than `Refusal.retry_after` is too little."""

    def __init__(self) -> None:
        super().__init__(int(time.time()) + 0.25)

    wait_until = FakeClock.set
    turn_to = FakeClock.set


class Real:
    """For a store that takes no clock: leases end as time passes. Windows come with the charges, without waiting."""

    injected = False
    moment = 1.1

    def __init__(self) -> None:
        self._ahead = 0.0

    def time(self) -> float:
        """What the client's clock says."""
        return time.time() + self._ahead

    def wait_until(self, epoch: float) -> None:
        """Let leases end that are due by then."""
        time.sleep(max(0.0, epoch - self.time()) + 0.05)

    def turn_to(self, epoch: float) -> None:
        """Let windows turn over, but no lease end."""
        self._ahead += epoch - self.time()


Clock = Injected | Real
