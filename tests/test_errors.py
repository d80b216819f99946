"""The errors: their tree, what they carry, and how programs that know only the SDK meet them."""

from __future__ import annotations

import inspect
import pickle
import re
from decimal import Decimal
from typing import Any

import openai
import pytest

from safe_llm import (
    BudgetExceededError,
    ConfigurationError,
    DeadlineExceededError,
    DeniedError,
    FeatureNotAllowedError,
    Finding,
    InjectionDetectedError,
    InputRejectedError,
    LimitExceededError,
    NotAuthenticatedError,
    OutputRejectedError,
    Policy,
    RateLimitExceededError,
    RouteBlockedError,
    SafeLLMError,
    SafeOpenAI,
    StoreUnavailableError,
    SwitchedOffError,
    UnpricedModelError,
)
from safe_llm.testing import FakeClock, FakeOpenAI, RecordingSink, Reply

pytestmark = pytest.mark.anyio

MARKER = "mauve-otter-17"
"""Stands in the prompt, and must stand nowhere else."""
ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": f"Good {MARKER}"}]}


async def done(result: Any) -> Any:
    """What a client of either colour answers."""
    return await result if inspect.isawaitable(result) else result


def denied(server: FakeOpenAI, settings: dict[str, Any], **arguments: Any) -> DeniedError:
    """How a sync call ends that is denied."""
    with (
        SafeOpenAI(base_url=server.base_url, api_key="test", sinks=[], **settings) as client,
        pytest.raises(DeniedError) as caught,
    ):
        client.chat.completions.create(**{**ASK, **arguments})
    return caught.value


# The tree -------------------------------------------------------------------------------------------------------------

TREE = {
    SafeLLMError: {openai.OpenAIError},
    ConfigurationError: {SafeLLMError, ValueError},
    DeniedError: {SafeLLMError},
    NotAuthenticatedError: {DeniedError},
    FeatureNotAllowedError: {DeniedError},
    InputRejectedError: {DeniedError},
    InjectionDetectedError: {InputRejectedError},
    LimitExceededError: {DeniedError},
    RateLimitExceededError: {LimitExceededError},
    BudgetExceededError: {LimitExceededError},
    UnpricedModelError: {DeniedError},
    RouteBlockedError: {DeniedError},
    SwitchedOffError: {DeniedError},
    StoreUnavailableError: {DeniedError},
    OutputRejectedError: {SafeLLMError},
    DeadlineExceededError: {SafeLLMError, openai.APITimeoutError},
}


@pytest.mark.parametrize("error", TREE, ids=lambda error: error.__name__)
def test_the_tree_is_the_one_that_is_drawn(error: type) -> None:
    assert set(error.__bases__) == TREE[error]
    assert error.__name__ in (inspect.getdoc(inspect.getmodule(error)) or "")


CODES = {
    NotAuthenticatedError: ("not_authenticated", 401),
    FeatureNotAllowedError: ("feature_not_allowed", 403),
    InputRejectedError: ("input_rejected", 400),
    InjectionDetectedError: ("injection_detected", 400),
    RateLimitExceededError: ("rate_limit_exceeded", 429),
    BudgetExceededError: ("budget_exceeded", 429),
    UnpricedModelError: ("unpriced_model", 400),
    RouteBlockedError: ("route_blocked", 403),
    SwitchedOffError: ("switched_off", 503),
    StoreUnavailableError: ("store_unavailable", 503),
}


@pytest.mark.parametrize("error", CODES, ids=lambda error: error.__name__)
def test_each_denial_has_its_code_and_status(error: type[DeniedError]) -> None:
    made = error("No.")
    assert (made.code, made.status_code) == CODES[error]
    assert re.fullmatch("[a-z]+(_[a-z]+)*", made.code)
    assert (made.limit, made.scope, made.used, made.held, made.requested) == (None, {}, None, None, None)
    assert (made.retry_after, made.record) == (None, None)


# Each denial, met by a call -------------------------------------------------------------------------------------------


class BrokenStore:
    """Cannot be reached."""

    def reserve(self, id: str, charges: Any, ttl: float) -> Any:
        raise ConnectionError("password=hunter2")

    settle = peek = reserve

    def close(self) -> None:
        pass


class DenyingCheck:
    name = "suspicious"

    def inspect(self, content: Any) -> Any:
        return [Finding(rule="injection.override", severity="high", where="messages[0]", action="deny")]


def limited(*limits: str) -> dict[str, Any]:
    return {"plans": {"default": {"limits": list(limits)}}}


DENIALS: dict[str, tuple[type[DeniedError], dict[str, Any], dict[str, Any]]] = {
    "nobody": (NotAuthenticatedError, {"policy": {"identity": {"required": True}}}, {}),
    "plan": (FeatureNotAllowedError, {"plan_for": {"u1": "gold"}}, {"user_id": "u1"}),
    "feature": (
        FeatureNotAllowedError,
        {"policy": {"plans": {"default": {"features": ["search"]}}}},
        {"feature": "code_review"},
    ),
    "model": (FeatureNotAllowedError, {"policy": {"plans": {"default": {"models": ["gpt-4o"]}}}}, {}),
    "malformed": (InputRejectedError, {}, {"n": 0}),
    "too long": (InputRejectedError, {"policy": {"input": {"max_message_chars": 3}}}, {}),
    "too many bytes": (InputRejectedError, {"policy": {"input": {"max_request_bytes": 3}}}, {}),
    "too many tokens": (InputRejectedError, {"policy": {"input": {"max_context_tokens": 3}}}, {}),
    "injection": (InjectionDetectedError, {"checks": [DenyingCheck()]}, {}),
    "requests": (RateLimitExceededError, {"policy": limited("0 requests/day")}, {}),
    "tokens": (RateLimitExceededError, {"policy": limited("10 tokens/minute")}, {}),
    "concurrency": (RateLimitExceededError, {"policy": limited("0 concurrent")}, {}),
    "money": (BudgetExceededError, {"policy": limited("$0.0001/day")}, {}),
    "price": (UnpricedModelError, {}, {"model": "nobody-s-model"}),
    "hosted tool": (RouteBlockedError, {}, {"web_search_options": {}}),
    "store": (StoreUnavailableError, {"quota_store": BrokenStore()}, {}),
}


@pytest.mark.parametrize("reason", DENIALS)
async def test_a_denial_sends_nothing_is_not_retried_and_says_why_in_one_line(
    kind: Any, server: FakeOpenAI, reason: str
) -> None:
    error_class, settings, arguments = DENIALS[reason]
    sink = RecordingSink()
    client = kind(
        base_url=server.base_url, api_key="sk-secret", max_retries=3, sinks=[sink], clock=FakeClock(), **settings
    )
    with pytest.raises(DeniedError) as caught:
        await done(client.chat.completions.create(**{**ASK, **arguments}))
    error = caught.value
    await done(client.close())

    assert type(error) is error_class
    assert server.requests == []
    assert sink.records == [error.record]
    assert sink.last.outcome == "denied"
    assert sink.last.denial is not None
    assert sink.last.denial.code == error.code
    assert "\n" not in str(error)
    assert str(error) == error.message
    assert len(str(error)) < 400
    assert not re.search(f"{MARKER}|sk-secret|hunter2", repr(error) + str(error) + sink.last.model_dump_json())


SAYS = {
    "nobody": ("names no user", "required", "user_id="),
    "plan": ("'gold'", "[plans]"),
    "feature": ("'anonymous'", "'code_review'", "plan 'default'", "[plans.default] features"),
    "model": ("'gpt-4o-mini'", "plan 'default'", "[plans.default] models"),
    "too long": ("messages[0]", "[input] max_message_chars"),
    "too many bytes": ("[input] max_request_bytes",),
    "too many tokens": ("[input] max_context_tokens",),
    "injection": ("'anonymous'", "'suspicious'", "injection.override", "messages[0]"),
    "requests": ("'anonymous'", '"0 requests/day" of plan:default', "never fit"),
    "money": ("'anonymous'", '"$0.0001/day" of plan:default', "USD"),
    "price": ("'nobody-s-model'", "[prices."),
    "hosted tool": ("'web_search'", "[routes] hosted_tools"),
    "store": ("ConnectionError", "on_store_error"),
}


@pytest.mark.parametrize("reason", SAYS)
def test_a_denial_names_who_what_and_by_which_rule(server: FakeOpenAI, reason: str) -> None:
    _, settings, arguments = DENIALS[reason]
    message = str(denied(server, settings, **arguments))
    assert [words for words in SAYS[reason] if words not in message] == []


async def test_a_refused_limit_says_when_to_come_back(kind: Any, server: FakeOpenAI) -> None:
    """The clock stands at 08:00 UTC, 16 hours before the day is over."""
    client = kind(
        base_url=server.base_url, api_key="test", sinks=[], clock=FakeClock(), policy=limited("1 requests/day")
    )
    await done(client.chat.completions.create(**ASK, user_id="u1"))
    with pytest.raises(RateLimitExceededError) as caught:
        await done(client.chat.completions.create(**ASK, user_id="u1"))
    await done(client.close())
    error = caught.value
    assert str(error) == (
        "User 'u1' is denied by the limit \"1 requests/day\" of plan:default: 1 requests used, 0 held, 1 more asked. "
        "Try again in 16 h."
    )
    assert (error.limit, error.scope, error.retry_after) == ("1 requests/day", {"user": "u1"}, 57_600)
    assert (error.used, error.held, error.requested) == (1, 0, 1)
    assert error.to_problem() == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Rate limit exceeded",
        "status": 429,
        "detail": str(error),
        "code": "rate_limit_exceeded",
        "limit": "1 requests/day",
        "scope": {"user": "u1"},
        "used": 1,
        "held": 0,
        "requested": 1,
        "retry_after": 57_600,
    }


def test_a_refused_budget_speaks_of_dollars_exactly(server: FakeOpenAI) -> None:
    """gpt-4o-mini: 8 counted tokens of input at 150 nano-USD, 1,000 of output at 600."""
    hi = [{"role": "user", "content": "hi"}]
    error = denied(server, {"policy": limited("$0.0005/day")}, messages=hi)
    assert (error.used, error.held, error.requested) == (Decimal(0), Decimal(0), Decimal("0.0006012"))
    assert {type(amount) for amount in (error.used, error.held, error.requested)} == {Decimal}
    assert error.retry_after is None
    problem = error.to_problem()
    assert (problem["used"], problem["held"], problem["requested"]) == ("0", "0", "0.0006012")
    assert "retry_after" not in problem


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RateLimitExceededError("No."), "quota-exceeded"),
        (BudgetExceededError("No."), "quota-exceeded"),
        (SwitchedOffError("No."), "temporary-reduced-capacity"),
        (StoreUnavailableError("No."), "temporary-reduced-capacity"),
        (FeatureNotAllowedError("No."), None),
        (InputRejectedError("No.", code="too_many_images", status_code=413), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_problem_has_what_rfc_9457_asks_for(error: DeniedError, kind: str | None) -> None:
    problem = error.to_problem()
    assert problem["type"] == (f"https://iana.org/assignments/http-problem-types#{kind}" if kind else "about:blank")
    assert (problem["status"], problem["detail"], problem["code"]) == (error.status_code, "No.", error.code)
    assert problem["title"]
    assert problem.keys() == {"type", "title", "status", "detail", "code"}


def test_a_problem_s_wait_is_whole_seconds_rounded_up() -> None:
    assert RateLimitExceededError("No.", retry_after=0.2).to_problem()["retry_after"] == 1


@pytest.mark.parametrize("kind_of_input", ["too long", "too many bytes", "too many tokens"])
def test_what_is_too_large_is_a_413(server: FakeOpenAI, kind_of_input: str) -> None:
    _, settings, _ = DENIALS[kind_of_input]
    assert denied(server, settings).status_code == 413


async def test_a_denial_carries_its_cause_and_its_record(kind: Any, server: FakeOpenAI) -> None:
    client = kind(base_url=server.base_url, api_key="test", sinks=[], quota_store=BrokenStore())
    with pytest.raises(StoreUnavailableError) as caught:
        await done(client.chat.completions.create(**ASK, user_id="u1"))
    await done(client.close())
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert caught.value.record is not None
    assert caught.value.record.user_id == "u1"


# Met by programs that know only the SDK -------------------------------------------------------------------------------


async def test_a_program_that_catches_the_sdk_s_errors_catches_ours(kind: Any, server: FakeOpenAI) -> None:
    client = kind(base_url=server.base_url, api_key="test", sinks=[], policy=limited("0 requests/day"))
    with pytest.raises(openai.OpenAIError):
        await done(client.chat.completions.create(**ASK))
    await done(client.close())


async def test_a_missed_deadline_is_the_sdk_s_time_out(kind: Any, server: FakeOpenAI) -> None:
    server.script(Reply(delay=3))
    client = kind(base_url=server.base_url, api_key="test", sinks=[], policy={"time": {"deadline_seconds": 0.2}})
    with pytest.raises(openai.APITimeoutError) as caught:
        await done(client.chat.completions.create(**ASK))
    await done(client.close())
    error = caught.value
    assert isinstance(error, DeadlineExceededError)
    assert isinstance(error, openai.APIConnectionError)
    assert error.deadline_seconds == 0.2
    assert error.record is not None
    assert error.record.outcome == "timeout"
    assert "0.2 s" in str(error)


async def test_the_provider_s_own_errors_come_through_as_they_are(kind: Any, server: FakeOpenAI) -> None:
    server.script(Reply(status=404), Reply(status=429, headers={"Retry-After": "60"}))
    client = kind(base_url=server.base_url, api_key="test", sinks=[], max_retries=0)
    with pytest.raises(openai.NotFoundError):
        await done(client.chat.completions.create(**ASK))
    with pytest.raises(openai.RateLimitError) as caught:
        await done(client.chat.completions.create(**ASK))
    await done(client.close())
    assert not isinstance(caught.value, SafeLLMError)


def test_a_configuration_error_is_a_value_error_as_well() -> None:
    with pytest.raises(ValueError, match="modee"):
        Policy.of({"modee": "shadow"})


# Travelling -----------------------------------------------------------------------------------------------------------


def travelled(error: BaseException) -> Any:
    return pickle.loads(pickle.dumps(error))


@pytest.mark.parametrize("error", CODES, ids=lambda error: error.__name__)
def test_a_denial_can_be_pickled(error: type[DeniedError]) -> None:
    about: dict[str, Any] = {"limit": "1 requests/day", "scope": {"user": "u1"}, "used": Decimal("0.1")}
    made = error("No.", code="special", status_code=418, retry_after=2.5, **about)
    back = travelled(made)
    assert type(back) is error
    assert str(back) == "No."
    assert back.to_problem() == made.to_problem()
    assert vars(back) == vars(made)


def test_the_other_errors_can_be_pickled() -> None:
    rejected = travelled(OutputRejectedError("No.", rule="secrets"))
    assert (str(rejected), rejected.rule, rejected.record) == ("No.", "secrets", None)
    late = travelled(DeadlineExceededError(0.5, request=object()))
    assert (late.deadline_seconds, str(late)) == (0.5, str(DeadlineExceededError(0.5)))
    assert str(travelled(ConfigurationError("Bad."))) == "Bad."


def test_a_denial_from_a_real_call_can_be_pickled_with_its_record(server: FakeOpenAI) -> None:
    error = denied(server, {"policy": limited("0 requests/day")}, tags={"team": "red"})
    back = travelled(error)
    assert back.record == error.record
    assert back.record.tags == {"team": "red"}


def test_a_missed_deadline_can_be_pickled_and_shown(server: FakeOpenAI) -> None:
    server.script(Reply(delay=3))
    with (
        SafeOpenAI(base_url=server.base_url, api_key="test", sinks=[]) as client,
        pytest.raises(DeadlineExceededError) as caught,
    ):
        client.chat.completions.create(**ASK, timeout=0.2)
    assert travelled(caught.value).record == caught.value.record
    assert "DeadlineExceededError" in repr(caught.value)
