"""From a call to its charges, and from its outcome to its usage, its errors and its record."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_llm.accounting import (
    Amounts,
    as_denial,
    charges,
    dimensions,
    duration,
    plain,
    record,
    refused,
    settled_usage,
    switched_off,
    values_of,
)
from safe_llm.endpoints.chat import CHAT
from safe_llm.errors import BudgetExceededError, RateLimitExceededError, SwitchedOffError
from safe_llm.guard import Guard
from safe_llm.identity import ANONYMOUS, Claim
from safe_llm.limits import Calendar, Limit, PlacedLimit
from safe_llm.policy import Policy
from safe_llm.testing import FakeClock
from safe_llm.types import Admission, Call, Outcome, Refusal, Usage, UsageRecord

NOW = datetime(2027, 6, 15, 12, tzinfo=UTC)
U1 = Claim("u1")
GUARD = Guard(Policy(), clock=FakeClock(), hash_key=b"key")


def limit(sentence: str) -> Limit:
    return Limit.parse(sentence)


def placed(sentence: str) -> PlacedLimit:
    return PlacedLimit.at("plan:pro", limit(sentence))


def admission(identity: Claim = U1, **fields: Any) -> Admission:
    call = Call(CHAT, {}, identity, model="gpt-4o")
    return Admission("id", call, identity, began=5.0, timestamp=NOW, guard=GUARD, **fields)


# Charges --------------------------------------------------------------------------------------------------------------


def test_a_call_has_the_dimensions_that_it_names() -> None:
    known = admission(Claim("u1", "chat", "s1", tags={"team": "blue"}), plan="pro", prompt_hash="abc")
    assert dimensions(known) == {
        "user": "u1",
        "feature": "chat",
        "session": "s1",
        "plan": "pro",
        "model": "gpt-4o",
        "prompt": "abc",
        "tag:team": "blue",
    }


def test_who_names_nobody_is_anonymous() -> None:
    assert values_of(Claim(), plan=None, model=None, prompt_hash=None)["user"] == ANONYMOUS


def test_a_tag_cannot_stand_for_another_dimension() -> None:
    values = values_of(Claim("u1", tags={"user": "u2", "feature": "x"}), plan=None, model=None, prompt_hash=None)
    assert (values["user"], values["feature"], values["tag:user"]) == ("u1", None, "u2")


USED = Usage(10, 5, cached_input_tokens=4, reasoning_tokens=3)


@pytest.mark.parametrize(
    ("sentence", "amount"),
    [
        ("9 requests/day", 1),
        ("9 tokens/day", 15),
        ("9 input_tokens/day", 10),
        ("9 output_tokens/day", 5),
        ("$9/day", 7),
        ("9 concurrent", 1),
    ],
)
def test_every_metric_has_its_amount_and_nothing_is_counted_twice(sentence: str, amount: int) -> None:
    assert Amounts(USED, 7).of(limit(sentence).metric) == amount


def test_charges_stand_in_the_policys_order_each_in_its_window() -> None:
    limits = [placed(text) for text in ("$1/day", "5 concurrent", "5 requests/minute", "5 tokens/month")]
    made = charges(limits, Calendar(ZoneInfo("UTC")), NOW.timestamp(), {"user": "u1"}, Amounts(USED, 7))
    assert [of for of, _ in made] == limits
    assert [(charge.amount, charge.kind) for _, charge in made] == [
        (7, "fixed"),
        (1, "held"),
        (1, "sliding"),
        (15, "fixed"),
    ]


def test_no_money_is_no_charge_and_no_tokens_still_are_one() -> None:
    limits = [placed("$1/day"), placed("5 tokens/day")]
    made = charges(limits, Calendar(ZoneInfo("UTC")), NOW.timestamp(), {"user": "u1"}, Amounts(Usage(), 0))
    assert [str(of.limit) for of, _ in made] == ["5 tokens/day"]


# Usage ----------------------------------------------------------------------------------------------------------------

tokens = st.integers(0, 100)


def test_the_provider_is_believed() -> None:
    assert settled_usage(admission(), Outcome(usage=Usage(10**6, 0)), None) == (Usage(10**6, 0), "provider")
    assert settled_usage(admission(), Outcome(usage=Usage(0, 0)), (5, 5)) == (Usage(0, 0), "provider")


def test_what_was_not_billed_is_nothing() -> None:
    assert settled_usage(admission(input_tokens=9), Outcome(unbilled=True), (5, 5)) == (Usage(), "none")


@given(tokens, tokens, st.one_of(st.none(), st.tuples(tokens, tokens)))
def test_an_estimate_is_what_was_seen_or_everything_and_never_above_the_bound(
    given_bound: int, generated_bound: int, seen: tuple[int, int] | None
) -> None:
    admitted = admission(input_tokens=given_bound, output_tokens=generated_bound)
    usage, source = settled_usage(admitted, Outcome(), seen)
    assert source == "estimated"
    if seen is None:
        assert usage == Usage(given_bound, generated_bound)
    else:
        assert usage == Usage(min(seen[0], given_bound), min(seen[1], generated_bound))


# Errors ---------------------------------------------------------------------------------------------------------------


def refusal(sentence: str, used: int, held: int, asked: int, wait: float | None) -> RateLimitExceededError | Any:
    of = placed(sentence)
    window = None if of.limit.window is None else Calendar(ZoneInfo("UTC")).window(of.limit.window, NOW.timestamp())
    charge = of.charge(asked, {"user": "u1"}, window, NOW.timestamp())
    return refused(admission(), of, charge, Refusal(0, used, held, wait), {"user": "u1"})


def test_a_rate_limit_says_who_what_and_when() -> None:
    error = refusal("50_000 tokens/day", 49_000, 500, 1_200, 90.2)
    assert type(error) is RateLimitExceededError
    assert (error.limit, error.scope) == ("50_000 tokens/day", {"user": "u1"})
    assert (error.used, error.held, error.requested, error.retry_after) == (49_000, 500, 1_200, 90.2)
    assert str(error) == (
        "User 'u1' is denied by the limit \"50_000 tokens/day\" of plan:pro: 49_000 tokens used, 500 held, "
        "1_200 more asked. Try again in 91 s."
    )


def test_a_budget_speaks_of_usd_without_exponents() -> None:
    error = refusal("$0.50/day", 499_999_990, 0, 20, None)
    assert type(error) is BudgetExceededError
    assert (error.used, error.held, error.requested) == (Decimal("0.49999999"), 0, Decimal("0.00000002"))
    assert "0.49999999 USD used, 0 held, 0.00000002 more asked. It can never fit" in str(error)
    assert error.to_problem()["requested"] == "0.00000002"


@pytest.mark.parametrize(
    ("sentence", "unit"),
    [
        ("1 concurrent", "1 calls used"),
        ("1 input_tokens/day", "1 input tokens used"),
        ("1 requests/day", "1 requests used"),
    ],
)
def test_the_unit_is_named(sentence: str, unit: str) -> None:
    assert unit in str(refusal(sentence, 1, 0, 1, 5.0))


@pytest.mark.parametrize(
    ("pairs", "call"),
    [
        ((), "switch_on()"),
        ((("feature", "chat"), ("user", "u1")), "switch_on(feature='chat', user_id='u1')"),
        ((("model", "gpt-4o"), ("plan", "pro")), "switch_on(model='gpt-4o', plan='pro')"),
    ],
)
def test_a_switch_says_how_to_switch_it_on_again(pairs: tuple[tuple[str, str], ...], call: str) -> None:
    error = switched_off(admission(), pairs)
    assert type(error) is SwitchedOffError
    assert f"client.guard.{call} " in str(error)
    assert error.scope == dict(pairs)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.001, "1 s"),
        (1, "1 s"),
        (119, "119 s"),
        (119.5, "2 min"),
        (120, "2 min"),
        (121, "3 min"),
        (7_140, "119 min"),
        (7_141, "2 h"),
        (7_201, "2 h 1 min"),
        (19_200, "5 h 20 min"),
        (172_800, "2 d"),
        (172_801, "3 d"),
        (2_592_000, "30 d"),
    ],
)
def test_a_wait_is_told_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@given(st.floats(0, 10**8))
def test_a_wait_is_never_told_shorter_than_it_is(seconds: float) -> None:
    sizes = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}
    words = duration(seconds).split()
    told = sum(int(number) * sizes[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert seconds <= told <= seconds + 1 or told <= seconds * 2


def test_amounts_are_told_plainly() -> None:
    assert [plain(1_000_000), plain(Decimal("1E-9")), plain(Decimal("1E+3"))] == ["1_000_000", "0.000000001", "1000"]


# Records --------------------------------------------------------------------------------------------------------------


def made(admitted: Admission, outcome: Outcome | None, usage: Usage, source: str, cost: int | None) -> UsageRecord:
    return UsageRecord.model_validate(record(admitted, outcome, usage, source, cost, ended=7.25))


def test_a_record_tells_all_of_a_call() -> None:
    admitted = admission(Claim("u1", "chat", "s1", tags={"team": "blue"}), plan="pro", prompt_hash="abc", trimmed=3)
    admitted.input_tokens, admitted.cost, admitted.cap_sent, admitted.degraded = 20, 9, 100, True
    outcome = Outcome(response_model="gpt-4o-2024-08-06", request_id="req_1", attempts=2, first_token=5.5)
    found = made(admitted, outcome, USED, "provider", 7)
    assert found.model_dump(exclude_defaults=True) == {
        "record_id": "id",
        "timestamp": NOW,
        "user_id": "u1",
        "feature": "chat",
        "session_id": "s1",
        "plan": "pro",
        "tags": {"team": "blue"},
        "endpoint": "chat.completions",
        "model": "gpt-4o",
        "response_model": "gpt-4o-2024-08-06",
        "request_id": "req_1",
        "outcome": "ok",
        "attempts": 2,
        "prompt_hash": "abc",
        "input_tokens_estimated": 20,
        "input_tokens": 10,
        "cached_input_tokens": 4,
        "output_tokens": 5,
        "reasoning_tokens": 3,
        "total_tokens": 15,
        "usage_source": "provider",
        "cost_reserved_usd": Decimal("0.000000009"),
        "cost_usd": Decimal("0.000000007"),
        "max_tokens": 100,
        "trimmed_messages": 3,
        "latency_ms": 2_250.0,
        "first_token_ms": 500.0,
        "degraded": True,
    }


def test_a_record_of_what_was_not_sent_is_a_denial() -> None:
    admitted = admission()
    admitted.denial = refusal("$0.50/day", 5, 0, 2, 30.0)
    found = made(admitted, None, Usage(), "none", 0)
    assert (found.outcome, found.attempts, found.error, found.request_id) == ("denied", 0, None, None)
    assert found.denial is not None
    assert found.denial == as_denial(admitted.denial)
    assert found.denial.model_dump() == {
        "code": "budget_exceeded",
        "limit": "$0.50/day",
        "scope": {"user": "u1"},
        "retry_after": 30.0,
    }


def test_a_record_names_the_class_of_an_error_and_never_its_message() -> None:
    found = made(admission(), Outcome(error=ValueError("the prompt"), ended="error"), Usage(), "none", 0)
    assert (found.outcome, found.error) == ("error", "ValueError")
    assert "the prompt" not in found.model_dump_json()


def test_a_cost_that_is_not_known_is_not_zero() -> None:
    found = made(admission(), Outcome(), USED, "provider", None)
    assert (found.cost_usd, found.cost_reserved_usd) == (None, None)
