"""What more calls a second would need, by simulation: nothing of it is built.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --pair 800 --hot 120      # microseconds on another server

Users are spread over shards by a hash, so that each user's limits live in one of them. The application's budget is the
one key that all calls share; it is asked at each call, or leased in slices (`leasing.py`). Money is in nano-USD, time
in seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import accumulate
from math import ceil, log
from random import Random
from typing import NamedTuple
from zlib import crc32

from .leasing import Budget, Holder, Server

USD = 10**9
DAY = 86_400
PAIR, HOT = 105e-6, 25e-6
"""Seconds of CPU of a Redis server, for reserve and settle over six limits and for one step on the budget alone, as
`python -m benchmarks.ceilings redis` found them."""

BUSY = 0.7
"""How busy the busiest shard may be: the rest is for bursts."""


@dataclass(frozen=True)
class World:
    """What is simulated."""

    rate: float
    """Calls a second."""
    seconds: float = 2.0
    shards: int = 1
    processes: int | None = None
    """They hold the leases, and calls come to them at random. None: the shards do."""
    slice: int = 0
    """0: nothing is leased."""
    shrinking: bool = False
    """Whether a slice is at most a holder's half share of what is not leased."""
    budget: int | None = None
    """None: enough for everything."""
    pair: float = PAIR
    hot: float = HOT
    users: int = 50_000
    tail: float = 1.2
    """Of the Pareto distribution of the calls per user."""
    most: float = 20.0
    """Calls a second of one user: he has a limit of his own."""
    seed: int = 1

    @property
    def holders(self) -> int:
        return self.processes or self.shards


class Call(NamedTuple):
    at: float
    shard: int
    bound: int
    """What is reserved."""
    actual: int
    lasts: float


class Outcome(NamedTuple):
    calls: int
    admitted: int
    spent: int
    left: int
    """Neither spent nor held for calls in flight, when the last call came."""
    held: float
    """For calls in flight, on average, until the first call was denied."""
    parked: float
    """Likewise."""
    most_parked: int
    stranded: int
    """What was left when a call was denied for the first time that one key would have admitted."""
    steps: float
    """On the budget, a second, until the first call was denied."""
    shard_busy: float
    """Share of the time that the busiest shard worked, in the second half; above 1 its queue grows without an end."""
    shard_wait: float
    """What one of a hundred steps waited there at least."""
    hot_busy: float
    hot_wait: float


def weights(world: World) -> list[float]:
    """The share of the calls that each shard has."""
    random, sums = Random(world.seed), [0.0] * world.shards
    each = [random.paretovariate(world.tail) for _ in range(world.users)]
    most = world.most / world.rate * sum(each)
    for user, weight in enumerate(each):
        sums[crc32(b"user%d" % user) % world.shards] += min(weight, most)
    total = sum(sums)
    return [one / total for one in sums]


def shards_for(world: World) -> int:
    """The smallest number of shards of which the busiest is not too busy."""
    count = ceil(world.rate * world.pair / BUSY)
    while max(weights(replace(world, shards=count))) * world.rate * world.pair > BUSY:
        count += 1
    return count


def arrivals(world: World) -> Iterator[Call]:
    """Calls at random moments: most are short and cheap, and cost 40 % of what is reserved for them, on average."""
    random, at = Random(world.seed), 0.0
    shards, edges = range(world.shards), list(accumulate(weights(world)))
    while (at := at + random.expovariate(world.rate)) < world.seconds:
        bound = int(min(0.10, random.lognormvariate(log(0.008), 0.8)) * USD)
        actual = int(bound * random.random() ** 1.5)
        lasts = min(30.0, random.lognormvariate(log(0.5), 0.7))
        yield Call(at, random.choices(shards, cum_weights=edges)[0], bound, actual, lasts)


def simulate(world: World) -> Outcome:
    """Calls come, reserve, last a while and settle."""
    half, random = world.seconds / 2, Random(world.seed)
    shards, hot = [Server(half) for _ in range(world.shards)], Server(half)
    budget = Budget(10**18 if world.budget is None else world.budget, hot, world.hot)
    share = 1 / (2 * world.holders) if world.shrinking else None
    holders = [Holder(budget, world.slice, share) for _ in range(world.holders)]
    if world.slice:
        for holder in holders:  # Leases are as old as they happen to be.
            holder.free = budget.take(0.0, 0, random.randint(0, world.slice))
    leased_before, most_parked = budget.steps, budget.parked
    calls = admitted = spent = stranded = 0
    in_flight = before = parked = held = steps = 0  # But for the first, until a call is denied.
    denied_at = world.seconds
    ends: list[tuple[float, int, Holder, Call]] = []  # A heap; the number keeps apart what ends at once.
    for call in arrivals(world):
        while ends and ends[0][0] <= call.at:
            now, _, holder, done = heappop(ends)
            shards[done.shard].work(now, world.pair / 2)
            holder.settle(now, done.bound - done.actual)
            spent += done.actual
            in_flight -= done.bound
            most_parked = max(most_parked, budget.parked)
        calls += 1
        holder = random.choice(holders) if world.processes else holders[call.shard]
        shards[call.shard].work(call.at, world.pair / 2)
        if holder.admit(call.at, call.bound):
            admitted += 1
            in_flight += call.bound
            heappush(ends, (call.at + call.lasts, calls, holder, call))
        else:
            denied_at = min(denied_at, call.at)
            if not stranded and budget.left + budget.parked >= call.bound:
                stranded = budget.left + budget.parked
        most_parked = max(most_parked, budget.parked)
        if call.at < denied_at:
            before, steps = calls, budget.steps - leased_before
            parked, held = parked + budget.parked, held + in_flight
    busiest = max(shards, key=lambda shard: shard.busy)
    return Outcome(
        calls=calls,
        admitted=admitted,
        spent=spent + sum(call.actual for *_, call in ends),
        left=budget.left + budget.parked,
        held=held / max(1, before),
        parked=parked / max(1, before),
        most_parked=most_parked,
        stranded=stranded,
        steps=steps / denied_at,
        shard_busy=busiest.busy / half,
        shard_wait=busiest.slow(),
        hot_busy=hot.busy / half,
        hot_wait=hot.slow(),
    )


# Tables ---------------------------------------------------------------------------------------------------------------


def capacity(given: World) -> Iterator[tuple[str, ...]]:
    """How busy servers are, and how long calls wait for them."""
    yield "calls/s", "budget", "shards", "busiest shard", "waits", "budget's server", "waits", "steps/s"
    for rate in (1_000, 10_000, 100_000):
        world = replace(given, rate=rate)
        # What is built: one step changes the user's limits and the budget, so both are in one place.
        if world.rate * world.pair < 1:
            got = simulate(replace(world, hot=0))
            yield f"{rate:,}", "with all limits", "1", *_load(got.shard_busy, got.shard_wait), "–", "–", "–"
        else:
            yield f"{rate:,}", "with all limits", "1", *_load(world.rate * world.pair, 0), "–", "–", "–"
        for size in (0, USD):
            parted = replace(world, shards=shards_for(world), slice=size)
            got = simulate(parted)
            shard, hot = _load(got.shard_busy, got.shard_wait), _load(got.hot_busy, got.hot_wait)
            name = "apart, leased by $1" if size else "apart, one key"
            yield f"{rate:,}", name, str(parted.shards), *shard, *hot, f"{got.steps:,.0f}"


def _load(busy: float, wait: float) -> tuple[str, str]:
    """How busy, and what one of a hundred steps waits."""
    return f"{busy:.1%}" if busy < 0.1 else f"{busy:.0%}", f"{wait * 1e3:.2f} ms" if busy < 1 else "ever longer"


COSTS = 0.0043
"""USD that a call of `arrivals` costs on average: what a day's budget is made of."""


def _endings(given: World) -> Iterator[World]:
    """Applications at the end of a budget: what is left pays for 60 % of the calls to come."""
    busy = replace(given, rate=10_000, shards=20, seconds=4)
    small = replace(given, rate=1.3, shards=1, processes=40, seconds=3_600)
    for world, sizes in (
        (busy, (0, 0.1, 1, 3)),
        (replace(busy, shrinking=True), (3,)),
        (replace(busy, processes=400), (0.1, 0.3)),
        (replace(busy, processes=400, shrinking=True), (0.3,)),
        (small, (0, 0.1)),
        (replace(small, shrinking=True), (0.1,)),
    ):
        budget = int(0.6 * world.rate * world.seconds * COSTS * USD)
        for size in sizes:
            yield replace(world, slice=int(size * USD), budget=budget)


def leases(given: World) -> Iterator[tuple[str, ...]]:
    """What slices cost and save."""
    yield (
        "calls/s",
        "leased to",
        "slices",
        "steps/s",
        "held",
        "parked",
        "at most",
        "of a day",
        "at a denial",
        "at the end",
    )
    for world in _endings(given):
        got = simulate(world)
        day = world.rate * DAY * COSTS * USD
        leased = f"${world.slice / USD:g}" + (", shrinking" if world.shrinking else "")
        money = [f"${amount / USD:,.2f}" for amount in (got.held, got.parked, got.most_parked, got.stranded, got.left)]
        yield (
            f"{world.rate:,}",
            f"{world.processes} processes" if world.processes else f"{world.shards} shards",
            leased if world.slice else "not leased",
            f"{got.steps:,.0f}" if got.steps >= 10 else f"{got.steps:.1f}",
            *money[:3],
            f"{got.most_parked / day:.3%}" if got.most_parked > 1e-5 * day or not got.parked else "< 0.001%",
            *money[3:],
        )


def split(given: World) -> str:
    """What can be had without leases: each shard has a part of the budget for good."""
    world = replace(given, rate=10_000, shards=20)
    most = max(weights(world)) * world.shards
    return (
        f"Split for good among {world.shards} shards at {world.rate:,} calls/s: the busiest has {most:.2f} times its "
        f"part of the calls, and denies while {1 - 1 / most:.0%} of the whole budget is left."
    )


def _print(lines: Iterator[tuple[str, ...]]) -> None:
    first = next(lines)
    for line in (first, ("---:",) * len(first), *lines):
        print(f"| {' | '.join(line)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description="What more calls would need.")
    parser.add_argument("--pair", type=float, default=PAIR * 1e6, help="µs of a shard for a call (%(default)g)")
    parser.add_argument("--hot", type=float, default=HOT * 1e6, help="µs of one step on the budget (%(default)g)")
    parser.add_argument("--users", type=int, default=World.users)
    parser.add_argument("--tail", type=float, default=World.tail, help="smaller: few users make most calls")
    parser.add_argument("--seed", type=int, default=World.seed)
    given = parser.parse_args()
    world = World(1, pair=given.pair / 1e6, hot=given.hot / 1e6, users=given.users, tail=given.tail, seed=given.seed)
    _print(capacity(world))
    print()
    _print(leases(world))
    print(f"\n{split(world)}")


if __name__ == "__main__":
    main()
