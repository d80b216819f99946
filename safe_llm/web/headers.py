"""What the headers of a request say, and those of an answer: bearer tokens, lengths, ``RateLimit``. Nothing waits."""

from __future__ import annotations

import math
import re
from calendar import monthrange
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

from ..errors import DeniedError, InputRejectedError, NotAuthenticatedError
from ..limits import Limit
from ..types import LimitStatus

Header = tuple[str, str]

_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9\-._~+/]+=*)")
"""RFC 6750, 2.1. No comma and no space: what a server has joined of several headers does not fit."""
_LENGTH = re.compile(r"[0-9]{1,4000}")
"""More digits Python does not turn into a number."""
_SECONDS = {"minute": 60, "hour": 3_600, "day": 86_400, "week": 604_800}
_LARGEST = 999_999_999_999_999
"""Of an integer in a header (RFC 9651, 3.3.1)."""
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
_MICRO = 1_000_000


def bearer(values: Sequence[str]) -> str:
    """The token in the values of all the ``Authorization`` headers of a request.

    Raises:
        NotAuthenticatedError: there is not exactly one header, or it is not a bearer token.
    """
    if not values:
        raise NotAuthenticatedError(
            "The request has no token: send one as Authorization: Bearer <token>.", code="token_missing"
        )
    if len(values) > 1:
        raise NotAuthenticatedError("The request has several Authorization headers: send one.", code="token_ambiguous")
    match = _BEARER.fullmatch(values[0].strip(" \t"))
    if match is None:
        raise NotAuthenticatedError(
            "The Authorization header holds no bearer token: send it as Authorization: Bearer <token>.",
            code="token_unreadable",
        )
    return match[1]


def challenge(values: Sequence[str]) -> str:
    """The ``WWW-Authenticate`` of a 401 (RFC 6750, 3): with an error where the request had a bearer token."""
    given = any(value.strip().lower().startswith("bearer") for value in values)
    return 'Bearer error="invalid_token"' if given else "Bearer"


def length(lengths: Sequence[str], encodings: Sequence[str], most: int) -> int | None:
    """The length of a request's body, from its ``Content-Length`` headers; None where none is told.

    Raises:
        InputRejectedError: 413, it is longer than `most` bytes; 400, it cannot be read, or there are two ways to tell
            where the body ends, by which requests are smuggled.
    """
    if not lengths:
        return None
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]) or encodings:
        raise InputRejectedError(
            "Where the request's body ends is told in a way that cannot be trusted: send one Content-Length, in "
            "digits, or Transfer-Encoding.",
            code="content_length",
        )
    size = int(lengths[0])
    if size > most:
        raise too_large(most)
    return size


def too_large(most: int) -> InputRejectedError:
    return InputRejectedError(
        f"The request's body is longer than {most:,} bytes (max_body_bytes): send less.",
        code="body_too_large",
        status_code=413,
    )


def too_slow(seconds: float) -> InputRejectedError:
    return InputRejectedError(
        f"The request's body did not arrive within {seconds:g} s (body_seconds): send it again.",
        code="body_too_slow",
        status_code=408,
    )


def incomplete() -> InputRejectedError:
    return InputRejectedError("The request's body ended before its length.", code="body_incomplete")


# RateLimit ------------------------------------------------------------------------------------------------------------


_limit = lru_cache(256)(Limit.parse)
"""A policy has few sentences, and each answer tells of them."""


class _Item(NamedTuple):
    """One limit, as both headers tell of it."""

    limit: Limit
    remaining: int
    resets: float | None
    """Seconds from now."""
    ends: float


def of_limits(statuses: Iterable[LimitStatus], now: float) -> list[Header]:
    """``RateLimit-Policy`` and ``RateLimit`` of how limits stand; nothing where there are none.

    What all users together may spend in money is left out: it is not one caller's to know.
    """
    items: dict[str, _Item] = {}
    for status in statuses:
        limit = _limit(status.limit)
        if limit.metric == "money" and "user" not in status.scope:
            continue
        ends = now if status.resets_at is None else status.resets_at.timestamp()
        resets = None if limit.window is None else ends - now
        item = _Item(limit, _whole(status.remaining), resets, ends)
        # The plan's and a feature's may read alike: the tighter one decides.
        known = items.get(limit.text)
        if known is None or item.remaining < known.remaining:
            items[limit.text] = item
    return _headers(list(items.values()))


def of_denial(error: BaseException, now: float) -> list[Header]:
    """The same of the limit that refused; nothing where it was no limit."""
    if not isinstance(error, DeniedError) or error.limit is None:
        return []
    limit = _limit(error.limit)
    amount = limit.shown(limit.amount)
    remaining = max(amount - (error.used or 0) - (error.held or 0), 0)
    ends = now + (error.retry_after or 0)
    return _headers([_Item(limit, _whole(remaining), error.retry_after, ends)])


def _headers(items: Sequence[_Item]) -> list[Header]:
    if not items:
        return []
    policies, states = [], []
    for limit, remaining, resets, ends in items:
        name, most = _quota(limit)
        window = "" if limit.window is None else f";w={_window(limit.window, ends)}"
        policies.append(f"{name};q={most}{window}")
        states.append(f"{name};r={remaining}" + ("" if resets is None else f";t={max(math.ceil(resets), 0)}"))
    return [("RateLimit-Policy", ", ".join(policies)), ("RateLimit", ", ".join(states))]


@lru_cache(256)
def _quota(limit: Limit) -> tuple[str, int]:
    """A limit's name and amount, as both headers write them."""
    return _string(limit.text), _whole(limit.shown(limit.amount))


def _whole(amount: int | Decimal) -> int:
    """An amount as a header can hold it: money in micro-USD, rounded down."""
    return min(int(amount * _MICRO) if isinstance(amount, Decimal) else amount, _LARGEST)


def _window(unit: str, ends: float) -> int:
    """The seconds of a window; of a month, those of the one that ends then."""
    if unit != "month":
        return _SECONDS[unit]
    # A day before, so that a time zone does not make it the next one.
    within = datetime.fromtimestamp(ends, UTC) - timedelta(days=1)
    return monthrange(within.year, within.month)[1] * 86_400


def _string(text: str) -> str:
    """A text as a string of structured fields, which knows only printable ASCII (RFC 9651, 3.3.3)."""
    plain = quote(text, safe=_PRINTABLE).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{plain}"'
