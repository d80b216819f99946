"""The sync side: drives the path for `SafeOpenAI`, and is what its ``client.guard`` is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import checking, inquiry
from ._bytes import metered
from ._settings import is_async
from ._shell import Shell, switch_values
from ._transport import Sending, sending
from .deadline import within
from .effects import Effect, Flow, Send, T, drive
from .errors import ConfigurationError
from .identity import claim_of
from .stores import open_store
from .types import LimitStatus, Outcome, Quote, SwitchEvent

Transmit = Callable[[dict[str, Any]], Any]
"""Sends a body by the SDK's own means."""


class SyncGuard(Shell):
    """What the SDK has no name for: how limits stand, what a call would cost, kill switches. ``client.guard``."""

    open_store = staticmethod(open_store)

    def check(self) -> None:
        """Refuse what a sync client cannot wait for.

        Raises:
            ConfigurationError: the store, ``plan_for`` or a check is async.
        """
        for what, function in (
            ("quota_store=", self._store.reserve),
            ("plan_for=", self._plans.plan_for),
            *((f"the check {check.name!r}", check.inspect) for check in self.core.checks),
        ):
            if is_async(function):
                raise ConfigurationError(f"{what} is async, which a sync client cannot wait for: use the async client.")

    # What users call --------------------------------------------------------------------------------------------------

    def usage(
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
        return drive(inquiry.usage(self.core, claim, plan=plan, model=model, prompt=prompt, exact=exact), self._now)

    def allows(
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
        return drive(inquiry.allows(self.core, claim, plan=plan, model=model), self._now)

    def switch_off(
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
        drive(inquiry.switch_off(self.core, switch_values(feature, user_id, plan, model), reason, by), self._now)

    def switch_on(
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
        drive(inquiry.switch_on(self.core, switch_values(feature, user_id, plan, model), reason, by), self._now)

    def switches(self) -> list[SwitchEvent]:
        """The kill switches that are off, each with who turned it, when and why."""
        return drive(inquiry.switched_off(self.core), self._now)

    def quote(
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
        return drive(inquiry.quote(self.core, self._asked(endpoint, arguments, claim)), self._now)

    def close(self, *, store: bool = True) -> None:
        """Deliver what the store and the sinks still wait for, and close the store if the client opened it."""
        self._dispatcher.close()
        if store and self._owns_store:
            self._give_up()
            self._store.close()

    # What the client calls --------------------------------------------------------------------------------------------

    def run(self, flow: Flow[T], transmit: Transmit) -> T:
        """Drive a flow of the path, sending by `transmit`."""

        def perform(effect: Effect) -> Any:
            return self._send(effect, transmit) if type(effect) is Send else self._now(effect)

        return drive(flow, perform)

    def _send(self, effect: Send, transmit: Transmit) -> Outcome:
        state = Sending(effect.admission, effect.admission.guard.clock.monotonic)
        if state.deadline is not None and state.deadline.expired:
            return state.outcome(error=state.too_late())
        token = sending.set(state)
        try:
            with within(state.deadline):
                value = transmit(effect.body)
        except BaseException as error:
            state.disown()
            return state.outcome(error=error)
        finally:
            sending.reset(token)
        if state.stream is not None:
            state.stream = None  # the caller's from here on
            return Outcome(value=value, open=True)
        return state.outcome(value)

    def open(self, state: Sending, response: Any) -> None:
        """A response is still open: settle the call when its stream ends."""

        def done(error: BaseException | None, exhausted: bool) -> None:
            flow = state.admission.guard.finish(state.admission, state.outcome(error=error, exhausted=exhausted))
            drive(flow, state.inside(self._now))

        def abandoned(inner: Any) -> None:
            self._dispatcher.defer(inner.close)
            flow = state.admission.guard.finish(state.admission, state.outcome(exhausted=False))
            self._soon(flow, state, waits=self.blocking)

        def judge() -> None:
            drive(checking.check_output(state.admission), self._now)

        state.stream = metered(response, state, done, abandoned, judge, is_async=False)

    def inspect(self, state: Sending, response: Any) -> None:
        """A response came with its body: check it.

        Raises:
            OutputRejectedError: it is not to be handed on.
        """
        drive(checking.check_output(state.admission), self._now)
        state.rewrite(response)
