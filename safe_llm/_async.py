"""The async side: drives the path for `AsyncSafeOpenAI`, and is what its ``client.guard`` is."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from . import checking, inquiry
from ._bytes import keep, metered, start
from ._inspecting import inspected_async
from ._settings import is_async
from ._shell import LAST_SECONDS, Shell, switch_values
from ._transport import Sending, sending
from .deadline import within
from .effects import (
    Complete,
    Compute,
    Effect,
    FindPlan,
    Flow,
    Inspect,
    Peek,
    Reserve,
    Send,
    Settle,
    T,
    drive_async,
)
from .errors import ConfigurationError
from .identity import claim_of
from .stores import open_async_store
from .types import LimitStatus, Outcome, Quote, Refusal, Reservation, SwitchEvent

Transmit = Callable[[dict[str, Any]], Awaitable[Any]]
"""Sends a body by the SDK's own means."""


class AsyncGuard(Shell):
    """What the SDK has no name for: how limits stand, what a call would cost, kill switches. ``client.guard``."""

    open_store = staticmethod(open_async_store)

    def check(self) -> None:
        """Everything may be async here."""

    # What users call --------------------------------------------------------------------------------------------------

    async def usage(
        self,
        *,
        user_id: str | None = None,
        feature: str | None = None,
        session_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        plan: str | None = None,
        model: str | None = None,
        prompt: str | None = None,
        exact: bool = True,
    ) -> list[LimitStatus]:
        """How each limit stands that a call of this caller would meet, in the policy's order.

        ``prompt`` is a record's ``prompt_hash``. Without ``plan``, ``plan_for`` is asked. With ``exact=False``, which
        is much quicker, ``resets_at`` of a limit per minute or hour is the latest moment that it can be.
        """
        claim = self.bound(claim_of(user_id=user_id, feature=feature, session_id=session_id, tags=tags))
        return await self.run(inquiry.usage(self.core, claim, plan=plan, model=model, prompt=prompt, exact=exact))

    async def allows(
        self,
        *,
        feature: str | None = None,
        user_id: str | None = None,
        model: str | None = None,
        plan: str | None = None,
    ) -> bool:
        """Whether a caller may use a feature, and a model: what a menu should offer.

        False too where nobody may say so: ``plan_for`` fails, or the policy wants an identity that is not there. Limits
        and kill switches are not looked at.
        """
        claim = self.bound(claim_of(user_id=user_id, feature=feature))
        return await self.run(inquiry.allows(self.core, claim, plan=plan, model=model))

    async def switch_off(
        self,
        *,
        feature: str | None = None,
        user_id: str | None = None,
        plan: str | None = None,
        model: str | None = None,
        reason: str = "",
        by: str = "",
    ) -> None:
        """Stop calls from their next one on, in every process that shares the store.

        All that is named must match; with nothing named the whole application stops. Undone by `switch_on`. Who did it,
        when and why is kept beside the switch: see `switches`.
        """
        await self.run(inquiry.switch_off(self.core, switch_values(feature, user_id, plan, model), reason, by))

    async def switch_on(
        self,
        *,
        feature: str | None = None,
        user_id: str | None = None,
        plan: str | None = None,
        model: str | None = None,
        reason: str = "",
        by: str = "",
    ) -> None:
        """Undo `switch_off` with the same arguments. Harmless where nothing was switched off."""
        await self.run(inquiry.switch_on(self.core, switch_values(feature, user_id, plan, model), reason, by))

    async def switches(self) -> list[SwitchEvent]:
        """The kill switches that are off, each with who turned it, when and why."""
        return await self.run(inquiry.switched_off(self.core))

    async def quote(
        self,
        *,
        endpoint: str | None = None,
        user_id: str | None = None,
        feature: str | None = None,
        session_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> Quote:
        """What a call with these arguments of ``create`` would be held to. Nothing is sent, nothing is held.

        ``messages`` means chat completions; other surfaces are named: ``endpoint="embeddings"``.
        """
        claim = claim_of(user_id=user_id, feature=feature, session_id=session_id, tags=tags)
        return await self.run(inquiry.quote(self.core, self._asked(endpoint, arguments, claim)))

    async def close(self, *, store: bool = True) -> None:
        """Deliver what the store and the sinks still wait for, and close the store if the client opened it."""
        if self._awaits_store:
            await self._deliver_last_from_loop()
        await asyncio.to_thread(self._dispatcher.close)
        if store and self._owns_store:
            self._give_up()
            closed = self._store.close()
            if inspect.isawaitable(closed):
                await closed

    # What the client calls --------------------------------------------------------------------------------------------

    async def run(self, flow: Flow[T], transmit: Transmit | None = None) -> T:
        """Drive a flow of the path, sending by `transmit`.

        Raises:
            ConfigurationError: the event loop is not one of asyncio.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError as error:
            raise ConfigurationError("The async clients run on asyncio; under trio, use a sync client.") from error

        def perform(effect: Effect) -> Any:
            if type(effect) is Send:
                assert transmit is not None
                return self._send(effect, transmit)
            return self._perform(effect)

        return await drive_async(flow, perform)

    def _perform(self, effect: Effect) -> Any:
        """Do an effect, or answer with a coroutine that does it where it may wait or block the event loop."""
        match effect:
            case Reserve() | Settle() | Peek():
                return self._ask_store(effect) if self.blocking else self._now(effect)
            case Complete(flow, waits):
                finishing = drive_async(flow, self._perform)
                return _insist(finishing) if waits or self.blocking else finishing
            case Compute(function):
                return _off_loop(function)
            case FindPlan(identity):
                return self._plans.find_async(identity)
            case Inspect(check, content, seconds):
                return inspected_async(check, content, seconds)
        return self._now(effect)

    async def _ask_store(self, effect: Reserve | Settle | Peek) -> Any:
        undo = self._give_back if type(effect) is Reserve else None
        if not self._awaits_store:
            return await _insist(asyncio.to_thread(self._now, effect), undo)
        if not self._link.asks(effect):
            return self._instead(effect)
        asking = self._awaited(effect)
        return await (asking if type(effect) is Peek else _insist(asking, undo))

    async def _awaited(self, effect: Effect) -> Any:
        try:
            answer = await self._at_store(effect)
        except Exception as error:
            return self._instead(effect, error)
        self._answered()
        return answer

    @property
    def _awaits_store(self) -> bool:
        return is_async(self._store.reserve)

    async def _await_store(self, effect: Effect) -> Any:
        return await self._at_store(effect)

    def _deliver_soon(self) -> None:
        if not self._awaits_store:
            super()._deliver_soon()
        elif self._link.delivering is None:
            self._link.delivering = keep(asyncio.get_running_loop(), self._deliver_from_loop())

    async def _deliver_from_loop(self) -> None:
        """Try until nothing is owed any more, or this loop ends; the next call on another one goes on with it."""
        import tenacity

        async def delivered() -> bool:
            while self._link.tries() and await drive_async(self._link.deliver(), self._await_store):
                pass
            return self._link.rest()

        undelivered = tenacity.retry_if_result(lambda done: not done)
        pause: Any = self._pause
        try:
            await tenacity.AsyncRetrying(retry=undelivered, wait=pause)(delivered)
        finally:
            if self._link.delivering is asyncio.current_task():
                self._link.delivering = None

    async def _deliver_last_from_loop(self) -> None:
        delivering = self._link.delivering
        if isinstance(delivering, asyncio.Task) and delivering.get_loop() is asyncio.get_running_loop():
            delivering.cancel()  # it may be in the middle of a pause
            await asyncio.wait([delivering])
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_SECONDS):
                while await drive_async(self._link.deliver(), self._await_store):
                    pass

    def _deliver_last(self, seconds: float) -> None:
        if not self._awaits_store:  # else it takes a loop, which only `close` has
            super()._deliver_last(seconds)

    async def _give_back(self, answer: Reservation | Refusal) -> None:
        """A reservation that came after its caller was cancelled is settled at nothing."""
        if isinstance(answer, Reservation):
            await self._ask_store(Settle(answer, [0] * len(answer.charges)))

    async def _send(self, effect: Send, transmit: Transmit) -> Outcome:
        state = Sending(effect.admission, effect.admission.guard.clock.monotonic)
        left = None if state.deadline is None else state.deadline.remaining()
        if left == 0:
            return state.outcome(error=state.too_late())
        token = sending.set(state)
        try:
            with within(state.deadline):
                async with asyncio.timeout(left) as timeout:
                    value = await transmit(effect.body)
        except BaseException as error:
            state.disown()
            return state.outcome(error=state.too_late() if timeout.expired() else error)
        finally:
            sending.reset(token)
        if state.stream is not None:
            state.stream = None  # the caller's from here on
            return Outcome(value=value, open=True)
        return state.outcome(value)

    def open(self, state: Sending, response: Any) -> None:
        """A response is still open: settle the call when its stream ends."""
        loop = asyncio.get_running_loop()
        perform = state.inside(self._perform)

        async def done(error: BaseException | None, exhausted: bool) -> None:
            outcome = state.outcome(error=error, exhausted=exhausted)
            finishing = drive_async(state.admission.guard.finish(state.admission, outcome), perform)
            await (_insist(finishing) if outcome.to_be_counted or self.blocking else finishing)

        def abandoned(inner: Any) -> None:
            flow = state.admission.guard.finish(state.admission, state.outcome(exhausted=False))
            start(loop, inner.aclose())
            if self.blocking:
                start(loop, drive_async(flow, perform))
            else:
                self._soon(flow, state, waits=False)

        async def judge() -> None:
            await drive_async(checking.check_output(state.admission), self._perform)

        state.stream = metered(response, state, done, abandoned, judge, is_async=True)
        state.stream.end_in_time(loop)

    async def inspect(self, state: Sending, response: Any) -> None:
        """A response came with its body: check it.

        Raises:
            OutputRejectedError: it is not to be handed on.
        """
        await drive_async(checking.check_output(state.admission), self._perform)
        state.rewrite(response)


async def _off_loop(function: Callable[[], T]) -> T:
    return await asyncio.to_thread(function)


async def _insist(work: Coroutine[Any, Any, T], undo: Callable[[T], Awaitable[None]] | None = None) -> T:
    """Wait for work that must come to its end, however often the waiting task is cancelled meanwhile; then undo it, if
    that can be done. The cancellation is raised afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if undo is not None and task.exception() is None:
        undoing = asyncio.ensure_future(undo(task.result()))
        while not undoing.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([undoing])
    raise cancelled
