"""The errors of safe_llm.

::

    SafeLLMError (openai.OpenAIError)
    ├── ConfigurationError (also ValueError)    bad policy, store URL or limit sentence
    ├── DeniedError                             nothing was sent
    │   ├── NotAuthenticatedError      401      no identity, or not a verified one
    │   ├── FeatureNotAllowedError     403      the plan lacks the feature or the model
    │   ├── InputRejectedError         413/400  too long, too many images, malformed
    │   │   └── InjectionDetectedError 400
    │   ├── LimitExceededError         429
    │   │   ├── RateLimitExceededError          requests, tokens, concurrency
    │   │   └── BudgetExceededError             money
    │   ├── UnpricedModelError         400
    │   ├── RouteBlockedError          403      a route or hosted tool the policy does not allow
    │   ├── SwitchedOffError           503      a kill switch or an open circuit breaker
    │   └── StoreUnavailableError      503      the quota store cannot be reached
    ├── OutputRejectedError                     the answer failed validation; it was paid for
    └── DeadlineExceededError (also openai.APITimeoutError)

A message says, in one line, who was denied what, by which rule, and what to do next. It never quotes a prompt, an
answer or a key.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import openai

if TYPE_CHECKING:
    from .types import UsageRecord

Amount = int | Decimal
"""Requests or tokens as an int, money as USD in a Decimal."""

_QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
_REDUCED_CAPACITY = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"


def nearest(wrong: str, known: Iterable[str]) -> str | None:
    """The right name that a wrong one was perhaps meant to be."""
    from difflib import get_close_matches  # here, because most programs write no wrong name

    return next(iter(get_close_matches(wrong, list(known), n=1)), None)


@contextmanager
def needing(package: str, *, extra: str, who: str) -> Iterator[None]:
    """Around the import of an optional package: where it is missing, a ConfigurationError says what installs it."""
    try:
        yield
    except ImportError as exc:
        raise ConfigurationError(
            f'{who} needs the package {package}, which is not installed: pip install "safe-llm[{extra}]"'
        ) from exc


def _rebuild(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class SafeLLMError(openai.OpenAIError):
    """The base of every error that safe_llm itself raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The constructors take keywords only, which pickle's default cannot call; task queues pickle errors.
        state = {k: dict(v) if isinstance(v, MappingProxyType) else v for k, v in self.__dict__.items()}
        state.pop("request", None)
        return _rebuild, (type(self), self.args, state)


class ConfigurationError(SafeLLMError, ValueError):
    """The policy, a limit sentence, a store URL or another setting is wrong. Says which, and how to mend it."""


class DeniedError(SafeLLMError):
    """A call was refused before anything was sent to the provider; it consumed nothing.

    Attributes:
        code: stable, snake_case name of the reason.
        limit: the limit's sentence as the policy writes it, if a limit refused.
        scope: dimension to value of the counter that refused, for example ``{"user": "u1"}``.
        used, held, requested: amounts against that limit: int for requests and tokens, USD as `Decimal` for money.
        retry_after: seconds after which the same call fits, if nothing else is used meanwhile; None where waiting
            does not help.
        status_code: the HTTP status that a web route should answer with.
        record: the `UsageRecord` that was written of the denial.
    """

    code: str = "denied"
    status_code: int = 403
    title: ClassVar[str] = "Request denied"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        limit: str | None = None,
        scope: Mapping[str, str] | None = None,
        used: Amount | None = None,
        held: Amount | None = None,
        requested: Amount | None = None,
        retry_after: float | None = None,
        status_code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        if status_code is not None:
            self.status_code = status_code
        self.limit = limit
        self.scope: Mapping[str, str] = dict(scope or {})
        self.used = used
        self.held = held
        self.requested = requested
        self.retry_after = retry_after
        self.record: UsageRecord | None = None

    def to_problem(self) -> dict[str, Any]:
        """The denial as an RFC 9457 problem, ready for ``application/problem+json``.

        Amounts are numbers for requests and tokens and decimal strings of USD for money; ``retry_after`` is whole
        seconds, rounded up.
        """
        problem: dict[str, Any] = {
            "type": self._problem_type(),
            "title": self.title,
            "status": self.status_code,
            "detail": self.message,
            "code": self.code,
        }
        if self.limit is not None:
            problem["limit"] = self.limit
        if self.scope:
            problem["scope"] = dict(self.scope)
        for name in ("used", "held", "requested"):
            amount = getattr(self, name)
            if amount is not None:
                problem[name] = format(amount, "f") if isinstance(amount, Decimal) else amount
        if self.retry_after is not None:
            problem["retry_after"] = math.ceil(self.retry_after)
        return problem

    def _problem_type(self) -> str:
        return "about:blank"


class NotAuthenticatedError(DeniedError):
    """No identity was given where the policy requires one, or it was not verified."""

    code = "not_authenticated"
    status_code = 401
    title = "Not authenticated"


class FeatureNotAllowedError(DeniedError):
    """The caller's plan does not include the feature or the model."""

    code = "feature_not_allowed"
    status_code = 403
    title = "Feature not allowed"


class InputRejectedError(DeniedError):
    """The request is malformed (400) or larger than the policy allows (413)."""

    code = "input_rejected"
    status_code = 400
    title = "Input rejected"


class InjectionDetectedError(InputRejectedError):
    """An input check found an attempt to inject instructions."""

    code = "injection_detected"
    title = "Injection detected"


class LimitExceededError(DeniedError):
    """A limit of the policy has no room for the call."""

    code = "limit_exceeded"
    status_code = 429
    title = "Limit exceeded"

    def _problem_type(self) -> str:
        return _QUOTA_EXCEEDED


class RateLimitExceededError(LimitExceededError):
    """A limit of requests, tokens or concurrent calls has no room for the call."""

    code = "rate_limit_exceeded"
    title = "Rate limit exceeded"


class BudgetExceededError(LimitExceededError):
    """A budget in money has no room for what the call may cost."""

    code = "budget_exceeded"
    title = "Budget exceeded"


class UnpricedModelError(DeniedError):
    """A money limit applies and the model's price is unknown. Unknown is never zero."""

    code = "unpriced_model"
    status_code = 400
    title = "Unpriced model"


class RouteBlockedError(DeniedError):
    """An SDK route or a hosted tool that the policy does not allow."""

    code = "route_blocked"
    status_code = 403
    title = "Route blocked"


class SwitchedOffError(DeniedError):
    """Something that matches the call was switched off, or a circuit breaker is open."""

    code = "switched_off"
    status_code = 503
    title = "Switched off"

    def _problem_type(self) -> str:
        return _REDUCED_CAPACITY


class StoreUnavailableError(DeniedError):
    """The quota store cannot be reached, and ``on_store_error`` is "deny"."""

    code = "store_unavailable"
    status_code = 503
    title = "Quota store unavailable"

    def _problem_type(self) -> str:
        return _REDUCED_CAPACITY


class OutputRejectedError(SafeLLMError):
    """The answer failed an output check. It was paid for and recorded.

    Attributes:
        rule: the name of the check's rule that failed.
        record: the `UsageRecord` of the call.
    """

    def __init__(self, message: str, *, rule: str) -> None:
        super().__init__(message)
        self.message = message
        self.rule = rule
        self.record: UsageRecord | None = None


class DeadlineExceededError(SafeLLMError, openai.APITimeoutError):
    """The call did not end within its total deadline: connecting, retries, first byte and the whole stream included.

    Attributes:
        deadline_seconds: the deadline that was in force.
        record: the `UsageRecord` of the call, once it has been settled.
    """

    def __init__(self, deadline_seconds: float, *, request: Any = None) -> None:
        message = (
            f"The call did not end within its total deadline of {deadline_seconds:g} s ([time] deadline_seconds, or "
            "the call's own timeout=). What it may have cost is charged at the estimate."
        )
        # APITimeoutError's own constructor demands a request; a call can run out of time before there is one.
        Exception.__init__(self, message)
        self.message = message
        self.request = request
        self.body = None
        self.code = None
        self.param = None
        self.type = None
        self.deadline_seconds = deadline_seconds
        self.record: UsageRecord | None = None
