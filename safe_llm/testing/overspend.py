"""The proof that a test of limits ends with."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from ..types import LimitStatus, UsageRecord
from .sink import RecordingSink


def assert_no_overspend(
    records: Iterable[UsageRecord] | RecordingSink,
    *,
    limit_usd: Decimal | str | int | None = None,
    limit_requests: int | None = None,
    limit_tokens: int | None = None,
    guard_usage: Iterable[LimitStatus] = (),
) -> None:
    """Assert that the calls in `records` together stayed within the limits, which are inclusive.

    Denied calls, and those that the provider refused, cost nothing and are left out. Unknown is never zero: under
    `limit_usd` every other record must have a cost, under `limit_tokens` a usage. No records at all prove nothing, so
    they fail too.

    Args:
        records: what the sinks were given, or the `RecordingSink` itself.
        limit_usd: exact; a `Decimal`, an int or a string such as ``"0.50"``.
        limit_requests: calls, however often each was retried.
        limit_tokens: input plus output.
        guard_usage: ``client.guard.usage(...)``, taken when all calls are over: nothing may still be held, and no
            limit may be exceeded.

    Raises:
        AssertionError: names every figure that does not hold, and its limit.
        TypeError: no limit at all was given, or `limit_usd` is a float.
    """
    statuses = list(guard_usage)
    if limit_usd is None and limit_requests is None and limit_tokens is None and not statuses:
        raise TypeError("Give at least one of limit_usd, limit_requests, limit_tokens and guard_usage.")
    if isinstance(limit_usd, float):
        raise TypeError(f"limit_usd must be exact: a Decimal, an int or a string, not the float {limit_usd!r}.")

    everything = records.records if isinstance(records, RecordingSink) else list(records)
    billed = [record for record in everything if not _is_free(record)]
    problems = [] if everything else ["there are no records; is the sink passed to the client?"]
    if limit_usd is not None:
        problems += _money(billed, Decimal(limit_usd))
    if limit_requests is not None and len(billed) > limit_requests:
        problems.append(f"{len(billed)} requests exceed limit_requests={limit_requests}")
    if limit_tokens is not None:
        problems += _tokens(billed, limit_tokens)
    problems += [f"{_name(status)} still holds {status.held}" for status in statuses if status.held]
    problems += [
        f"{_name(status)} is overdrawn: {status.used} used, {status.remaining} remaining"
        for status in statuses
        if status.remaining < 0
    ]
    if problems:
        raise AssertionError(f"Overspend in {len(billed)} billed of {len(everything)} calls: {'; '.join(problems)}")


def _is_free(record: UsageRecord) -> bool:
    return record.usage_source == "none" and record.outcome in ("denied", "error")


def _money(billed: list[UsageRecord], limit: Decimal) -> list[str]:
    costs = [record.cost_usd for record in billed if record.cost_usd is not None]
    unknown, total = len(billed) - len(costs), sum(costs, Decimal(0))
    problems = [f"calls without a known cost: {unknown}"] if unknown else []
    if total > limit:
        problems.append(f"${total} exceed limit_usd=${limit}")
    return problems


def _tokens(billed: list[UsageRecord], limit: int) -> list[str]:
    unknown = sum(record.usage_source == "none" for record in billed)
    total = sum(record.total_tokens for record in billed)
    problems = [f"calls without a known usage: {unknown}"] if unknown else []
    if total > limit:
        problems.append(f"{total} tokens exceed limit_tokens={limit}")
    return problems


def _name(status: LimitStatus) -> str:
    scope = ", ".join(f"{dimension} {value}" for dimension, value in status.scope.items())
    return f"{status.limit!r} of {scope}" if scope else f"{status.limit!r}"
