"""What the headers say, without a server."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_llm import (
    BudgetExceededError,
    DeadlineExceededError,
    InputRejectedError,
    LimitStatus,
    NotAuthenticatedError,
    OutputRejectedError,
    RateLimitExceededError,
)
from safe_llm.web.headers import bearer, challenge, length, of_denial, of_limits
from safe_llm.web.problems import answer_to, refusal_in

NOW = datetime(2026, 2, 10, tzinfo=UTC).timestamp()


def status(limit: str, remaining: int | Decimal, resets: datetime | None, **scope: str) -> LimitStatus:
    return LimitStatus(limit, scope or {"user": "u1"}, 0, 0, remaining, resets)


def test_limits_are_told_in_whole_numbers_and_money_in_micro_usd() -> None:
    told = dict(
        of_limits(
            [
                status("10 requests/minute", 3, datetime(2026, 2, 10, 0, 0, 30, 500_000, tzinfo=UTC)),
                status("$0.50/day", Decimal("0.1234567"), datetime(2026, 2, 11, tzinfo=UTC)),
                status("$10/month", Decimal(0), datetime(2026, 3, 1, tzinfo=UTC)),
                status("4 concurrent", 4, None),
            ],
            NOW,
        )
    )
    assert told == {
        "RateLimit-Policy": '"10 requests/minute";q=10;w=60, "$0.50/day";q=500000;w=86400, '
        '"$10/month";q=10000000;w=2419200, "4 concurrent";q=4',
        "RateLimit": '"10 requests/minute";r=3;t=31, "$0.50/day";r=123456;t=86400, '
        '"$10/month";r=0;t=1641600, "4 concurrent";r=4',
    }


def test_what_all_users_together_may_spend_is_not_told_but_how_often_they_may_call_is() -> None:
    """The one is a secret of the business, the other what a client needs to know when to come back."""
    day = datetime(2026, 2, 11, tzinfo=UTC)
    told = of_limits([status("$500/day", Decimal(7), day, feature="f"), status("9 requests/day", 2, day, app="")], NOW)
    assert "500" not in str(told)
    assert '"9 requests/day";r=2' in str(told)


def test_of_two_limits_that_read_alike_the_tighter_one_is_told() -> None:
    day = datetime(2026, 2, 11, tzinfo=UTC)
    told = dict(of_limits([status("9 requests/day", 5, day), status("9 requests/day", 2, day, feature="f")], NOW))
    assert told["RateLimit"] == '"9 requests/day";r=2;t=86400'


def test_no_limits_are_no_headers() -> None:
    assert of_limits([], NOW) == []
    assert of_denial(InputRejectedError("Too long."), NOW) == []


TAGS = st.text(st.characters(exclude_categories=["Cs"]).filter(lambda c: c != "," and not c.isspace()), min_size=1)


@given(TAGS)
def test_a_name_is_always_printable_ascii_in_quotes(tag: str) -> None:
    """Whatever a policy calls its tags, no name ends its string or its header."""
    told = dict(of_limits([status(f"9 requests/day per tag:{tag}", 1, datetime(2026, 2, 11, tzinfo=UTC))], NOW))
    name, _, rest = told["RateLimit"].rpartition('"')
    assert rest == ";r=1;t=86400"
    assert name.isascii()
    assert name.isprintable()
    assert '"' not in name[1:].replace("\\\\", "").replace('\\"', "")


def test_a_denial_tells_of_the_limit_that_refused() -> None:
    error = RateLimitExceededError("No.", limit="10 requests/minute", used=9, held=1, requested=1, retry_after=12.3)
    answer = answer_to(error, NOW)
    headers = dict(answer.headers)
    assert answer.status == 429
    assert headers["Retry-After"] == "13"
    assert headers["RateLimit-Policy"] == '"10 requests/minute";q=10;w=60'
    assert headers["RateLimit"] == '"10 requests/minute";r=0;t=13'


def test_a_denial_that_waiting_does_not_help_names_no_time() -> None:
    error = BudgetExceededError(
        "No.", limit="$0.50/day", used=Decimal("0.2"), held=Decimal(0), requested=Decimal(1), retry_after=None
    )
    headers = dict(answer_to(error, NOW).headers)
    assert "Retry-After" not in headers
    assert headers["RateLimit"] == '"$0.50/day";r=300000'


def test_a_deadline_is_a_504_and_a_rejected_answer_a_502() -> None:
    late, unfit = answer_to(DeadlineExceededError(30), NOW), answer_to(OutputRejectedError("No.", rule="r"), NOW)
    assert (late.status, unfit.status) == (504, 502)
    assert all(("Content-Type", "application/problem+json") in each.headers for each in (late, unfit))


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    error.__cause__ = cause
    return error


def test_a_refusal_is_found_in_groups_and_causes_but_not_in_what_was_merely_being_handled() -> None:
    denied = RateLimitExceededError("No.")
    assert refusal_in(denied) is denied
    assert refusal_in(raised(RuntimeError("retries"), raised(ValueError("inner"), denied))) is denied
    assert refusal_in(ExceptionGroup("both", [KeyError("k"), ExceptionGroup("one", [denied])])) is denied
    own = KeyError("a bug in the fallback")
    own.__context__ = denied
    assert refusal_in(own) is None


def test_causes_that_go_round_in_a_circle_are_left() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert refusal_in(first) is None


@pytest.mark.parametrize("value", ["Bearer abc.DEF-_~+/9==", "bearer abc", "BEARER   abc", " Bearer abc "])
def test_one_bearer_token_is_taken_however_its_scheme_is_written(value: str) -> None:
    assert bearer([value]) == value.split()[1]


@pytest.mark.parametrize(
    "values",
    [
        [],
        ["Bearer a", "Bearer a"],
        ["Bearer a, Bearer b"],
        ["Bearer a b"],
        ["Bearer"],
        ["Bearer "],
        ["Bearera"],
        ["Basic abc"],
        ["abc"],
        ["Bearer ä"],
        ["Bearer a\nb"],
        ["Bearer\ta"],
        [""],
    ],
)
def test_anything_but_one_bearer_token_is_refused(values: list[str]) -> None:
    with pytest.raises(NotAuthenticatedError):
        bearer(values)


def test_only_a_request_with_a_token_is_told_that_it_is_invalid() -> None:
    assert challenge([]) == challenge(["Basic x"]) == "Bearer"
    assert challenge(["Bearer x"]) == 'Bearer error="invalid_token"'


@pytest.mark.parametrize(
    ("lengths", "encodings", "status"),
    [
        (["11"], [], 413),
        (["9" * 18], [], 413),
        (["9" * 30], [], 413),
        (["-1"], [], 400),
        (["+1"], [], 400),
        (["1_0"], [], 400),
        (["0x9"], [], 400),
        ([""], [], 400),
        (["٣"], [], 400),
        (["5", "5"], [], 400),
        (["5, 6"], [], 400),
        (["5"], ["chunked"], 400),
    ],
)
def test_a_length_that_is_too_large_or_cannot_be_trusted_is_refused(
    lengths: list[str], encodings: list[str], status: int
) -> None:
    with pytest.raises(InputRejectedError) as caught:
        length(lengths, encodings, 10)
    assert caught.value.status_code == status


def test_a_length_up_to_the_limit_is_taken() -> None:
    assert length(["10"], [], 10) == 10
    assert length([], ["chunked"], 10) is None
    assert length([], [], 10) is None
