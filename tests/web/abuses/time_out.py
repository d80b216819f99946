"""How long it may take: one deadline over everything, whoever it is that is slow."""

from __future__ import annotations

import math
import time

from safe_llm.testing import Reply

from .abuse import Row
from .host import within
from .input import authorized, body
from .stage import PATIENCE, Target

DEADLINE = 1.0
"""Seconds: the hardened route's, in place of its 30, so that what is cut off is cut off soon."""
GRACE = 1.0
"""Seconds that a loaded machine may take to notice that the time is over."""

row = Row("Time-out", policy={"time": {"deadline_seconds": DEADLINE}})


def lasted(target: Target, began: float) -> str | None:
    """Got through if the service still waits for the provider after the deadline."""
    left = began + DEADLINE + GRACE - time.monotonic()
    if within(max(left, 0.05), lambda: not target.provider.busy):
        return None
    return f"still waiting after {time.monotonic() - began:.1f} s"


def waited(target: Target, **fields: object) -> str | None:
    """Ask, with no more patience than the deadline and its grace."""
    began = time.monotonic()
    answer = target.ask(timeout=DEADLINE + GRACE, **fields)  # type: ignore[arg-type]
    if answer is None:
        return f"no answer after {time.monotonic() - began:.1f} s"
    return lasted(target, began)


@row("a provider that hangs")
def hangs(target: Target) -> str | None:
    target.provider.always(Reply(delay=math.inf))
    return waited(target)


@row("a provider that drips its answer")
def drips(target: Target) -> str | None:
    target.provider.always(Reply("A long answer.", drip=0.05))
    return waited(target)


@row("a provider that drips its headers")
def drips_headers(target: Target) -> str | None:
    target.provider.always(Reply(drip_headers=0.1))
    return waited(target)


@row("a stream without an end")
def endless(target: Target) -> str | None:
    target.provider.always(Reply(chunks=1_000, drip=0.05))
    began = time.monotonic()
    target.stream(DEADLINE + GRACE)
    took = time.monotonic() - began
    return f"still streaming after {took:.1f} s" if took >= DEADLINE + GRACE else lasted(target, began)


@row("a time-out of an hour in the body")
def own_timeout(target: Target) -> str | None:
    target.provider.always(Reply(delay=math.inf))
    return waited(target, content=body("Hi", timeout=3600))


@row('a provider that says "Retry-After: 20"')
def retry_after(target: Target) -> str | None:
    target.provider.always(Reply(status=429, headers={"Retry-After": "20"}))
    return waited(target)


@row("a provider that fails, and a caller who tries again and again")
def retry_storm(target: Target) -> str | None:
    target.provider.always(Reply(status=500, headers={"retry-after-ms": "1"}))
    target.burst([{"text": f"Question {n}."} for n in range(40)])
    return f"{target.sent} sent to a provider that is down" if target.sent > 30 else None


@row("a reader who takes his time over each line")
def slow_reader(target: Target) -> str | None:
    target.provider.always(Reply(chunks=1_000, drip=0.01))
    began = time.monotonic()
    held = []

    def take_time() -> None:
        time.sleep(0.05)
        if target.provider.busy:
            held.append(time.monotonic() - began)

    target.stream(DEADLINE + GRACE + 0.2, each=take_time)
    longest = max(held, default=0.0)
    return f"the provider is held for {longest:.1f} s" if longest > DEADLINE + GRACE else None


@row("a reader who stops reading")
def stopped_reader(target: Target) -> str | None:
    """More than all buffers on the way can hold: the service cannot hand on, and so does not ask the provider on."""
    target.provider.always(Reply(text="x" * 24_000_000, chunks=240))
    content = body("Hi", stream=True)
    head = authorized(target) + b"Content-Length: %d\r\n\r\n" % len(content)
    with target.unread(head + content):
        if not within(PATIENCE, lambda: target.provider.busy):
            return "the abuse itself does not work"
        freed = within(DEADLINE + GRACE, lambda: not target.provider.busy)
    return None if freed else "the provider is held as long as nobody reads"


@row("a stream that is dropped")
def dropped(target: Target) -> str | None:
    """What was served before is in the books, or budgets are free for whoever never reads to the end."""
    target.provider.always(Reply(chunks=400, drip=0.02))
    target.stream(PATIENCE, lines=20)
    if not within(GRACE, lambda: not target.provider.busy):
        return "the provider goes on"
    within(GRACE, lambda: bool(target.charged()))
    in_books = sum(target.charged().values())
    return None if in_books else f"{target.provider.tokens} tokens served, none in the books"


@row("a stream that is dropped before its first word")
def dropped_early(target: Target) -> str | None:
    target.provider.always(Reply(chunks=400, delay=0.5, drip=0.01))
    target.ask(timeout=0.3, stream=True)
    if not within(0.5 + GRACE, lambda: target.sent > 0 and not target.provider.busy):
        return "the provider goes on"
    within(GRACE, lambda: bool(target.charged()))
    return None if sum(target.charged().values()) else f"{target.provider.tokens} tokens served, none in the books"
