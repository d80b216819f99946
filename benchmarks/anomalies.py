"""How soon the anomaly alert finds an abuser, and how often it is wrong: in made-up traffic, over many seeds.

    python -m benchmarks.anomalies                  # about a minute
    python -m benchmarks.anomalies --seeds 40 --processes 4

In turns the abuser is somebody who has called modestly for weeks, and somebody who has never called before. An alert
that is not about the abuse is a false alarm; a user-day is a day on which a user makes a request at all.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from datetime import datetime
from random import Random
from statistics import median
from typing import NamedTuple
from zoneinfo import ZoneInfo

from safe_llm.anomalies import Volumes
from safe_llm.limits import Calendar

from .traffic import ABUSER, DAY, NEWCOMER, World, traffic

RECORDS, USERS, DAYS = 40_000, 600, 30


class Found(NamedTuple):
    """What the alerts told in one world."""

    after: float | None
    """Seconds from the beginning of the abuse to the first alert about it."""
    false: int
    user_days: int
    notes: int
    seconds: float
    """What noting all requests took."""


def watch(world: World, processes: int = 1) -> Found:
    """Note every request of a world where it ends, in one of so many processes, as a guard does."""
    volumes, calendar, chance = [Volumes() for _ in range(processes)], Calendar(ZoneInfo("UTC")), Random(world.seed)
    requests, days = [], set()
    for record in traffic(world):
        denial = record["denial"]
        if denial is None or denial["limit"] is not None:
            at = datetime.fromisoformat(record["timestamp"]).timestamp() + record["latency_ms"] / 1000
            requests.append((record["user_id"], at))
            days.add((record["user_id"], at // DAY))
    after, told = None, set()
    began = time.perf_counter()
    for user, at in requests:
        for anomaly in chance.choice(volumes).note(user, at, calendar):
            claim = user, anomaly.window, anomaly.end
            if claim in told:
                continue
            told.add(claim)
            if user == world.abuser and anomaly.end > world.abuse_begins and after is None:
                after = at - world.abuse_begins
    took = time.perf_counter() - began
    false = sum(user != world.abuser or end <= world.abuse_begins for user, _, end in told)
    return Found(after, false, len(days), len(requests), took)


def worlds(seeds: Sequence[int]) -> list[World]:
    return [World(RECORDS, USERS, DAYS, seed, abuser=(ABUSER, NEWCOMER)[seed % 2]) for seed in seeds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    found = [watch(world, args.processes) for world in worlds(range(args.seeds))]
    after = [one.after for one in found if one.after is not None]
    false, days = sum(one.false for one in found), sum(one.user_days for one in found)
    print(f"{len(after)} of {len(found)} abusers found", end="")
    if after:
        print(f", after {median(after) / 60:.0f} minutes (at the most {max(after) / 60:.0f}; goal 60)")
    print(f"{false} false alarms in {days:_} user-days: {1000 * false / days:.2f} in 1,000 (goal 1)")
    print(f"{1e6 * sum(one.seconds for one in found) / sum(one.notes for one in found):.1f} µs to note a request")


if __name__ == "__main__":
    main()
