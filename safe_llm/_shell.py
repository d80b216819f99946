"""What the sync and the async side share: effects that need no waiting, and endings without a reader."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any

from ._inspecting import inspected
from ._outage import StoreLink
from ._plans import PlanLookup
from ._policy_file import PolicyInForce
from ._requests import call_of
from ._transport import Sending, sending
from .effects import Complete, Compute, Effect, Emit, FindPlan, Flow, Inspect, Peek, Prove, Reserve, Settle, drive
from .guard import Guard
from .identity import NOTHING, Claim, claim_of, current
from .policy import Policy
from .sinks import Dispatcher, SinkStats
from .sinks._worker import Worker
from .stores import AwaitableQuotaStore
from .types import Call, Event

log = logging.getLogger("safe_llm")

LAST_SECONDS = 3.0
"""How long closing, or a normal exit, goes on delivering what is owed to the store."""


class Shell:
    """A guard with everything around it that does I/O: store, sinks, ``plan_for``."""

    open_store: Callable[[str], Any]
    settings: dict[str, Any]
    """The arguments that it was built from, resolved: what a copy of the client starts from."""

    def __init__(
        self,
        core: Guard,
        store: Any,
        dispatcher: Dispatcher,
        plan_for: Callable[[str], Any] | Mapping[str, str] | None,
        *,
        owns_store: bool,
        policy_path: str | os.PathLike[str] | None = None,
    ) -> None:
        self._in_force = PolicyInForce(core, policy_path, self._emit)
        # The shell itself keeps a blocking store off the event loop, and knows one that never blocks.
        self._store = store.store if isinstance(store, AwaitableQuotaStore) else store
        self._dispatcher = dispatcher
        self._plans = PlanLookup(plan_for, policy=lambda: self.policy, monotonic=core.clock.monotonic)
        self._owns_store = owns_store
        self._link = StoreLink(allows=lambda: self.policy.on_store_error == "allow", clock=core.clock, emit=self._emit)
        self._deliverer = Worker("safe_llm deliverer")
        self._claim, self._base = NOTHING, ""
        self._ways: dict[type, Callable[..., Any]] = {
            Emit: self._emit,
            FindPlan: self._plans.find,
            Prove: lambda proof: proof(),
            Compute: lambda function: function(),
            Inspect: inspected,
            Complete: lambda flow, _waits: drive(flow, self._now),
        }
        dispatcher.before_close = self._deliver_last
        _shells.add(self)

    @property
    def core(self) -> Guard:
        """The guard under the policy in force."""
        return self._in_force.guard

    @property
    def blocking(self) -> bool:
        """Whether the store may wait for I/O."""
        return bool(getattr(self._store, "blocking", True))

    def with_claim(self, claim: Claim, base: str) -> Any:
        """This guard as a client reaches it that is bound to a caller and a base URL. Everything else is shared."""
        bound = copy(self)
        bound._claim, bound._base = claim, base
        return bound

    @property
    def largest_file(self) -> int | None:
        """Bytes of a file that are read; more is refused whatever it is. None: all, for shadow mode changes nothing."""
        return None if self.policy.mode == "shadow" else self.policy.widest_input.max_inline_bytes

    def _asked(self, endpoint: str | None, arguments: Mapping[str, Any], claim: Claim) -> Call:
        """The call that a quote is asked of."""
        return call_of(endpoint, arguments, self.bound(claim), self._base, self.largest_file)

    def bound(self, claim: Claim) -> Claim:
        """A claim laid over the one of the client that this guard was reached through, and over the context."""
        return claim.over(self._claim).over(current())

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self.core.policy

    @property
    def sinks(self) -> list[SinkStats]:
        """What became of the events meant for each sink so far: delivered, failed, or dropped for it was too slow."""
        return self._dispatcher.stats()

    # Effects that never wait ------------------------------------------------------------------------------------------

    def _now(self, effect: Effect) -> Any:
        """Do an effect at once, in this thread."""
        way = self._ways.get(type(effect))
        return self._ask(effect) if way is None else way(*effect)

    def _emit(self, event: Event) -> None:
        with self._occupied():
            self._dispatcher.emit(event)

    # The store --------------------------------------------------------------------------------------------------------

    def _ask(self, effect: Effect) -> Any:
        """Ask the store, or what stands in for it."""
        with self._occupied():
            if not self._link.asks(effect):
                return self._instead(effect)
            try:
                answer = self._at_store(effect)
            except Exception as error:
                return self._instead(effect, error)
            self._answered()
            return answer

    def _at_store(self, effect: Effect) -> Any:
        match effect:
            case Reserve(id, charges, ttl):
                return self._store.reserve(id, charges, ttl)
            case Settle(reservation, actual):
                return self._store.settle(reservation, actual)
        assert isinstance(effect, Peek)
        return self._store.peek(effect.charges)

    def _answered(self) -> None:
        self._link.answered()
        if self._link.owes:
            self._deliver_soon()

    def _instead(self, effect: Effect, cause: Exception | None = None) -> Any:
        try:
            return self._link.instead(effect, cause)
        finally:
            if self._link.owes:
                self._deliver_soon()

    def _deliver_soon(self) -> None:
        """See to it that somebody delivers what is owed to the store."""
        if self._link.delivering is None:
            self._link.delivering = self._deliverer
            self._deliverer.put(self._deliver)

    def _deliver(self) -> None:
        """Try until nothing is owed any more."""
        import tenacity

        undelivered = tenacity.retry_if_result(lambda done: not done)
        pause: Any = self._pause
        try:
            tenacity.Retrying(retry=undelivered, wait=pause)(self._delivered)
        except Exception as error:  # none of the store's: the link sees to those
            self._link.delivering = None
            log.warning("Delivering settlements to the quota store failed with %s.", _name(error))

    def _delivered(self) -> bool:
        """Deliver what the store takes; whether nothing is left."""
        while self._link.tries() and self._deliver_one():
            pass
        return self._link.rest()

    def _deliver_one(self) -> bool:
        with self._link.turn, self._occupied():
            return drive(self._link.deliver(), self._at_store)

    def _pause(self, _: object) -> float:
        return max(self._link.pause(), 0.01)

    def _deliver_last(self, seconds: float) -> None:
        """Deliver what the store takes within a few seconds, `seconds` at the most, be it away or not."""
        ends = time.monotonic() + min(seconds, LAST_SECONDS)
        while self._link.owes and time.monotonic() < ends and self._deliver_one():
            pass

    def _give_up(self) -> None:
        """The store is about to be closed."""
        if owed := self._link.give_up():
            log.warning(
                "The quota store is closed, and settlements did not reach it before: %d. What they had reserved stays "
                "charged; calls that were counted by this process alone are not added.",
                owed,
            )

    # Endings without a reader -----------------------------------------------------------------------------------------

    def _occupied(self) -> Any:
        return _Occupied()

    def _soon(self, flow: Flow[Any], state: Sending, *, waits: bool) -> None:
        """Run a flow that nobody waits for: at once if it neither waits nor finds this thread inside a lock of ours,
        which the garbage collector may have interrupted; else in a thread of its own."""
        perform = state.inside(self._now)
        if waits or bool(getattr(_busy, "depth", None)):
            self._dispatcher.defer(lambda: drive(flow, perform))
        else:
            drive(flow, perform)


_shells: weakref.WeakSet[Shell] = weakref.WeakSet()


def _renew_all() -> None:
    for shell in list(_shells):
        shell._in_force.renew()
        shell._link.renew()
        shell._plans.renew()
        shell._deliverer.renew()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_all)

_busy = threading.local()
"""How deep each thread is inside locks of ours: stores and sinks may be shared, so it is not each guard's own."""


class _Occupied:
    """Marks this thread as being inside a lock of ours."""

    __slots__ = ()

    def __enter__(self) -> None:
        _busy.depth = getattr(_busy, "depth", 0) + 1

    def __exit__(self, *_: object) -> None:
        _busy.depth -= 1


def _name(error: BaseException) -> str:
    return type(error).__name__


def switch_values(
    feature: str | None, user_id: str | None, plan: str | None, model: str | None
) -> dict[str, str | None]:
    """What a kill switch names, by dimension. A name obeys the same rules as in a call."""
    claim_of(user_id=user_id, feature=feature)
    claim_of(user_id=plan, feature=model)
    return {"feature": feature, "model": model, "plan": plan, "user": user_id}


@contextmanager
def outside() -> Iterator[None]:
    """Outside of any guarded call: for requests that one call's machinery makes beside it."""
    token = sending.set(None)
    try:
        yield
    finally:
        sending.reset(token)
