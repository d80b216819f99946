"""What the Redis store costs beside a script that does nothing, and what others take for the same six limits.

    python -m benchmarks.stores_redis            # starts a Redis of its own; SAFE_LLM_TEST_REDIS_URL names another
    pip install -r benchmarks/rivals.txt         # for the others: what is not installed is left out

The script that does nothing is sent with the same keys and arguments, over the same connection, by turns. Of the
others, none decides over several limits in one step; where they can give back what was not used, that is measured too.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from statistics import median
from typing import Any
from uuid import uuid4

import redis
import redis.asyncio

from safe_llm import Charge, RedisQuotaStore, Reservation

from .servers import given_redis, redis_server
from .table import Row, aligned

_TURNS = 60
_CALLS = 50
_ACTUAL = (1, 1, 900, 800, 800, 0)
_MOST = 2**50


def rows(url: str) -> list[Row]:
    """Reserve, settle and peek over six limits, each beside the script that does nothing."""
    store = RedisQuotaStore(url, namespace=f"bench.{uuid4().hex}")
    with redis.Redis.from_url(url) as client:
        nothing = client.script_load("return 1")
        turns: dict[str, list[tuple[float, float]]] = {"reserve": [], "settle": [], "peek": []}
        for _ in range(_TURNS):
            taken: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
            for _ in range(_CALLS):
                charges = _charges(int(time.time()))
                question = store._reserving(uuid4().hex, charges, 60.0)
                answer, times = _beside_nothing(store, question, nothing)
                taken["reserve"].append(times)
                assert isinstance(answer, Reservation)
                taken["settle"].append(_beside_nothing(store, store._settling(answer, _ACTUAL), nothing)[1])
                taken["peek"].append(_beside_nothing(store, store._peeking(charges), nothing)[1])
            for name, pairs in taken.items():
                floor, ours = (median(side) * 1e6 for side in zip(*pairs, strict=True))
                turns[name].append((floor, ours))
    store.close()
    most = {"reserve": 1.6}
    return [Row(f"Redis {name}", pairs, "µs", most=most.get(name)) for name, pairs in turns.items()]


def _beside_nothing(store: RedisQuotaStore, question: Any, nothing: str) -> tuple[Any, tuple[float, float]]:
    """An answer of the store, and the seconds that nothing and the answer took."""
    client = store._client(store._opened, os.getpid(), redis)
    began = time.perf_counter()
    client.execute_command("EVALSHA", nothing, *question.by_hash[2:])
    between = time.perf_counter()
    answer = store._ask(question)
    return answer, (between - began, time.perf_counter() - between)


def _charges(now: int) -> list[Charge]:
    day = now // 86_400 * 86_400
    return [
        Charge("u/requests/minute", 1, _MOST, "sliding", now - 60, now + 1),
        Charge("u/requests/day", 1, _MOST, "fixed", day, day + 86_400),
        Charge("u/tokens/day", 1000, _MOST, "fixed", day, day + 86_400),
        Charge("u/money/day", 1000, _MOST, "fixed", day, day + 86_400),
        Charge("u/money/month", 1000, _MOST, "fixed", day, day + 30 * 86_400),
        Charge("u/now", 1, 1_000_000, "held", now, now + 1),
    ]


# The others -----------------------------------------------------------------------------------------------------------


def _ours(url: str, stack: ExitStack) -> Callable[[], Any]:
    store = RedisQuotaStore(url, namespace=f"bench.{uuid4().hex}")
    stack.callback(store.close)

    def call() -> None:
        answer = store.reserve(uuid4().hex, _charges(int(time.time())), 60.0)
        assert isinstance(answer, Reservation)
        store.settle(answer, _ACTUAL)

    return call


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
    from pyrate_limiter import Duration, Limiter, Rate, RedisBucket

    client = stack.enter_context(redis.Redis.from_url(url))
    spans = {"requests/minute": Duration.MINUTE, "requests/day": Duration.DAY, "tokens/day": Duration.DAY}
    spans |= {"money/day": Duration.DAY, "money/month": 30 * Duration.DAY, "now": Duration.SECOND}
    # It keeps a member for each unit, so tokens and money are asked for as one unit too.
    buckets = [
        RedisBucket.init([Rate(2**40, span)], client, f"bench:{uuid4().hex}:{name}") for name, span in spans.items()
    ]
    limiters = [stack.enter_context(Limiter(bucket)) for bucket in buckets]

    def call() -> None:
        for limiter in limiters:
            assert limiter.try_acquire("u", 1, blocking=False)

    return call


def _token_throttle(url: str, stack: ExitStack) -> Callable[[], Any]:
    from token_throttle import PerModelConfig, Quota, RateLimiter, RedisBackendBuilder, UsageQuotas

    runner = stack.enter_context(asyncio.Runner())
    client = redis.asyncio.from_url(url)
    stack.callback(lambda: runner.run(client.aclose()))
    day = 86_400
    spans = [("requests", 60), ("requests", day), ("tokens", day), ("money", day), ("money", 30 * day), ("now", 1)]
    quotas = UsageQuotas([Quota(metric=name, limit=10**9, per_seconds=seconds) for name, seconds in spans])
    backend = RedisBackendBuilder(client, key_prefix=f"bench-{uuid4().hex}", bucket_ttl_seconds=61 * day)
    limiter = RateLimiter(PerModelConfig(quotas=quotas), backend=backend)
    usage = {"requests": 1, "tokens": 1000, "money": 1000, "now": 1}

    async def pair() -> None:
        reservation = await limiter.acquire_capacity(model="u", usage=usage)
        await limiter.refund_capacity({**usage, "tokens": 900, "money": 800}, reservation)

    return lambda: runner.run(pair())


_OTHERS = {
    "safe_llm: reserve and settle": _ours,
    "limits: six hits": _limits,
    "pyrate-limiter: six buckets": _pyrate_limiter,
    "token-throttle: acquire and refund": _token_throttle,
}


def others(url: str) -> Iterator[str]:
    """A line for each that is installed: microseconds a call, and commands that clients sent for it."""
    for name, prepare in _OTHERS.items():
        with ExitStack() as stack, redis.Redis.from_url(url) as client:
            with suppress(ModuleNotFoundError):
                call = prepare(url, stack)
                call()
                yield f"{name:36} {_time(call) * 1e6:7,.0f} µs {_round_trips(client, call):5.0f} round trips"
                continue
            yield f"{name:36} not installed"


def _time(call: Callable[[], Any]) -> float:
    taken = []
    for _ in range(300):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return median(taken)


def _round_trips(client: redis.Redis, call: Callable[[], Any]) -> float:
    """What clients say in a call, as the server hears it; what scripts do is not told."""
    with client.monitor() as monitor:
        for _ in range(10):
            call()
        client.execute_command("ECHO", "end")
        heard = 0
        for event in monitor.listen():
            if event["command"].startswith("ECHO"):
                break
            heard += event["client_type"] != "lua"
    return heard / 10


def main() -> None:
    with ExitStack() as stack:
        url = given_redis() or stack.enter_context(redis_server()).url
        print(aligned(rows(url)))
        print(
            "\nBare: a script that returns 1, sent with the same keys and arguments. The same six limits by others:\n"
        )
        for line in others(url):
            print(line)


if __name__ == "__main__":
    main()
