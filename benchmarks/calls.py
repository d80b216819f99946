"""The calls that are compared: each by the bare SDK and by the guarded client, with the same provider.

The guarded client is as it comes, its limits raised. So its records go to a logger that nobody listens to: a sink that
writes costs more. And with no network there is nothing to time out: the deadline's look at each read and write of a
socket, a microsecond or so, is not in these figures.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from openai import AsyncOpenAI, OpenAI

from safe_llm import AsyncSafeOpenAI, SafeOpenAI

from . import provider

POLICY = {
    "plans": {
        "default": {
            "limits": [
                "1_000_000_000 requests/minute",
                "1_000_000_000 requests/day",
                "1_000_000_000_000 tokens/day",
                "$1_000_000/day",
                "$1_000_000/month",
            ]
        }
    }
}
"""The default policy with its five limits raised: each is reserved and settled, and none refuses."""

TASKS = 50
"""Calls at once in the async batch."""

_WARMUP = 0.3
"""Seconds of warming up, so that neither side pays for what is imported and cached at the first calls."""


class Case(NamedTuple):
    """One call, made by either client."""

    what: str
    bare: Callable[[], object]
    guarded: Callable[[], object]
    turns: int
    """How often each side is measured."""
    calls: int
    """How many calls one turn makes."""
    most: float
    """The largest ratio that is aimed at."""


def interleaved(case: Case) -> list[tuple[float, float]]:
    """Seconds of the bare and of the guarded call, turn by turn: A B A B …

    Whatever slows the machine down for a while slows both. It also means that each finds the processor's caches filled
    by the other, as a call does that comes between an application's other work.
    """
    until = time.perf_counter() + _WARMUP
    while time.perf_counter() < until:
        case.bare(), case.guarded()
    gc.collect()
    return [(_timed(case.bare), _timed(case.guarded)) for _ in range(case.turns)]


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@contextmanager
def cases() -> Iterator[dict[str, Case]]:
    """The cases by their short names."""
    bare, guarded = provider.client(OpenAI), provider.client(SafeOpenAI, policy=POLICY)
    async_bare, async_guarded = provider.client(AsyncOpenAI), provider.client(AsyncSafeOpenAI, policy=POLICY)
    short, long = "What is the capital of France?", ("a sentence of words " * 200)[:4000]
    with asyncio.Runner() as runner:

        def batch(client: Any, **caller: str) -> Callable[[], object]:
            async def at_once() -> None:
                await asyncio.gather(*[_create(client, short, **caller) for _ in range(TASKS)])

            return lambda: runner.run(at_once())

        yield {
            "short": Case(
                "short message",
                lambda: _create(bare, short),
                lambda: _create(guarded, short, user_id="u1"),
                turns=1_000,
                calls=1,
                most=1.10,
            ),
            "long": Case(
                "message of 4,000 characters",
                lambda: _create(bare, long),
                lambda: _create(guarded, long, user_id="u1"),
                turns=1_000,
                calls=1,
                most=1.15,
            ),
            "stream": Case(
                f"stream of {provider.CHUNKS} chunks",
                lambda: _read(_create(bare, short, stream=True)),
                lambda: _read(_create(guarded, short, stream=True, user_id="u1")),
                turns=200,
                calls=1,
                most=1.03,
            ),
            "responses": Case(
                f"stream of {provider.CHUNKS} events of Responses",
                lambda: _read(_respond(bare, short)),
                lambda: _read(_respond(guarded, short, user_id="u1")),
                turns=200,
                calls=1,
                most=1.03,
            ),
            "async": Case(
                f"{TASKS} async calls at once",
                batch(async_bare),
                batch(async_guarded, user_id="u1"),
                turns=40,
                calls=TASKS,
                most=1.10,
            ),
        }
        runner.run(async_bare.close())
        runner.run(async_guarded.close())
    bare.close()
    guarded.close()


def _create(client: Any, text: str, **options: Any) -> Any:
    return client.chat.completions.create(model=provider.MODEL, messages=[{"role": "user", "content": text}], **options)


def _respond(client: Any, text: str, **options: Any) -> Any:
    return client.responses.create(model=provider.MODEL, input=text, stream=True, **options)


def _read(stream: Any) -> None:
    chunks = sum(1 for _ in stream)
    assert chunks == provider.CHUNKS, chunks
