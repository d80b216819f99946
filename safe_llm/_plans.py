"""What ``plan_for`` answers, remembered for a while, with at most one lookup in flight for a user."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Mapping, MutableMapping
from concurrent.futures import Future
from typing import Any

from .identity import Claim
from .policy import Policy

MOST = 10_000
"""Users whose plan is remembered."""

_NOT_KNOWN: Any = object()


class PlanLookup:
    """Asks ``plan_for``, and remembers what it said.

    A lookup that fails is never remembered, nor is a plan that the policy does not have: the next call asks again.
    Calls of one user that come while he is looked up wait for the same answer, or the same failure.

    Args:
        plan_for: user_id to the name of a plan, None for the default one; a coroutine function for `find_async` alone.
        policy: tells the policy in force, whose plans they are, and which says how long an answer holds.
        monotonic: the clock.
    """

    def __init__(
        self,
        plan_for: Callable[[str], Any] | Mapping[str, str] | None,
        *,
        policy: Callable[[], Policy],
        monotonic: Callable[[], float],
    ) -> None:
        self.plan_for = plan_for
        self._policy = policy
        self._known: MutableMapping[str, str | None] = {}
        if callable(plan_for):
            from cachetools import TLRUCache  # here, because most clients look nothing up

            self._known = TLRUCache(MOST, self._until, timer=monotonic)
        self.renew()

    def renew(self) -> None:
        """Start afresh in a forked child: who looks something up there is a thread of the parent."""
        self._lock = threading.Lock()
        self._flights: dict[str, tuple[int, Future[Any]]] = {}
        self._tasks: dict[tuple[asyncio.AbstractEventLoop, str], asyncio.Task[Any]] = {}

    def find(self, identity: Claim) -> Any:
        """The name of the caller's plan; None stands for the default one. Raises what ``plan_for`` raises."""
        known = self._at_hand(identity.user)
        return self._alone(identity.user) if known is _NOT_KNOWN else known

    def find_async(self, identity: Claim) -> Any:
        """The same, or a coroutine of it where it has to be asked for."""
        known = self._at_hand(identity.user)
        return self._alone_async(identity.user) if known is _NOT_KNOWN else known

    def _at_hand(self, user: str) -> Any:
        if self.plan_for is None:
            return None
        if isinstance(self.plan_for, Mapping):
            return self.plan_for.get(user)
        with self._lock:
            return self._known.get(user, _NOT_KNOWN)

    def _remember(self, user: str, name: Any) -> None:
        if name is None or (isinstance(name, str) and name in self._policy().plans):
            with self._lock:
                self._known[user] = name

    def _until(self, _user: str, _name: str | None, now: float) -> float:
        return now + self._policy().identity.plan_seconds

    def _ask(self, user: str) -> Any:
        assert callable(self.plan_for)
        return self.plan_for(user)

    def _alone(self, user: str) -> Any:
        own: Future[Any] = Future()
        while True:
            with self._lock:
                thread, flight = self._flights.setdefault(user, (threading.get_ident(), own))
            if flight is own:
                return self._fly(user, own)
            if thread == threading.get_ident():  # plan_for itself makes a call
                return self._ask(user)
            name = flight.result()
            if name is not _NOT_KNOWN:
                return name

    def _fly(self, user: str, flight: Future[Any]) -> Any:
        outcome: Any = _NOT_KNOWN  # whoever waits asks for himself, should this thread be interrupted
        try:
            outcome = self._ask(user)
            self._remember(user, outcome)
            return outcome
        except Exception as error:
            flight.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._flights[user]
            if not flight.done():
                flight.set_result(outcome)

    async def _alone_async(self, user: str) -> Any:
        loop = asyncio.get_running_loop()
        task = self._tasks.get((loop, user))
        if task is asyncio.current_task():  # plan_for itself makes a call
            return await self._asked(user)
        if task is None:
            task = self._tasks[loop, user] = loop.create_task(self._fly_async(loop, user))
            task.add_done_callback(_retrieved)
        return await asyncio.shield(task)  # one that waits may be cancelled without the others

    async def _fly_async(self, loop: asyncio.AbstractEventLoop, user: str) -> Any:
        try:
            name = await self._asked(user)
            self._remember(user, name)
            return name
        finally:
            del self._tasks[loop, user]

    async def _asked(self, user: str) -> Any:
        found = self._ask(user)
        return await found if inspect.isawaitable(found) else found


def _retrieved(task: asyncio.Task[Any]) -> None:
    """Its waiters may all be gone; asyncio would complain that nobody saw the error."""
    if not task.cancelled():
        task.exception()
