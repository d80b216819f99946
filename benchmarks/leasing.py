"""A model of one budget that is leased in slices, for `scaling.py`. Money is in nano-USD, time in seconds.

A holder, which is a shard or a process, takes a slice of the budget and admits calls on it by itself. What calls give
back is its own to spend, up to two slices; then what is above one goes back. What it has free is *parked*: nobody else
can spend it.
"""

from __future__ import annotations


class Server:
    """Does one step after the other, in the order in which they are asked for."""

    def __init__(self, since: float = 0.0) -> None:
        self._since = since  # Before, it warms up.
        self._free = self.busy = 0.0
        self.waits: list[float] = []

    def work(self, now: float, seconds: float) -> None:
        begins = max(now, self._free)
        self._free = begins + seconds
        if now >= self._since:
            self.busy += seconds
            self.waits.append(begins - now)

    def slow(self) -> float:
        """What one of a hundred steps waited at least."""
        return sorted(self.waits)[len(self.waits) * 99 // 100] if self.waits else 0.0


class Budget:
    """The application's. Each step on it costs its server `cost` seconds."""

    def __init__(self, money: int, server: Server, cost: float) -> None:
        self.left = money
        """Not leased."""
        self.parked = 0
        """Leased, and not spent or held for a call: what all holders have free."""
        self.steps = 0
        self._server, self._cost = server, cost

    def take(self, now: float, least: int, most: int) -> int:
        """As much as there is, up to `most`; nothing if that is less than `least`."""
        self._step(now)
        taken = min(most, self.left) if self.left >= least else 0
        self.left -= taken
        self.parked += taken
        return taken

    def give(self, now: float, amount: int) -> None:
        self._step(now)
        self.left += amount
        self.parked -= amount

    def _step(self, now: float) -> None:
        self.steps += 1
        self._server.work(now, self._cost)


class Holder:
    """Admits calls on what it has leased. With slices of 0 it asks the budget at each step of each call.

    Args:
        size: of a slice.
        share: where given, a slice is at most this share of what is not leased, so that slices shrink to the end.
    """

    PAUSE = 0.1
    """Seconds that it does not ask again after it got nothing; otherwise each call that is denied would ask."""

    def __init__(self, budget: Budget, size: int, share: float | None = None) -> None:
        self._budget, self._size, self._share = budget, size, share
        self._slice = size
        self._again = 0.0
        self.free = 0

    def admit(self, now: float, bound: int) -> bool:
        """Reserve what a call costs at most."""
        missing = bound - self.free
        if missing > 0 and now >= self._again:
            self._lease(now, missing)
        if self.free < bound:
            return False
        self.free -= bound
        self._budget.parked -= bound
        return True

    def _lease(self, now: float, missing: int) -> None:
        if self._share is not None:
            self._slice = min(self._size, int(self._budget.left * self._share))
        taken = self._budget.take(now, missing, max(missing, self._slice))
        self.free += taken
        if not taken and self._size:
            self._again = now + self.PAUSE

    def settle(self, now: float, returned: int) -> None:
        """Have back what a call did not cost."""
        self.free += returned
        self._budget.parked += returned
        if self.free >= 2 * self._slice:
            self._budget.give(now, self.free - self._slice)
            self.free = self._slice
