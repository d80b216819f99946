"""How often, and how much: exact counts, under any number of requests at once."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from safe_llm.testing import Reply

from .abuse import Row, more_than
from .host import within
from .stage import Target

row = Row("Rate limiting")

A_MINUTE = 10
"""Requests of the free plan."""
PARALLEL = 40


def limits(*sentences: str) -> dict[str, Any]:
    """A policy whose free plan has these limits, so that nothing else decides."""
    return {"plans": {"free": {"limits": list(sentences), "features": ["chat_support"]}}}


AGREED = limits("10 requests/minute")


@row("40 requests at once", policy=AGREED, exactly=A_MINUTE)
def burst(target: Target) -> str | None:
    target.burst([{"text": f"Question {number}."} for number in range(PARALLEL)])
    return more_than(target, A_MINUTE)


@row("40 requests one after another", policy=AGREED, exactly=A_MINUTE)
def series(target: Target) -> str | None:
    for number in range(PARALLEL):
        target.ask(f"Question {number}.")
    return more_than(target, A_MINUTE)


@row("40 requests at once, each with a token of its own", policy=AGREED, exactly=A_MINUTE)
def many_tokens(target: Target) -> str | None:
    target.burst([{"text": f"Question {n}.", "token": target.token(jti=str(n))} for n in range(PARALLEL)])
    return more_than(target, A_MINUTE)


@row("40 requests at once, each from another address", policy=AGREED, exactly=A_MINUTE)
def many_addresses(target: Target) -> str | None:
    target.burst([{"text": f"Question {n}.", "headers": {"X-Forwarded-For": f"10.0.0.{n}"}} for n in range(PARALLEL)])
    return more_than(target, A_MINUTE)


@row("40 requests at once, each with a session and a tag of its own", policy=AGREED, exactly=A_MINUTE)
def many_sessions(target: Target) -> str | None:
    calls = [{"text": f"Question {n}.", "headers": {"X-Session-Id": str(n), "X-Tag": str(n)}} for n in range(PARALLEL)]
    target.burst(calls)
    return more_than(target, A_MINUTE)


@row("40 requests at once, each for a feature of its own")
def many_features(target: Target) -> str | None:
    target.burst([{"text": f"Question {n}.", "feature": f"chat_support{n}"} for n in range(PARALLEL)])
    return more_than(target, A_MINUTE)


@row("40 answers of 1,000 tokens at once", policy=limits("20_000 tokens/day"), exactly=18)
def tokens_at_once(target: Target) -> str | None:
    with held(target, PARALLEL):
        target.burst([{"text": f"Question {n}."} for n in range(PARALLEL)])
    tokens = target.provider.tokens
    return f"{tokens:,} tokens served, 20,000 are agreed" if tokens > 20_000 else None


@row("the same prompt over and over")
def loop(target: Target) -> str | None:
    for _ in range(9):
        target.ask("Try again.")
    return more_than(target, 5)


@row("20 streams held open")
def many_streams(target: Target) -> str | None:
    target.provider.always(Reply(chunks=50, drip=0.05))
    target.burst([{"text": f"Story {n}.", "stream": True, "timeout": 1.5} for n in range(20)])
    return f"{target.provider.peak} streams at once, 4 are agreed" if target.provider.peak > 4 else None


@contextmanager
def held(target: Target, calls: int) -> Iterator[None]:
    """The provider answers only when every call has either reached it or been refused, so that none profits from one
    that has already ended."""
    target.provider.always(Reply(chunks=16_384, delay=math.inf))

    def release() -> None:
        within(20, lambda: target.sent + len(target.answers) >= calls)
        target.provider.always(Reply(chunks=16_384))
        target.provider.release()

    releasing = threading.Thread(target=release)
    releasing.start()
    try:
        yield
    finally:
        releasing.join()
