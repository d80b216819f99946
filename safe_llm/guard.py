"""The path: what a call goes through, written once, in order, without I/O.

    read → identify → authorize → validate → check input → trim → cap output → estimate → reserve → send → meter →
    settle → record → alert

Nothing that can refuse stands behind something that costs. The generators here yield effects (`effects.py`); the sync
and the async side do them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from datetime import UTC, datetime
from functools import partial
from secrets import token_hex
from typing import Any

from pydantic_core import to_json

from . import accounting, alerts, background, breakers, checking, counting, reserving, settling, shadowing
from .accounting import Amounts
from .anomalies import Volumes
from .breakers import Breakers, Circuit
from .effects import Flow, complete, emit, find_plan, prove, reserve, send, settle
from .endpoints.reading import malformed
from .endpoints.routes import Route
from .endpoints.weighing import take_over
from .errors import (
    DeadlineExceededError,
    DeniedError,
    FeatureNotAllowedError,
    NotAuthenticatedError,
    OutputRejectedError,
    RouteBlockedError,
    StoreUnavailableError,
)
from .identity import Claim
from .policy import Policy, Rules
from .pricing import PriceBook
from .types import (
    Admission,
    Alert,
    Call,
    Check,
    Clock,
    Outcome,
    Usage,
)

_LONGEST_MODEL = 256
_IN_BODY_ONLY = frozenset(
    (
        *("model", "messages", "input", "prompt", "instructions", "n", "best_of", "stream", "stream_options", "user"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "max_tool_calls", "tools", "functions"),
        *("web_search_options", "modalities", "audio", "prediction", "suffix", "service_tier", "background", "text"),
        *("response_format", "previous_response_id", "conversation", "reasoning", "metadata", "safety_identifier"),
        *("quality", "size", "partial_images", "frame_count", "output_format", "input_fidelity", "svg", "image"),
        *("images", "mask", "markup", "file", "keywords", "known_speaker_references", "speed", "stream_format"),
        *("dimensions", "encoding_format", "tool_choice"),
    )
)
"""Fields that are checked in the body, and that a query must not name once more."""


class Guard:
    """Decides about every call, and accounts for it. It does nothing by itself: a shell drives its flows."""

    def __init__(self, policy: Policy, *, clock: Clock, hash_key: bytes, checks: Sequence[Check] = ()) -> None:
        self.policy = policy
        self.clock = clock
        self.checks = tuple(checks)
        self.prices = PriceBook(policy.prices)
        # BLAKE2b takes 64 bytes of key; a longer one counts whole all the same.
        self._hash_key = hash_key if len(hash_key) <= 64 else hashlib.blake2b(hash_key).digest()
        # Claims that are known to have been made; it saves asking the store again at each call above a threshold.
        self.told: set[str] = set()
        self.breakers = Breakers()
        self.volumes = Volumes()
        self.shadow: Guard | None = None
        """Decides beside this one, and changes nothing: see `shadowing`."""

    def under(self, policy: Policy) -> Guard:
        """This guard with another policy."""
        other = copy(self)
        other.policy, other.prices = policy, PriceBook(policy.prices)
        return other

    def now(self) -> datetime:
        """The moment, in UTC."""
        return datetime.fromtimestamp(self.clock.time(), UTC)

    # The path ---------------------------------------------------------------------------------------------------------

    def run(self, call: Call) -> Flow[Any]:
        """The whole path of one call.

        Raises:
            DeniedError: nothing has been sent.
        """
        admission = yield from self.admit(call)
        outcome = yield from self.send(admission)
        if not outcome.open:
            yield from complete(self.finish(admission, outcome), waits=outcome.to_be_counted)
        return outcome.result()

    def retrieve(self, call: Call, response_id: str) -> Flow[Any]:
        """A free route that may tell what a background response used."""
        admission = self.begin(call)
        admission.corrects = response_id
        checking.prepare(self, admission)  # what was asked for in the background is told only here
        outcome = yield from send(admission, call.body)
        if not outcome.open:
            yield from complete(self.finish(admission, outcome))
        return outcome.result()

    def pass_by(self, call: Call, route: Route) -> Flow[Any]:
        """A route that is not guarded: blocked, unless the policy opens it; then its cost is not known.

        Raises:
            RouteBlockedError: nothing has been sent.
        """
        admission = self.begin(call)
        if not route.opened_by(self.policy.routes.allow):
            admission.denial = RouteBlockedError(
                f"The route {str(route)[:200]!r} is blocked: it costs what cannot be bounded or metered here. "
                f'[routes] allow = ["{route.template[:200]}"] would let it through, unguarded.'
            )
            if self.policy.mode == "enforce":
                admission.denial.record = settling.record(self, admission, None, Usage(), "none", 0)
                yield from emit(admission.denial.record)
                raise admission.denial
        outcome = yield from send(admission, call.body)
        yield from emit(settling.record(self, admission, outcome, Usage(), "none", None))
        return outcome.result()

    def admit(self, call: Call) -> Flow[Admission]:
        """Decide about a call. In shadow mode a denial is noted, and the call goes on as it came."""
        admission = self.begin(call)
        try:
            yield from shadowing.consider(self, admission)
            yield from self.decide(admission)
            self.try_circuit(admission, self.breakers.enter)
            yield from reserving.take(self, admission, partial(reserve, local=True))
            if admission.budget_action == "downgrade" and admission.circuit is not None:
                self._note_circuit(admission, None)
                admission.circuit = call.host, call.model
        except DeniedError as denial:
            self._note_circuit(admission, None)
            admission.denial = denial
            if self.policy.mode == "enforce":
                denial.record = settling.record(self, admission, None, Usage(), "none", 0)
                yield from emit(denial.record)
                yield from shadowing.finish(admission, None, Usage(), "none")
                with suppress(StoreUnavailableError):
                    yield from settling.notice(self, admission)
                raise
        except GeneratorExit:
            raise
        except BaseException as error:
            # A bug, a check that fails, a cancelled task: nothing was sent, and it leaves its record all the same.
            outcome = Outcome(error=error, ended="error" if isinstance(error, Exception) else "aborted", unbilled=True)
            yield from complete(self.finish(admission, outcome))
            raise
        return admission

    def send(self, admission: Admission) -> Flow[Outcome]:
        """Send what was admitted: the request as it was decided, or, in shadow mode, as it came."""
        call = admission.call
        checking.prepare(self, admission)
        if self.policy.mode == "shadow":
            admission.cap_sent = call.endpoint.cap_sent(call)
            return (yield from send(admission, call.body))
        body = call.endpoint.write(call)
        admission.cap_sent = call.cap
        if self.policy.identity.send_safety_identifier and call.endpoint.knows_safety_identifier:
            body["safety_identifier"] = self._hashed(admission.identity.user.encode())
        admission.hide_usage = call.stream and not call.endpoint.wants_usage(call)
        return (yield from send(admission, body))

    def finish(self, admission: Admission, outcome: Outcome) -> Flow[None]:
        """Settle, record and alert: the end of every call that was sent. Once per call."""
        if admission.corrects is not None:
            return (yield from background.correct(self, admission, outcome))
        if opened := self._note_circuit(admission, breakers.answered(outcome)):
            yield from emit(opened)
        usage, source = yield from self._account(admission, outcome)
        yield from shadowing.finish(admission, outcome, usage, source)
        with suppress(StoreUnavailableError):  # whoever found that out has told of it
            yield from settling.notice(self, admission)

    def _account(self, admission: Admission, outcome: Outcome) -> Flow[tuple[Usage, str]]:
        """Settle what the call used, record it, and tell of limits; what it used, and how that is known."""
        if admission.output is not None:
            admission.findings += admission.output.findings()
        usage, source = yield from settling.used(self, admission, outcome)
        cost = settling.cost(self, admission, outcome, usage, source)
        record = settling.record(self, admission, outcome, usage, source, cost)
        if isinstance(outcome.error, DeadlineExceededError | OutputRejectedError):
            outcome.error.record = record
        if admission.reservation is None:
            yield from emit(record)
            return usage, source
        if background.leave_open(admission, outcome):
            yield from background.remember(self, admission, str(outcome.response_id))
            yield from emit(record)
            return usage, source
        # Used, but not to be priced: the whole bound stays charged.
        amounts = Amounts(usage, admission.cost if cost is None else cost)
        actual = [amounts.of(placed.limit.metric) for placed, _ in admission.made]
        yield from settle(admission.reservation, [*[0] * len(admission.gate), *actual])
        yield from emit(record)
        with suppress(StoreUnavailableError):
            yield from settling.tell(self, admission.made, accounting.dimensions(admission), actual)
        return usage, source

    # Deciding, step by step -------------------------------------------------------------------------------------------

    def begin(self, call: Call) -> Admission:
        """The admission of a call, with nothing decided yet."""
        return Admission(
            id=token_hex(16),
            call=call,
            identity=call.claim,
            began=self.clock.monotonic(),
            timestamp=self.now(),
            guard=self,
        )

    def decide(self, admission: Admission) -> Flow[None]:
        """Every step up to the estimate."""
        call = admission.call
        self._read(admission)
        admission.identity = yield from self.identify(admission.identity)
        rules = yield from self._authorize(admission)
        self._limit_time(admission, rules)
        call.weight.hold(rules.input)
        call.endpoint.validate(call, rules.input)
        yield from checking.check_input(self, admission)
        kept = yield from counting.trim(admission, rules.input)
        if admission.trimmed and self.policy.mode == "enforce":
            call.messages = kept
        self._cap(call, rules)
        reserving.estimate(self, admission)

    def _read(self, admission: Admission) -> None:
        call = admission.call
        if doubled := _IN_BODY_ONLY & {str(name).partition("[")[0] for name in call.query}:
            raise malformed(f"extra_query names {', '.join(sorted(doubled))}, which belongs into the body")
        if call.is_raw:
            raise malformed("its body came as bytes, which cannot be checked; pass it as body=")
        # The widest rules of any plan or feature: which of them holds is not known before the caller is.
        call.body, weight = take_over(call.body, self.policy.widest_input)
        call.weight = weight.with_uploads(call.uploads)
        call.weight.hold(self.policy.widest_input)
        for upload in call.uploads:
            if upload.name not in call.endpoint.upload_fields:
                raise malformed(f"{upload.field[:80]!r} is sent as a file, which {call.endpoint.name} does not take")
        model = call.deployment or call.body.get("model")
        # A policy that opens every route leaves what is incomplete to the provider, who refuses it.
        is_strict = "*" not in self.policy.routes.allow
        if model not in (None, "") or (is_strict and call.endpoint.names_model(call)):
            if not isinstance(model, str) or not 0 < len(model) <= _LONGEST_MODEL or not model.isprintable():
                raise malformed(f"model must be a name of 1 to {_LONGEST_MODEL} printable characters")
            call.model = model
        if call.endpoint.may_bill_letters:
            rates = self.prices.rates(call.model)
            call.by_letter = rates is not None and rates.by_letter
        call.endpoint.read(call)
        if is_strict and call.messages is not None and not call.messages and not call.unseen:
            raise malformed("its messages must be a list of at least one message")
        admission.prompt_hash = self._hashed(to_json(call.endpoint.prompt(call), fallback=_type_name))

    def identify(self, identity: Claim) -> Flow[Claim]:
        """Who is calling, for certain.

        Raises:
            NotAuthenticatedError: the policy wants to know more than is known.
        """
        rules = self.policy.identity
        identity = yield from self.proved(identity)
        if identity.expires is not None and identity.expires <= self.clock.time():
            raise NotAuthenticatedError(
                f"User {identity.user!r} is denied: the identity has expired. Get a new token, and bind that one.",
                code="token_expired",
            )
        if rules.verified and not identity.verified:
            raise NotAuthenticatedError(
                "The call is denied: the policy accepts only verified identities ([identity] verified), and "
                "this one was not made by a verifier. Bind one with client.with_token(token) or "
                "client.with_identity(identity)."
            )
        if rules.required and identity.user_id is None:
            raise NotAuthenticatedError(
                "The call is denied: it names no user and the policy requires one ([identity] required). "
                "Pass user_id=, or use client.with_identity(...) or safe_llm.identify(...)."
            )
        return identity

    def proved(self, identity: Claim) -> Flow[Claim]:
        """A claim whose token, if it brings one, has been verified."""
        return identity if identity.proof is None else identity.proved((yield from prove(identity.proof)))

    def _authorize(self, admission: Admission) -> Flow[Rules]:
        identity, call = admission.identity, admission.call
        name = yield from self.plan_of(identity)
        admission.plan = name
        rules = admission.rules = self.policy.rules(name, identity.feature)
        if not rules.plan.allows_feature(identity.feature):
            raise FeatureNotAllowedError(
                f"User {identity.user!r} is denied the feature {identity.feature!r}: plan {name!r} does not include "
                f"it ([plans.{name}] features).",
                scope={"user": identity.user, "plan": name, "feature": str(identity.feature)},
            )
        if not rules.plan.allows_model(call.model):
            raise FeatureNotAllowedError(
                f"User {identity.user!r} is denied the model {call.model!r}: plan {name!r} does not include it "
                f"([plans.{name}] models).",
                code="model_not_allowed",
                scope={"user": identity.user, "plan": name, "model": call.model},
            )
        return rules

    def plan_of(self, identity: Claim) -> Flow[str]:
        """The plan of a caller: its own, else what ``plan_for`` says, else the default."""
        try:
            name = identity.plan or (yield from find_plan(identity)) or self.policy.default_plan
        except Exception as error:
            raise FeatureNotAllowedError(
                f"User {identity.user!r} is denied: plan_for failed with {type(error).__name__}.",
                code="plan_unknown",
            ) from error
        if not isinstance(name, str) or name not in self.policy.plans:
            raise FeatureNotAllowedError(
                f"User {identity.user!r} is denied: the policy has no plan {str(name)[:80]!r} ([plans]).",
                code="plan_unknown",
            )
        return name

    def _limit_time(self, admission: Admission, rules: Rules) -> None:
        if self.policy.mode == "shadow":
            return
        most, own = rules.time.deadline_seconds, admission.call.timeout
        if most != "off":
            admission.deadline_seconds = most if own is None else min(most, own)
            admission.ends = admission.began + admission.deadline_seconds

    def try_circuit(self, admission: Admission, ask: Callable[[Circuit, float], float | None]) -> None:
        """Ask the circuit breaker of a call's host and model.

        Raises:
            SwitchedOffError: it is open.
        """
        if self.policy.breaker.failures == "off":
            return
        circuit = admission.call.host, admission.call.model
        wait = ask(circuit, self.clock.monotonic())
        if wait is not None:
            raise accounting.circuit_open(admission, circuit, wait)
        admission.circuit = circuit

    def _note_circuit(self, admission: Admission, answered: bool | None) -> Alert | None:
        """Tell the circuit breaker how a call ended; the alert, if that opened it."""
        circuit, rules = admission.circuit, self.policy.breaker
        if circuit is None or rules.failures == "off":
            return None
        admission.circuit = None
        now = self.clock.monotonic()
        failures = self.breakers.note(circuit, answered, now, failures=rules.failures, seconds=rules.seconds)
        return alerts.circuit_open(circuit, failures, rules.seconds, self.now()) if failures else None

    def _cap(self, call: Call, rules: Rules) -> None:
        output = rules.output
        if call.endpoint.cap_field is None:
            return
        if call.cap is None and output.default_max_tokens != "off":
            call.cap = output.default_max_tokens
        if call.cap is not None:
            call.cap = min(call.cap, output.max_tokens)

    def _hashed(self, data: bytes) -> str:
        return hashlib.blake2b(data, digest_size=32, key=self._hash_key).hexdigest()


def _type_name(value: object) -> str:
    return type(value).__name__
