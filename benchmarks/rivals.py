"""What others take for the same six limits, in memory and in Redis, where they are installed.

None of them decides over several limits in one step. Where they can give back what was not used, that is measured too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from importlib.util import find_spec
from statistics import median
from typing import Any
from uuid import uuid4

import redis
import redis.asyncio

from safe_llm.stores import open_store

from .backends import charges, pair
from .servers import given_redis, redis_server, with_options

_CALLS = 100
_MOST = 2**50
_MEMORY = "memory://"


def _ours(url: str, stack: ExitStack) -> Callable[[], Any]:
    url = url if url == _MEMORY else with_options(url, namespace=f"bench.{uuid4().hex}")
    store = stack.enter_context(closing(open_store(url)))
    return lambda: pair(store, charges(int(time.time())), uuid4().hex)


def _limits(url: str, stack: ExitStack) -> Callable[[], Any]:
    from limits import parse, storage, strategies

    kept = storage.storage_from_string(url)
    sliding, fixed = strategies.SlidingWindowCounterRateLimiter(kept), strategies.FixedWindowRateLimiter(kept)
    asked = [(sliding, parse(f"{_MOST}/minute"), "requests", 1), (fixed, parse(f"{_MOST}/day"), "requests", 1)]
    asked += [(fixed, parse(f"{_MOST}/day"), name, 1000) for name in ("tokens", "money")]
    asked += [(fixed, parse(f"{_MOST}/month"), "money", 1000), (fixed, parse(f"{_MOST}/second"), "now", 1)]

    def call() -> None:
        for limiter, limit, name, cost in asked:
            assert limiter.hit(limit, "u", name, cost=cost)

    return call


def _pyrate_limiter(url: str, stack: ExitStack) -> Callable[[], Any]:
    from pyrate_limiter import Duration, InMemoryBucket, Limiter, Rate, RedisBucket

    def bucket(name: str, span: int) -> Any:
        rates = [Rate(2**40, span)]
        if url == _MEMORY:
            return InMemoryBucket(rates)
        client = stack.enter_context(redis.Redis.from_url(url))
        return RedisBucket.init(rates, client, f"bench:{uuid4().hex}:{name}")

    spans = {"requests/minute": Duration.MINUTE, "requests/day": Duration.DAY, "tokens/day": Duration.DAY}
    spans |= {"money/day": Duration.DAY, "money/month": 30 * Duration.DAY, "now": Duration.SECOND}
    # It keeps a member for each unit, so tokens and money are asked for as one unit too.
    limiters = [stack.enter_context(Limiter(bucket(name, span))) for name, span in spans.items()]

    def call() -> None:
        for limiter in limiters:
            assert limiter.try_acquire("u", 1, blocking=False)

    return call


def _token_throttle(url: str, stack: ExitStack) -> Callable[[], Any]:
    from token_throttle import (
        MemoryBackendBuilder,
        PerModelConfig,
        Quota,
        RateLimiter,
        RedisBackendBuilder,
        UsageQuotas,
    )

    runner, day = stack.enter_context(asyncio.Runner()), 86_400
    backend: Any = MemoryBackendBuilder()
    if url != _MEMORY:
        client = redis.asyncio.from_url(url)
        stack.callback(lambda: runner.run(client.aclose()))
        backend = RedisBackendBuilder(client, key_prefix=f"bench-{uuid4().hex}", bucket_ttl_seconds=61 * day)
    spans = [("requests", 60), ("requests", day), ("tokens", day), ("money", day), ("money", 30 * day), ("now", 1)]
    quotas = UsageQuotas([Quota(metric=name, limit=10**9, per_seconds=seconds) for name, seconds in spans])
    limiter = RateLimiter(PerModelConfig(quotas=quotas), backend=backend)
    usage = {"requests": 1, "tokens": 1000, "money": 1000, "now": 1}

    async def pair() -> None:
        reservation = await limiter.acquire_capacity(model="u", usage=usage)
        await limiter.refund_capacity({**usage, "tokens": 900, "money": 800}, reservation)

    return lambda: runner.run(pair())


_RIVALS = {
    "safe_llm": ("reserve and settle", _ours),
    "limits": ("six hits", _limits),
    "pyrate_limiter": ("six buckets", _pyrate_limiter),
    "token_throttle": ("acquire and refund", _token_throttle),
}


def notes() -> Iterator[str]:
    """A line for each: microseconds of a call, and how often it asks Redis."""
    yield "The same six limits by others:"
    with ExitStack() as stack:
        url = given_redis() or stack.enter_context(redis_server()).url
        for name, (what, prepare) in _RIVALS.items():
            if find_spec(name) is None:
                yield f"  {name:15} not installed: pip install -r benchmarks/rivals.txt, which says what it needs"
                continue
            memory, stored = prepare(_MEMORY, stack), prepare(url, stack)
            yield (
                f"  {name:15} {what + ':':20} memory {_time(memory):7,.0f} µs, Redis {_time(stored):7,.0f} µs "
                f"and {_round_trips(url, stored):3.0f} round trips"
            )


def _time(call: Callable[[], Any]) -> float:
    """Microseconds."""
    call()
    taken = []
    for _ in range(_CALLS):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return median(taken) * 1e6


def _round_trips(url: str, call: Callable[[], Any]) -> float:
    """What clients say in a call, as the server hears it; what scripts do is not told."""
    with redis.Redis.from_url(url) as client, client.monitor() as monitor:
        for _ in range(10):
            call()
        client.execute_command("ECHO", "end")
        heard = 0
        for event in monitor.listen():
            if event["command"].startswith("ECHO"):
                break
            heard += event["client_type"] != "lua"
    return heard / 10
