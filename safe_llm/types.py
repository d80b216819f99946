"""The values that move along the path, and those that users read: records, alerts, statuses, quotes.

Money is an int of nano-USD inside (`NANO` to the dollar) and a `Decimal` of USD wherever a user sees it; never a float.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from .checks.output import Output
    from .endpoints.base import Endpoint
    from .endpoints.weighing import Weight
    from .errors import DeniedError
    from .guard import Guard
    from .identity import Claim, Identity
    from .limits import PlacedLimit
    from .policy import Rules
    from .pricing import Rates

NANO = 1_000_000_000
"""nano-USD in one USD."""


def usd(nano: int) -> Decimal:
    """nano-USD as a `Decimal` of USD: exact, without trailing zeros."""
    # From text, because arithmetic would round to the precision that the program has set for its own decimals.
    whole, fraction = divmod(abs(nano), NANO)
    digits = f"{whole}.{fraction:09d}".rstrip("0").rstrip(".")
    return Decimal(f"-{digits}" if nano < 0 else digits)


def nano(digits: str) -> int | None:
    """Decimal digits of USD as nano-USD: exact, or None where they are finer than one. The reverse of `usd`."""
    whole, _, fraction = digits.partition(".")
    fraction = fraction.rstrip("0").ljust(9, "0")
    return int(whole + fraction) if len(fraction) == 9 else None


def plain(amount: int | Decimal) -> str:
    """An amount without an exponent."""
    return format(amount, "f" if isinstance(amount, Decimal) else "_d")


class Clock(Protocol):
    """Where the time comes from. `time` is UTC epoch seconds, `monotonic` seconds that never go back."""

    def time(self) -> float: ...

    def monotonic(self) -> float: ...


# Quotas ---------------------------------------------------------------------------------------------------------------


class Charge(NamedTuple):
    """One amount against one limit, in the window that it falls into. The window is decided by the library."""

    key: str
    """Names the counter. Built by the library, opaque to the store."""
    amount: int
    """Requests, tokens or nano-USD; may be 0."""
    limit: int
    kind: Literal["fixed", "sliding", "held"]
    """fixed: a calendar span. sliding: 61 slices of equal whole seconds. held: only while the call is in flight."""
    start: int
    """The window is [start, end), in whole UTC epoch seconds."""
    end: int


class Reservation(NamedTuple):
    """Room taken for one call in all its limits at once."""

    id: str
    charges: tuple[Charge, ...]
    expires: float
    """UTC epoch seconds at which the lease ends, if the call has not been settled by then."""


class LocalReservation(Reservation):
    """A reservation in the process-local store, made while the real one could not be reached."""

    __slots__ = ()


class Refusal(NamedTuple):
    """Why a reservation was not made. Nothing was taken."""

    position: int
    """Index of the first charge that does not fit."""
    used: int
    held: int
    retry_after: float | None
    """Seconds after which all charges fit, if nothing else is used meanwhile; None where they never can."""


class Tally(NamedTuple):
    """What stands against one charge's limit in its window."""

    used: int
    held: int


# Usage ----------------------------------------------------------------------------------------------------------------


class Usage(NamedTuple):
    """Tokens of one call. Where a number includes another, it says so."""

    input_tokens: int = 0
    """Includes `cached_input_tokens`."""
    output_tokens: int = 0
    """Includes `reasoning_tokens`."""
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    """Included in `input_tokens`, beside the cached ones: what the provider wrote to its cache, and bills dearer."""
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    """Included in `input_tokens`."""
    output_audio_tokens: int = 0
    """Included in `output_tokens`."""
    input_image_tokens: int | None = None
    """Included in `input_tokens`; None where the provider does not tell them from text."""
    output_image_tokens: int | None = None
    """Included in `output_tokens`; None where the provider does not tell them from text."""
    audio_seconds: int = 0
    """Of a recording that is billed by its length, and then has no tokens."""

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check saw, without the text itself."""

    rule: str
    """A rule with "injection" in its name makes a denial an `InjectionDetectedError`."""
    severity: str
    """In the check's own words, for example ``low`` or ``high``."""
    where: str
    """For example ``messages[3]`` or ``output``."""
    score: float | None = None
    """0 to 1, where the rule gives one."""
    action: Literal["flag", "deny", "redact"] = "flag"


class Denial(BaseModel):
    """Which rule denied a call."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    code: str
    limit: str | None = None
    scope: dict[str, str] = {}
    retry_after: float | None = None


class ShadowDecision(BaseModel):
    """What a shadow policy decided about a call, where that is not what the policy in force decided."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    policy_version: str
    denial: Denial | None = None
    """None: it lets the call through."""
    error: str | None = None
    """The class of the error that kept it from deciding."""


# Events ---------------------------------------------------------------------------------------------------------------

Outcomes = Literal["ok", "denied", "error", "timeout", "aborted", "blocked"]


class UsageRecord(BaseModel):
    """One call, as it ended. ``model_dump_json()`` is the log line. It holds no prompt, answer or key."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    record_id: str
    timestamp: datetime
    """UTC, when the call began."""
    user_id: str
    feature: str | None = None
    session_id: str | None = None
    plan: str | None = None
    tags: dict[str, str] = {}
    endpoint: str
    model: str | None = None
    """As it was sent."""
    response_model: str | None = None
    request_id: str | None = None
    """The provider's."""
    stream: bool = False
    outcome: Outcomes
    denial: Denial | None = None
    """In shadow mode, what would have denied the call."""
    error: str | None = None
    """The class of the error, never its message."""
    attempts: int = 0
    """HTTP requests sent, retries included."""
    prompt_hash: str | None = None
    """Keyed BLAKE2b of the prompt under the client's hash key, in hex."""
    input_tokens_estimated: int = 0
    """What was reserved for the input: never below the real count, often above it."""
    input_tokens: int = 0
    """Includes `cached_input_tokens`."""
    cached_input_tokens: int = 0
    output_tokens: int = 0
    """Includes `reasoning_tokens`."""
    reasoning_tokens: int = 0
    total_tokens: int = 0
    """Input plus output."""
    usage_source: Literal["provider", "estimated", "none"] = "none"
    cost_reserved_usd: Decimal | None = None
    """The most that the call could cost. None where no price is known."""
    cost_usd: Decimal | None = None
    """None where no price is known."""
    price_version: str | None = None
    max_tokens: int | None = None
    """The output cap that was sent."""
    trimmed_messages: int = 0
    """Messages left out of the history; in shadow mode, those that would have been."""
    latency_ms: float = 0.0
    first_token_ms: float | None = None
    findings: tuple[Finding, ...] = ()
    policy_version: str = ""
    degraded: bool = False
    """The quota store was away, and the call was counted by a process-local one."""
    budget_action: Literal["shrink", "downgrade"] | None = None
    """What ``[output] on_budget`` did so that the budget pays for the call: a lower cap, or a cheaper model."""
    shadow: ShadowDecision | None = None
    """What the shadow policy decided, where that is something else."""
    requested_model: str | None = None
    """What was asked for, where the policy sent another one: `budget_action` is then "downgrade"."""
    # What it takes to decide about the call once more:
    output_tokens_estimated: int = 0
    """What was reserved for the output: its cap, times the answers."""
    reserved_ms: float | None = None
    """When room was asked for in the limits, after the beginning. None for what was decided without them."""
    steps: tuple[int, int] | None = None
    """Where asking for room, and the end, stand among those of all calls of the process: what came first where times
    are the same."""


class Alert(BaseModel):
    """Something that an operator should look at."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    kind: Literal[
        "limit_threshold", "debt", "anomaly", "circuit_open", "store_degraded", "switched_off", "policy_invalid"
    ]
    timestamp: datetime
    limit: str | None = None
    scope: dict[str, str] = {}
    percent: int | None = None
    message: str


Event = UsageRecord | Alert


@runtime_checkable
class Sink(Protocol):
    """Where events go. `emit` may be slow or fail: neither reaches the call.

    A sink with a true ``inline`` attribute is called in the thread of the call, for what is quick and wants the
    caller's context; every other sink is called by one worker thread.
    """

    def emit(self, event: Event) -> None: ...


# What the guard answers ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """One limit as it stands for one caller. Amounts are ints, or USD as `Decimal` for money."""

    limit: str
    scope: Mapping[str, str]
    used: int | Decimal
    held: int | Decimal
    remaining: int | Decimal
    resets_at: datetime | None
    """UTC. When the whole limit is free again if nothing else is used; None for concurrency."""


@dataclass(frozen=True, slots=True)
class Quote:
    """What a call would be held to, before it is made."""

    input_tokens: int
    max_output_tokens: int | None
    min_usd: Decimal | None
    """The input alone. None where no price is known."""
    max_usd: Decimal | None
    """What would be reserved. None where no price is known."""
    would_be_denied: Denial | None = None
    model: str | None = None
    """The model that would be sent."""
    budget_action: Literal["shrink", "downgrade"] | None = None
    """What ``[output] on_budget`` would do so that the budget pays for the call."""


@dataclass(frozen=True, slots=True)
class SwitchEvent:
    """A kill switch as it was turned: what it names, when, by whom and why."""

    action: Literal["off", "on"]
    scope: Mapping[str, str]
    """Dimension to value; empty for the whole application."""
    at: datetime
    """UTC."""
    by: str
    reason: str


# The checks' view -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of text of a call or an answer."""

    role: str
    """Who speaks: system, developer, user, assistant, tool, function, or document for what was only fetched."""
    text: str = field(repr=False)
    trusted: bool
    """True for system and developer messages: the application's own words."""
    where: str = field(default="", compare=False)
    """Its place in the request, for example ``messages[3]``."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a check looks at."""

    phase: Literal["input", "output"]
    parts: tuple[Part, ...] = field(repr=False)
    identity: Identity
    endpoint: str
    model: str


class Check(Protocol):
    """Looks at what goes in or what comes out, and says what it found. A coroutine `inspect` is for async clients.

    Four more attributes are read where a check has them. ``phases``: of "input" and "output", those that it looks at,
    instead of both. ``timeout``: seconds that it may take, instead of 5. ``action``: with "flag", its failure or
    overrun is only noted where ``[checks] on_error`` is "deny". ``window``: how many characters of an answer it must
    see at once. Without it, a stream is held back until it has ended, because only then the check can be run; with it,
    text passes once it is that far behind.
    """

    @property
    def name(self) -> str: ...

    def inspect(self, content: Content) -> Iterable[Finding]: ...


# What moves along the path ------------------------------------------------------------------------------------------


class Upload(NamedTuple):
    """One file of a multipart request, as it is sent."""

    field: str
    content: bytes

    @property
    def name(self) -> str:
        """The field without the brackets of a list."""
        return self.field.partition("[")[0]

    def __repr__(self) -> str:
        return f"Upload({self.field!r}, {len(self.content)} bytes)"


@dataclass(slots=True)
class Call:
    """One request as the caller made it, and what its endpoint has read in it."""

    endpoint: Endpoint
    body: dict[str, Any] = field(repr=False)
    """The JSON that would be sent, ``extra_body`` merged in. Never the caller's own object."""
    claim: Claim
    """Who calls."""
    query: Mapping[str, object] = field(default_factory=dict, repr=False)
    timeout: float | None = None
    """Seconds, where the caller gave a total."""
    weight: Weight = field(init=False, repr=False)
    is_raw: bool = False
    """The body came as bytes, which are not read here."""
    deployment: str | None = None
    """The model that the URL names, which goes before the body's: Azure."""
    host: str = ""
    """Of the provider."""
    model: str = ""
    stream: bool = False
    messages: list[Mapping[str, Any]] | None = field(default=None, repr=False)
    """The history, where the endpoint has one. Trimming replaces the list."""
    cap: int | None = None
    """The output cap that the caller named; then the one that is sent."""
    answers: int = 1
    """How many answers the cap holds for."""
    most_output: int | None = None
    """Output tokens of one answer at the most, where the endpoint itself bounds them."""
    extra_output: int = 0
    """Tokens that an answer may bill beyond its cap."""
    extra_input: int = 0
    """Tokens that uploads may be billed as; the limit of the context is not about them."""
    by_letter: bool = False
    """The model is billed by the letters of its input; each stands for a token."""
    audio_seconds: int = 0
    """Seconds of uploaded audio at the most."""
    unseen: bool = False
    """The input refers to what only the provider has; it is reserved at the policy's maximum."""
    hears: bool = False
    """The input holds audio."""
    speaks: bool = False
    """The answer may hold audio."""
    hosted_tools: tuple[str, ...] = ()
    """Tools that the provider runs by itself, by their types."""
    max_hosted_calls: int | None = None
    """The most calls that all hosted tools together may make, where the caller says so."""
    background: bool = False
    """The provider answers later, to whoever retrieves the answer."""
    uploads: tuple[Upload, ...] = field(default=(), repr=False)
    tier: str | None = None


@dataclass(slots=True)
class Admission:
    """A call on its way: what was decided so far. Complete once it holds a reservation."""

    id: str
    call: Call
    identity: Claim
    began: float
    """Monotonic seconds."""
    timestamp: datetime
    guard: Guard = field(repr=False)
    """Under which it began: a policy that changes meanwhile is not this call's."""
    ends: float | None = None
    """Monotonic seconds at which the deadline is over."""
    deadline_seconds: float | None = None
    plan: str | None = None
    rules: Rules = field(init=False, repr=False)
    prompt_hash: str | None = None
    trimmed: int = 0
    input_tokens: int = 0
    """What is reserved for the input."""
    counted: bool = False
    """Whether `input_tokens` is an exact count rather than a bound."""
    extra_input: int = 0
    """What of it is reserved for uploads and hosted tools."""
    output_tokens: int = 0
    """What is reserved for the output."""
    rates: list[Rates] = field(default_factory=list)
    """Those that may apply; empty where no price is known."""
    cost: int | None = None
    """nano-USD that are reserved."""
    estimated: bool = False
    """Whether what the call can bill has been bounded."""
    fees: int = 0
    """nano-USD of hosted tools, included in `cost`."""
    fee_of: dict[str, int] = field(default_factory=dict)
    """nano-USD for each call of a hosted tool, by its family."""
    budget_action: Literal["shrink", "downgrade"] | None = None
    """What was done so that the budget pays for the call."""
    requested_model: str | None = None
    """The model that was asked for, where another one is sent."""
    shadow: Admission | None = field(default=None, repr=False)
    """The same call under the shadow policy."""
    shadow_error: str | None = None
    """Of such an admission: the class of the error that kept it from being decided."""
    circuit: tuple[str, str] | None = None
    """Host and model, while the circuit breaker waits to be told how the call ends."""
    corrects: str | None = None
    """Not a call of its own: it retrieves the background response of this id."""
    cap_sent: int | None = None
    gate: list[Charge] = field(default_factory=list)
    """The charges that a kill switch refuses; they stand before the limits'."""
    made: list[tuple[PlacedLimit, Charge]] = field(default_factory=list)
    """The limits that were charged, and how."""
    reservation: Reservation | None = None
    asked: float | None = None
    """UTC epoch seconds at which room was asked for: what decides about the windows."""
    step: int = 0
    """Counts up with every time that room is asked for, or a call ends, in this process."""
    degraded: bool = False
    denial: DeniedError | None = None
    """Shadow mode: what would have denied the call."""
    findings: tuple[Finding, ...] = ()
    hide_usage: bool = False
    """The caller did not ask for the chunk of usage."""
    output: Output | None = field(default=None, repr=False)
    """What looks at the answer; None where no output check is on."""


@dataclass(slots=True)
class Outcome:
    """How sending ended, or that it has not: an open outcome is a stream that the caller still reads."""

    value: Any = field(default=None, repr=False)
    """What the caller gets."""
    error: BaseException | None = field(default=None, repr=False)
    fault: str | None = None
    """The class of the error that the stream itself carried, which the SDK raises to the caller later."""
    ended: Literal["ok", "error", "timeout", "aborted", "blocked"] = "ok"
    open: bool = False
    unbilled: bool = False
    """The provider refused, or was never reached: it costs nothing."""
    attempts: int = 0
    usage: Usage | None = None
    at_least: Usage | None = None
    """What a stream told before it was cut."""
    pending: bool = False
    """The provider has not begun, or is still at work: what it bills is told to whoever retrieves the answer."""
    text: str | None = field(default=None, repr=False)
    """What was seen of an answer whose usage is unknown; None where nothing was seen."""
    response_id: str | None = None
    response_model: str | None = None
    tier: str | None = None
    hosted_calls: Mapping[str, int] | None = None
    """How often each hosted tool was called; None where that is not known."""
    request_id: str | None = None
    first_token: float | None = None
    """Monotonic seconds."""

    @property
    def to_be_counted(self) -> bool:
        """Whether it must be counted what was used: something was seen of an answer that told no usage."""
        return self.usage is None and not self.unbilled and not self.pending and self.text is not None

    def result(self) -> Any:
        """The value, or the error raised."""
        if self.error is not None:
            raise self.error
        return self.value
