"""The path, stepped without I/O: which steps a call goes through, in which order, and that nothing refused is sent."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from os import PathLike
from typing import Any

import pytest

from safe_llm import inquiry
from safe_llm.effects import (
    Complete,
    Compute,
    Effect,
    Emit,
    FindPlan,
    Flow,
    Inspect,
    Peek,
    Reserve,
    Send,
    Settle,
    T,
    drive,
    drive_async,
)
from safe_llm.endpoints import Route
from safe_llm.endpoints.chat import CHAT
from safe_llm.errors import (
    BudgetExceededError,
    DeadlineExceededError,
    DeniedError,
    FeatureNotAllowedError,
    InjectionDetectedError,
    InputRejectedError,
    NotAuthenticatedError,
    RateLimitExceededError,
    RouteBlockedError,
    StoreUnavailableError,
    SwitchedOffError,
    UnpricedModelError,
)
from safe_llm.guard import Guard
from safe_llm.identity import Claim, Identity
from safe_llm.policy import Policy
from safe_llm.stores import MemoryQuotaStore
from safe_llm.testing import FakeClock
from safe_llm.types import Alert, Call, Check, Content, Event, Finding, Outcome, Usage, UsageRecord

KEY = b"a key for hashing"
U1 = Claim("u1")
HELLO = "hello, how are you today?"
"""7 tokens, and never more than 25: `EXACT` and `BOUND` with the frame of a request around it."""
EXACT, BOUND = 14, 32
INPUT_NANO, OUTPUT_NANO = 2_500, 10_000
"""nano-USD of a token of gpt-4o."""

TURNS = [{"role": role, "content": f"{role} {number}"} for number in range(8) for role in ("user", "assistant")][:-1]
"""Eight turns, the last of them without an answer yet."""


def answered(**fields: Any) -> Outcome:
    """How a call ends that goes well."""
    given: dict[str, Any] = {"value": "an answer", "usage": Usage(10, 5), "attempts": 1, "response_model": "gpt-4o"}
    return Outcome(**{**given, **fields})


@dataclass
class World:
    """Answers the effects: counts for real, "sends" from a list of outcomes, and remembers every step."""

    guard: Guard
    outcomes: list[Outcome] = field(default_factory=list)
    plan_for: Callable[[str], Any] | None = None
    store: MemoryQuotaStore = field(init=False)
    steps: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    asked: list[Reserve] = field(default_factory=list)
    settled: list[Settle] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)
    fails: dict[str, BaseException] = field(default_factory=dict)
    """What the effect of that name raises."""

    def __post_init__(self) -> None:
        self.store = MemoryQuotaStore(clock=self.guard.clock.time)

    def run(self, flow: Flow[T]) -> T:
        return drive(flow, self.perform)

    def perform(self, effect: Effect) -> Any:
        name = type(effect).__name__
        self.steps.append(name)
        if name in self.fails:
            raise self.fails[name]
        match effect:
            case FindPlan(identity):
                return None if self.plan_for is None else self.plan_for(identity.user)
            case Inspect(check, content):
                return tuple(check.inspect(content))
            case Compute(function):
                return function()
            case Reserve(id, charges, ttl):
                self.asked.append(effect)
                return self.store.reserve(id, charges, ttl)
            case Settle(reservation, actual):
                self.settled.append(effect)
                return self.store.settle(reservation, actual)
            case Peek(charges):
                return self.store.peek(charges)
            case Send(_, body):
                self.sent.append(body)
                return self.outcomes.pop(0) if self.outcomes else answered()
            case Emit(event):
                self.events.append(event)
            case Complete(flow):
                return self.run(flow)
        return None

    @property
    def records(self) -> list[UsageRecord]:
        return [event for event in self.events if isinstance(event, UsageRecord)]

    @property
    def alerts(self) -> list[Alert]:
        return [event for event in self.events if isinstance(event, Alert)]

    def used(self, claim: Claim = U1) -> dict[str, Any]:
        """What is used of each limit, by its sentence."""
        return {status.limit: status.used for status in self.run(inquiry.usage(self.guard, claim))}


class Finds:
    """A check that finds this in everything."""

    name = "finder"

    def __init__(self, *findings: Finding) -> None:
        self.findings = findings
        self.seen: list[Content] = []

    def inspect(self, content: Content) -> Iterable[Finding]:
        self.seen.append(content)
        return self.findings


class Fails:
    """A check that is broken."""

    name = "broken"

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def inspect(self, content: Content) -> Iterable[Finding]:
        raise self.error


def world(
    *limits: str,
    checks: Sequence[Check] = (),
    plan: Mapping[str, Any] | None = None,
    plan_for: Callable[[str], Any] | None = None,
    outcomes: Sequence[Outcome] = (),
    checks_section: Mapping[str, Any] | None = None,
    **policy: Any,
) -> World:
    """A world in which the default plan has these limits, and no others. `checks` are objects, not the policy's."""
    plans = {"default": {"limits": limits, **(plan or {})}, **policy.pop("plans", {})}
    guard = Guard(
        Policy(plans=plans, checks=checks_section or {}, **policy), clock=FakeClock(), hash_key=KEY, checks=checks
    )
    return World(guard, list(outcomes), plan_for)


def call(
    content: Any = HELLO,
    *,
    model: Any = "gpt-4o",
    claim: Claim = U1,
    timeout: float | None = None,
    query: Mapping[str, object] | None = None,
    **body: Any,
) -> Call:
    body = {"model": model, "messages": [{"role": "user", "content": content}], **body}
    return Call(CHAT, body, claim, query=query or {}, timeout=timeout, stream=body.get("stream") is True)


def denied(world: World, call: Call) -> DeniedError:
    with pytest.raises(DeniedError) as caught:
        world.run(world.guard.run(call))
    return caught.value


def clock(world: World) -> FakeClock:
    assert isinstance(world.guard.clock, FakeClock)
    return world.guard.clock


# The order ------------------------------------------------------------------------------------------------------------

IN_ORDER = ["FindPlan", "Inspect", "Reserve", "Send", "Complete", "Settle", "Emit", "Peek"]


def test_a_call_takes_its_steps_in_the_one_order() -> None:
    """Whatever can refuse stands before the sending; what has been sent is settled, recorded, then looked at."""
    here = world("10 requests/minute", "$1/day", checks=[Finds()])
    assert here.run(here.guard.run(call())) == "an answer"
    assert here.steps == IN_ORDER


def test_the_async_side_takes_the_same_steps() -> None:
    here = world("10 requests/minute", "$1/day", checks=[Finds()])

    async def perform(effect: Effect) -> Any:
        if isinstance(effect, Complete):
            here.steps.append("Complete")
            return await drive_async(effect.flow, perform)
        return here.perform(effect)

    assert asyncio.run(drive_async(here.guard.run(call()), perform)) == "an answer"
    assert here.steps == IN_ORDER


def test_a_record_tells_how_a_call_went() -> None:
    here = world("10 requests/minute", "$1/day", outcomes=[answered(request_id="req_1", tier="default")])
    who = Claim("u1", "chat", "s1", None, {"team": "blue"})
    here.run(here.guard.run(call(claim=who, max_tokens=50)))
    (record,) = here.records
    assert (record.user_id, record.feature, record.session_id, record.tags) == ("u1", "chat", "s1", {"team": "blue"})
    assert (record.plan, record.endpoint, record.model, record.outcome) == (
        "default",
        "chat.completions",
        "gpt-4o",
        "ok",
    )
    assert (record.input_tokens, record.output_tokens, record.total_tokens) == (10, 5, 15)
    assert (record.usage_source, record.request_id, record.attempts) == ("provider", "req_1", 1)
    assert (record.max_tokens, record.input_tokens_estimated) == (50, BOUND)
    assert record.cost_usd == Decimal("0.000075")
    assert record.cost_reserved_usd == Decimal(BOUND * INPUT_NANO + 50 * OUTPUT_NANO) / 10**9
    assert (record.policy_version, record.degraded, record.denial) == (here.guard.policy.version, False, None)


def test_a_record_holds_a_keyed_hash_of_the_prompt_and_never_the_prompt() -> None:
    here, other = world(), World(Guard(Policy(), clock=FakeClock(), hash_key=b"another key"))
    for guarded, text in ((here, HELLO), (here, HELLO), (here, "another"), (other, HELLO)):
        guarded.run(guarded.guard.run(call(text)))
    first, second, third = [record.prompt_hash for record in here.records]
    assert first == second != third
    assert other.records[0].prompt_hash != first
    assert HELLO not in here.records[0].model_dump_json()


def test_a_prompt_that_only_the_sdk_can_write_as_json_is_hashed_all_the_same() -> None:
    class Somewhere(PathLike[str]):
        def __fspath__(self) -> str:
            return "/tmp/x"

    here = world()
    here.run(here.guard.run(call(messages=[{"role": "user", "content": "x", "name": Somewhere()}])))
    assert here.records[0].prompt_hash


def test_a_long_hash_key_counts_whole() -> None:
    hashes = []
    for key in (b"k" * 100, b"k" * 99 + b"l"):
        here = World(Guard(Policy(), clock=FakeClock(), hash_key=key))
        here.run(here.guard.run(call()))
        hashes.append(here.records[0].prompt_hash)
    assert hashes[0] != hashes[1]


def test_an_open_stream_is_left_to_settle_itself() -> None:
    here = world("2 concurrent", outcomes=[Outcome(value="a stream", open=True)])
    assert here.run(here.guard.run(call(stream=True))) == "a stream"
    assert here.steps == ["FindPlan", "Reserve", "Send"]


def test_the_error_of_a_sent_call_is_raised_after_it_has_been_settled_and_recorded() -> None:
    error = RuntimeError("the provider is away")
    here = world("10 requests/minute", outcomes=[Outcome(error=error, ended="error", attempts=3)])
    with pytest.raises(RuntimeError) as caught:
        here.run(here.guard.run(call()))
    assert caught.value is error
    assert here.steps == ["FindPlan", "Reserve", "Send", "Complete", "Settle", "Emit", "Peek"]
    assert (here.records[0].outcome, here.records[0].error) == ("error", "RuntimeError")


def test_the_error_of_a_deadline_carries_the_record() -> None:
    error = DeadlineExceededError(30.0)
    here = world(outcomes=[Outcome(error=error, ended="timeout", attempts=1)])
    with pytest.raises(DeadlineExceededError):
        here.run(here.guard.run(call()))
    assert error.record is here.records[0]


# Refusals -------------------------------------------------------------------------------------------------------------

DENYING = Finding(rule="injection.override", severity="high", where="messages[0]", action="deny")
MARKERS = Finding(rule="role_markers", severity="high", where="messages[0]", action="deny")
LONG = "lorem ipsum dolor sit amet " * 400
TIGHT: dict[str, Any] = {"max_message_chars": 20_000, "max_context_tokens": 1_000}
UNTRIMMED: dict[str, Any] = {"max_turns": 2, "overflow": "deny"}
REQUIRED, VERIFIED = {"required": True}, {"verified": True}
CODE_REVIEW = Claim("u1", "code_review")
NARROW: dict[str, Any] = {"features": ["chat"], "models": ["gpt-4o", "gpt-4o-mini*"]}
WEB_SEARCH = [{"type": "web_search"}]
CHECKED, COUNTED, ASKED = "FindPlan Inspect", "FindPlan Compute", "FindPlan Reserve"
ASKED_TWICE = "FindPlan Reserve Compute Reserve"


def refusal(id: str, steps: str, kind: type[DeniedError], code: str, here: World, given: Call) -> Any:
    return pytest.param(steps.split(), kind, code, here, given, id=id)


REFUSALS = [
    refusal("query", "", InputRejectedError, "malformed_request", world(), call(query={"model": "gpt-5"})),
    refusal("bytes", "", InputRejectedError, "request_too_large", world(input={"max_request_bytes": 99}), call(LONG)),
    refusal("model's name", "", InputRejectedError, "malformed_request", world(), call(model=7)),
    refusal("model's length", "", InputRejectedError, "malformed_request", world(), call(model="m" * 257)),
    refusal("messages", "", InputRejectedError, "malformed_request", world(), call(messages="hello")),
    refusal("nobody", "", NotAuthenticatedError, "not_authenticated", world(identity=REQUIRED), call(claim=Claim())),
    refusal("a bare name", "", NotAuthenticatedError, "not_authenticated", world(identity=VERIFIED), call()),
    refusal("no such plan", "FindPlan", FeatureNotAllowedError, "plan_unknown", world(plan_for=str), call()),
    refusal("no name", "FindPlan", FeatureNotAllowedError, "plan_unknown", world(plan_for=lambda user: [user]), call()),
    refusal(
        "feature",
        "FindPlan",
        FeatureNotAllowedError,
        "feature_not_allowed",
        world(plan=NARROW),
        call(claim=CODE_REVIEW),
    ),
    refusal("model", "FindPlan", FeatureNotAllowedError, "model_not_allowed", world(plan=NARROW), call(model="gpt-4")),
    refusal("long message", "FindPlan", InputRejectedError, "message_too_long", world(), call("x" * 4_001)),
    refusal("injection", CHECKED, InjectionDetectedError, "injection_detected", world(checks=[Finds(DENYING)]), call()),
    refusal("finding", CHECKED, InputRejectedError, "input_rejected", world(checks=[Finds(MARKERS)]), call()),
    refusal("last turn", COUNTED, InputRejectedError, "context_too_long", world(input=TIGHT), call(LONG)),
    refusal(
        "history", "FindPlan", InputRejectedError, "context_too_long", world(input=UNTRIMMED), call(messages=TURNS)
    ),
    refusal("tool", "FindPlan", RouteBlockedError, "hosted_tool_blocked", world(), call(tools=WEB_SEARCH)),
    refusal("no price", "FindPlan", UnpricedModelError, "unpriced_model", world("$1/day"), call(model="my-model")),
    refusal("requests", ASKED, RateLimitExceededError, "rate_limit_exceeded", world("0 requests/minute"), call()),
    refusal("concurrency", ASKED, RateLimitExceededError, "rate_limit_exceeded", world("0 concurrent"), call()),
    refusal("tokens", ASKED_TWICE, RateLimitExceededError, "rate_limit_exceeded", world("1_013 tokens/day"), call()),
    refusal("money", ASKED_TWICE, BudgetExceededError, "budget_exceeded", world("$0.000000001/day"), call()),
]
"""The steps before the record, the error, and what leads to it."""


@pytest.mark.parametrize(("steps", "kind", "code", "here", "given"), REFUSALS)
def test_what_is_refused_is_not_sent_takes_nothing_and_leaves_one_record(
    steps: list[str], kind: type[DeniedError], code: str, here: World, given: Call
) -> None:
    here.steps.clear()
    error = denied(here, given)
    assert type(error) is kind
    assert error.code == code
    assert here.steps == [*steps, "Emit"]
    (record,) = here.events
    assert record is error.record
    assert isinstance(record, UsageRecord)
    assert (record.outcome, record.attempts, record.usage_source) == ("denied", 0, "none")
    assert record.cost_usd == 0
    assert record.denial is not None
    assert (record.denial.code, record.denial.limit) == (code, error.limit)
    assert "\n" not in str(error)
    if code != "plan_unknown":
        assert not any(here.used().values())


def test_too_much_is_answered_with_413_and_what_is_malformed_with_400() -> None:
    assert denied(world(), call("x" * 4_001)).status_code == 413
    assert denied(world(), call(messages=[])).status_code == 400


def test_the_error_of_a_limit_says_who_was_denied_what_and_when_to_come_back() -> None:
    here = world("$0.02/day")
    here.run(here.guard.run(call()))
    clock(here).advance(3600)
    here.outcomes = [answered(usage=Usage(0, 1_900))]
    here.run(here.guard.run(call()))
    error = denied(here, call())
    assert isinstance(error, BudgetExceededError)
    assert (error.limit, error.scope) == ("$0.02/day", {"user": "u1"})
    assert error.used == Decimal("0.019075")
    assert error.held == 0
    assert error.requested == Decimal(EXACT * INPUT_NANO + 1_000 * OUTPUT_NANO) / 10**9
    assert error.retry_after == 15 * 3600  # 09:00 UTC
    assert str(error).startswith("User 'u1' is denied by the limit \"$0.02/day\" of plan:default: 0.019075 USD used")
    assert str(error).endswith("Try again in 15 h.")


def test_what_can_never_fit_is_not_told_to_come_back() -> None:
    error = denied(world("100 tokens/day"), call())
    assert error.retry_after is None
    assert "can never fit" in str(error)


def test_the_widest_size_holds_until_it_is_known_which_feature_asks() -> None:
    """A feature's larger limit lets its own requests through, and nobody else's."""
    wide = {"max_request_bytes": 10_000, "max_message_chars": 9_000, "max_context_tokens": 9_000}
    here = world(input={"max_request_bytes": 100}, features={"documents": {"input": wide}})
    here.run(here.guard.run(call("word " * 1_000, claim=Claim("u1", "documents"))))
    assert denied(here, call("word " * 1_000)).code == "request_too_large"
    assert here.steps.count("Send") == 1


def test_an_identity_that_a_verifier_made_is_accepted_where_one_is_required() -> None:
    here = world(identity={"verified": True})
    here.run(here.guard.run(call(claim=Identity("u1", verified=True).claim())))
    error = denied(here, call(claim=Claim("u2")))
    assert isinstance(error, NotAuthenticatedError)


def test_a_call_without_a_name_is_anonymous_and_shares_one_bucket() -> None:
    here = world("1 requests/day")
    here.run(here.guard.run(call(claim=Claim())))
    error = denied(here, call(claim=Claim(feature="another")))
    assert error.scope == {"user": "anonymous"}
    here.run(here.guard.run(call()))


def test_the_identitys_own_plan_goes_before_plan_for_and_that_before_the_default() -> None:
    plans: dict[str, Any] = {"pro": {}, "team": {}}
    here = world(plans=plans, plan_for={"u1": "pro"}.get)
    for claim in (Claim("u1", plan="team"), Claim("u1"), Claim("u2")):
        here.run(here.guard.run(call(claim=claim)))
    assert [record.plan for record in here.records] == ["team", "pro", "default"]
    assert here.steps.count("FindPlan") == 2


def test_a_plan_for_that_fails_denies_with_its_error_as_the_cause() -> None:
    cause = ConnectionError("the user database is away: password hunter2")
    here = world("10 requests/minute")
    here.fails["FindPlan"] = cause
    error = denied(here, call())
    assert isinstance(error, FeatureNotAllowedError)
    assert error.code == "plan_unknown"
    assert error.__cause__ is cause
    assert "hunter2" not in str(error)
    assert here.steps == ["FindPlan", "Emit"]


def test_a_store_that_is_away_denies() -> None:
    here = world("10 requests/minute")
    here.fails["Reserve"] = StoreUnavailableError("The store is away.")
    error = denied(here, call())
    assert error.status_code == 503
    assert here.steps == ["FindPlan", "Reserve", "Emit"]


# What fails before anything is sent -----------------------------------------------------------------------------------


def test_a_check_that_fails_denies_with_its_error_as_the_cause() -> None:
    cause = ZeroDivisionError("in the prompt: hunter2")
    here = world("10 requests/minute", checks=[Fails(cause)])
    error = denied(here, call())
    assert error.code == "check_failed"
    assert error.__cause__ is cause
    assert "hunter2" not in str(error)
    assert here.steps == ["FindPlan", "Inspect", "Emit"]
    assert not any(here.used().values())


def test_a_check_that_fails_lets_the_call_pass_on_the_record_where_the_policy_says_so() -> None:
    second = Finds()
    here = world(checks=[Fails(ZeroDivisionError()), second], checks_section={"on_error": "allow"})
    here.run(here.guard.run(call()))
    assert [(finding.rule, finding.action) for finding in here.records[0].findings] == [("broken_failed", "flag")]
    assert second.seen, "the checks after it are asked all the same"


def test_a_call_that_is_cancelled_before_it_was_sent_leaves_a_record_that_says_so() -> None:
    here = world("10 requests/minute")
    here.fails["Reserve"] = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        here.run(here.guard.run(call()))
    assert here.steps == ["FindPlan", "Reserve", "Complete", "Emit"]
    (record,) = here.records
    assert (record.outcome, record.error, record.usage_source) == ("aborted", "CancelledError", "none")
    assert record.cost_usd == record.attempts == 0


def test_a_bug_in_the_store_is_not_swallowed_and_leaves_a_record() -> None:
    here = world("10 requests/minute")
    here.fails["Reserve"] = KeyError("bug")
    with pytest.raises(KeyError):
        here.run(here.guard.run(call()))
    assert [(record.outcome, record.error) for record in here.records] == [("error", "KeyError")]
    assert not here.sent


def test_a_path_that_is_dropped_half_way_does_nothing_more() -> None:
    here = world("10 requests/minute", checks=[Finds()])
    flow = here.guard.run(call())
    here.perform(next(flow))
    flow.close()
    assert here.steps == ["FindPlan"]


# What is sent ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, {"max_completion_tokens": 1_000}),
        ({"max_tokens": 50}, {"max_tokens": 50}),
        ({"max_completion_tokens": 50}, {"max_completion_tokens": 50}),
        ({"max_completion_tokens": 9_000}, {"max_completion_tokens": 4_000}),
        ({"max_tokens": 9_000, "max_completion_tokens": 70}, {"max_completion_tokens": 70}),
    ],
)
def test_every_call_is_sent_with_one_cap(given: dict[str, Any], sent: dict[str, int]) -> None:
    here = world()
    here.run(here.guard.run(call(**given)))
    (body,) = here.sent
    assert {name: value for name, value in body.items() if "max" in name} == sent
    assert here.records[0].max_tokens == next(iter(sent.values()))


def test_a_default_above_the_maximum_means_the_maximum() -> None:
    here = world(output={"max_tokens": 200})
    here.run(here.guard.run(call()))
    assert here.sent[0]["max_completion_tokens"] == 200


def test_without_a_default_cap_none_is_sent_and_the_maximum_is_reserved() -> None:
    here = world("100_000 output_tokens/day", output={"default_max_tokens": "off", "max_tokens": 3_000})
    here.run(here.guard.run(call()))
    assert not [name for name in here.sent[0] if "max" in name]
    assert here.records[0].max_tokens is None
    assert here.asked[0].charges[-1].amount == 3_000


def test_a_feature_may_widen_what_its_plan_narrows() -> None:
    here = world(plan={"output": {"max_tokens": 100}}, features={"essays": {"output": {"max_tokens": 6_000}}})
    for feature in (None, "essays"):
        here.run(here.guard.run(call(claim=Claim("u1", feature), max_tokens=9_000)))
    assert [body["max_tokens"] for body in here.sent] == [100, 6_000]


def test_the_reservation_is_the_cap_times_the_answers_and_what_a_prediction_may_add() -> None:
    here = world("100_000 output_tokens/day")
    here.run(here.guard.run(call(n=3, max_tokens=100, prediction={"type": "content", "content": "é"})))
    assert here.asked[0].charges[-1].amount == 3 * (100 + 2)


def test_a_long_history_is_trimmed_to_its_last_turns_and_the_callers_list_is_left_alone() -> None:
    messages = [{"role": "system", "content": "Be kind."}, *TURNS]
    kept = list(messages)
    here = world(input={"max_turns": 2})
    here.run(here.guard.run(call(messages=messages)))
    assert here.sent[0]["messages"] == [messages[0], *TURNS[-3:]]
    assert messages == kept
    assert here.records[0].trimmed_messages == 12
    assert "Compute" not in here.steps


def test_a_history_is_counted_only_where_it_may_be_too_long_for_the_context() -> None:
    """The last turn and as many before it as fit; the count is then reserved, and not made again."""
    turn = "lorem ipsum dolor sit amet " * 20  # 101 tokens in 540 bytes
    messages = [{"role": role, "content": turn} for _ in range(6) for role in ("user", "assistant")][:-1]
    here = world("1_500 input_tokens/day", input={"max_context_tokens": 600})
    here.run(here.guard.run(call(messages=messages)))
    assert here.steps[:4] == ["FindPlan", "Compute", "Reserve", "Send"]
    assert len(here.sent[0]["messages"]) == 5
    assert here.records[0].input_tokens_estimated <= 600
    assert here.records[0].trimmed_messages == 6


def test_a_stream_asks_for_its_usage_and_hides_it_from_a_caller_who_did_not() -> None:
    here = world()
    hidden = []
    for options in (None, {"include_usage": True}):
        admission = here.run(here.guard.admit(call(stream=True, stream_options=options)))
        here.run(here.guard.send(admission))
        hidden.append(admission.hide_usage)
    assert [body["stream_options"] for body in here.sent] == [{"include_usage": True}] * 2
    assert hidden == [True, False]


def test_the_safety_identifier_is_a_keyed_hash_and_replaces_what_the_body_says() -> None:
    here = world(identity={"send_safety_identifier": True})
    here.run(here.guard.run(call(safety_identifier="somebody else")))
    expected = hashlib.blake2b(b"u1", digest_size=32, key=KEY).hexdigest()
    assert here.sent[0]["safety_identifier"] == expected


def test_no_safety_identifier_is_sent_unless_the_policy_says_so() -> None:
    here = world()
    here.run(here.guard.run(call()))
    assert "safety_identifier" not in here.sent[0]
    assert "u1" not in str(here.sent[0])


def test_the_body_is_not_the_payer() -> None:
    here = world("1 requests/day")
    here.run(here.guard.run(call(user="u2", metadata={"user_id": "u3"}, safety_identifier="u4")))
    assert here.used() == {"1 requests/day": 1}
    assert isinstance(denied(here, call(user="u5")), RateLimitExceededError)


def test_what_a_check_flags_is_on_the_record_and_stops_nothing() -> None:
    flag = Finding(rule="injection.score", severity="low", where="messages[0]", score=0.4)
    check = Finds(flag)
    here = world(checks=[check])
    here.run(
        here.guard.run(call(messages=[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "x"}]))
    )
    assert here.records[0].findings == (flag,)
    (content,) = check.seen
    assert (content.phase, content.model, content.endpoint) == ("input", "gpt-4o", "chat.completions")
    assert content.identity == Identity("u1")
    assert [(part.role, part.text, part.trusted) for part in content.parts] == [
        ("system", "Be kind.", True),
        ("user", "x", False),
    ]


def test_no_check_is_asked_after_one_that_denied() -> None:
    second = Finds()
    here = world(checks=[Finds(DENYING), second])
    denied(here, call())
    assert not second.seen
    assert here.records[0].findings == (DENYING,)


# Time -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "timeout", "deadline", "lease"),
    [
        (30, None, 30, 60),
        (30, 10.0, 10, 40),
        (30, 90.0, 30, 60),
        ("off", 10.0, None, 3_600),
        ("off", None, None, 3_600),
    ],
)
def test_a_timeout_shortens_the_deadline_and_the_lease_outlives_it(
    policy: Any, timeout: float | None, deadline: float | None, lease: float
) -> None:
    here = world("10 requests/minute", time={"deadline_seconds": policy})
    admission = here.run(here.guard.admit(call(timeout=timeout)))
    assert admission.deadline_seconds == deadline
    assert here.asked[0].ttl == lease


def test_the_deadline_runs_from_the_beginning_of_the_call() -> None:
    """A slow plan_for leaves less of it."""
    here = world("10 requests/minute", plan_for=lambda user: clock(here).advance(12))
    admission = here.run(here.guard.admit(call()))
    assert admission.ends == 30
    assert here.asked[0].ttl == 18 + 30


# Asking for less ------------------------------------------------------------------------------------------------------


def test_nothing_is_counted_while_the_bound_fits() -> None:
    here = world(f"{BOUND + 1_000} tokens/day")
    here.run(here.guard.run(call()))
    assert "Compute" not in here.steps


@pytest.mark.parametrize(
    "limit",
    [
        f"{EXACT + 100} tokens/day",
        f"{EXACT} input_tokens/day",
        f"${(EXACT * INPUT_NANO + 100 * OUTPUT_NANO) / 10**9:.9f}/day",
    ],
)
def test_the_input_is_counted_once_the_bound_was_refused(limit: str) -> None:
    here = world(limit)
    here.run(here.guard.run(call(max_tokens=100)))
    assert here.steps[:5] == ["FindPlan", "Reserve", "Compute", "Reserve", "Send"]
    assert here.records[0].input_tokens_estimated == EXACT


@pytest.mark.parametrize("limit", ["0 requests/day", "0 concurrent", "99 output_tokens/day"])
def test_the_input_is_not_counted_where_no_count_could_help(limit: str) -> None:
    here = world(limit)
    denied(here, call(max_tokens=100))
    assert here.steps == ["FindPlan", "Reserve", "Emit"]


def test_shrink_lowers_the_cap_to_exactly_what_the_budget_still_pays() -> None:
    room = EXACT * INPUT_NANO + 300 * OUTPUT_NANO + OUTPUT_NANO - 1
    here = world(f"${room / 10**9:.9f}/day", output={"on_budget": "shrink"})
    here.run(here.guard.run(call()))
    assert here.sent[0]["max_completion_tokens"] == here.records[0].max_tokens == 300
    assert here.records[0].cost_reserved_usd == Decimal(EXACT * INPUT_NANO + 300 * OUTPUT_NANO) / 10**9


def test_a_prompt_that_is_as_large_as_its_bound_is_asked_for_once_more_and_shrunk() -> None:
    """One letter is one byte and one token: counting it makes the call no smaller."""
    here = world("$0.005/day", output={"on_budget": "shrink"})
    here.run(here.guard.run(call("a")))
    assert here.steps[:5] == ["FindPlan", "Reserve", "Compute", "Reserve", "Send"]


def test_a_call_that_asks_again_asks_by_another_id() -> None:
    """An answer to the first that got lost may be settled at nothing later, and must not take the second with it."""
    here = world("$0.005/day", output={"on_budget": "shrink"})
    here.run(here.guard.run(call("a")))
    assert len(here.asked) == len({asked.id for asked in here.asked}) == 2


def test_shrink_counts_every_answer() -> None:
    room = EXACT * INPUT_NANO + 300 * OUTPUT_NANO
    here = world(f"${room / 10**9:.9f}/day", output={"on_budget": "shrink"})
    here.run(here.guard.run(call(n=2, max_tokens=900)))
    assert here.sent[0]["max_tokens"] == 150


@pytest.mark.parametrize("affordable", [63, 64])
def test_shrink_denies_what_would_be_too_short_to_be_of_use(affordable: int) -> None:
    room = EXACT * INPUT_NANO + affordable * OUTPUT_NANO
    here = world(f"${room / 10**9:.9f}/day", output={"on_budget": "shrink", "min_tokens": 64})
    if affordable < 64:
        assert isinstance(denied(here, call()), BudgetExceededError)
    else:
        here.run(here.guard.run(call()))
        assert here.sent[0]["max_completion_tokens"] == 64


def test_shrink_satisfies_several_budgets_at_once() -> None:
    rooms = [EXACT * INPUT_NANO + cap * OUTPUT_NANO for cap in (500, 200, 400)]
    day, week, month = (f"${room / 10**9:.9f}" for room in rooms)
    here = world(f"{day}/day", f"{week}/week", f"{month}/month", output={"on_budget": "shrink"})
    here.run(here.guard.run(call()))
    assert here.sent[0]["max_completion_tokens"] == 200


def test_only_money_shrinks_a_call() -> None:
    here = world("500 output_tokens/day", output={"on_budget": "shrink"})
    assert isinstance(denied(here, call()), RateLimitExceededError)


def test_a_call_without_a_cap_cannot_be_shrunk() -> None:
    here = world("$0.01/day", output={"on_budget": "shrink", "default_max_tokens": "off"})
    assert isinstance(denied(here, call()), BudgetExceededError)


DOWNGRADE: dict[str, Any] = {"on_budget": "downgrade", "downgrade": {"gpt-4o": "gpt-4o-mini"}}


def test_downgrade_tries_the_cheaper_model_and_charges_its_price() -> None:
    here = world("$0.001/day", output=DOWNGRADE, outcomes=[answered(response_model="gpt-4o-mini")])
    here.run(here.guard.run(call()))
    assert here.sent[0]["model"] == here.records[0].model == "gpt-4o-mini"
    assert here.records[0].cost_usd == Decimal(10 * 150 + 5 * 600) / 10**9


def test_downgrade_leaves_the_callers_body_alone() -> None:
    here, given = world("$0.001/day", output=DOWNGRADE), call()
    body = given.body
    here.run(here.guard.run(given))
    assert body["model"] == "gpt-4o"


@pytest.mark.parametrize(
    "output",
    [
        {"on_budget": "downgrade"},
        {"on_budget": "deny", "downgrade": {"gpt-4o": "gpt-4o-mini"}},
        {"on_budget": "downgrade", "downgrade": {"gpt-4o": "gpt-4"}},
        {"on_budget": "downgrade", "downgrade": {"gpt-4o": "gpt-4o"}},
    ],
)
def test_a_call_is_denied_where_no_cheaper_model_is_named(output: dict[str, Any]) -> None:
    here = world("$0.001/day", output=output)
    assert isinstance(denied(here, call()), BudgetExceededError)


def test_a_downgrade_does_not_lead_to_a_model_that_the_plan_lacks() -> None:
    here = world("$0.001/day", plan={"models": ["gpt-4o"]}, output=DOWNGRADE)
    assert isinstance(denied(here, call()), BudgetExceededError)


def test_a_downgrade_counts_on_the_cheaper_models_own_limits() -> None:
    here = world("$0.001/day", limits=["1 requests/day per model"], output=DOWNGRADE)
    here.run(here.guard.run(call(model="gpt-4o-mini", max_tokens=10)))
    error = denied(here, call())
    assert error.limit == "1 requests/day per model"
    assert error.scope == {"model": "gpt-4o-mini"}


def test_a_record_of_a_call_that_no_model_could_pay_names_the_model_that_was_asked_for() -> None:
    here = world("$0.001/day", output={"on_budget": "downgrade", "downgrade": {"gpt-4o": "gpt-4"}})
    denied(here, call())
    assert here.records[0].model == "gpt-4o"


# Prices ---------------------------------------------------------------------------------------------------------------


def test_a_model_without_a_price_passes_where_no_money_limit_applies_and_its_cost_stays_unknown() -> None:
    here = world("10 requests/minute")
    here.run(here.guard.run(call(model="my-deployment")))
    here.outcomes = [answered(response_model=None)]
    here.run(here.guard.run(call(model="my-deployment")))
    known, unknown = here.records
    assert known.cost_usd == Decimal("0.000075"), "priced by the name that answered"
    assert unknown.cost_usd is None
    assert known.cost_reserved_usd is None


def test_a_price_of_the_policy_prices_a_deployment() -> None:
    here = world("$1/day", prices={"my-deployment": {"input": "1", "output": "2"}})
    here.run(here.guard.run(call(model="my-deployment")))
    assert here.records[0].cost_usd == Decimal(10 * 1_000 + 5 * 2_000) / 10**9


def test_a_free_model_passes_an_exhausted_budget() -> None:
    here = world("$0/day", prices={"local": {"input": 0, "output": 0}})
    here.run(here.guard.run(call(model="local")))
    assert isinstance(denied(here, call()), BudgetExceededError)


def test_a_tier_that_the_request_names_is_held_to_the_dearer_price_until_the_answer_tells() -> None:
    """flex is cheaper than the standard, priority dearer; the response's own tier is what is billed."""
    reserved = {}
    for tier in (None, "flex", "priority"):
        here = world("$1/day", outcomes=[answered(response_model="gpt-5", tier=tier)])
        here.run(here.guard.run(call(model="gpt-5", service_tier=tier)))
        reserved[tier] = here.records[0].cost_reserved_usd, here.records[0].cost_usd
    standard, flex, priority = reserved[None], reserved["flex"], reserved["priority"]
    assert flex[0] == standard[0]
    assert flex[1] == standard[1] / 2  # type: ignore[operator]  # both have a price
    assert priority == (standard[0] * 2, standard[1] * 2)  # type: ignore[operator]


def test_a_hosted_tool_that_is_listed_reserves_its_tokens_and_its_fee() -> None:
    tool = {"reserve_tokens": 20_000, "fee": "$0.01"}
    here = world("$1/day", routes={"hosted_tools": {"web_search": tool}})
    here.run(here.guard.run(call(tools=WEB_SEARCH, max_tokens=1)))
    record = here.records[0]
    assert record.input_tokens_estimated > 20_000
    assert record.cost_reserved_usd == Decimal(record.input_tokens_estimated * INPUT_NANO + OUTPUT_NANO + 10**7) / 10**9
    assert record.cost_usd == Decimal("0.010075")


def test_a_star_stands_for_every_hosted_tool() -> None:
    here = world(routes={"hosted_tools": {"*": {}}})
    here.run(here.guard.run(call(tools=WEB_SEARCH, web_search_options={})))
    assert len(here.sent) == 1


def test_audio_without_a_known_rate_is_denied_under_a_budget() -> None:
    """gpt-4o-audio-preview has prices for text alone: a bound without the audio would be no bound."""
    said = [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]
    assert isinstance(denied(world("$1/day"), call(said, model="gpt-4o-audio-preview")), UnpricedModelError)


def test_usage_that_cannot_be_priced_is_charged_as_reserved_and_never_as_nothing() -> None:
    here = world("$1/day", outcomes=[answered(usage=Usage(10, 5, output_audio_tokens=5))])
    here.run(here.guard.run(call(max_tokens=100)))
    assert here.used()["$1/day"] == here.records[0].cost_reserved_usd


# Settling -------------------------------------------------------------------------------------------------------------


def test_settling_turns_what_was_held_into_what_was_used() -> None:
    here = world("10 requests/day", "10_000 tokens/day", "$1/day", "2 concurrent")
    here.run(here.guard.run(call()))
    assert list(here.used().values()) == [1, 15, Decimal("0.000075"), 0]
    assert here.settled[0].actual == [0, 1, 15, 75_000, 1]


def test_what_the_provider_refused_costs_nothing() -> None:
    here = world("10_000 tokens/day", "$1/day", outcomes=[Outcome(ended="error", unbilled=True, attempts=1)])
    here.run(here.guard.run(call()))
    assert list(here.used().values()) == [0, 0]
    assert here.records[0].usage_source == "none"
    assert here.records[0].cost_usd == 0


def test_where_nothing_is_known_the_whole_bound_is_charged_and_flagged() -> None:
    here = world("10_000 tokens/day", "$1/day", outcomes=[Outcome(ended="timeout", attempts=1)])
    here.run(here.guard.run(call(max_tokens=100)))
    (record,) = here.records
    assert (record.usage_source, record.total_tokens) == ("estimated", BOUND + 100)
    assert record.cost_usd == record.cost_reserved_usd
    assert here.used()["10_000 tokens/day"] == BOUND + 100


def test_where_part_of_an_answer_was_seen_the_input_and_that_part_are_counted() -> None:
    here = world("10_000 tokens/day", outcomes=[Outcome(ended="aborted", attempts=1, text="one two three")])
    here.run(here.guard.run(call()))
    (record,) = here.records
    assert (record.usage_source, record.input_tokens, record.output_tokens) == ("estimated", EXACT, 3)


def test_an_estimate_is_never_above_what_was_reserved() -> None:
    here = world("10_000 tokens/day", outcomes=[Outcome(ended="aborted", attempts=1, text="word " * 500)])
    here.run(here.guard.run(call(max_tokens=20)))
    assert here.records[0].output_tokens == 20


def test_a_provider_that_bills_more_than_the_bound_leaves_a_debt_an_alert_and_no_room() -> None:
    here = world("1_000 tokens/day", alert_at_percent=[], outcomes=[answered(usage=Usage(10, 5_000))])
    here.run(here.guard.run(call(max_tokens=100)))
    (alert,) = here.alerts
    assert (alert.kind, alert.limit, alert.scope) == ("debt", "1_000 tokens/day", {"user": "u1"})
    assert "5010" in alert.message.replace("_", "")
    assert here.used() == {"1_000 tokens/day": 5_010}
    assert isinstance(denied(here, call(max_tokens=1)), RateLimitExceededError)


def test_a_limit_that_is_nearly_used_up_is_told_of_once_per_window() -> None:
    here = world("10 requests/day")
    for _ in range(10):
        here.run(here.guard.run(call()))
    assert [alert.percent for alert in here.alerts] == [80, 100]
    assert {(alert.kind, alert.limit, tuple(alert.scope.items())) for alert in here.alerts} == {
        ("limit_threshold", "10 requests/day", (("user", "u1"),))
    }
    clock(here).advance(86_400)
    for _ in range(8):
        here.run(here.guard.run(call()))
    assert [alert.percent for alert in here.alerts] == [80, 100, 80]


def test_one_process_of_many_tells() -> None:
    """Two guards that share a store stand for two processes."""
    here = world("10 requests/day")
    there = World(Guard(here.guard.policy, clock=here.guard.clock, hash_key=KEY))
    there.store = here.store
    for _ in range(4):
        here.run(here.guard.run(call()))
    for _ in range(6):
        there.run(there.guard.run(call()))
    here.fails["Reserve"] = RateLimitExceededError("full")
    assert [alert.percent for alert in here.alerts + there.alerts] == [80, 100]


def test_what_was_told_is_remembered_up_to_some_number() -> None:
    """Forgetting costs a question to the store, and repeats no alert."""
    here = world("10 requests/day", alert_at_percent=[10])
    here.run(here.guard.run(call()))
    here.guard.told = {f"claim {number}" for number in range(10_000)}
    here.run(here.guard.run(call()))
    assert len(here.guard.told) == 1
    assert len(here.alerts) == 1


def test_no_limit_is_looked_at_where_no_threshold_is_set() -> None:
    here = world("10 requests/day", alert_at_percent=[])
    here.run(here.guard.run(call()))
    assert "Peek" not in here.steps


def test_calls_in_flight_have_no_threshold() -> None:
    here = world("1 concurrent")
    here.run(here.guard.run(call()))
    assert "Peek" not in here.steps
    assert not here.alerts


def test_a_store_that_is_away_after_the_call_loses_no_result() -> None:
    here = world("10 requests/day")
    here.fails["Peek"] = StoreUnavailableError("The store is away.")
    assert here.run(here.guard.run(call())) == "an answer"
    assert len(here.records) == 1


def test_an_alert_that_could_not_be_claimed_is_told_of_at_the_next_call() -> None:
    here = world("10 requests/day", alert_at_percent=[10])
    admission = here.run(here.guard.admit(call()))
    here.fails["Reserve"] = StoreUnavailableError("The store is away.")
    here.run(here.guard.finish(admission, answered()))
    del here.fails["Reserve"]
    here.run(here.guard.run(call()))
    assert [alert.kind for alert in here.alerts] == ["limit_threshold"]


# Kill switches --------------------------------------------------------------------------------------------------------


def test_while_nothing_is_switched_off_a_call_looks_at_one_gate() -> None:
    here = world("10 requests/day")
    here.run(here.guard.run(call()))
    assert len(here.asked) == 1
    assert len(here.asked[0].charges) == 2


def test_a_switch_that_is_off_stops_the_calls_that_it_names_and_lets_all_others_pass() -> None:
    here = world("10 requests/day")
    here.run(inquiry.switch_off(here.guard, {"user": "u1", "feature": "chat"}, "abuse"))
    assert [(alert.kind, alert.scope) for alert in here.alerts] == [("switched_off", {"feature": "chat", "user": "u1"})]
    assert here.alerts[0].message == "feature 'chat' and user 'u1' is switched off: abuse."
    here.asked.clear()

    error = denied(here, call(claim=Claim("u1", "chat")))
    assert isinstance(error, SwitchedOffError)
    assert (error.code, error.status_code, error.retry_after) == ("switched_off", 503, None)
    assert error.scope == {"feature": "chat", "user": "u1"}
    assert "switch_on(feature='chat', user_id='u1')" in str(error)
    assert len(here.asked) == 2, "the gate, then the switches that match"

    for claim in (Claim("u1"), Claim("u2", "chat")):
        here.run(here.guard.run(call(claim=claim)))
    here.run(inquiry.switch_on(here.guard, {"user": "u1", "feature": "chat"}))
    here.run(here.guard.run(call(claim=Claim("u1", "chat"))))
    assert here.used() == {"10 requests/day": 2}


def test_the_application_as_a_whole_can_be_switched_off_once() -> None:
    here = world()
    for _ in range(2):
        here.run(inquiry.switch_off(here.guard, {}, ""))
    assert [alert.message for alert in here.alerts] == ["the whole application is switched off."]
    assert isinstance(denied(here, call()), SwitchedOffError)


def test_switching_on_what_is_on_is_harmless() -> None:
    here = world()
    here.run(inquiry.switch_on(here.guard, {"user": "u1"}))
    here.run(here.guard.run(call()))


def test_a_switch_goes_before_a_limit() -> None:
    here = world("0 requests/day")
    here.run(inquiry.switch_off(here.guard, {"model": "gpt-4o"}, ""))
    assert isinstance(denied(here, call()), SwitchedOffError)


def test_a_call_is_not_downgraded_to_a_model_that_is_switched_off() -> None:
    here = world("$0.001/day", output=DOWNGRADE)
    here.run(inquiry.switch_off(here.guard, {"model": "gpt-4o-mini"}, ""))
    denied(here, call())
    assert not here.sent


# Shadow mode ----------------------------------------------------------------------------------------------------------

SHADOW: dict[str, Any] = {"mode": "shadow"}


@pytest.mark.parametrize(
    ("here", "given", "code"),
    [
        (world(**SHADOW, identity={"required": True}), call(claim=Claim()), "not_authenticated"),
        (world(**SHADOW), call("x" * 4_001), "message_too_long"),
        (world(**SHADOW), call(messages="hello"), "malformed_request"),
        (world(**SHADOW, checks=[Finds(DENYING)]), call(), "injection_detected"),
        (world("0 requests/day", **SHADOW), call(), "rate_limit_exceeded"),
        (world("$0.001/day", **SHADOW, output=DOWNGRADE), call(), "budget_exceeded"),
        (world("$0.001/day", **SHADOW, output={"on_budget": "shrink"}), call(max_tokens=4_000), "budget_exceeded"),
    ],
)
def test_shadow_mode_sends_what_it_would_have_denied_and_says_so_on_the_record(
    here: World, given: Call, code: str
) -> None:
    body = dict(given.body)
    assert here.run(here.guard.run(given)) == "an answer"
    assert here.sent == [body]
    (record,) = here.records
    assert record.outcome == "ok"
    assert record.denial is not None
    assert record.denial.code == code
    assert (record.usage_source, record.input_tokens) == ("provider", 10)


def test_shadow_mode_sends_every_request_as_it_came() -> None:
    """Neither capped, nor trimmed, nor asked for usage, nor marked, nor timed."""
    here = world(**SHADOW, input={"max_turns": 2}, identity={"send_safety_identifier": True})
    given = call(messages=TURNS, max_tokens=9_000, stream=True)
    admission = here.run(here.guard.admit(given))
    here.run(here.guard.send(admission))
    assert here.sent == [{"model": "gpt-4o", "messages": TURNS, "max_tokens": 9_000, "stream": True}]
    assert (admission.ends, admission.hide_usage, admission.cap_sent) == (None, False, 9_000)
    assert admission.trimmed == 12


def test_shadow_mode_counts_what_it_lets_pass_so_that_its_denials_are_those_to_come() -> None:
    here = world("2 requests/day", **SHADOW)
    for _ in range(4):
        here.run(here.guard.run(call()))
    denials = [record.denial and record.denial.code for record in here.records]
    assert denials == [None, None, "rate_limit_exceeded", "rate_limit_exceeded"]


def test_shadow_mode_blocks_nothing_even_if_a_check_fails() -> None:
    here = world(**SHADOW, checks=[Fails(ZeroDivisionError())])
    assert here.run(here.guard.run(call())) == "an answer"


@pytest.mark.parametrize(
    ("here", "given"),
    [
        (world(**SHADOW), call("word " * 1_000)),
        (world(**SHADOW, input={"max_request_bytes": 100}), call("word " * 1_000)),
        (world(**SHADOW, identity=REQUIRED), call("word " * 1_000, claim=Claim())),
        (world(**SHADOW, plan_for=str), call("word " * 1_000)),
        (world(**SHADOW), call("word " * 1_000, tools=7)),
    ],
)
@pytest.mark.parametrize("text", ["one two three", None])
def test_shadow_mode_takes_no_unknown_usage_for_nothing(here: World, given: Call, text: str | None) -> None:
    """Calls that would have been denied before anything was bounded, and answers that never told their usage."""
    here.events.clear()
    here.outcomes = [Outcome(value="an answer", attempts=1, text=text)]
    assert here.run(here.guard.run(given)) == "an answer"
    (record,) = here.records
    assert record.denial is not None
    assert record.usage_source == "estimated"
    assert record.input_tokens >= 1_000
    assert record.output_tokens >= 3
    assert record.cost_usd != 0, "None where not even the model could be read"


# Routes that are not guarded ------------------------------------------------------------------------------------------

BATCHES = Route("other", "POST", "/batches")


def test_a_route_that_is_not_opened_is_blocked_and_leaves_a_record() -> None:
    here = world()
    with pytest.raises(RouteBlockedError, match=r'allow = \["POST /batches"\]') as caught:
        here.run(here.guard.pass_by(call(), BATCHES))
    assert here.steps == ["Emit"]
    assert caught.value.record is here.records[0]
    assert here.records[0].outcome == "denied"


@pytest.mark.parametrize("allow", [["POST /batches"], ["*"]])
def test_a_route_that_is_opened_is_sent_as_it_came_and_its_cost_stays_unknown(allow: list[str]) -> None:
    here = world(routes={"allow": allow})
    given = call()
    assert here.run(here.guard.pass_by(given, BATCHES)) == "an answer"
    assert here.steps == ["Send", "Emit"]
    assert here.sent == [given.body]
    assert (here.records[0].usage_source, here.records[0].cost_usd, here.records[0].denial) == ("none", None, None)


def test_shadow_mode_lets_a_blocked_route_pass_and_says_so() -> None:
    here = world(**SHADOW)
    here.run(here.guard.pass_by(call(), BATCHES))
    assert here.records[0].denial is not None
    assert here.records[0].denial.code == "route_blocked"


# What the guard answers -----------------------------------------------------------------------------------------------


def test_a_quote_says_what_a_call_would_be_held_to_and_takes_nothing() -> None:
    here = world("10 requests/day", "$1/day")
    quote = here.run(inquiry.quote(here.guard, call(max_tokens=100)))
    assert (quote.input_tokens, quote.max_output_tokens, quote.would_be_denied) == (EXACT, 100, None)
    assert quote.min_usd == Decimal(EXACT * INPUT_NANO) / 10**9
    assert quote.max_usd == Decimal(BOUND * INPUT_NANO + 100 * OUTPUT_NANO) / 10**9
    assert not {"Reserve", "Send", "Settle", "Emit"} & set(here.steps)


@pytest.mark.parametrize(
    ("limits", "given", "code"),
    [
        ([], call(messages="hello"), "malformed_request"),
        (["1 requests/day"], call(), "rate_limit_exceeded"),
        (["1 requests/minute"], call(), "rate_limit_exceeded"),
        (["5 tokens/minute"], call(), "rate_limit_exceeded"),
        (["1 concurrent", "0 concurrent per feature"], call(), "rate_limit_exceeded"),
        (["$0.000000001/day"], call(), "budget_exceeded"),
    ],
)
def test_a_quote_denies_what_the_call_would_be_denied_with_the_same_wait(
    limits: list[str], given: Call, code: str
) -> None:
    here = world(*limits)
    if limits[:1] in (["1 requests/day"], ["1 requests/minute"]):
        here.run(here.guard.run(call()))
        clock(here).advance(7)
    quote = here.run(inquiry.quote(here.guard, given))
    assert quote.would_be_denied is not None
    assert quote.would_be_denied.code == code
    again = call(messages="hello") if code == "malformed_request" else call()
    assert quote.would_be_denied.retry_after == denied(here, again).retry_after


def test_a_quote_tells_of_a_switch_that_is_off() -> None:
    here = world()
    here.run(inquiry.switch_off(here.guard, {"user": "u1"}, ""))
    quote = here.run(inquiry.quote(here.guard, call()))
    assert quote.would_be_denied is not None
    assert (quote.would_be_denied.code, quote.would_be_denied.scope) == ("switched_off", {"user": "u1"})


def test_a_quote_answers_though_another_hosts_clock_is_ahead() -> None:
    """Its calls lie in slices that begin after our window has ended; they are spent all the same."""
    here = world("1 requests/minute")
    ahead = World(Guard(here.guard.policy, clock=FakeClock(clock(here).time() + 90), hash_key=KEY))
    ahead.store = here.store
    ahead.run(ahead.guard.run(call()))
    quote = here.run(inquiry.quote(here.guard, call()))
    assert quote.would_be_denied is not None
    assert quote.would_be_denied.code == "rate_limit_exceeded"
